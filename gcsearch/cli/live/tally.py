"""What the records of a search come to, counted as they come: however many there are, each is looked at once."""

from __future__ import annotations

import math
from collections import Counter

from gcsearch.cli.live.snapshot import AtRung, Best, Running
from gcsearch.config.metrics import is_oracle
from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods import registry
from gcsearch.results.ranking import order
from gcsearch.results.tables.wording import described
from gcsearch.search import pruning
from gcsearch.search.budget import Meter, Spent
from gcsearch.stats import spread
from gcsearch.sweep.state import SweepState


class Tally:
    """Outcomes, the best, rungs and the budget of a search that grows.

    It is begun for one state of the sweep and counts those that follow, until `fits` denies it.
    """

    def __init__(self, search: SearchConfig, state: SweepState) -> None:
        self._about = _about(search, state)
        size, first, devices = self._about
        self.search = search.model_copy(update={"pack": size})
        self.outcomes: Counter[Outcome] = Counter()
        self._leader: TrialRecord | None = None
        self._came: Counter[float] = Counter()
        self._went: Counter[float] = Counter()
        self._known: dict[int, TrialRecord] = {}
        self._counted: SweepState | None = None  # the last state
        self._seconds = 0.0
        self._meter = Meter(self.search, devices, first, clock=lambda: self._seconds)

    def fits(self, search: SearchConfig, state: SweepState) -> bool:
        """Whether what was counted is a part of `state`: no record was replaced, and the sweep is the same."""
        if state is self._counted:
            return True
        kept = all(state.records.get(number) is record for number, record in self._known.items())
        return kept and self._about == _about(search, state)

    def update(self, state: SweepState) -> None:
        """Count what is new."""
        if state is self._counted:
            return
        self._counted = state
        for number, record in state.records.items():
            if number not in self._known:
                self._known[number] = record
                self._add(record)

    def _add(self, record: TrialRecord) -> None:
        self.outcomes[record.outcome] += 1
        self._meter.note(record)
        objective = self.search.ranking_metric
        ranked = record.outcome is Outcome.COMPLETE and math.isfinite(record.mean(objective))
        if ranked and (self._leader is None or order(record, objective) < order(self._leader, objective)):
            self._leader = record
        if self.search.pruner == "none" or record.outcome not in (Outcome.COMPLETE, Outcome.PRUNED):
            return
        try:
            epochs = registry.build(record.config).epochs
        except InputError:  # of a method that this version does not have
            return
        for rung in pruning.rungs(self.search, self.pack_of(record.number)):
            at = pruning.epoch_of(rung, epochs)
            self._came[rung.share] += record.epochs >= at
            self._went[rung.share] += record.epochs > at or (record.epochs == at and record.outcome is Outcome.COMPLETE)

    def pack_of(self, number: int) -> int:
        """The pack of a trial, by its place among all."""
        return number // self.search.size

    def trained(self, running: Running) -> float:
        """How much of what its trials will train on average, the pruned among them, a running pack has trained."""
        rungs = pruning.rungs(self.search, self.pack_of(running.numbers[0]))
        return pruning.trained_by(running.share or 0.0, rungs) / pruning.trained_by(1.0, rungs)

    @property
    def best(self) -> Best | None:
        """The first of the ranking so far."""
        record, metric = self._leader, self.search.ranking_metric
        if record is None:
            return None
        value = spread(record.metrics.get(metric, ()))
        return Best(metric, value, record.number, described(record.config), is_oracle(metric))

    @property
    def rungs(self) -> tuple[AtRung, ...]:
        """Those of the pruner; none where it has none."""
        return tuple(
            AtRung(one.share, self._came[one.share], self._went[one.share]) for one in pruning.rungs(self.search, 0)
        )

    def budget(self, seconds: float) -> tuple[Spent, ...]:
        """What is used of each limit, `seconds` after the sweep began or was extended last."""
        self._seconds = seconds
        return tuple(self._meter.spent())


def _about(search: SearchConfig, state: SweepState) -> tuple[int, int, float]:
    """The size of packs, the first trial that the budget counts, and what a worker takes of a machine."""
    size = search.pack if isinstance(search.pack, int) else state.pack
    room = state.session.room
    return size or 1, state.kept_by_extension, (room.gpus or float(room.threads)) if room else 1.0
