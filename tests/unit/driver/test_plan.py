"""What `gcsearch plan` says before a run: what is to be encoded, what is done already, and how long it takes."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from gcsearch import files
from gcsearch.cli.app import app
from gcsearch.config import search_space
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.data import digests, features
from gcsearch.driver import matrix, plan, run
from gcsearch.errors import InputError
from gcsearch.execution.placement import Placement
from gcsearch.search.pruning import trained
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.training import loading
from gcsearch.training.sizing import Cost
from tests.support.records import a_record


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    loading.forget()
    yield
    loading.forget()


@pytest.fixture
def content(data_root):
    return {
        "name": "tiny",
        "task": {
            "dataset": "tiny",
            "root": str(data_root),
            "backbone": "mini",
            "shots": 2,
            "views": 3,
            "folds": 2,
            "seeds": [1, 2],
        },
        "search": {"space": "gcscoop-smoke", "trials": 6, "pack": 2, "generation": 2},
        "confirm": {"top": 2, "seeds": [4], "references": ["zeroshot", "coop"]},
    }


@pytest.fixture
def chosen(content):
    return Pipeline.from_dict(content)


def line(made, name):
    return dict(made.lines())[name]


def test_data_that_were_changed_since_the_last_call_are_read_again(content, data_root, tmp_path):
    shutil.copytree(data_root / "tiny", tmp_path / "tiny")
    chosen = Pipeline.from_dict(content | {"task": content["task"] | {"root": str(tmp_path)}})
    plan.make(chosen)
    (tmp_path / "tiny" / "split_zhou_Tiny.json").write_text('{"train": [], "val": [], "test": []}')
    for call in (plan.plan, run.cache_features):
        with pytest.raises(InputError, match="no class at all"):
            call(chosen)


def test_what_is_in_the_cache_is_not_encoded_again(chosen, content):
    before = plan.make(chosen)
    # For each seed 2 shots of 4 base classes in 3 views and 2 validation images of each; 48 test images.
    assert (before.images, before.to_encode) == (3 * 24 + 3 * 8 + 48,) * 2
    assert before.encode_seconds > 0
    assert line(before, "data") == "144 images to encode once, 2 classes trained"
    run.cache_features(chosen)
    after = plan.make(chosen)
    assert (after.images, after.to_encode, after.encode_seconds) == (144, 0, 0.0)
    assert line(after, "data") == "all 144 images are in the cache, 2 classes trained"
    assert "to encode" not in line(after, "time")
    more = plan.make(Pipeline.from_dict(content | {"confirm": content["confirm"] | {"seeds": [4, 5]}}))
    assert (more.images, more.to_encode) == (176, 32)
    assert line(more, "data") == "32 images to encode once, 144 are in the cache, 2 classes trained"


def test_other_images_are_to_be_encoded_though_others_of_their_names_were(chosen, tmp_path, content):
    run.cache_features(chosen)
    (entry, *_) = loading.laboratory(chosen.task).cache.missing(loading.laboratory(chosen.task).wanted("test", [4]))
    entry.write_bytes(entry.read_bytes()[:100])
    assert plan.make(chosen).to_encode == 24


def test_where_reading_would_take_long_nothing_is_read(chosen, monkeypatch):
    monkeypatch.setattr(features, "READ_TO_LOOK", 3)
    monkeypatch.setattr(digests, "of_files", lambda *_: 1 / 0)
    made = plan.make(chosen)
    assert (made.images, made.to_encode) == (144, 144)


def test_what_two_sweeps_of_a_matrix_read_is_counted_once(content, tmp_path):
    (tmp_path / "two.toml").write_text(
        files.to_toml(Pipeline.from_dict(content).to_dict(), "two") + '[matrix]\n"search.seed" = [1, 2]\n'
    )
    first, second = matrix.plan(matrix.load(tmp_path / "two.toml"))
    assert (first.to_encode, second.to_encode) == (144, 0)


def test_time_has_all_stages_and_grows_with_each(chosen, content, monkeypatch):
    """With a second for each step, half of one for a measurement, and none for an image."""
    monkeypatch.setattr(plan, "measure_mixed", lambda *_: Cost(1.0, measuring=0.5))
    monkeypatch.setattr(plan, "measure", lambda *_: Cost(1.0, measuring=0.5))
    content["resources"] = {"workers": 1, "threads": 1}
    content["search"]["space"] = "coop"
    content["search"]["cap"] = {"epochs": 10}
    run.cache_features(chosen)

    def seconds(**changes):
        made = plan.make(Pipeline.from_dict(content | {key: content[key] | one for key, one in changes.items()}))
        return made, made.search_seconds, made.confirm_seconds

    made, search, confirm = seconds()
    assert made.seconds == plan.START_SECONDS + search + confirm
    # 3 packs one after another; 10 epochs of one step and half a measurement of twice as many names as are trained.
    assert search == pytest.approx(3 * 10 * (1 + 0.5 * 4 / 2))
    # Two configurations of ten epochs are measured twice, CoOp of 200 epochs once; zero-shot trains nothing.
    assert confirm == pytest.approx(2 * 10 * (1 + 0.5 * 4 / 2) + (2 * 10 + 200) * (1 + 0.5 * 8 / 4))
    assert seconds(search={"trials": 12})[1] == pytest.approx(2 * search)
    assert seconds(resources={"workers": 2})[1] == pytest.approx(2 / 3 * search)  # a generation of two packs, and one
    assert seconds(search={"pruner": "median", "rungs": 1})[1] == pytest.approx(0.75 * search)
    assert seconds(confirm={"top": 1})[2] == pytest.approx((10 + 200) * 2)
    assert any("the references train uncapped: CoOp (epochs 200, cap 10)" in note for note in made.notes)


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"pruner": "none"}, 1.0),
        ({"pruner": "halving", "eta": 2, "rungs": 1}, 0.75),
        ({"pruner": "halving", "eta": 2, "rungs": 2}, 0.25 + 0.5 * 0.25 + 0.25 * 0.5),
        ({"pruner": "hyperband", "eta": 2, "rungs": 1, "pack": 4}, (0.75 + 1) / 2),
    ],
)
def test_who_leaves_early_trains_less(settings, share):
    assert trained(SearchConfig(**settings)) == pytest.approx(share)


def test_tasks_go_to_whoever_is_free():
    assert plan._parallel([5, 1, 1, 1], Placement(2, 1)) == 5
    assert plan._parallel([1, 1, 1, 1, 5], Placement(2, 1)) == 7
    assert plan._parallel([], Placement(2, 1)) == 0


# --- What lies in the store


def begun(chosen, root, records, why=None):
    sweep = Sweep(chosen.name, Store(root), Store(root).sweep(chosen.name))
    files.write_whole(sweep.folder / "pipeline.toml", files.to_toml(chosen.to_dict()))
    files.write_whole(sweep.folder / "space.toml", search_space.find(chosen.search.space).read_text())
    for number in range(records):
        sweep.journal.append("record", record=a_record(number))
    if why:
        sweep.journal.append("close", why=why)


def test_what_a_sweep_of_this_name_has_done_is_not_done_again(chosen, content, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "measure_mixed", lambda *_: Cost(1.0, measuring=0.5))
    monkeypatch.setattr(plan, "measure", lambda *_: Cost(1.0, measuring=0.5))
    whole = plan.make(chosen, store=tmp_path / "a")
    begun(chosen, tmp_path / "a", 4)
    rest = plan.make(chosen, store=tmp_path / "a")
    assert (rest.settings, rest.done) == (6, 4)
    assert rest.search_seconds < whole.search_seconds
    assert line(rest, "configurations").endswith("in 3 packs, 4 of them done")
    begun(chosen, tmp_path / "b", 6, "FINISHED")
    over = plan.make(chosen, store=tmp_path / "b")
    assert (over.seconds, over.notes[0]) == (0.0, "the sweep tiny is finished; --fresh runs it anew")
    other = Pipeline.from_dict(content | {"search": content["search"] | {"trials": 8}})
    note, _ = plan.make(other, store=tmp_path / "b").notes
    assert note.startswith("a run is refused: ")


def test_plan_and_cache_take_the_store(chosen, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(files.to_toml(chosen.to_dict(), "tiny"))
    begun(chosen, tmp_path / "elsewhere", 6, "FINISHED")
    done = CliRunner().invoke(app, ["plan", "tiny.toml", "--store", "elsewhere", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["done"] == 6
    done = CliRunner().invoke(app, ["plan", "tiny.toml", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["done"] == 0
    done = CliRunner().invoke(app, ["cache", "tiny.toml", "--store", "elsewhere", "-q"], catch_exceptions=False)
    assert (done.exit_code, "is encoded" in done.stdout) == (0, True)
    assert not (tmp_path / "gcsearch-store").exists()


def test_a_plan_and_a_run_look_for_earlier_sweeps_before_anything_is_encoded(content, tmp_path):
    content["search"]["warm_start"] = ["absent"]
    for look in (plan.make, run.run):
        with pytest.raises(InputError, match=r"search\.warm_start\.0: there is no sweep of this name"):
            look(Pipeline.from_dict(content), store=tmp_path / "store")
    assert not list((tmp_path / "cache").glob("features/*tiny*"))
