"""One setting for several data sets: what it reaches on each, as one record.

A setting trains prompts of its own on each data set, with the same seeds and under one protocol; the objective is
the mean over them.  Under its own name a metric of such a record is that mean, seed by seed: `val_h` is the mean of the
data sets' H.  The field's papers average in two ways, so H of the mean base and the mean new accuracy stands beside it
as `val_h_of_means`, and what a data set reached itself as `val_h_DATASET`.

Seen from one of its data sets such a sweep is an ordinary one: `seen_from` gives the record that it would have there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from gcsearch.metrics import harmonic_mean
from gcsearch.schema import EpochReport, Outcome, TrialRecord, plain_name

_Metrics = Mapping[str, tuple[float, ...]]


def gathered(parts: Mapping[str, TrialRecord]) -> TrialRecord:
    """The records of one setting on several data sets, by their names, as one.

    It ended as the first did that did not end well. A metric is kept where every data set has it, the curve at epochs
    that every data set has reported.
    """
    records = list(parts.values())
    first = next((one for one in records if one.outcome is not Outcome.COMPLETE), records[0])
    reasons = [f"{name}: {one.reason}" for name, one in parts.items() if one.reason]
    curves = {name: {report.epoch: report for report in one.curve} for name, one in parts.items()}
    common = [epoch for epoch in next(iter(curves.values())) if all(epoch in curve for curve in curves.values())]
    curve = [
        EpochReport(
            number=first.number,
            epoch=epoch,
            metrics=_together({name: reports[epoch].metrics for name, reports in curves.items()}),
        )
        for epoch in common
    ]
    return first.model_copy(
        update={
            "reason": "; ".join(reasons),
            "metrics": _together({name: one.metrics for name, one in parts.items()}),
            "curve": tuple(curve),
            "seconds": math.fsum(one.seconds for one in records),
        }
    )


def _together(parts: Mapping[str, _Metrics]) -> dict[str, tuple[float, ...]]:
    """Means over the data sets seed by seed, H of means, and each data set's own."""
    every = list(parts.values())
    shared = [name for name in every[0] if all(len(one.get(name, ())) == len(every[0][name]) for one in every)]
    found = {name: tuple(map(fmean, zip(*(one[name] for one in every), strict=True))) for name in shared}
    for prefix in ("val", "test"):
        base, new = found.get(f"{prefix}_base_acc"), found.get(f"{prefix}_new_acc")
        if base and new:
            found[h_of_means(prefix)] = tuple(map(harmonic_mean, base, new))
    return found | {metric_on(name, part): one[name] for part, one in parts.items() for name in one}


def h_of_means(prefix: str) -> str:
    """The metric of H of the mean base and the mean new accuracy; `prefix` is val or test."""
    return f"{prefix}_h_of_means"


def metric_on(metric: str, dataset: str) -> str:
    """What a metric is called in the record of several data sets where it is that of one."""
    return f"{metric}_{plain_name(dataset)}"


def seen_from(record: TrialRecord, dataset: str, datasets: Sequence[str]) -> TrialRecord:
    """The record that the setting has on one of its `datasets`, with the metrics that it has on all of them."""

    def own(metrics: _Metrics) -> dict[str, tuple[float, ...]]:
        # What only looks like one, because two data sets end alike or one is called as a metric ends, none else has.
        shared = [name for name in metrics if all(metric_on(name, other) in metrics for other in datasets)]
        return {name: metrics[metric_on(name, dataset)] for name in shared}

    curve = tuple(report.model_copy(update={"metrics": own(report.metrics)}) for report in record.curve)
    return record.model_copy(update={"metrics": own(record.metrics), "curve": curve})


def worst_regrets(records: Iterable[TrialRecord], metric: str, datasets: Sequence[str]) -> dict[int, float]:
    """By number of a completed setting, the most that it is behind the best one of them on any of the data sets.

    max over data sets d of (max over settings j of m_d(j)) - m_d(setting), m being means over seeds. It informs: the
    mean over the data sets chooses, and a setting that is best on average may fail on one of them.
    """
    names = [metric_on(metric, dataset) for dataset in datasets]
    values = {
        record.number: [record.mean(name) for name in names]
        for record in records
        if record.outcome is Outcome.COMPLETE and all(math.isfinite(record.mean(name)) for name in names)
    }
    best = [max(column) for column in zip(*values.values(), strict=True)]
    return {number: max(top - own for top, own in zip(best, row, strict=True)) for number, row in values.items()}
