"""Who proposes: Optuna's samplers by the names that a pipeline gives them, and what each is told.

All are asked and told by `gcsearch.search.proposer` in one fixed order, and draw from a generator of their own with
the sweep's seed.  So each of them repeats, and goes on by replay.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import SearchSpace
from gcsearch.errors import InputError, unknown_name
from gcsearch.search import pruning

GRID_STEPS = 3
"""Values of a parameter that `search.grid` does not name."""

LARGEST_GRID = 100_000

LEAST_POPULATION = 8


def _tpe(search: SearchConfig) -> optuna.samplers.BaseSampler:
    # multivariate: rho, beta1 and beta2 are modelled together.  constant_liar: a configuration of the same
    # generation that still runs counts as a bad one, so that a generation does not ask one thing many times.
    # gamma: where most leave early, the usual tenth would hold every configuration that finished, whatever it is worth,
    # for TPE counts those first. The good ones are a quarter of those that finish.
    finishing = pruning.finishing(search)
    good: dict[str, Any] = (
        {"gamma": lambda count: max(2, min(math.ceil(finishing * count / 4), 25))} if finishing < 1 else {}
    )
    return optuna.samplers.TPESampler(
        seed=search.seed,
        **good,
        n_startup_trials=search.startup,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
    )


def _gp(search: SearchConfig) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=search.seed, n_startup_trials=search.startup, deterministic_objective=False)


def _cmaes(search: SearchConfig) -> optuna.samplers.BaseSampler:
    # Without the values of those that left early its population would hardly ever be full.
    halved = search.pruner in ("halving", "hyperband", "asha")
    return optuna.samplers.CmaEsSampler(
        seed=search.seed, n_startup_trials=1, consider_pruned_trials=halved, warn_independent_sampling=False
    )


def _nsga2(search: SearchConfig) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=search.seed, population_size=_population(search))


def _nsga3(search: SearchConfig) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIIISampler(seed=search.seed, population_size=_population(search))


def _population(search: SearchConfig) -> int:
    """A generation of ours is one of the sampler's: as many as are proposed from the same knowledge."""
    return max(search.size * search.generation, LEAST_POPULATION)


def _qmc(search: SearchConfig) -> optuna.samplers.BaseSampler:
    # Scrambled, or every seed would give the same sequence.
    return optuna.samplers.QMCSampler(
        seed=search.seed, qmc_type="sobol", scramble=True, warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )  # fmt: skip


def _random(search: SearchConfig) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=search.seed)


SAMPLERS: dict[str, Callable[[SearchConfig], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "qmc": _qmc,
    "random": _random,
    "grid": _random,  # its points are enqueued: nothing is left to be drawn
}


def make(search: SearchConfig) -> optuna.samplers.BaseSampler:
    """The sampler that the settings name, with the sweep's seed."""
    with warnings.catch_warnings():
        # Some are marked as experimental: constraints.txt pins the version, and the tests hold them to what we need.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # gamma is to go with Optuna 6
        return SAMPLERS[search.sampler](search)


def check(search: SearchConfig, space: SearchSpace) -> None:
    """InputError for a sampler that cannot search the space."""
    distributions = space.distributions()
    if search.sampler == "cmaes" and len(search.objectives) > 1:
        raise InputError(
            "cmaes searches by one objective",
            key="search.sampler",
            received=f"cmaes with {' and '.join(search.objectives)}",
            remedy='Take `sampler = "nsga2"` or "tpe", or name one objective.',
        )
    chosen = [name for name, distribution in distributions.items() if isinstance(distribution, CategoricalDistribution)]
    if search.sampler == "cmaes" and chosen:
        names = ", ".join(name.removesuffix("_switch") for name in chosen)
        raise InputError(
            "cmaes searches numbers only, and the space has choices",
            key="search.sampler",
            received=f"cmaes with {names}",
            remedy='Fix the choices in the space and drop `off`, or take `sampler = "tpe"`.',
        )
    if search.grid and search.sampler != "grid":
        raise InputError(
            "`grid` says how many values each parameter has on a grid",
            key="search.grid",
            received=f"grid with sampler {search.sampler}",
            remedy='Set `sampler = "grid"`, or remove it.',
        )
    for name in search.grid:
        if name not in space.parameters:
            raise unknown_name("parameter of the space", name, space.parameters, key=f"search.grid.{name}")
    if search.sampler == "grid":
        count = math.prod(map(len, _axes(search, space).values()))
        if count > LARGEST_GRID:
            rule, remedy = f"a grid has at most {LARGEST_GRID} points", "Name fewer values in `search.grid`."
            raise InputError(rule, key="search.grid", received=count, remedy=remedy)


def total(search: SearchConfig, space: SearchSpace) -> int:
    """How many configurations a search proposes: `trials`, a grid no more than it has points, an empty space one."""
    if not space.searched:
        return 1
    if search.sampler == "grid":
        return min(search.trials, len(space.points) + _grid_size(search, space))
    return search.trials


def grid(search: SearchConfig, space: SearchSpace) -> list[dict[str, Any]]:
    """Optuna's values that form a grid, without those that come to the same configuration, in an order of the
    seed's.

    A parameter has as many values as `search.grid` says, evenly over its distribution with both ends, over the
    logarithm where that is logarithmic; a choice has all of its values.
    """
    values = _axes(search, space)
    distinct: dict[Any, dict[str, Any]] = {}
    for place in itertools.product(*values.values()):
        internal = dict(zip(values, place, strict=True))
        distinct.setdefault(tuple(space.natural(internal).items()), internal)
    listed = list(distinct.values())
    random.Random(search.seed).shuffle(listed)
    return listed


def _grid_size(search: SearchConfig, space: SearchSpace) -> int:
    """How long `grid` is: the product over groups of parameters that do not depend on each other.

    To list the points of a large grid takes many seconds, and a plan needs their number only.
    """
    axes = _axes(search, space)
    anywhere = {name: values[0] for name, values in axes.items()}
    size = 1
    for group in space.groups:
        own = {name: axes[name] for parameter in group for name in space.distributions_of(parameter)}
        places = (anywhere | dict(zip(own, place, strict=True)) for place in itertools.product(*own.values()))
        size *= len({tuple(space.natural(place).items()) for place in places})
    return size


def _axes(search: SearchConfig, space: SearchSpace) -> dict[str, list[Any]]:
    """The values of each distribution of the space on the grid."""
    return {
        name: _values(distribution, search.grid.get(parameter, GRID_STEPS))
        for parameter in space.dimensions
        for name, distribution in space.distributions_of(parameter).items()
    }


def _values(distribution: BaseDistribution, steps: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"a space has no {type(distribution).__name__}")
    least, most = distribution.low, distribution.high
    low, high = (math.log(least), math.log(most)) if distribution.log else (least, most)
    shares = [k / (steps - 1) for k in range(steps)] if steps > 1 else [0.5]
    points = [low + share * (high - low) for share in shares]
    numbers = [min(max(math.exp(point) if distribution.log else point, least), most) for point in points]
    return list(dict.fromkeys(map(round, numbers))) if isinstance(distribution, IntDistribution) else numbers
