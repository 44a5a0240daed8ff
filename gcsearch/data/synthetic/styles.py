"""How the embedded worlds look: a style paints a scene, a finish goes over the painted image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from gcsearch.data.synthetic.drawing import OVERSAMPLING, SIDE, Floats, Look, Scene, arrange
from gcsearch.errors import unknown_name

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


@dataclass(frozen=True)
class Finish:
    """What departs from a style's own look, the same for all images of a world."""

    photo: float = 0.0
    """Share of the style `photo`, which the bundled model knows best, that is mixed in."""
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What red, green and blue are multiplied with."""
    noise: float = 0.0
    """Standard deviation of what is added to every pixel."""

    def paint(self, scene: Scene, style: str) -> Floats:
        """The scene in the style, and a share of the photo of the same scene."""
        canvas = STYLES[style](scene)
        return canvas + np.float32(self.photo) * (_photo(scene) - canvas) if self.photo else canvas

    def over(self, image: Floats, rng: np.random.Generator) -> Floats:
        """The image [side, side, 3] in the cast of the world, with its noise."""
        noise = np.float32(self.noise) * rng.standard_normal(image.shape, dtype=np.float32)
        seen: Floats = image * np.array(self.cast, np.float32) + noise
        return seen


PLAIN = Finish()


def render(
    look: Look,
    style: str,
    rng: np.random.Generator,
    *,
    clutter: float = 0.0,
    side: int = SIDE,
    finish: Finish = PLAIN,
) -> NDArray[np.uint8]:
    """Draws one image; a pure function of its arguments and the state of `rng`.

    Args:
        look: what to show.
        style: a name in `STYLES`.
        rng: every random choice comes from here, in a fixed order.
        clutter: mean number (Poisson) of small meaningless things lying about.
        side: pixels per side.
        finish: what departs from the style.

    Returns:
        RGB, uint8 [side, side, 3].
    """
    if style not in STYLES:
        raise unknown_name("style", style, STYLES)
    scene = arrange(look, rng, side * OVERSAMPLING, clutter)
    canvas = finish.paint(scene, style)
    small = canvas.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).mean(axis=(1, 3))
    if finish != PLAIN:
        small = finish.over(small, rng)
    rounded: NDArray[np.uint8] = (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded
