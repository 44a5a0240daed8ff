"""What every reader gives back, split files, and how images are divided where no split came with them."""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gcsearch.data.lists.folders import is_system
from gcsearch.errors import InputError
from gcsearch.files import read_text

LISTS = ("train", "val", "test")


class RepeatWarning(UserWarning):
    """Images stand more than once in a data set."""


class FreshSplitWarning(UserWarning):
    """The split is not the field's: numbers on it cannot be put beside published ones."""


@dataclass(frozen=True)
class Item:
    """One image: path relative to the data set's image folder, and its label."""

    path: str
    label: int


@dataclass(frozen=True)
class Contents:
    """What a reader found: class names by label, three lists, and the file or folder that said so.

    Where no list came with the images, `whole` has the paths of each class, under a key and in the order of the
    labels: `divide` makes the lists of them.  `val_share`: that share of each class of `train` is still to be held out
    as `val`.  `fresh`: why a split has to be drawn here.  `official`: the lists came with the images.
    """

    source: Path
    classes: tuple[str, ...]
    train: tuple[Item, ...] = ()
    val: tuple[Item, ...] = ()
    test: tuple[Item, ...] = ()
    whole: Mapping[str, Sequence[str]] = field(default_factory=dict, kw_only=True)
    val_share: float = field(default=0.0, kw_only=True)
    fresh: str = field(default="", kw_only=True)
    official: bool = field(default=False, kw_only=True)


def read_split(path: Path) -> Contents:
    """Read a split JSON, {"train": [[path, label, class name], ...], "val": ..., "test": ...}.

    Raises:
        InputError: the file is absent or malformed, a label has two names, labels do not run from 0.
    """
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise InputError(
            "the split file of the data set must exist",
            file=path,
            remedy="Check task.root: it holds all data sets.",
        ) from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(_FORM, file=path, received=str(error), remedy=_RESTORE) from None
    triples = _triples(content, path)
    names: dict[int, str] = {}
    for _, label, name in (triple for part in triples for triple in part):
        if names.setdefault(label, name) != name:
            raise InputError(f"label {label} must have one name", file=path, received=f"{names[label]!r} and {name!r}")
    if sorted(names) != list(range(len(names))):
        raise InputError("labels must run from 0 without a gap", file=path, received=sorted(names)[:20])
    train, val, test = (tuple(Item(p, label) for p, label, _ in part) for part in triples)
    return Contents(path, tuple(names[label] for label in range(len(names))), train, val, test)


_FORM = "a split file holds lists train, val and test of [path, label, class name]"
_RESTORE = "Restore the file from its source."


def _triples(content: Any, path: Path) -> list[list[tuple[str, int, str]]]:
    """The entries of the three lists. InputError naming the first that is none."""
    told = content if isinstance(content, dict) else {}
    if lacking := [key for key in LISTS if not isinstance(told.get(key), list)]:
        there = f"; there are {', '.join(map(repr, list(told)[:5]))}" if told else ""
        raise InputError(_FORM, file=path, received=f"no list {' and no list '.join(lacking)}{there}", remedy=_RESTORE)
    triples = []
    for key in LISTS:
        part = []
        for number, row in enumerate(told[key], start=1):
            match row:
                case [str(image), int() | str() as label, str(name)] if _is_label(label):
                    part.append((image, int(label), name))
                case _:
                    shown = f"{row!r}"
                    received = f"entry {number} of {key}: {shown[:100]}{'...' if len(shown) > 100 else ''}"
                    raise InputError(_FORM, file=path, received=received, remedy=_RESTORE)
        triples.append(part)
    return triples


def _is_label(label: int | str) -> bool:
    return type(label) is int or (isinstance(label, str) and label.isascii() and label.isdigit() and len(label) < 10)


def is_inside(path: str) -> bool:
    """Whether a relative path stays where it starts; neither absolute nor with `..`, on any system."""
    plain = path.replace("\\", "/")
    return not (plain.startswith("/") or ".." in plain.split("/") or re.match(r"[A-Za-z]:", path) is not None)


def divide(contents: Contents) -> Contents:
    """Split each class of `whole` into 50 % train, 20 % val and the rest as test, with Python's rounding.

    A class is shuffled by a generator of its own, so that a further class moves no image of another.

    Raises:
        InputError: classes too small to have an image in each list, all of them named.
    """
    lists: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    small = []
    for label, (key, paths) in enumerate(contents.whole.items()):
        items = [Item(path, label) for path in sorted(paths)]
        random.Random(f"gcsearch {key}").shuffle(items)
        first = round(len(items) * 0.5)
        middle = first + round(len(items) * 0.2)
        parts = items[:first], items[first:middle], items[middle:]
        if not all(parts):
            small.append(f"{key} ({len(items)})")
        for mine, part in zip(lists, parts, strict=True):
            mine += part
    if small or not contents.whole:
        raise InputError(
            "to be split in three, every class needs 4 images; those with fewer",
            file=contents.source,
            received=", ".join(small) or "no class at all",
            remedy="Remove these classes or complete them, or name a table with a column `split`.",
        )
    train, val, test = map(tuple, lists)
    return replace(contents, train=train, val=val, test=test, whole={})


def hold_out_val(items: Sequence[Item], share: float, at_most: int | None = None) -> tuple[list[Item], list[Item]]:
    """Take a part of each class out of `items` for validation, by a fixed draw: (train, val)."""
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    train, val = [], []
    for label in sorted(by_label):
        members = sorted(by_label[label], key=lambda item: item.path)
        count = max(round(len(members) * share), min(len(members) - 1, 1))  # val is to have each class, too
        count = count if at_most is None else min(count, at_most)
        held = set(random.Random(f"gcsearch {label}").sample(range(len(members)), count))
        train += [item for index, item in enumerate(members) if index not in held]
        val += [item for index, item in enumerate(members) if index in held]
    return train, val


def warn_fresh(contents: Contents) -> None:
    """Say that a split is not the field's. Python shows it once per data set and process."""
    lists = "gcsearch drew a fresh split, numbers on it"
    if contents.official:
        held = ", a fifth of each class of train held out as val" * bool(contents.val_share)
        lists = f"the lists are those of the data set's authors{held}, numbers on them"
    text = f"{contents.fresh}; {lists} are not comparable with published ones"
    warnings.warn(text, FreshSplitWarning, stacklevel=2)


def folders_in(folder: Path) -> list[str]:
    """Names of the sub-folders without systems' own, sorted as Python sorts text.

    InputError where `folder` is none, or a link in it leads nowhere: it could be a class.
    """
    if not folder.is_dir():
        raise InputError("the folder must exist", file=folder, remedy="Check task.root: it holds all data sets.")
    try:
        inside = [path for path in folder.iterdir() if not is_system(path.name)]
    except OSError as error:
        raise InputError("the folder must be readable", file=folder, received=error.strerror) from None
    lost = [path for path in inside if path.is_symlink() and not path.exists()]
    if lost:
        rule, remedy = "a link must lead to a file or folder, and not to itself", "Mend the link, or remove it."
        raise InputError(rule, file=folder, received=", ".join(path.name for path in sorted(lost)[:5]), remedy=remedy)
    return sorted(path.name for path in inside if path.is_dir())


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that is part of a data set, stripped, empty ones left out."""
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(
            "the file is part of the data set and must exist", file=path, remedy="Complete the download."
        ) from None
    except OSError as error:
        raise InputError("the file must be readable text", file=path, received=error.strerror) from None
