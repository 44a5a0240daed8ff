"""Images: of noise, and a small data set of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("red dog", "blue dog", "green_cat", "tiny yellow cat", "horse", "old horse", "owl", "snowy white owl")


def noise(width, height, mode="RGB", seed=0):
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8))


def write_dataset(root: Path, classes=CLASSES, train=6, val=4, test=6) -> Path:
    """A data set in the CoOp layout: every class a colour with noise, so that there is something to learn."""
    generator = np.random.default_rng(0)
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        colour = generator.uniform(40, 215, 3)
        for part, count in (("train", train), ("val", val), ("test", test)):
            for index in range(count):
                path = Path(name.replace(" ", "_")) / f"{part}{index}.png"
                pixels = np.clip(colour + generator.normal(0, 40, (40, 36, 3)), 0, 255).astype(np.uint8)
                (root / "tiny" / "images" / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / "tiny" / "images" / path)
                split[part].append([str(path), label, name])
    (root / "tiny" / "split_zhou_Tiny.json").write_text(json.dumps(split))
    return root


def drawn_folders(folder: Path, classes: Mapping[str, int]) -> Path:
    """A folder per class with so many small pictures, all different: every class a colour with noise."""
    generator = np.random.default_rng(0)
    for name, count in classes.items():
        colour = generator.uniform(40, 215, 3)
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(colour + generator.normal(0, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder
