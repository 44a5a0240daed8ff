"""What a folder of images allows: which data set it is, what is in it, and the shots and folds that fit it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gcsearch import files
from gcsearch.data import datasets, inspect
from gcsearch.data.image_loader import named
from gcsearch.data.layouts.own import is_table
from gcsearch.data.lists import checks
from gcsearch.data.lists.folders import SkippedFilesWarning
from gcsearch.data.lists.splits import LISTS, FreshSplitWarning, RepeatWarning
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError, printable

Protocol = Literal["base", "all"]

MOST_VAL_IMAGES = 2000
"""Up to so many validation images all of them score a search: more are more exact, and encoding them takes minutes."""


@dataclass(frozen=True)
class Survey:
    """A data set as found. `counts` has the images of each class, in the order of the labels, by list."""

    name: str
    root: Path | None
    """None for an embedded data set, which needs no folder."""
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    @property
    def protocol(self) -> Protocol:
        """Base and new classes need two each."""
        return "base" if len(self.classes) >= 4 else "all"

    @property
    def val_shots(self) -> Literal["all"] | None:
        return "all" if sum(self.counts["val"]) <= MOST_VAL_IMAGES else None

    def trained(self, protocol: Protocol) -> tuple[int, ...]:
        """The labels that are trained: the first half, rounded up, or all."""
        return tuple(range((len(self.classes) + 1) // 2 if protocol == "base" else len(self.classes)))

    def shots(self, protocol: Protocol) -> int:
        """The most of 1, 2, 4, 8, 16 that every trained class has."""
        smallest = min(self.counts["train"][label] for label in self.trained(protocol))
        return max((shots for shots in (1, 2, 4, 8, 16) if shots <= smallest), default=1)

    def folds(self, protocol: Protocol) -> int:
        """Three, or as many as have two classes each; one, which holds nothing out, where all classes are trained."""
        return 1 if protocol == "all" else max(1, min(3, len(self.trained(protocol)) // 2))

    def check(self, protocol: Protocol, shots: int, folds: int) -> None:
        """InputError where the data has too few images or classes for them. The keys are those of a pipeline."""
        if protocol == "base" and self.protocol == "all":
            rule = "base and new classes must be two each, so a data set needs four classes"
            remedy = 'Train all classes: "all".'
            raise InputError(rule, key="task.classes", received=f"{len(self.classes)} classes", remedy=remedy)
        largest = max(self.counts["train"])
        if shots > largest:
            rule, remedy = "no class has so many training images", f"At most {largest} are there."
            raise InputError(rule, key="task.shots", received=shots, remedy=remedy)
        classes = len(self.trained(protocol))
        most = 1 if protocol == "all" else max(1, classes // 2)
        if folds > most:
            rule = (
                f"every fold needs two of the {classes} base classes" if protocol == "base" else "no class is held out"
            )
            raise InputError(rule, key="task.folds", received=folds, remedy=f"At most {most}.")

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        where = f"{self.name} in {self.root}" if self.root else f"{self.name}, embedded"
        lists = [f"{key} {sum(self.counts[key])}" for key in LISTS]
        label = min(range(len(self.classes)), key=lambda one: sum(self.counts[key][one] for key in LISTS))
        fewest = [f"{key} {self.counts[key][label]}" for key in LISTS]
        told = {
            "data": where,
            "classes": f"{len(self.classes)}: {named(self.classes, 6)}",
            "images": ", ".join(lists),
            "smallest": f"{self.classes[label]}: {', '.join(fewest)}",
        }
        return [(what, printable(" ".join(text.split()))) for what, text in told.items()]


def survey(where: str, dataset: str | None = None) -> Survey:
    """Look at what `where` names: a folder, a table or an embedded data set; `dataset`: which one in the folder.

    Opens no image.

    Raises:
        InputError: there is none, or several; it cannot be read; a class lacks images in a list.
    """
    if worlds.is_embedded(where) and dataset is None:
        world = worlds.find(where)
        counts = {key: (count,) * len(world.class_names) for key, count in world.counts.items()}
        return Survey(where, None, world.class_names, counts)
    name, root = _find(where, dataset)
    with warnings.catch_warnings(record=True) as caught:
        for category in (FreshSplitWarning, SkippedFilesWarning, RepeatWarning):
            warnings.simplefilter("always", category)
        found = datasets.load(name, root)
    for key, why in (("train", "every class is trained"), ("val", "the search is scored on validation images")):
        checks.check_list(found, key, range(len(found.classes)), why)
    checks.check_list(found, "test", range(len(found.classes)), "results are measured on test images")
    counts = {}
    for key, items in found.lists.items():
        of_class = Counter(item.label for item in items)
        counts[key] = tuple(of_class[label] for label in range(len(found.classes)))
    return Survey(name, root, found.classes, counts, tuple(str(warning.message) for warning in caught))


def _find(where: str, dataset: str | None) -> tuple[str, Path]:
    """The name of the data set, and the folder that holds it."""
    path = files.absolute(where)
    if path.is_file() and dataset is None:
        if not is_table(path):
            rule = "a file is a CSV or Parquet table with the columns path and class"
            raise InputError(rule, file=path, remedy="Name a folder of class folders, or such a table.")
        return f"table:{path.name}", path.parent
    if not path.is_dir():
        raise InputError(
            "data is a folder of images, a table, or the name of an embedded data set",
            received=where,
            remedy=f"Get it with `gcsearch data get {where} --root DIR`, and name DIR."
            if where in datasets.DATASETS
            else f"Check the path. Embedded: {', '.join((*worlds.WORLDS, worlds.GENERATED))}.",
        )
    if dataset is not None:
        datasets.find(dataset, key="dataset")
        return dataset, path
    # The folder of a data set that is known by name, which may be one of several below another.
    for root in (path.parent, path.parent.parent):
        for name in inspect.present(root):
            if root / datasets.located(name, root).folder == path:
                return name, root
    if inspect.has_classes(path):
        return f"folder:{path.name}", path.parent
    found = [*inspect.present(path), *inspect.own(path)]
    if len(found) > 1:
        raise SeveralDataSets(path, found)
    if not found:
        datasets.load(f"folder:{path.name}", path.parent)  # says what is wrong with it
    return found[0], path


class SeveralDataSets(InputError):
    """A folder holds more than one data set: `names`."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.names = names
        rule = "the folder holds several data sets, and one is wanted"
        super().__init__(rule, file=folder, key="dataset", remedy=f"Name one: {', '.join(names)}.")
