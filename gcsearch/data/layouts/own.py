"""Data sets that are in no list of the field: folders of class folders, and tables."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from gcsearch.data.layouts.base import VAL_SHARE, Reader, listed, some
from gcsearch.data.layouts.benchmark import divided
from gcsearch.data.lists.folders import has_images
from gcsearch.data.lists.splits import LISTS, Contents, Item, folders_in
from gcsearch.errors import InputError
from gcsearch.files import read_text


def class_folders(folder: Path, images: Path) -> Contents:
    """A folder per class, named as the class; DTD, Food101 and any folder of this form."""
    return divided(images, {})


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
    received = f"no image in {some(inside)}" if inside else "no folder in it"
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
        raise InputError(rule, file=images, received=some(others), remedy=remedy)
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
                received=f"no {some(lacking)} in {name}",
                remedy="Complete the folder, or remove the class from the others.",
            )
    lists = {part: listed(images / name, every, f"{name}/") for part, name in found.items()}
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
            raise InputError("the column split holds train, val or test", file=path, received=some(odd), remedy=remedy)
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
                f"every row must have a {name}", file=path, received=f"rows {some(rows)}" if rows else "no row"
            )
    return columns
