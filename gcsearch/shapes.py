"""The embedded world: small image data sets that are drawn, not downloaded.

An object is a *look*: a shape, with or without a colour, with or without a pattern.  Its class name is
the same thing in words, "red striped star".  Each world draws its looks in one style and writes them as
an ordinary data set, so that everything behind it reads them like Oxford Pets:

    ROOT/<folder>/images/<class-slug>/<nnn>.png
    ROOT/<folder>/split_zhou_<Name>.json      {"train": [[path under images/, label, class name], ...], ...}
    ROOT/<folder>/world.json                  what it was drawn from, see `recipe`

Every image has a generator of its own, seeded by (seed, world, split, class, index): an image does not
depend on which others are drawn, or in which order.  The same Pillow and NumPy give the same bytes.

The worlds are a test bed.  Nothing measured on them is a result about photographs or about real CLIP.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from gcsearch.errors import InputError, unknown_name

__all__ = ["COLOURS", "PATTERNS", "SHAPES", "STYLES", "WORLDS", "Look", "World", "render", "write_dataset"]

RECIPE = 1
"""Goes up whenever the same seed would draw other pixels; folders of another recipe are refused."""

SIDE = 40
"""Pixels per image side; also the input size of the bundled model."""

OVERSAMPLING = 2
"""Scenes are painted at SIDE * OVERSAMPLING and averaged down, which smooths the edges."""

SPLITS = ("train", "val", "test")

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


def _scene(look: Look, rng: np.random.Generator, side: int, clutter: float) -> Scene:
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


# --------------------------------------------------------------------------------------------- styles
# A style paints a scene: Scene -> RGB [S, S, 3], about [0, 1].


def _over(canvas: Floats, paint: Floats, mask: Floats) -> Floats:
    return canvas + mask[..., None] * (paint - canvas)


def _soft(mask: Floats, radius: float) -> Floats:
    image = Image.fromarray((255 * np.clip(mask, 0, 1)).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / np.float32(255)


def _photo(scene: Scene) -> Floats:
    """Coloured ground with soft light, a shadow, a lit object, a little noise."""
    rng, side = scene.rng, scene.side
    ground = rng.uniform(0.25, 0.85, 3).astype(np.float32)
    slope = np.linspace(-1, 1, side, dtype=np.float32)[:, None, None] * np.float32(rng.normal(0, 0.12))
    canvas = ground + slope + scene.grain(0.07, 5)
    for thing, rgb in scene.clutter:
        canvas = _over(canvas, rgb, 0.8 * thing)
    shadow = np.roll(scene.inside, (3, int(rng.integers(-3, 4))), (0, 1))
    canvas = _over(canvas, canvas * 0.55, _soft(shadow, 2.5))
    lit = scene.coloured() * (1 + scene.grain(0.06, 4) - slope)
    canvas = _over(canvas, lit, scene.inside)
    return canvas * np.float32(math.exp(rng.normal(0, 0.12))) + scene.grain(0.025)


def _sketch(scene: Scene) -> Floats:
    """Pencil on paper: grey outlines, the colour as thin hatching that runs over the edge."""
    rng, side = scene.rng, scene.side
    canvas = np.float32(rng.uniform(0.84, 0.95)) + scene.grain(0.03) + scene.grain(0.03, 6)
    canvas = np.repeat(canvas, 3, axis=2)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    angle = rng.uniform(0, math.pi)
    hatch = (rows * math.sin(angle) + columns * math.cos(angle)) / rng.uniform(3.2, 4.6)
    strokes = ((hatch + scene.grain(0.25, 10)[..., 0]) % 1 < 0.55).astype(np.float32)
    for thing, _ in scene.clutter:
        canvas = _over(canvas, np.float32(0.55) * np.ones(3, np.float32), 0.6 * thing * strokes)
    faded = np.float32(0.3) + 0.62 * scene.colour
    body = np.clip(scene.inside + scene.grain(0.18, 12)[..., 0], 0, 1)
    canvas = _over(canvas, faded, 0.75 * body * strokes * (1 - 0.85 * scene.second))
    wobble = np.clip(scene.line * (0.85 + scene.grain(0.35, 14)[..., 0]), 0, 1)
    return _over(canvas, np.full(3, 0.22, np.float32), wobble)


def _night(scene: Scene) -> Floats:
    """Little, bluish light from one lamp, far lights out of focus, strong sensor noise."""
    rng, side = scene.rng, scene.side
    day = np.full((side, side, 3), rng.uniform(0.2, 0.4), np.float32) + scene.grain(0.08, 4)
    for thing, rgb in scene.clutter:
        day = _over(day, rgb, _soft(thing, 1.5))
    day = _over(day, scene.coloured(), scene.inside)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    lamp = rng.uniform(0.1, 0.9, 2)
    light = 0.12 + 0.55 * np.exp(-((rows - lamp[0]) ** 2 + (columns - lamp[1]) ** 2) / 0.35)
    dark = day * light[..., None].astype(np.float32) * np.array([0.72, 0.82, 1.15], np.float32)
    lit: Floats = dark + np.array([0.01, 0.02, 0.06], np.float32) + scene.grain(0.06)
    return lit


def _mosaic(scene: Scene) -> Floats:
    """Square tiles of one colour each, no two quite alike, with grout between them."""
    rng, side = scene.rng, scene.side
    ground = rng.uniform(0.3, 0.9, 3).astype(np.float32)
    if np.abs(ground - scene.colour).max() < 0.35:  # an object must not sink into its ground
        ground = np.where(ground > 0.6, ground - 0.4, ground + 0.35).astype(np.float32)
    canvas = np.broadcast_to(ground, (side, side, 3))
    for thing, rgb in scene.clutter:
        canvas = _over(canvas, rgb, thing)
    canvas = _over(canvas, scene.coloured(), scene.inside)
    step = 5 if side % 5 == 0 else 4
    cells = side // step
    tiles = canvas.reshape(cells, step, cells, step, 3).mean(axis=(1, 3))
    tiles = tiles * np.exp(rng.normal(0, 0.16, (cells, cells, 1))) + rng.normal(0, 0.08, tiles.shape)
    canvas = np.repeat(np.repeat(tiles.astype(np.float32), step, 0), step, 1)
    grout = np.zeros((side, side), np.float32)
    grout[::step] = grout[:, ::step] = 1
    return _over(canvas, np.full(3, rng.uniform(0.3, 0.6), np.float32), 0.7 * grout)


def _neon(scene: Scene) -> Floats:
    """Glass tubes in the dark: glowing outlines, the pattern as a faint glow inside."""
    canvas = np.full((scene.side, scene.side, 3), 0.05, np.float32) + scene.grain(0.02, 6)
    for thing, rgb in scene.clutter:
        canvas = canvas + 0.5 * _soft(thing, 3)[..., None] * rgb
    glow = scene.colour / max(float(scene.colour.max()), 0.35)
    canvas = canvas + 0.35 * (scene.inside * (1 - 0.9 * scene.second))[..., None] * glow
    canvas = canvas + 0.9 * _soft(scene.line, 3)[..., None] * glow
    tube = _soft(scene.line, 0.7)
    return _over(canvas, 0.45 + 0.55 * glow, tube) + scene.grain(0.02)


def _chalk(scene: Scene) -> Floats:
    """Dusty chalk on a dark board: pale colours with holes in them."""
    board = np.array([[0.13, 0.22, 0.18], [0.16, 0.17, 0.19]], np.float32)[int(scene.rng.integers(2))]
    canvas = board + scene.grain(0.02) + np.abs(scene.grain(0.05, 5))
    for thing, _ in scene.clutter:
        canvas = _over(canvas, np.full(3, 0.6, np.float32), 0.35 * thing)
    pale = 0.22 + 0.7 * scene.colour
    dust = np.clip(0.62 + scene.grain(0.5)[..., 0], 0, 1)
    canvas = _over(canvas, pale, scene.inside * dust * (1 - 0.85 * scene.second))
    return _over(canvas, np.float32(0.3) + 0.65 * pale, 0.8 * scene.line * dust)


def _watercolour(scene: Scene) -> Floats:
    """Thin paint on white paper: it bleeds over the edge, pools along it, and leaves blotches."""
    side = scene.side
    canvas = np.repeat(np.float32(0.94) + scene.grain(0.015), 3, axis=2)
    for thing, rgb in scene.clutter:
        canvas = canvas * (1 - 0.4 * _soft(thing, 2)[..., None] * (1 - rgb))
    bleed = np.clip(1.6 * _soft(scene.inside, 2) - 0.25 + scene.grain(0.12, 9)[..., 0], 0, 1)
    pigment = np.clip(0.75 + scene.grain(0.16, 5), 0.25, 1) + 0.25 * _soft(scene.line, 1)[..., None]
    # White paint would not show on white paper: it is drawn as a pale grey.
    tint = scene.colour * np.float32(0.82 if scene.colour.min() > 0.75 else 1)
    wash = np.broadcast_to(tint, (side, side, 3))
    surface = _over(wash, np.full(3, 0.92, np.float32), 0.85 * _soft(scene.second, 1))
    painted: Floats = canvas * (1 - bleed[..., None] * pigment * (1 - surface))
    return painted


STYLES: Mapping[str, Callable[[Scene], Floats]] = MappingProxyType(
    {
        "photo": _photo,
        "sketch": _sketch,
        "night": _night,
        "mosaic": _mosaic,
        "neon": _neon,
        "chalk": _chalk,
        "watercolour": _watercolour,
    }
)


def render(
    look: Look, style: str, rng: np.random.Generator, *, clutter: float = 0.0, side: int = SIDE
) -> NDArray[np.uint8]:
    """Draws one image; a pure function of its arguments and the state of `rng`.

    Args:
        look: what to show.
        style: a name in `STYLES`.
        rng: every random choice comes from here, in a fixed order.
        clutter: mean number (Poisson) of small meaningless things lying about.
        side: pixels per side.

    Returns:
        RGB, uint8 [side, side, 3].
    """
    if style not in STYLES:
        raise unknown_name("style", style, STYLES)
    scene = _scene(look, rng, side * OVERSAMPLING, clutter)
    canvas = STYLES[style](scene)
    small = canvas.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).mean(axis=(1, 3))
    rounded: NDArray[np.uint8] = (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


# --------------------------------------------------------------------------------------------- worlds
@dataclass(frozen=True, kw_only=True)
class World:
    """One data set of the embedded world."""

    name: str
    title: str
    """As in the split file's name."""
    style: str
    class_names: tuple[str, ...]
    """In the order of the labels; the first half is "base", the second "new"."""
    description: str
    train: int = 20
    """Images per class, also for the next two."""
    val: int = 16
    test: int = 40
    clutter: float = 0.5
    seed: int = 1

    @property
    def folder(self) -> str:
        return self.name.replace("-", "_")

    @property
    def split_file(self) -> str:
        return f"split_zhou_{self.title}.json"

    @property
    def counts(self) -> dict[str, int]:
        """Images per class in each split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def images(self) -> int:
        """All images of the data set."""
        return len(self.class_names) * sum(self.counts.values())

    def recipe(self, seed: int) -> dict[str, object]:
        """What decides every pixel; written beside the images, compared before they are reused."""
        return {
            "name": self.name,
            "recipe": RECIPE,
            "seed": seed,
            "style": self.style,
            "side": SIDE,
            "clutter": self.clutter,
            "counts": self.counts,
            "class_names": list(self.class_names),
        }

    def image(self, split: str, label: int, index: int, *, seed: int | None = None) -> NDArray[np.uint8]:
        """Draws image `index` of a class and split from the generator that belongs to it alone."""
        key = (zlib.crc32(self.name.encode()), SPLITS.index(split), label, index)
        sequence = np.random.SeedSequence((self.seed if seed is None else seed, *key))
        look = Look.parse(self.class_names[label])
        rng = np.random.Generator(np.random.PCG64(sequence))
        return render(look, self.style, rng, clutter=self.clutter)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


_WORLDS = (
    World(
        name="shapes-photo",
        title="ShapesPhoto",
        style="photo",
        description="24 objects as the bundled model knows them: lit, shaded, on coloured ground",
        class_names=_names(
            """red star, red striped star, orange fish, brown spotted fish, butterfly, blue circle,
            purple hexagon, yellow crown, dark green pine tree, grey checkered square, pink heart,
            light blue two tone umbrella,
            yellow star, green striped star, turquoise fish, black spotted fish, key, light blue circle,
            pink hexagon, red crown, brown pine tree, blue checkered square, red heart,
            orange two tone umbrella"""
        ),
    ),
    World(
        name="shapes-sketch",
        title="ShapesSketch",
        style="sketch",
        description="24 objects in pencil: grey outlines, the colour only as thin hatching",
        class_names=_names(
            """red star, blue striped star, orange fish, green spotted fish, butterfly, purple circle,
            blue hexagon, yellow crown, dark green pine tree, red checkered square, pink heart,
            light blue two tone umbrella,
            yellow star, green striped star, turquoise fish, brown spotted fish, key, red circle,
            orange hexagon, purple crown, brown pine tree, blue checkered square, red heart,
            dark green two tone lightning bolt"""
        ),
    ),
    World(
        name="shapes-night",
        title="ShapesNight",
        style="night",
        description="24 objects under one weak lamp, in bluish light with sensor noise",
        class_names=_names(
            """red house, white striped house, yellow arrow, blue spotted arrow, mushroom, green cross,
            pink ring, orange diamond, light blue cloud, green two tone sailboat, purple checkered triangle,
            white crescent moon,
            pink house, orange striped house, turquoise arrow, red spotted arrow, flower, yellow cross,
            blue ring, green diamond, grey cloud, red two tone sailboat, white checkered triangle,
            yellow crescent moon"""
        ),
    ),
    World(
        name="shapes-mosaic",
        title="ShapesMosaic",
        style="mosaic",
        description="20 objects laid in coarse tiles: colours are clear, outlines and patterns are not",
        class_names=_names(
            """red heart, orange heart, orange circle, orange diamond, blue diamond, purple square,
            pink cross, black arrow, green two tone raindrop, dark green pine tree,
            pink heart, brown heart, red circle, red diamond, purple diamond, blue square, red cross,
            yellow arrow, blue two tone raindrop, green pine tree"""
        ),
    ),
    World(
        name="shapes-neon",
        title="ShapesNeon",
        style="neon",
        description="20 objects as glowing tubes: outlines are clear, colours shine and run together",
        class_names=_names(
            """red key, blue striped fish, yellow lightning bolt, green crown, pink butterfly, umbrella,
            turquoise raindrop, purple spotted mushroom, orange house, white star,
            yellow key, pink striped fish, light blue lightning bolt, red crown, purple butterfly, sailboat,
            blue raindrop, green spotted mushroom, white house, orange star"""
        ),
    ),
    World(
        name="shapes-chalk",
        title="ShapesChalk",
        style="chalk",
        description="24 objects in dusty chalk on a dark board: pale colours, broken surfaces",
        class_names=_names(
            """white cloud, pink striped cloud, yellow flower, red spotted flower, orange triangle,
            blue checkered circle, green ring, purple diamond, cross, light blue crescent moon,
            turquoise two tone arrow, brown house,
            light blue cloud, yellow striped cloud, purple flower, blue spotted flower, green triangle,
            red checkered circle, white ring, orange diamond, hexagon, yellow crescent moon,
            pink two tone arrow, turquoise house"""
        ),
    ),
    World(
        name="shapes-many",
        title="ShapesMany",
        style="watercolour",
        description="48 objects in watercolour, many of them close to one another",
        clutter=1.0,
        class_names=_names(
            """red star, red striped star, red spotted star, orange star, orange checkered heart, pink heart,
            purple heart, purple two tone heart, blue circle, light blue circle, turquoise ring,
            turquoise striped ring, green fish, dark green spotted fish, green pine tree,
            dark green striped pine tree, brown house, brown checkered house, grey mushroom,
            black spotted mushroom, yellow crown, orange two tone crown, key, raindrop,
            pink star, pink striped star, purple spotted star, yellow star, red checkered heart, brown heart,
            orange heart, blue two tone heart, dark green circle, green circle, grey ring,
            black striped ring, turquoise fish, blue spotted fish, brown pine tree,
            orange striped pine tree, light blue house, red checkered house, pink mushroom,
            yellow spotted mushroom, purple crown, green two tone crown, umbrella, lightning bolt"""
        ),
    ),
)

WORLDS: Mapping[str, World] = MappingProxyType({world.name: world for world in _WORLDS})


# -------------------------------------------------------------------------------------------- writing
STALE_AFTER = 3600.0
"""Seconds after which a half-written folder of a killed process is swept away."""


def write_dataset(
    name: str,
    root: Path,
    *,
    seed: int | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> Path:
    """Draws a world and writes it as a data set below `root`; returns at once where it is there already.

    It is written beside its place and renamed at the end, so a reader sees all of it or nothing, two
    processes may do this at once, and a killed one leaves only a hidden `.<folder>.*` behind.

    Args:
        name: a name in `WORLDS`.
        root: the folder of all data sets; made where absent.
        seed: other than the world's own, for other draws of the same classes.
        on_image: called with (images done, images in all).

    Returns:
        ROOT/<folder>.

    Raises:
        InputError: the name is unknown, or the folder is there but is incomplete or something else.
    """
    if name not in WORLDS:
        raise unknown_name("world", name, WORLDS)
    world = WORLDS[name]
    seed = world.seed if seed is None else seed
    target = root / world.folder
    if target.exists():
        _check(target, world, seed)
        return target
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root, world)
    aside = Path(tempfile.mkdtemp(prefix=f".{world.folder}.", dir=root))
    try:
        _fill(aside, world, seed, on_image)
        aside.chmod(0o755)
        try:
            aside.rename(target)
        except OSError:
            if not target.exists():
                raise
            _check(target, world, seed)  # another process was faster; its images are the same
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _sweep(root: Path, world: World) -> None:
    for left in root.glob(f".{world.folder}.*"):
        if time.time() - left.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(left, ignore_errors=True)


def _items(world: World) -> Iterator[tuple[str, int, int, str]]:
    """(split, label, index in the split, path under images/) of every image, in the split file's order."""
    first = {"train": 0, "val": world.train, "test": world.train + world.val}
    for split, count in world.counts.items():
        for label, name in enumerate(world.class_names):
            for index in range(count):
                yield split, label, index, f"{name.replace(' ', '-')}/{first[split] + index:03d}.png"


def _fill(folder: Path, world: World, seed: int, on_image: Callable[[int, int], None] | None) -> None:
    split: dict[str, list[tuple[str, int, str]]] = {part: [] for part in SPLITS}
    for name in world.class_names:
        (folder / "images" / name.replace(" ", "-")).mkdir(parents=True)
    for done, (part, label, index, path) in enumerate(_items(world), start=1):
        picture = Image.fromarray(world.image(part, label, index, seed=seed))
        picture.save(folder / "images" / path, format="PNG", compress_level=6)
        split[part].append((path, label, world.class_names[label]))
        if on_image is not None:
            on_image(done, world.images)
    (folder / world.split_file).write_text(json.dumps(split), encoding="utf-8")
    (folder / "world.json").write_text(json.dumps(world.recipe(seed), indent=1), encoding="utf-8")


def _check(folder: Path, world: World, seed: int) -> None:
    """Passes only over a folder that this recipe wrote and that still holds every image."""
    remedy = "Move or delete the folder and run again, or choose another root."
    try:
        found = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"the folder must have been written from world {world.name!r} (it has no readable world.json)",
            file=folder,
            remedy=remedy,
        ) from None
    expected = world.recipe(seed)
    for key, value in expected.items():
        received = found.get(key) if isinstance(found, dict) else found
        if received != value:
            rule = f"the folder must hold world {world.name!r} as asked for, where {key} is {value!r}"
            raise InputError(rule, file=folder / "world.json", key=key, received=received, remedy=remedy)
    present = sum(1 for path in (folder / "images").glob("*/*.png") if path.stat().st_size > 0)
    if present != world.images or not (folder / world.split_file).is_file():
        rule = f"the folder must hold all {world.images} images and {world.split_file}"
        raise InputError(rule, file=folder, received=f"{present} images", remedy=remedy)
