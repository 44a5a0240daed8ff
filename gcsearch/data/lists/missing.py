"""Images that a list names and that are not there, and what lies in their place."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path


def missing_images(images: Path, paths: Iterable[str]) -> list[str]:
    """Those of the `paths` below `images` that are no file, sorted.

    Folders are listed once, which is quick on network disks, too.
    """
    names: dict[str, set[str]] = {}
    missing = []
    for path in sorted(set(paths)):
        folder, _, name = path.rpartition("/")
        if folder not in names:
            names[folder] = _files_in(images / folder)
        # A name that is not listed as it stands may still open, where letters' case or accents are folded.
        if name not in names[folder] and not os.path.isfile(images / path):  # noqa: PTH113
            missing.append(path)
    return missing


def why_missing(images: Path, missing: Sequence[str]) -> str:
    """What lies in the place of the first of the missing images that has something there; empty where nothing does."""
    for path in missing[:20]:
        if (images / path).is_symlink():
            return f"{path!r} is a link that leads nowhere: fetch its file (`git annex get`, `dvc pull`), or mend it."
        if other := _alike(images, path):
            rule = "paths must agree in folders, case, endings and in how accents are written"
            return f"{path!r} is there as {other!r}: {rule}."
    return ""


def _alike(images: Path, path: str) -> str:
    """The file whose path differs from `path` by case, Unicode form, ending or further folders; empty for none."""
    parts = path.split("/")
    for start in range(1, len(parts)):
        shorter = "/".join(parts[start:])
        if (images / shorter).is_file():
            return shorter
    there: list[str] = []
    for part in parts:
        try:
            names = sorted(os.listdir(images.joinpath(*there)))  # noqa: PTH208
        except OSError:
            return ""
        alike = [name for name in names if _folded(name) == _folded(part)]
        if not alike and len(there) == len(parts) - 1:
            alike = [name for name in names if _folded(Path(name).stem) in (_folded(part), _folded(Path(part).stem))]
        if not alike:
            return ""
        there.append(alike[0])
    return "/".join(there) if (images / "/".join(there)).is_file() else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except OSError:
        return set()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False
