"""What `gcsearch status` says of a sweep in each state: files written by hand, no process but this one."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from gcsearch import files
from gcsearch.cli.progress import ProgressWatcher
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome, TrialConfig
from gcsearch.driver.run import cancel
from gcsearch.errors import InputError
from gcsearch.sweep.lease import STALE, Wish, ask, driving
from gcsearch.sweep.state import stand
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.calls import call
from tests.unit.tracking.test_tracker import a_record


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
    assert (stand(sweep).state, stand(sweep).driver) == (state, None)
    sweep.journal.append("open", id="s-0")
    assert stand(sweep).state == "dead"


def test_a_driver_makes_it_running_and_a_request_stopping(sweep, lease):
    searched(sweep, 4)
    with driving(lease, "the sweep demo") as driver:
        found = stand(sweep)
        assert found.state == "running"
        assert found.driver.endswith(f":{os.getpid()}")
        assert datetime.fromisoformat(found.heartbeat) > datetime.now(UTC) - timedelta(seconds=30)
        assert found.seconds_left == pytest.approx(60 * 6 / found.per_minute)
        ask(lease, Wish.STOP)
        assert stand(sweep).state == "stopping"
        assert driver.lease.wish() is Wish.STOP
    assert stand(sweep).state == "dead"


def test_a_driver_that_is_not_heard_of_is_dead_and_why(sweep, lease):
    with driving(lease, "the sweep demo"):
        content = json.loads(lease.read_bytes())
    content["process"] |= {"host": "node7", "machine": "another"}
    lease.write_text(json.dumps(content))
    os.utime(lease, (1, time.time() - STALE - 5))
    found = stand(sweep)
    assert (found.state, found.seconds_left) == ("dead", None)
    assert found.why.startswith("the process node7:")
    assert re.search(r"has not been heard of for \d\d", dict(found.lines())["sweep"])


def test_counts_best_rate_and_workers_are_those_of_the_journal(sweep):
    searched(sweep, 3, worker="a:1")
    sweep.journal.append("record", record=a_record(1, outcome=Outcome.FAILED, epochs=0, worker="a:2"))
    sweep.journal.append("close", why="STOPPED")
    found = stand(sweep)
    assert (found.done, found.total, found.outcomes) == (3, 10, {"complete": 2, "failed": 1})
    assert (found.best, found.best_number, found.stage) == (58.0, 0, "search")
    assert found.workers == ["a:1", "a:2"]
    assert found.per_minute > 0
    assert (found.journal_lines, found.mlflow_lines) == (9, 0)
    assert dict(found.lines())["MLflow"] == "lacks the journal's last 9 lines"
    sweep.journal.append("open", id="demo-0", trials=3)
    assert (stand(sweep).total, stand(sweep).per_minute, stand(sweep).stage) == (3, None, "confirm")
    sweep.journal.append("final", records=[], threads=1)
    assert stand(sweep).stage == "over"


def test_the_best_is_the_first_of_the_ranking_also_among_equals(sweep):
    """In `status`, in the progress of a run and in `best`: of equal means the one of fewer epochs comes first."""
    watcher = ProgressWatcher("val_h", quiet=True)
    watcher.stage("search", 10)
    for number, epochs in enumerate((20, 5, 10)):
        config = TrialConfig(method="coop", hyperparameters={"epochs": epochs})
        record = a_record(number, epochs=epochs, config=config, metrics=a_record(0).metrics)
        sweep.journal.append("record", record=record)
        watcher.record(record)
    assert (stand(sweep).best_number, sweep.ranking[0].record.number) == (1, 1)
    assert watcher.note == "best val_h 58.00 (t0001)"


def test_workers_that_are_gone_are_not_counted(sweep):
    for number, worker in enumerate(("a:1@aa", "a:2@aa", "b:1@bb", "b:2@bb", "here")):
        sweep.journal.append("record", record=a_record(number, worker=worker))
    sweep.journal.append("lost", who="a:1@aa")
    assert stand(sweep).workers == ["a:2@aa", "b:1@bb", "b:2@bb", "here"]
    sweep.journal.append("lost", who="@bb")  # a node with all of its
    assert stand(sweep).workers == ["a:2@aa", "here"]
    sweep.journal.append("record", record=a_record(5, worker="b:3@bb"))  # it is back
    assert stand(sweep).workers == ["a:2@aa", "b:3@bb", "here"]


def test_a_confirmation_with_a_failed_trial_is_not_over(sweep):
    searched(sweep, 10)
    champion = a_record(0, stage="test", label="champion")
    sweep.journal.append("final", records=[champion.model_copy(update={"outcome": Outcome.FAILED})], threads=1)
    sweep.journal.append("close", why="FAILED")
    assert (stand(sweep).state, stand(sweep).stage) == ("failed", "confirm")
    sweep.journal.append("final", records=[champion], threads=1)
    assert stand(sweep).stage == "over"


def test_a_search_that_ended_early_is_over_until_it_is_extended(sweep, lease):
    searched(sweep, 4)
    sweep.journal.append("budget", why="5 settings failed")
    with driving(lease, "the sweep demo"):
        found = stand(sweep)
        assert (found.done, found.total, found.stage, found.seconds_left) == (4, 10, "confirm", 0)
        assert "left" not in dict(found.lines())
        sweep.journal.append("extend", trials=10, there=4)
        assert (stand(sweep).stage, stand(sweep).seconds_left > 0) == ("search", True)


def test_a_sweep_that_nobody_drives_is_marked_as_cancelled_once(sweep, lease):
    assert cancel("demo", store=sweep.store.root) is None
    lines = sweep.journal.path.read_text()
    assert cancel("demo", store=sweep.store.root) is None
    assert sweep.journal.path.read_text() == lines
    assert (sweep.journal.ended(), lease.exists()) == ("CANCELLED", False)
    sweep.journal.append("close", why="FINISHED")
    with pytest.raises(InputError, match="a finished sweep cannot be cancelled"):
        cancel("demo", store=sweep.store.root)


def test_status_prints_all_sweeps_or_one(sweep):
    searched(sweep, 2)
    store = sweep.store.root
    (one,) = json.loads(call("status", "--store", store, "--json").stdout)
    assert one == json.loads(call("status", "demo", "--store", store, "--json").stdout)[0] == stand(sweep).to_dict()
    lines = call("status", "--store", store).stdout.splitlines()
    assert lines[0] == "sweep   demo: dead"
    assert lines[1] == "done    2 of 10 settings; stage search"
    empty = call("status", "--store", store / "none")
    assert (empty.returncode, empty.stdout, "no sweep in" in empty.stderr) == (0, "", True)


@pytest.mark.parametrize("command", ["resume", "status", "stop", "cancel", "sync"])
def test_a_sweep_that_is_not_there_is_named_with_those_that_are(sweep, command):
    done = call(command, "dmeo", "--store", sweep.store.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no sweep of this name in the store, got dmeo" in done.stderr
    assert "Sweeps in it: demo." in done.stderr
