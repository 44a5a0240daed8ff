"""Benchmark (h): a long sweep on one driver: its memory, and how fast a finished one is taken up again.

    python benchmarks/endurance.py                 # 2000 configurations
    python benchmarks/endurance.py --quick

A stand-in objective, everything else real: Tune with two workers, TPE over the boxes of gcscoop, packs of 16, the
journal with every proposal and record. Memory is what the driving process has resident, from the first record to
the last. Then the finished search is replayed from its journal: read, asked again, compared, nothing run.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from common import Hardware, add_flags, print_table

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import load
from gcsearch.config.trials import EpochReport, OnReports, Outcome, Proposal, TrialRecord
from gcsearch.driver.confirm import OnRecord
from gcsearch.execution.executor import Batch, ExecutorEvent, TrialsReturned, Wave
from gcsearch.execution.placement import Placement
from gcsearch.execution.ray_tune import TuneExecutor
from gcsearch.search.proposer import Proposer
from gcsearch.sweep.journal import Journal
from gcsearch.training.memory import taken_bytes


class Bowl:
    """A smooth objective with a curve of ten epochs, as a pack of configurations gives it."""

    def __call__(self, batch: Batch, report: OnReports) -> list[TrialRecord]:
        return [self.record(trial) for trial in batch.trials]

    def record(self, proposal: Proposal) -> TrialRecord:
        knobs = proposal.config.hyperparameters
        value = 80 - (math.log10(float(knobs["rho"]) + 0.01) + 1) ** 2 - (math.log10(float(knobs["lr"])) + 2.5) ** 2
        curve = tuple(
            EpochReport(number=proposal.number, epoch=e, metrics={"val_h": (value - 10 + e,) * 3, "loss": (1.0,) * 3})
            for e in range(1, 11)
        )
        return TrialRecord(
            number=proposal.number, config=proposal.config, stage="search", outcome=Outcome.COMPLETE, seeds=(1, 2, 3),
            epochs=10, metrics=curve[-1].metrics, curve=curve,
        )  # fmt: skip


def search(settings: SearchConfig, known: Sequence[TrialRecord], keep: OnRecord, folder: Path) -> list[TrialRecord]:
    """A search on Ray Tune that goes on from what is known."""
    proposer = Proposer(load("gcscoop"), settings)
    proposer.replay(known)

    def on_event(event: ExecutorEvent) -> None:
        if isinstance(event, TrialsReturned):
            for record in event.records:
                keep(proposer.tell(record))

    def waves() -> Iterator[Wave]:
        while packs := proposer.ask():
            yield Wave([Batch(stage="search", seeds=(1, 2, 3), trials=tuple(pack)) for pack in packs], on_event)

    TuneExecutor(Placement(2, 1), folder).run(waves(), Bowl())
    return proposer.records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--trials", type=int, default=2000)
    args = parser.parse_args()
    settings = SearchConfig(objective="val_h", trials=40 if args.quick else args.trials, pack=16, generation=2)
    resident: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "journal.jsonl"))

        def keep(record: TrialRecord) -> None:
            journal.append("record", record=record)
            resident.append(taken_bytes(torch.device("cpu")))

        began = (time.perf_counter(), time.process_time())
        records = search(settings, [], keep, Path(folder))
        ended = (time.perf_counter(), time.process_time())
        again = search(settings, journal.records(), keep, Path(folder))
        resumed = (time.perf_counter(), time.process_time())
    if again != records:
        raise SystemExit("the replay came to other records")
    grown = (resident[-1] - resident[0]) / 2**20
    print(f"{Hardware.here(args)}; load average {os.getloadavg()[0]:.1f}")
    print_table(
        ["configurations", "search, s", "driver, ms each", "memory grew, MiB", "replay, s", "replay, s of processor"],
        [
            (
                settings.trials,
                f"{ended[0] - began[0]:.0f}",
                f"{1000 * (ended[1] - began[1]) / settings.trials:.1f}",
                f"{grown:.0f}",
                f"{resumed[0] - ended[0]:.1f}",
                f"{resumed[1] - ended[1]:.1f}",
            )
        ],
    )


if __name__ == "__main__":
    main()
