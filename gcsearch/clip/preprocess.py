"""The model's image preparation: resize, crop, random views, scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from gcsearch.errors import InputError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "longest", "squash"]

Draw = tuple[int, int]
"""Seed and number of an augmented view."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preparation:
    """How a model's images are prepared, as open_clip's `preprocess_cfg` states it.

    `resize_mode`: "shortest" side to S and the middle square; "longest" side to S and the rest filled with the
    grey `fill_color`; "squash" both sides to S. `mean` and `std` are for pixels from 0 to 1.
    """

    size: int
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        for key, value, known in (
            ("interpolation", self.interpolation, tuple(_FILTERS)),
            ("resize_mode", self.resize_mode, ("shortest", "longest", "squash")),
        ):
            if value not in known:
                rule = f"the model's image preparation must have a known {key}"
                raise InputError(rule, received=repr(value), remedy=f"Known: {', '.join(known)}.")

    def fixed(self, image: Image.Image) -> Image.Image:
        """The fixed transform of an RGB image, S x S."""
        size, resample = self.size, _FILTERS[self.interpolation]
        if self.resize_mode == "squash":
            return image.resize((size, size), resample)
        width, height = image.size
        if self.resize_mode == "longest":
            ratio = max(width / size, height / size)
            scaled = max(round(width / ratio), 1), max(round(height / ratio), 1)
            filled = Image.new("RGB", (size, size), (self.fill_color,) * 3)
            filled.paste(image.resize(scaled, resample), ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
            return filled
        scaled = self.scaled(width, height)
        left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
        return image.resize(scaled, resample).crop((left, top, left + size, top + size))

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which `fixed` scales an image before it cuts or fills."""
        if self.resize_mode != "shortest":
            return self.size, self.size  # at most
        shorter = min(width, height)
        return int(self.size * width / shorter), int(self.size * height / shorter)


def random_view(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """The training transform: a crop of 8 to 100 % of the area, ratio 3/4 to 4/3, bicubic; flip with p = 0.5.

    As in CLIP prompt learning's usual recipe: ten tries for a crop that fits, then the middle.
    """
    box = random_box(*image.size, generator)
    view = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else view


def random_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop for `random_view`."""
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
