"""Progress on stderr: bars on a terminal, a plain line now and then where the output is piped."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gcsearch.cli import streams
from gcsearch.cli.render import near
from gcsearch.config.metrics import is_oracle
from gcsearch.config.trials import EpochReport, Outcome, Proposal, TrialRecord
from gcsearch.methods.registry import build
from gcsearch.results.ranking import order
from gcsearch.stats import number
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.store import LOG_FILE
from gcsearch.sweep.sweep import Sweep

TITLES = {
    "download": "downloading, MiB",
    "unpack": "unpacking",
    "data": "writing the data set",
    "check": "opening images",
    "nodes": "looking at the nodes",
    "digest": "reading image files",
    "features": "encoding images",
    "search": "searching",
    "recheck": "measuring the best again",
    "confirm": "confirming on test images",
    "train": "training",
    "sharpness": "measuring sharpness",
    "surface": "computing surfaces",
}
PLAIN_SECONDS = 10.0


class ProgressCallback(Callback):
    """Shows stages with their share done, the time left and the best value so far."""

    def __init__(self, objective: str = "", *, quiet: bool = False) -> None:
        self.objective = objective
        self.console = Console(stderr=True)
        self.quiet = quiet
        self.bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.name, self.total, self.done, self.note = "", 0.0, 0.0, ""
        self.epochs: dict[int, int] = {}
        self.running: dict[int, float] = {}
        self.first: tuple[float, int] | None = None
        self.best: TrialRecord | None = None
        self.ended = 0
        self.began = self.spoke = time.monotonic()
        self.open = ExitStack()

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_stage()
        self.bars.stop()
        self.open.close()

    def begun(self, sweep: Sweep) -> None:
        """From now on what libraries say goes to the sweep's log."""
        log = sweep.folder / LOG_FILE
        if not self.quiet:
            streams.say(f"what Ray, Optuna and MLflow say goes to {near(log)}")
        self.open.enter_context(streams.logged(log))
        self.console.file = streams.terminal()

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish_stage()
        self.name, self.total, self.done, self.note = name, float(total or 0), 0.0, ""
        self.epochs, self.running, self.ended, self.first = {}, {}, 0, None
        self.began = self.spoke = time.monotonic()
        self.task = None
        if total:
            self._show(0.0, float(total))

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.name == "features":
            # What an earlier run had done is not of this one's speed.
            self.first = self.first or (now, done)
            began, before = self.first
            if done > before and now > began:
                self.note = f"{(done - before) / (now - began):.0f} images/s"
        self._show(float(done), float(total))

    def proposal(self, proposal: Proposal) -> None:
        self.epochs[proposal.number] = build(proposal.config).epochs

    def reports(self, reports: list[EpochReport]) -> None:
        if self.name == "train":
            self._show(float(reports[-1].epoch), self.total)
            return
        for report in reports:
            self.running[report.number] = report.epoch / max(self.epochs.get(report.number, report.epoch), 1)
        self._show_settings()

    def record(self, record: TrialRecord) -> None:
        self.running.pop(record.number, None)
        self.ended += 1
        if self.name == "search" and self._leads(record):
            self.best = record.model_copy(update={"curve": ()})
            oracle = ", oracle" if is_oracle(self.objective) else ""
            self.note = f"best {self.objective} {number(record.mean(self.objective))} (t{record.number:04d}{oracle})"
        self._show_settings()

    def _leads(self, record: TrialRecord) -> bool:
        """Whether the record is the first of the ranking so far."""
        if record.outcome is not Outcome.COMPLETE or not math.isfinite(record.mean(self.objective)):
            return False
        return self.best is None or order(record, self.objective) < order(self.best, self.objective)

    def cluster(self, description: str) -> None:
        if not self.quiet:
            self.console.print(f"gcsearch: on the cluster {description}", highlight=False)

    def warn(self, text: str) -> None:
        self.console.print(f"gcsearch: {text}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    def repaired(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"gcsearch: repaired: {text}", highlight=False, soft_wrap=True, markup=False)

    def _show_settings(self) -> None:
        # A running configuration counts with the share of its epochs, so that the bar moves between two packs.
        self._show(min(self.ended + 0.99 * sum(self.running.values()), self.total), self.total)

    def _show(self, done: float, total: float) -> None:
        self.done, self.total = done, total
        if self.task is None:
            self.task = self.bars.add_task(TITLES[self.name], total=total, note="")
        self.bars.update(self.task, completed=round(done, 1), total=total, note=self.note)
        if self.bars.disable and time.monotonic() - self.spoke >= PLAIN_SECONDS:
            self._say()

    def _say(self) -> None:
        if self.quiet:
            return
        self.spoke = time.monotonic()
        share = f"{100 * self.done / self.total:.0f} %" if self.total else ""
        streams.say(f"{TITLES[self.name]} {share} after {self.spoke - self.began:.0f} s {self.note}".rstrip())

    def _finish_stage(self) -> None:
        if self.bars.disable and self.name and self.total:
            self._say()
        self.name = ""
