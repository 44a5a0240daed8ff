"""An episode: all the data that one seed trains on and is measured on, and its score."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from torch import Tensor

from gcsearch.config.metrics import TARGETS, Stage
from gcsearch.stats import Bins, Score, harmonic_mean


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

    def calibrated(self, scale: float) -> float | None:
        """The logit scale where calibration is measured, which is on test images alone."""
        return scale if self.stage == "test" else None

    def named(self, half: Half) -> list[str]:
        """The class names of one side."""
        return [self.names[index] for index in half.classes.tolist()]


class Evaluation(NamedTuple):
    """What is measured of a member at an epoch: its metrics, and on test images the bins of its calibration by side."""

    metrics: dict[str, float]
    bins: dict[str, Bins]

    @classmethod
    def of(cls, episode: Episode, trained: Score, *others: Score) -> Evaluation:
        """Scores of an episode's sides, in their order; the first alone where no other was measured."""
        sides = {"all" if episode.classes == "all" else "base": trained}
        sides |= {"new": others[0]} if episode.new and others else {}
        bins = {side: one.calibration.bins for side, one in sides.items() if one.calibration}
        return cls(metrics_of(episode, trained, *others), bins)


def score(episode: Episode, text: Tensor, scale: float) -> Evaluation:
    """Text features [all names, E] on an episode; `scale` makes logits of their cosines."""
    known = episode.calibrated(scale)
    scores = (Score.of(side.features, text[side.classes], side.labels, known) for side in episode.sides)
    return Evaluation.of(episode, *scores)


def metrics_of(episode: Episode, trained: Score, *others: Score) -> dict[str, float]:
    """Scores of an episode's sides as metrics of its stage; of the first side alone where no other was measured."""
    prefix = "val" if episode.stage == "search" else "test"
    own = prefix if episode.classes == "all" else f"{prefix}_base"
    found = {f"{own}_acc": trained.accuracy}
    if episode.stage == "search":
        found[f"{own}_margin"] = trained.margin
    if trained.calibration:
        found |= {f"{own}_ece": trained.calibration.ece, f"{own}_nll": trained.calibration.nll}
    if episode.new and others and (calibration := others[0].calibration):
        found |= {f"{prefix}_new_ece": calibration.ece, f"{prefix}_new_nll": calibration.nll}
    rest = [other.accuracy for other in others]
    if episode.new and rest:
        new, *rest = rest
        found |= {f"{prefix}_new_acc": new, f"{prefix}_h": harmonic_mean(trained.accuracy, new)}
    measured = list(zip(episode.targets, rest, strict=False))
    found |= {f"{prefix}_acc_{target.name}": value for target, value in measured}
    away = [value for target, value in measured if not target.is_source]
    return found | ({f"{prefix}_acc_{TARGETS}": fmean(away)} if away else {})
