"""Image files in folders, told by their endings: a million files must not be opened to be listed."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from gcsearch.data.image_files import ENDINGS, is_image
from gcsearch.errors import InputError

_LOOKED_INTO = 100  # files of other endings that are opened to see whether they are images
_NAMED = 12  # endings that are named
_FOLDER = "folders"


SYSTEM_NAMES = frozenset(
    {
        "__macosx",  # archives made on a Mac
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",  # network disks
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "network trash folder",
        "temporary items",
        "icon\r",  # the picture of a folder on a Mac, as Linux and network disks call it
        "icon\uf00d",
        "picasa.ini",
        "lost+found",
        "__pycache__",
    }
)
"""Files and folders that systems put beside people's own, in small letters; names that begin with a dot are more."""


def is_system(name: str) -> bool:
    """Whether a file or folder is a system's own: never a class, never an image."""
    small = name.casefold()  # what Windows notes of a download becomes a file where the disk has no streams
    return name.startswith(".") or small in SYSTEM_NAMES or small.endswith("zone.identifier")


class SkippedFilesWarning(UserWarning):
    """Folders of images hold files that are not read."""


@dataclass
class _SkippedFiles:
    """What is passed over, by folder, so that a folder that is listed twice counts once."""

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    some: dict[str, None] = field(default_factory=dict)
    """Some of the files: they may be images all the same."""

    def add(self, folder: Path, entries: list[os.DirEntry[str]]) -> None:
        self.kinds[os.fspath(folder)] = Counter(map(_kind, entries))
        self.some |= dict.fromkeys(sorted(entry.path for entry in entries)[: _LOOKED_INTO - len(self.some)])

    def describe(self) -> str:
        """For people; empty where nothing is passed over."""
        counts = sum(self.kinds.values(), Counter[str]())
        folders = counts.pop(_FOLDER, 0)
        kinds = sorted(counts, key=lambda kind: (-counts[kind], kind))
        named = [f"{kind} {counts[kind]}" for kind in kinds[:_NAMED]]
        named += [f"others {sum(counts[kind] for kind in kinds[_NAMED:])}"] if kinds[_NAMED:] else []
        parts = [f"{_number(counts.total(), 'file')} passed over: {', '.join(named)}"] if named else []
        parts += [f"{_number(folders, 'folder')} in class folders passed over"] if folders else []
        hidden = next((file for file in self.some if is_image(Path(file))), "")
        parts += [f"{hidden} is an image all the same: an ending such as .jpg makes it count"] if hidden else []
        return "; ".join(parts)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


_collected: ContextVar[_SkippedFiles | None] = ContextVar("passed_over", default=None)


@contextmanager
def warning_of_skipped_files(where: Path) -> Iterator[None]:
    """Warn at the end of files that were passed over meanwhile, also where the end is an error.

    The readers of data sets list folders deep inside; what they pass over is told here, once for all of them.
    """
    found = _SkippedFiles()
    token = _collected.set(found)
    try:
        yield
    finally:
        _collected.reset(token)
        if text := found.describe():
            warnings.warn(f"{where}: {text}", SkippedFilesWarning, stacklevel=3)


def images_in(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted. All others are passed over, systems' own without a word.

    InputError where the folder cannot be read.
    """
    names, others = _listed(folder)
    _tell(folder, others)
    return names


def has_images(folder: Path) -> bool:
    """Whether image files stand in a folder. InputError where it cannot be read."""
    return bool(_listed(folder)[0])


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and in the folders in it, in sorted order; those of a folder stand together.

    Links to folders are followed, and no folder is entered twice. InputError where one cannot be read.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        place = here.stat().st_dev, here.stat().st_ino
        if place in seen:
            continue
        seen.add(place)
        names, others = _listed(here)
        found += [here / name for name in names]
        folders = [entry.name for entry in others if os.path.isdir(entry.path)]  # noqa: PTH112
        _tell(here, [entry for entry in others if entry.name not in set(folders)])
        waiting += [here / name for name in sorted(folders, reverse=True)]
    return found


def _listed(folder: Path) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Names of the image files, sorted, and what else is there that is no system's own."""
    names: list[str] = []
    others: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:  # no Path for each: a million of them would take a minute
            for entry in entries:
                if is_system(entry.name):
                    continue
                # A link counts wherever it leads: one that leads nowhere is a lost image, and will be missed.
                ending = _ending(entry.name) in ENDINGS
                if ending and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                    names.append(entry.name)
                else:
                    others.append(entry)
    except OSError as error:
        raise InputError("the folder must be readable", file=folder, received=error.strerror) from None
    return sorted(names), others


def _tell(folder: Path, others: list[os.DirEntry[str]]) -> None:
    if others and (found := _collected.get()):
        found.add(folder, others)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir():  # a link to one, too
        return _FOLDER
    if not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
        return "pipes and devices"
    return _ending(entry.name) or "without an ending"


def _ending(name: str) -> str:
    """In small letters: `.jpg` of `a.b.JPG`; empty for a name without one."""
    stem, _, ending = name.rpartition(".")
    return f".{ending.casefold()}" if stem and ending else ""
