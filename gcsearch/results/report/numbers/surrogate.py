"""The search's surrogate: what the objective is expected to be at a configuration that was not tried.

A Gaussian process (Matern 5/2, a length scale for each dimension, white noise) on the completed configurations, in the
distributions that the sampler sees, scaled to 0..1 on their own axes.  It is smooth, as the objective is, needs few
configurations, lets go of hyperparameters that do nothing (their length scale grows), and says how sure it is, so that
every number that is a weighted sum of its predictions has an exact interval.  A random forest has none of these: its
steps give shares to hyperparameters that do nothing, and at the edge of what was tried, where champions lie, it falls
short of the best.

What is far worse than all others (below Tukey's fence) counts as if it were at the fence: nobody asks how bad the worst
is, and one such value would take the process's attention from all others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcsearch.config.base import Value
from gcsearch.config.parameters import (
    OFF,
    Choice,
    Fixed,
    Parameter,
    decode_number,
    encode_number,
    encoded_name,
    upper_end,
)
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.errors import InputError

Vector = NDArray[np.float64]
Configuration = Mapping[str, Value]
"""Natural values by name, the method among them where the space chooses it."""

LEAST = 10
"""Configurations that a surrogate needs."""
MOST = 200
"""Configurations that it is fitted on: its cost grows with their third power."""
LONGEST = 5.0
"""The largest length scale, in lengths of an axis: how little a hyperparameter may be taken to do. Without a bound few
configurations often say that one does exactly nothing, and the interval is sure of it."""
_UPPER = 0.975
_FENCE = 1.5  # interquartile ranges below the first quartile


@dataclass(frozen=True)
class Estimates:
    """Weighted sums of predictions: their means, and the deviation that the interval is made of."""

    means: Vector
    deviations: Vector

    def interval(self, index: int) -> tuple[float, float]:
        """The central 95 %."""
        from scipy.special import stdtrit

        reach = float(stdtrit(math.inf, _UPPER) * self.deviations[index])
        return float(self.means[index]) - reach, float(self.means[index]) + reach


@dataclass(frozen=True)
class Surrogate:
    """A fitted surrogate of `space`; `explained` is the share of variance that it explains of configurations left out.

    `seeds` has a row of values for each seed that all configurations share, each less its own mean.
    """

    space: SearchSpace
    places: Vector  # [n, d]
    kernel: Any
    inverse: Vector  # [n, n], of the covariance with noise
    noise: float
    values: Vector  # [n], less `level`
    seeds: Vector  # [S, n]
    level: float
    explained: float

    def encode(self, configurations: Sequence[Configuration]) -> Vector:
        """Their places, a row each."""
        return encode(self.space, configurations)

    def estimate(self, configurations: Sequence[Configuration], weights: Vector) -> Estimates:
        """`weights` [k, m] times the expected objective of m configurations, up to a constant times the weights' sums.

        The variance is the process's own, which covers the noise of the seeds and that few configurations were tried;
        where the seeds disagree by more than that noise makes them, as they do where each has an optimum of its own,
        the excess over it is added, as much wider as Student's t of so few seeds is than the normal distribution.
        """
        from scipy.special import stdtrit

        there = self.encode(configurations)
        across = weights @ self.kernel(there, self.places)  # [k, n]
        smoother = across @ self.inverse
        prior = np.einsum("km,ml,kl->k", weights, self.kernel(there), weights)
        variance = prior - np.einsum("kn,kn->k", smoother, across)
        if len(self.seeds) > 1:
            by_seed = self.seeds @ smoother.T  # [S, k]
            between = by_seed.var(axis=0, ddof=1) / len(self.seeds)
            excess = np.maximum(0.0, between - self.noise * np.einsum("kn,kn->k", smoother, smoother))
            freedom = max(len(self.seeds) - 1, 2)  # Student's t of two seeds says nothing at all
            variance += excess * (stdtrit(freedom, _UPPER) / stdtrit(math.inf, _UPPER)) ** 2
        return Estimates(smoother @ self.values, np.sqrt(np.maximum(variance, 0.0)))

    def predict(self, configurations: Sequence[Configuration]) -> Estimates:
        """The expected objective of each configuration."""
        found = self.estimate(configurations, np.eye(len(configurations)))
        return Estimates(found.means + self.level, found.deviations)


def natural(space: SearchSpace, record: TrialRecord) -> dict[str, Value] | None:
    """What the record's configuration is in `space`; None where it is not in it, as of an earlier sweep's."""
    values = record.config.values if space.methods else record.config.hyperparameters
    known = {name: value for name, value in values.items() if name in space.dimensions}
    try:
        return space.parse(known)
    except InputError:
        return None


def mixed(space: SearchSpace, ours: Configuration, theirs: Configuration, taken: frozenset[str]) -> dict[str, Value]:
    """The configuration that has what is `taken` from `ours` and all else from `theirs`, and that can be run.

    A parameter that only one of the two has keeps its value wherever it is there; one that neither has and the mixture
    needs stands in the middle of its range.  One that may not exceed another is lowered to it.
    """
    found: dict[str, Value] = {}
    for name in space.order:
        if space.is_there(name, found):
            first, second = (ours, theirs) if name in taken else (theirs, ours)
            parameter = space.dimensions[name]
            value = first.get(name, second.get(name, _middle(name, parameter, found)))
            upper = upper_end(parameter)
            if upper and value != OFF and float(value) > float(found[upper]):
                value = found[upper]
            found[name] = value
    return {name: found[name] for name in space.dimensions if name in found}


def _middle(name: str, parameter: Parameter, beside: Configuration) -> Value:
    if isinstance(parameter, Fixed):
        return parameter.value
    if isinstance(parameter, Choice):
        return parameter.choices[0]
    encoded = {encoded_name(name, parameter): encode_number(parameter, None, {})}
    return decode_number(name, parameter, encoded, dict(beside))


def encode(space: SearchSpace, configurations: Sequence[Configuration]) -> Vector:
    """What Optuna sees of configurations, scaled: 0..1 along the axis of each number, a column for each choice.

    What is not there is in the middle.
    """
    distributions = space.distributions()
    rows = []
    for values in configurations:
        internal, row = space.internal(values), []
        for name, one in distributions.items():
            if hasattr(one, "choices"):
                row += [float(internal[name] == choice) for choice in one.choices]
            else:
                low, high, at = (float(number) for number in (one.low, one.high, internal[name]))
                low, high, at = map(math.log, (low, high, at)) if one.log else (low, high, at)
                row.append((at - low) / (high - low))
        rows.append(row)
    return np.array(rows, dtype=float)


def fit(space: SearchSpace, records: Sequence[TrialRecord], objective: str, keep: Sequence[int] = ()) -> Surrogate:
    """The surrogate of the completed records; of more than `MOST`, of those at even distances and the numbers `keep`.

    ValueError where there are fewer than `LEAST`.
    """
    every = [record for record in records if measured(record, objective)]
    even = {round(place) for place in np.linspace(0, len(every) - 1, MOST)} if len(every) > MOST else range(len(every))
    chosen = [
        (record, values)
        for place, record in enumerate(every)
        if (place in even or record.number in keep) and (values := natural(space, record)) is not None
    ]
    if len(chosen) < LEAST:
        raise ValueError(f"{len(chosen)} configurations are too few for a surrogate")
    means = np.array([record.mean(objective) for record, _ in chosen])
    low, high = np.quantile(means, [0.25, 0.75])
    kept = [record.mean(objective) for record, _ in chosen if record.number in keep]
    floor = min([float(low - _FENCE * (high - low)), *kept])
    seeds = _by_seed([record for record, _ in chosen], objective)
    return _fitted(space, encode(space, [values for _, values in chosen]), np.maximum(means, floor), seeds, means)


def measured(record: TrialRecord, objective: str) -> bool:
    """Whether it has completed with the objective."""
    return record.outcome is Outcome.COMPLETE and math.isfinite(record.mean(objective))


def _by_seed(records: Sequence[TrialRecord], objective: str) -> Vector:
    """[S, n], of the seeds that all records have."""
    common = set.intersection(*(set(record.seeds) for record in records))
    by_record = [dict(zip(record.seeds, record.metrics[objective], strict=False)) for record in records]
    return np.array([[values[seed] for values in by_record] for seed in sorted(common)])


def _fitted(space: SearchSpace, places: Vector, values: Vector, seeds: Vector, means: Vector) -> Surrogate:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    level, scale = float(values.mean()), float(values.std()) or 1.0
    lengths = np.ones(places.shape[1])
    smooth = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(lengths, (0.05, LONGEST), nu=2.5)
    process = GaussianProcessRegressor(smooth + WhiteKernel(0.1, (1e-4, 1.0)), random_state=0)
    with warnings.catch_warnings():  # a length scale at its upper bound is a hyperparameter that does nothing
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(places, (values - level) / scale)
    found = process.kernel_
    kernel = ConstantKernel(scale**2) * found.k1
    noise = float(found.k2.noise_level) * scale**2
    inverse = np.linalg.inv(kernel(places) + noise * np.eye(len(values)))
    centred = values - level
    left_out = (inverse @ centred) / np.diag(inverse)  # what each value is above the prediction of all others
    explained = 1.0 - float(left_out @ left_out) / float(centred @ centred) if centred.any() else math.nan
    # What the fence has moved is moved in every seed.
    by_seed = seeds + (values - means) if len(seeds) else seeds.reshape(0, len(values))
    by_seed = by_seed - by_seed.mean(axis=1, keepdims=True)
    return Surrogate(space, places, kernel, inverse, noise, centred, by_seed, level, explained)


def response(
    surrogate: Surrogate, champion: Configuration, name: str, values: Sequence[Value]
) -> tuple[list[Value], Estimates] | None:
    """The expected objective over one hyperparameter, all others as the champion has them: values, and estimates.

    The deviations are those of the difference from the champion itself: the line tells where it would be better or
    worse, not how high it lies. Values that the space does not allow beside the others are left out; None where fewer
    than two are left.
    """
    space = surrogate.space
    if name not in champion:
        return None
    allowed: dict[Value, Configuration] = {}
    for value in values:
        try:
            parsed = space.dimensions[name].parse(value)
        except InputError:
            continue
        other = mixed(space, {**champion, name: parsed}, champion, frozenset({name}))
        if other[name] == parsed and set(other) == set(champion):
            allowed[parsed] = other
    if len(allowed) < 2:
        return None
    places = [*allowed.values(), champion]
    differences = np.eye(len(places))[:-1]
    differences[:, -1] = -1.0
    means = surrogate.predict(places).means[:-1]
    return list(allowed), Estimates(means, surrogate.estimate(places, differences).deviations)
