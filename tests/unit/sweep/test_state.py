"""What `gcsearch status` says of a sweep in each state: files written by hand, no process but this one."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gcsearch import files
from gcsearch.cli.live.observer import Observer
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome, TrialConfig
from gcsearch.driver.run import cancel
from gcsearch.errors import InputError
from gcsearch.sweep.journal import Journal, SessionEnd
from gcsearch.sweep.lease import STALE, Request, ask, driving
from gcsearch.sweep.state import StateReader, SweepState, how_to_finish, read_status
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.calls import call
from tests.support.records import a_record


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    folder = tmp_path / "sweeps" / "demo"
    content = {"name": "demo", "search": {"objective": "val_h", "trials": 10}}
    files.write_whole(folder / "pipeline.toml", files.to_toml(Pipeline.from_dict(content).to_dict()))
    sweep = Sweep("demo", Store(tmp_path), folder)
    sweep.journal.append("open", id="demo-0", trials=10)
    return sweep


@pytest.fixture
def lease(sweep):
    return sweep.store.lease("demo")


def searched(sweep, count, **changes):
    for number in range(count):
        sweep.journal.append("proposal", number=number, config={"method": "coop"})
        time.sleep(0.002)  # or all lines have one time where nothing has to reach a disk
        sweep.journal.append("record", record=a_record(number, **changes))


@pytest.mark.parametrize(
    ("why", "state"),
    [
        ("FINISHED", "finished"),
        ("FAILED", "failed"),
        ("KILLED", "interrupted"),
        ("STOPPED", "stopped"),
        ("CANCELLED", "cancelled"),
        (None, "dead"),
    ],
)
def test_how_a_session_ended_is_its_state(sweep, why, state):
    if why:
        sweep.journal.append("close", why=why)
    assert (read_status(sweep).state, read_status(sweep).driver) == (state, None)
    sweep.journal.append("open", id="s-0")
    assert read_status(sweep).state == "dead"


def test_a_driver_makes_it_running_and_a_request_stopping(sweep, lease):
    searched(sweep, 4)
    with driving(lease, "the sweep demo") as driver:
        found = read_status(sweep)
        assert found.state == "running"
        assert found.driver.endswith(f":{os.getpid()}")
        assert datetime.fromisoformat(found.heartbeat) > datetime.now(UTC) - timedelta(seconds=30)
        assert found.seconds_left == pytest.approx(60 * 6 / found.per_minute)
        ask(lease, Request.STOP)
        assert read_status(sweep).state == "stopping"
        assert driver.lease.request() is Request.STOP
    assert read_status(sweep).state == "dead"


def test_a_driver_that_is_not_heard_of_is_dead_and_why(sweep, lease):
    with driving(lease, "the sweep demo"):
        content = json.loads(lease.read_bytes())
    content["process"] |= {"host": "node7", "machine": "another"}
    lease.write_text(json.dumps(content))
    os.utime(lease, (1, time.time() - STALE - 5))
    found = read_status(sweep)
    assert (found.state, found.seconds_left) == ("dead", None)
    assert found.why.startswith("the process node7:")
    assert re.search(r"has not been heard of for \d\d", dict(found.lines())["sweep"])


def test_counts_best_rate_and_workers_are_those_of_the_journal(sweep):
    searched(sweep, 3, worker="a:1")
    sweep.journal.append("record", record=a_record(1, outcome=Outcome.FAILED, epochs=0, worker="a:2"))
    sweep.journal.append("close", why="STOPPED")
    found = read_status(sweep)
    assert (found.done, found.total, found.outcomes) == (3, 10, {"complete": 2, "failed": 1})
    assert (found.best, found.best_number, found.stage) == (58.0, 0, "search")
    assert found.workers == ["a:1", "a:2"]
    assert found.per_minute > 0
    assert dict(found.lines())["rate"].endswith("recorded by 2 worker processes")
    assert dict(replace(found, workers=["a:1"]).lines())["rate"].endswith("recorded by 1 worker process")
    assert (found.journal_lines, found.mlflow_lines) == (9, 0)
    assert dict(found.lines())["MLflow"] == "lacks the journal's last 9 lines"
    sweep.journal.append("open", id="demo-0", trials=3)
    assert (read_status(sweep).total, read_status(sweep).per_minute, read_status(sweep).stage) == (3, None, "confirm")
    sweep.journal.append("final", records=[], threads=1)
    assert read_status(sweep).stage == "over"


def test_the_best_is_the_first_of_the_ranking_also_among_equals(sweep):
    """In `status`, in the progress of a run and in `best`: of equal means the one of fewer epochs comes first."""
    observer = Observer(sweep)
    for number, epochs in enumerate((20, 5, 10)):
        config = TrialConfig(method="coop", hyperparameters={"epochs": epochs})
        record = a_record(number, epochs=epochs, config=config, metrics=a_record(0).metrics)
        sweep.journal.append("record", record=record)
        observer.as_driver({})
    assert (read_status(sweep).best_number, sweep.ranking[0].record.number) == (1, 1)
    assert observer.as_driver({}).best.number == 1


def test_workers_that_are_gone_are_not_counted(sweep):
    for number, worker in enumerate(("a:1@aa", "a:2@aa", "b:1@bb", "b:2@bb", "here")):
        sweep.journal.append("record", record=a_record(number, worker=worker))
    sweep.journal.append("lost", who="a:1@aa")
    assert read_status(sweep).workers == ["a:2@aa", "b:1@bb", "b:2@bb", "here"]
    sweep.journal.append("lost", who="@bb")  # a node with all of its
    assert read_status(sweep).workers == ["a:2@aa", "here"]
    sweep.journal.append("record", record=a_record(5, worker="b:3@bb"))  # it is back
    assert read_status(sweep).workers == ["a:2@aa", "b:3@bb", "here"]


def test_a_confirmation_with_a_failed_trial_is_not_over(sweep):
    searched(sweep, 10)
    champion = a_record(0, stage="test", label="champion")
    sweep.journal.append("final", records=[champion.model_copy(update={"outcome": Outcome.FAILED})], threads=1)
    sweep.journal.append("close", why="FAILED")
    assert (read_status(sweep).state, read_status(sweep).stage) == ("failed", "confirm")
    sweep.journal.append("final", records=[champion], threads=1)
    assert read_status(sweep).stage == "over"


def test_a_search_that_ended_early_is_over_until_it_is_extended(sweep, lease):
    searched(sweep, 4)
    sweep.journal.append("budget", why="5 configurations failed")
    with driving(lease, "the sweep demo"):
        found = read_status(sweep)
        assert (found.done, found.total, found.stage, found.seconds_left) == (4, 10, "confirm", 0)
        assert "left" not in dict(found.lines())
        sweep.journal.append("extend", trials=10, there=4)
        assert (read_status(sweep).stage, read_status(sweep).seconds_left > 0) == ("search", True)


def test_what_ended_a_search_early_is_known_to_later_sessions_until_it_is_extended(sweep):
    sweep.journal.append("budget", why="5 configurations failed")
    sweep.journal.append("close", why="KILLED")
    assert sweep.state.budget == "5 configurations failed"
    sweep.journal.append("extend", trials=10, there=4)
    assert sweep.state.budget == ""


def test_a_sweep_that_nobody_drives_is_marked_as_cancelled_once(sweep, lease):
    assert cancel("demo", store=sweep.store.root) is None
    lines = sweep.journal.path.read_text()
    assert cancel("demo", store=sweep.store.root) is None
    assert sweep.journal.path.read_text() == lines
    assert (sweep.state.end, lease.exists()) == ("CANCELLED", False)
    sweep.journal.append("close", why="FINISHED")
    with pytest.raises(InputError, match="a finished sweep cannot be cancelled"):
        cancel("demo", store=sweep.store.root)


def test_status_prints_all_sweeps_or_one(sweep):
    searched(sweep, 2)
    store = sweep.store.root
    (one,) = json.loads(call("status", "--store", store, "--json").stdout)
    assert (
        one == json.loads(call("status", "demo", "--store", store, "--json").stdout)[0] == read_status(sweep).to_dict()
    )
    lines = call("status", "--store", store).stdout.splitlines()
    assert lines[0] == "sweep   demo: dead"
    assert lines[1] == "done    2 of 10 configurations; stage search"
    empty = call("status", "--store", store / "none")
    assert (empty.returncode, empty.stdout, "no sweep in" in empty.stderr) == (0, "", True)


@pytest.mark.parametrize("command", ["resume", "status", "stop", "cancel", "sync"])
def test_a_sweep_that_is_not_there_is_named_with_those_that_are(sweep, command):
    done = call(command, "dmeo", "--store", sweep.store.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no sweep of this name in the store, got dmeo" in done.stderr
    assert "Sweeps in it: demo." in done.stderr


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def told(*events: dict[str, object], path: Path) -> SweepState:
    """The state after these lines, one a minute from noon on."""
    times = ((NOON + timedelta(minutes=at)).isoformat() for at in range(len(events)))
    lines = [json.dumps({"time": time, **event}) + "\n" for event, time in zip(events, times, strict=True)]
    path.write_text("".join(lines))
    return SweepState.replay(Journal(path).follow())


OPEN, CLOSE = {"kind": "open", "id": "s-0"}, {"kind": "close", "why": "FINISHED"}
EXTEND = {"kind": "extend", "trials": 12, "there": 10}
FINAL = {"kind": "final", "records": [], "threads": 1}


def test_a_finished_sweep_that_is_given_more_to_do_is_finished_no_more(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert told(path=path) == SweepState()
    assert not told(OPEN, FINAL, path=path).finished
    assert told(OPEN, FINAL, CLOSE, path=path).finished
    assert told(OPEN, FINAL, CLOSE, path=path).confirmed
    for more in (EXTEND, {"kind": "seeds", "seeds": [9]}):
        reopened = told(OPEN, FINAL, CLOSE, more, path=path)
        assert (reopened.end, reopened.confirmed) == (None, False)
        assert told(OPEN, FINAL, CLOSE, more, OPEN, CLOSE, path=path).end is SessionEnd.FINISHED
    assert told(OPEN, FINAL, CLOSE, EXTEND, path=path).final is None
    assert told(OPEN, FINAL, CLOSE, {"kind": "seeds", "seeds": [9]}, path=path).seeds == ((9,),)


def test_sessions_took_the_time_between_their_first_and_last_lines(tmp_path):
    path, pause = tmp_path / "journal.jsonl", {"kind": "lost", "who": "a:1"}
    assert told(path=path).seconds == 0
    assert told(OPEN, pause, pause, path=path).seconds == 120
    assert told(OPEN, pause, OPEN, CLOSE, path=path).seconds == 60 + 60  # and not the minute between them
    assert told(OPEN, pause, CLOSE, EXTEND, path=path).seconds == 0
    assert told(OPEN, pause, CLOSE, EXTEND, OPEN, pause, pause, path=path).seconds == 120


def test_trials_that_have_begun_and_not_ended_are_known(sweep):
    for number in (0, 1, 2):
        sweep.journal.append("proposal", number=number, config={"method": "coop"})
    sweep.journal.append("record", record=a_record(1))
    assert sweep.state.running == {0, 2}


def test_a_state_that_follows_its_journal_is_that_of_all_lines(sweep):
    """At whichever byte the reader looks, and also where the sweep is begun anew in between."""
    searched(sweep, 3)
    sweep.journal.append("run", number=1, stage="search", run_id="r")
    sweep.journal.append("extend", trials=4, there=3)
    searched(sweep, 4)
    sweep.journal.append("close", why="STOPPED")
    whole, path = sweep.journal.path.read_bytes(), sweep.journal.path
    once, reader = sweep.state, StateReader(sweep.journal)
    for end in range(0, len(whole) + 100, 100):
        with path.open("r+b") as file:  # the same file grows
            file.truncate(0)
            file.write(whole[:end])
        assert reader.look() == SweepState.replay(sweep.journal.follow())
    assert reader.look() == once != SweepState()
    path.rename(path.with_suffix(".1"))
    assert reader.look() == SweepState()
    assert reader.look() is reader.look()
    sweep.journal.append("open", id="demo-1")
    assert (reader.look().id, reader.look().lines) == ("demo-1", 1)


def test_what_is_made_of_a_state_is_made_once(sweep):
    searched(sweep, 3)
    ranking = sweep.ranking
    assert sweep.ranking is ranking
    searched(sweep, 4)
    assert [row.record.number for row in sweep.ranking] == [0, 1, 2, 3]
    assert len(ranking) == 3
    assert [record.curve for record in sweep.searched] == [()] * 4
    assert [record.curve for record in sweep.records] == [a_record(number).curve for number in range(4)]


def test_a_sweep_that_somebody_works_on_is_waited_for_and_not_resumed(sweep, lease):
    assert how_to_finish(sweep).startswith("Finish it with `gcsearch resume demo")
    with driving(lease, "the sweep demo"):
        said = how_to_finish(sweep)
    assert f":{os.getpid()} works on it: wait for its end (`gcsearch status demo" in said
    assert "`gcsearch stop demo" in said and "resume" not in said
