"""Measures curves of many configurations on the embedded world once, for benchmarks/quality.py to search in.

    python benchmarks/curves.py                       # 64 configurations, three seeds; resumable
    python benchmarks/curves.py --quick --out FILE    # a few short ones: only to see that it is right

The configurations are a scrambled Sobol sequence over the boxes of `search_spaces/gcscoop.toml`, measured after every
epoch as the demo measures its own (shapes-sketch, two folds, all validation images). The table has for each its place
in the boxes, its number of epochs and its mean val_base_margin after each epoch, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.task import Task
from gcsearch.config.trials import Proposal
from gcsearch.search.samplers import make
from gcsearch.training import loading, task_data
from gcsearch.training.trial import run_pack

PACK = 16
OBJECTIVE = "val_base_margin"
TABLE = Path(__file__).parent / "results" / "curves-shapes-sketch.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it is right")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--settings", type=int, default=64)
    parser.add_argument("--out", type=Path, default=TABLE)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = search_space.load("gcscoop-smoke" if args.quick else "gcscoop")
    count, shots = (4, 2) if args.quick else (args.settings, 16)
    task = Task(dataset="shapes-sketch", shots=shots, val_shots="all", views=8, folds=2, seeds=(1, 2, 3))
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    places = drawn(space, count)
    task_data.data_root(task)
    lab = loading.laboratory(task)
    for start in range(len(rows), count, PACK):
        proposals = [
            Proposal(number=number, config=space.config(space.natural(place)))
            for number, place in enumerate(places[start : start + PACK], start)
        ]
        for place, trial in zip(
            places[start:], run_pack(lab, lab.episodes("search", task.seeds), proposals), strict=False
        ):
            curve = [round(report.mean(OBJECTIVE), 3) for report in trial.record.curve]
            rows.append({"place": place, "outcome": trial.record.outcome, "curve": curve})
        files.write_whole(args.out, json.dumps(rows))
        print(f"{len(rows)} of {count}", file=sys.stderr, flush=True)


def drawn(space: search_space.SearchSpace, count: int) -> list[dict]:
    """Places in the boxes, evenly spread."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=make(SearchConfig(sampler="qmc")))
    places = []
    for _ in range(count):
        trial = study.ask(space.distributions())
        study.tell(trial, 0.0)
        places.append(trial.params)
    return places


if __name__ == "__main__":
    main()
