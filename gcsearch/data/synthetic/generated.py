"""Worlds by seed: as many data sets as one asks for, each a draw of its own from the same ranges.

`world:7` differs from `world:8` in style, objects, colours, patterns, number of classes, how alike these are, clutter,
colour cast and noise, and with them in how well the bundled model knows it without training: its base classes, its
new ones, and the gap between them.  The same seed describes the same world everywhere: only `random.Random.random` is
asked, whose numbers Python promises not to change.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product
from typing import TypeVar

from gcsearch.data.synthetic.drawing import COLOURS, PATTERNS, SHAPES, Look
from gcsearch.data.synthetic.styles import STYLES, Finish

T = TypeVar("T")

GENERATION = 1
"""Goes up whenever the same seed would describe another world."""

FEWEST, MOST = 10, 60
"""Classes of a world, base and new."""


class Draw:
    """Draws from one seed; each by `random` alone."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(1_000_003 * seed + GENERATION).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def count(self, low: int, high: int) -> int:
        return low + int((high - low + 1) * self._random())

    def pick(self, items: Sequence[T]) -> T:
        return items[int(len(items) * self._random())]

    def order(self, items: Sequence[T]) -> list[T]:
        left, drawn = list(items), []
        while left:
            drawn.append(left.pop(int(len(left) * self._random())))
        return drawn


def style(draw: Draw) -> str:
    return draw.pick(tuple(STYLES))


def finish(draw: Draw) -> Finish:
    """Half of the worlds have a colour cast, most have noise."""
    photo = draw.between(0.1, 0.8)
    strength = max(draw.between(-0.3, 0.3), 0.0)
    cast = tuple(round(math.exp(strength * draw.between(-1, 1)), 3) for _ in range(3))
    noise = max(draw.between(-0.05, 0.09), 0.0)
    return Finish(photo=round(photo, 3), cast=(cast[0], cast[1], cast[2]), noise=round(noise, 3))


def class_names(draw: Draw) -> tuple[str, ...]:
    """The base half, then the new half: from the same words, or each from words of its own.

    Few words make classes that are like one another, many make classes that differ.
    """
    half = round(math.exp(draw.between(math.log(FEWEST / 2), math.log(MOST / 2))))
    shared = draw.between(0, 1) < 0.5
    words = _words(draw, 2 * half if shared else half)
    base = words[:half]
    new = words[half:] if shared else _words(draw, half, without=base)
    return tuple(look.name for look in (*base, *new))


def _words(draw: Draw, count: int, without: Sequence[Look] = ()) -> list[Look]:
    """So many looks from the first few shapes, colours and patterns of a random order each."""
    orders = [draw.order(tuple(SHAPES)), draw.order(tuple(COLOURS)), draw.order(PATTERNS)]
    sizes = [draw.count(3, 16), draw.count(2, 12), draw.count(1, 4)]
    while True:
        pools = [order[:size] for order, size in zip(orders, sizes, strict=True)]
        looks = [look for look in (Look(*words) for words in product(*pools)) if look not in without]
        if len(looks) >= count:
            return draw.order(looks)[:count]
        shortest = min(range(2), key=lambda kind: sizes[kind])
        sizes[shortest] += 1
