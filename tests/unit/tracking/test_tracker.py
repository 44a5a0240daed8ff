"""MLflow as a mirror of the journal: real SQLite stores in throw-away folders, one real server."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
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
from gcsearch.tracking.client import read_records, runs_of, ui_command
from gcsearch.tracking.description import run_name
from gcsearch.tracking.tracker import Tracker
from tests.support.records import GCSCOOP, a_record
from tests.support.servers import free_port, has_postgres, postgres

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
    second.start_sweep(tracker._sweep, PIPELINE)
    return second


def children(tracker):
    runs = runs_of(tracker.client, [tracker.experiment_id], tracker._sweep)
    return [run for run in runs if run.info.run_id != tracker.parent]


def test_a_record_becomes_a_child_run_with_params_metrics_and_tags(tracker):
    run_id = tracker.log_record(a_record(7, label="literature"))

    run = tracker.client.get_run(run_id)
    assert run.info.run_name == "t0007-gcscoop-rho0.10-b1_0.50-b2_0.80"
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == tracker.parent
    assert run.data.tags["gcsearch.trial"] == "7"
    assert run.data.tags["gcsearch.outcome"] == "complete"
    assert run.data.tags["gcsearch.config"] == GCSCOOP.digest
    assert run.data.tags["gcsearch.seeds"] == "1,2"
    assert run.data.tags["gcsearch.label"] == "literature"
    assert run.data.params == {"method": "gcscoop", "rho": "0.1", "beta1": "0.5", "beta2": "0.8", "epochs": "3"}
    assert run.data.metrics["val_h"] == 58.0
    assert run.data.metrics["val_h/seed_1"] == 53.0
    history = tracker.client.get_metric_history(run_id, "val_h/seed_2")
    assert [(point.step, point.value) for point in history] == [(1, 61.0), (2, 62.0), (3, 63.0)]
    seconds = (history[-1].timestamp - run.info.start_time) / 1000
    assert seconds == pytest.approx(30.0)


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

    read = read_records(tracker.uri, tracker._sweep)

    assert read == [record.model_copy(update={"run_id": run}) for record, run in zip(written, ids, strict=True)]


def test_numbers_that_are_not_finite_survive(tracker):
    tracker.log_record(a_record(epochs=0, metrics={"cosine": (math.nan, 1.0), "loss": (math.inf, 1.0)}))
    (read,) = read_records(tracker.uri, tracker._sweep)
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
    assert read_records(tracker.uri, tracker._sweep) == []

    second = again(tracker)
    assert second.log_record(a_record()) == half.info.run_id
    second.end()
    assert len(tracker.client.get_metric_history(half.info.run_id, "val_h")) == 3
    assert len(read_records(tracker.uri, tracker._sweep)) == 1


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
    assert "16 shots of all classes" in found.data.tags["mlflow.note.content"]
    logged = tracker.client.get_run(run_id).data.metrics
    assert {name: logged[name] for name in metrics} == dict.fromkeys(metrics, 55.0)
    assert logged["test_acc_shapes-neon/seed_2"] == 60.0


def test_a_continued_sweep_runs_again_and_may_have_grown(tracker):
    tracker.end("KILLED")
    assert tracker.client.get_run(tracker.parent).info.status == "KILLED"
    second = Tracker(tracker.uri, "pets")
    grown = PIPELINE.model_copy(update={"search": SearchConfig(objective="val_h", trials=500)})
    assert second.start_sweep(tracker._sweep, grown) == tracker.parent
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


# --- Many at once


UNEVEN = [
    a_record(0),
    a_record(1, config=TrialConfig(method="gcscoop", hyperparameters={"beta1": "off", "n_ctx": 4, "lr": 1.0})),
    a_record(2, outcome=Outcome.DIVERGED, reason="seed 1: “not finite”\n" + 9000 * "x", epochs=0),
    a_record(3, outcome=Outcome.PRUNED, epochs=2, curve=()),
    a_record(4, epochs=0, metrics={"cosine": (math.nan, 1.0), "loss": (math.inf, -math.inf), "val_h": (0.0, -0.0)}),
    a_record(5, seconds=0.0),  # all points at one time
    a_record(0, stage="test", label="champion", seeds=(4, 5)),
]


def everything(tracker):
    """All that a store tells of the child runs, by name: without their ids and what follows from these."""
    found = {}
    for run in children(tracker):
        client, run_id = tracker.client, run.info.run_id
        content = client.get_run(run_id).to_dictionary()
        assert content["info"].pop("artifact_uri").endswith(f"/{run_id}/artifacts")
        assert content["info"].pop("run_id") == content["info"].pop("run_uuid", run_id)
        for tag in ("mlflow.parentRunId", "gcsearch.sweep"):
            assert content["data"]["tags"].pop(tag)
        history = {name: client.get_metric_history(run_id, name) for name in content["data"]["metrics"]}
        points = {name: sorted(str(dict(p) | {"run_id": ""}) for p in some) for name, some in history.items()}
        files = [(file.path, file.file_size) for file in client.list_artifacts(run_id)]
        found[run.info.run_name] = json.dumps(content, sort_keys=True), points, files
    return found


def assert_written_at_once_as_by_the_client(uri, artifacts):
    one, other = Tracker(uri, "pets", artifacts), Tracker(uri, "pets", artifacts)
    one.start_sweep("one-by-one", PIPELINE)
    for record in UNEVEN:
        one.log_record(record, 1_000_000.5)
    other.start_sweep("at-once", PIPELINE)
    ids = other.log_records([(record, 1_000_000.5) for record in UNEVEN])
    assert everything(other) == everything(one)
    assert len(everything(one)) == len(UNEVEN)
    read = read_records(uri, "at-once")
    assert [one.run_id for one in read] == ids
    assert list(map(str, read)) == [str(r.model_copy(update={"run_id": i})) for r, i in zip(UNEVEN, ids, strict=True)]
    assert (one.written, other.written) == (len(UNEVEN), len(UNEVEN))


def test_runs_written_at_once_are_those_that_the_client_writes(store):
    assert_written_at_once_as_by_the_client(*store)


@pytest.mark.slow
@pytest.mark.skipif(not has_postgres(), reason="PostgreSQL 15 is not installed here")
def test_runs_written_at_once_are_those_that_the_client_writes_on_postgresql(tmp_path):
    with postgres() as uri:
        assert_written_at_once_as_by_the_client(uri, tmp_path)


def test_what_is_there_is_not_written_at_once_again(tracker):
    first = tracker.log_record(a_record(0))
    ids = tracker.log_records([(a_record(number), time.time()) for number in (0, 1, 1)])
    assert ids[0] == first and ids[1] == ids[2]
    assert tracker.written == 2
    changed, same = again(tracker).log_records([(a_record(0, epochs=5), time.time()), (a_record(1), time.time())])
    assert same == ids[1]
    assert {run.info.run_id for run in children(tracker)} == {changed, same}


def test_either_all_are_written_or_none(store, tmp_path):
    path = Path(shutil.copy(store[0].removeprefix("sqlite:///"), tmp_path / "broken.db"))
    tracker = Tracker(f"sqlite:///{path}", "broken", tmp_path)
    tracker.start_sweep("broken", PIPELINE)
    with contextlib.closing(sqlite3.connect(path)) as database:
        (before,) = database.execute("SELECT count(*) FROM runs").fetchone()
        database.execute("DROP TABLE latest_metrics")
        with pytest.raises(RunError, match="refused: OperationalError"):
            tracker.log_records([(a_record(number), time.time()) for number in range(2)])
        for table, there in (("runs", before), ("params", 0)):
            mine = "" if table == "runs" else " WHERE key = 'rho' AND run_uuid NOT IN (SELECT run_uuid FROM runs)"
            assert database.execute(f"SELECT count(*) FROM {table}{mine}").fetchone() == (there,)
    assert tracker.written == 0


def test_tables_of_another_mlflow_are_left_to_its_client(store, tmp_path):
    shutil.copy(store[0].removeprefix("sqlite:///"), tmp_path / "later.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "later.db")) as database:
        database.execute("ALTER TABLE metrics ADD COLUMN unit TEXT")
        database.commit()
    tracker = Tracker(f"sqlite:///{tmp_path}/later.db", "later", tmp_path)
    assert tracker._tables is None
    tracker.start_sweep("later", PIPELINE)
    run_ids = tracker.log_records([(a_record(number), time.time()) for number in range(2)])
    assert {run.info.run_id for run in children(tracker)} == set(run_ids)


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
    assert len(run.data.params) == 122
    assert len(tracker.client.get_metric_history(run.info.run_id, "val_h")) == 400
    (read,) = read_records(tracker.uri, tracker._sweep)
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
    assert read_records(tracker.uri, tracker._sweep)[0].metrics == base_only


def test_a_wrong_place_is_refused_with_words(tracker, tmp_path):
    with pytest.raises(InputError, match="not in a plain folder"):
        Tracker(str(tmp_path), "pets")
    with pytest.raises(RunError, match="does not answer"):
        Tracker(f"http://127.0.0.1:{free_port()}", "pets")
    with pytest.raises(RunError, match=r"//\*\*\*@nowhere") as caught:
        Tracker("postgresql+nosuchdriver://user:secret@nowhere/x", "pets")
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match=f"got other.*\n.*{tracker._sweep}"):
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
        assert remote.start_sweep(tracker._sweep, PIPELINE) == tracker.parent
        remote.log_record(a_record(1))
        remote.end()
        assert [record.number for record in read_records(address, tracker._sweep)] == [0, 1]
        with pytest.raises(InputError, match="Open that address"):
            ui_command(address, None, port)
    finally:
        server.terminate()
        server.wait(120)
