"""When a search has had enough: time, device time, failures, or too long without a better configuration."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from typing import NamedTuple

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.trials import Outcome, TrialRecord


class Spent(NamedTuple):
    """What a search has used of one limit of its budget."""

    what: str
    used: float
    limit: float


class Meter:
    """What a search has spent of its budget.

    What has begun is finished always: the meter says only whether anything more should begin.

    Args:
        search: how it is searched, with its budget.
        devices: what one worker process takes of a machine: GPUs, or cores where it has none.
        first: number of the first configuration that counts; better ones before it are known.
        spent: seconds that earlier sessions took.
        clock: seconds of this session.
    """

    def __init__(
        self,
        search: SearchConfig,
        devices: float,
        first: int = 0,
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.search, self.devices, self.first, self.clock = search, devices, first, clock
        self.began = clock() - spent
        self.records: dict[int, TrialRecord] = {}

    def note(self, record: TrialRecord) -> None:
        """A configuration has ended; of equal numbers the last record holds."""
        self.records[record.number] = record

    def why(self) -> str:
        """Why nothing more should begin; empty while there is no reason."""
        budget = self.search.budget
        if budget.minutes is not None and self._minutes >= budget.minutes:
            return f"the budget of {budget.minutes:g} minutes is spent"
        if budget.device_seconds is not None and self.device_seconds >= budget.device_seconds:
            return f"the budget of {budget.device_seconds:g} device-seconds is spent"
        if budget.failed is not None and self._failed >= budget.failed:
            return f"{self._failed} configurations failed, which is as many as the budget allows"
        if budget.no_gain is not None and self.without_gain >= budget.no_gain:
            return f"{self.without_gain} configurations brought no better {' or '.join(self.search.objectives)}"
        return ""

    def spent(self) -> list[Spent]:
        """What is used of each limit that the budget has."""
        budget, used = self.search.budget, []
        if budget.minutes is not None:
            used.append(Spent("minutes", self._minutes, budget.minutes))
        if budget.device_seconds is not None:
            used.append(Spent("device-seconds", self.device_seconds, budget.device_seconds))
        if budget.failed is not None:
            used.append(Spent("failed", self._failed, budget.failed))
        if budget.no_gain is not None:
            used.append(Spent("without a gain", self.without_gain, budget.no_gain))
        return used

    @property
    def _minutes(self) -> float:
        return (self.clock() - self.began) / 60

    @property
    def _failed(self) -> int:
        return sum(record.outcome is Outcome.FAILED for record in self._counting)

    @property
    def _counting(self) -> list[TrialRecord]:
        return [record for number, record in self.records.items() if number >= self.first]

    @property
    def device_seconds(self) -> float:
        """Seconds of worker processes times what each takes; the configurations of a pack took theirs together."""
        packs = {(record.number // self.search.size, record.seconds, record.worker) for record in self._counting}
        return self.devices * sum(seconds for _, seconds, _ in packs)

    @property
    def without_gain(self) -> int:
        """How many configurations ended since, by number, the last that none before it matched in every objective."""
        gains: list[list[float]] = []
        since = 0
        for number in sorted(self.records):
            record = self.records[number]
            values = [record.mean(objective) for objective in self.search.objectives]
            known = record.outcome is Outcome.COMPLETE and all(map(math.isfinite, values))
            if known and not any(all(map(operator.ge, before, values)) for before in gains):
                gains.append(values)
                since = 0
            else:
                since += number >= self.first
        return since
