"""The loss around the prompts of an export, on the images that they were trained on.

The loss is what training minimised, with the terms that the method adds to the cross-entropy and without weight decay:
on all views of a seed's training images at once; of prompts that depend on the image, on some images of the first view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gcsearch.errors import InputError
from gcsearch.export import sharpness
from gcsearch.export.classifier import Export
from gcsearch.export.sharpness import Curvature
from gcsearch.results.documents import Sharp, Sharpnesses
from gcsearch.results.report.loss_landscape import LossSurface
from gcsearch.training import loading
from gcsearch.training.episodes import Episode
from gcsearch.training.population import Member, Population

Plane = Literal["hessian", "random"]

CELLS = 31  # of a surface along each axis
REACH = 3.0  # of a surface on each side, in radii
_RHO = 0.1  # where the method has no radius, or 0
_TEXTS = 2000  # that go through the text tower at once, where there are several points
_CONDITIONAL = 64  # images, where each has text features of its own


@dataclass(frozen=True)
class LossLandscape:
    """The loss around the prompt of one seed."""

    seed: int
    point: Tensor
    loss: sharpness.Loss
    images: int
    at_once: int
    """Points at a time, for the memory's sake."""
    generator: torch.Generator

    @cached_property
    def curvature(self) -> Curvature:
        """The two largest eigenvalues of the Hessian."""
        return sharpness.curvature(self.loss, self.point, self.generator, count=2)

    def measure(self, rho: float) -> Sharp:
        """Loss, gradient norm, sharpness within `rho` and the largest eigenvalue."""
        value, gradient = sharpness.slope(self.loss, self.point[None])
        return Sharp(
            seed=self.seed,
            images=self.images,
            loss=float(value),
            gradient_norm=float(gradient.norm()),
            sharpness=sharpness.sharpness(self.loss, self.point, rho, self.curvature.vectors, at_once=self.at_once),
            eigenvalue=self.curvature.values[0],
        )

    def surface(self, rho: float, plane: Plane, cells: int = CELLS) -> LossSurface:
        """The loss on a plane through the prompt, `REACH` radii to each side."""
        first, second = self.curvature.values
        axes = (f"first eigenvector, eigenvalue {first:.3g}", f"second eigenvector, eigenvalue {second:.3g}")
        directions = self.curvature.vectors
        if plane == "random":
            directions = sharpness.random_plane(self.point, self.generator)
            axes = ("first random direction", "second random direction")
        steps = torch.linspace(-REACH * rho, REACH * rho, cells)
        found = sharpness.heights(self.loss, self.point, directions, steps, at_once=self.at_once)
        return LossSurface(f"seed {self.seed}", axes, steps.tolist(), found.tolist(), rho)


def loss_landscapes(export: Export, seeds: Sequence[int] | None = None, *, draw: int = 0) -> list[LossLandscape]:
    """The loss landscape of each of `seeds`, by default of all; random directions come from the seed `draw`.

    Raises:
        InputError: nothing was trained, there is no prompt of a seed, or the data set is not there.
    """
    method, classifier = export.classifier.method, export.classifier
    if not method.trains:
        raise InputError(
            "only a trained prompt has a loss around it, and zero-shot CLIP trains nothing",
            file=export.folder,
            remedy="Export a sweep of another method.",
        )
    chosen = export.trial.seeds if seeds is None else tuple(seeds)
    places = [classifier.index(seed) for seed in chosen]
    lab = loading.laboratory(export.trial.task)
    tower = replace(lab.backbone.tower.to(torch.float32), twice=True)
    backbone = replace(lab.backbone, tower=tower)
    found = []
    for place, episode in zip(places, lab.episodes(export.trial.stage, chosen), strict=True):
        population = Population(backbone, [Member(method, episode)])
        images, labels = _images(episode, conditional=method.prompt.per_image)
        texts = population.parts[0].prompts.texts * (len(labels) if method.prompt.per_image else 1)
        found.append(
            LossLandscape(
                seed=episode.seed,
                point=classifier.parameters[place].to(tower.device),
                loss=_loss(population, images.to(tower.device), labels.to(tower.device)),
                images=len(labels),
                at_once=max(1, _TEXTS // texts),
                generator=torch.Generator().manual_seed(draw),
            )
        )
    return found


def _images(episode: Episode, *, conditional: bool) -> tuple[Tensor, Tensor]:
    """Training images [B, E] and labels [B]: all views, or evenly chosen images of the first."""
    views, images = episode.views.shape[:2]
    if not conditional:
        return episode.views.flatten(0, 1).float(), episode.labels.repeat(views)
    chosen = torch.arange(0, images, max(1, -(-images // _CONDITIONAL)))
    return episode.views[0, chosen].float(), episode.labels[chosen]


def _loss(population: Population, images: Tensor, labels: Tensor) -> sharpness.Loss:
    """The loss [P] at points [P, ...], each a prompt of the population's only member."""
    (part,) = population.parts

    def loss(points: Tensor) -> Tensor:
        every, answers = images.expand(len(points), -1, -1), labels.expand(len(points), -1)
        return part.loss(part.prompts.features(points, every), every, answers).total

    return loss


def radius(export: Export, given: float | None) -> float:
    """The radius in question: `given`, else the method's own rho, else 0.1. InputError unless above 0."""
    if given is not None and given <= 0:
        raise InputError("a radius must be above 0", key="--rho", received=given, remedy=f"For example {_RHO}.")
    return given or float(export.classifier.method.hyperparameters.get("rho") or 0.0) or _RHO


def survey(
    export: Export,
    found: Sequence[LossLandscape],
    rho: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sharpnesses:
    """Loss and sharpness of every loss landscape, as `landscape --json` prints them."""
    measured = []
    for one in found:
        measured.append(one.measure(rho))
        progress(len(measured), len(found))
    return Sharpnesses(export=str(export.folder), method=export.facts.champion.name, rho=rho, seeds=tuple(measured))
