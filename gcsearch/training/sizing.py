"""How large a pack should be, and what its steps cost: measured on random features, in seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from gcsearch.config.pipeline import SearchConfig
from gcsearch.data.lists import draws
from gcsearch.methods import registry

if TYPE_CHECKING:
    from gcsearch.config.search_space import SearchSpace
    from gcsearch.training.population import Member
    from gcsearch.training.task_data import Laboratory

STEPS = 3
SCORED = 64  # images of a measurement
ENOUGH_SECONDS = 5.0  # after which the steps of a large model are no more repeated
SAMPLE = 256

SIZES = (1, 2, 4, 8, 16, 32)
"""The sizes of packs that are tried."""

NEARLY = 0.9
"""Of the best rate: a smaller pack that reaches it is told sooner, and proposes from more knowledge."""


def pack_size(
    search: SearchConfig,
    space: SearchSpace,
    labs: Sequence[Laboratory],
    threads: int,
    limit: int | None = None,
) -> int:
    """The number of configurations in a pack where the pipeline leaves it open, see `choose`.

    Rates are those of a few steps. Once a pack goes through the text tower in pieces, because more does not fit the
    memory of a worker, a larger one gains nothing and is not tried. Of several data sets, one of which is trained
    after another, the one with the smallest pack decides.
    """
    return min(_pack_size(search, space, lab, threads, limit) for lab in labs)


def _pack_size(search: SearchConfig, space: SearchSpace, lab: Laboratory, threads: int, limit: int | None) -> int:
    kinds, _ = typical(space)
    seeds = len(lab.task.seeds)
    if not any(method.trains for method in kinds):
        return 1
    names, rates = trained_names(lab), dict[int, float]()
    for size in SIZES:
        if rates and size > most(search):
            break
        cost = measure_mixed(lab, kinds, names, size * seeds, threads, limit)
        rates[size] = size / cost.seconds
        if cost.pieces > 1:
            break
    return choose(search, rates)


def most(search: SearchConfig) -> int:
    """No pack is so large that a generation of them would be more than all trials."""
    return max(1, math.ceil(search.trials / search.generation))


def choose(search: SearchConfig, rates: Mapping[int, float]) -> int:
    """The smallest size with nearly the best of `rates`, configurations per second by size.

    Where configurations leave at rungs within their pack, at least so many that one is left at the last.
    """
    best = max(rates.values())
    wanted = min(size for size, rate in rates.items() if rate >= NEARLY * best)
    halved = search.pruner in ("halving", "hyperband")
    least = search.eta**search.rungs if halved else 1
    return max(min(max(wanted, least), most(search)), 2 if halved else 1)


def trained_names(lab: Laboratory) -> list[str]:
    """The names of the classes that the first seed of a search trains."""
    trained, _ = draws.hold_out(lab.halves[0], 0, lab.task.class_folds)
    return [lab.dataset.classes[label] for label in trained]


def typical(space: SearchSpace) -> tuple[list[registry.Method], float]:
    """One of each of the space's methods, and the mean epochs of random configurations, with SubPT's probe."""
    built = [registry.build(space.config(values)) for values in space.sample(SAMPLE, seed=0)]
    kinds: dict[str, registry.Method] = {}
    for method in built:
        kinds.setdefault(method.name, method)
    return list(kinds.values()), fmean(method.total_epochs for method in built)


class Cost(NamedTuple):
    """Of one step of a pack: seconds, bytes of the text tower, and in how many pieces it went through that.

    `measuring`: seconds of one measurement of all members by the names that are trained; `per_image`: of one image,
    where every image has text features of its own.
    """

    seconds: float = 0.0
    bytes: int = 0
    pieces: int = 1
    measuring: float = 0.0
    per_image: float = 0.0


def measure_mixed(
    lab: Laboratory,
    kinds: Sequence[registry.Method],
    names: list[str],
    members: int,
    threads: int,
    limit: int | None = None,
) -> Cost:
    """What one step of a pack costs in which every one of `kinds` has an equal part: they train one after another."""
    part = math.ceil(members / len(kinds))
    costs = [measure(lab, method, names, part, threads, limit) for method in kinds[:members]]
    seconds, every_bytes, pieces, measuring, per_image = zip(*costs, strict=True)
    return Cost(sum(seconds), max(every_bytes), max(pieces), sum(measuring), sum(per_image))


def measure(
    lab: Laboratory,
    method: registry.Method,
    names: list[str],
    members: int,
    threads: int,
    limit: int | None = None,
) -> Cost:
    """What one step of a pack costs, measured on random features; `limit` as in `Population`."""
    import torch

    from gcsearch.training.population import Population

    if not method.trains:
        return Cost()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        member = _random_member(method, tuple(names), lab)
        population = Population(lab.backbone, [member] * members, limit=limit, project=False)
        population.train_epoch()
        began, steps = time.perf_counter(), 0
        while steps < STEPS and (steps == 0 or time.perf_counter() - began < ENOUGH_SECONDS):
            population.train_epoch()
            steps += 1
        seconds = (time.perf_counter() - began) / steps
        began = time.perf_counter()
        population.evaluate()
        measuring = time.perf_counter() - began
    finally:
        torch.set_num_threads(before)
    alone = population.scored is None
    return Cost(
        seconds,
        population.bytes,
        len(population.parts),
        0.0 if alone else measuring,
        measuring / SCORED if alone else 0.0,
    )


def _random_member(method: registry.Method, names: tuple[str, ...], lab: Laboratory) -> Member:
    """A member whose every epoch is one step on random features."""
    import torch

    from gcsearch.training.episodes import Episode, Half
    from gcsearch.training.population import Member

    generator = torch.Generator().manual_seed(0)
    batch = method.schedule.batch_size
    images = torch.randn(1, batch, lab.backbone.embedding_size, generator=generator)
    labels = torch.randint(len(names), (batch,), generator=generator)
    scored = torch.randn(SCORED, lab.backbone.embedding_size, generator=generator)
    half = Half(torch.arange(len(names)), scored, torch.randint(len(names), (SCORED,), generator=generator))
    images = images / images.norm(dim=-1, keepdim=True)
    return Member(method, Episode(0, "search", names, images, labels, half, half, others=lab.others))
