"""An episode: all the data that one seed trains on and is measured on, and its score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gcsearch.metrics import accuracy, harmonic_mean
from gcsearch.schema import Stage


@dataclass(frozen=True)
class Half:
    """One side of the trade-off: its classes and the images that score it."""

    classes: Tensor  # [C], positions in `Episode.names`
    features: Tensor  # [N, E], float32
    labels: Tensor  # [N], positions in `classes`


@dataclass(frozen=True)
class Episode:
    """All the data that one seed trains on and is measured on.

    In the stage `search`, `base` are the trained and `new` the held-out base classes, with validation
    images; in the stage `test`, the base and new classes with test images.
    """

    seed: int
    stage: Stage
    names: tuple[str, ...]
    views: Tensor  # [V, N, E], of the training images; float16 as the cache keeps them
    labels: Tensor  # [N], positions in `base.classes`
    base: Half
    new: Half
    template: str = "a photo of a {}."
    others: tuple[str, ...] = ()
    """Names that are no class of the data set, for NFL."""

    def named(self, half: Half) -> list[str]:
        """The class names of one side."""
        return [self.names[index] for index in half.classes.tolist()]


def score(episode: Episode, text: Tensor) -> dict[str, float]:
    """Base and new accuracy and H of text features [all names, E] on an episode."""
    halves = episode.base, episode.new
    return metrics_of(episode, *(accuracy(half.features, text[half.classes], half.labels) for half in halves))


def metrics_of(episode: Episode, base: float, new: float | None = None) -> dict[str, float]:
    """Accuracies as metrics of the episode's stage; base alone where new was not measured."""
    prefix = "val" if episode.stage == "search" else "test"
    if new is None:
        return {f"{prefix}_base_acc": base}
    return {
        f"{prefix}_base_acc": base,
        f"{prefix}_new_acc": new,
        f"{prefix}_h": harmonic_mean(base, new),
    }
