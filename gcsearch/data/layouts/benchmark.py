"""The data sets of the field: ImageNet and its variants, annotation files, MATLAB files, class folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gcsearch.data.layouts import torchvision
from gcsearch.data.layouts.base import VAL_SHARE, listed, some
from gcsearch.data.lists.folders import images_in
from gcsearch.data.lists.splits import LISTS, Contents, Item, folders_in, hold_out_val, lines_of
from gcsearch.errors import InputError
from gcsearch.files import read_text

IMAGENET_VAL = 50
"""Validation images per class that are held out of ImageNet's training folder, at most `VAL_SHARE` of it."""


# ------------------------------------------------------------------------------------ ImageNet and its variants
def _classnames(folder: Path) -> dict[str, str]:
    """`classnames.txt`: a wnid, a space and a name, which may have spaces, per line."""
    pairs = [line.partition(" ") for line in lines_of(folder / "classnames.txt")]
    return {wnid: name.strip() for wnid, _, name in pairs}


def _named(names: Mapping[str, str], wnids: Sequence[str], folder: Path) -> tuple[str, ...]:
    unknown = [wnid for wnid in wnids if not names.get(wnid)]
    if unknown:
        rule = "every class folder must have a line `WNID NAME` in classnames.txt"
        raise InputError(rule, file=folder / "classnames.txt", received=f"no name for {some(unknown)}")
    return tuple(names[wnid] for wnid in wnids)


def imagenet(folder: Path, images: Path) -> Contents:
    """images/train/WNID and images/val/WNID; label = rank of the wnid.  The val folder is the test list.

    The field validates on the test images here.  gcsearch holds images of the training folder out instead, by
    a fixed draw, so that its three lists are disjoint as everywhere.
    """
    wnids, found = folders_in(images / "train"), folders_in(images / "val")
    if not wnids or wnids != found:
        odd = sorted(set(wnids) ^ set(found)) or ["no folder at all"]
        raise InputError(
            "images/train and images/val must have the same class folders",
            file=images,
            received=f"in one only: {some(odd)}",
            remedy="The validation images belong into one folder per wnid, too.",
        )
    items = listed(images / "train", wnids, "train/")
    train, val = hold_out_val(items, VAL_SHARE, IMAGENET_VAL)
    classes = _named(_classnames(folder), wnids, folder)
    return Contents(images, classes, tuple(train), tuple(val), tuple(listed(images / "val", wnids, "val/")))


def imagenet_folders(folder: Path, images: Path) -> Contents:
    """ImageNet-Sketch, -A, -R: a folder per wnid, label = rank among these; test images only."""
    wnids = folders_in(images)
    return Contents(images, _named(_classnames(folder), wnids, folder), test=tuple(listed(images, wnids)))


def imagenet_v2(folder: Path, images: Path) -> Contents:
    """ImageNetV2: folders 0, 1, ...; folder i is line i of classnames.txt, from 0; test images only."""
    classes = tuple(_classnames(folder).values())
    found = folders_in(images)
    odd = [name for name in found if not (name.isascii() and name.isdigit() and int(name) < len(classes))]
    if odd:
        rule = f"class folders must be numbers from 0 to {len(classes) - 1}, the lines of classnames.txt"
        raise InputError(rule, file=images, received=some(odd))
    items = [
        Item(f"{name}/{image}", int(name)) for name in sorted(found, key=int) for image in images_in(images / name)
    ]
    return Contents(images, classes, test=tuple(items))


# --------------------------------------------------------------------------------------------- annotation files
def aircraft(folder: Path, images: Path) -> Contents:
    """FGVC Aircraft: lines `ID VARIANT` in images_variant_{train,val,test}.txt; label = line of variants.txt."""
    classes = lines_of(folder / "variants.txt")
    ranks = {name: label for label, name in enumerate(classes)}

    def read(part: str) -> tuple[Item, ...]:
        path = folder / f"images_variant_{part}.txt"
        pairs = [line.partition(" ") for line in lines_of(path)]
        return tuple(Item(f"{image}.jpg", _rank(ranks, name.strip(), path)) for image, _, name in pairs)

    return Contents(folder / "variants.txt", tuple(classes), *map(read, LISTS))


def _rank(ranks: Mapping[str, int], name: str, path: Path) -> int:
    if name not in ranks:
        raise InputError("every line must name a known class", file=path, received=repr(name))
    return ranks[name]


def _with_val(source: Path, classes: Sequence[str], trainval: Sequence[Item], test: Sequence[Item]) -> Contents:
    """Official test images; a fifth of each class of the others becomes the val list."""
    return Contents(source, tuple(classes), tuple(trainval), test=tuple(test), val_share=VAL_SHARE, official=True)


def pets(folder: Path, images: Path) -> Contents:
    """Oxford Pets: lines `STEM LABEL SPECIES BREED` in annotations/; the name is the stem without its number."""
    names: dict[int, str] = {}

    def read(file: str) -> list[Item]:
        path, items = folder / "annotations" / file, []
        for line in lines_of(path):
            fields = line.split(" ")
            if len(fields) != 4 or not fields[1].isdecimal():
                raise InputError("a line has four fields, the second the class number", file=path, received=repr(line))
            label = int(fields[1]) - 1
            names[label] = fields[0].rpartition("_")[0].lower()
            items.append(Item(f"{fields[0]}.jpg", label))
        return items

    trainval, test = read("trainval.txt"), read("test.txt")
    if sorted(names) != list(range(len(names))):
        raise InputError(
            "class numbers must run from 1 without a gap",
            file=folder / "annotations",
            received=str([label + 1 for label in sorted(names)][:20]),
        )
    return _with_val(folder / "annotations", [names[label] for label in sorted(names)], trainval, test)


def sun397(folder: Path, images: Path) -> Contents:
    """SUN397: /a/apartment_building/outdoor in ClassName.txt, image paths in Training_01 and Testing_01.txt.

    The name is what follows the letter, from the back: "outdoor apartment_building". The archive of the images alone,
    as torchvision leaves it, has no lists of images.
    """
    keys = [line.replace("\\", "/").lstrip("/") for line in lines_of(folder / "ClassName.txt")]
    ranks = {key: label for label, key in enumerate(keys)}
    classes = [" ".join(reversed(key.split("/")[1:])) for key in keys]
    if folder == images and not (folder / "Training_01.txt").exists():
        members = {key: [f"{key}/{image}" for image in images_in(images / key)] for key in keys}
        return Contents(folder / "ClassName.txt", tuple(classes), whole=members)

    def read(file: str) -> list[Item]:
        paths = [line.replace("\\", "/").lstrip("/") for line in lines_of(folder / file)]
        return [Item(path, _rank(ranks, path.rpartition("/")[0], folder / file)) for path in paths]

    return _with_val(folder / "ClassName.txt", classes, read("Training_01.txt"), read("Testing_01.txt"))


def ucf101(folder: Path, images: Path) -> Contents:
    """UCF101's first split: lines `ApplyEyeMakeup/v_....avi`; the middle frame lies in Apply_Eye_Makeup/v_....jpg."""
    lists = folder / "ucfTrainTestlist"
    actions = [line.partition(" ")[2].strip() for line in lines_of(lists / "classInd.txt")]
    ranks = {action: label for label, action in enumerate(actions)}
    classes = ["_".join(re.findall("[A-Z][^A-Z]*", action)) for action in actions]

    def read(file: str) -> list[Item]:
        items = []
        for line in lines_of(lists / file):
            action, _, video = line.split(" ")[0].replace("\\", "/").partition("/")
            label = _rank(ranks, action, lists / file)
            items.append(Item(f"{classes[label]}/{video.removesuffix('.avi')}.jpg", label))
        return items

    return _with_val(lists, classes, read("trainlist01.txt"), read("testlist01.txt"))


# ------------------------------------------------------------------------------------------------ MATLAB files
def flowers(folder: Path, images: Path) -> Contents:
    """Oxford Flowers: imagelabels.mat numbers the classes of image_00001.jpg, ..., cat_to_name.json names them.

    Where setid.mat is there, it has the official lists. Without names of its own the names are torchvision's.
    """
    labels = [int(label) for label in _matlab(folder / "imagelabels.mat", "labels").ravel()]
    path, lists = folder / "cat_to_name.json", folder / "setid.mat"
    names = _names_by_number(path) if path.exists() or not lists.exists() else _flower_names(labels)
    numbers = sorted({*labels, *names})
    if unnamed := [str(number) for number in numbers if number not in names]:
        raise InputError("every class must have a name", file=path, received=f"no name for {some(unnamed)}")
    classes = tuple(names[number] for number in numbers)
    if lists.exists():
        ranks = {number: label for label, number in enumerate(numbers)}
        read = [_flower_list(lists, variable, labels, ranks) for variable in ("trnid", "valid", "tstid")]
        return Contents(lists, classes, *read, official=True)
    members: dict[int, list[str]] = {number: [] for number in numbers}
    for index, label in enumerate(labels, start=1):
        members[label].append(_flower(index))
    keyed = {str(number): paths for number, paths in members.items()}
    return Contents(folder / "imagelabels.mat", classes, whole=keyed)


def _flower(index: int) -> str:
    return f"image_{index:05d}.jpg"


def _flower_list(path: Path, variable: str, labels: Sequence[int], ranks: Mapping[int, int]) -> tuple[Item, ...]:
    indices = [int(index) for index in _matlab(path, variable).ravel()]
    if any(not 1 <= index <= len(labels) for index in indices):
        raise InputError(f"{variable} must number images from 1 to {len(labels)}, those of imagelabels.mat", file=path)
    return tuple(Item(_flower(index), ranks[labels[index - 1]]) for index in indices)


def _flower_names(labels: Sequence[int]) -> dict[int, str]:
    """The names that torchvision has for the classes that there are images of."""
    known = dict(enumerate(torchvision.loaders().Flowers102.classes, start=1))
    return {number: known[number] for number in sorted(set(labels)) if number in known}


def _names_by_number(path: Path) -> dict[int, str]:
    try:
        return {int(key): str(name) for key, name in json.loads(read_text(path)).items()}
    except InputError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            'the file must map class numbers to names, {"1": ...}', file=path, received=str(error)
        ) from None


def cars(folder: Path, images: Path) -> Contents:
    """Stanford Cars: annotations of cars_train/ and cars_test/, classes from 1; the year goes in front of the name."""
    titles = [str(title) for title in _matlab(folder / "devkit" / "cars_meta.mat", "class_names").ravel()]
    classes = [" ".join((title.split(" ")[-1], *title.split(" ")[:-1])) for title in titles]

    def read(file: str, prefix: str) -> list[Item]:
        rows = _matlab(folder / file, "annotations").ravel()
        items = [Item(f"{prefix}/{row['fname']}", int(row["class"]) - 1) for row in rows]
        if any(not 0 <= item.label < len(classes) for item in items):
            raise InputError(f"class numbers must run from 1 to {len(classes)}", file=folder / file)
        return items

    trainval = read("devkit/cars_train_annos.mat", "cars_train")
    test = read("cars_test_annos_withlabels.mat", "cars_test")
    return _with_val(folder / "devkit", classes, trainval, test)


def _matlab(path: Path, variable: str) -> Any:
    """One variable of a .mat file as an array of at least one dimension. InputError where it cannot be had."""
    import zlib

    import numpy as np
    from scipy.io import loadmat  # late: most data sets have no such file
    from scipy.io.matlab import MatReadError

    try:
        with path.open("rb") as file:
            return np.atleast_1d(loadmat(file, squeeze_me=True)[variable])
    except FileNotFoundError:
        remedy = "Complete the download, or put the data set's split JSON in its place."
        raise InputError("the file is part of the data set and must exist", file=path, remedy=remedy) from None
    # What scipy raises on a file that is damaged, of a newer format, or another variable's.
    except (MatReadError, zlib.error, KeyError, ValueError, OSError, TypeError, NotImplementedError) as error:
        rule = f"the file must be a MATLAB file with the variable {variable}"
        raise InputError(rule, file=path, received=str(error)) from None


# ----------------------------------------------------------------------------------------- class folders
_CALTECH = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
_CALTECH_LEFT_OUT = frozenset({"BACKGROUND_Google", "Faces_easy"})
_EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}


def divided(images: Path, renamed: Mapping[str, str], left_out: frozenset[str] = frozenset()) -> Contents:
    """A folder per class, without lists."""
    names = [name for name in folders_in(images) if name not in left_out]
    members = {name: [f"{name}/{image}" for image in images_in(images / name)] for name in names}
    return Contents(images, tuple(renamed.get(name, name) for name in names), whole=members)


def caltech(folder: Path, images: Path) -> Contents:
    """Caltech101's class folders without the background and the second set of faces; four names in the singular."""
    return divided(images, _CALTECH, _CALTECH_LEFT_OUT)


def eurosat(folder: Path, images: Path) -> Contents:
    """EuroSAT's class folders, their names in words."""
    return divided(images, _EUROSAT)


def food101(folder: Path, images: Path) -> Contents:
    """Food101's class folders; meta/train.json and meta/test.json have the official lists, by class."""
    lists = [folder / "meta" / f"{part}.json" for part in ("train", "test")]
    if not all(path.exists() for path in lists):
        return divided(images, {})
    train, test = map(_listed_by_class, lists)
    classes = sorted({*train, *test})
    ranks = {name: label for label, name in enumerate(classes)}
    items = [[Item(f"{image}.jpg", ranks[name]) for name in part for image in part[name]] for part in (train, test)]
    return _with_val(folder / "meta", classes, *items)


def _listed_by_class(path: Path) -> dict[str, list[str]]:
    try:
        return {str(name): list(map(str, images)) for name, images in json.loads(read_text(path)).items()}
    except InputError:
        raise
    except (OSError, ValueError, AttributeError, TypeError) as error:
        rule = 'the file must map classes to lists of images, {"apple_pie": ["apple_pie/1005649", ...]}'
        raise InputError(rule, file=path, received=str(error)) from None


def textures(folder: Path, images: Path) -> Contents:
    """DTD's class folders; labels/{train,val,test}1.txt have the first of its official partitions."""
    lists = [folder / "labels" / f"{part}1.txt" for part in LISTS]
    if not all(path.exists() for path in lists):
        return divided(images, {})
    paths = [lines_of(path) for path in lists]
    classes = sorted({path.partition("/")[0] for some_paths in paths for path in some_paths})
    ranks = {name: label for label, name in enumerate(classes)}
    items = [tuple(Item(path, ranks[path.partition("/")[0]]) for path in some_paths) for some_paths in paths]
    return Contents(folder / "labels", tuple(classes), *items, official=True)
