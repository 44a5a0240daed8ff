"""Prompts: what a member trains, and how it and the class names become text features.

A member's *parameters* are one tensor: context vectors [n, D], with class-specific context [C, n, D], for
CoCoOp one flat vector [K] of context and meta-net (see `Context.named`).  A population stacks them along P.

Shapes: P members, n context vectors, C classes, D text width, E embedding size, B images of a batch.
Functions import torch where they compute, so that a wrong hyperparameter is refused in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gcsearch.errors import InputError
from gcsearch.methods.base import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gcsearch.clip.model import Backbone
    from gcsearch.clip.packing import Row
    from gcsearch.clip.text_tower import Suffix, TextTower

ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that the CLIP authors selected for ensembles, beside the data set's own."""


# --- Hand-written prompts -------------------------------------------------------------------------------


class Template(Part):
    """The task's template, and no training; `ensemble` averages it with seven further templates."""

    ensemble: bool = False

    @property
    def tags(self) -> tuple[str, ...]:
        return ("ensemble",) if self.ensemble else ()

    def features(self, backbone: Backbone, template: str, names: Sequence[str]) -> Tensor:
        """Text features [C, E] of unit length, on the CPU."""
        return template_features(backbone, template, names, ensemble=self.ensemble).cpu()


def template_features(backbone: Backbone, template: str, names: Sequence[str], *, ensemble: bool = False) -> Tensor:
    """Zero-shot text features [C, E] of `template` with each name in its slot, of unit length.

    With `ensemble` the unit features of `template` and of `ENSEMBLE` are averaged and brought to unit length.
    """
    import torch
    import torch.nn.functional as F

    tower = backbone.tower
    features = []
    with torch.no_grad():
        for one in dict.fromkeys((*ENSEMBLE, template)) if ensemble else (template,):
            rows = [[*backbone.tokenize(one.format(name.replace("_", " "))), tower.end] for name in names]
            features.append(tower.encode(tower.embed([tower.start])[None], tower.pack([rows]))[0])
    every = torch.stack(features)
    return F.normalize(every.mean(0), dim=-1) if ensemble else every[0]


# --- What is trained ------------------------------------------------------------------------------------


class Context(Part):
    """Context vectors around the class name.

    `n_ctx` vectors at the `position` end (before the class name), front (after it) or middle (half of them on
    each side) start as the embeddings of `ctx_init`, or from N(0, 0.02^2) where it is empty. With
    `class_specific` every class has vectors of its own; they say nothing about other classes, so only base
    accuracy is measured.
    """

    per_image: ClassVar[bool] = False
    """Whether the text features depend on the image."""

    n_ctx: Annotated[int, Field(ge=1, le=64)] = 4
    ctx_init: str = "a photo of a"
    class_specific: bool = False
    position: Literal["end", "middle", "front"] = "end"

    @property
    def tags(self) -> tuple[str, ...]:
        return ("class-specific",) if self.class_specific else ()

    @property
    def structure(self) -> tuple[object, ...]:
        """What must be equal for two members to train in one population."""
        return self.n_ctx, self.class_specific, self.position

    @property
    def ahead(self) -> int:
        """How many of the context vectors stand before the class name."""
        return {"end": self.n_ctx, "middle": self.n_ctx // 2, "front": 0}[self.position]

    def sizes(self, backbone: Backbone, classes: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that are trained for `classes` classes."""
        shared = (self.n_ctx, backbone.tower.width)
        return {"ctx": (classes, *shared) if self.class_specific else shared}

    def named(self, backbone: Backbone, parameters: Tensor) -> dict[str, Tensor]:
        """A member's parameters, or [P, ...] of a population, as named tensors; views where that is possible."""
        return {"ctx": parameters}

    def start(self, backbone: Backbone, classes: int, generator: torch.Generator) -> Tensor:
        """What training starts from. All random numbers come from `generator`.

        Class-specific vectors are random ones of its own for each class, or the same words for all.
        InputError where the words of `ctx_init` have more tokens than there are context vectors.
        """
        if not self.class_specific:
            return initial_context(backbone, self.n_ctx, self.ctx_init, generator)
        shape = self.sizes(backbone, classes)["ctx"]
        if not self.ctx_init:
            return initial_context(backbone, classes * self.n_ctx, "", generator).reshape(shape)
        return initial_context(backbone, self.n_ctx, self.ctx_init, generator).expand(shape).clone()

    def features(self, texts: Prompts, parameters: Tensor, images: Tensor | None) -> Tensor:
        """See `Prompts.features`."""
        import torch

        start = texts.tower.embed([texts.tower.start]).expand(len(parameters), -1, -1)
        if self.class_specific:
            return texts.encode(start, parameters.flatten(1, 2))
        prefix = torch.cat([start, parameters[:, : self.ahead]], dim=1)
        return texts.encode(prefix, parameters[:, self.ahead :] if self.ahead < self.n_ctx else None)


class ConditionalContext(Context):
    """Context vectors shifted for each image by a small network of its features (CoCoOp)."""

    kind: ClassVar[str | None] = "prompt"
    per_image: ClassVar[bool] = True

    @model_validator(mode="after")
    def _shared_context_in_front_of_the_name(self) -> Self:
        if self.class_specific or self.position != "end":
            raise InputError(
                "CoCoOp shifts one shared context in front of the class name",
                key="class_specific" if self.class_specific else "position",
                received=self.class_specific or self.position,
                remedy='Leave class_specific = false and position = "end".',
            )
        return self

    def sizes(self, backbone: Backbone, classes: int) -> dict[str, tuple[int, ...]]:
        width, joint = backbone.tower.width, backbone.embedding_size
        hidden = joint // 16
        return {
            "ctx": (self.n_ctx, width),
            "meta_net.linear1.weight": (hidden, joint),
            "meta_net.linear1.bias": (hidden,),
            "meta_net.linear2.weight": (width, hidden),
            "meta_net.linear2.bias": (width,),
        }

    def named(self, backbone: Backbone, parameters: Tensor) -> dict[str, Tensor]:
        sizes = self.sizes(backbone, 0)
        parts = parameters.split([math.prod(size) for size in sizes.values()], dim=-1)
        return {name: part.unflatten(-1, size) for (name, size), part in zip(sizes.items(), parts, strict=True)}

    def start(self, backbone: Backbone, classes: int, generator: torch.Generator) -> Tensor:
        """The context's start, and of the meta-net uniform in +-1/sqrt(inputs), torch's own start of a linear layer."""
        import torch

        parts = [super().start(backbone, classes, generator).flatten()]
        fan_in = 0
        for name, size in list(self.sizes(backbone, classes).items())[1:]:
            fan_in = size[1] if name.endswith("weight") else fan_in
            parts.append(((torch.rand(size, generator=generator) * 2 - 1) / math.sqrt(fan_in)).flatten())
        return torch.cat(parts)

    def features(self, texts: Prompts, parameters: Tensor, images: Tensor | None) -> Tensor:
        import torch

        if images is None:
            raise TypeError("image-conditioned prompts need images")
        contexts = self._shifted(texts.backbone, parameters, images)  # [P, B, n, D]
        size = texts.images or images.shape[1]
        piecewise = size < images.shape[1]
        return torch.cat([_of_each_image(texts, part, piecewise) for part in contexts.split(size, dim=1)], dim=1)

    def _shifted(self, backbone: Backbone, parameters: Tensor, images: Tensor) -> Tensor:
        """Contexts [P, B, n, D]: every vector shifted by the meta-net's output for the image."""
        net = self.named(backbone, parameters)
        hidden = (images @ net["meta_net.linear1.weight"].mT + net["meta_net.linear1.bias"][:, None]).relu()
        shift = hidden @ net["meta_net.linear2.weight"].mT + net["meta_net.linear2.bias"][:, None]
        return net["ctx"][:, None] + shift[:, :, None]


def _of_each_image(texts: Prompts, contexts: Tensor, piecewise: bool) -> Tensor:
    """Features [P, B, C, E] of contexts [P, B, n, D]."""
    import torch

    members, images = contexts.shape[:2]
    start = texts.tower.embed([texts.tower.start]).expand(members * images, -1, -1)
    prefix = torch.cat([start, contexts.flatten(0, 1)], dim=1)
    (suffix,) = texts.suffixes
    features = _again(texts.tower, prefix, suffix, None) if piecewise else texts.tower.encode(prefix, suffix)
    return features.unflatten(0, (members, images))


def initial_context(backbone: Backbone, n_ctx: int, words: str, generator: torch.Generator) -> Tensor:
    """Start values [n, D]: the embeddings of `words`, or N(0, 0.02^2) from `generator` where it is empty.

    Fewer tokens than `n_ctx` fill the last rows; the rows before them are zero, as in the GCSCoOp code.
    InputError where the words have more tokens than `n_ctx`.
    """
    import torch

    if not words:
        return torch.randn(n_ctx, backbone.tower.width, generator=generator) * 0.02
    tokens = backbone.tokenize(words)
    if len(tokens) > n_ctx:
        raise InputError(
            "ctx_init must not have more tokens than there are context vectors",
            key="ctx_init",
            received=f"{words!r} ({len(tokens)} tokens) with n_ctx={n_ctx}",
            remedy=f'Set n_ctx={len(tokens)} or more, shorten the words, or start at random with ctx_init = "".',
        )
    context = torch.zeros(n_ctx, backbone.tower.width)
    context[n_ctx - len(tokens) :] = backbone.tower.embed(tokens).cpu()
    return context


# --- From parameters to text features -------------------------------------------------------------------


@dataclass(frozen=True)
class Pieces:
    """How much goes through the text tower at once, so that what is kept for the backward pass fits.

    Members are independent: `members` of them are computed after one another at no extra cost. Where even
    one is too large, `classes` of its classes (for image-conditioned prompts: `images` of its batch) at a
    time are encoded, and encoded again in the backward pass.  None: all at once.
    """

    members: int | None = None
    classes: int | None = None
    images: int | None = None


@dataclass(frozen=True)
class Prompts:
    """The prompts of a population: what is trained, and each member's class names as packed suffixes."""

    backbone: Backbone
    context: Context
    suffixes: tuple[Suffix, ...]
    """One per piece of the classes, in their order."""
    images: int | None = None
    """Images of a batch that go through the tower at once, where the prompt depends on them."""

    @property
    def tower(self) -> TextTower:
        return self.backbone.tower

    @property
    def texts(self) -> int:
        """How many texts a member has, or one image of a member where the prompt depends on it."""
        return sum(suffix.classes for suffix in self.suffixes)

    def part(self, members: slice) -> Prompts:
        """The prompts of some of the members."""
        return replace(self, suffixes=tuple(suffix.part(members) for suffix in self.suffixes))

    def features(self, parameters: Tensor, images: Tensor | None = None) -> Tensor:
        """Text features of unit length, float32.

        Args:
            parameters: [P, ...].
            images: unit features [P, B, E]; only image-conditioned prompts read them.

        Returns:
            [P, C, E]; of image-conditioned prompts [P, B, C, E].
        """
        return self.context.features(self, parameters, images)

    def encode(self, prefix: Tensor, inserted: Tensor | None) -> Tensor:
        """Features [P, C, E] behind a shared prefix [P, Lp, D], with the rows [P, R, D] inserted behind it."""
        import torch

        if len(self.suffixes) == 1:
            return self.tower.encode(prefix, self.suffixes[0], inserted)
        return torch.cat([_again(self.tower, prefix, suffix, inserted) for suffix in self.suffixes], dim=1)


def _again(tower: TextTower, prefix: Tensor, suffix: Suffix, inserted: Tensor | None) -> Tensor:
    """`tower.encode` that keeps nothing for the backward pass and is computed again there."""
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return tower.encode(prefix, suffix, inserted)
    features: Tensor = checkpoint(tower.encode, prefix, suffix, inserted, use_reentrant=False, preserve_rng_state=False)
    return features


def prompts(backbone: Backbone, context: Context, names: Sequence[Sequence[str]], pieces: Pieces = Pieces()) -> Prompts:
    """The prompts of a population whose member p has the class names `names[p]`; one entry: all the same.

    InputError where the longest of them does not fit the text tower.
    """
    distinct = names if any(one != names[0] for one in names) else names[:1]
    size = pieces.classes or len(names[0])
    starts = range(0, len(names[0]), size)
    suffixes = [
        backbone.tower.pack([_rows(backbone, context, one, range(start, start + size)) for one in distinct])
        for start in starts
    ]
    return Prompts(backbone, context, tuple(suffixes), pieces.images)


def suffix_tokens(backbone: Backbone, context: Context, names: Sequence[str]) -> int:
    """Token positions behind the shared prefix, of all `names` together."""
    return sum(map(len, _rows(backbone, context, names, range(len(names)))))


def _rows(backbone: Backbone, context: Context, names: Sequence[str], classes: range) -> list[Row]:
    """What follows the shared prefix for each of `classes`: name and full stop, with slots for context rows.

    The slot of row k of what is inserted is written -(k + 1).
    """
    end, n = backbone.tower.end, context.n_ctx
    rows: list[Row] = []
    for index, name in list(enumerate(names))[classes.start : classes.stop]:
        sentence = backbone.tokenize(f"{name}.")
        length = len(backbone.tokenize(name))
        # With class-specific vectors all n of the class are inserted, else those that are not in the prefix.
        first = index * n if context.class_specific else 0
        count = n if context.class_specific else n - context.ahead
        slots = [-(first + k + 1) for k in range(count)]
        before = slots[: context.ahead] if context.class_specific else []
        behind = slots[len(before) :]
        rows.append([*before, *sentence[:length], *behind, *sentence[length:], end])
    return rows
