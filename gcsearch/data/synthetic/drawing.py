"""What the embedded worlds show: shapes, colours, patterns, and how they are laid out as a scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gcsearch.errors import unknown_name

RECIPE = 1
"""Goes up whenever the same seed would draw other pixels; folders of another recipe are refused."""

SIDE = 40
"""Pixels per image side; also the input size of the bundled model."""

OVERSAMPLING = 2
"""Scenes are painted at SIDE * OVERSAMPLING and averaged down, which smooths the edges."""

Floats = NDArray[np.float32]
Point = tuple[float, float]
Outline = tuple[Point, ...]


# ---------------------------------------------------------------------------------------------- shapes
# A shape is a list of (outline, filled) drawn in this order; filled = False cuts a hole.  Coordinates
# lie in [-1, 1] with y pointing down.


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0, points: int = 28) -> Outline:
    angles = [math.radians(start + (end - start) * i / (points - 1)) for i in range(points)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _polar(radius: Callable[[float], float], points: int = 60, turn: float = -90.0) -> Outline:
    angles = [2 * math.pi * i / points for i in range(points)]
    shift = math.radians(turn)
    return tuple((radius(a) * math.cos(a + shift), radius(a) * math.sin(a + shift)) for a in angles)


def _regular(corners: int, turn: float = -90.0) -> Outline:
    return _polar(lambda _: 1.0, corners, turn)


def _star() -> Outline:
    spikes = _regular(5)
    notches = tuple((0.42 * x, 0.42 * y) for x, y in _regular(5, turn=-54.0))
    return tuple(point for pair in zip(spikes, notches, strict=True) for point in pair)


def _heart() -> Outline:
    angles = [2 * math.pi * i / 40 for i in range(40)]
    return tuple(
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16 - 0.1,
        )
        for a in angles
    )


SHAPES: Mapping[str, tuple[tuple[Outline, bool], ...]] = MappingProxyType(
    {
        "circle": ((_arc(0, 0, 0.9, 0.9), True),),
        "square": ((((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), True),),
        "triangle": ((((0, -0.95), (0.95, 0.75), (-0.95, 0.75)), True),),
        "star": ((_star(), True),),
        "heart": ((_heart(), True),),
        "hexagon": ((_regular(6), True),),
        "diamond": ((((0, -1), (0.62, 0), (0, 1), (-0.62, 0)), True),),
        "ring": ((_arc(0, 0, 0.95, 0.95), True), (_arc(0, 0, 0.5, 0.5), False)),
        "crescent moon": ((_arc(0, 0, 0.95, 0.95, 50, 310) + _arc(0.36, 0, 0.75, 0.74, 285, 75), True),),
        "cross": (
            (
                (
                    *((-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32)),
                    *((0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32)),
                ),
                True,
            ),
        ),
        "arrow": (
            (
                ((0, -1), (0.8, -0.1), (0.33, -0.1), (0.33, 1), (-0.33, 1), (-0.33, -0.1), (-0.8, -0.1)),
                True,
            ),
        ),
        "raindrop": (((((0.0, -1.0), *_arc(0, 0.35, 0.62, 0.62, -30, 210))), True),),
        "flower": ((_polar(lambda a: 0.68 + 0.3 * math.cos(5 * a)), True), (_arc(0, 0, 0.2, 0.2), False)),
        "pine tree": (
            (((-0.16, 0.6), (0.16, 0.6), (0.16, 1), (-0.16, 1)), True),
            (
                (
                    *((0, -1), (0.42, -0.4), (0.22, -0.4), (0.62, 0.1), (0.34, 0.1), (0.8, 0.66)),
                    *((-0.8, 0.66), (-0.34, 0.1), (-0.62, 0.1), (-0.22, -0.4), (-0.42, -0.4)),
                ),
                True,
            ),
        ),
        "house": (
            (((0, -1), (0.95, -0.15), (0.72, -0.15), (0.72, 0.9), (-0.72, 0.9), (-0.72, -0.15), (-0.95, -0.15)), True),
            (((-0.2, 0.3), (0.2, 0.3), (0.2, 0.9), (-0.2, 0.9)), False),
        ),
        "fish": (
            (((0.3, 0), (1, -0.6), (0.82, 0), (1, 0.6)), True),
            (_arc(-0.25, 0, 0.75, 0.52), True),
            (_arc(-0.62, -0.14, 0.1, 0.1), False),
        ),
        "crown": (
            (
                ((-0.95, -0.6), (-0.5, 0.05), (0, -0.85), (0.5, 0.05), (0.95, -0.6), (0.8, 0.75), (-0.8, 0.75)),
                True,
            ),
        ),
        "lightning bolt": ((((0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.62, -0.25), (0.08, -0.25)), True),),
        "cloud": (
            (_arc(-0.5, 0.2, 0.45, 0.4), True),
            (_arc(0.5, 0.2, 0.45, 0.4), True),
            (_arc(0, -0.1, 0.52, 0.55), True),
            (((-0.5, 0.1), (0.5, 0.1), (0.5, 0.6), (-0.5, 0.6)), True),
        ),
        "mushroom": (
            (((-0.26, -0.05), (0.26, -0.05), (0.36, 0.95), (-0.36, 0.95)), True),
            (_arc(0, 0.05, 0.95, 0.95, 180, 360), True),
        ),
        "umbrella": (
            (((-0.07, -0.1), (0.07, -0.1), (0.07, 0.8), (0.36, 0.8), (0.36, 0.95), (-0.07, 0.95)), True),
            (
                _arc(0, 0, 1, 0.9, 180, 360)
                + _arc(0.66, 0, 0.33, 0.2, 0, -180, 8)
                + _arc(0, 0, 0.33, 0.2, 0, -180, 8)
                + _arc(-0.66, 0, 0.33, 0.2, 0, -180, 8),
                True,
            ),
        ),
        "sailboat": (
            (((-0.95, 0.4), (0.95, 0.4), (0.6, 0.9), (-0.6, 0.9)), True),
            (((-0.02, -1), (-0.02, 0.24), (-0.8, 0.24)), True),
            (((0.12, -0.75), (0.75, 0.24), (0.12, 0.24)), True),
        ),
        "key": (
            (((-0.13, 0), (0.13, 0), (0.13, 1), (-0.13, 1)), True),
            (((0.1, 0.45), (0.5, 0.45), (0.5, 0.6), (0.1, 0.6)), True),
            (((0.1, 0.8), (0.5, 0.8), (0.5, 0.97), (0.1, 0.97)), True),
            (_arc(0, -0.45, 0.52, 0.52), True),
            (_arc(0, -0.45, 0.22, 0.22), False),
        ),
        "butterfly": (
            (_arc(-0.5, -0.35, 0.48, 0.5), True),
            (_arc(0.5, -0.35, 0.48, 0.5), True),
            (_arc(-0.4, 0.45, 0.36, 0.42), True),
            (_arc(0.4, 0.45, 0.36, 0.42), True),
            (_arc(0, 0.05, 0.12, 0.75), True),
        ),
    }
)

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (214, 36, 36),
        "orange": (244, 136, 28),
        "yellow": (244, 214, 48),
        "green": (66, 178, 62),
        "dark green": (22, 88, 44),
        "turquoise": (44, 190, 178),
        "light blue": (134, 196, 242),
        "blue": (38, 76, 206),
        "purple": (132, 48, 178),
        "pink": (244, 130, 184),
        "brown": (124, 76, 40),
        "white": (244, 244, 240),
        "grey": (134, 136, 140),
        "black": (28, 26, 30),
    }
)

PATTERNS = ("plain", "striped", "spotted", "checkered", "two tone")
""""plain" is the pattern without a word: a "red star" is a plain one."""


# ---------------------------------------------------------------------------------------------- looks
@dataclass(frozen=True)
class Look:
    """What an image shows.  `colour` or `pattern` None: any, drawn anew for every image."""

    shape: str
    colour: str | None = None
    pattern: str | None = None

    @classmethod
    def parse(cls, name: str) -> Look:
        """The look that a class name describes: [colour] [pattern] shape.

        A shape alone ("butterfly") may have any colour and pattern; with a colour but no pattern word
        it is plain.
        """
        shape = next((word for word in SHAPES if name == word or name.endswith(" " + word)), None)
        if shape is None:
            raise unknown_name("shape at the end of a class name", name, SHAPES)
        rest = name.removesuffix(shape).strip()
        pattern = next((word for word in PATTERNS if rest == word or rest.endswith(" " + word)), None)
        colour = rest.removesuffix(pattern or "").strip() or None
        if colour is not None and colour not in COLOURS:
            raise unknown_name("colour at the start of a class name", colour, COLOURS)
        return cls(shape, colour, pattern or ("plain" if colour else None))

    @property
    def name(self) -> str:
        """The look in words; `Look.parse` is its inverse."""
        pattern = None if self.pattern == "plain" and self.colour else self.pattern
        return " ".join(word for word in (self.colour, pattern, self.shape) if word)


@dataclass(frozen=True)
class Scene:
    """An object in its place, before a style paints it.  All arrays are [S, S], S the painted side."""

    inside: Floats
    """1 inside the object, 0 outside."""
    line: Floats
    """1 on the outlines."""
    second: Floats
    """1 where the pattern shows its second colour (anywhere, also outside the object)."""
    colour: Floats
    """RGB in [0, 1], [3]."""
    other: Floats
    """RGB of the pattern's second colour, [3]."""
    clutter: tuple[tuple[Floats, Floats], ...]
    """(mask, RGB) of things that lie about and mean nothing."""
    rng: np.random.Generator

    @property
    def side(self) -> int:
        return int(self.inside.shape[0])

    def grain(self, sigma: float, cells: int | None = None) -> Floats:
        """Gaussian noise [S, S, 1]; with `cells`, smooth noise of that many bumps along a side."""
        cells = cells or self.side // OVERSAMPLING
        noise = self.rng.standard_normal((cells, cells), dtype=np.float32)
        picture = Image.fromarray(noise).resize((self.side, self.side), Image.Resampling.BICUBIC)
        bumps: Floats = sigma * np.asarray(picture, dtype=np.float32)[..., None]
        return bumps

    def coloured(self) -> Floats:
        """The object's surface [S, S, 3]: colour and pattern, no light."""
        return self.colour + self.second[..., None] * (self.other - self.colour)


def _place(points: Outline, pose: tuple[Floats, Floats]) -> list[Point]:
    turn, centre = pose
    moved = np.asarray(points, dtype=np.float32) @ turn.T + centre
    return [(float(x), float(y)) for x, y in moved]


def _pose(rng: np.random.Generator, side: int, low: float, high: float) -> tuple[Floats, Floats]:
    """A random place: matrix [2, 2] and centre [2] from shape coordinates to pixels."""
    size = rng.uniform(low, high) * side / 2
    angle = math.radians(rng.normal(0, 11))
    stretch = math.exp(rng.normal(0, 0.07))
    flip = rng.choice((-1.0, 1.0))
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([flip * size * stretch, size / stretch])
    room = max(side / 2 - size, 0.0) + 0.04 * side
    centre = side / 2 + rng.uniform(-room, room, size=2)
    return turn.astype(np.float32), centre.astype(np.float32)


def _draw(shape: str, pose: tuple[Floats, Floats], side: int, pen: int = 0) -> Floats:
    """Rasterises a shape as a mask [S, S] of 0 and 1; with `pen`, only its lines, that many pixels wide."""
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for outline, filled in SHAPES[shape]:
        points = _place(outline, pose)
        if pen:
            draw.line([*points, points[0]], fill=255, width=pen, joint="curve")
        else:
            draw.polygon(points, fill=255 if filled else 0)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _second_tone(rng: np.random.Generator, pattern: str, pose: tuple[Floats, Floats], side: int) -> Floats:
    """Where the pattern shows its second colour, fixed to the object: [S, S] of 0 and 1."""
    turn, centre = pose
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    inverse = np.linalg.inv(turn.astype(np.float64)).astype(np.float32)
    u = inverse[0, 0] * (columns - centre[0]) + inverse[0, 1] * (rows - centre[1])
    v = inverse[1, 0] * (columns - centre[0]) + inverse[1, 1] * (rows - centre[1])
    angle, shift = rng.uniform(-0.5, 0.5), rng.uniform(0, 1, size=2)
    u, v = math.cos(angle) * u - math.sin(angle) * v, math.sin(angle) * u + math.cos(angle) * v
    repeat = rng.uniform(1.9, 2.5)
    tone: Floats = np.zeros((side, side), np.float32)
    if pattern == "striped":
        tone[(v * repeat + shift[0]) % 1 < 0.48] = 1
    elif pattern == "spotted":
        x, y = (u * repeat + shift[0]) % 1 - 0.5, (v * repeat + shift[1]) % 1 - 0.5
        tone[x * x + y * y < 0.085] = 1
    elif pattern == "checkered":
        cells = np.floor(u * repeat * 1.3 + shift[0]) + np.floor(v * repeat * 1.3 + shift[1])
        tone[cells % 2 == 1] = 1
    elif pattern == "two tone":
        tone[u > 0.12 * (shift[0] - 0.5)] = 1
    return tone


def _shade(rng: np.random.Generator, colour: str, jitter: float) -> Floats:
    rgb = np.array(COLOURS[colour], dtype=np.float32) / 255
    return np.clip(rgb * math.exp(rng.normal(0, jitter)) + rng.normal(0, jitter / 3, 3), 0, 1).astype(np.float32)


def arrange(look: Look, rng: np.random.Generator, side: int, clutter: float) -> Scene:
    """An object and what lies about it, of `side` pixels; every random choice comes from `rng`, in a fixed order."""
    colours = tuple(COLOURS)
    colour = look.colour or str(rng.choice(colours))
    pattern = look.pattern or str(rng.choice(PATTERNS))
    pose = _pose(rng, side, 0.62, 0.92)
    rgb = _shade(rng, colour, 0.1)
    light = float(rgb.mean())
    # The second colour is a pale or a dark one, whichever stands out from the first.
    other = np.float32(0.95 if light < 0.55 else 0.12) + 0.12 * rgb
    things = []
    for _ in range(int(rng.poisson(clutter))):
        thing = _draw(str(rng.choice(tuple(SHAPES))), _pose(rng, side, 0.12, 0.3), side)
        things.append((thing, _shade(rng, str(rng.choice(colours)), 0.1)))
    return Scene(
        inside=_draw(look.shape, pose, side),
        line=_draw(look.shape, pose, side, pen=max(2, side // 32)),
        second=_second_tone(rng, pattern, pose, side),
        colour=rgb,
        other=np.clip(other, 0, 1).astype(np.float32),
        clutter=tuple(things),
        rng=rng,
    )
