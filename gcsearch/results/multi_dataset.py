"""One configuration for several data sets: what it reaches on each, as one record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from gcsearch.config.metrics import H_OF_MEANS, SIDES, STAGES, metric_on
from gcsearch.config.trials import EpochReport, Outcome, TrialRecord
from gcsearch.results.differences import together
from gcsearch.stats import harmonic_mean

_Metrics = Mapping[str, tuple[float, ...]]


def gathered(parts: Mapping[str, TrialRecord]) -> TrialRecord:
    """The records of one configuration on several data sets, by their names, as one.

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
            "reliability": together(one.reliability for one in records),
            "seconds": math.fsum(one.seconds for one in records),
        }
    )


def _together(parts: Mapping[str, _Metrics]) -> dict[str, tuple[float, ...]]:
    """Means over the data sets seed by seed, H of means, and each data set's own."""
    every = list(parts.values())
    shared = [name for name in every[0] if all(len(one.get(name, ())) == len(every[0][name]) for one in every)]
    found = {name: tuple(map(fmean, zip(*(one[name] for one in every), strict=True))) for name in shared}
    for stage in STAGES:
        base, new = (found.get(key) for key in SIDES[stage])
        if base and new:
            found[H_OF_MEANS[stage]] = tuple(map(harmonic_mean, base, new))
    return found | {metric_on(name, part): one[name] for part, one in parts.items() for name in one}


def as_dataset(record: TrialRecord, dataset: str, datasets: Sequence[str]) -> TrialRecord:
    """The record that the configuration has on one of its `datasets`, with the metrics that it has on all of them."""

    def own(metrics: _Metrics) -> dict[str, tuple[float, ...]]:
        # What only looks like one, because two data sets end alike or one is called as a metric ends, none else has.
        shared = [name for name in metrics if all(metric_on(name, other) in metrics for other in datasets)]
        return {name: metrics[metric_on(name, dataset)] for name in shared}

    curve = tuple(report.model_copy(update={"metrics": own(report.metrics)}) for report in record.curve)
    return record.model_copy(update={"metrics": own(record.metrics), "curve": curve, "reliability": {}})


def worst_regrets(records: Iterable[TrialRecord], metric: str, datasets: Sequence[str]) -> dict[int, float]:
    """By number of a completed configuration, the most that it is behind the best one of them on any of the data sets.

    max over data sets d of (max over configurations j of m_d(j)) - m_d(configuration), m being means over seeds. It
    informs: the mean over the data sets chooses, and a configuration that is best on average may fail on one of them.
    """
    names = [metric_on(metric, dataset) for dataset in datasets]
    values = {
        record.number: [record.mean(name) for name in names]
        for record in records
        if record.outcome is Outcome.COMPLETE and all(math.isfinite(record.mean(name)) for name in names)
    }
    best = [max(column) for column in zip(*values.values(), strict=True)]
    return {number: max(top - own for top, own in zip(best, row, strict=True)) for number, row in values.items()}
