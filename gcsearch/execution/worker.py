"""What a process does with a batch that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from gcsearch.config.metrics import Stage
from gcsearch.config.provenance import process_name
from gcsearch.config.task import Task
from gcsearch.config.trials import OnReports, TrialRecord
from gcsearch.errors import RunError
from gcsearch.execution.executor import Batch
from gcsearch.results.multi_dataset import gathered
from gcsearch.sweep import measured
from gcsearch.sweep.sweep import parameters_folder, save_parameters
from gcsearch.training import loading, memory
from gcsearch.training.episodes import Episode
from gcsearch.training.loop import Checkpoint, name_of
from gcsearch.training.task_data import Laboratory
from gcsearch.training.trial import run_pack

_KEPT_STAGES = 3  # the search, the recheck, the test; seeds that are added later to the confirmation displace them


@cache
def _limit(share: float, device: torch.device) -> int:
    """Looked up once in the life of a process, before it takes any of it."""
    return memory.share_of_free(share, device)


@dataclass(frozen=True)
class PackRunner:
    """Trains the trials of a batch at once; small, because it travels to the worker.

    `kept`: the folder for what trials train, where a batch asks for that. `limit`: bytes that a process may take; with
    none, `share` is how much of what is free on its machine. `checkpoints`: their folder; `forget` removes those of a
    batch once its records are safe.
    """

    task: Task
    evaluate_every: int
    kept: Path | None = None
    limit: int | None = None
    share: float | None = None
    checkpoints: Path | None = None
    checkpoint_every: int = 10
    decoders: int | str = "auto"
    _episodes: dict[tuple[Stage, tuple[int, ...]], list[list[Episode]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, batch: Batch, report: OnReports) -> list[TrialRecord]:
        """A record for every trial of the batch. RunError where images or weights are others than it was planned on."""
        labs = loading.laboratories(self.task, self.decoders)
        every = self._of_stage(labs, batch)
        if not self.task.also:
            return self._run(labs[0], every[0], batch, report)
        # One data set after another, as if each were alone: its numbers are to the last digit those of an ordinary
        # sweep. What one of them has come to says nothing of the mean yet, so that nobody is told before the end.
        parts = {
            lab.task.dataset: self._run(lab, episodes, batch, lambda reports: None)
            for lab, episodes in zip(labs, every, strict=True)
        }
        return [gathered(dict(zip(parts, row, strict=True))) for row in zip(*parts.values(), strict=True)]

    def _of_stage(self, labs: Sequence[Laboratory], batch: Batch) -> list[list[Episode]]:
        """The batch's episodes by data set; made once for each stage, because every batch of one has the same."""
        known = self._episodes.get((batch.stage, batch.seeds))
        if known is None:
            known = [lab.episodes(batch.stage, batch.seeds) for lab in labs]
            if batch.data and batch.data != measured.of_stage(labs, batch.stage, batch.seeds):
                raise RunError("images or weights have changed while the sweep runs: put back what it was begun on")
            self._episodes[batch.stage, batch.seeds] = known
            if len(self._episodes) > _KEPT_STAGES:
                del self._episodes[next(iter(self._episodes))]
        return known

    def _run(self, lab: Laboratory, episodes: Sequence[Episode], batch: Batch, report: OnReports) -> list[TrialRecord]:
        """The batch on one data set."""
        limit = _limit(self.share, lab.backbone.tower.device) if self.share and self.limit is None else self.limit
        trials = run_pack(
            lab,
            episodes,
            batch.trials,
            evaluate_every=self.evaluate_every,
            on_reports=report,
            worker=process_name(),
            limit=limit,
            checkpoint=self._checkpoint(batch, lab.task),
        )
        if self.kept and batch.keep:
            for trial in trials:
                save_parameters(parameters_folder(self.kept, self.task, lab.task), trial.record, trial.parameters)
        return [trial.record for trial in trials]

    def forget(self, batch: Batch) -> None:
        """Remove the checkpoints of a batch."""
        for task in self.task.each:
            if checkpoint := self._checkpoint(batch, task):
                checkpoint.remove()

    def _checkpoint(self, batch: Batch, task: Task) -> Checkpoint | None:
        if not self.checkpoints:
            return None
        folder = "-".join(map(str, (batch.stage, *batch.seeds)))
        place = parameters_folder(self.checkpoints / folder, self.task, task)
        return Checkpoint(place / name_of(batch.trials), self.checkpoint_every)
