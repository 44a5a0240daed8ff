"""What trained context vectors lie near to, in words of the vocabulary.

Read with care: a context vector is a point between words, far from all of them, and the nearest word says little about
what it does.  So the distances stand beside the words, with the length of the vector and of a usual word.

Shapes: n context vectors, D text width, C classes, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gcsearch.clip.model import Backbone


class Word(NamedTuple):
    """A word of the vocabulary with its Euclidean distance to a context vector."""

    text: str
    distance: float


def vocabulary(backbone: Backbone) -> Tensor:
    """Ids [V] of the tokens that the model has an embedding of: without markers, and rows that are all zero.

    The bundled model knows only the words of its captions; all other rows of its table are zero.
    """
    known = backbone.tower.token_embedding.any(dim=1)
    known[[backbone.tower.start, backbone.tower.end]] = False
    return known.nonzero()[:, 0]


def nearest(backbone: Backbone, context: Tensor, count: int = 5) -> list[list[Word]]:
    """The `count` words of least Euclidean distance to each row of `context` [n, D], nearest first."""
    ids = vocabulary(backbone)
    table = backbone.tower.token_embedding[ids]
    distances = torch.cdist(context.to(table.device), table, compute_mode="donot_use_mm_for_euclid_dist")
    found, places = distances.topk(min(count, len(ids)), largest=False)
    return [
        [Word(backbone.word(int(ids[p])), float(d)) for p, d in zip(row, near, strict=True)]
        for row, near in zip(places, found, strict=True)
    ]


def write_up(
    backbone: Backbone, contexts: dict[int, Tensor], *, names: Sequence[str] = (), conditional: bool = False
) -> str:
    """The nearest words of every seed's context vectors, as Markdown.

    Args:
        contexts: seed to [n, D], or class-specific to [C, n, D].
        names: the classes of class-specific vectors.
        conditional: whether the vectors are shifted for every image.
    """
    lengths = backbone.tower.token_embedding[vocabulary(backbone)].norm(dim=1)
    lines = [
        "# Nearest words",
        "",
        f"The words of the model's vocabulary ({len(lengths)} tokens) with the least Euclidean distance to each "
        "trained context vector. A dash behind a word: another token must follow it. A word's own embedding has the "
        f"median length {float(lengths.median()):.3f}; where the distances are as large, the vector is near no word.",
    ]
    if conditional:
        lines += ["", "These are the vectors before the small network shifts them for each image."]
    for seed, context in contexts.items():
        parts = dict(zip(names, context, strict=True)) if context.ndim == 3 else {"": context}
        for name, part in parts.items():
            lines += ["", f"## Seed {seed}{f', {name}' if name else ''}", "", *_table(backbone, part)]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """A token as code in a cell of a Markdown table, also one that is made of what Markdown takes for its own."""
    text = text.replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _table(backbone: Backbone, context: Tensor) -> list[str]:
    rows = ["| vector | length | nearest words (distance) |", "|---:|---:|---|"]
    for index, (vector, found) in enumerate(zip(context, nearest(backbone, context), strict=True), start=1):
        words = ", ".join(f"{_code(word.text)} ({word.distance:.3f})" for word in found)
        rows.append(f"| {index} | {float(vector.norm()):.3f} | {words} |")
    return rows
