"""Records of trials, as if they had been measured. All are made by `trial_record`."""

from __future__ import annotations

from typing import Any

from gcsearch.config.trials import EpochReport, Outcome, TrialConfig, TrialRecord
from gcsearch.methods.registry import complete

GCSCOOP = TrialConfig(method="gcscoop", hyperparameters={"rho": 0.1, "beta1": 0.5, "beta2": 0.8, "epochs": 3})


def trial_record(
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


def a_record(number: int = 0, *, config: TrialConfig = GCSCOOP, epochs: int = 3, **fields: Any) -> TrialRecord:
    """A trial of GCSCoOp that got better by a point with every epoch, and ran here for half a minute."""
    curve = tuple(
        EpochReport(number=number, epoch=e, metrics={"val_h": (50.0 + e, 60.0 + e), "loss": (1 / e, 2 / e)})
        for e in range(1, epochs + 1)
    )
    known = {"metrics": curve[-1].metrics if curve else {}, "curve": curve, "seconds": 30.0, "worker": "here"}
    return trial_record(number, config=config, epochs=epochs, **known | fields)


def completed(
    method: str, label: str = "", *, stage: str = "search", metrics: Any = None, **fields: Any
) -> TrialRecord:
    """A record with all hyperparameters of its method, and with the accuracies of its stage."""
    prefix = "test" if stage == "test" else "val"
    usual = {f"{prefix}_base_acc": (80.0, 82.0), f"{prefix}_new_acc": (60.0, 62.0), f"{prefix}_h": (68.0, 70.0)}
    record = trial_record(
        method=method, label=label, stage=stage, metrics=usual if metrics is None else metrics, **fields
    )
    return record.model_copy(update={"config": complete(record.config)})


def a_final(
    method: str, base: float = 80.0, new: float | None = 60.0, *, label: str = "champion", seeds=(4, 5), **fields: Any
) -> TrialRecord:
    """A confirmed trial: the first seed has `base` and `new`, the second two points more."""
    metrics = {"test_base_acc": (base, base + 2)}
    if new is not None:
        metrics |= {"test_new_acc": (new, new + 2), "test_h": (new + 5, new + 9)}
    measured = fields.get("outcome", Outcome.COMPLETE) is Outcome.COMPLETE
    fields = {"number": 3, "metrics": metrics if measured else {}} | fields
    return completed(method, label, stage="test", seeds=seeds, **fields)


def ranked_record(number, values=(80.0, 80.0), outcome=Outcome.COMPLETE, epochs=50, rho=0.1, **more):
    """A trial of GCSCoOp with `values` of H on validation images, and other metrics beside."""
    config = TrialConfig(method="gcscoop", hyperparameters={"rho": rho, "epochs": epochs})
    metrics = {"val_h": values, **more} if values else {}
    return trial_record(number, config=config, outcome=outcome, epochs=epochs, metrics=metrics)


def numbers(rows) -> list[int]:
    """Of a ranking the numbers of its trials."""
    return [row.record.number for row in rows]


ZEROSHOT = completed("zeroshot", "zero-shot CLIP", stage="test", seeds=(4, 5), number=-1)
