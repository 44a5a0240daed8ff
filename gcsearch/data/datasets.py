"""Data sets by name: where they lie, how they are read, few-shot draws, base and new classes."""

from __future__ import annotations

import html
import posixpath
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NoReturn

from gcsearch import files
from gcsearch.config.base import plain_name
from gcsearch.data import digests
from gcsearch.data.image_loader import named
from gcsearch.data.layouts import benchmark, own, torchvision
from gcsearch.data.layouts.base import Reader
from gcsearch.data.lists.folders import warning_of_skipped_files
from gcsearch.data.lists.missing import missing_images, why_missing
from gcsearch.data.lists.splits import (
    LISTS,
    Contents,
    Item,
    RepeatWarning,
    divide,
    hold_out_val,
    is_inside,
    read_split,
    warn_fresh,
)
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError, unknown_name
from gcsearch.files import digest_folder

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

_PHOTO = "a photo of a {}."


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files, relative to the root folder that holds all data sets, and what it is."""

    folder: str
    images: str
    split: str = ""
    """The split JSON; empty where folders or annotation files are the format."""
    reader: Reader | None = None
    """Reads the data set where there is no split JSON."""
    template: str = _PHOTO
    """The zero-shot form of the prompt."""
    prefix_template: str = ""
    """The form with all words in front of the name, for word-initialised context; empty: the zero-shot form."""
    published: tuple[int, int, int, int] | None = None
    """Classes and train, val and test images as the field reports them."""


def _world(world: worlds.World) -> Layout:
    """Where an embedded world lies once it is written."""
    return Layout(world.folder, "images", world.split_file)


def _kind(kind: str, article: str = "a ") -> tuple[str, str]:
    return f"a photo of {article}{{}}, a type of {kind}.", f"a type of {kind}, a photo of {article}{{}}."


DATASETS: dict[str, Layout] = {
    "ImageNet": Layout("imagenet", "images", reader=benchmark.imagenet),
    "Caltech101": Layout(
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        benchmark.caltech,
        published=(100, 4128, 1649, 2465),
    ),
    "OxfordPets": Layout(
        "oxford_pets", "images", "split_zhou_OxfordPets.json", benchmark.pets, *_kind("pet"), (37, 2944, 736, 3669)
    ),
    "StanfordCars": Layout(
        "stanford_cars", "", "split_zhou_StanfordCars.json", benchmark.cars, published=(196, 6509, 1635, 8041)
    ),
    "OxfordFlowers": Layout(
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        benchmark.flowers,
        *_kind("flower"),
        (102, 4093, 1633, 2463),
    ),
    "Food101": Layout(
        "food-101",
        "images",
        "split_zhou_Food101.json",
        benchmark.food101,
        *_kind("food", article=""),
        (101, 50500, 20200, 30300),
    ),
    "FGVCAircraft": Layout(
        "fgvc_aircraft", "images", "", benchmark.aircraft, *_kind("aircraft"), (100, 3334, 3333, 3333)
    ),
    "SUN397": Layout(
        "sun397", "SUN397", "split_zhou_SUN397.json", benchmark.sun397, published=(397, 15880, 3970, 19850)
    ),
    "DescribableTextures": Layout(
        "dtd",
        "images",
        "split_zhou_DescribableTextures.json",
        benchmark.textures,
        "{} texture.",
        "a texture of {}.",
        (47, 2820, 1128, 1692),
    ),
    "EuroSAT": Layout(
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        benchmark.eurosat,
        "a centered satellite photo of {}.",
        published=(10, 13500, 5400, 8100),
    ),
    "UCF101": Layout(
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        benchmark.ucf101,
        "a photo of a person doing {}.",
        published=(101, 7639, 1898, 3783),
    ),
    "ImageNetV2": Layout(
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        reader=benchmark.imagenet_v2,
        published=(1000, 0, 0, 10000),
    ),
    "ImageNetSketch": Layout(
        "imagenet-sketch", "images", reader=benchmark.imagenet_folders, published=(1000, 0, 0, 50889)
    ),
    "ImageNetA": Layout(
        "imagenet-adversarial", "imagenet-a", reader=benchmark.imagenet_folders, published=(200, 0, 0, 7500)
    ),
    "ImageNetR": Layout(
        "imagenet-rendition", "imagenet-r", reader=benchmark.imagenet_folders, published=(200, 0, 0, 30000)
    ),
    "CIFAR10": Layout("cifar-10", "", reader=own.own_folders),
    "CIFAR100": Layout("cifar-100", "", reader=own.own_folders),
    **{name: _world(world) for name, world in worlds.WORLDS.items()},
}


KINDS = ("folder:NAME", "table:FILE", worlds.GENERATED)
"""Data sets that are named by what follows the colon."""


@dataclass(frozen=True)
class Dataset:
    """A data set as read: class names by label, and three lists of images. Nothing is decoded yet."""

    name: str
    images: Path
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]

    @property
    def lists(self) -> dict[str, tuple[Item, ...]]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def paths(self) -> set[str]:
        """Every image that a list names, relative to `images`."""
        return {item.path for part in self.lists.values() for item in part}


def find(name: str, key: str = "task.dataset") -> Layout:
    """The layout of a name of the table, of `folder:NAME` (class folders), `table:FILE` (CSV, Parquet), `world:SEED`.

    `key` is what errors name.

    Raises:
        InputError: no such name, or a path that leaves the root.
    """
    if worlds.is_embedded(name):
        return _world(worlds.find(name))
    kind, colon, path = name.partition(":")
    if not colon or kind not in ("folder", "table"):
        if name not in DATASETS:
            raise unknown_name("data set", name, [*DATASETS, *KINDS], key=key)
        return DATASETS[name]
    if not path or not is_inside(path):
        rule = f"the path after `{kind}:` must stay below task.root"
        raise InputError(rule, key=key, received=repr(path), remedy="Name another task.root.")
    if kind == "folder":
        return Layout(path, "", reader=own.own_folders)
    file = PurePosixPath(path)
    return Layout(str(file.parent), "", reader=own.table(file.name))


def located(name: str, root: Path, key: str = "task.dataset") -> Layout:
    """The layout of a name as it is below `root`: torchvision's where the folders are its, else as `find`."""
    layout, other = find(name, key), torchvision.FOLDERS.get(name)
    if other is None or (root / layout.folder / layout.images).is_dir():
        return layout
    if not (root / other.folder / (other.mark or other.images)).exists():
        return layout
    return replace(layout, folder=other.folder, images=other.images)


_TITLES = {
    "OxfordPets": "Oxford Pets",
    "StanfordCars": "Stanford Cars",
    "OxfordFlowers": "Flowers102",
    "FGVCAircraft": "FGVC Aircraft",
    "DescribableTextures": "DTD",
    "ImageNetSketch": "ImageNet-Sketch",
    "ImageNetA": "ImageNet-A",
    "ImageNetR": "ImageNet-R",
    "CIFAR10": "CIFAR-10",
    "CIFAR100": "CIFAR-100",
}


def title_of(name: str) -> str:
    """What a data set is called in a publication: `Oxford Pets`; of a folder or a table of one's own its name."""
    kind, _, path = name.partition(":")
    if path and kind == "folder":
        return PurePosixPath(path).name
    if path and kind == "table":
        return PurePosixPath(path).stem
    return _TITLES.get(name, name)


def template_of(name: str, key: str = "task.dataset") -> str:
    """The zero-shot form of the prompt that the field uses on a data set; "a photo of a {}." for others."""
    return find(name, key).template


def load(name: str, root: Path) -> Dataset:
    """Read the data set `name` below `root` and check that every listed image exists.

    Warns where the split had to be drawn here (`splits.FreshSplitWarning`), and of files in class folders that are
    not read (`data.folders.SkippedFilesWarning`).

    Raises:
        InputError: unknown name, missing or malformed files of the data set, a path that leaves the image folder,
            labels that do not fit the names, missing images (all of them counted, the first few named).
    """
    dataset, source = read(name, root)
    paths = dataset.paths
    missing = missing_images(dataset.images, paths)
    if missing:
        remedy = "Complete the download, or correct task.root; `gcsearch data check` lists them all."
        raise InputError(
            f"every image of the split must exist as a file; {len(missing)} of {len(paths)} are missing in "
            f"{dataset.images}",
            file=source,
            received=", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
            remedy=why_missing(dataset.images, missing) or remedy,
        )
    return dataset


def read(name: str, root: Path) -> tuple[Dataset, Path]:
    """The data set, without looking for its images, and the file or folder that describes it. Errors as `load`."""
    layout = located(name, root)
    folder = files.absolute(layout.folder, root, key="task.dataset")
    split = folder / layout.split
    images = folder / layout.images
    with warning_of_skipped_files(images):
        if layout.reader is None or (layout.split and split.is_file()):
            contents = _completed(read_split(split), images, name)
        elif layout.split:
            contents = replace(
                _fall_back(layout.reader, folder, images, split, name), fresh=f"{name}: {split} is absent"
            )
        else:
            contents = _completed(layout.reader(folder, images), images, name)
    _check(contents)
    if contents.fresh:
        warn_fresh(contents)
    plain = plain_name(name)  # the cache calls its entries by it
    lists = contents.train, contents.val, contents.test
    return Dataset(plain, images, contents.classes, *lists), contents.source


def _completed(contents: Contents, images: Path, name: str) -> Contents:
    """What a reader found, with plain paths and all lists: those still to be drawn are drawn of distinct images."""

    def plain(items: tuple[Item, ...]) -> tuple[Item, ...]:
        if not any("\\" in item.path for item in items):
            return items
        return tuple(Item(_plain_path(item.path, images), item.label) for item in items)

    train, val, test = map(plain, (contents.train, contents.val, contents.test))
    whole = {key: [_plain_path(path, images) for path in listed] for key, listed in contents.whole.items()}
    contents = replace(contents, train=train, val=val, test=test, whole=whole)
    _check_inside(contents, images)
    _check_names(contents, name)  # first: of two folders of one class, one may be a copy, and both would be empty
    if whole or contents.val_share:
        contents = _distinct(contents, images)
    if whole:
        return divide(contents)
    if contents.val_share:
        kept, held = hold_out_val(contents.train, contents.val_share)
        return replace(contents, train=tuple(kept), val=tuple(held))
    return contents


def _plain_path(path: str, images: Path) -> str:
    """With slashes where it was written on Windows. A file whose name has a backslash in it keeps it."""
    if "\\" not in path or not is_inside(path) or (images / path).is_file():
        return path
    return path.replace("\\", "/")


def _distinct(contents: Contents, images: Path) -> Contents:
    """Each image of those that lists are to be drawn from once; none that stands in two classes. A warning says so.

    Otherwise a copy of an image that is trained on could be drawn into the test list.
    """
    keys = list(contents.whole)
    items = list(contents.train)
    items += [Item(path, label) for label, key in enumerate(keys) for path in sorted(contents.whole[key])]
    (groups,) = digests.same_content([(images, [item.path for item in items])], digest_folder())
    labels: dict[int, set[int]] = {}
    for item, group in zip(items, groups.tolist(), strict=True):
        labels.setdefault(group, set()).add(item.label)
    seen: set[int] = set()
    kept, repeated, torn = [], [], []
    for item, group in zip(items, groups.tolist(), strict=True):
        if group >= 0 and len(labels[group]) > 1:
            torn.append(item.path)
        elif group >= 0 and group in seen:
            repeated.append(item.path)
        else:
            kept.append(item)
        seen.add(group)
    said = [f"repeats of images of the same class: {len(repeated)} ({named(repeated, 3)})"] if repeated else []
    said += [f"images of which another class has a copy: {len(torn)} ({named(torn, 3)})"] if torn else []
    if said:
        text = f"{contents.source}: the split is drawn without {', and without '.join(said)}"
        warnings.warn(text, RepeatWarning, stacklevel=2)
    whole = {key: [item.path for item in kept if item.label == label] for label, key in enumerate(keys)}
    return replace(contents, train=() if keys else tuple(kept), whole=whole)


def _fall_back(reader: Reader, folder: Path, images: Path, split: Path, name: str) -> Contents:
    """Read a data set whose split file is absent; errors say that the file would do, too."""
    remedy = f"Put the data set's split file there: {split}; or correct task.root."
    if not folder.is_dir():
        raise InputError("the folder of the data set must exist", file=folder, remedy=remedy)
    try:
        return _completed(reader(folder, images), images, name)
    except InputError as error:
        rule = f"{error.rule} where there is no {split.name}"
        raise InputError(rule, file=error.file, received=error.received, remedy=remedy) from None


def _check_inside(contents: Contents, images: Path) -> None:
    """InputError where a path leaves the image folder, or a name is no text."""
    listed = (item.path for part in (contents.train, contents.val, contents.test) for item in part)
    every = (*listed, *chain(*contents.whole.values()))
    if outside := [path for path in every if not is_inside(path)]:
        rule, remedy = "image paths must stay inside the image folder", f"Write them relative to {images}."
        raise InputError(rule, file=contents.source, received=named(outside, 3), remedy=remedy)
    if unknown := [name for name in (*contents.classes, *every) if not files.is_text(name)]:
        rule = "names of classes, image files and their folders must be in UTF-8"
        raise InputError(rule, file=contents.source, received=named(unknown, 3), remedy=files.RENAME)


def _check(contents: Contents) -> None:
    """InputError where a class has no image at all, there is one class only, or an image is in two lists or classes."""
    lists = {"train": contents.train, "val": contents.val, "test": contents.test}
    every = [item for part in lists.values() for item in part]
    filled = {item.label for item in every}
    empty = [name for label, name in enumerate(contents.classes) if label not in filled]
    if empty or not contents.classes:
        which = (
            f"none for {', '.join(empty[:10])}" + (", ..." if len(empty) > 10 else "") if empty else "no class at all"
        )
        remedy = "Complete the download, or remove the class."
        raise InputError(
            "every class must have at least one image", file=contents.source, received=which, remedy=remedy
        )
    if len(contents.classes) < 2:
        rule = "a data set must have two classes or more: of one, every image is always right"
        raise InputError(rule, file=contents.source, received=contents.classes[0])
    where: dict[str, tuple[str, int]] = {}
    for key, items in lists.items():
        for item in items:
            first = where.setdefault(_normal(item.path), (key, item.label))
            if first != (key, item.label):
                _refuse_twice(contents, lists)


def _normal(path: str) -> str:
    """One way to write a path: without `.` and doubled slashes."""
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def _refuse_twice(contents: Contents, lists: Mapping[str, tuple[Item, ...]]) -> NoReturn:
    """Name the images that stand in two lists, or in two classes."""
    labels = {key: {_normal(item.path): item.label for item in items} for key, items in lists.items()}
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        if both := sorted(labels[one].keys() & labels[other].keys()):
            raise InputError(
                f"an image must be in one list only; {len(both)} of {len(labels[other])} of the list {other} are also "
                f"in {one}",
                file=contents.source,
                received=named(both, 5),
                remedy=f"Remove them from one of the lists: what is measured on {other} must not be known from {one}.",
            )
    torn = sorted(
        {item.path for key, items in lists.items() for item in items if labels[key][_normal(item.path)] != item.label}
    )
    rule, remedy = "an image must be in one class only", "Remove it from the others."
    raise InputError(rule, file=contents.source, received=named(torn, 5), remedy=remedy)


def _check_names(contents: Contents, name: str) -> None:
    """InputError where a class has no name, or two have the same in all that a prompt's words show.

    Lists of the field that have such names are read as they are, with a warning: ImageNet's has.
    """
    known: dict[str, str] = {}
    same = []
    for given in contents.classes:
        words = spoken(given)
        if not words:
            rule, remedy = "a class must have a name", "Name the class: prompts are made of it."
            raise InputError(rule, file=contents.source, received=repr(given), remedy=remedy)
        if words in known:
            same.append(f"{known[words]!r} and {given!r}")
        known.setdefault(words, given)
    if not same:
        return
    if is_published_names(name, contents.classes):
        text = f"{contents.source}: classes have the same name, and no prompt tells them apart: {named(same, 3)}"
        warnings.warn(text, RepeatWarning, stacklevel=2)
        return
    raise InputError(
        "two classes must not have the same name; case, underscores and spaces do not count",
        file=contents.source,
        received=named(same, 5),
        remedy="Rename one, or make one class of both.",
    )


def spoken(name: str) -> str:
    """A class name as a prompt's tokens have it: in small letters, underscores and spaces alike, nothing unseen."""
    plain = unicodedata.normalize("NFC", html.unescape(html.unescape(name)))
    seen = "".join(" " if one == "_" else one for one in plain if unicodedata.category(one) != "Cf")
    return " ".join(seen.lower().split())


def is_published_names(name: str, classes: Sequence[str]) -> bool:
    """Whether a data set has as many classes as the field's of this name."""
    layout = DATASETS.get(name)
    published = layout.published[0] if layout and layout.published else 1000 if name == "ImageNet" else None
    return len(classes) == published


def is_published(name: str, lists: Mapping[str, Sequence[Item]], classes: Sequence[str]) -> bool:
    """Whether a data set has as many classes, and images in each list, as the field's of this name."""
    layout = DATASETS.get(name)
    if name == "ImageNet":
        return is_published_names(name, classes) and len(lists["test"]) == 50_000
    return layout is not None and layout.published == (len(classes), *(len(lists[key]) for key in LISTS))
