"""Draws: few-shot images of a seed, halves of the classes, what is held out, the reference's own draws."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gcsearch import files
from gcsearch.data.datasets import Dataset
from gcsearch.data.lists.splits import (
    Item,
)
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError
from gcsearch.files import read_names


def few_shot(items: Sequence[Item], shots: int | None, generator: random.Random) -> tuple[Item, ...]:
    """Draw `shots` images of each class without replacement; all of a class that has fewer; None: all.

    Classes in order of first appearance, Python's `sample`: with `random.Random(seed)` first for the train
    list and then for the val list this is the draw that the CoOp repositories make from the same seed.
    """
    if shots is None:
        return tuple(items)
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn: list[Item] = []
    for members in by_label.values():
        drawn += generator.sample(members, shots) if len(members) >= shots else members
    return tuple(drawn)


def halves(dataset: Dataset) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Base and new labels: the first ceil(C/2) of the labels, and the rest."""
    labels = tuple(range(len(dataset.classes)))
    middle = (len(labels) + 1) // 2
    return labels[:middle], labels[middle:]


def hold_out(labels: Sequence[int], fold: int, folds: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split base classes again: (trained, held out), the held-out ones being fold `fold` of `folds`.

    Every fold has floor(C/folds) classes, at least 2, taken in strides so that neighbours in the list fall
    into different folds; classes left over are always trained.  One fold holds nothing out.  InputError with
    fewer than 2 classes a side.
    """
    if folds == 1:
        return tuple(labels), ()
    size = max(len(labels) // folds, 2)
    if len(labels) - size < 2:
        raise InputError(
            "the search needs at least 2 base classes to train and 2 to hold out",
            key="task.dataset",
            received=f"{len(labels)} base classes",
        )
    count = max(len(labels) // size, 1)
    held = tuple(labels[(fold % count) + step * count] for step in range(size))
    return tuple(label for label in labels if label not in held), held


def hold_out_shots(items: Sequence[Item], fold: int, folds: int) -> tuple[list[int], list[int]]:
    """Positions of what is trained and of what is held out: of each class every `folds`-th image, from `fold` on.

    A class with a single image has it trained.
    """
    places: dict[int, list[int]] = {}
    for position, item in enumerate(items):
        places.setdefault(item.label, []).append(position)
    held = {p for own in places.values() if len(own) > 1 for p in own[fold % folds :: folds]}
    return [p for p in range(len(items)) if p not in held], sorted(held)


OTHER_NAMES = files.ASSETS / "other_names.txt"


def other_names(dataset: Dataset, file: str | Path | None = None) -> tuple[str, ...]:
    """Names that are no class of `dataset`, in an order that is always the same.

    Those of `file` (one per line), by default a list of everyday things that ships with the package; for an
    embedded data set the classes of the other named ones, since the bundled model knows no other words.
    InputError for a file that cannot be read or names nothing new.
    """
    if file is None and worlds.is_embedded(dataset.name):
        pool = list(dict.fromkeys(name for world in worlds.WORLDS.values() for name in world.class_names))
        random.Random(0).shuffle(pool)
    else:
        pool = read_names(Path(file) if file else OTHER_NAMES, "the list of other names", "task.other_names")
    known = {_plain(name) for name in dataset.classes}
    names = tuple(name for name in dict.fromkeys(pool) if _plain(name) not in known)
    if not names:
        rule = "the list must hold names that are no class of the data set"
        raise InputError(rule, file=file, key="task.other_names", remedy="One name per line.")
    return names


def _plain(name: str) -> str:
    """The words of a name alone: `Yellow-Star.` is `yellow star`."""
    return re.sub(r"[\W_]+", " ", name).casefold().strip()


def of_labels(items: Iterable[Item], labels: Sequence[int]) -> list[int]:
    """Positions of the items whose label is among `labels`."""
    wanted = set(labels)
    return [index for index, item in enumerate(items) if item.label in wanted]


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
