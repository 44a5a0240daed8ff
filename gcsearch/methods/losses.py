"""What a population minimises: cross-entropy and the terms that methods add to it.

Shapes: P members, C trained classes, A other names, B images of a batch, E embedding size. Text features are
[P, C + A, E], or [P, B, C + A, E] where the prompt depends on the image; all features have unit length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Losses(NamedTuple):
    """Per member [P]: what is minimised, and ProGrad's distillation loss where there is a teacher."""

    total: Tensor
    teacher: Tensor | None


class Anchored(NamedTuple):
    """A term that keeps text features near frozen zero-shot ones."""

    weight: Tensor  # [P]
    features: Tensor  # [P, C or A, E]

    def part(self, members: slice | Tensor) -> Anchored:
        """The term of some of the members."""
        return Anchored(self.weight[members], self.features[members])

    def __call__(self, text: Tensor) -> Tensor:
        """Weight times the mean of 1 - cos over names, and over images where each has its text: [P]."""
        anchors = self.features[:, None] if text.ndim == 4 else self.features
        return self.weight * (1 - (text * anchors).sum(-1).flatten(1).mean(1))


class Teacher(NamedTuple):
    """ProGrad's zero-shot CLIP, whose predictions are distilled."""

    temperature: Tensor  # [P]
    features: Tensor  # [P, C, E]
    scale: float

    def part(self, members: slice | Tensor) -> Teacher:
        """The teacher of some of the members."""
        return Teacher(self.temperature[members], self.features[members], self.scale)

    def __call__(self, logits: Tensor, images: Tensor) -> Tensor:
        """T^2 times the cross-entropy of the predictions against the teacher's, both at temperature T: [P]."""
        temperature = self.temperature[:, None, None]
        known = (self.scale * _similarity(images, self.features) / temperature).softmax(dim=-1)
        loss = -(known * (logits / temperature).log_softmax(dim=-1)).sum(-1).mean(1)
        return self.temperature.square() * loss


@dataclass(frozen=True)
class Objective:
    """The loss of each member.

        total = cross-entropy + kg_lambda (1 - mean_c <w_c, a_c>) + nfl_lambda (1 - mean_k <w_k, a_k>)

    with w the text features of the trained prompt, a frozen zero-shot features, c the trained classes and k
    the other names (KgCoOp: Yao et al. 2023, equation 6 with the authors' cosine in place of the squared
    distance; NFL: Ma et al. 2022).  ProGrad's second loss is the cross-entropy of the predictions against the
    zero-shot predictions at temperature T, times T^2 (Zhu et al. 2023, up to a constant).
    """

    scale: float
    """exp of CLIP's logit scale."""
    classes: int
    guidance: Anchored | None = None
    novel: Anchored | None = None
    teacher: Teacher | None = None

    def part(self, members: slice | Tensor) -> Objective:
        """The objective of some of the members."""
        return replace(
            self,
            guidance=self.guidance and self.guidance.part(members),
            novel=self.novel and self.novel.part(members),
            teacher=self.teacher and self.teacher.part(members),
        )

    def __call__(self, text: Tensor, images: Tensor, labels: Tensor) -> Losses:
        """The losses on images [P, B, E] with labels [P, B], positions among the trained classes."""
        own, other = text[..., : self.classes, :], text[..., self.classes :, :]
        logits = self.scale * _similarity(images, own)  # [P, B, C]
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        total = total.unflatten(0, labels.shape).mean(1)
        if self.guidance is not None:
            total = total + self.guidance(own)
        if self.novel is not None:
            total = total + self.novel(other)
        return Losses(total, None if self.teacher is None else self.teacher(logits, images))


def _similarity(images: Tensor, text: Tensor) -> Tensor:
    """Inner products [P, B, C] of images [P, B, E] with text [P, C, E] or, per image, [P, B, C, E]."""
    if text.ndim == 4:
        return torch.einsum("pbe,pbce->pbc", images, text)
    return images @ text.mT
