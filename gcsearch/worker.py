"""What a worker process does with the settings that it is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from gcsearch import laboratory, memory
from gcsearch.checkpoint import Checkpoint, name_of
from gcsearch.episodes import Episode
from gcsearch.joint import gathered
from gcsearch.provenance import process_name
from gcsearch.schema import OnReports, Proposal, Stage, Task, TrialRecord
from gcsearch.sweep import kept_of, save_parameters
from gcsearch.trial import run_pack


@cache
def _episodes(task: Task, stage: Stage, seeds: tuple[int, ...], decoders: int | str) -> list[Episode]:
    """Made once in the life of a process, because every pack of a sweep has the same."""
    return laboratory.of(task, decoders).episodes(stage, seeds)


@cache
def _limit(share: float, device: torch.device) -> int:
    """Looked up once in the life of a process, before it takes any of it."""
    return memory.share_of_free(share, device)


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
    share: float | None = None
    """With no `limit`: how much of what is free on its machine is for one process."""
    checkpoints: Path | None = None
    checkpoint_every: int = 10
    decoders: int | str = "auto"

    def __call__(self, proposals: list[Proposal], report: OnReports) -> list[TrialRecord]:
        """Train the settings; what they trained goes to the folder `kept` where one is named.

        A checkpoint goes to the folder `checkpoints`; `forget` removes it once the records are safe.
        """
        os.environ["GCSEARCH_CACHE"] = self.cache
        if not self.task.also:
            return self._run(self.task, proposals, report)
        # One data set after another, as if each were alone: its numbers are to the last digit those of an ordinary
        # sweep. What one of them has come to says nothing of the mean yet, so that nobody is told before the end.
        parts = {task.dataset: self._run(task, proposals, lambda reports: None) for task in self.task.each}
        return [gathered(dict(zip(parts, row, strict=True))) for row in zip(*parts.values(), strict=True)]

    def _run(self, task: Task, proposals: list[Proposal], report: OnReports) -> list[TrialRecord]:
        """The settings on one data set."""
        lab = laboratory.of(task, self.decoders)
        limit = _limit(self.share, lab.backbone.tower.device) if self.share and self.limit is None else self.limit
        trials = run_pack(
            lab,
            _episodes(task, self.stage, self.seeds, self.decoders),
            proposals,
            evaluate_every=self.evaluate_every,
            on_reports=report,
            worker=process_name(),
            limit=limit,
            checkpoint=self._checkpoint(proposals, task),
        )
        if self.kept:
            for trial in trials:
                save_parameters(kept_of(self.kept, self.task, task), trial.record, trial.parameters)
        return [trial.record for trial in trials]

    def forget(self, proposals: Sequence[Proposal]) -> None:
        """Remove the checkpoints of a pack."""
        for task in self.task.each:
            if checkpoint := self._checkpoint(proposals, task):
                checkpoint.remove()

    def _checkpoint(self, proposals: Sequence[Proposal], task: Task) -> Checkpoint | None:
        if not self.checkpoints:
            return None
        folder = "-".join(map(str, (self.stage, *self.seeds)))
        place = kept_of(self.checkpoints / folder, self.task, task)
        return Checkpoint(place / name_of(proposals), self.checkpoint_every)
