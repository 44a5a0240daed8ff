"""The reference's few-shot draw, made again, and its pickled caches of draws, read without running them."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gcsearch.datasets import Dataset, Item, few_shot
from gcsearch.errors import InputError

VAL_SHOTS = 4
"""The reference validates on at most so many images per class."""


@dataclass(frozen=True)
class DrawnImage:
    """An image in a reference cache: its path on the machine that drew it, label and class name."""

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class ReferenceDraw:
    """What a reference cache holds: the drawn train list and val list (ImageNet's has none)."""

    train: tuple[DrawnImage, ...]
    val: tuple[DrawnImage, ...]


def reference_draw(dataset: Dataset, shots: int, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The draw of the CoOp repositories: `shots` train images of each class, then min(shots, 4) val images.

    Both from one generator, over all classes, before base and new are told apart.
    """
    generator = random.Random(seed)
    train = few_shot(dataset.train, shots, generator)
    return train, few_shot(dataset.val, min(shots, VAL_SHOTS), generator)


def read_reference_draw(path: Path) -> ReferenceDraw:
    """Read a `split_fewshot/shot_K-seed_S.pkl` of a CoOp-style repository; executes nothing that it says.

    Only the repository's record of an image is known, as a stand-in with no code; a pickle that asks for
    any other class or function is refused before that is looked up.

    Raises:
        InputError: the file is absent, asks for something else, or does not hold two lists of images.
    """
    try:
        with path.open("rb") as file:
            content = _restricted(file).load()
        lists = {key: tuple(map(_image, content[key])) for key in ("train", "val") if key in content}
        return ReferenceDraw(lists["train"], lists.get("val", ()))
    except FileNotFoundError:
        raise InputError("the cached draw must exist", file=path) from None
    except InputError as error:
        raise error.at(file=path) from None
    except Exception as error:  # a damaged pickle may fail in any way, and all of them mean the same
        raise InputError(
            "a cached draw holds the lists train and val of images",
            file=path,
            received=f"{type(error).__name__}: {error}",
            remedy="gcsearch makes the same draw from the seed; the file is not needed.",
        ) from None


def _restricted(file: BinaryIO) -> pickle.Unpickler:
    """An unpickler that knows one harmless class, made anew each time, so that a file can change nothing else."""

    class Record:
        """Stands for the toolbox's record of an image."""

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if name == "Datum" and module.split(".")[-1] in ("base_dataset", "datasets", "base"):
                return Record
            raise InputError("a cached draw holds nothing but records of images", received=f"{module}.{name}")

    return Restricted(file)


def _image(record: Any) -> DrawnImage:
    held = vars(record)
    path, label, name = held["_impath"], held["_label"], held["_classname"]
    if not (isinstance(path, str) and isinstance(label, int) and isinstance(name, str)):
        raise TypeError("an image has a path, a label and a class name")
    return DrawnImage(path.replace("\\", "/"), label, name)


def compare_draw(dataset: Dataset, file: Path) -> str:
    """How the cached draw `file` agrees with gcsearch's from the same seed: "agrees", or in what it differs.

    Paths agree where the cached one, absolute on another machine, ends with ours.
    """
    found = re.fullmatch(r"shot_(\d+)-seed_(\d+)\.pkl", file.name)
    if not found:
        return "is not named shot_K-seed_S.pkl"
    try:
        cached = read_reference_draw(file)
    except InputError as error:
        return f"cannot be read: {error.rule}, got {error.received}"
    ours = reference_draw(dataset, int(found[1]), int(found[2]))
    differing = _differing(cached.train, ours[0]) + (_differing(cached.val, ours[1]) if cached.val else 0)
    total = len(ours[0]) + (len(ours[1]) if cached.val else 0)
    return "agrees" if differing == 0 else f"differs in {differing} of {total} images"


def _differing(cached: Sequence[DrawnImage], ours: Sequence[Item]) -> int:
    same = sum(
        image.label == item.label and f"/{image.path}".endswith(f"/{item.path}")
        for image, item in zip(cached, ours, strict=False)
    )
    return max(len(cached), len(ours)) - same
