"""Whatever is killed, nothing is lost: real processes, a real full disk, a real MLflow server on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gcsearch import open_sweep
from gcsearch.driver import run as pipelines
from gcsearch.files import to_toml
from gcsearch.sweep.journal import TrialConfirmed, TrialEnded, TrialProposed, TrialRechecked
from tests.support.processes import command, journal_has, left_behind, start
from tests.support.servers import MlflowServer, has_postgres, postgres
from tests.support.sweeps import SMOKE, long_space

pytestmark = pytest.mark.slow

# One worker: each more is another process to start in each of some ten sessions.
# A hundred epochs, or all configurations would have ended within a quarter of a second, before anything can be done to
# them.
PIPELINE = {
    **SMOKE,
    "evaluate_every": 100,
    "confirm": {"top": 1, "seeds": [4], "references": ["zeroshot"]},
    "resources": {"workers": 1, "threads": 1},  # two that wait for each other take minutes on a busy machine
}
PATIENCE = 600


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a sweep that nobody disturbs comes to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return pipelines.run(written(folder), store=folder)


def written(folder: Path, **changes) -> Path:
    path = folder / "smoke.toml"
    search = {**SMOKE["search"], "space": long_space(folder, epochs=100)}
    path.write_text(to_toml({**PIPELINE, "search": search, **changes}))
    return path


def gcsearch(*words, store, code=0) -> subprocess.CompletedProcess:
    done = subprocess.run(command(*words, store=store), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code, done.stderr
    return done


def assert_same(sweep, undisturbed):
    """The same configurations with the same numbers, each run to its end once."""
    assert [r.config for r in sweep.records] == [r.config for r in undisturbed.records]
    assert [r.metrics for r in sweep.records] == [r.metrics for r in undisturbed.records]
    assert [(r.label, r.config, r.metrics) for r in sweep.finals] == [
        (r.label, r.config, r.metrics) for r in undisturbed.finals
    ]
    for kind in (TrialEnded, TrialRechecked, TrialConfirmed):
        ran = measured(sweep, kind)
        assert len(ran) == len(set(ran)), (kind, ran)
        assert ran == measured(undisturbed, kind)


def measured(sweep, kind):
    """What the journal says was measured to the end: number, configuration and seeds, once for each time."""
    return sorted((one.number, one.config.digest, one.seeds) for one in sweep.journal.records(kind))


def tracked(client):
    """What MLflow holds: for every run its stage, trial and label; all of them ended well."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=100)
    assert {run.info.status for run in runs} == {"FINISHED"}
    return sorted(
        tuple(run.data.tags.get(f"gcsearch.{key}", "") for key in ("stage", "trial", "label")) for run in runs
    )


def assert_mlflow_in_step(client, sweep, undisturbed):
    """The runs of an undisturbed sweep, each once, none RUNNING, and the journal knows them."""
    there = tracked(client)
    assert len(there) == len(set(there)) > 6
    assert there == tracked(MlflowClient(undisturbed.store.mlflow_uri))
    assert all(client.get_run(record.run_id) for record in (*sweep.records, *sweep.finals))
    (standing,) = json.loads(gcsearch("status", sweep.name, "--json", store=sweep.store.root).stdout)
    assert (standing["state"], standing["done"], standing["total"]) == ("finished", 6, 6)
    assert standing["journal_lines"] == standing["mlflow_lines"]


@contextlib.contextmanager
def small_disk(folder: Path):
    """A disk of 64 MB at `folder` that can be filled; None where this place mounts nothing."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def killed_after(path, store, kind, count, wait):
    """A session, begun with `path` or resumed, and killed a moment after the journal says so; returns its number.

    Whatever the sessions before it got to, it is one that drives the sweep: its own "open" is waited for first.
    """
    words = ["run", path] if path else ["resume", "smoke"]
    journal = store / "sweeps" / "smoke" / "journal.jsonl"
    opened = journal.read_text().count('"kind":"open"') if journal.exists() else 0
    with (store.parent / "log").open("a") as log:
        process = start(command(*words, store=store), log)
        journal_has(journal, "open", opened + 1, seconds=PATIENCE)
        journal_has(journal, kind, count, seconds=PATIENCE)
        time.sleep(wait)
        process.kill()
        process.wait(PATIENCE)
    return process.pid


def test_a_driver_killed_again_and_again_and_a_full_disk_lose_nothing(undisturbed, tmp_path):
    moments = random.Random(5)
    path = written(tmp_path)
    with small_disk(tmp_path / "disk") as ballast:
        store = tmp_path / "disk" / "store"
        journal = store / "sweeps" / "smoke" / "journal.jsonl"
        dead = [killed_after(path, store, "proposal", 1, moments.uniform(0, 1))]
        lines = journal.read_bytes()
        dead.append(killed_after(None, store, "record", 2, moments.uniform(0, 0.3)))
        assert journal.read_bytes().startswith(lines)
        with journal.open("ab") as file:
            file.write(b'{"kind":"record","time":"20')  # a kill in the middle of a line
        (standing,) = json.loads(gcsearch("status", "smoke", "--json", store=store).stdout)
        assert standing["state"] == "dead"
        assert standing["why"].endswith(f":{dead[-1]} is gone")
        if ballast:
            stopped_by_a_full_disk(store, journal, ballast)
        dead.append(killed_after(None, store, "confirmed", 1, moments.uniform(0, 0.3)))
        before = {(r.number, r.worker) for r in open_sweep("smoke", store).records}
        done = gcsearch("resume", "smoke", store=store)
        assert f":{dead[-1]} is gone; this process drives the sweep from now on" in done.stderr
        sweep = open_sweep("smoke", store)
        assert {(r.number, r.worker) for r in sweep.records} == before  # kept, not run again
        assert_same(sweep, undisturbed)
        assert_mlflow_in_step(MlflowClient(sweep.store.mlflow_uri), sweep, undisturbed)
        lines = journal.read_bytes()
        again = gcsearch("resume", "smoke", store=store)
        assert (again.stdout, "there is nothing to go on with" in again.stderr) == ("", True)
        assert gcsearch("sync", "smoke", store=store).stdout == "wrote 0 runs; MLflow has all of smoke\n"
        assert journal.read_bytes() == lines
        # Ray's agents try for over a minute to report the death of their parent, and then end.
        assert [left_behind(pid, seconds=180) for pid in dead] == [[]] * len(dead)


def stopped_by_a_full_disk(store, journal, ballast):
    """Fill the disk under a running sweep: it ends with 1 and says what to do."""
    with (store.parent.parent / "full").open("w") as log:
        process = start(command("resume", "smoke", store=store), log)
        journal_has(journal, "open", 3, seconds=PATIENCE)
        fill(ballast)
        assert process.wait(PATIENCE) == 1
    said = Path(log.name).read_text()
    assert "journal.jsonl: a last line cut off in the middle (27 bytes) was removed" in said
    assert "the journal cannot be written" in said or "no room is left" in said  # whichever comes first
    assert f"Make room on this disk, then `gcsearch resume smoke --store {store}` goes on." in said
    assert "Traceback" not in said
    ballast.unlink()


def test_the_mlflow_server_comes_and_goes_and_a_worker_is_killed(undisturbed, tmp_path):
    kind = "PostgreSQL 15" if has_postgres() else "SQLite, because PostgreSQL 15 is not installed here"
    print(f"the MLflow server of this test keeps its runs in {kind}", file=sys.__stderr__)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres()) if has_postgres() else f"sqlite:///{tmp_path}/server.db"
        server = MlflowServer(database, tmp_path / "artifacts")
        stack.callback(server.stop)
        path, store = written(tmp_path, tracking={"uri": server.address}), tmp_path / "store"
        log = stack.enter_context((tmp_path / "log").open("w"))
        process = start(command("run", path, store=store), log)  # while no server answers
        journal = store / "sweeps" / "smoke" / "journal.jsonl"
        journal_has(journal, "record", 2, seconds=PATIENCE)
        worker = int(open_sweep("smoke", store).records[0].worker.rpartition(":")[2].partition("@")[0])
        os.kill(worker, signal.SIGSTOP)  # the sweep waits, so that there is one while the server starts
        server.start()
        journal_has(journal, "run", 2, seconds=PATIENCE)  # caught up by itself, not at the end
        deadline = time.monotonic() + PATIENCE
        while "answers again and has all runs" not in Path(log.name).read_text():
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.2)
        server.stop()
        os.kill(worker, signal.SIGKILL)
        assert process.wait(PATIENCE) == 0, Path(log.name).read_text()
        said = Path(log.name).read_text()
        assert "does not answer" in said
        assert f"`gcsearch sync smoke --store {store}` writes it later" in said
        sweep = open_sweep("smoke", store)
        assert len({record.worker for record in sweep.records}) == 2  # another process took over
        for words in (["best", "smoke", "--json"], ["compare", "smoke"], ["report", "smoke"]):
            assert gcsearch(*words, store=store).stdout
        gcsearch("export", "smoke", "--out", str(tmp_path / "best"), store=store)
        assert "does not answer" in gcsearch("sync", "smoke", store=store, code=1).stderr
        server.start()
        assert gcsearch("sync", "smoke", store=store).stdout.startswith("wrote ")
        assert_same(open_sweep("smoke", store), undisturbed)
        assert_mlflow_in_step(MlflowClient(server.address), open_sweep("smoke", store), undisturbed)
        assert gcsearch("sync", "smoke", store=store).stdout == "wrote 0 runs; MLflow has all of smoke\n"


def test_stop_and_cancel_reach_a_running_sweep_from_outside(undisturbed, tmp_path):
    path, store = written(tmp_path), tmp_path / "store"
    journal = store / "sweeps" / "smoke" / "journal.jsonl"
    with (tmp_path / "log").open("w") as log:
        process = start(command("run", path, store=store), log)
        journal_has(journal, "proposal", 2, seconds=PATIENCE)
        assert f":{process.pid} to stop smoke" in gcsearch("stop", "smoke", store=store).stdout
        assert process.wait(PATIENCE) == 130
        sweep = open_sweep("smoke", store)
        # The pack that ran, and not the one that waited: that had not begun.
        assert [event.number for event in sweep.journal.events(TrialProposed)] == [0, 1]
        assert [record.number for record in sweep.records] == [0, 1]
        assert sweep.state.end == "STOPPED"
        assert "nobody drives smoke" in gcsearch("stop", "smoke", store=store).stderr

        process = start(command("run", path, store=store), log)
        journal_has(journal, "record", 3, seconds=PATIENCE)
        assert f":{process.pid} to end smoke now" in gcsearch("cancel", "smoke", store=store).stdout
        began = time.monotonic()
        assert process.wait(PATIENCE) == 130
        assert time.monotonic() - began < 120
    assert left_behind(process.pid, seconds=180) == []
    assert "gcsearch resume smoke" in gcsearch("run", path, store=store, code=2).stderr
    gcsearch("resume", "smoke", store=store)
    assert_same(open_sweep("smoke", store), undisturbed)
    assert "a finished sweep cannot be cancelled" in gcsearch("cancel", "smoke", store=store, code=2).stderr


def process_of(session, name, seconds=PATIENCE):
    """The process called `name` of the session `session`, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = stat.read_text().rsplit(")", 1)[1].split()
                command = (stat.parent / "cmdline").read_bytes().split(b"\0")[0].decode()
                if int(fields[3]) == session and fields[0] != "Z" and Path(command).name == name:
                    return int(stat.parent.name)
        time.sleep(0.02)
    raise AssertionError(f"no {name} after {seconds} s")


# When, what dies of which signal, and how the driver ends: exit code, `close` line, words.
ENDS = {
    "a terminal that is closed while Ray starts": ("gcs_server", None, signal.SIGHUP, 129, "KILLED", "by SIGHUP"),
    "no memory for the raylet in the search": ("proposal", "raylet", signal.SIGKILL, 1, "FAILED", "Ray's raylet"),
    "no memory for the control store in the search": (
        "record",
        "gcs_server",
        signal.SIGKILL,
        1,
        "FAILED",
        "Ray's cont",
    ),
    "Ctrl-C twice as a session begins": ("open", None, signal.SIGINT, 130, "KILLED", "by SIGINT"),
    "no memory for the control store in the confirmation": (
        "confirmed",
        "gcs_server",
        signal.SIGKILL,
        1,
        "FAILED",
        "Ray's",
    ),
    "a scheduler that ends the job while Ray ends": ("final", None, signal.SIGTERM, 143, "KILLED", "by SIGTERM"),
}


def test_whatever_ends_ray_or_the_driver_it_says_so_and_resume_goes_on(undisturbed, tmp_path, monkeypatch):
    temporary = Path(tempfile.mkdtemp(prefix="gcs-", dir="/tmp"))  # Ray's sockets need a short path
    monkeypatch.setenv("TMPDIR", str(temporary))
    path, store = written(tmp_path), tmp_path / "store"
    journal, words = store / "sweeps" / "smoke" / "journal.jsonl", ["run", path]
    for moment, victim, number, code, why, sentence in ENDS.values():
        there = journal.read_text().count(f'"kind":"{moment}"') if journal.exists() else 0
        with (tmp_path / "log").open("w") as log:
            process = start(command(*words, store=store), log)
            if moment == "gcs_server":
                process_of(process.pid, moment)
            else:
                journal_has(journal, moment, there + 1, seconds=PATIENCE)
                time.sleep(0.7 if moment == "final" else 0)
            os.kill(process_of(process.pid, victim) if victim else process.pid, number)
            if number == signal.SIGINT:
                time.sleep(0.3)
                process.send_signal(number)
            assert process.wait(PATIENCE) == code, Path(log.name).read_text()
        said = Path(log.name).read_text()
        assert (
            sentence in said and f"`gcsearch resume smoke --store {store}` goes on" in said and "Traceback" not in said
        ), said
        sweep = open_sweep("smoke", store)
        assert sweep.state.end == why
        assert not list((store / "sweeps").glob(".smoke.*"))  # neither lease nor request
        assert left_behind(process.pid, seconds=10) == []
        assert list(temporary.glob("ray/*")) == []
        assert "RUNNING" not in statuses(sweep)
        words = ["resume", "smoke"]
    gcsearch("resume", "smoke", store=store)
    sweep = open_sweep("smoke", store)
    assert_same(sweep, undisturbed)
    assert_mlflow_in_step(MlflowClient(sweep.store.mlflow_uri), sweep, undisturbed)
    temporary.rmdir()  # nothing is left in it


def statuses(sweep):
    """How the runs of a sweep stand in MLflow."""
    client = MlflowClient(sweep.store.mlflow_uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=100)
    return {run.info.status for run in runs}
