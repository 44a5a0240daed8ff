"""What a population minimises: cross-entropy and the terms that methods add to it.

Shapes: P members, C trained classes, A other names, B images of a batch, E embedding size. Text features are
[P, C + A, E], or [P, B, C + A, E] where the prompt depends on the image; all features have unit length.
Functions import torch where they compute, so that a wrong hyperparameter is refused in milliseconds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from gcsearch.config.base import Count, Value
from gcsearch.errors import InputError
from gcsearch.methods.base import Names, NotNegative, Part, Positive
from gcsearch.methods.prompts import template_features
from gcsearch.methods.rules import align_with_teacher

if TYPE_CHECKING:
    from torch import Tensor

    from gcsearch.clip.model import Backbone


class Forward(NamedTuple):
    """What one pass through the prompts gives on a batch."""

    own: Tensor  # [P, C, E] or [P, B, C, E], text features of the trained classes
    other: Tensor  # [P, A, E] or [P, B, A, E], those of the other names
    images: Tensor  # [P, B, E]
    labels: Tensor  # [P, B], positions among the trained classes
    logits: Tensor  # [P, B, C]
    scale: float


class Loss(Part):
    """A term that is added to the cross-entropy."""

    ensemble: ClassVar[bool] = False
    """Whether its zero-shot features are the mean over an ensemble of templates."""

    @property
    def squares_rate(self) -> bool:
        """Whether the cosine factor of the learning rate is squared."""
        return False

    def other_names(self, names: Names) -> Sequence[str]:
        """Names beside the trained ones whose text features the term reads."""
        return ()

    def anchored_names(self, names: Names) -> Sequence[str]:
        """Names whose zero-shot features the term reads."""
        return ()

    @abstractmethod
    def term(self, forward: Forward, anchors: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        """What is added, [P]; `anchors` are the zero-shot features [P, N, E] of `anchored_names`."""


class ZeroShotGuidance(Loss):
    """`kg_lambda` times the mean distance 1 - cos to the zero-shot features of the classes.

    KgCoOp: Yao et al. 2023, equation 6 with the authors' cosine in place of the squared distance.
    `kgcoop_lr = "squared"` reproduces the published code's doubled scheduler: the cosine factor of the rate
    is squared. kg_lambda = 0 is CoOp.
    """

    kind: ClassVar[str | None] = "guidance"

    kg_lambda: NotNegative = 8.0
    kgcoop_lr: Literal["single", "squared"] = "single"

    @property
    def squares_rate(self) -> bool:
        return self.kgcoop_lr == "squared"

    def anchored_names(self, names: Names) -> Sequence[str]:
        return names.trained

    def term(self, forward: Forward, anchors: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        return numbers["kg_lambda"] * distance(forward.own, anchors)


class NovelNames(Loss):
    """Novel feature learner: `nfl_lambda` times the mean distance 1 - cos to zero-shot features of other names.

    NFL: Ma et al. 2022. `nfl_names = "clean"` takes at most `nfl_count` names that are no class of the data set;
    "transductive" takes the names of the very classes that the result is measured on, as the published base-to-new
    experiments do. nfl_lambda = 0 is CoOp.
    """

    kind: ClassVar[str | None] = "novel"
    ensemble: ClassVar[bool] = True

    nfl_lambda: NotNegative = 1.0
    nfl_names: Literal["clean", "transductive"] = "clean"
    nfl_count: Count = 100

    @property
    def tags(self) -> tuple[str, ...]:
        return ("transductive",) if self.nfl_names == "transductive" else ()

    def check(self, hyperparameters: Mapping[str, Value | None]) -> None:
        if hyperparameters["class_specific"]:
            raise InputError(
                "NFL needs a context that fits names without images, and class-specific vectors fit none",
                key="class_specific",
                received=True,
                remedy="Leave class_specific = false.",
            )

    def other_names(self, names: Names) -> Sequence[str]:
        return names.new if self.nfl_names == "transductive" and names.new else names.others[: self.nfl_count]

    def anchored_names(self, names: Names) -> Sequence[str]:
        return self.other_names(names)

    def term(self, forward: Forward, anchors: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        return numbers["nfl_lambda"] * distance(forward.other, anchors)


class Teacher(Part):
    """ProGrad's zero-shot CLIP: the task gradient without its part that conflicts with what that knows.

    The part is taken away `prograd_lambda` times; the teacher's softmax has the temperature `temperature`
    (Zhu et al. 2023). prograd_lambda = 0 is CoOp.
    """

    kind: ClassVar[str | None] = "teacher"

    prograd_lambda: NotNegative = 1.0
    temperature: Positive = 1.0

    def loss(self, forward: Forward, anchors: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        """The cross-entropy of the predictions against zero-shot CLIP's, both at temperature T, times T^2: [P].

        That is the divergence from them, up to a constant. `anchors` are the classes' zero-shot features [P, C, E].
        """
        temperature = numbers["temperature"][:, None, None]
        known = (forward.scale * _similarity(forward.images, anchors) / temperature).softmax(dim=-1)
        loss = -(known * (forward.logits / temperature).log_softmax(dim=-1)).sum(-1).mean(1)
        return numbers["temperature"].square() * loss

    def align(self, task: Tensor, teacher: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        """The gradient [P, ...] that is taken, of those of the task and of the teacher's loss."""
        return align_with_teacher(task, teacher, numbers["prograd_lambda"])


def distance(text: Tensor, anchors: Tensor) -> Tensor:
    """The mean of 1 - cos over names, and over images where each has its text: [P]."""
    anchors = anchors[:, None] if text.ndim == 4 else anchors
    return 1 - (text * anchors).sum(-1).flatten(1).mean(1)


def _similarity(images: Tensor, text: Tensor) -> Tensor:
    """Inner products [P, B, C] of images [P, B, E] with text [P, C, E] or, per image, [P, B, C, E]."""
    import torch

    if text.ndim == 4:
        return torch.einsum("pbe,pbce->pbc", images, text)
    return images @ text.mT


class Losses(NamedTuple):
    """Per member [P]: what is minimised, and the teacher's loss where there is one."""

    total: Tensor
    teacher: Tensor | None


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of each member: cross-entropy among the trained classes, plus the term of each of `losses`."""

    scale: float
    """exp of CLIP's logit scale."""
    classes: int
    numbers: Mapping[str, Tensor]
    """The members' hyperparameters, each [P]."""
    losses: Sequence[tuple[Loss, Tensor]] = ()
    """Each with its zero-shot features."""
    teacher: tuple[Teacher, Tensor] | None = None

    def part(self, members: slice | Tensor) -> TrainingLoss:
        """The loss of some of the members."""
        return replace(
            self,
            numbers={name: vector[members] for name, vector in self.numbers.items()},
            losses=[(loss, anchors[members]) for loss, anchors in self.losses],
            teacher=(self.teacher[0], self.teacher[1][members]) if self.teacher else None,
        )

    def __call__(self, text: Tensor, images: Tensor, labels: Tensor) -> Losses:
        """The losses on images [P, B, E] with labels [P, B], positions among the trained classes."""
        import torch.nn.functional as F

        own, other = text[..., : self.classes, :], text[..., self.classes :, :]
        forward = Forward(own, other, images, labels, self.scale * _similarity(images, own), self.scale)
        total = F.cross_entropy(forward.logits.flatten(0, 1), labels.flatten(), reduction="none")
        total = total.unflatten(0, labels.shape).mean(1)
        for loss, anchors in self.losses:
            total = total + loss.term(forward, anchors, self.numbers)
        if self.teacher is None:
            return Losses(total, None)
        teacher, anchors = self.teacher
        return Losses(total, teacher.loss(forward, anchors, self.numbers))


def training_loss(
    backbone: Backbone,
    terms: Sequence[Sequence[Loss]],
    teacher: Teacher | None,
    template: str,
    names: Sequence[Names],
    numbers: Mapping[str, Tensor],
) -> TrainingLoss:
    """The loss of members with these terms and class names, with the zero-shot features that the terms refer to.

    The members have one structure. Which names a term refers to is each member's own: of NFL's some are clean.
    """
    import torch

    def zero_shot(wanted: Sequence[Sequence[str]], *, ensemble: bool) -> Tensor:
        known = list(dict.fromkeys(name for one in wanted for name in one))
        if not known:
            return torch.zeros(len(wanted), 0, backbone.embedding_size, device=backbone.tower.device)
        table = template_features(backbone, template, known, ensemble=ensemble)
        index = {name: row for row, name in enumerate(known)}
        return torch.stack([table[[index[name] for name in one]] for one in wanted])

    losses = []
    for same in zip(*terms, strict=True):
        wanted = [term.anchored_names(one) for term, one in zip(same, names, strict=True)]
        losses.append((same[0], zero_shot(wanted, ensemble=same[0].ensemble)))
    taught = (teacher, zero_shot([one.trained for one in names], ensemble=False)) if teacher else None
    return TrainingLoss(backbone.tower.logit_scale, len(names[0].trained), numbers, losses, taught)
