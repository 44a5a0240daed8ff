"""MLflow as a mirror of the journal: real SQLite stores in throw-away folders, one real server."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from gcsearch.config import provenance
from gcsearch.config.addresses import check_uri
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.task import Task
from gcsearch.config.trials import EpochReport, Outcome, TrialConfig
from gcsearch.errors import InputError, RunError
from gcsearch.stats import t_interval
from gcsearch.tracking.client import read_records, runs_of, ui_command
from gcsearch.tracking.content.trials import MOST_KEYS, key_of, run_name
from gcsearch.tracking.tracker import Tracker
from tests.support.records import GCSCOOP, a_record
from tests.support.servers import free_port

PIPELINE = Pipeline(name="pets", search=SearchConfig(objective="val_h"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for the module: making MLflow's tables takes over a second."""
    folder = tmp_path_factory.mktemp("store")
    return f"sqlite:///{folder}/mlflow.db", folder / "artifacts"


@pytest.fixture
def tracker(store, request):
    """A sweep of its own per test."""
    tracker = Tracker(store[0], "pets", store[1])
    tracker.start_sweep(request.node.name.replace("[", "-").replace("]", ""), PIPELINE)
    yield tracker
    tracker.end()


def again(tracker, **arguments) -> Tracker:
    """A second driver that continues the same sweep."""
    second = Tracker(tracker.uri, "pets", **arguments)
    second.start_sweep(tracker._begun.name, PIPELINE)
    return second


def children(tracker):
    runs = runs_of(tracker.client, [tracker.experiment_id], tracker._begun.name)
    return [run for run in runs if run.info.run_id != tracker.parent]


def test_a_record_becomes_a_child_run_with_params_metrics_and_tags(tracker):
    run_id = tracker.log_record(a_record(7, label="literature"))

    run = tracker.client.get_run(run_id)
    assert run.info.run_name == "t0007-gcscoop-rho0.10-b1_0.50-b2_0.80"
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == tracker.parent
    assert (tags["gcsearch.trial"], tags["gcsearch.label"], tags["gcsearch.seeds"]) == ("7", "literature", "1,2")
    assert (tags["outcome"], tags["gcsearch.outcome"], tags["role"]) == ("complete", "complete", "searched")
    assert tags["gcsearch.config"] == GCSCOOP.digest
    assert run.data.metrics["val_h"] == run.data.metrics["objective"] == 58.0
    assert run.data.metrics["val_h_sd"] == run.data.metrics["objective_sd"] == pytest.approx(50**0.5)
    assert run.data.metrics["seconds"] == 30.0
    history = tracker.client.get_metric_history(run_id, "val_h")
    assert [(point.step, point.value) for point in history] == [(1, 56.0), (2, 57.0), (3, 58.0)]
    seconds = (history[-1].timestamp - run.info.start_time) / 1000
    assert seconds == pytest.approx(30.0)


def test_a_child_run_has_all_hyperparameters_and_what_tells_its_sweep_from_others(tracker):
    params = tracker.client.get_run(tracker.log_record(a_record())).data.params
    assert {"method": "gcscoop", "rho": "0.1", "beta1": "0.5", "beta2": "0.8", "epochs": "3"}.items() <= params.items()
    assert {"lr", "batch_size", "n_ctx"} <= set(params)  # which nobody searched
    parent = tracker.client.get_run(tracker.parent).data.params
    shared = {"task.dataset", "task.backbone", "task.shots", "search.space"}
    assert {key: params[key] for key in shared} == {key: parent[key] for key in shared}


def test_each_seeds_numbers_are_a_table_that_mlflow_shows(tracker, tmp_path):
    run_id = tracker.log_record(a_record())
    shown = json.loads(tracker.client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "seeds.json", "type": "table"}]
    table = json.loads(Path(tracker.client.download_artifacts(run_id, "seeds.json", str(tmp_path))).read_text())
    assert table["columns"] == ["metric", "mean", "sd", "seed 1", "seed 2"]
    assert dict(zip(table["columns"], table["data"][0], strict=True)) == {
        "metric": "val_h", "mean": 58.0, "sd": pytest.approx(50**0.5), "seed 1": 53.0, "seed 2": 63.0,
    }  # fmt: skip


def test_a_long_curve_is_thinned_and_ends_where_the_trial_ended(tracker):
    run_id = tracker.log_record(a_record(epochs=200))
    steps = [point.step for point in tracker.client.get_metric_history(run_id, "val_h")]
    assert (len(steps), steps[0], steps[-1]) == (20, 1, 200)
    assert tracker.client.get_run(run_id).data.metrics["val_h"] == 255.0


def test_a_search_on_many_data_sets_stays_below_forty_metrics(tracker):
    names = [f"val_{side}_world{number}" for number in range(15) for side in ("base_acc", "new_acc", "h")]
    metrics = dict.fromkeys((*names, "loss", "val_base_acc", "val_new_acc", "val_h"), (1.0, 2.0))
    logged = tracker.client.get_run(tracker.log_record(a_record(metrics=metrics, curve=()))).data.metrics
    assert len(logged) == MOST_KEYS < 40
    assert {"objective", "val_base_acc", "val_base_acc_sd", "val_h"} <= set(logged)
    assert read_records(tracker.uri, tracker._begun.name)[0].metrics == metrics


def test_a_confirmed_run_has_the_numbers_of_the_tables_and_its_curves_as_a_picture(tracker, tmp_path):
    curve = tuple(
        EpochReport(number=0, epoch=e, metrics={"test_base_acc": (80.0 + e,) * 5, "test_h": (70.0, 71, 72, 73, 74)})
        for e in (1, 2)
    )
    final = {"stage": "test", "label": "champion", "seeds": (4, 5, 6, 7, 8), "epochs": 2, "curve": curve}
    run_id = tracker.log_record(a_record(metrics=curve[-1].metrics, **final), files={"prompts/seed_4.bin": b"four"})
    run = tracker.client.get_run(run_id)
    logged = run.data.metrics
    assert (logged["base"], logged["base_sd"], logged["h"]) == (82.0, 0.0, 72.0) and "new" not in logged
    assert logged["h_sd"] == pytest.approx(2.5**0.5)
    assert logged["h_low"] < 72 < logged["h_high"]
    assert (logged["h_low"], logged["h_high"]) == t_interval(curve[-1].metrics["test_h"])  # as `--json` has it
    assert logged["test_h"] == 72.0 and "objective" not in logged
    assert run.data.tags["role"] == "champion"
    assert {file.path for file in tracker.client.list_artifacts(run_id)} == {
        "record.json", "seeds.json", "curves.png", "prompts",
    }  # fmt: skip
    picture = Path(tracker.client.download_artifacts(run_id, "curves.png", str(tmp_path))).read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("complete", "FINISHED"), ("pruned", "FINISHED"), ("diverged", "FAILED"), ("failed", "FAILED")],
)
def test_the_outcome_decides_the_status(tracker, outcome, status):
    run_id = tracker.log_record(a_record(outcome=Outcome(outcome)))
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.data.tags["gcsearch.outcome"]) == (status, outcome)


def test_what_is_written_is_read_back(tracker):
    written = [
        a_record(0),
        a_record(1, config=TrialConfig(method="gcscoop", hyperparameters={"beta1": "off", "n_ctx": 4, "lr": 1.0})),
        a_record(2, outcome=Outcome.DIVERGED, reason="seed 1: not finite", epochs=0),
        a_record(2, stage="test", label="champion", seeds=(4, 5)),
    ]
    ids = [tracker.log_record(record) for record in written]

    read = read_records(tracker.uri, tracker._begun.name)

    assert read == [record.model_copy(update={"run_id": run}) for record, run in zip(written, ids, strict=True)]


def test_numbers_that_are_not_finite_survive(tracker):
    tracker.log_record(a_record(epochs=0, metrics={"cosine": (math.nan, 1.0), "loss": (math.inf, 1.0)}))
    (read,) = read_records(tracker.uri, tracker._begun.name)
    assert math.isnan(read.metrics["cosine"][0])
    assert read.metrics["loss"][0] == math.inf


def test_the_same_record_twice_is_one_run_also_for_a_second_driver(tracker):
    first = tracker.log_record(a_record())
    assert tracker.log_record(a_record()) == first
    second = again(tracker)
    assert second.parent == tracker.parent
    assert second.log_record(a_record().model_copy(update={"run_id": first})) == first
    assert len(children(tracker)) == 1
    second.end()


def test_a_setting_measured_anew_replaces_its_run(tracker):
    first = tracker.log_record(a_record())
    second = tracker.log_record(a_record(epochs=5))
    assert second != first
    assert [run.info.run_id for run in children(tracker)] == [second]


def test_a_run_cut_off_while_writing_is_completed_without_doubles(tracker, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracker, "_put", killed)
        tracker.log_record(a_record())
    (half,) = children(tracker)
    assert half.info.status == "RUNNING"
    assert read_records(tracker.uri, tracker._begun.name) == []

    second = again(tracker)
    assert second.log_record(a_record()) == half.info.run_id
    second.end()
    assert len(tracker.client.get_metric_history(half.info.run_id, "val_h")) == 3
    assert len(read_records(tracker.uri, tracker._begun.name)) == 1


def test_an_orphan_that_nobody_completes_is_closed_as_killed(tracker, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RunError, match="disk full"):
        patch.setattr(tracker, "_put", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        tracker.log_record(a_record())
    assert again(tracker).end_orphans() == 1
    (orphan,) = children(tracker)
    assert orphan.info.status == "KILLED"
    assert "orphaned" in orphan.data.tags["gcsearch.reason"]
    third = again(tracker)
    assert (third.log_record(a_record()), third.end_orphans()) == (orphan.info.run_id, 0)
    assert tracker.client.get_run(orphan.info.run_id).info.status == "FINISHED"


def test_the_parent_says_what_is_searched_and_with_what(store, tmp_path):
    (tmp_path / "space.toml").write_text("[rho]\n")
    tracker = Tracker(store[0], "pets", store[1])
    run_id = tracker.start_sweep(
        "parent", PIPELINE, {"pipeline.toml": "version = 1\n", "space.toml": tmp_path / "space.toml"}, {"team": "ours"}
    )
    tracker.log_artifact(tmp_path / "space.toml", "report/index.html")
    tracker.end()

    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["gcsearch.sweep"] == run.info.run_name == "parent"
    assert run.data.tags["gcsearch.selection"] == "clean"
    assert run.data.tags["gcsearch.version.optuna"].startswith("5.")
    assert run.data.tags["gcsearch.heartbeat"].endswith("+00:00")
    assert run.data.tags["team"] == "ours"
    assert run.data.params["task.shots"] == "16"
    assert "search.trials" not in run.data.params
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "shapes-sketch"
    assert len(dataset.dataset.digest) == 36
    names = {file.path for file in tracker.client.list_artifacts(run_id)}
    assert names == {"pipeline.toml", "space.toml", "environment.json", "report"}
    stored = tracker.client.download_artifacts(run_id, "environment.json", str(tmp_path))
    with open(stored) as file:
        assert json.load(file)["mlflow"].startswith("3.")


def test_targets_are_inputs_that_are_only_tested(store):
    tracker = Tracker(store[0], "transfer", store[1])
    task = Task.from_dict({"classes": "all", "targets": ["shapes-neon", "shapes-sketch"]})
    tracker.start_sweep("transfer", Pipeline(name="transfer", task=task, search=SearchConfig(objective="val_acc")))
    metrics = {f"test_acc{behind}": (50.0, 60.0) for behind in ("", "_shapes-neon", "_shapes-sketch", "_targets")}
    run_id = tracker.log_record(a_record(stage="test", label="champion", metrics=metrics, curve=()))
    tracker.end()
    found = tracker.client.get_run(tracker.parent)
    inputs = {one.dataset.name: one.tags[0].value for one in found.inputs.dataset_inputs}
    assert inputs == {"shapes-sketch": "train", "shapes-neon": "test"}
    logged = tracker.client.get_run(run_id).data.metrics
    assert {name: logged[name] for name in metrics} == dict.fromkeys(metrics, 55.0)
    assert (logged["targets"], logged["acc"]) == (55.0, 55.0)


def test_a_continued_sweep_runs_again_and_may_have_grown(tracker):
    tracker.end("KILLED")
    assert tracker.client.get_run(tracker.parent).info.status == "KILLED"
    second = Tracker(tracker.uri, "pets")
    grown = PIPELINE.model_copy(update={"search": SearchConfig(objective="val_h", trials=500)})
    assert second.start_sweep(tracker._begun.name, grown) == tracker.parent
    assert second.client.get_run(tracker.parent).info.status == "RUNNING"
    second.end()


def test_times_are_those_of_the_setting_and_not_of_the_writing(tracker):
    run = tracker.client.get_run(tracker.log_record(a_record(seconds=30.0), ended=1_000_000.0))
    assert (run.info.start_time, run.info.end_time) == (999_970_000, 1_000_000_000)


def test_only_what_is_not_there_counts_as_written(tracker):
    for number in (0, 1, 0):
        tracker.log_record(a_record(number))
    assert tracker.written == 2
    second = again(tracker)
    second.log_record(a_record(0))
    assert second.written == 0


# --- What changes later


def test_marks_are_set_changed_and_taken_away(tracker):
    first, second = a_record(0), a_record(1)
    ids = [tracker.log_record(record) for record in (first, second)]

    def tags(one):
        return {key: text for key, text in one.client.get_run(ids[0]).data.tags.items() if key in ("role", "rank")}

    tracker.mark({key_of(first): {"rank": "1"}, key_of(second): {"rank": "2"}})
    assert tags(tracker) == {"role": "searched", "rank": "1"}
    later = again(tracker)
    later.mark({key_of(first): {"rank": "", "role": "champion"}, key_of(a_record(9)): {"rank": "3"}})
    assert tags(later) == {"role": "champion"}
    later.end()


def test_what_has_not_changed_is_not_written_again(tracker, monkeypatch):
    tracker.tag({"mlflow.note.content": "as it is"})
    tracker.log_results({"h": 80.0}, 1_000.0)
    tracker.name_champion({"rho": 0.1})
    record = a_record()
    tracker.log_record(record)
    tracker.mark({key_of(record): {"rank": "1"}})
    second = again(tracker)
    written = []
    for name in ("log_batch", "set_tag", "delete_tag", "log_metric", "create_run"):
        monkeypatch.setattr(second.client, name, lambda *_, name=name, **__: written.append(name))
    second.tag({"mlflow.note.content": "as it is"})
    second.log_results({"h": 80.0}, 1_000.0)
    assert not second.name_champion({"rho": 0.1})
    second.mark({key_of(record): {"rank": "1"}})
    assert written == []
    monkeypatch.undo()
    second.end()


def test_another_champion_takes_a_new_parent_which_all_trials_follow(tracker):
    child = tracker.log_record(a_record())
    assert not tracker.name_champion({"method": "gcscoop", "rho": 0.1})
    former = tracker.parent
    assert tracker.name_champion({"method": "coop"})  # which has no rho
    assert tracker.parent != former
    run = tracker.client.get_run(tracker.parent)
    assert run.data.params["method"] == "coop" and "rho" not in run.data.params
    assert run.data.params["task.shots"] == "16"
    assert "environment.json" in {file.path for file in tracker.client.list_artifacts(tracker.parent)}
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == tracker.parent
    assert [run.info.run_id for run in children(tracker)] == [child]


def test_trials_of_a_parent_that_is_gone_find_the_next_one(tracker):
    """A driver that was killed while it made the parent anew."""
    child = tracker.log_record(a_record())
    tracker.client.delete_run(tracker.parent)
    second = again(tracker)
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == second.parent != tracker.parent
    second.end()
    tracker.client.restore_run(tracker.parent)  # which the fixture ends


def test_the_experiment_is_one_of_training_also_where_an_earlier_version_made_it(store):
    name = "of an earlier version"
    made = Tracker(store[0], "any").client.create_experiment(name)
    tracker = Tracker(store[0], name, store[1])
    assert tracker.experiment_id == made
    assert tracker.client.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"
    tracker.client.set_experiment_tag(made, "mlflow.experimentKind", "genai_development")  # somebody's choice
    Tracker(store[0], name, store[1])
    assert tracker.client.get_experiment(made).tags["mlflow.experimentKind"] == "genai_development"


def test_git_commit_and_dirty_flag(tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    assert provenance._git(tmp_path) == {}
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    clean = provenance._git(tmp_path)
    assert len(clean["git.commit"]) == 40
    assert clean["git.dirty"] == "false"
    (tmp_path / "new.txt").write_text("x")
    assert provenance._git(tmp_path)["git.dirty"] == "true"


def test_the_limits_of_mlflow_are_kept(tracker):
    record = a_record(
        epochs=400,
        config=TrialConfig(
            method="coop", hyperparameters={"ctx_init": "a" * 9000} | {f"key{i}": i for i in range(120)}
        ),
        outcome=Outcome.FAILED,
        reason="r" * 20_000,
    )
    run = tracker.client.get_run(tracker.log_record(record))
    assert len(run.data.tags["gcsearch.reason"]) == 8000
    assert len(run.data.params["ctx_init"]) == 6000
    assert len(run.data.params) == 122 + 4
    assert len(tracker.client.get_metric_history(run.info.run_id, "val_h")) == 20
    (read,) = read_records(tracker.uri, tracker._begun.name)
    assert read.reason == record.reason
    assert read.config == record.config


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "t0007-gcscoop-rho0.10-b1_0.50-b2_0.80"),
        (
            {"stage": "test", "label": "GCSCoOp, literature"},
            "confirm-GCSCoOp-literature-gcscoop-rho0.10-b1_0.50-b2_0.80",
        ),
        (
            {"config": TrialConfig(method="gcscoop", hyperparameters={"rho": 0.005, "beta1": "off"})},
            "t0007-gcscoop-rho0.005-b1_off",
        ),
        ({"config": TrialConfig(method="coop", hyperparameters={"lr": 0.002})}, "t0007-coop-lr0.002"),
        ({"config": TrialConfig(method="zeroshot")}, "t0007-zeroshot"),
        (
            {"config": TrialConfig(method="kgcoop", hyperparameters={"lr": 0.002, "kg_lambda": 8.0, "n_ctx": 4})},
            "t0007-kgcoop-kg_lambda8.00",
        ),
        (
            {"config": TrialConfig(method="subpt+nfl", hyperparameters={"rank": 10, "nfl_names": "transductive"})},
            "t0007-subpt+nfl-rank10-nfl_namestransductive",
        ),
    ],
)
def test_run_names_can_be_read(changes, name):
    assert run_name(a_record(7, **changes)) == name


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{folder}", "not in a plain folder"),
        ("file://{folder}", "not in a plain folder"),
        ("sqllite:///{folder}/mlflow.db", r"known kind, got sqllite:///.*\nKnown: .*sqlite://"),
        ("nosuch://user:secret@host/x", r"known kind, got nosuch://\*\*\*@host/x"),
        ("sqlite:///{folder}/missing/mlflow.db", r"the folder .*/missing must exist"),
        ("sqlite:///{folder}", r"a file, not a folder.*\n.*mlflow.db"),
        ("sqlite://", "outlives the process"),
        ("sqlite:///:memory:", "outlives the process"),
        ("http://", "must name one"),
    ],
)
def test_a_place_that_cannot_hold_runs_is_refused_before_anything_is_made(tmp_path, uri, message):
    with pytest.raises(InputError, match=f"tracking.uri: .*{message}") as caught:
        check_uri(uri.format(folder=tmp_path))
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_places_that_can_hold_runs_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/new.db", "postgresql+psycopg2://u:p@db/x", "http://db:5000")
    for uri in places:
        check_uri(uri)


def test_a_metric_that_was_not_measured_is_left_out(tracker):
    base_only = {"val_base_acc": (70.0, 80.0), "loss": (0.5, 0.25), "val_h": ()}
    curve = (EpochReport(number=0, epoch=1, metrics=base_only),)
    config = TrialConfig(method="coop", hyperparameters={"class_specific": True})
    run_id = tracker.log_record(a_record(config=config, epochs=1, metrics=base_only, curve=curve))
    run = tracker.client.get_run(run_id)
    assert run.data.tags["gcsearch.method.tags"] == "class-specific"
    logged = run.data.metrics
    assert logged["val_base_acc"] == 75.0
    assert not any("val_h" in name or "new" in name for name in logged)
    assert read_records(tracker.uri, tracker._begun.name)[0].metrics == base_only


def test_a_wrong_place_is_refused_with_words(tracker, tmp_path):
    with pytest.raises(InputError, match="not in a plain folder"):
        Tracker(str(tmp_path), "pets")
    with pytest.raises(RunError, match="does not answer"):
        Tracker(f"http://127.0.0.1:{free_port()}", "pets")
    with pytest.raises(RunError, match=r"//\*\*\*@nowhere") as caught:
        Tracker("postgresql+nosuchdriver://user:secret@nowhere/x", "pets")
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match=f"got other.*\n.*{tracker._begun.name}"):
        read_records(tracker.uri, "other")
    with pytest.raises(InputError, match="no sweep"):
        read_records(tracker.uri, "other' OR ''='")


def test_no_global_state_of_mlflow_is_touched(tracker):
    import mlflow

    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() != tracker.uri
    assert "MLFLOW_TRACKING_URI" not in os.environ


def wait_for(url: str, process: subprocess.Popen, seconds: float = 300.0) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.3)


@pytest.mark.slow
def test_the_browser_serves_and_a_sweep_can_be_written_through_it(tracker, store):
    tracker.log_record(a_record())
    port = free_port()
    server = subprocess.Popen(ui_command(*store, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        assert b"<!doctype html>" in wait_for(address, server).lower()
        remote = Tracker(address, "pets")
        assert remote.start_sweep(tracker._begun.name, PIPELINE) == tracker.parent
        remote.log_record(a_record(1))
        final = a_record(1, stage="test", label="champion", metrics={"test_h": (80.0, 82.0)}, curve=())
        confirmed = remote.log_record(final, files={"prompts/seed_1.bin": b"one"})
        remote.mark({key_of(final): {"rank": "1"}})
        remote.mark({key_of(final): {"rank": ""}})
        assert not remote.name_champion({"method": "gcscoop"}) and remote.name_champion({"method": "coop"})
        assert {file.path for file in remote.client.list_artifacts(confirmed)} >= {"prompts", "record.json"}
        remote.end()
        assert [record.number for record in read_records(address, tracker._begun.name)] == [0, 1, 1]
        found = tracker.client.get_run(confirmed)
        assert found.data.tags["mlflow.parentRunId"] == remote.parent != tracker.parent
        assert "rank" not in found.data.tags
        (model,) = tracker.client.search_logged_models([tracker.experiment_id], f"source_run_id = '{confirmed}'")
        assert {metric.key: metric.value for metric in model.metrics}["h"] == 81.0
        tracker.client.restore_run(tracker.parent)  # which the fixture ends
        with pytest.raises(InputError, match="Open that address"):
            ui_command(address, None, port)
    finally:
        server.terminate()
        server.wait(120)
