"""How the embedded worlds look: shapes, colours, patterns, styles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

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
