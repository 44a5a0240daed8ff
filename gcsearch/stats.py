"""Accuracy, margin, harmonic mean, means with their spread, and how they are written. Accuracies are in per cent.

What is measured on no image is NaN, never 0: 0 is a perfect margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, isfinite, isnan, nan, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(image_features: Tensor, text_features: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy 100 * correct / total; of equal scores the first class counts.

    Args:
        image_features: [N, E]; text_features: [C, E], or for each image its own [N, C, E]; all of unit length;
        labels: [N].
    """
    return Score.of(image_features, text_features, labels).accuracy


def lost_margin(image_features: Tensor, text_features: Tensor, labels: Tensor) -> float:
    """How far wrong images are from right: 1000 * mean of min(0, margin), 0 where all are right.

    The margin of an image is the cosine with its class less the largest cosine with another class, so that this is
    -1000 times the multi-class perceptron loss.  Unlike accuracy it tells a near miss from a gross error, and hardly
    ever ties; unlike the likelihood it pays nothing for images that are right already.  Arguments as for `accuracy`.
    """
    return Score.of(image_features, text_features, labels).margin


BINS = 15
"""Of confidence, of equal width from 0 to 1."""

Bins = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
"""For each bin of confidence: how many images, how many of them right, and the sum of their confidences."""


class Calibration(NamedTuple):
    """How probabilities, the softmax of logits, agree with what is right.

    `likelihood` is the sum of the negative log-likelihoods, in nats.
    """

    likelihood: float
    bins: Bins

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Calibration:
        """Of logits [N, C]."""
        logarithms = logits.double().log_softmax(dim=1)
        confidence, told = logarithms.exp().max(dim=1)
        place = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        rows = (confidence.new_ones(len(labels)), (told == labels).double(), confidence)
        sums = [place.bincount(row, minlength=BINS).tolist() for row in rows]
        count, right, sure = (tuple(round(value, 6) for value in row) for row in sums)
        lost = -float(logarithms.gather(1, labels[:, None]).sum())
        return cls(lost, (count, right, sure))

    @classmethod
    def pooled(cls, parts: Sequence[Calibration]) -> Calibration:
        """That of the images of all parts."""
        return cls(fsum(one.likelihood for one in parts), summed([one.bins for one in parts]))

    @property
    def nll(self) -> float:
        """The mean negative log-likelihood."""
        count = sum(self.bins[0])
        return self.likelihood / count if count else nan

    @property
    def ece(self) -> float:
        """The expected calibration error in per cent, see `calibration_error`."""
        return calibration_error(self.bins)


def calibration_error(bins: Bins) -> float:
    """Sum over bins of |right - confidence| / N, in per cent: how far confidence is from accuracy (Guo et al. 2017).

    Of `BINS` bins of equal width, an image on a boundary counts in the lower one. NaN where there is no image.
    """
    count = fsum(bins[0])
    return 100.0 * fsum(abs(right - sure) for _, right, sure in zip(*bins, strict=True)) / count if count else nan


def summed(several: Sequence[Bins]) -> Bins:
    """The bins of all images together."""
    count, right, sure = (
        tuple(round(fsum(column), 6) for column in zip(*rows, strict=True)) for rows in zip(*several, strict=True)
    )
    return count, right, sure


class Score(NamedTuple):
    """How images are told: `accuracy`, and `margin`, see `lost_margin`; `calibration` where a logit scale was given."""

    accuracy: float
    margin: float
    calibration: Calibration | None = None

    @classmethod
    def of(cls, images: Tensor, text: Tensor, labels: Tensor, scale: float | None = None) -> Score:
        """All from the same cosines; arguments as for `accuracy`. NaN where there is no image."""
        if not len(labels):
            return cls(nan, nan)
        similarity = (text @ images[:, :, None]).squeeze(2) if text.ndim == 3 else images @ text.T
        count, own = len(labels), labels[:, None]
        right = int((similarity.argmax(dim=1) == labels).sum())
        margin = similarity.gather(1, own).squeeze(1) - similarity.scatter(1, own, float("-inf")).amax(dim=1)
        calibration = None if scale is None else Calibration.of(scale * similarity, labels)
        return cls(100.0 * right / count, 1000.0 * float(margin.clamp(max=0).double().sum()) / count, calibration)

    @classmethod
    def pooled(cls, parts: Sequence[tuple[int, Score]]) -> Score:
        """The score of all images where it is known of parts of so many images each."""
        count = sum(images for images, _ in parts)
        if not count:
            return cls(nan, nan)
        right = sum(images * one.accuracy for images, one in parts)
        lost = sum(images * one.margin for images, one in parts)
        known = [one.calibration for _, one in parts if one.calibration]
        whole = (
            Calibration(fsum(one.likelihood for one in known), summed([one.bins for one in known])) if known else None
        )
        return cls(right / count, lost / count, whole)


def harmonic_mean(base: float, new: float) -> float:
    """H = 2BN / (B + N), the field's trade-off between base and new accuracy; 0 where both are 0, NaN where one is."""
    return 0.0 if base + new == 0 else 2.0 * base * new / (base + new)


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1) over seeds; the deviation of one seed is NaN."""

    mean: float
    deviation: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Summary of one number per seed; a NaN among them makes the summary NaN."""
    n = len(values)
    mean = fsum(values) / n if n else nan
    deviation = sqrt(fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else nan
    return Spread(mean, deviation, n)


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The interval that covers the mean with probability `level` if the seeds are draws from a normal distribution.

    mean +- t s / sqrt(n) with Student's t of n - 1 degrees of freedom; None for fewer than two finite values.
    """
    from scipy.special import stdtrit

    mean, deviation, n = spread(values)
    if n < 2 or not isfinite(deviation):
        return None
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * deviation / sqrt(n)
    return mean - reach, mean + reach


def finite(value: float) -> float | None:
    """The value for JSON, which has no NaN and no infinity: None in their place."""
    return value if isfinite(value) else None


# --- Numbers for people: the same digits on the terminal, in the report, on the card and in LaTeX


def number(value: float, *, signed: bool = False) -> str:
    """`83.10`, or `+1.50`; `-` where there is no number. What rounds to zero has no sign."""
    if not isfinite(value):
        return "-"
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return "0.00" if text.lstrip("+-") == "0.00" else text


def plus_minus(value: Spread) -> str:
    """`83.10 ± 0.82`: mean and deviation; the mean alone of one seed."""
    if not isfinite(value.mean):
        return "-"
    return number(value.mean) + ("" if isnan(value.deviation) else f" ± {number(value.deviation)}")


def p_value(p: float) -> str:
    """`0.062`; nothing where there is none."""
    if isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"
