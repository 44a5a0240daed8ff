"""Records to a ranking, and the ranking to a champion. Reads search records only: no test number is looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gcsearch import documents
from gcsearch.documents import Numbers, Objective, facts, is_oracle
from gcsearch.errors import RunError
from gcsearch.metrics import Spread, spread
from gcsearch.schema import Outcome, TrialRecord

_LAST = {Outcome.COMPLETE: 0, Outcome.PRUNED: 1, Outcome.DIVERGED: 2, Outcome.FAILED: 3}


@dataclass(frozen=True)
class Ranked:
    """A record with its place. `rank` counts from 1 over the completed trials that have the objective, else None."""

    rank: int | None
    record: TrialRecord
    objective: str

    @property
    def values(self) -> Spread:
        """Mean and spread of the objective over seeds."""
        return spread(self.record.metrics.get(self.objective, ()))

    def to_dict(self) -> dict[str, Any]:
        """What `gcsearch best --json` prints for a row, see `gcsearch.documents`."""
        return self.document().dump()

    def document(self) -> documents.Ranked:
        """The row as `gcsearch best --json` prints it."""
        numbers = Numbers.of(self.record.seeds, self.record.metrics.get(self.objective, ()))
        objective = Objective(name=self.objective, oracle=is_oracle(self.objective), **dict(numbers))
        return documents.Ranked(rank=self.rank, objective=objective, **facts(self.record))


def rank(records: Iterable[TrialRecord], objective: str) -> list[Ranked]:
    """Completed trials by the objective's mean over seeds, best first; then pruned, diverged and failed ones.

    A completed trial without the objective (class-specific vectors have no accuracy on new classes, so no H)
    comes after those that have it.

    Equal means: the one of fewer epochs, then of smaller rho, then the earlier one. So the order never
    depends on the order in which trials ended.
    """

    def order(record: TrialRecord) -> tuple[float, ...]:
        mean = record.mean(objective)
        worth = -mean if math.isfinite(mean) else math.inf
        rho = record.config.hyperparameters.get("rho", 0.0)
        epochs = record.config.hyperparameters.get("epochs", record.epochs)
        return (_LAST[record.outcome], worth, float(epochs), float(rho), record.number)

    return [
        Ranked(place if _measured(record, objective) else None, record, objective)
        for place, record in enumerate(sorted(records, key=order), start=1)
    ]


def _measured(record: TrialRecord, objective: str) -> bool:
    return record.outcome is Outcome.COMPLETE and math.isfinite(record.mean(objective))


def champion(ranking: Sequence[Ranked]) -> TrialRecord:
    """The first of the ranking. RunError, with the first reason, where no trial has a rank."""
    if not ranking or ranking[0].rank is None:
        if ranking and ranking[0].record.outcome is Outcome.COMPLETE:
            raise RunError(
                f"No trial of the sweep has a {ranking[0].objective}, so there is nothing to choose. "
                "Class-specific context vectors have no accuracy on new classes: choose them by val_base_acc."
            )
        reasons = [row.record.reason.splitlines()[0] for row in ranking if row.record.reason]
        why = f" The first reason given: {reasons[0]}" if reasons else ""
        raise RunError(f"No trial of the sweep completed, so there is nothing to choose.{why}")
    return ranking[0].record
