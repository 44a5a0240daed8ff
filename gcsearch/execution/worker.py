"""What a worker process does with the settings that it is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch

from gcsearch.config.metrics import Stage
from gcsearch.config.provenance import process_name
from gcsearch.config.task import Task
from gcsearch.config.trials import OnReports, Proposal, TrialRecord
from gcsearch.errors import RunError
from gcsearch.results.multi_dataset import gathered
from gcsearch.sweep import measured
from gcsearch.sweep.sweep import kept_of, save_parameters
from gcsearch.training import memory, task_data
from gcsearch.training.episodes import Episode
from gcsearch.training.loop import Checkpoint, name_of
from gcsearch.training.task_data import Laboratory
from gcsearch.training.trial import run_pack


@lru_cache(maxsize=1)
def _laboratories(task: Task, decoders: int | str) -> list[Laboratory]:
    """One for each data set of a sweep, loaded once. Those of another task go: a process may serve a whole matrix."""
    task_data.forget()
    return [task_data.of(one, decoders) for one in task.each]


@lru_cache(maxsize=3)
def _episodes(task: Task, stage: Stage, seeds: tuple[int, ...], decoders: int | str, data: str) -> list[list[Episode]]:
    """By data set; made once for each of the three measurements of a sweep, because every pack of one has the same."""
    labs = _laboratories(task, decoders)
    made = [lab.episodes(stage, seeds) for lab in labs]
    if data and data != measured.of_stage(labs, stage, seeds):
        raise RunError("images or weights have changed while the sweep runs: put back what it was begun on")
    return made


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
    data: str = ""
    """The digest of what must be read, see `measured.of_stage`; empty: whatever is there."""

    def __call__(self, proposals: list[Proposal], report: OnReports) -> list[TrialRecord]:
        """Train the settings; what they trained goes to the folder `kept` where one is named.

        A checkpoint goes to the folder `checkpoints`; `forget` removes it once the records are safe.
        """
        os.environ["GCSEARCH_CACHE"] = self.cache
        labs = _laboratories(self.task, self.decoders)
        episodes = _episodes(self.task, self.stage, self.seeds, self.decoders, self.data)
        if not self.task.also:
            return self._run(labs[0], episodes[0], proposals, report)
        # One data set after another, as if each were alone: its numbers are to the last digit those of an ordinary
        # sweep. What one of them has come to says nothing of the mean yet, so that nobody is told before the end.
        parts = {
            lab.task.dataset: self._run(lab, own, proposals, lambda reports: None)
            for lab, own in zip(labs, episodes, strict=True)
        }
        return [gathered(dict(zip(parts, row, strict=True))) for row in zip(*parts.values(), strict=True)]

    def _run(
        self, lab: Laboratory, episodes: Sequence[Episode], proposals: list[Proposal], report: OnReports
    ) -> list[TrialRecord]:
        """The settings on one data set."""
        task = lab.task
        limit = _limit(self.share, lab.backbone.tower.device) if self.share and self.limit is None else self.limit
        trials = run_pack(
            lab,
            episodes,
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
