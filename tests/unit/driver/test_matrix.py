"""Several sweeps in one file: names, what is refused, parts under the same names, failures that stay their own."""

from __future__ import annotations

import contextlib
import csv
import json

import pytest
from typer.testing import CliRunner

from gcsearch import files
from gcsearch.cli.app import app
from gcsearch.driver import load, matrix
from gcsearch.driver import run as pipeline
from gcsearch.errors import InputError, Interrupted, RunError, TooManyFailures
from gcsearch.execution import machines
from gcsearch.execution import session as raysession
from gcsearch.execution.cluster import Cluster
from gcsearch.execution.placement import Placement
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import open_sweep
from tests.support.records import ZEROSHOT, completed
from tests.support.schema import check
from tests.support.sweeps import a_sweep

HEAD = 'version = 1\nname = "many"\n[task]\nval_shots = 1\n'
TWO = '[matrix]\n"task.dataset" = ["shapes-sketch", "shapes-neon"]\n"task.shots" = [1, 2]\n'


@pytest.fixture
def write(tmp_path):
    def write(content, name="many.toml"):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


def names(found):
    return [one.name for one in found.pipelines]


def test_every_combination_is_a_sweep_in_the_order_of_the_file(write):
    found = matrix.load(write(HEAD + TWO))
    assert (found.name, found.single) == ("many", False)
    assert names(found) == ["many-shapes-sketch-1", "many-shapes-sketch-2", "many-shapes-neon-1", "many-shapes-neon-2"]
    assert [(one.task.dataset, one.task.shots) for one in found.pipelines][1:3] == [
        ("shapes-sketch", 2),
        ("shapes-neon", 1),
    ]
    assert {one.task.val_shots for one in found.pipelines} == {1}
    assert {one.tracking.experiment for one in found.pipelines} == {"many"}


def test_a_file_without_a_matrix_is_one_sweep_under_its_own_name():
    found = matrix.load("demo", {"task.shots": "4"})
    assert found.single
    assert found.pipelines == (load.load("demo", {"task.shots": "4"}),)


def test_both_ways_of_writing_a_key_are_the_same(write):
    flat = matrix.load(write(HEAD + '[matrix]\n"task.shots" = [1, 2]\nsearch.trials = [3]\n'))
    nested = matrix.load(write(HEAD + "[matrix.task]\nshots = [1, 2]\n[matrix.search]\ntrials = [3]\n"))
    assert flat == nested
    assert names(flat) == ["many-1-3", "many-2-3"]


def test_an_override_leaves_a_part_under_the_same_names(write):
    file = write(HEAD + TWO)
    every = {one.name: one for one in matrix.load(file).pipelines}
    part = matrix.load(file, {"task.dataset": "shapes-neon"})
    assert names(part) == ["many-shapes-neon-1", "many-shapes-neon-2"]
    assert all(every[one.name] == one for one in part.pipelines)
    assert names(matrix.load(file, {"matrix.task.shots": "[4, 8]", "task.dataset": "shapes-night"})) == [
        "many-shapes-night-4",
        "many-shapes-night-8",
    ]
    changed = matrix.load(file, {"search.trials": "5", "name": "other"})
    assert {one.search.trials for one in changed.pipelines} == {5}
    assert names(changed)[0] == "other-shapes-sketch-1"


def test_values_become_names_of_folders(write, tmp_path):
    (tmp_path / "my spaces").mkdir()
    (tmp_path / "my spaces" / "so ein.toml").write_text(files.shipped("search_spaces")["coop"].read_text())
    content = '[matrix]\n"task.seeds" = [[1, 2], [9]]\n"search.space" = ["sam", "my spaces/so ein.toml"]\n'
    found = matrix.load(write(HEAD + content))
    assert names(found) == ["many-1-2-sam", "many-1-2-so-ein", "many-9-sam", "many-9-so-ein"]
    assert found.pipelines[1].search.space == str(tmp_path / "my spaces" / "so ein.toml")
    assert names(matrix.load(write(HEAD + '[matrix]\n"task.targets" = [[], ["shapes-neon"]]\n'))) == [
        "many-none",
        "many-shapes-neon",
    ]
    (one,) = matrix.load(write(HEAD + '[matrix]\n"task.template" = ["own"]\n')).pipelines
    assert one.task.template == "a photo of a {}."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"task.shots" = [1, 0]', r'many\.toml, matrix\."task\.shots": .*greater than or equal to 1, got 0'),
        ('"task.shot" = [1]', r"(?s)matrix\.\"task\.shot\": .*Did you mean 'shots'"),
        ('"task.dataset" = ["shapes-neon", "shapes-nean"]', r"(?s)matrix\.\"task\.dataset\": .*Did you mean"),
        ('"search.space" = ["coop", "cop"]', r"(?s)matrix\.\"search\.space\": .*Did you mean 'coop'"),
        ('"task.targets" = [["shapes-noen"]]', r"(?s)matrix\.\"task\.targets\": .*Did you mean 'shapes-neon'"),
        ('"task.classes" = ["base", "all"]', r"search\.objective: .*, in the sweep many-all, got val_base_margin"),
        ('"task.shots" = 4', r"matrix\.\"task\.shots\": a matrix has keys .* each with a list of values, got 4"),
        ('"task.shots" = []', r"matrix\.\"task\.shots\": a matrix has keys"),
        ('"task" = [{shots = 1}]', r"matrix\.\"task\": a matrix has keys"),
        ('"name" = ["a"]', r"matrix\.\"name\": a matrix has keys"),
        ('"name.x" = ["a"]', r'many\.toml, matrix\."name\.x": a dotted key must lead through tables'),
        ("", r"matrix: a matrix has at least one key"),
        ('"task.shots" = [1, 1]', r'matrix\."task\.shots": every combination must give a name of its own, got 1, 1'),
        (
            '"task.seeds" = [[1, 2], [1]]\n"confirm.seeds" = [[3], [2, 3]]',
            r"matrix: every combination must give a name of its own",
        ),
        ('"search.space" = ["coop", "./coop.toml"]', r"matrix\.\"search\.space\": every combination .*got coop, coop"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_by_its_key(write, content, message):
    write(files.shipped("search_spaces")["coop"].read_text(), "coop.toml")
    with pytest.raises(InputError, match=message):
        matrix.load(write(f"{HEAD}[matrix]\n{content}\n"))


def test_one_pipeline_is_no_matrix(write):
    with pytest.raises(InputError, match=r"(?s)many\.toml, matrix: this file is a matrix.*gcsearch\.run_matrix"):
        load.load(write(HEAD + TWO))
    with pytest.raises(InputError, match="a matrix has keys of the pipeline"):
        matrix.load(write("version = 1\nmatrix = 3\n"))


# --- Running, with sweeps that end as they are told


@pytest.fixture
def sweeps(monkeypatch, tmp_path):
    """Stands in for the run of one sweep: `ends` says by name what it raises; what ran is noted."""
    ran, ends = [], {}

    def run(chosen, *, store, fresh, callback, executor):
        ran.append(chosen.name)
        if chosen.name in ends:
            raise ends[chosen.name]
        return chosen.name

    monkeypatch.setattr(pipeline, "run", run)
    return ran, ends


@pytest.fixture(autouse=True)
def rays(monkeypatch):
    """Stands in for a Ray: what it was opened for, and None where it was put away."""
    seen = []

    @contextlib.contextmanager
    def session(placement):
        seen.append((placement.workers, placement.threads))
        try:
            yield
        finally:
            seen.append(None)

    monkeypatch.setattr(raysession, "session", session)
    return seen


def test_the_failure_of_one_does_not_lose_the_others(write, sweeps, tmp_path):
    ran, ends = sweeps
    ends["many-shapes-sketch-2"] = RunError("the disk is full")
    ends["many-shapes-neon-1"] = RuntimeError("CUDA error")
    ends["many-shapes-neon-2"] = TooManyFailures("3 of 4")
    seen = []
    ended = matrix.run_matrix(write(HEAD + TWO), store=tmp_path, on_end=seen.append)
    assert ran == names(matrix.load(tmp_path / "many.toml"))
    assert ended == seen
    assert [one.exit_code for one in ended] == [0, 1, 1, 3]
    assert [bool(one.sweep) for one in ended] == [True, False, False, True]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), Interrupted("stopped on request")])
def test_an_interruption_ends_all_and_the_store_knows_the_sweeps(write, sweeps, tmp_path, interruption):
    ran, ends = sweeps
    ends["many-shapes-sketch-2"] = interruption
    with pytest.raises(type(interruption)):
        matrix.run_matrix(write(HEAD + TWO), store=tmp_path)
    assert len(ran) == 2
    assert Store(tmp_path).matrix("many") == names(matrix.load(tmp_path / "many.toml"))
    matrix.run_matrix(tmp_path / "many.toml", store=tmp_path, overrides={"matrix.task.shots": "[4]"})
    assert Store(tmp_path).matrix("many")[-2:] == ["many-shapes-sketch-4", "many-shapes-neon-4"]
    assert len(Store(tmp_path).matrix("many")) == 6
    assert Store(tmp_path).matrix("../matrices/many") == []


def test_one_ray_serves_all_sweeps_that_ask_the_same_of_it(write, sweeps, rays, tmp_path):
    resources = "[resources]\nworkers = 1\nthreads = 1\n"
    matrix.run_matrix(write(HEAD + resources + TWO), store=tmp_path)
    assert rays == [(1, 1), None]
    rays.clear()
    several = '[matrix]\n"task.shots" = [1, 2]\n"resources.workers" = [1, 2]\n'
    matrix.run_matrix(write(HEAD + "[resources]\nthreads = 1\n" + several), store=tmp_path, overrides={"name": "x"})
    assert rays == [(1, 1), None, (2, 1), None] * 2


def test_after_a_failure_the_next_sweep_gets_a_ray_of_its_own(write, sweeps, rays, tmp_path):
    _, ends = sweeps
    ends["many-shapes-sketch-2"] = RunError("Ray is gone")
    ends["many-shapes-neon-2"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        matrix.run_matrix(write(HEAD + "[resources]\nworkers = 1\nthreads = 1\n" + TWO), store=tmp_path)
    assert rays == [(1, 1), None] * 2


def test_what_is_finished_needs_no_ray_and_resources_that_are_not_there_are_the_sweeps_own_error(
    write, sweeps, rays, tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline, "is_finished", lambda chosen, store: chosen.task.shots == 1)
    file = write(HEAD + "[resources]\nworkers = 1\nthreads = 1\ngpus_per_worker = 64\n" + TWO)
    ended = matrix.run_matrix(file, store=tmp_path)
    assert rays == []
    assert [bool(one.error) for one in ended] == [False, True] * 2
    assert "resources.gpus_per_worker" in str(ended[1].error)


def test_a_sweep_on_a_cluster_joins_it_by_itself(write, sweeps, rays, tmp_path, monkeypatch):
    placement = Placement(1, 1)
    asked = {
        "many-1": machines.Machines(placement, Cluster("10.0.0.5:6379", ())),
        "many-2": machines.Machines(placement),
    }
    monkeypatch.setattr(machines, "find_machines", lambda chosen: asked[chosen.name])
    matrix.run_matrix(write(HEAD + '[matrix]\n"task.shots" = [1, 2]\n'), store=tmp_path)
    assert sweeps[0] == ["many-1", "many-2"]
    assert rays == [(1, 1), None]


def test_sweeps_in_this_process_open_no_ray(write, sweeps, rays, tmp_path):
    matrix.run_matrix(write(HEAD + TWO), store=tmp_path, executor="local")
    assert len(sweeps[0]) == 4
    assert rays == []


def test_a_matrix_does_not_take_the_name_of_a_sweep(write, sweeps, tmp_path):
    a_sweep(tmp_path, "many", [completed("sam")])
    with pytest.raises(InputError, match=r"(?s)name: a matrix needs a name that no sweep .*--set name=OTHER"):
        matrix.run_matrix(write(HEAD + TWO), store=tmp_path)
    assert sweeps[0] == []


# --- The command line


def gcsearch(*words):
    """A command in this process; what it refuses is raised."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def store(tmp_path):
    """A matrix of three sweeps: one is finished, one has a trial, one has not begun."""
    task = {"classes": "all", "targets": ["shapes-neon"]}
    search = {"objective": "val_acc"}
    found = {"test_acc": (80.0, 82.0), "test_acc_shapes-neon": (60.0, 61.0), "test_acc_targets": (60.0, 61.0)}
    zeroshot = ZEROSHOT.model_copy(update={"metrics": found})
    trial = completed("sam", metrics={"val_acc": (70.0, 72.0)})
    champion = completed("sam", "champion", stage="test", seeds=(4, 5), metrics=found)
    a_sweep(tmp_path, "away-1", [trial], [zeroshot, champion], task={**task, "shots": 1}, search=search)
    a_sweep(tmp_path, "away-2", [trial], task={**task, "shots": 2}, search=search)
    Store(tmp_path).matrix_file("away").parent.mkdir()
    Store(tmp_path).matrix_file("away").write_text(json.dumps({"sweeps": ["away-1", "away-2", "away-4"]}))
    return tmp_path


def test_compare_and_report_take_the_name_of_a_matrix(store, tmp_path):
    done = gcsearch("compare", "away", "--store", store, "--csv")
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["name"], row["searched_in"], row["acc_mean"], row["targets_mean"]) for row in rows] == [
        ("zero-shot CLIP", "", "81.0000", "60.5000"),
        ("SAM", "away-1", "81.0000", "60.5000"),
    ]
    assert "left out: " in done.stderr and "away-2 is not" in done.stderr and "away-4" in done.stderr
    shown = gcsearch("compare", "away", "--store", store).stdout
    assert "shapes-sketch, mini, 1 shots, all classes: accuracy" in shown
    assert "mean of targets" in shown
    done = gcsearch("report", "away", "--store", store, "--out", tmp_path / "pages")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["away-1.html", "away-2.html"]
    assert "left out: away-4" in done.stderr
    done = gcsearch("report", "away", "--store", store, "--out", store / "mlflow.html" / "x")
    assert done.exit_code == 0
    assert (store / "mlflow.html" / "x" / "away-1.html").exists()


@pytest.fixture
def at_once(monkeypatch, tmp_path):
    """Every sweep is there as soon as it is run, but for the name in `failing`; a file with two of them."""
    failing = set()

    def run(chosen, *, store, fresh, callback, executor):
        if chosen.name in failing:
            raise RunError("the disk is full")
        champion = completed("coop", "champion", stage="test", seeds=(4, 5))
        a_sweep(store, chosen.name, [completed("coop")], [ZEROSHOT, champion], task={"dataset": chosen.task.dataset})
        return open_sweep(chosen.name, store)

    monkeypatch.setattr(pipeline, "run", run)
    file = tmp_path / "two.toml"
    file.write_text(
        'name = "two"\n[matrix]\n"task.dataset" = ["shapes-sketch", "shapes-neon"]\n[quick]\n"search.trials" = 2\n'
    )
    return file, failing


def test_run_shows_each_sweep_and_ends_with_the_table_of_all(at_once, tmp_path):
    file, _ = at_once
    done = gcsearch("run", file, "--store", tmp_path, "--quiet")
    assert done.exit_code == 0, done.stderr
    *sweeps, end = done.stdout.split("report  ")
    assert len(sweeps) == 2 and "champion  coop" in sweeps[1]
    assert end.index("shapes-sketch, mini") < end.index("shapes-neon, mini") < end.index("mean over 2 data sets")
    assert f"next    gcsearch compare two --store {tmp_path}" in end


def test_compare_runs_what_is_missing_and_prints_nothing_but_the_table(at_once, tmp_path):
    file, _ = at_once
    done = gcsearch("compare", file, "--run", "--quick", "--store", tmp_path, "--json")
    assert done.exit_code == 0, done.stderr
    *groups, means = json.loads(done.stdout)
    assert [row["sweeps"] for group in groups for row in group["rows"]] == [
        [], ["two-quick-shapes-sketch"], [], ["two-quick-shapes-neon"],
    ]  # fmt: skip
    assert means["average_over"] == ["shapes-sketch", "shapes-neon"]
    assert "sweep 2 of 2: two-quick-shapes-neon" in done.stderr


@pytest.mark.parametrize("words", [["run"], ["compare", "--run"]])
def test_the_table_of_the_others_comes_before_the_exit_code_of_what_failed(at_once, tmp_path, words):
    file, failing = at_once
    failing.add("two-shapes-sketch")
    done = gcsearch(*words, file, "--store", tmp_path, "--quiet")
    assert done.exit_code == 1
    assert "shapes-neon, mini, 16 shots: accuracy" in done.stdout
    assert "1 of 2 sweeps failed: two-shapes-sketch" in done.stderr
    failing.add("two-shapes-neon")
    done = gcsearch(*words, file, "--store", tmp_path / "other", "--quiet")
    assert (done.exit_code, done.stdout) == (1, "")


def test_what_needs_one_sweep_lists_those_of_a_matrix(store):
    with pytest.raises(
        InputError, match=r"(?s)a matrix of several sweeps, and one is wanted, got away.*away-1, away-2"
    ):
        gcsearch("best", "away", "--store", store)
    Store(store).matrix_file("none").write_text('{"sweeps": ["away-2"]}')
    with pytest.raises(InputError, match="none of the matrix none is"):
        gcsearch("compare", "none", "--store", store)


def test_plan_lists_every_sweep_with_the_total(write, data_root):
    head = f'name = "many"\n[task]\ndataset = "tiny"\nroot = "{data_root}"\nbackbone = "mini"\n'
    head += 'classes = "all"\nval_shots = 1\nseeds = [1]\n'
    search = '[search]\nobjective = "val_acc"\ntrials = 4\npack = 1\n'
    file = write(f'{head}{search}[matrix]\n"task.shots" = [1, 2]\n')
    rows = [line.split() for line in gcsearch("plan", file).stdout.splitlines()]
    assert [row[:6] for row in rows if row and row[0] in ("many-1", "many-2")] == [
        ["many-1", "4", "x", "1", "seeds", "8"],
        ["many-2", "4", "x", "1", "seeds", "8"],
    ]
    assert ["2", "sweeps,", "about"] in [row[:3] for row in rows]
    found = json.loads(gcsearch("plan", file, "--json").stdout)
    check(found, "gcsearch plan --json")
    check(found["sweeps"][0], "gcsearch plan --json")
    assert [plan["trained_classes"] for plan in found["sweeps"]] == [8, 8]
    assert found["search_seconds"] == pytest.approx(sum(plan["search_seconds"] for plan in found["sweeps"]))
    file.write_text(file.read_text().replace("[1, 2]", "[1, 99]"))
    with pytest.raises(InputError, match=r"task\.shots: no class .*largest has 6, in the sweep many-99, got 99"):
        gcsearch("plan", file)


@pytest.mark.parametrize("name", ["few-shot", "base-to-new", "cross-dataset", "domain-generalisation"])
def test_the_pipelines_of_real_data_need_nothing_but_the_root(name):
    with pytest.raises(InputError, match=r"(?s)task\.root: .*--set task\.root=/path"):
        matrix.load(name)
    found = matrix.load(name, {"task.root": "/data"})
    assert len(found.pipelines) == {"few-shot": 55, "base-to-new": 11}.get(name, 1)
    own = {one.task.dataset: one.task.template for one in found.pipelines}
    if len(own) > 1:
        assert own["EuroSAT"] == "a centered satellite photo of {}."
    assert {one.task.val_shots for one in found.pipelines} == ({1, 2, 4} if name == "few-shot" else {4})
    assert {len(one.task.targets) for one in found.pipelines} == {
        {"cross-dataset": 10, "domain-generalisation": 4}.get(name, 0)
    }
