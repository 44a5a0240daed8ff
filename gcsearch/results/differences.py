"""How sure a difference between two configurations is: paired by seed, with an interval, a test and a verdict.

Two configurations that share a seed share the few-shot draw, the views, the batches and the random start, so most of
what makes accuracies vary is common to both.  Only differences over common seeds are looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from gcsearch import stats
from gcsearch.config.trials import EpochReport, TrialRecord
from gcsearch.stats import Bins, finite, spread, summed

CONFIDENCE = 0.95
RESAMPLES = 9999

_BOOTSTRAP_FROM = 5
"""Seeds from which the bootstrap is used: with fewer there are too few distinct resamples for a tail of 2.5 %."""


class Verdict(StrEnum):
    """What the interval of a difference says about one configuration beside another."""

    BETTER = "better"
    WORSE = "worse"
    INDISTINGUISHABLE = "not distinguishable"
    SAME = "the same setting"  # as 0.1.0 called a configuration; in JSON it stays
    UNKNOWN = "not compared"


@dataclass(frozen=True)
class Difference:
    """Mean of the differences over common seeds, in points, its standard error and 95 % interval (NaN for one seed).

    `p` is that of Wilcoxon's signed-rank test, two-sided and exact up to 13 seeds. It cannot fall below
    2 / 2**n: five seeds give 0.0625 at best, which is why the verdict follows the interval.
    """

    mean: float
    error: float
    low: float
    high: float
    n: int
    values: tuple[float, ...] = ()

    @cached_property
    def p(self) -> float:
        """Wilcoxon's p; NaN for one seed."""
        return _wilcoxon(self.values) if self.n > 1 else math.nan

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the interval leaves out zero."""
        if self.low > 0:
            return Verdict.BETTER
        return Verdict.WORSE if self.high < 0 else Verdict.INDISTINGUISHABLE

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.verdict is not Verdict.INDISTINGUISHABLE

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers that do not exist are null."""
        numbers = {key: finite(getattr(self, key)) for key in ("mean", "error", "low", "high", "n", "p")}
        return numbers | {"verdict": self.verdict.value}


def paired(ours: TrialRecord, theirs: TrialRecord, metric: str) -> Difference | None:
    """`ours` minus `theirs` over the seeds that both have; None where there is no such seed.

    The interval is that of the mean difference, so it covers the chance of the draws and of training, not
    that of the test images.
    """
    a, b = (dict(zip(one.seeds, one.metrics.get(metric, ()), strict=False)) for one in (ours, theirs))
    return by_seed(a, b)


def by_seed(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """`paired` for numbers by their seeds."""
    both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    values = [value for value in both if math.isfinite(value)]
    return difference(values) if values else None


def difference(values: Sequence[float]) -> Difference:
    """Mean of paired differences, its 95 % interval and Wilcoxon's p.

    From five values on the interval is the studentised bootstrap's (Efron and Tibshirani 1993, section 12.5): for
    resamples x* the quantiles of t* = (mean(x*) - mean(x)) / se(x*) stand in for Student's.  The plain percentile
    bootstrap is too narrow for so few values.  Student's t with fewer values, and where too many resamples have no
    spread for the quantiles to exist.
    """
    mean, deviation, n = spread(values)
    low, high = bootstrap_interval(values)
    return Difference(mean, deviation / math.sqrt(n), low, high, n, tuple(values))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean, see `difference`; NaN for one value."""
    mean, deviation, n = spread(values)
    if n >= _BOOTSTRAP_FROM and deviation:
        upper, lower = _bootstrap_quantiles(values)
        if math.isfinite(upper) and math.isfinite(lower):
            error = deviation / math.sqrt(n)
            return mean - upper * error, mean - lower * error
    return stats.t_interval(values, CONFIDENCE) or (math.nan, math.nan)


def _bootstrap_quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Upper and lower quantile of t* over resamples: all of five values, else as many as RESAMPLES."""
    import numpy as np  # late, as all that is slow to import: a table without a comparison needs none of it

    x, n = np.asarray(values, np.float64), len(values)
    if n == _BOOTSTRAP_FROM:
        drawn = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    resampled = x[drawn]
    error = resampled.std(axis=1, ddof=1) / math.sqrt(n)
    shift = resampled.mean(axis=1) - x.mean()
    flat = error < 1e-12 * np.abs(x).max()
    t = np.where(flat, np.copysign(np.inf, shift), shift / np.where(flat, 1.0, error))
    tail = (1 - CONFIDENCE) / 2
    # An order statistic and no interpolation: between a number and infinity there is nothing.
    upper, lower = np.quantile(t, [1 - tail, tail], method="higher")
    return float(upper), float(lower)


def _wilcoxon(values: Sequence[float]) -> float:
    import numpy as np
    from scipy import stats

    if not any(values):
        return 1.0
    exact = stats.PermutationMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(stats.wilcoxon(values, method=exact).pvalue)


def verdict(ours: TrialRecord, theirs: TrialRecord, lead: Difference | None) -> Verdict:
    """What is known about `ours` beside `theirs` by their common seeds: `lead` is what `paired` gave for them."""
    return verdict_of([ours], [theirs], lead)


def verdict_of(ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord], lead: Difference | None) -> Verdict:
    """`verdict` for averages: `ours` and `theirs` are what they are of, data set by data set."""
    if [one.config.digest for one in ours] == [one.config.digest for one in theirs]:
        return Verdict.SAME
    return Verdict.UNKNOWN if lead is None or lead.n == 1 else lead.verdict


def pooled(records: Iterable[TrialRecord]) -> TrialRecord:
    """Records of one configuration in one stage as one, with the seeds of all; of a seed measured twice the first
    counts.

    A metric is kept where every record has it. The curve is dropped: its reports are of different seeds.

    Raises:
        ValueError: records of different configurations or stages.
    """
    every = tuple(records)
    first = every[0]
    if any((one.config, one.stage) != (first.config, first.stage) for one in every):
        raise ValueError("records of different configurations cannot be pooled")
    metrics = [name for name in first.metrics if all(name in one.metrics for one in every)]
    columns: dict[int, tuple[float, ...]] = {}
    for one in every:
        rows = zip(*(one.metrics[name] for name in metrics), strict=True)
        for seed, row in zip(one.seeds, rows, strict=False):
            columns.setdefault(seed, row)
    return first.model_copy(
        update={
            "seeds": tuple(columns),
            "metrics": {name: tuple(row[i] for row in columns.values()) for i, name in enumerate(metrics)},
            "curve": first.curve if len(every) == 1 else (),
            "reliability": together(one.reliability for one in every),
            "seconds": math.fsum(one.seconds for one in every),
        }
    )


def joined_curve(records: Sequence[TrialRecord]) -> tuple[EpochReport, ...]:
    """The curves of one configuration over batches of seeds as one, at the epochs that were measured in all.

    A seed that was measured twice counts twice nowhere: batches have no seed in common.
    """
    by_epoch = [{report.epoch: report for report in record.curve} for record in records]
    common = sorted(set.intersection(*map(set, by_epoch))) if by_epoch else []
    found = []
    for epoch in common:
        reports = [curve[epoch] for curve in by_epoch]
        names = [name for name in reports[0].metrics if all(name in one.metrics for one in reports)]
        metrics = {name: tuple(value for one in reports for value in one.metrics[name]) for name in names}
        found.append(reports[0].model_copy(update={"metrics": metrics}))
    return tuple(found)


def together(parts: Iterable[Mapping[str, Bins]]) -> dict[str, Bins]:
    """The bins of several records as one, of the sides that all have."""
    every = list(parts)
    shared = [side for side in every[0] if all(side in one for one in every)]
    return {side: summed([one[side] for one in every]) for side in shared}
