"""Benchmark (k): how fast the trials of a sweep come into MLflow, and how large its database gets.

    python benchmarks/recording.py                 # 1000 trials
    python benchmarks/recording.py --quick

Recorded trials of GCSCoOp, 100 epochs with nine metrics of three seeds each, are written to a SQLite store as a driver
does it, through MLflow's client. Beside it the very same rows are written directly into a second database, 64 trials
to a transaction: what writing MLflow's tables by hand could save at most. The last line counts what earlier versions
wrote, every seed's curve as metrics, from a tenth of the trials.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import Hardware, add_flags, print_table
from mlflow.entities import Metric

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import EpochReport, Outcome, TrialConfig, TrialRecord
from gcsearch.methods.registry import complete
from gcsearch.tracking.tracker import Tracker

METRICS = ("val_base_margin", "val_base_acc", "val_new_acc", "val_h", "loss", "cosine",
           "share_plain", "share_projected", "share_perturbed")  # fmt: skip
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")
TOGETHER = 64


def recorded(number: int, epochs: int) -> TrialRecord:
    """A trial as the search leaves it."""
    draw = random.Random(number)
    curve = tuple(
        EpochReport(number=number, epoch=e, metrics={n: (draw.random(), draw.random(), draw.random()) for n in METRICS})
        for e in range(1, epochs + 1)
    )
    config = complete(TrialConfig(method="gcscoop", hyperparameters={"rho": draw.random(), "epochs": epochs}))
    return TrialRecord(
        number=number, config=config, stage="search", outcome=Outcome.COMPLETE, seeds=(1, 2, 3), epochs=epochs,
        metrics=curve[-1].metrics, curve=curve, seconds=10.0, worker="here",
    )  # fmt: skip


def through_client(folder: Path, records: Sequence[TrialRecord]) -> tuple[Path, int, float, float]:
    """The database, by how many bytes it grew, and the seconds that took: of the wall and of this process."""
    path = folder / "client.db"
    tracker = Tracker(f"sqlite:///{path}", "recording", folder / "artifacts")
    tracker.start_sweep("recording", Pipeline(name="recording"))
    empty = path.stat().st_size
    began = time.perf_counter(), time.process_time()
    for record in records:
        tracker.log_record(record, 1_000_000.0)
    ended = time.perf_counter(), time.process_time()
    tracker.end()
    return path, path.stat().st_size - empty, ended[0] - began[0], ended[1] - began[1]


def directly(folder: Path, path: Path) -> tuple[float, float]:
    """The seconds that the same rows take, written into tables that are alike."""
    with contextlib.closing(sqlite3.connect(path)) as source:
        schema = [row[0] for row in source.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        rows: dict[str, dict[str, list[tuple[object, ...]]]] = {}
        for table in TABLES:
            cursor = source.execute(f"SELECT * FROM {table}")
            place = [column[0] for column in cursor.description].index("run_uuid")
            for row in cursor:
                rows.setdefault(row[place], {}).setdefault(table, []).append(row)
    runs = list(rows.values())
    with contextlib.closing(sqlite3.connect(folder / "direct.db")) as target:
        for statement in schema:
            target.execute(statement)
        target.commit()
        began = time.perf_counter(), time.process_time()
        for start in range(0, len(runs), TOGETHER):
            for table in TABLES:
                some = [row for run in runs[start : start + TOGETHER] for row in run.get(table, [])]
                if some:
                    target.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(some[0]))})", some)
            target.commit()
        return time.perf_counter() - began[0], time.process_time() - began[1]


def as_before(folder: Path, records: Sequence[TrialRecord]) -> float:
    """Bytes of database for a trial whose every seed's curve is metrics with steps."""
    path = folder / "before.db"
    tracker = Tracker(f"sqlite:///{path}", "before", folder / "artifacts")
    tracker.start_sweep("before", Pipeline(name="before"))
    empty = path.stat().st_size
    for record in records:
        run_id = tracker.log_record(record.model_copy(update={"curve": (), "metrics": {}}), 1_000_000.0)
        points = [
            Metric(key, value, 1000 * report.epoch, report.epoch)
            for report in record.curve
            for name, values in report.metrics.items()
            for key, value in ((name, sum(values) / 3), *((f"{name}/seed_{i}", v) for i, v in enumerate(values)))
        ]
        tracker._log(run_id, points)
    tracker.end()
    return (path.stat().st_size - empty) / len(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--trials", type=int, default=1000)
    args = parser.parse_args()
    trials, epochs = (20, 10) if args.quick else (args.trials, 100)
    records = [recorded(number, epochs) for number in range(trials)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, size, wall, busy = through_client(folder, records)
        files = sum(one.stat().st_blocks * 512 for one in (folder / "artifacts").rglob("*"))
        direct, direct_busy = directly(folder, path)
        before = as_before(folder, records[: max(trials // 10, 2)])
    print(f"{Hardware.here(args)}; load average {os.getloadavg()[0]:.1f}; {trials} trials of {epochs} epochs")
    print_table(
        ["written", "trials a second", "ms of processor a trial"],
        [
            ("through MLflow's client", f"{trials / wall:.0f}", f"{1000 * busy / trials:.1f}"),
            ("the same rows directly", f"{trials / direct:.0f}", f"{1000 * direct_busy / trials:.2f}"),
            ("ratio", f"{wall / direct:.0f}", f"{busy / direct_busy:.0f}"),
        ],
    )
    print()
    print_table(
        ["size", "kB a trial", "MB for 10 000"],
        [
            ("database", f"{size / trials / 1000:.0f}", f"{size / trials / 100:.0f}"),
            ("database with every seed's curve as metrics", f"{before / 1000:.0f}", f"{before / 100:.0f}"),
            ("files", f"{files / trials / 1000:.0f}", f"{files / trials / 100:.0f}"),
        ],
    )


if __name__ == "__main__":
    main()
