"""Prompts: context vectors and class names in, text features out.

Shapes: P members, n context vectors, C classes, Ls suffix positions, D text width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.backbone import Backbone, TextTower
from gcsearch.errors import InputError


@dataclass(frozen=True)
class Suffix:
    """What follows the context: name, full stop, EOT, padded with zeros after EOT (which nothing reads)."""

    embeddings: Tensor  # [G, C, Ls, D]
    eot: Tensor  # [G, C]

    def select(self, classes: Tensor) -> Suffix:
        """The suffixes of `classes` [P, C'] out of one shared table (G = 1): G = P."""
        return Suffix(self.embeddings[0][classes], self.eot[0][classes])


def suffix(backbone: Backbone, names: Sequence[str]) -> Suffix:
    """The suffix "name." of each class name, shared by all members (G = 1)."""
    return _pad(backbone.tower, [[*backbone.tokenize(f"{name}."), backbone.tower.end] for name in names])


def _pad(tower: TextTower, rows: Sequence[Sequence[int]]) -> Suffix:
    length = max(map(len, rows))
    embeddings = torch.zeros(1, len(rows), length, tower.width, device=tower.device)
    for index, row in enumerate(rows):
        embeddings[0, index, : len(row)] = tower.embed(row)
    eot = torch.tensor([[len(row) - 1 for row in rows]], device=tower.device)
    return Suffix(embeddings, eot)


def template_features(backbone: Backbone, template: str, names: Sequence[str]) -> Tensor:
    """Zero-shot text features [C, E] of `template` with each name in its slot, of unit length."""
    tower = backbone.tower
    rows = [[*backbone.tokenize(template.format(name.replace("_", " "))), tower.end] for name in names]
    filled = _pad(tower, rows)
    return tower.encode(tower.embed([tower.start])[None], filled.embeddings, filled.eot)[0]


def context_features(tower: TextTower, context: Tensor, names: Suffix) -> Tensor:
    """Text features [P, C, E] of the prompts "[V1]...[Vn] name." for context vectors [P, n, D]."""
    start = tower.embed([tower.start]).expand(context.shape[0], -1, -1)
    return tower.encode(torch.cat([start, context], dim=1), names.embeddings, names.eot)


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
            remedy=f"Set n_ctx={len(tokens)} or shorten the words.",
        )
    context = torch.zeros(n_ctx, backbone.tower.width)
    context[n_ctx - len(tokens) :] = backbone.tower.embed(tokens).cpu()
    return context
