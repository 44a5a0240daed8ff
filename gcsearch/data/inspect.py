"""What lies below a root: each data set's classes, images per list, and what is missing or cannot be opened."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gcsearch.data import datasets, image_files
from gcsearch.data.datasets import DATASETS, Dataset, Progress
from gcsearch.data.image_loader import fault, named
from gcsearch.data.layouts import torchvision
from gcsearch.data.layouts.own import is_table, split_folders
from gcsearch.data.lists import checks
from gcsearch.data.lists.draws import compare_draw
from gcsearch.data.lists.folders import SkippedFilesWarning, has_images
from gcsearch.data.lists.missing import missing_images, why_missing
from gcsearch.data.lists.splits import FreshSplitWarning, RepeatWarning, folders_in
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError
from gcsearch.files import digest_folder


@dataclass(frozen=True)
class Finding:
    """One data set as found. `problem` says why it could not be read at all."""

    name: str
    folder: str
    source: str = ""
    classes: int = 0
    images: dict[str, int] = field(default_factory=dict)
    """Images per list."""
    missing: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    """Images of the test list that also are in train or val, told by content: `test: a.jpg = train: b.jpg`."""
    unreadable: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    """Why an image is unreadable, by its path."""
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.problem or self.missing or self.unreadable or self.leaks)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def present(root: Path) -> list[str]:
    """Names of the data sets of the table whose folder lies below `root`. InputError where `root` is no folder."""
    if not root.is_dir():
        raise InputError("the root must be the folder that holds all data sets", file=root)
    named = [name for name in DATASETS if (root / datasets.located(name, root).folder).is_dir()]
    return named + worlds.written(root)


def examine(root: Path, name: str, *, verify: bool = False, progress: Progress | None = None) -> Finding:
    """Look at one data set; `verify` decodes every image. What is wrong is part of the finding.

    Raises:
        InputError: no data set has this name.
    """
    folder = str(root / datasets.located(name, root).folder)
    with warnings.catch_warnings(record=True) as caught:
        for category in (FreshSplitWarning, SkippedFilesWarning, RepeatWarning):
            warnings.simplefilter("always", category)
        try:
            dataset, source = datasets.read(name, root)
        except InputError as error:
            return Finding(name, folder, problem=str(error), notes=tuple(str(warning.message) for warning in caught))
    missing = missing_images(dataset.images, dataset.paths)
    published = datasets.is_published(dataset.name, dataset.lists, dataset.classes)
    repeats = checks.find_repeats(checks.lists_of(dataset), digest_folder(), progress)
    leaks = () if published else repeats.leaks
    said = [repeats.describe(dataset.name, published=published)] if repeats != checks.Repeats(leaks) else []
    reasons = dict(_unreadable(dataset, set(missing), progress)) if verify else {}
    return Finding(
        name,
        folder,
        source=str(source),
        classes=len(dataset.classes),
        images={key: len(items) for key, items in dataset.lists.items()},
        missing=tuple(missing),
        leaks=leaks,
        unreadable=tuple(reasons),
        reasons=reasons,
        notes=(*(str(warning.message) for warning in caught), *said, *_notes(name, dataset, root, missing)),
    )


def _notes(name: str, dataset: Dataset, root: Path, missing: Sequence[str]) -> Iterator[str]:
    if missing and (why := why_missing(dataset.images, missing)):
        yield why
    for key, items in dataset.lists.items() if dataset.train else ():
        filled = {item.label for item in items}
        if lacking := [title for label, title in enumerate(dataset.classes) if label not in filled]:
            yield f"{key} has no image of {len(lacking)} of {len(dataset.classes)} classes ({named(lacking, 3)})"
    layout = datasets.located(name, root)
    counts = (len(dataset.classes), *map(len, dataset.lists.values()))
    if layout.published and counts != layout.published:
        classes, train, val, test = layout.published
        yield f"published: {classes} classes, train {train}, val {val}, test {test}"
    caches = root / layout.folder / "split_fewshot"
    for file in sorted(caches.glob("shot_*.pkl")) if dataset.train else ():
        yield f"{caches.name}/{file.name} {compare_draw(dataset, file)}"


def _unreadable(dataset: Dataset, missing: set[str], progress: Progress | None) -> Iterator[tuple[str, str]]:
    image_files.pixel_limit()  # a wrong one is no fault of the images
    paths = sorted({item.path for part in dataset.lists.values() for item in part} - missing)
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        for start in range(0, len(paths), 256):
            part = paths[start : start + 256]
            told = pool.map(fault, [dataset.images / path for path in part])
            yield from ((path, why) for path, why in zip(part, told, strict=True) if why)
            if progress:
                progress(start + len(part), len(paths))


def own(root: Path) -> list[str]:
    """Names of data sets below `root` that are not in the table: folders of class folders, and tables."""
    known = {layout.folder for layout in DATASETS.values()}
    known |= {place.folder.partition("/")[0] for place in torchvision.FOLDERS.values()}
    known |= {worlds.find(name).folder for name in worlds.written(root)}
    inside = [name for name in folders_in(root) if name not in known]
    names = [f"folder:{name}" for place in inside for name in _class_folders(root, place)]
    files = [path for folder in (root, *(root / name for name in inside)) for path in sorted(folder.glob("*.*"))]
    tables = [path for path in files if path.suffix.casefold() in (".csv", ".tsv", ".parquet") and is_table(path)]
    return [*names, *(f"table:{path.relative_to(root).as_posix()}" for path in tables)]


def _class_folders(root: Path, name: str) -> list[str]:
    """The folder `name` where it has class folders, or else those in it that do, as of an archive in a folder."""
    if has_classes(root / name):
        return [name]
    try:
        inside = folders_in(root / name)
    except InputError:
        return []
    return [f"{name}/{inner}" for inner in inside if has_classes(root / name / inner)]


def has_classes(folder: Path) -> bool:
    """Whether a folder has class folders: two or more folders with images, or a folder for each list of such."""
    try:
        return bool(split_folders(folder)) or sum(has_images(folder / name) for name in folders_in(folder)) > 1
    except (InputError, OSError):
        return False  # what is wrong with it is said where it is named


def check_names(names: Sequence[str] | None, root: Path) -> list[str]:
    """The names to examine: those asked for, or those of the table, or people's own. InputError where there is none."""
    found = present(root)
    for name in names or ():
        datasets.find(name)
    if names or found:
        return list(names or found)
    if found := own(root):
        return found
    place = root.absolute()
    remedy = (
        "It has a folder per class itself: "
        + shlex.join(["gcsearch", "data", "check", str(place.parent), "--dataset", f"folder:{place.name}"])
        + "."
        if has_classes(root)
        else "Images in ROOT/NAME/CLASS are `--dataset folder:NAME`; a CSV or Parquet file in ROOT with columns path "
        "and class is `--dataset table:FILE`; docs/datasets.md has the folders of the known data sets."
    )
    raise InputError("no data set lies below the root", file=root, remedy=remedy)
