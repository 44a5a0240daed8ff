"""Packs in a real sweep: settings leave early, and what is killed goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcsearch import files, halving
from gcsearch import pipeline as pipelines
from gcsearch.schema import Outcome, Pipeline

HALVED = {
    "name": "halved",
    "evaluate_every": 4,
    "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "seeds": [1, 2], "folds": 2},
    "search": {
        "space": "gcscoop-smoke", "trials": 8, "pack": 4, "generation": 2, "pruner": "halving", "checkpoint_every": 1,
    },
    "confirm": {"seeds": [4], "references": []},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killed_workers_and_drivers_lose_no_more_than_an_interval_and_no_digit(tmp_path):
    """A worker is killed once, then the driver; what comes out equals a sweep that was left alone."""
    (tmp_path / "halved.toml").write_text(files.to_toml(Pipeline.from_dict(HALVED).to_dict()))
    folder = tmp_path / "store" / "sweeps" / "halved"
    words = [sys.executable, "-m", "gcsearch", "run", str(tmp_path / "halved.toml"), "--store", str(tmp_path / "store")]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def kept() -> list[Path]:
        return [path for path in (folder / "packs" / "search").glob("*.safetensors") if path.name[0] != "."]

    def wait_for(condition) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_for(lambda: len(kept()) == 2)
    first = {path: path.stat().st_mtime_ns for path in kept()}
    os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
    wait_for(lambda: all(path.exists() and path.stat().st_mtime_ns > first[path] for path in first))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert sum(path.stat().st_size for path in kept()) < 2 * 2**20

    done = pipelines.run(tmp_path / "halved.toml", store=tmp_path / "store")
    alone = pipelines.run(tmp_path / "halved.toml", store=tmp_path / "other")
    assert [(r.outcome, r.epochs, r.metrics, r.curve) for r in done.records] == [
        (r.outcome, r.epochs, r.metrics, r.curve) for r in alone.records
    ]
    assert [r.metrics for r in done.finals] == [r.metrics for r in alone.finals]
    assert not (folder / "packs").exists()

    for start in (0, 4):
        pack = done.records[start : start + 4]
        outcomes = sorted(record.outcome for record in pack)
        assert outcomes == [Outcome.COMPLETE, Outcome.PRUNED, Outcome.PRUNED, Outcome.PRUNED]
        for record in pack:
            epochs = record.config.hyperparameters["epochs"]
            rungs = [halving.epoch_of(rung, epochs) for rung in halving.rungs(done.pipeline.search, 0)]
            assert record.epochs in ([epochs] if record.outcome is Outcome.COMPLETE else rungs)
    assert done.champion.outcome is Outcome.COMPLETE
    assert {row.record.outcome for row in done.ranking if row.rank} == {Outcome.COMPLETE}
