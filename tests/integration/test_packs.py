"""Packs in a real sweep: configurations leave early, and what is killed goes on from its checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcsearch import files
from gcsearch.config.trials import Outcome
from gcsearch.driver import run
from gcsearch.search import pruning

SPACE = """
version = 1
method = "gcscoop"
[parameters.rho]
low = 0.01
high = 1.0
log = true
[parameters.epochs]
low = 40
high = 80
integer = true
[parameters.batch_size]
value = 8
"""

HALVED = {
    "name": "halved",
    "evaluate_every": 4,
    "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "seeds": [1], "folds": 2},
    "search": {
        "space": "space.toml", "trials": 4, "pack": 4, "generation": 1, "pruner": "halving", "checkpoint_every": 5,
    },
    "confirm": {"top": 1, "seeds": [4], "references": []},
    "resources": {"threads": 1},
}  # fmt: skip


def workers_of(driver: int) -> list[int]:
    """Processes that train packs for the driver `driver`; Ray names them after what they run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            session = (place / "stat").read_text().rsplit(")", 1)[1].split()[3]
            if session == str(driver) and (place / "cmdline").read_bytes().startswith(b"ray::ImplicitFunc"):
                found.append(int(place.name))
        except (OSError, IndexError):
            continue
    return found


def wait_for_checkpoint(packs: Path, name: str, driver: subprocess.Popen, after: int = 0) -> int:
    """Wait until there is a checkpoint `name` that is newer than the time `after`; its own time."""
    deadline = time.monotonic() + 300
    while True:
        for path in packs.glob(f"search*/{name}"):
            with contextlib.suppress(FileNotFoundError):  # its pack has just ended
                if (written := path.stat()).st_mtime_ns > after:
                    assert written.st_size < 2**20
                    return written.st_mtime_ns
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killed_workers_and_drivers_lose_no_more_than_an_interval_and_no_digit(tmp_path):
    """A worker is killed once, then the driver; what comes out equals a sweep that was left alone."""
    (tmp_path / "space.toml").write_text(SPACE)
    (tmp_path / "halved.toml").write_text(files.to_toml(HALVED))
    packs = tmp_path / "store" / "sweeps" / "halved" / "packs"
    words = [sys.executable, "-m", "gcsearch", "run", str(tmp_path / "halved.toml"), "--store", str(tmp_path / "store")]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        first = wait_for_checkpoint(packs, "0-*.safetensors", driver)
        (worker,) = workers_of(driver.pid)
        os.kill(worker, signal.SIGKILL)
        wait_for_checkpoint(packs, "0-*.safetensors", driver, after=first)  # of the worker that took its place
    finally:
        driver.kill()
        driver.wait()

    done = run.run(tmp_path / "halved.toml", store=tmp_path / "store")
    alone = run.run(tmp_path / "halved.toml", store=tmp_path / "other")
    assert [(r.outcome, r.epochs, r.metrics, r.curve) for r in done.records] == [
        (r.outcome, r.epochs, r.metrics, r.curve) for r in alone.records
    ]
    assert [r.metrics for r in done.finals] == [r.metrics for r in alone.finals]
    assert not packs.exists()

    outcomes = sorted(record.outcome for record in done.records)
    assert outcomes == [Outcome.COMPLETE, Outcome.PRUNED, Outcome.PRUNED, Outcome.PRUNED]
    for record in done.records:
        epochs = record.config.hyperparameters["epochs"]
        rungs = [pruning.epoch_of(rung, epochs) for rung in pruning.rungs(done.pipeline.search, 0)]
        assert record.epochs in ([epochs] if record.outcome is Outcome.COMPLETE else rungs)
    assert done.champion.outcome is Outcome.COMPLETE
    assert {row.record.outcome for row in done.ranking if row.rank} == {Outcome.COMPLETE}
