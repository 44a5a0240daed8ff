"""Looks at a sweep again and again, and says how it stands: from its journal and lease, and what its driver adds."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean

from gcsearch.cli.live import devices
from gcsearch.cli.live.snapshot import Confirming, Measured, Next, Pace, Running, Snapshot, Stage
from gcsearch.cli.live.tally import Tally
from gcsearch.config import search_space
from gcsearch.config.metrics import deciding
from gcsearch.config.trials import Outcome, TrialConfig, TrialRecord
from gcsearch.driver.checks import references
from gcsearch.driver.confirm import together
from gcsearch.errors import GcsearchError, RunError
from gcsearch.methods import registry
from gcsearch.results import ranking
from gcsearch.stats import spread
from gcsearch.sweep.lease import LeaseState, look, request_path
from gcsearch.sweep.state import SweepState, state_word
from gcsearch.sweep.store import LOG_FILE
from gcsearch.sweep.sweep import Sweep

_MOMENTS = 3.0  # seconds in which no rate is measured

Shares = Mapping[int, float]
"""Trials that run, each with the share of its epochs that it has."""


class Observer:
    """How a sweep stands, looked at as often as one likes: a look costs what came since the last."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.search = sweep, sweep.pipeline.search
        self._tally = Tally(self.search, sweep.state)
        self._short: tuple[int, list[TrialRecord]] | None = None
        self._pace: tuple[Stage, Pace] | None = None
        self._looking = threading.Lock()

    def as_driver(self, shares: Shares) -> Snapshot:
        """The sweep as its own driver sees it: `shares` are the trials that run in the present stage."""
        asked = request_path(self._lease).exists()
        with self._looking:
            return self._snapshot(shares, "stopping" if asked else "running")

    def as_follower(self) -> Snapshot:
        """The sweep as its journal and its lease tell it to anybody."""
        seen, asked = look(self._lease), request_path(self._lease).exists()
        with self._looking:
            return self._snapshot(None, state_word(seen, self.sweep.state.end, asked=asked), seen)

    @property
    def _lease(self) -> Path:
        return self.sweep.store.lease(self.sweep.name)

    def _snapshot(self, shares: Shares | None, word: str, seen: LeaseState | None = None) -> Snapshot:
        state, now = self.sweep.state, datetime.now(UTC)
        if not self._tally.fits(self.search, state):
            self._tally = Tally(self.search, state)
        self._tally.update(state)
        driven = seen is None or not seen.gone if shares is None else True
        elapsed = _seconds(state.opened, now if driven else state.last)
        stage, confirming = self._confirmation(state, shares or {})
        running = self._running(state, shares, stage)
        budget = self._tally.budget(state.spent + elapsed)
        left = None
        if driven and stage == "search":
            left = self._left(state, running, now)
            for one in budget:
                if one.what == "minutes" and left is not None:
                    left = min(left, max(60 * (one.limit - one.used), 0.0))
        elif driven and confirming:
            left = self._at_the_rate_since(
                stage, confirming.done + sum(share or 0.0 for _, share in running), confirming.total
            )
        room = state.session.room
        on_gpus = driven and room and room.gpus and (seen is None or seen.holder.process.is_here())
        return Snapshot(
            sweep=self.sweep.name,
            title=self._title,
            state=word,
            stage=stage,
            outcomes=dict(self._tally.outcomes),
            total=self._total(state),
            running=running,
            workers=room,
            best=self._tally.best,
            rungs=self._tally.rungs,
            budget=budget,
            elapsed=elapsed,
            left=left,
            confirming=confirming,
            next=self._next,
            log=self.sweep.folder / LOG_FILE,
            epochs=shares is not None,
            devices=devices.use() if on_gpus else (),
            driver=str(seen.holder.process) if seen and driven else "",
            why=seen.gone if seen else "",
        )

    def _total(self, state: SweepState) -> int:
        return max(state.session.trials or self.sweep.trials, len(state.records))

    def _running(self, state: SweepState, shares: Shares | None, stage: Stage) -> tuple[Running, ...]:
        """What runs, a batch each: a pack of the search, a configuration of the confirmation."""
        if stage != "search":
            return tuple(Running((number,), share) for number, share in (shares or {}).items())
        packs: dict[int, list[int]] = {}
        for number in sorted(state.running if shares is None else shares):
            packs.setdefault(self._tally.pack_of(number), []).append(number)
        return tuple(
            Running(tuple(pack), fmean(shares[number] for number in pack) if shares is not None else None)
            for pack in packs.values()
        )

    def _left(self, state: SweepState, running: Sequence[Running], now: datetime) -> float | None:
        """Seconds of search to come; None where nothing tells.

        The driver measures from the first epoch that it hears of, so that the start of the workers is no part of the
        rate. Of trials that run counts the share of what they would train on average, the pruned among them.
        """
        session, total = state.session, self._total(state)
        if work := sum(len(one.numbers) * self._tally.trained(one) for one in running):
            return self._at_the_rate_since("search", len(state.records) + work, total)
        if not session.records or total == len(state.records):
            return None
        pace = _seconds(session.first_proposal, session.last_record) / session.records
        return max((total - len(state.records)) * pace - _seconds(session.last_record, now), 0.0)

    def _at_the_rate_since(self, stage: Stage, done: float, total: int) -> float | None:
        """Seconds left of a stage, at the rate since this process looked at it first; None in the first moments."""
        now = time.monotonic()
        if self._pace is None or self._pace[0] != stage:
            self._pace = stage, Pace(done, now)
        pace = self._pace[1]
        return pace.left(done, total, now) if now - pace.at >= _MOMENTS else None

    # --- The confirmation -----------------------------------------------------------------------------

    def _confirmation(self, state: SweepState, shares: Shares) -> tuple[Stage, Confirming | None]:
        """The stage of the sweep, and once its search is over what is compared."""
        if not state.records or not (state.searched or len(state.records) >= self._total(state)):
            return "search", None
        short = self._shortlist(state)
        if not short:
            return "search", None
        again = state.tested if self.search.oracle else state.rechecked
        wanted = [(record.number, _name(record.number), record.config) for record in short]
        recheck = self._compared(again, wanted, self.search.ranking_metric, shares)
        if len(short) > 1 and recheck.done < recheck.total:
            return "recheck", recheck
        champion = self._chosen(short, again)
        marked = [(n, f"{name}, champion" if n == champion else name, config) for n, name, config in wanted]
        compared = self._compared(
            state.tested, [*self._references, *marked], deciding(self.sweep.pipeline.task).metric, shares
        )
        return "over" if state.confirmed else "confirm", compared

    def _shortlist(self, state: SweepState) -> list[TrialRecord]:
        """The shortlist, drawn up once for so many records; empty where none has the objective."""
        if self._short is None or self._short[0] != len(state.records):
            try:
                found = ranking.shortlist(self.sweep.ranking, self.sweep.pipeline.confirm.top)
            except RunError:
                found = []
            self._short = len(state.records), found
        return self._short[1]

    def _chosen(self, short: Sequence[TrialRecord], again: Sequence[TrialRecord]) -> int | None:
        """The number of the champion, as the confirmation chooses it; None where none can be chosen."""
        if len(short) == 1:
            return short[0].number
        parts = [self._parts(again, record.number, record.config) for record in short]
        try:
            return ranking.one_standard_error(list(map(together, parts)), self.search.ranking_metric).number
        except RunError:
            return None

    def _parts(self, records: Sequence[TrialRecord], number: int, config: TrialConfig) -> list[TrialRecord]:
        """What was measured of a configuration, a record for each batch of seeds that is there."""
        digest, batches = registry.complete(config).digest, self.sweep.confirmed_seeds
        found = {
            record.seeds: record
            for record in records
            if (record.number, record.config.digest) == (number, digest) and record.outcome is not Outcome.FAILED
        }
        return [found[seeds] for seeds in batches if seeds in found]

    def _compared(
        self,
        records: Sequence[TrialRecord],
        wanted: Sequence[tuple[int, str, TrialConfig]],
        metric: str,
        shares: Shares,
    ) -> Confirming:
        batches, compared, done = self.sweep.confirmed_seeds, [], 0
        for number, name, config in wanted:
            parts = self._parts(records, number, config)
            done += len(parts)
            values = [value for part in parts for value in part.metrics.get(metric, ())]
            compared.append(Measured(name, spread(values) if parts else None, number in shares))
        seeds = tuple(seed for batch in batches for seed in batch)
        return Confirming(metric, seeds, tuple(compared), done, len(wanted) * len(batches))

    @cached_property
    def _references(self) -> list[tuple[int, str, TrialConfig]]:
        """What is confirmed beside the shortlist, numbered as the confirmation numbers it."""
        pipeline = self.sweep.as_begun
        try:
            space = search_space.load(pipeline.search.space).capped(pipeline.search.cap)
            found = references(pipeline, space)
        except GcsearchError:  # the files of an earlier version; its confirmation says what is wrong
            found = []
        return [(-1 - index, title, config) for index, (config, title) in enumerate(found)]

    @cached_property
    def _title(self) -> str:
        task = self.sweep.pipeline.task
        shots = f"{task.shots} shots{', all classes' if task.classes == 'all' else ''}"
        return f"{task.title}, {task.backbone}, {shots}; {Path(self.search.space).stem}"

    @cached_property
    def _next(self) -> Next:
        confirm = self.sweep.pipeline.confirm
        return Next(confirm.top, confirm.seeds, tuple(title for _, title, _ in self._references))


def _name(number: int) -> str:
    return f"t{number:04d}"


def _seconds(first: datetime | None, last: datetime | None) -> float:
    return max((last - first).total_seconds(), 0.0) if first and last else 0.0
