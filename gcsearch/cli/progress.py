"""Progress on stderr: a display on a terminal, a plain line now and then where the output is piped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from gcsearch.cli import streams
from gcsearch.cli.live import view
from gcsearch.cli.live.observer import Observer
from gcsearch.cli.live.screen import Screen, can_draw
from gcsearch.cli.live.snapshot import Bar, Pace, Snapshot
from gcsearch.cli.render import near
from gcsearch.config.trials import EpochReport, Proposal, TrialRecord
from gcsearch.methods.registry import build
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.store import LOG_FILE
from gcsearch.sweep.sweep import Sweep

logger = logging.getLogger(__name__)

_OF_A_SWEEP = ("search", "recheck", "confirm")
_AROUND = ("start", "report", "export", "sync")  # what is done before and after, while the sweep is shown
_LOOK = 1.0  # seconds between two looks at a sweep
_PATIENCE = 1.0  # seconds before a stage that counts nothing is shown
_WORTH_A_LINE = 2.0  # seconds after which the end of a stage is said; without a display it is said after ten


class ProgressCallback(Callback):
    """Shows what a command does: stages with their share done and the time left, and a sweep with all that runs.

    On a terminal that is a display in its last lines; elsewhere a plain line is said as a stage ends, and while it
    lasts every ten seconds, later every tenth of the time that it has taken. `quiet`: nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._open = ExitStack()
        self._drawn = False
        self._observer: Observer | None = None
        self._seen: tuple[float, Snapshot] | None = None  # when the sweep was looked at last, and how it stood
        self._epochs: dict[int, int] = {}
        self._shares: dict[int, float] = {}
        self._begin("", 0)

    def __enter__(self) -> Self:
        self._drawn = not self.quiet and can_draw()
        if self._drawn:
            self._open.enter_context(Screen(self._frame))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(whole=kind is None)
        finally:
            self._open.close()

    # --- What is heard ----------------------------------------------------------------------------------

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish(whole=True)
        self._begin(name, float(total or 0))

    def _begin(self, name: str, total: float) -> None:
        self._name, self._done, self._total = name, 0.0, total
        self._began = self._spoke = time.monotonic()
        self._pace: Pace | None = None
        self._shares = {}

    def progress(self, done: int, total: int) -> None:
        # What an earlier run had done is not of this one's speed.
        self._pace = self._pace or Pace(done, time.monotonic())
        self._done, self._total = float(done), float(total)
        self._speak()

    def begun(self, sweep: Sweep) -> None:
        """From now on the sweep is shown, and what libraries say goes to its log."""
        self.stage("start")
        log = sweep.folder / LOG_FILE
        if not self.quiet:
            streams.say(f"what Ray, Optuna and MLflow say goes to {near(log)}")
            self._observer = Observer(sweep)
        self._open.enter_context(streams.logged(log))

    def proposal(self, proposal: Proposal) -> None:
        self._epochs[proposal.number] = build(proposal.config).epochs
        self._shares = {**self._shares, proposal.number: 0.0}

    def reports(self, reports: list[EpochReport]) -> None:
        if self._name == "train":
            self.progress(reports[-1].epoch, int(self._total))
            return
        shares = {one.number: one.epoch / max(self._epochs.get(one.number, one.epoch), 1) for one in reports}
        self._shares = {**self._shares, **shares}
        self._speak()

    def record(self, record: TrialRecord) -> None:
        self._shares = {number: share for number, share in self._shares.items() if number != record.number}
        self._speak()

    def cluster(self, description: str) -> None:
        if not self.quiet:
            streams.say(f"on the cluster {description}")

    def warn(self, text: str) -> None:
        streams.say(text, "yellow")

    def repaired(self, text: str) -> None:
        if not self.quiet:
            streams.say(f"repaired: {text}")

    # --- What is shown ----------------------------------------------------------------------------------

    def _frame(self) -> view.Frame | None:
        """What stands on the terminal now."""
        if self._observer and self._name in (*_OF_A_SWEEP, *_AROUND):
            return view.Frame(self._look(self._observer), view.TITLES[self._name] if self._name in _AROUND else "")
        if self._name and (self._done or time.monotonic() - self._began >= _PATIENCE):
            return view.Frame(self._bar())
        return None

    def _look(self, observer: Observer, *, anew: bool = False) -> Snapshot:
        """The sweep as it stood a second ago at most."""
        now = time.monotonic()
        if self._seen is None or anew or now - self._seen[0] >= _LOOK:
            self._seen = now, observer.as_driver(self._shares)
        return self._seen[1]

    def _bar(self) -> Bar:
        now = time.monotonic()
        left = self._pace.left(self._done, self._total, now) if self._pace else None
        rate = self._pace.per_second(self._done, now) if self._pace and self._name == "features" else 0.0
        note = f"{rate:.0f} images/s" if rate else ""
        # The embedded data sets are drawn as they are loaded first.
        name = "write" if self._name == "data" and self._total else self._name
        return Bar(view.TITLES[name], self._done, self._total, now - self._began, left, note)

    def _speak(self) -> None:
        """Say how far it is, where no display does and it is time to."""
        now = time.monotonic()
        if self.quiet or self._drawn or not view.is_due(now - self._began, now - self._spoke):
            return
        self._spoke = now
        self._say(self._line)

    def _say(self, line: Callable[[], str]) -> None:
        """Say a line. One that cannot be made, whatever of, is left out: it must not end what it is about."""
        try:
            text = line()
        except Exception:
            logger.info("a line of progress is missing", exc_info=True)
        else:
            streams.say(text)

    def _line(self) -> str:
        if self._observer and self._name in _OF_A_SWEEP:
            return view.sweep_line(self._look(self._observer, anew=True))
        return view.stage_line(self._bar())

    def _finish(self, *, whole: bool) -> None:
        """Say what the present stage took, or where it was left."""
        name, took = self._name, time.monotonic() - self._began
        worth = _WORTH_A_LINE if self._drawn else view.SECONDS
        if self.quiet or not name or (took < worth and name not in _OF_A_SWEEP):
            return
        if not whole:
            self._say(self._line)
        elif (observer := self._observer) and name in _OF_A_SWEEP:
            self._say(lambda: view.sweep_done(name, self._look(observer, anew=True), took))
        else:
            self._say(lambda: view.stage_done(self._bar()))
