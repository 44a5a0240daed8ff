"""Benchmark (e): what a configuration costs beside its training.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --trials 100 --stock 20
    python benchmarks/overhead.py --quick

Trivial trials (one step of one seed) through everything that a sweep has: Tune, Optuna's TPE over five boxes,
journal, MLflow in SQLite. `driver` is processor time of the driving process per configuration, its MLflow thread
included until that has written everything; `wall` is the time from the start of the search to its last record, which
workers share. The stock set-up is Ray's OptunaSearch and MLflowLoggerCallback with reused workers, measured in the same
run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from common import Hardware, add_flags, print_table
from sweeps import ours, stock

from gcsearch.config.search_space import load
from gcsearch.config.task import Task
from gcsearch.training import loading, task_data

SPACE = """
version = 1
method = "gcscoop"
[parameters.rho]
low = 0.01
high = 1.0
log = true
[parameters.beta1]
low = 0.0
high = 0.95
at_most = "beta2"
[parameters.beta2]
low = 0.0
high = 1.0
[parameters.lr]
low = 0.0005
high = 0.02
log = true
[parameters.weight_decay]
low = 0.0001
high = 0.01
log = true
[parameters.epochs]
value = 1
"""
TASK = {"dataset": "shapes-sketch", "shots": 1, "val_shots": 1, "views": 1, "folds": 2, "seeds": [1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--trials", type=int, default=500, help="configurations in packs of 16, and in packs of 1")
    parser.add_argument("--stock", type=int, default=500, help="configurations of the stock set-up")
    args = parser.parse_args()
    trials, count = (8, 2) if args.quick else (args.trials, args.stock)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ.setdefault("GCSEARCH_CACHE", str(folder / "cache"))
        (folder / "space.toml").write_text(SPACE)
        task = Task.from_dict(TASK)
        task_data.data_root(task)
        loading.laboratory(task).episodes("search", task.seeds)
        timed = {
            (size, trials): ours(
                f"packs-of-{size}", folder, TASK, str(folder / "space.toml"), {"trials": trials, "pack": size}
            )
            for size in (16, 1)
        }
        done = stock(folder, task, load(folder / "space.toml"), count, reuse=True)
        for (size, number), one in timed.items():
            rows.append((f"packs of {size}", number, one))
        rows.append(("stock", count, done))
    print(f"{Hardware.here(args)}; load average {os.getloadavg()[0]:.1f}")
    base = done.driver / count
    print_table(
        ["set-up", "configurations", "wall, ms each", "driver, ms each", "stock's driver time is so many times that"],
        [
            (
                name,
                number,
                f"{1000 * one.wall / number:.0f}",
                f"{1000 * one.driver / number:.1f}",
                f"{base / (one.driver / number):.1f}",
            )
            for name, number, one in rows
        ],
    )


if __name__ == "__main__":
    main()
