"""The small budget of a pipeline file: its name, what comes before what, what is refused; caps on a space."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.config import parameters, search_space
from gcsearch.config.parameters import Fixed
from gcsearch.config.task import Task
from gcsearch.data.synthetic import worlds
from gcsearch.driver import checks, load, matrix, run
from gcsearch.errors import InputError

FILE = 'version = 1\nname = "mine"\n[search]\nspace = "coop"\ntrials = 20\n'
QUICK = '[quick]\n"search.trials" = 4\ntask.seeds = [1]\n'


@pytest.fixture
def write(tmp_path):
    def write(content):
        (tmp_path / "mine.toml").write_text(content)
        return tmp_path / "mine.toml"

    return write


def test_the_quick_budget_has_its_own_name_and_leaves_the_other_alone(write):
    file = write(FILE + QUICK)
    whole, quick = load.load(file), load.load(file, quick=True)
    assert (whole.name, whole.search.trials, whole.task.seeds) == ("mine", 20, (1, 2, 3))
    assert (quick.name, quick.search.trials, quick.task.seeds) == ("mine-quick", 4, (1,))
    assert whole == load.load(write(FILE))


def test_set_comes_after_it(write):
    file = write(FILE + QUICK)
    changed = load.load(file, {"search.trials": "6", "confirm.top": "2"}, quick=True)
    assert (changed.name, changed.search.trials, changed.confirm.top, changed.task.seeds) == ("mine-quick", 6, 2, (1,))
    assert load.load(file, {"name": "other"}, quick=True).name == "other"


def test_paths_in_it_start_at_the_files_folder(write, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "space.toml").write_text(search_space.find("sam").read_text())
    quick = load.load(write(FILE + '[quick]\n"search.space" = "sub/space.toml"\n'), quick=True)
    assert quick.search.space == str(tmp_path / "sub" / "space.toml")


def test_a_matrix_is_cut_by_its_own_key(write):
    many = FILE + '[matrix]\n"task.shots" = [1, 2, 4]\n[quick]\n"matrix.task.shots" = [1]\n"search.trials" = 2\n'
    assert [one.name for one in matrix.load(write(many)).pipelines] == ["mine-1", "mine-2", "mine-4"]
    quick = matrix.load(write(many), quick=True)
    assert (quick.name, [one.name for one in quick.pipelines]) == ("mine-quick", ["mine-quick-1"])
    assert quick.pipelines[0].tracking.experiment == "mine-quick"
    assert quick.pipelines[0].search.trials == 2


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[quick]\n"search.trails" = 4', r"(?s)mine\.toml, quick\.\"search\.trails\": .*Did you mean 'trials'"),
        ('[quick]\n"search.trials" = 0', r"mine\.toml, quick\.\"search\.trials\": .*greater than or equal to 1, got 0"),
        ('[quick.search]\nspace = "cop"', r"(?s)mine\.toml, quick\.\"search\.space\": .*Did you mean 'coop'"),
        ('[quick]\n"task.seeds" = [4]', r"mine\.toml, confirm\.seeds: .* has not used, with --quick, got .*\[4\]"),
        ("[quick]", r"mine\.toml, quick: a quick budget has keys of the pipeline.*got \{\}"),
        ('[quick]\nname = "small"', r"(?s)mine\.toml, quick: .* but no name.*ends in -quick by itself"),
        ('[quick]\n"version.x" = 1', r"mine\.toml, quick\.\"version\.x\": a dotted key must lead through tables"),
        (
            '[matrix]\n"task.shots" = [1, 2]\n[quick]\n"task.shots" = 1',
            r"(?s)quick\.\"task\.shots\": a key of the matrix has a list.*Write `\"matrix\.task\.shots\" = ",
        ),
        (
            '[matrix]\n"task.shots" = [1, 2]\n[quick]\n"matrix.task.shots" = [0]',
            r"quick\.\"matrix\.task\.shots\": .*greater than or equal to 1, got 0",
        ),
        ('[quick]\n"search.cap" = { epoch = 3 }', r"(?s)quick\.\"search\.cap\.epoch\": .*Did you mean 'epochs'"),
    ],
)
def test_a_wrong_table_is_refused_whether_it_is_asked_for_or_not(write, table, message, quick):
    with pytest.raises(InputError, match=message):
        matrix.load(write(f"{FILE}{table}\n"), quick=quick)


def test_asking_for_it_where_there_is_none_is_refused_with_a_remedy(write):
    with pytest.raises(
        InputError, match=r"(?s)mine\.toml, quick: this pipeline has no quick budget.*leave --quick out"
    ):
        run.run(write(FILE), quick=True)
    with pytest.raises(InputError, match=r"demo\.toml, quick: this pipeline has no quick budget"):
        matrix.run_matrix("demo", quick=True)


@pytest.mark.parametrize("command", [["run"], ["plan"], ["cache", "build"], ["compare", "--run"]])
def test_the_commands_know_it(command):
    done = CliRunner().invoke(app, [*command, "demo", "--quick"])
    assert isinstance(done.exception, InputError) and "no quick budget" in str(done.exception)


@pytest.mark.parametrize("words", [["--quick"], ["--set", "search.trials=3"]])
def test_compare_takes_the_flags_of_a_run_only_where_it_runs(words):
    done = CliRunner().invoke(app, ["compare", "demo", *words])
    assert isinstance(done.exception, InputError) and "Add --run" in str(done.exception)


# --- Caps


def test_a_cap_lowers_the_end_of_a_range_and_the_points(write):
    capped = search_space.load("gcscoop").capped({"epochs": 30.5, "rho": 0.05, "probe_epochs": 20.0})
    epochs, rho = capped.parameters["epochs"], capped.parameters["rho"]
    assert (epochs.low, epochs.high, rho.low, rho.high, rho.zero) == (10, 30, 0.005, 0.05, True)
    (point,) = capped.points
    assert (point.label, point.values["epochs"], point.values["rho"]) == ("literature-capped", 30, 0.05)
    assert capped.parameters["lr"] == search_space.load("gcscoop").parameters["lr"]


def test_a_range_that_begins_above_its_cap_is_fixed_to_it():
    capped = search_space.load("subpt").capped({"epochs": 30.0, "probe_epochs": 20.0})
    assert capped.parameters["epochs"] == Fixed(value=30)
    assert capped.parameters["probe_epochs"] == Fixed(value=20)
    assert {point.values["epochs"] for point in capped.points} == {30}
    assert all(one["epochs"] == 30 and one["probe_epochs"] == 20 for one in capped.sample(4, seed=0))


def test_a_method_may_have_a_cap_of_its_own_and_what_no_cap_concerns_stays():
    cap = {"epochs": 30.0, "cocoop": {"epochs": 3.0}}
    assert search_space.load("cocoop").capped(cap).parameters["epochs"].high == 3
    assert search_space.load("coop").capped(cap).parameters["epochs"].high == 30
    assert search_space.load("coop").capped({"rho": 1.0}) == search_space.load("coop")
    assert search_space.load("coop").capped({"epochs": 500.0}) == search_space.load("coop")


@pytest.mark.parametrize(
    ("cap", "message"),
    [
        ("{ epoch = 3 }", r"(?s)search\.cap\.epoch: .*Did you mean 'epochs'"),
        ("{ cocop = { epochs = 3 } }", r"(?s)search\.cap\.cocop: .*Did you mean 'cocoop'"),
        ("{ cocoop = { rho = 3 } }", r"search\.cap\.cocoop\.rho: .*parameter of cocoop"),
        ('{ epochs = "ten" }', r"search\.cap\.epochs: .*got 'ten'"),
        ("{ epochs = 0 }", r"search\.cap\.epochs: .*greater than or equal to 1, got 0"),
    ],
)
def test_a_cap_that_fits_nothing_is_refused(write, cap, message):
    with pytest.raises(InputError, match=message):
        load.load(write(f"{FILE}cap = {cap}\n"))


def test_choices_are_not_capped(write, tmp_path):
    (tmp_path / "few.toml").write_text(
        'version = 1\nmethod = "coop"\n[parameters.epochs]\nchoices = [1, 9]\n[parameters.lr]\nlow = 0.1\nhigh = 0.2\n'
    )
    file = write(FILE.replace('"coop"', '"few.toml"') + "cap = { epochs = 3 }\n")
    with pytest.raises(
        InputError, match=r"(?s)search\.cap: only ranges can be capped, and epochs has choices.*space of"
    ):
        load.load(file)


# --- The shipped comparison


def budget(one):
    """All that a sweep of the comparison is asked to do, but for the data set and the space."""
    content = one.to_dict()
    content.pop("name")
    content["task"].pop("dataset")
    content["search"].pop("space")
    return content


@pytest.mark.parametrize("quick", [False, True])
def test_the_comparison_gives_every_method_the_same_budget_on_every_embedded_data_set(quick):
    found = matrix.load("method-comparison", quick=quick).pipelines
    assert {one.task.dataset for one in found} == set(worlds.WORLDS)
    (alike,) = {repr(budget(one)) for one in found}
    methods = [checks.check(one).method for one in found if one.task.dataset == "shapes-sketch"]
    nine = {"coop", "cocoop", "kgcoop", "prograd", "subpt", "nfl", "subpt+nfl", "sam", "gcscoop"}
    assert nine == set(methods) if quick else nine < set(methods)
    assert len(found) == len(methods) * len(worlds.WORLDS)
    assert re.search(r"'references': \['zeroshot'\]", alike)
    assert found[0].task.shots == Task().shots


def test_quick_trains_no_method_for_longer_than_another_but_for_what_the_file_says():
    spaces_ = [checks.check(one) for one in matrix.load("method-comparison", quick=True).pipelines]
    most = {space.method: max(map(int, parameters.extremes(space.parameters["epochs"]))) for space in spaces_}
    assert {method: epochs for method, epochs in most.items() if epochs != 30} == {"cocoop": 3}
    probes = {
        s.method: parameters.extremes(s.parameters["probe_epochs"]) for s in spaces_ if "probe_epochs" in s.parameters
    }
    assert probes == {"subpt": [20], "subpt+nfl": [20]}
