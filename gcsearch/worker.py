"""What a worker process does with the settings that it is given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gcsearch import laboratory
from gcsearch.episodes import Episode
from gcsearch.provenance import process_name
from gcsearch.schema import OnReports, Proposal, Stage, Task, TrialRecord
from gcsearch.sweep import save_parameters
from gcsearch.trial import run_pack


@cache
def _episodes(task: Task, stage: Stage, seeds: tuple[int, ...], decoders: int | str) -> list[Episode]:
    """Made once in the life of a process, because every pack of a sweep has the same."""
    return laboratory.of(task, decoders).episodes(stage, seeds)


@dataclass(frozen=True)
class PackRunner:
    """Trains packs of settings; small, because it travels to the worker."""

    task: Task
    stage: Stage
    seeds: tuple[int, ...]
    evaluate_every: int
    cache: str
    kept: Path | None = None
    limit: int | None = None
    decoders: int | str = "auto"

    def __call__(self, proposals: list[Proposal], report: OnReports) -> list[TrialRecord]:
        """Train the settings; what they trained goes to the folder `kept` where one is named."""
        os.environ["GCSEARCH_CACHE"] = self.cache
        trials = run_pack(
            laboratory.of(self.task, self.decoders),
            _episodes(self.task, self.stage, self.seeds, self.decoders),
            proposals,
            evaluate_every=self.evaluate_every,
            on_reports=report,
            worker=process_name(),
            limit=self.limit,
        )
        if self.kept:
            for trial in trials:
                save_parameters(self.kept, trial.record, trial.parameters)
        return [trial.record for trial in trials]
