"""One reader per layout that is not a split JSON: folders, annotation files, MATLAB files, tables.

A reader is called with the data set's folder and its image folder, reads lists and folder names, opens no
image, and gives `Contents` back.  Where lists are still to be drawn the caller draws them, and warns.  Class
names come out in the form in which the split files have them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from gcsearch.data.lists.folders import has_images, images_in
from gcsearch.data.lists.splits import LISTS, Contents, Item, folders_in, hold_out_val, lines_of
from gcsearch.errors import InputError
from gcsearch.files import read_text

Reader = Callable[[Path, Path], Contents]
"""(folder of the data set, folder of its images) to what they hold."""

VAL_SHARE = 0.2
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
        raise InputError(rule, file=folder / "classnames.txt", received=f"no name for {_some(unknown)}")
    return tuple(names[wnid] for wnid in wnids)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


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
            received=f"in one only: {_some(odd)}",
            remedy="The validation images belong into one folder per wnid, too.",
        )
    listed = _listed(images / "train", wnids, "train/")
    train, val = hold_out_val(listed, VAL_SHARE, IMAGENET_VAL)
    classes = _named(_classnames(folder), wnids, folder)
    return Contents(images, classes, tuple(train), tuple(val), tuple(_listed(images / "val", wnids, "val/")))


def _listed(folder: Path, names: Sequence[str], prefix: str = "") -> list[Item]:
    return [
        Item(f"{prefix}{name}/{image}", label) for label, name in enumerate(names) for image in images_in(folder / name)
    ]


def imagenet_folders(folder: Path, images: Path) -> Contents:
    """ImageNet-Sketch, -A, -R: a folder per wnid, label = rank among these; test images only."""
    wnids = folders_in(images)
    return Contents(images, _named(_classnames(folder), wnids, folder), test=tuple(_listed(images, wnids)))


def imagenet_v2(folder: Path, images: Path) -> Contents:
    """ImageNetV2: folders 0, 1, ...; folder i is line i of classnames.txt, from 0; test images only."""
    classes = tuple(_classnames(folder).values())
    found = folders_in(images)
    odd = [name for name in found if not (name.isascii() and name.isdigit() and int(name) < len(classes))]
    if odd:
        rule = f"class folders must be numbers from 0 to {len(classes) - 1}, the lines of classnames.txt"
        raise InputError(rule, file=images, received=_some(odd))
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
    return Contents(source, tuple(classes), tuple(trainval), test=tuple(test), val_share=VAL_SHARE)


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

    The name is what follows the letter, from the back: "outdoor apartment_building".
    """
    keys = [line.replace("\\", "/").lstrip("/") for line in lines_of(folder / "ClassName.txt")]
    ranks = {key: label for label, key in enumerate(keys)}

    def read(file: str) -> list[Item]:
        paths = [line.replace("\\", "/").lstrip("/") for line in lines_of(folder / file)]
        return [Item(path, _rank(ranks, path.rpartition("/")[0], folder / file)) for path in paths]

    classes = [" ".join(reversed(key.split("/")[1:])) for key in keys]
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
    """Oxford Flowers: imagelabels.mat numbers the classes of image_00001.jpg, ..., cat_to_name.json names them."""
    labels = [int(label) for label in _matlab(folder / "imagelabels.mat", "labels").ravel()]
    path = folder / "cat_to_name.json"
    try:
        names = {int(key): str(name) for key, name in json.loads(read_text(path)).items()}
    except InputError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            'the file must map class numbers to names, {"1": ...}', file=path, received=str(error)
        ) from None
    numbers = sorted({*labels, *names})
    if unnamed := [str(number) for number in numbers if number not in names]:
        raise InputError("every class must have a name", file=path, received=f"no name for {_some(unnamed)}")
    members: dict[int, list[str]] = {number: [] for number in numbers}
    for index, label in enumerate(labels, start=1):
        members[label].append(f"image_{index:05d}.jpg")
    keyed = {str(number): paths for number, paths in members.items()}
    classes = tuple(names[number] for number in numbers)
    return Contents(folder / "imagelabels.mat", classes, whole=keyed)


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


# ----------------------------------------------------------------------------------------- folders and tables
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


def _divided(images: Path, renamed: Mapping[str, str], left_out: frozenset[str] = frozenset()) -> Contents:
    names = [name for name in folders_in(images) if name not in left_out]
    members = {name: [f"{name}/{image}" for image in images_in(images / name)] for name in names}
    return Contents(images, tuple(renamed.get(name, name) for name in names), whole=members)


def caltech(folder: Path, images: Path) -> Contents:
    """Caltech101's class folders without the background and the second set of faces; four names in the singular."""
    return _divided(images, _CALTECH, _CALTECH_LEFT_OUT)


def eurosat(folder: Path, images: Path) -> Contents:
    """EuroSAT's class folders, their names in words."""
    return _divided(images, _EUROSAT)


def class_folders(folder: Path, images: Path) -> Contents:
    """A folder per class, named as the class; DTD, Food101 and any folder of this form."""
    return _divided(images, {})


_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The list that a folder of this name holds, where class folders lie below such folders; also in tables."""


def own_folders(folder: Path, images: Path) -> Contents:
    """`folder:NAME`: a data set that is not in the table, with a folder per class, or with a folder per list.

    Says that the split is fresh, where it is.
    """
    parts = split_folders(images)
    if parts:
        return _split_by_folders(images, parts)
    contents = class_folders(folder, images)
    if not any(contents.whole.values()):
        _refuse_no_image(images)
    return replace(contents, fresh=f"{images} has class folders and no split")


def _refuse_no_image(images: Path) -> NoReturn:
    """Say where the images are, where no folder in `images` holds any."""
    rule, remedy = "a folder with a folder of images for each class is read", "Complete the download."
    inside = folders_in(images)
    received = f"no image in {_some(inside)}" if inside else "no folder in it"
    if has_images(images):
        received += ", and images beside"
        remedy = "Put the images of each class into a folder of its name; or list them in a table (`table:FILE`)."
    for name in inside:
        deeper = [inner for inner in folders_in(images / name) if has_images(images / name / inner)]
        if len(deeper) > 1:
            remedy = f"There are class folders in {images / name}: name that one (`folder:NAME`)."
        elif deeper:
            remedy = f"Images are further down, in {images / name / deeper[0]}: move them up into the class folders, "
            remedy += "or list them in a table (`table:FILE`)."
        if deeper:
            break
    raise InputError(rule, file=images, received=received, remedy=remedy)


def split_folders(images: Path) -> dict[str, list[str]]:
    """The folders of each list, where there is a folder `train` with folders and no images in it; else none.

    InputError where there are other folders beside them.
    """
    parts: dict[str, list[str]] = {part: [] for part in (*LISTS, "")}
    for name in folders_in(images):
        parts[_PARTS.get(name.casefold(), "")].append(name)
    # A class of trains has images, not folders.
    if not any(folders_in(images / name) and not has_images(images / name) for name in parts["train"]):
        return {}
    if others := parts.pop(""):
        rule, remedy = "beside train, val and test there must be no other folder", "Move it elsewhere."
        raise InputError(rule, file=images, received=_some(others), remedy=remedy)
    return parts


def _split_by_folders(images: Path, parts: Mapping[str, Sequence[str]]) -> Contents:
    """train/CLASS/IMAGE, val/CLASS/IMAGE and test/CLASS/IMAGE; without val some of train are held out for it."""
    doubled = next((names for names in parts.values() if len(names) > 1), None)
    if doubled:
        raise InputError("each list has one folder", file=images, received=" and ".join(doubled))
    if not parts["test"]:
        rule = "beside the folder train there must be a folder test: its images are what results are measured on"
        remedy = (
            f"If {parts['val'][0]} holds them, rename it to test: images of train are then held out for validation."
            if parts["val"]
            else "Add one; or move the class folders up, and gcsearch divides them itself."
        )
        raise InputError(rule, file=images, received=", ".join(folders_in(images)), remedy=remedy)
    found = {part: names[0] for part, names in parts.items() if names}
    for name in found.values():
        if not folders_in(images / name) and has_images(images / name):
            raise InputError(
                "images of each list lie in class folders",
                file=images / name,
                received=f"images and no folder in {name}",
                remedy="Sort them into class folders. Images whose classes nobody knows cannot be measured: move them "
                "elsewhere, and name another list test.",
            )
    classes = {part: folders_in(images / name) for part, name in found.items()}
    every = sorted(set().union(*classes.values()))
    for part, name in found.items():
        if lacking := sorted(set(every) - set(classes[part])):
            others = " and ".join(other for other in found.values() if other != name)
            raise InputError(
                f"{others} and {name} must have the same class folders",
                file=images / name,
                received=f"no {_some(lacking)} in {name}",
                remedy="Complete the folder, or remove the class from the others.",
            )
    lists = {part: _listed(images / name, every, f"{name}/") for part, name in found.items()}
    contents = Contents(images, tuple(every), *(tuple(lists.get(part, ())) for part in LISTS))
    if "val" in lists:
        return contents
    fresh = f"{images} has no validation images, and a fifth of each class of {found['train']} is held out"
    return replace(contents, val_share=VAL_SHARE, fresh=fresh)


def table(file: str) -> Reader:
    """`table:FILE`: a CSV or Parquet file with the columns path, class and, if it likes, split.

    Paths are relative to the file's folder; classes are labelled in sorted order; split is train, val or test.
    """

    def read(folder: Path, images: Path) -> Contents:
        path = folder / file
        columns = _columns(path)
        classes = sorted(set(columns["class"]))
        ranks = {name: label for label, name in enumerate(classes)}
        items = [Item(p, ranks[name]) for p, name in zip(columns["path"], columns["class"], strict=True)]
        if "split" not in columns:
            members: dict[str, list[str]] = {name: [] for name in classes}
            for name, image in zip(columns["class"], columns["path"], strict=True):
                members[name].append(image)
            return Contents(path, tuple(classes), whole=members, fresh=f"{path} has no column `split`")
        parts = [_PARTS.get(part.casefold(), "") for part in columns["split"]]
        if odd := sorted({told for told, part in zip(columns["split"], parts, strict=True) if not part}):
            remedy = "Leave the column out, and gcsearch divides the images itself."
            raise InputError("the column split holds train, val or test", file=path, received=_some(odd), remedy=remedy)
        lists = [[i for i, part in zip(items, parts, strict=True) if part == key] for key in LISTS]
        return Contents(path, tuple(classes), *map(tuple, lists))

    return read


def is_table(path: Path) -> bool:
    """Whether a CSV or Parquet file has the columns of a data set."""
    from pyarrow import ArrowException, parquet

    try:
        if path.suffix.casefold() == ".parquet":
            return {"path", "class"} <= set(parquet.read_schema(path).names)
        with path.open("rb") as file:
            text = (file.readline(100) + file.readline(10_000)).decode("utf-8-sig")
    except (ArrowException, OSError, UnicodeDecodeError):
        return False
    return {"path", "class"} <= set(map(_heading, _headings(text)[1]))


def _headings(text: str) -> tuple[str, list[str]]:
    """The character between the columns of a CSV text, and what its first row has in them."""
    lines = _without_mark(text).splitlines(keepends=True)
    tried = {mark: next(filter(None, csv.reader(lines, delimiter=mark)), []) for mark in ",;\t|"}
    told = [mark for mark, names in tried.items() if {"path", "class"} <= set(map(_heading, names))]
    mark = told[0] if told else max(tried, key=lambda one: len(tried[one]))
    return mark, tried[mark]


def _without_mark(text: str) -> str:
    """Without Excel's first line `sep=;`, which says what stands between columns."""
    return text.partition("\n")[2] if text[:4].casefold() == "sep=" else text


def _heading(name: str) -> str:
    """A column's name as it is meant."""
    plain = name.strip().casefold()
    return plain if plain in ("path", "class", "split") else name


def _read_csv(text: str) -> Any:
    """A CSV text as a table of texts. Between columns may be commas, semicolons, tabs or bars."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    mark, names = _headings(text)
    return arrow.read_csv(
        pa.BufferReader(_without_mark(text).encode()),
        parse_options=arrow.ParseOptions(delimiter=mark, newlines_in_values=True),
        convert_options=arrow.ConvertOptions(column_types={name: pa.string() for name in names}),
    )


def _columns(path: Path) -> dict[str, list[str]]:
    """The columns path, class and split of a table as texts, none empty."""
    import pyarrow as pa
    from pyarrow import parquet

    known = ("path", "class", "split")
    try:
        binary = path.suffix.casefold() == ".parquet"
        found = parquet.read_table(path) if binary else _read_csv(read_text(path))
        found = found.rename_columns(list(map(_heading, found.column_names)))
        missing = [name for name in ("path", "class") if name not in found.column_names]
        doubled = [name for name in known if found.column_names.count(name) > 1]
        wanted = [name for name in known if found.column_names.count(name) == 1]
        columns = {name: found[name].cast(pa.string()).to_pylist() for name in wanted}
    except FileNotFoundError:
        where = "The path after `table:` starts at task.root."
        raise InputError("the table must exist", file=path, key="task.dataset", remedy=where) from None
    except (pa.ArrowException, OSError) as error:
        remedy = "Save it as CSV in UTF-8, with `path,class,split` or `path,class` as its first row."
        rule = "the table must be a CSV or Parquet file"
        raise InputError(rule, file=path, received=str(error), remedy=remedy) from None
    if missing:
        rule = "a table has the columns path and class, and may have split"
        remedy = "Rename columns in its first row: path is an image's file with its ending, class what it shows."
        raise InputError(rule, file=path, received=", ".join(found.column_names), remedy=remedy)
    if doubled:
        raise InputError(f"a table has one column {doubled[0]}", file=path, received=", ".join(found.column_names))
    for name in {"class", "split"} & set(columns):  # a blank after a comma is no part of a name
        columns[name] = [value and value.strip() for value in columns[name]]
    for name, values in columns.items():
        if not values or not all(values):
            rows = [str(index) for index, value in enumerate(values, start=1) if not value]
            raise InputError(
                f"every row must have a {name}", file=path, received=f"rows {_some(rows)}" if rows else "no row"
            )
    return columns
