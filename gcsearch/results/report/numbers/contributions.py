"""What each hyperparameter contributed to the champion's gain over the literature's configuration.

Baseline Shapley values (Shapley 1953; Sundararajan and Najmi 2020, section 3): with v(S) the surrogate's objective of
the literature's configuration in which the hyperparameters S have the champion's values, hyperparameter i contributes

    phi_i = sum over S without i of  |S|! (k - |S| - 1)! / k!  (v(S + i) - v(S)),

the gain that it brings, averaged over all orders in which the k that differ can be changed one after another.  They
add up to v(all) - v(none), the surrogate's gain, exactly; one that changes nothing contributes nothing; two that do the
same contribute the same.

Every mixture is a configuration that can be run (`surrogate.mixed`).  Of methods in one space, what only one of the two
configurations has comes and goes with the choice of the method, and is counted with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np

from gcsearch.config.base import Value
from gcsearch.config.search_space import LITERATURE, LITERATURE_CAPPED, SearchSpace
from gcsearch.config.trials import TrialRecord
from gcsearch.results.report.numbers.surrogate import Configuration, Surrogate, Vector, mixed

EXACT = 10
"""Up to so many hyperparameters all orders are averaged, by way of all 2^k mixtures; of more, a sample of orders."""
ORDERS = 500


@dataclass(frozen=True)
class Contribution:
    """What one hyperparameter brought, in the objective's units, with its 95 % interval, and what it was changed to."""

    name: str
    value: float
    low: float
    high: float
    before: Value | None = None
    after: Value | None = None


@dataclass(frozen=True)
class Contributions:
    """All of them, the largest first; they add up to `gain`, the surrogate's, which has an interval too."""

    each: tuple[Contribution, ...]
    gain: Contribution
    explained: float
    sampled: bool


def literature_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The search's trial of the literature's configuration."""
    return next((record for record in records if record.label in (LITERATURE, LITERATURE_CAPPED)), None)


def differing(space: SearchSpace, ours: Configuration, theirs: Configuration) -> list[str]:
    """The hyperparameters that both configurations have with different values."""
    return [name for name in space.dimensions if name in ours and name in theirs and ours[name] != theirs[name]]


def contributions(
    surrogate: Surrogate,
    champion: Configuration,
    literature: Configuration,
    generator: np.random.Generator | None = None,
) -> Contributions | None:
    """The contributions to the gain of one configuration over another; None where no hyperparameter differs.

    `generator` draws the orders where more than `EXACT` differ.
    """
    names = differing(surrogate.space, champion, literature)
    if not names:
        return None
    sampled = len(names) > EXACT
    if sampled:
        coalitions, weights = sampled_orders(len(names), ORDERS, generator or np.random.default_rng(0))
    else:
        coalitions, weights = every_order(len(names))
    mixtures = [
        mixed(surrogate.space, champion, literature, frozenset(names[i] for i in coalition)) for coalition in coalitions
    ]
    weights = np.vstack([weights, weights.sum(axis=0)])  # the last row: all of them, from the first to the last mixture
    found = surrogate.estimate(mixtures, weights)
    each = [
        Contribution(name, float(found.means[i]), *found.interval(i), literature[name], champion[name])
        for i, name in enumerate(names)
    ]
    gain = Contribution("", float(found.means[-1]), *found.interval(len(names)))
    each.sort(key=lambda one: -abs(one.value))
    return Contributions(tuple(each), gain, surrogate.explained, sampled)


def every_order(count: int) -> tuple[list[tuple[int, ...]], Vector]:
    """All subsets of `count` players, and weights [players, subsets] that turn their values into Shapley values."""
    subsets = [tuple(i for i in range(count) if mask >> i & 1) for mask in range(2**count)]
    weights = np.zeros((count, len(subsets)))
    for mask, subset in enumerate(subsets):
        size = len(subset)
        for i in range(count):
            if not mask >> i & 1:
                share = factorial(size) * factorial(count - size - 1) / factorial(count)
                weights[i, mask | 1 << i] += share
                weights[i, mask] -= share
    return subsets, weights


def sampled_orders(count: int, orders: int, generator: np.random.Generator) -> tuple[list[tuple[int, ...]], Vector]:
    """As `every_order`, for the mean over `orders` random orders, each with its reverse; their sum is as exact."""
    places: dict[frozenset[int], int] = {}
    steps: list[tuple[int, int, int]] = []
    for _ in range(max(orders // 2, 1)):
        order = generator.permutation(count)
        for path in (order, order[::-1]):
            taken: frozenset[int] = frozenset()
            before = places.setdefault(taken, len(places))
            for player in map(int, path):
                taken |= {player}
                after = places.setdefault(taken, len(places))
                steps.append((player, before, after))
                before = after
    weights = np.zeros((count, len(places)))
    share = count / len(steps)
    for player, before, after in steps:
        weights[player, after] += share
        weights[player, before] -= share
    return [tuple(sorted(taken)) for taken in places], weights
