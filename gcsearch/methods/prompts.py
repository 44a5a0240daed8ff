"""Prompts: what a member trains, and how it and the class names become text features.

A member's *parameters* are one tensor: context vectors [n, D], with class-specific context [C, n, D], for
CoCoOp one flat vector [K] of context and meta-net (see `named`).  A population stacks them along P.

Shapes: P members, n context vectors, C classes, D text width, E embedding size, B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gcsearch.clip.model import Backbone
from gcsearch.clip.packing import Row
from gcsearch.clip.text_tower import Suffix, TextTower
from gcsearch.errors import InputError
from gcsearch.methods.registry import CoCoOp, Trained

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


def template_features(backbone: Backbone, template: str, names: Sequence[str], *, ensemble: bool = False) -> Tensor:
    """Zero-shot text features [C, E] of `template` with each name in its slot, of unit length.

    With `ensemble` the unit features of `template` and of `ENSEMBLE` are averaged and brought to unit length.
    """
    templates = dict.fromkeys((*ENSEMBLE, template)) if ensemble else (template,)
    features = torch.stack([_template_features(backbone, one, names) for one in templates])
    return F.normalize(features.mean(0), dim=-1) if ensemble else features[0]


@torch.no_grad()
def _template_features(backbone: Backbone, template: str, names: Sequence[str]) -> Tensor:
    tower = backbone.tower
    rows = [[*backbone.tokenize(template.format(name.replace("_", " "))), tower.end] for name in names]
    return tower.encode(tower.embed([tower.start])[None], tower.pack([rows]))[0]


# --- What is trained ------------------------------------------------------------------------------------


def tensor_sizes(backbone: Backbone, method: Trained, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that `method` trains for `classes` classes."""
    width, joint = backbone.tower.width, backbone.embedding_size
    if method.class_specific:
        return {"ctx": (classes, method.n_ctx, width)}
    if isinstance(method, CoCoOp):
        hidden = joint // 16
        return {
            "ctx": (method.n_ctx, width),
            "meta_net.linear1.weight": (hidden, joint),
            "meta_net.linear1.bias": (hidden,),
            "meta_net.linear2.weight": (width, hidden),
            "meta_net.linear2.bias": (width,),
        }
    return {"ctx": (method.n_ctx, width)}


def named(backbone: Backbone, method: Trained, parameters: Tensor) -> dict[str, Tensor]:
    """A member's parameters, or [P, ...] of a population, as named tensors; views where that is possible."""
    if not isinstance(method, CoCoOp):
        return {"ctx": parameters}
    sizes = tensor_sizes(backbone, method, 0)
    parts = parameters.split([math.prod(size) for size in sizes.values()], dim=-1)
    return {name: part.unflatten(-1, size) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def initial_parameters(backbone: Backbone, method: Trained, classes: int, generator: torch.Generator) -> Tensor:
    """What training starts from. All random numbers come from `generator`.

    Context: `initial_context`, with class-specific vectors random ones of its own for each class, or the same
    words for all. Meta-net: uniform in +-1/sqrt(inputs), torch's own start of a linear layer.
    InputError where the words of `ctx_init` have more tokens than there are context vectors.
    """
    sizes = tensor_sizes(backbone, method, classes)
    if method.class_specific:
        count = classes * method.n_ctx
        if not method.ctx_init:
            return initial_context(backbone, count, "", generator).reshape(sizes["ctx"])
        return initial_context(backbone, method.n_ctx, method.ctx_init, generator).expand(sizes["ctx"]).clone()
    context = initial_context(backbone, method.n_ctx, method.ctx_init, generator)
    if not isinstance(method, CoCoOp):
        return context
    parts = [context.flatten()]
    fan_in = 0
    for name, size in list(sizes.items())[1:]:
        fan_in = size[1] if name.endswith("weight") else fan_in
        parts.append(((torch.rand(size, generator=generator) * 2 - 1) / math.sqrt(fan_in)).flatten())
    return torch.cat(parts)


def initial_context(backbone: Backbone, n_ctx: int, words: str, generator: torch.Generator) -> Tensor:
    """Start values [n, D]: the embeddings of `words`, or N(0, 0.02^2) from `generator` where it is empty.

    Fewer tokens than `n_ctx` fill the last rows; the rows before them are zero, as in the GCSCoOp code.
    InputError where the words have more tokens than `n_ctx`.
    """
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
    """The prompts of a population: which method, and each member's class names as packed suffixes."""

    backbone: Backbone
    method: Trained
    suffixes: tuple[Suffix, ...]
    """One per piece of the classes, in their order."""
    images: int | None = None
    """Images of a batch that go through the tower at once, where the prompt depends on them."""

    @property
    def tower(self) -> TextTower:
        return self.backbone.tower

    @property
    def conditional(self) -> bool:
        """Whether the text features depend on the image."""
        return isinstance(self.method, CoCoOp)

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
        if not self.conditional:
            return self._encode(*self._embed(parameters))
        if images is None:
            raise TypeError("image-conditioned prompts need images")
        contexts = self._conditioned(parameters, images)  # [P, B, n, D]
        size = self.images or images.shape[1]
        parts = [self._encode_images(part, piecewise=size < images.shape[1]) for part in contexts.split(size, dim=1)]
        return torch.cat(parts, dim=1)

    def _embed(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """The shared prefix [P, Lp, D] and what is inserted behind it [P, R, D]."""
        start = self.tower.embed([self.tower.start]).expand(len(parameters), -1, -1)
        if self.method.class_specific:
            return start, parameters.flatten(1, 2)
        ahead = _ahead(self.method)
        prefix = torch.cat([start, parameters[:, :ahead]], dim=1)
        return prefix, parameters[:, ahead:] if ahead < self.method.n_ctx else None

    def _encode(self, prefix: Tensor, inserted: Tensor | None) -> Tensor:
        if len(self.suffixes) == 1:
            return self.tower.encode(prefix, self.suffixes[0], inserted)
        return torch.cat([_again(self.tower, prefix, suffix, inserted) for suffix in self.suffixes], dim=1)

    def _conditioned(self, parameters: Tensor, images: Tensor) -> Tensor:
        """CoCoOp's contexts [P, B, n, D]: every vector shifted by the meta-net's output for the image."""
        net = named(self.backbone, self.method, parameters)
        hidden = F.relu(images @ net["meta_net.linear1.weight"].mT + net["meta_net.linear1.bias"][:, None])
        shift = hidden @ net["meta_net.linear2.weight"].mT + net["meta_net.linear2.bias"][:, None]
        return net["ctx"][:, None] + shift[:, :, None]

    def _encode_images(self, contexts: Tensor, *, piecewise: bool) -> Tensor:
        members, images = contexts.shape[:2]
        start = self.tower.embed([self.tower.start]).expand(members * images, -1, -1)
        prefix = torch.cat([start, contexts.flatten(0, 1)], dim=1)
        (suffix,) = self.suffixes
        features = _again(self.tower, prefix, suffix, None) if piecewise else self.tower.encode(prefix, suffix)
        return features.unflatten(0, (members, images))


def _again(tower: TextTower, prefix: Tensor, suffix: Suffix, inserted: Tensor | None) -> Tensor:
    """`tower.encode` that keeps nothing for the backward pass and is computed again there."""
    if not torch.is_grad_enabled():
        return tower.encode(prefix, suffix, inserted)
    features: Tensor = checkpoint(tower.encode, prefix, suffix, inserted, use_reentrant=False, preserve_rng_state=False)
    return features


def prompts(backbone: Backbone, method: Trained, names: Sequence[Sequence[str]], pieces: Pieces = Pieces()) -> Prompts:
    """The prompts of a population whose member p has the class names `names[p]`; one entry: all the same.

    InputError where the longest of them does not fit the text tower.
    """
    distinct = names if any(one != names[0] for one in names) else names[:1]
    size = pieces.classes or len(names[0])
    starts = range(0, len(names[0]), size)
    suffixes = [
        backbone.tower.pack([_rows(backbone, method, one, range(start, start + size)) for one in distinct])
        for start in starts
    ]
    return Prompts(backbone, method, tuple(suffixes), pieces.images)


def suffix_tokens(backbone: Backbone, method: Trained, names: Sequence[str]) -> int:
    """Token positions behind the shared prefix, of all `names` together."""
    return sum(map(len, _rows(backbone, method, names, range(len(names)))))


def _rows(backbone: Backbone, method: Trained, names: Sequence[str], classes: range) -> list[Row]:
    """What follows the shared prefix for each of `classes`: name and full stop, with slots for context rows.

    The slot of row k of what is inserted is written -(k + 1).
    """
    end, n = backbone.tower.end, method.n_ctx
    rows: list[Row] = []
    for index, name in list(enumerate(names))[classes.start : classes.stop]:
        sentence = backbone.tokenize(f"{name}.")
        length = len(backbone.tokenize(name))
        # With class-specific vectors all n of the class are inserted, else those that are not in the prefix.
        first = index * n if method.class_specific else 0
        count = n if method.class_specific else n - _ahead(method)
        slots = [-(first + k + 1) for k in range(count)]
        before = slots[: _ahead(method)] if method.class_specific else []
        behind = slots[len(before) :]
        rows.append([*before, *sentence[:length], *behind, *sentence[length:], end])
    return rows


def _ahead(method: Trained) -> int:
    """How many of the context vectors stand before the class name."""
    return {"end": method.n_ctx, "middle": method.n_ctx // 2, "front": 0}[method.position]
