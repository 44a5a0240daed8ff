"""Benchmark (f): configurations per minute on the embedded world: packs, single configurations, and a stock set-up of
Tune.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --quick

The demo's task and space (three seeds, 10 to 200 epochs), two workers of one thread. Every row proposes its
configurations by TPE with one seed, so that those of equal number are the same at the beginning. The stock set-up runs
one configuration per process, as Tune does unless told otherwise, with OptunaSearch and MLflowLoggerCallback; it trains
with our engine, all seeds of a configuration at once. Times are from the start of the search to its last record:
starting Ray and encoding images is in none of them.
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

TASK = {"dataset": "shapes-sketch", "val_shots": "all", "views": 8, "folds": 2, "seeds": [1, 2, 3]}
HALVING = {"pruner": "halving", "eta": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--trials", type=int, default=64, help="configurations in packs")
    parser.add_argument(
        "--single", type=int, default=16, help="configurations in packs of one, and of the stock set-up"
    )
    args = parser.parse_args()
    space = "gcscoop-smoke" if args.quick else "gcscoop"
    trials, single, size = (4, 2, 2) if args.quick else (args.trials, args.single, 16)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ.setdefault("GCSEARCH_CACHE", str(folder / "cache"))
        task = Task.from_dict(TASK)
        task_data.data_root(task)
        loading.laboratory(task).episodes("search", task.seeds)
        runs = {
            f"packs of {size}, halving": (
                trials,
                ours("halved", folder, TASK, space, {"trials": trials, "pack": size, **HALVING}),
            ),
            f"packs of {size}": (trials, ours("packs", folder, TASK, space, {"trials": trials, "pack": size})),
            "packs of 1": (single, ours("single", folder, TASK, space, {"trials": single, "pack": 1})),
            "stock": (single, stock(folder, task, load(space), single, reuse=False)),
        }
    print(f"{Hardware.here(args)}; load average {os.getloadavg()[0]:.1f}")
    rates = {name: 60 * count / timed.wall for name, (count, timed) in runs.items()}
    print_table(
        ["set-up", "configurations", "seconds", "configurations per minute", "stock = 1"],
        [
            (name, count, f"{timed.wall:.0f}", f"{rates[name]:.1f}", f"{rates[name] / rates['stock']:.1f}")
            for name, (count, timed) in runs.items()
        ],
    )


if __name__ == "__main__":
    main()
