"""Results of earlier sweeps as a search sees them, also where its space is another one now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gcsearch.config import parameters
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods import registry


def encode(space: SearchSpace, record: TrialRecord) -> dict[str, Any] | None:
    """Optuna's values for the configuration of `record` in `space`; None where the space cannot propose it.

    A parameter that the record does not name had its method's default then, and one that the space does not name
    has it now: what differs there was another configuration.
    """
    if record.config.method not in space.every_method:
        return None
    try:
        ran = dict(registry.complete(record.config).hyperparameters)
        internal = space.internal(space.there({parameters.METHOD: record.config.method, **ran}))
        now = registry.complete(space.config(space.natural(internal)))
    except InputError:
        return None
    return internal if now.hyperparameters == ran else None


def fitting(space: SearchSpace, records: Sequence[TrialRecord], metrics: Sequence[str]) -> list[TrialRecord]:
    """Those of `records` that a search of `space` by `metrics` can learn from: they ended well and have a place.

    By several metrics nothing is learned from those that left early.
    """
    useful = (Outcome.COMPLETE, Outcome.PRUNED) if len(metrics) == 1 else (Outcome.COMPLETE,)
    return [
        r for r in records if r.outcome in useful and set(metrics) <= set(r.metrics) and encode(space, r) is not None
    ]
