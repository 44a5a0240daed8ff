"""A sweep that is asked for something else says what differs, and which command gives what is wanted."""

from __future__ import annotations

import pytest

from gcsearch.config.pipeline import Pipeline
from gcsearch.driver import load
from gcsearch.driver.prepare import check_goes_on, origin_texts
from gcsearch.driver.run import _open_or_begin, confirm, extend
from gcsearch.errors import InputError
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep

SPACE = 'version = 1\nmethod = "sam"\n[parameters.rho]\nlow = 0.1\nhigh = 1.0\nlog = true\n'


@pytest.fixture
def place(tmp_path):
    (tmp_path / "space.toml").write_text(SPACE)
    return tmp_path


def a_pipeline(place, **overrides: str) -> Pipeline:
    keys = {"search.space": f'"{place / "space.toml"}"'} | {key.replace("__", "."): v for key, v in overrides.items()}
    return load.load("demo", keys)


def begun(place, *, finished: bool = True) -> Sweep:
    pipeline = a_pipeline(place)
    sweep = _open_or_begin(pipeline, Store(place / "store"), origin_texts(pipeline), fresh=False, uri=None)
    sweep.journal.append("open", id="demo-0", trials=32)
    if finished:
        sweep.journal.append("final", records=[], threads=1)
        sweep.journal.append("close", why="FINISHED")
    return sweep


def refused(place, **overrides: str) -> str:
    with pytest.raises(InputError, match=r"pipeline\.toml: a sweep goes on with .* that it began with") as error:
        check_goes_on(a_pipeline(place, **overrides), Sweep.named("demo", Store(place / "store")))
    return str(error.value)


def test_more_trials_are_an_extension(place):
    begun(place)
    said = refused(place, search__trials="40")
    assert "began with: search.trials = 32, got search.trials = 40" in said
    assert f"`gcsearch extend demo --trials 8 --store {place / 'store'}`" in said
    assert "`--set name=OTHER`" in said
    assert "`--fresh`" in said


def test_what_was_extended_already_counts(place):
    begun(place).journal.append("extend", trials=36, there=32)
    said = refused(place, search__trials="40")
    assert "gcsearch extend demo --trials 4" in said
    assert "The sweep has 36 trials, and none is taken away" in refused(place, search__trials="20")


def test_an_unfinished_sweep_is_finished_first(place):
    begun(place, finished=False)
    said = refused(place, search__trials="40").splitlines()
    assert said[1].startswith("Finish it first: `gcsearch resume demo")
    assert said[2].startswith("For more trials: `gcsearch extend demo --trials 8")


def test_more_seeds_are_a_confirmation(place):
    begun(place)
    said = refused(place, confirm__seeds="[4, 5, 6, 7, 8, 9, 10]")
    assert "confirm.seeds = [4, 5, 6, 7, 8], got confirm.seeds = [4, 5, 6, 7, 8, 9, 10]" in said
    assert f"gcsearch confirm demo --seeds 9,10 --store {place / 'store'}" in said
    both = refused(place, confirm__seeds="[4, 5, 6, 7, 8, 9]", search__trials="33")
    assert "extend demo --trials 1" in both
    assert "confirm demo --seeds 9" in both


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("task__shots", "4", "task.shots = 16, got task.shots = 4"),
        ("search__pruner", '"halving"', 'search.pruner = "none", got search.pruner = "halving"'),
        ("search__cap", "{epochs=20}", "search.cap.epochs = not set, got search.cap.epochs = 20"),
        ("task__root", '"/tmp"', 'task.root = not set, got task.root = "/tmp"'),
        ("confirm__references", '["coop"]', 'got confirm.references = ["coop"]'),
    ],
)
def test_any_other_key_is_named_with_both_values_and_is_another_sweep(place, key, value, told):
    begun(place)
    said = refused(place, **{key: value})
    assert told in said
    assert "gcsearch extend" not in said
    assert "gcsearch confirm" not in said


def test_a_changed_space_is_told_by_its_parameters(place):
    begun(place)
    (place / "space.toml").write_text(SPACE.replace("high = 1.0", "high = 2.0") + "[parameters.lr]\nvalue = 0.1\n")
    said = refused(place)
    assert "space: parameters.rho.high = 1.0, space: parameters.lr.value = not set" in said
    assert "got space: parameters.rho.high = 2.0, space: parameters.lr.value = 0.1" in said


def test_a_space_that_reads_otherwise_and_says_the_same_goes_on(place):
    begun(place)
    (place / "space.toml").write_text(f"# a comment\n{SPACE}")
    check_goes_on(
        a_pipeline(place, search__max_failed="3", resources__workers="1"), Sweep.named("demo", Store(place / "store"))
    )


@pytest.mark.parametrize("seeds", [[2**63], [-1], [9, 9], [], [4]])
def test_seeds_that_cannot_be_drawn_from_are_not_added(place, seeds):
    """Nothing is written: a line in the journal would be gone on from ever after."""
    sweep = begun(place)
    before = sweep.journal.path.read_bytes()
    with pytest.raises(InputError, match="--seeds"):
        confirm("demo", seeds, store=place / "store")
    assert sweep.journal.path.read_bytes() == before


@pytest.mark.parametrize("trials", [10**12, 0, -5])
def test_trials_that_no_search_has_are_not_added(place, trials):
    sweep = begun(place)
    before = sweep.journal.path.read_bytes()
    with pytest.raises(InputError, match=r"--trials, trials: input should be"):
        extend("demo", trials, store=place / "store")
    assert sweep.journal.path.read_bytes() == before
