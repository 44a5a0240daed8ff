"""What a worker process does with the settings that it is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch

from gcsearch import laboratory, memory
from gcsearch.checkpoint import Checkpoint, name_of
from gcsearch.episodes import Episode
from gcsearch.laboratory import Laboratory
from gcsearch.provenance import process_name
from gcsearch.schema import OnReports, Proposal, Stage, Task, TrialRecord
from gcsearch.sweep import save_parameters
from gcsearch.trial import run_pack


@lru_cache(maxsize=1)
def _laboratory(task: Task, decoders: int | str) -> Laboratory:
    """Loaded once for a sweep. That of another task is let go: a process may serve all sweeps of a matrix."""
    laboratory.forget()
    return laboratory.of(task, decoders)


@lru_cache(maxsize=3)
def _episodes(task: Task, stage: Stage, seeds: tuple[int, ...], decoders: int | str) -> list[Episode]:
    """Made once for each of the three measurements of a sweep, because every pack of one has the same."""
    return _laboratory(task, decoders).episodes(stage, seeds)


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
        lab = _laboratory(self.task, self.decoders)
        limit = _limit(self.share, lab.backbone.tower.device) if self.share and self.limit is None else self.limit
        trials = run_pack(
            lab,
            _episodes(self.task, self.stage, self.seeds, self.decoders),
            proposals,
            evaluate_every=self.evaluate_every,
            on_reports=report,
            worker=process_name(),
            limit=limit,
            checkpoint=self._checkpoint(proposals),
        )
        if self.kept:
            for trial in trials:
                save_parameters(self.kept, trial.record, trial.parameters)
        return [trial.record for trial in trials]

    def forget(self, proposals: Sequence[Proposal]) -> None:
        """Remove the checkpoint of a pack."""
        if checkpoint := self._checkpoint(proposals):
            checkpoint.remove()

    def _checkpoint(self, proposals: Sequence[Proposal]) -> Checkpoint | None:
        if not self.checkpoints:
            return None
        folder = "-".join(map(str, (self.stage, *self.seeds)))
        return Checkpoint(self.checkpoints / folder / name_of(proposals), self.checkpoint_every)
