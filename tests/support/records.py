"""Records of trials, as if they had been measured."""

from __future__ import annotations

from typing import Any

from gcsearch.config.trials import EpochReport, Outcome, TrialConfig, TrialRecord


def a_record(
    number: int = 0,
    method: str = "coop",
    *,
    config: TrialConfig | None = None,
    outcome: Outcome | str = Outcome.COMPLETE,
    **fields: Any,
) -> TrialRecord:
    """A record of the search over seeds 1 and 2 with no metrics; `fields` are those of `TrialRecord`.

    What is no field of it is a hyperparameter of `method`, where no `config` is given.
    """
    values = {name: fields.pop(name) for name in list(fields) if name not in TrialRecord.model_fields}
    config = config or TrialConfig(method=method, hyperparameters=values)
    known = {"stage": "search", "seeds": (1, 2), "epochs": 4}
    return TrialRecord(number=number, config=config, outcome=outcome, **known | fields)


def a_curve(number: int, epochs: int, **metrics: Any) -> tuple[EpochReport, ...]:
    """A report after each epoch; each metric is a function from the epoch to one value per seed."""
    return tuple(
        EpochReport(number=number, epoch=epoch, metrics={name: make(epoch) for name, make in metrics.items()})
        for epoch in range(1, epochs + 1)
    )
