"""An episode: all the data that one seed trains on and is measured on, and its score."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from torch import Tensor

from gcsearch.config.metrics import TARGETS, Stage
from gcsearch.stats import Score, harmonic_mean


@dataclass(frozen=True)
class Half:
    """One side of the trade-off: its classes and the images that score it."""

    classes: Tensor  # [C], positions in `Episode.names`
    features: Tensor  # [N, E], float32
    labels: Tensor  # [N], positions in `classes`


@dataclass(frozen=True)
class Target:
    """A data set that is measured and never trained on: all its classes and test images."""

    name: str
    half: Half
    is_source: bool = False
    """Whether it is the very data set that was trained on, which the mean over the targets leaves out."""


@dataclass(frozen=True)
class Episode:
    """All the data that one seed trains on and is measured on.

    In the stage `search`, `base` are the trained and `new` the held-out base classes, with validation
    images; in the stage `test`, the base and new classes with test images. With `classes` "all", `base` are
    all classes of the data set; then, and where nothing is held out, there is no `new`.
    """

    seed: int
    stage: Stage
    names: tuple[str, ...]
    views: Tensor  # [V, N, E], of the training images; float16 as the cache keeps them
    labels: Tensor  # [N], positions in `base.classes`
    base: Half
    new: Half | None
    template: str = "a photo of a {}."
    others: tuple[str, ...] = ()
    """Names that are no class of the data set, for NFL."""
    classes: Literal["base", "all"] = "base"
    targets: tuple[Target, ...] = ()

    @property
    def sides(self) -> tuple[Half, ...]:
        """All that is measured: the trained classes, the new ones, each target."""
        return (self.base, *([self.new] if self.new else []), *(target.half for target in self.targets))

    def named(self, half: Half) -> list[str]:
        """The class names of one side."""
        return [self.names[index] for index in half.classes.tolist()]


def score(episode: Episode, text: Tensor) -> dict[str, float]:
    """The metrics of text features [all names, E] on an episode, see `metrics_of`."""
    return metrics_of(episode, *(Score.of(side.features, text[side.classes], side.labels) for side in episode.sides))


def metrics_of(episode: Episode, trained: Score, *others: Score) -> dict[str, float]:
    """Scores of an episode's sides as metrics of its stage; of the first side alone where no other was measured."""
    prefix = "val" if episode.stage == "search" else "test"
    own = prefix if episode.classes == "all" else f"{prefix}_base"
    found = {f"{own}_acc": trained.accuracy}
    if episode.stage == "search":
        found[f"{own}_margin"] = trained.margin
    rest = [other.accuracy for other in others]
    if episode.new and rest:
        new, *rest = rest
        found |= {f"{prefix}_new_acc": new, f"{prefix}_h": harmonic_mean(trained.accuracy, new)}
    measured = list(zip(episode.targets, rest, strict=False))
    found |= {f"{prefix}_acc_{target.name}": value for target, value in measured}
    away = [value for target, value in measured if not target.is_source]
    return found | ({f"{prefix}_acc_{TARGETS}": fmean(away)} if away else {})
