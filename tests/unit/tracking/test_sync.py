"""MLflow follows the journal, whatever happens to either: real SQLite, a journal written by hand."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from unittest.mock import Mock

import pytest
from mlflow.store.db import utils as mlflow_utils
from mlflow.tracking import MlflowClient

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome
from gcsearch.errors import RunError
from gcsearch.sweep.journal import Event, RunLogged
from gcsearch.sweep.state import lag, lines_synced, read_status
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.tracking import sync
from gcsearch.tracking.client import runs_of
from gcsearch.tracking.content.trials import key_of_run
from gcsearch.tracking.sync import MlflowSync
from gcsearch.tracking.tracker import Tracker
from tests.support.records import ZEROSHOT, a_final, a_record, ranked_record
from tests.support.servers import free_port
from tests.support.sweeps import a_sweep, mirrored


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One database for the module, made before two threads would make it at once."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    Tracker(uri, "mirrors", folder / "artifacts")
    return uri


@pytest.fixture
def sweep(tmp_path, database, request, monkeypatch):
    monkeypatch.setattr(sync, "_POLL", 0.02)
    name = request.node.name.partition("[")[0][:60]
    return mirrored(tmp_path, name, database)


class Following:
    """A mirror of `sweep` and what it said."""

    def __init__(self, sweep):
        self.sweep, self.said, self.repaired = sweep, [], []
        self.journal = sweep.journal
        self.mirror = MlflowSync(sweep, self.journal, self.said.append, self.repaired.append)

    def __enter__(self):
        self.mirror.start()
        return self

    def __exit__(self, *_):
        self.mirror.close(timeout=60)

    def wait(self, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not what() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert what(), (self.said, runs(self.sweep))

    def has(self, numbers):
        self.wait(lambda: sorted(children(self.sweep)) == sorted(numbers))


def client(sweep):
    return MlflowClient(sweep.pipeline.tracking.uri)


def runs(sweep):
    found = client(sweep).get_experiment_by_name("mirrors")
    return runs_of(client(sweep), [found.experiment_id] if found else [], sweep.id)


def parent(sweep):
    (one,) = [run for run in runs(sweep) if run.data.tags["gcsearch.kind"] == "sweep"]
    return one


def children(sweep):
    """Trial number to status; every number once."""
    there = [run for run in runs(sweep) if run.data.tags["gcsearch.kind"] == "trial"]
    found = {int(run.data.tags["gcsearch.trial"]): run.info.status for run in there}
    assert len(found) == len(there)
    return found


def test_what_the_journal_says_appears_in_mlflow_and_run_ids_in_the_journal(sweep):
    with Following(sweep) as one:
        assert one.journal.append("record", record=a_record(0)) is None
        one.has([0])
        one.journal.append("proposal", number=1, config={"method": "coop"})
        one.journal.append("record", record=a_record(1))
        one.has([0, 1])
        assert parent(sweep).info.status == "RUNNING"
        one.journal.append("final", records=[a_record(0, stage="test", label="champion")], threads=1)
        (sweep.folder / "report.html").write_text("<html>")
        one.journal.append("artifact", file="report.html")
        one.journal.append("close", why="FINISHED")
        assert one.mirror.close() == ""
    assert (one.said, one.repaired) == ([], [])
    assert parent(sweep).info.status == "FINISHED"
    ids = {run.info.run_id for run in runs(sweep)} - {parent(sweep).info.run_id}
    told = one.journal.events(RunLogged)
    assert {event.run_id for event in told} == ids
    assert [(event.number, event.stage) for event in told] == [(0, "search"), (1, "search"), (0, "test")]
    names = {file.path for file in client(sweep).list_artifacts(parent(sweep).info.run_id)}
    assert {"pipeline.toml", "space.toml", "environment.json", "report.html"} <= names
    assert lines_synced(sweep) == len(one.journal.events(Event))


def test_writing_again_from_the_first_line_changes_nothing(sweep):
    failed = a_record(0, outcome=Outcome.FAILED)
    for record in (failed, a_record(0), a_record(1)):
        sweep.journal.append("record", record=record)
    sweep.journal.append("close", why="STOPPED")
    assert Following(sweep).mirror.sync() == 2  # of two records of a configuration the last one counts
    lines, there = sweep.journal.path.read_text(), [run.info.run_id for run in runs(sweep)]
    (sweep.folder / "synced.json").unlink()
    assert Following(sweep).mirror.sync() == 0
    assert sweep.journal.path.read_text() == lines
    assert [run.info.run_id for run in runs(sweep)] == there
    assert lines_synced(sweep) == lines.count("\n")
    assert parent(sweep).info.status == "KILLED"


def test_an_oracles_search_and_confirmation_have_runs_of_their_own(sweep):
    """Both are measured in the stage `test`."""
    searched, chosen = a_record(0, stage="test"), a_record(0, stage="test", label="champion")
    sweep.journal.append("record", record=searched)
    sweep.journal.append("final", records=[chosen], threads=1)
    sweep.journal.append("close", why="FINISHED")
    assert Following(sweep).mirror.sync() == 2
    read = Sweep(sweep.name, sweep.store, sweep.folder)
    ids = {run.info.run_id for run in runs(sweep)} - {parent(sweep).info.run_id}
    assert {read.records[0].run_id, read.finals[0].run_id} == ids
    assert len(ids) == 2
    lines = sweep.journal.path.read_text()
    assert Following(sweep).mirror.sync() == 0
    assert sweep.journal.path.read_text() == lines


@pytest.mark.parametrize(
    ("why", "status"), [("FINISHED", "FINISHED"), ("FAILED", "FAILED"), ("CANCELLED", "KILLED"), (None, "KILLED")]
)
def test_the_parent_ends_as_the_journal_does(sweep, why, status):
    if why:
        sweep.journal.append("close", why=why)
    Following(sweep).mirror.sync()
    assert parent(sweep).info.status == status


def test_a_mirror_killed_while_writing_is_completed_by_the_next_without_doubles(sweep, monkeypatch):
    for number in range(3):
        sweep.journal.append("record", record=a_record(number))
    put, puts = Tracker._put, []

    def killed(self, run_id, contents):
        if "record.json" in contents and puts.append(run_id) is None and len(puts) == 2:
            raise KeyboardInterrupt
        put(self, run_id, contents)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tracker, "_put", killed)
        Following(sweep).mirror.sync()
    assert children(sweep) == {0: "FINISHED", 1: "RUNNING"}
    assert lines_synced(sweep) == 0
    with Following(sweep) as one:
        one.has([0, 1, 2])
    assert set(children(sweep).values()) == {"FINISHED"}
    assert one.repaired == []


@pytest.fixture
def impatient(monkeypatch):
    """MLflow waits for a locked database for twenty seconds, which no configuration of its own changes."""
    text = mlflow_utils.sql.text
    monkeypatch.setattr(mlflow_utils.sql, "text", lambda words: text(words.replace("20000", "50")))


@contextlib.contextmanager
def locked(uri):
    """The database, while another program writes in it."""
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


def test_while_the_database_is_locked_the_warning_and_status_count_the_same_lines(sweep, database, impatient):
    sweep.journal.append("record", record=a_record(0))
    Following(sweep).mirror.sync()  # an earlier session
    assert dict(read_status(sweep).lines())["MLflow"] == "is in step with the journal"
    with locked(database):
        for number in range(1, 4):
            sweep.journal.append("record", record=a_record(number))
        sweep.journal.append("close", why="FINISHED")
        one = Following(sweep)
        one.mirror.start()
        warning, found = one.mirror.close(), read_status(sweep)
        assert f"{database} lacks the journal's last 4 lines: " in warning
        assert "database is locked" in warning
        assert dict(found.lines())["MLflow"] == "lacks the journal's last 4 lines"
        assert found.to_dict()["journal_lines"] - found.to_dict()["mlflow_lines"] == 4
        with pytest.raises(RunError, match="database is locked"):
            Following(sweep).mirror.sync()
        assert read_status(sweep).mlflow_lines == found.mlflow_lines
    assert Following(sweep).mirror.sync() == 3
    assert dict(read_status(sweep).lines())["MLflow"] == "is in step with the journal"
    assert parent(sweep).info.status == "FINISHED"


def test_mlflow_is_in_step_only_once_the_sweeps_own_run_has_ended(sweep, monkeypatch):
    sweep.journal.append("record", record=a_record(0))
    sweep.journal.append("close", why="FINISHED")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "end", lambda *_: 1 / 0)
        one = Following(sweep)
        one.mirror.start()
        assert "lacks the journal's last" in one.mirror.close()
    assert children(sweep) == {0: "FINISHED"}
    assert (parent(sweep).info.status, read_status(sweep).mlflow_lines) == ("RUNNING", 0)
    Following(sweep).mirror.sync()
    assert (parent(sweep).info.status, lag_of(sweep)) == ("FINISHED", 0)


def lag_of(sweep):
    return read_status(sweep).journal_lines - read_status(sweep).mlflow_lines


def test_another_store_lacks_what_the_former_one_has(sweep, tmp_path):
    Following(sweep).mirror.sync()
    assert lag_of(sweep) == 0
    for uri in ("http://127.0.0.1:5000", f"sqlite:///{tmp_path}/other.db"):
        content = sweep.pipeline.to_dict() | {"tracking": {"uri": uri, "experiment": "mirrors"}}
        files.write_whole(sweep.folder / "pipeline.toml", files.to_toml(content))
        moved = Sweep(sweep.name, sweep.store, sweep.folder)
        assert lag_of(moved) == len(moved.journal.events(Event))


def test_the_embedded_store_may_be_moved(tmp_path):
    folder = tmp_path / "sweeps" / "plain"
    files.write_whole(folder / "pipeline.toml", files.to_toml(Pipeline.from_dict({"name": "plain"}).to_dict()))
    sweep = Sweep("plain", Store(tmp_path), folder)
    sweep.journal.append("open", id="plain-0")
    for place in ("embedded", "sqlite:////elsewhere/mlflow.db"):  # and what stood there before
        files.write_whole(folder / "synced.json", json.dumps({"uri": place, "lines": 1}))
        assert lag_of(sweep) == 0


@pytest.mark.parametrize("content", ["", "[1]", '{"uri": 3, "lines": 1}', '{"uri": "embedded"}', '{"lines": 1}'])
def test_a_damaged_cursor_says_nothing(content, sweep):
    files.write_whole(sweep.folder / "synced.json", content)
    assert lines_synced(sweep) == 0


def test_lines_are_counted_in_words():
    assert (lag(9, 9), lag(8, 9)) == ("is in step with the journal",) * 2
    assert (lag(9, 8), lag(9, 0)) == ("lacks the journal's last line", "lacks the journal's last 9 lines")


def test_a_run_that_no_record_completes_is_closed_and_told(sweep):
    former = Following(sweep).mirror
    former.sync()
    former._tracker._begin(a_record(7), "", 0)
    assert children(sweep) == {7: "RUNNING"}
    with Following(sweep) as one:
        one.wait(lambda: one.repaired)
    assert one.repaired == ["1 MLflow runs that nobody would complete were closed as KILLED"]
    assert children(sweep) == {7: "KILLED"}


def test_a_store_that_is_away_is_said_once_and_gets_everything_when_it_is_back(sweep, monkeypatch):
    write, away = Tracker.log_record, threading.Event()
    away.set()

    def flaky(self, *what):
        if away.is_set():
            raise RunError("connection refused")
        return write(self, *what)

    monkeypatch.setattr(Tracker, "log_record", flaky)
    monkeypatch.setattr(sync, "_PATIENCE", 0.05)
    with Following(sweep) as one:
        began = time.monotonic()
        for number in range(5):
            one.journal.append("record", record=a_record(number))
        assert time.monotonic() - began < 20  # nobody waits
        one.wait(lambda: one.said)
        time.sleep(0.3)
        assert one.said == ["connection refused\nThe sweep goes on; MLflow gets what it lacks once it answers."]
        away.clear()
        one.has(range(5))
        one.wait(lambda: len(one.said) == 2)
        assert one.said[1] == f"MLflow at {sweep.pipeline.tracking.uri} answers again and has all runs."


def test_an_answer_that_got_lost_makes_no_second_run(sweep, monkeypatch):
    create, lost = Tracker._create, []

    def half(self, name, tags, began):
        run_id = create(self, name, tags, began)
        if tags["gcsearch.kind"] == "trial" and not lost:
            lost.append(run_id)
            raise RunError("the server closed the connection")
        return run_id

    monkeypatch.setattr(Tracker, "_create", half)
    monkeypatch.setattr(sync, "_PATIENCE", 0.05)
    sweep.journal.append("record", record=a_record(0))
    with Following(sweep) as one:
        one.wait(lambda: children(sweep) == {0: "FINISHED"})
    assert len(lost) == 1


def test_a_server_that_never_answers_costs_a_warning_and_a_sync_brings_it_up(tmp_path, database):
    sweep = mirrored(tmp_path, "away", f"http://127.0.0.1:{free_port()}")
    with Following(sweep) as one:
        one.journal.append("record", record=a_record(0))
        one.journal.append("close", why="FINISHED")
        began = time.monotonic()
        trouble = one.mirror.close()
        assert time.monotonic() - began < 30
    assert trouble.startswith(
        f"MLflow at {sweep.pipeline.tracking.uri} lacks the journal's last 3 lines: The MLflow server"
    )
    assert trouble.endswith(f"`gcsearch sync away --store {tmp_path}` writes it later.")
    with pytest.raises(RunError, match="does not answer"):
        Following(sweep).mirror.sync()
    back = mirrored(tmp_path / "back", "away", database)
    back.journal.path.write_text(sweep.journal.path.read_text())
    assert Following(back).mirror.sync() == 1
    assert (parent(back).info.status, children(back)) == ("FINISHED", {0: "FINISHED"})


def test_a_store_too_slow_to_wait_for_is_left_to_a_later_sync(sweep, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(Tracker, "log_record", lambda *_: str(gate.wait(20)))
    sweep.journal.append("record", record=a_record(0))
    with Following(sweep) as one:
        assert "it is too slow to wait for\nNothing is lost: `gcsearch sync" in one.mirror.close(timeout=0.5)
        gate.set()


def test_a_server_that_takes_calls_and_never_answers_holds_nobody_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hung:
        sweep = mirrored(tmp_path, "hung", f"http://127.0.0.1:{hung.getsockname()[1]}")
        with Following(sweep) as one:
            began = time.monotonic()
            for number in range(100):
                one.journal.append("record", record=a_record(number))
            appended = time.monotonic() - began
            assert f"`gcsearch sync hung --store {tmp_path}` writes it later" in one.mirror.close(timeout=1)
            assert appended < 30  # half a second on a machine that does nothing else
            assert time.monotonic() - began < appended + 30
            hung.close()  # or the thread would wait on


def test_who_has_lost_the_sweep_writes_nothing_more(sweep):
    def forbid():
        raise RunError("another driver has taken over")

    sweep.journal.append("record", record=a_record(0))
    one = Following(sweep)
    one.mirror.journal = type(sweep.journal)(sweep.journal.path, before=forbid)
    with one:
        assert "another driver has taken over" in one.mirror.close()
    assert runs(sweep) == []


def test_the_cursor_names_the_store_without_its_password(tmp_path):
    sweep = mirrored(tmp_path, "secret", "postgresql://me:secret@db/x")
    assert lines_synced(sweep) == 0
    one = Following(sweep).mirror
    one._opened = Mock(**{"return_value.end_orphans.return_value": 0})
    one._catch_up()
    assert json.loads((sweep.folder / "synced.json").read_text()) == {"uri": "postgresql://me@db/x", "lines": 1}


# --- What the sweep came to


@pytest.fixture
def searched(tmp_path, database, request, monkeypatch):
    """A sweep of three trials, of which the second is the best."""
    monkeypatch.setattr(sync, "_POLL", 0.02)
    tracking = {"uri": database, "experiment": "mirrors"}
    search = {"objective": "val_h", "trials": 3}
    sweep = a_sweep(tmp_path, request.node.name[:60], space="version = 1\n", tracking=tracking, search=search)
    for number, value in enumerate((70.0, 80.0, 75.0)):
        sweep.journal.append("record", record=ranked_record(number, (value - 1, value + 1), rho=0.1 + number))
    return sweep


def final(number, rho, **fields):
    label = fields.pop("label", "champion")
    return a_final("gcscoop", number=number, label=label, rho=rho, seeds=(4, 5), **fields)


def confirm(sweep, *finals):
    for one in finals:
        again = ranked_record(one.number, (50.0, 52.0)).model_copy(update={"config": one.config, "seeds": (4, 5)})
        sweep.journal.append("recheck", record=again)
    sweep.journal.append("final", records=[ZEROSHOT, *finals], threads=1)


def course(sweep):
    history = client(sweep).get_metric_history(parent(sweep).info.run_id, "best")
    return [(point.step, point.value) for point in history]


def told(sweep):
    return parent(sweep).data.tags.get("mlflow.note.content", "")


def marked(sweep):
    """Role and rank of every trial's run, by number and stage."""
    there = [run.data.tags for run in runs(sweep) if run.data.tags["gcsearch.kind"] == "trial"]
    return {(int(t["gcsearch.trial"]), t["gcsearch.stage"]): (t["role"], t.get("rank")) for t in there}


def test_while_the_search_goes_on_mlflow_shows_how_far_it_is(searched):
    with Following(searched) as one:
        one.has(range(3))
        one.wait(lambda: "3 of 3 trials have ended: 3 complete." in told(searched))
        assert marked(searched)[1, "search"] == ("searched", "1")
        assert course(searched) == [(1, 70.0), (2, 80.0), (3, 80.0)]
        assert parent(searched).data.metrics["trials_complete"] == 3
        assert parent(searched).data.tags["gcsearch.stage"] == "confirm"


def test_a_trial_tried_again_is_one_step_of_the_course(searched):
    searched.journal.append("record", record=ranked_record(3, None, Outcome.FAILED))
    searched.journal.append("record", record=ranked_record(3, (90.0, 90.0)))
    Following(searched).mirror.sync()
    assert course(searched)[-1] == (4, 90.0)
    assert {step for step, _ in course(searched)} == {1, 2, 3, 4}


def test_the_verdict_is_told_and_a_sync_of_it_all_changes_nothing(searched):
    confirm(searched, final(2, 2.1, label="shortlisted t0002"), final(1, 1.1))
    (searched.folder / "report.html").write_text("<html>")
    searched.journal.append("artifact", file="report.html")
    searched.journal.append("close", why="FINISHED")
    assert Following(searched).mirror.sync() == 3 + 3
    assert marked(searched) == {
        (0, "search"): ("searched", "3"), (1, "search"): ("champion", "1"), (2, "search"): ("shortlisted", "2"),
        (-1, "test"): ("reference", None), (1, "test"): ("champion", "1"), (2, "test"): ("shortlisted", "2"),
    }  # fmt: skip
    found = parent(searched)
    assert found.data.metrics["gain_zeroshot"] == pytest.approx(67.0 - 69.0)
    assert found.data.metrics["h"] == pytest.approx(67.0)
    assert found.data.params["rho"] == "1.1"
    rechecked = {key_of_run(run)[:2]: run.data.metrics.get("recheck") for run in runs(searched)}
    assert [rechecked[str(number), "search"] for number in range(3)] == [None, 51.0, 51.0]
    assert [rechecked[str(number), "test"] for number in (-1, 1, 2)] == [None, 51.0, 51.0]
    assert "| **[champion](#/experiments/" in told(searched)
    assert f"[report](#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}/artifacts/rep" in told(searched)
    assert "[export" not in told(searched)  # there is none

    everything = [run.data.to_dictionary() for run in runs(searched)], course(searched)
    (searched.folder / "synced.json").unlink()
    assert Following(searched).mirror.sync() == 0
    for run in everything[0]:
        run["tags"].pop("gcsearch.heartbeat", None)
    now = [run.data.to_dictionary() for run in runs(searched)]
    for run in now:
        run["tags"].pop("gcsearch.heartbeat", None)
    assert (now, course(searched)) == everything


def test_the_export_is_on_the_champions_run_and_the_words_are_on_all(searched):
    confirm(searched, final(1, 1.1))
    for name in ("config.toml", "more/card.md"):
        files.write_whole(searched.folder / "export" / name, name)
    files.write_whole(searched.kept / "1.seed_4.safetensors", b"four")
    files.write_whole(searched.kept / "1.words.md", "# Nearest words\n")
    searched.journal.append("artifact", file="export")
    searched.journal.append("close", why="FINISHED")
    Following(searched).mirror.sync()
    (champion,) = [run for run in runs(searched) if run.data.tags.get("gcsearch.label") == "champion"]
    there = {file.path for file in client(searched).list_artifacts(champion.info.run_id)}
    assert {"export", "words.md", "prompts"} <= there
    assert {f.path for f in client(searched).list_artifacts(champion.info.run_id, "export")} == {
        "export/config.toml",
        "export/more",
    }
    assert f"/runs/{champion.info.run_id}/artifacts/export?" in told(searched)


def test_an_extended_sweep_with_another_champion_says_nothing_of_the_former_one(searched):
    confirm(searched, final(1, 1.1))
    searched.journal.append("close", why="FINISHED")
    Following(searched).mirror.sync()
    former = parent(searched).info.run_id
    searched.journal.append("extend", trials=4, there=3)
    searched.journal.append("record", record=ranked_record(3, (90.0, 92.0), rho=5.0))
    Following(searched).mirror.sync()
    assert "4 of 4 trials have ended" in told(searched)
    confirm(searched, final(3, 5.0))
    searched.journal.append("close", why="FINISHED")
    Following(searched).mirror.sync()
    found = parent(searched)
    assert found.info.run_id != former
    assert found.data.params["rho"] == "5.0"
    assert course(searched) == [(1, 70.0), (2, 80.0), (3, 80.0), (4, 91.0)]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(searched) if run.info.run_id != found.info.run_id} == {
        found.info.run_id
    }
    roles = {key: role for key, (role, _) in marked(searched).items()}
    assert (roles[1, "search"], roles[3, "search"], roles[3, "test"]) == ("searched", "champion", "champion")
    assert (1, "test") not in roles
    (model,) = client(searched).search_logged_models(
        [found.info.experiment_id], f"tags.`gcsearch.sweep` = '{searched.id}'"
    )
    assert model.params["rho"] == "5.0"  # that of the former champion is gone with its run
