"""Data sets in the layout of the CoOp repositories: split files, few-shot draws, base and new classes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcsearch import shapes
from gcsearch.errors import InputError, unknown_name

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Item:
    """One image: path relative to the data set's image folder, and its label."""

    path: str
    label: int


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files, relative to the root folder that holds all data sets."""

    folder: str
    images: str
    split: str


DATASETS: dict[str, Layout] = {
    name: Layout(world.folder, "images", world.split_file) for name, world in shapes.WORLDS.items()
}


@dataclass(frozen=True)
class Dataset:
    """A data set as read: class names by label, and three lists of images. Nothing is decoded yet."""

    name: str
    images: Path
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]


def load(name: str, root: Path) -> Dataset:
    """Read the data set `name` below `root` and check that every listed image exists.

    Raises:
        InputError: unknown name, missing or malformed split file, a path that leaves the image folder,
            labels that do not fit the names, missing images (all of them counted, the first few named).
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS, key="task.dataset")
    layout = DATASETS[name]
    images = root / layout.folder / layout.images
    split = root / layout.folder / layout.split
    lists, classes = _read_split(split)
    dataset = Dataset(name, images, classes, *lists)
    _check_files(dataset, split)
    return dataset


def _read_split(path: Path) -> tuple[tuple[tuple[Item, ...], ...], tuple[str, ...]]:
    """The three lists of a split JSON ({"train": [[path, label, class name], ...], ...}) and its class names."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        triples = [[(str(p), int(label), str(name)) for p, label, name in content[key]] for key in _LISTS]
    except FileNotFoundError:
        raise InputError(
            "the split file of the data set must exist",
            file=path,
            remedy="Check task.root: it holds all data sets.",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "a split file holds lists train, val and test of [path, label, class name]",
            file=path,
            received=str(error),
            remedy="Restore the file from its source.",
        ) from None
    names: dict[int, str] = {}
    for p, label, name in (triple for part in triples for triple in part):
        if names.setdefault(label, name) != name:
            raise InputError(f"label {label} must have one name", file=path, received=f"{names[label]!r} and {name!r}")
        if Path(p).is_absolute() or ".." in Path(p).parts:
            raise InputError("image paths must stay inside the image folder", file=path, received=p)
    if sorted(names) != list(range(len(names))):
        raise InputError("labels must run from 0 without a gap", file=path, received=sorted(names)[:20])
    lists = tuple(tuple(Item(p, label) for p, label, _ in part) for part in triples)
    return lists, tuple(names[label] for label in range(len(names)))


_LISTS = ("train", "val", "test")


def _check_files(dataset: Dataset, split: Path) -> None:
    paths = sorted({item.path for part in (dataset.train, dataset.val, dataset.test) for item in part})
    missing = [path for path in paths if not (dataset.images / path).is_file()]
    if missing:
        raise InputError(
            f"every image of the split must exist; {len(missing)} of {len(paths)} are missing in {dataset.images}",
            file=split,
            received=", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
            remedy="Complete the download, or correct task.root.",
        )


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
    """Base and new labels: the first ceil(C/2) of the sorted labels in the train list, and the rest."""
    labels = sorted({item.label for item in dataset.train})
    middle = (len(labels) + 1) // 2
    return tuple(labels[:middle]), tuple(labels[middle:])


def hold_out(labels: Sequence[int], fold: int, folds: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split base classes again: (trained, held out), the held-out ones being fold `fold` of `folds`.

    Every fold has floor(C/folds) classes, at least 2, taken in strides so that neighbours in the list fall
    into different folds; classes left over are always trained.  InputError with fewer than 2 classes a side.
    """
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


OTHER_NAMES = Path(__file__).parent / "assets" / "other_names.txt"


def other_names(dataset: Dataset, file: str | Path | None = None) -> tuple[str, ...]:
    """Names that are no class of `dataset`, in an order that is always the same.

    Those of `file` (one per line), by default a list of everyday things that ships with the package; for an
    embedded data set the classes of the other embedded ones, since the bundled model knows no other words.
    InputError for a file that cannot be read or names nothing new.
    """
    if file is None and dataset.name in shapes.WORLDS:
        pool = list(dict.fromkeys(name for world in shapes.WORLDS.values() for name in world.class_names))
        random.Random(0).shuffle(pool)
    else:
        pool = _lines(Path(file) if file else OTHER_NAMES)
    known = {_plain(name) for name in dataset.classes}
    names = tuple(name for name in dict.fromkeys(pool) if _plain(name) not in known)
    if not names:
        rule = "the list must hold names that are no class of the data set"
        raise InputError(rule, file=file, key="task.other_names", remedy="One name per line.")
    return names


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.expanduser().read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        rule = "the list of other names must be a readable text file"
        raise InputError(rule, file=path, key="task.other_names", received=str(error)) from None


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold().strip()


def of_labels(items: Iterable[Item], labels: Sequence[int]) -> list[int]:
    """Positions of the items whose label is among `labels`."""
    wanted = set(labels)
    return [index for index, item in enumerate(items) if item.label in wanted]
