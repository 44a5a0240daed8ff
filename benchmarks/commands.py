"""Benchmark (i): how long commands take on a long sweep that is over, each in a process of its own.

    python benchmarks/commands.py                 # 10 000 trials
    python benchmarks/commands.py --quick

The journal is one as a search in the space of gcscoop writes it: a proposal, a record with a curve, and an MLflow run
for each trial, and what is kept of its study. Times are of the whole process, the fastest of three: on the clock, and
of the processor, which says what the clock would on a machine with nothing else to do. `go on` is what an extension
does before it trains anything: the journal is read, the study is what it was, the next generation is proposed by TPE.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Hardware, add_flags, print_table

from gcsearch import files, open_sweep
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.search_space import SearchSpace, find, load
from gcsearch.config.trials import EpochReport, Outcome, Role, StudyState, TrialConfig, TrialRecord
from gcsearch.search import study_state
from gcsearch.search.proposer import KEEP_EVERY, Proposer
from gcsearch.sweep.journal import StudyKept, TrialEnded

MEASURED = (
    "val_base_acc", "val_base_margin", "val_new_acc", "val_h", "loss", "cosine",
    "share_plain", "share_projected", "share_perturbed",
)  # fmt: skip
POINTS = 34  # of a curve: 170 epochs, measured after every fifth
COMMANDS = {name: ["-m", "gcsearch", name, "long", "--store"] for name in ("status", "best", "report")}
COMMANDS["go on"] = [__file__, "--go-on"]


def record(number: int, config: TrialConfig, stage: str, role: Role, seeds: int, draw: random.Random) -> TrialRecord:
    """A record whose numbers are better near rho 0.1, with noise between seeds."""
    rho = float(config.hyperparameters.get("rho", 1.0))
    level = 80 - 5 * abs(math.log10(rho + 0.001) + 1) + draw.gauss(0, 1)
    names = [name.replace("val_", "test_") if stage == "test" else name for name in MEASURED]
    curve = tuple(
        EpochReport(number=number, epoch=5 * at, metrics={
            name: tuple(level - 10 / at + draw.gauss(0, 0.5) for _ in range(seeds)) for name in names
        })
        for at in range(1, POINTS + 1)
    )  # fmt: skip
    return TrialRecord.from_dict({
        "number": number, "config": config.to_dict(), "stage": stage, "outcome": Outcome.COMPLETE, "epochs": 5 * POINTS,
        "seeds": range(1, seeds + 1), "metrics": curve[-1].metrics, "curve": [one.to_dict() for one in curve],
        "seconds": 20.0, "worker": "host:1@node", "label": "" if role is Role.SEARCHED else role.value, "role": role,
    })  # fmt: skip


def lines(space: SearchSpace, trials: int) -> Iterator[dict[str, Any]]:
    """The lines of the journal, without their times."""
    draw, champion = random.Random(0), TrialConfig(method="gcscoop", hyperparameters={"rho": 0.1, "epochs": 170})
    yield {"kind": "open", "id": "long-00000000", "trials": trials, "environment": {}}
    places = drawn(space, trials)
    for number, place in enumerate(places):
        points = space.points
        config = space.config(points[number].values if number < len(points) else space.natural(place))
        yield {"kind": "proposal", "number": number, "config": config.to_dict(), "label": ""}
        ended = record(number, config, "search", Role.SEARCHED, 3, draw)
        yield {"kind": "record", "record": ended.to_dict()}
        yield {"kind": "run", "number": number, "stage": "search", "label": "", "run_id": f"{number:032x}"}
        told = number + 1
        if told % KEEP_EVERY == 0 or told == trials:
            first = number // KEEP_EVERY * KEEP_EVERY
            yield {"kind": "study", "state": state(space, places[first:told], first).to_dict()}
    finals = [
        record(-1, TrialConfig(method="coop"), "test", Role.REFERENCE, 5, draw),
        record(0, champion, "test", Role.CHAMPION, 5, draw),
    ]
    yield {"kind": "final", "records": [one.to_dict() for one in finals], "threads": 1}
    yield {"kind": "close", "why": "FINISHED"}


def drawn(space: SearchSpace, trials: int) -> list[dict[str, Any]]:
    """Where the trials lie in the boxes of the space: its points first."""
    search = SearchConfig(sampler="random", trials=trials, pack=1, generation=trials)
    study = Proposer(space, search)
    study.ask()
    return [trial.params for trial in study.study.get_trials(deepcopy=False)]


def state(space: SearchSpace, places: list[dict[str, Any]], first: int) -> StudyState:
    """What is kept of a study by TPE with these trials; its generators are where they begin."""
    study = Proposer(space, SearchConfig()).study
    memory = study_state.memory("tpe", study)
    assert memory
    params = {name: tuple(place[name] for place in places) for name in places[0]}
    kept = study_state.take(study, memory, [], 0)
    return kept.model_copy(update={"first": first, "told": first + len(places), "params": params})


def go_on(store: Path) -> None:
    """Propose what comes next in the sweep, as an extension by a few trials does."""
    sweep = open_sweep("long", store)
    search = sweep.pipeline.search.model_copy(update={"trials": sweep.trials + 8})
    events = [line.event for line in sweep.journal.follow()]
    proposer = Proposer(load("gcscoop"), search)
    records = [event.record for event in events if isinstance(event, TrialEnded)]
    proposer.replay(records, [event.state for event in events if isinstance(event, StudyKept)])
    (first, *_), *_ = proposer.ask()
    assert first.number >= sweep.trials - sweep.trials % 8


def write_sweep(store: Path, trials: int) -> Path:
    """A sweep that is over, in `store`; its journal."""
    folder = store / "sweeps" / "long"
    folder.mkdir(parents=True)
    search = {"space": "space.toml", "objective": "val_base_margin", "trials": trials}
    pipeline = Pipeline.from_dict({"name": "long", "evaluate_every": 5, "search": search})
    (folder / "pipeline.toml").write_text(files.to_toml(pipeline.to_dict()))
    shutil.copy(find("gcscoop"), folder / "space.toml")
    journal = folder / "journal.jsonl"
    with journal.open("w") as file:
        for line in lines(load("gcscoop"), trials):
            timed = {"kind": line["kind"], "time": "2026-11-29T12:00:00.000+00:00", **line}
            file.write(json.dumps(timed, separators=(",", ":")) + "\n")
    return journal


def seconds(command: list[str], store: Path, repeats: int) -> tuple[float, float]:
    """Seconds, and seconds of the processor, of the fastest of some processes that do `command` on `store`."""
    taken = []
    for _ in range(repeats):
        began, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, *command, str(store)], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        busy = after.children_user - before.children_user + after.children_system - before.children_system
        taken.append((time.perf_counter() - began, busy))
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--go-on", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.go_on:
        go_on(args.go_on)
        return
    trials = 32 if args.quick else args.trials
    with tempfile.TemporaryDirectory() as store:
        journal = write_sweep(Path(store), trials)
        load_average = os.getloadavg()[0]
        taken = [seconds(command, Path(store), 1 if args.quick else 3) for command in COMMANDS.values()]
        sizes = [path.stat().st_size / 1e6 for path in (journal, journal.with_name("report.html"))]
    print(f"{Hardware.here(args)}; load average {load_average:.1f}")
    print_table(
        ["trials", "journal, MB", *(f"{name}, s (processor)" for name in COMMANDS), "report, MB"],
        [(trials, f"{sizes[0]:.1f}", *(f"{wall:.2f} ({busy:.2f})" for wall, busy in taken), f"{sizes[1]:.1f}")],
    )


if __name__ == "__main__":
    main()
