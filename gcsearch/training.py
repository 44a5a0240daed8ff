"""The one training loop: populations of members to the end of their schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gcsearch.backbone import Backbone
from gcsearch.population import Member, Population, structure


@dataclass(frozen=True)
class Measured:
    """The numbers of one member after one epoch; `diverged` once a number of it was not finite."""

    epoch: int
    metrics: dict[str, float]
    diverged: bool


OnMeasured = Callable[[Mapping[int, Measured]], None]
"""Called after an epoch with the measured members, by position in the list given to `train`."""


def train(
    backbone: Backbone,
    members: Sequence[Member],
    evaluate_every: int,
    on_measured: OnMeasured,
    limit: int | None = None,
) -> list[Tensor]:
    """Train all members to the end of their own schedules and return their parameters.

    Members of equal structure run together. Each is measured every `evaluate_every` epochs, after its last
    epoch, and in the epoch in which it diverges; a diverged member trains no further.
    """
    ended: list[Tensor] = [torch.empty(0)] * len(members)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, member in enumerate(members):
        groups.setdefault(structure(member), []).append(position)
    for positions in groups.values():
        population = Population(backbone, [members[p] for p in positions], limit=limit)
        _train_group(population, positions, evaluate_every, on_measured, ended)
    return ended


def _train_group(
    population: Population,
    positions: list[int],
    evaluate_every: int,
    on_measured: OnMeasured,
    ended: list[Tensor],
) -> None:
    reported: set[int] = set()
    while population.members:
        trained = population.train_epoch()
        epoch, alive = population.epoch, cast(list[bool], population.alive.tolist())
        ends = [epoch >= member.method.epochs for member in population.members]
        broke = [not ok and p not in reported for ok, p in zip(alive, positions, strict=True)]
        due = epoch % evaluate_every == 0
        if due or any(ends) or any(broke):
            scores = population.evaluate()
            measured = {
                p: Measured(epoch, {**scores[i], **trained[i]}, diverged=not alive[i])
                for i, p in enumerate(positions)
                if broke[i] or (alive[i] and (due or ends[i]))
            }
            reported |= {p for i, p in enumerate(positions) if broke[i]}
            on_measured(measured)
        if any(ends):
            for i, p in enumerate(positions):
                ended[p] = population.parameters[i].cpu()
            stay = [i for i, over in enumerate(ends) if not over]
            population.keep(stay)
            positions = [positions[i] for i in stay]
