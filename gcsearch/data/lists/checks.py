"""What must hold of a data set's lists before anything is trained on them: no empty class, no image known before.

A leak is an image of the test list that also is an image to train on or to choose by, under whatever name: told by
what the files contain.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcsearch.data import datasets, digests
from gcsearch.data.datasets import Dataset
from gcsearch.data.image_loader import named
from gcsearch.data.lists.splits import Item
from gcsearch.errors import InputError

WHOLE = 100_000
"""Train lists up to this length are compared whole; of longer ones, as ImageNet's, the images that a sweep draws."""

SHOWN = 3
"""Pairs of images that a message names."""


def check_list(dataset: Dataset, key: str, labels: Iterable[int], why: str, *, place: str = "task.dataset") -> None:
    """InputError, naming the classes, where one of `labels` has no image in the list `key`; `why` says what for."""
    filled = {item.label for item in dataset.lists[key]}
    empty = [dataset.classes[label] for label in labels if label not in filled]
    if empty:
        which = f"none for {named(empty, 10)}" if dataset.lists[key] else "no image at all"
        raise InputError(
            f"{why}, so every class of {dataset.name} needs an image in the list {key}",
            key=place,
            received=which,
            remedy=f"Move some images of each class into {key} from another list, or leave these classes out.",
        )


def check_tokens(dataset: Dataset, tokenize: Callable[[str], list[int]]) -> None:
    """InputError where a class name has no tokens, or those of another."""
    known: dict[tuple[int, ...], str] = {}
    for name in dataset.classes:
        tokens = tuple(tokenize(name))
        other = known.setdefault(tokens, name)
        if not tokens or other != name:
            rule = f"class names of {dataset.name} must be told apart by the tokens that the model reads"
            received = f"{other!r} and {name!r}" if tokens else f"no token in {name!r}"
            raise InputError(rule, key="task.dataset", received=received, remedy="Rename the class.")


@dataclass(frozen=True)
class Repeats:
    """Images that stand more than once in what is compared, each as `test: a.jpg = train: b.jpg`.

    `leaks`: of the test list, in train or val, too. `overlaps`: of val, in train, too. `torn`: of one class, in
    another, too. `again`: within one list and class.
    """

    leaks: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    def describe(self, name: str, *, published: bool) -> str:
        """What was found in the data set `name`, in one line; empty where nothing was."""
        kinds = (
            (self.leaks, "test images that are also in train or val"),
            (self.overlaps, "images in both train and val"),
            (self.torn, "images in two classes"),
            (self.again, "images again in the same list and class"),
        )
        found = [f"{what}: {len(pairs)} ({named(pairs, SHOWN)})" for pairs, what in kinds if pairs]
        return f"{name}{' (as published)' if published else ''}: {'; '.join(found)}" if found else ""


@dataclass(frozen=True)
class Listed:
    """Images of one list that are compared: `key` is the list's name for people, `role` train, val or test."""

    key: str
    role: str
    folder: Path
    items: Sequence[Item]


_Member = tuple[Listed, Item]


def lists_of(dataset: Dataset, drawn: Iterable[Item] = ()) -> list[Listed]:
    """The lists of a data set; of a train list longer than `WHOLE` the images `drawn` alone."""
    lists = []
    for key, items in dataset.lists.items():
        compared = items if len(items) <= WHOLE or key != "train" else tuple(dict.fromkeys(drawn))
        lists.append(Listed(key, key, dataset.images, compared))
    return lists


def find_repeats(
    lists: Sequence[Listed],
    memory: Path,
    progress: Callable[[int, int], None] | None = None,
    most: float = math.inf,
) -> Repeats:
    """The images that stand in `lists` more than once, told by content; see `digests.same_content`."""
    folders: dict[Path, list[_Member]] = {}
    for one in lists:
        folders.setdefault(one.folder, []).extend((one, item) for item in one.items)
    wanted = [(folder, [item.path for _, item in members]) for folder, members in folders.items()]
    alike: dict[int, list[_Member]] = defaultdict(list)
    found = digests.same_content(wanted, memory, progress, most)
    for members, groups in zip(folders.values(), found, strict=True):
        for row in (groups >= 0).nonzero()[0].tolist():
            alike[int(groups[row])].append(members[row])
    kinds: Mapping[str, list[str]] = {"leaks": [], "overlaps": [], "torn": [], "again": []}
    for members in alike.values():
        for kind, first, second in _pairs(members):
            kinds[kind].append(" = ".join(f"{one.key}: {item.path}" for one, item in (first, second)))
    return Repeats(**{kind: tuple(sorted(pairs)) for kind, pairs in kinds.items()})


def _pairs(alike: Sequence[_Member]) -> Iterable[tuple[str, _Member, _Member]]:
    """What is wrong with images of one content: each beside the first one that it repeats, under the worst kind."""
    order = {"train": 0, "val": 1, "test": 2}
    ranked = sorted(alike, key=lambda member: order[member[0].role])
    for index, member in enumerate(ranked[1:], start=1):
        (one, item), (first, other) = member, ranked[0]
        earlier = next((m for m in ranked[:index] if m[0].key == one.key), None)
        if one.role == "test" and first.role != "test":
            yield "leaks", member, ranked[0]
        elif one.role == "val" and first.role == "train":
            yield "overlaps", member, ranked[0]
        elif one.folder == first.folder and item.label != other.label:
            yield "torn", member, ranked[0]
        elif earlier:
            yield "again", member, earlier


def check_repeats(
    dataset: Dataset,
    lists: Sequence[Listed],
    memory: Path,
    *,
    keep: bool,
    progress: Callable[[int, int], None] | None = None,
    most: float = math.inf,
) -> str:
    """What to warn of among the images of `lists`; empty where none stands there twice.

    Where more than `most` files would have to be read, it says so, and nothing is compared.

    InputError where test images leak, unless `keep` allows it or the lists are the field's own: whoever removes
    images from these has other numbers than everybody else.
    """
    try:
        found = find_repeats(lists, memory, progress, most)
    except digests.TooMuchToReadError:
        return f"{dataset.name}: images are compared by content when a sweep runs; that takes too long here"
    published = datasets.is_published(dataset.name, dataset.lists, dataset.classes)
    if found.leaks and not (keep or published):
        raise InputError(
            f"no test image of {dataset.name} may be known before the test; also in train or val, told by content: "
            f"{len(found.leaks)}",
            key="task.dataset",
            received=named(found.leaks, SHOWN),
            remedy="Remove them from train and val, or from test; `gcsearch data check ROOT --dataset NAME` lists all. "
            'Where the split is to stay as it is: task.repeats = "keep".',
        )
    return found.describe(dataset.name, published=published)
