"""A task with its frozen model and its data: what episodes are made in."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gcsearch.clip.model import Backbone
from gcsearch.config.metrics import Stage
from gcsearch.config.task import Task
from gcsearch.data import datasets
from gcsearch.data.datasets import Dataset, Progress
from gcsearch.data.features import FeatureCache, FeatureRequest
from gcsearch.data.lists import checks, draws
from gcsearch.data.lists.splits import Item
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError
from gcsearch.files import cache_folder
from gcsearch.training.episodes import Episode, Half, Target

_Made = tuple[FeatureRequest, Tensor]
"""What was asked of the cache, and the features [V, N, E] that it gave."""


Read = tuple[str, int, str]
"""An image that is read: path below the data set's folder, label, digest of the file."""


def digest_of(listed: Sequence[object]) -> str:
    """Twelve digits for a list of images, or of names."""
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Shared:
    """What the episodes of all seeds have in common."""

    stage: Stage
    names: tuple[str, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Laboratory:
    """A task with its frozen model and data, ready to make episodes."""

    task: Task
    backbone: Backbone
    dataset: Dataset
    cache: FeatureCache = field(repr=False)

    @cached_property
    def halves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Base and new labels of the data set; all labels and none where the task trains all classes."""
        if self.task.classes == "all":
            return tuple(range(len(self.dataset.classes))), ()
        return draws.halves(self.dataset)

    @cached_property
    def targets(self) -> tuple[Dataset, ...]:
        """The data sets that the stage `test` measures beside the source; read on first use."""
        return tuple(self._target(name) for name in self.task.targets)

    def _target(self, name: str) -> Dataset:
        if name == self.task.dataset:
            return self.dataset
        datasets.find(name, key="task.targets")
        return datasets.load(name, data_root(self.task))

    def check_lists(self, stage: Stage) -> None:
        """InputError where a list that the stage reads has no image of a class that needs one."""
        (base, new), dataset = self.halves, self.dataset
        if not dataset.train:
            rule = "the data set must have images to train on"
            raise InputError(rule, key="task.dataset", received=f"{dataset.name}, which has test images only")
        if len(base) < 2 or (self.task.classes == "base" and len(new) < 2):
            rule = "a score among fewer than two classes is no score: base and new classes need two each"
            remedy = 'With 2 or 3 classes set `classes = "all"` in [task].'
            raise InputError(rule, key="task.dataset", received=f"{len(dataset.classes)} classes", remedy=remedy)
        checks.check_list(dataset, "train", base, "prompts are trained on train")
        if stage == "search":
            if self.task.val_shots != 0:
                checks.check_list(dataset, "val", base, "the search is scored on validation images")
            return
        checks.check_list(dataset, "test", (*base, *new), "results are measured on test images")
        for target in self.targets:
            place = "task.targets"
            checks.check_list(
                target, "test", range(len(target.classes)), "targets are measured on test images", place=place
            )

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Names that are no class of the data set: those of `task.other_names`, or the embedded list."""
        return draws.other_names(self.dataset, self.task.other_names)

    def digests(self, seeds: Sequence[int]) -> dict[str, str]:
        """Twelve digits for the images that each seed trains on, and for `test`: the test images. See `digest_of`."""
        found = {role: digest_of(read) for _, role, read in self.read("test", seeds)[: 2 * len(seeds)]}
        return {str(seed): found[f"train/{seed}"] for seed in seeds} | {"test": found["test"]}

    def digests_by_size(self, seeds: Sequence[int]) -> dict[str, str]:
        """As `digests` of former versions: of paths, labels and sizes, all classes of the few-shot draw."""
        drawn = {str(seed): self.draw(seed)[0] for seed in seeds} | {"test": self.dataset.test}
        folder = self.dataset.images
        listed = {
            name: [[item.path, item.label, (folder / item.path).stat().st_size] for item in items]
            for name, items in drawn.items()
        }
        return {name: digest_of(one) for name, one in listed.items()}

    def read(
        self, stage: Stage, seeds: Sequence[int], progress: Progress | None = None
    ) -> list[tuple[str, str, list[Read]]]:
        """What a stage reads, with what the files contain: name of the data set, role, images.

        Roles are `train/SEED`, `val/SEED` and `test`. An image that cannot be read has an empty digest.
        """
        wanted = self.wanted(stage, seeds)
        scored = "test" if stage == "test" else "val"
        roles = [role for seed in seeds for role in (f"train/{seed}", "test" if scored == "test" else f"val/{seed}")]
        roles += ["test"] * (len(wanted) - len(roles))
        distinct = {id(one): one for one in wanted}  # the test images stand there once for each seed
        contents = self.cache.contents(list(distinct.values()), progress)
        listed = {
            key: [
                (item.path, item.label, "" if item.path in failed else digest.tobytes().hex())
                for item, digest in zip(one.items, found, strict=True)
            ]
            for (key, one), (found, failed) in zip(distinct.items(), contents, strict=True)
        }
        return [(one.dataset.name, role, listed[id(one)]) for one, role in zip(wanted, roles, strict=True)]

    def episodes(self, stage: Stage, seeds: Sequence[int], progress: Progress | None = None) -> list[Episode]:
        """One episode per seed. The stage `search` reads no test image, no image of a new class, and no target."""
        self.check_lists(stage)
        wanted = self.wanted(stage, seeds)
        made = list(zip(wanted, self.cache.get(wanted, progress), strict=True))
        names = [self.dataset.classes[label] for label in self._scored_labels(stage)]
        targets = self._measured_targets(names, made[2 * len(seeds) :])
        shared = _Shared(stage, tuple(names), targets)
        return [self._episode(shared, i, seed, made[2 * i], made[2 * i + 1]) for i, seed in enumerate(seeds)]

    def _scored_labels(self, stage: Stage) -> tuple[int, ...]:
        """The labels that a stage scores, in the order of an episode's names."""
        base, new = self.halves
        return base if stage == "search" else (*base, *new)

    def wanted(self, stage: Stage, seeds: Sequence[int]) -> list[FeatureRequest]:
        """The features that a stage needs: for each seed those it trains on and those that score it; then the targets'.

        What it trains on is all base classes in both stages, so that they share it. With `val_shots = 0` it is
        scored on the same images under the fixed transform: an episode parts them.
        """
        (base, _), every = self.halves, self._scored_labels(stage)
        tested = FeatureRequest(self.dataset, _of(self.dataset.test, every))
        wanted = []
        for seed in seeds:
            train, val = self.draw(seed)
            scores = train if self.task.val_shots == 0 else val
            scoring = FeatureRequest(self.dataset, _of(scores, every)) if stage == "search" else tested
            wanted += [FeatureRequest(self.dataset, _of(train, base), seed, self.task.views), scoring]
        return wanted + [FeatureRequest(target, target.test) for target in (self.targets if stage == "test" else ())]

    def _episode(self, shared: _Shared, index: int, seed: int, train: _Made, scoring: _Made) -> Episode:
        every = self._scored_labels(shared.stage)
        if shared.stage == "search":
            trained, held = draws.hold_out(every, index, self.task.class_folds)
        else:
            trained, held = self.halves
        items, views = train[0].items, train[1]
        positions = draws.of_labels(items, trained)
        scored = _Scored(scoring[0].items, scoring[1][0])
        if shared.stage == "search" and self.task.val_shots == 0:
            positions, out = draws.hold_out_shots(items, index, self.task.folds)
            scored = _Scored([items[p] for p in out], scoring[1][0][out])
        return Episode(
            seed=seed,
            stage=shared.stage,
            views=views if len(positions) == len(items) else views[:, positions],
            labels=torch.tensor([trained.index(items[p].label) for p in positions]),
            base=scored.half(trained, every),
            new=scored.half(held, every) if held else None,
            template=self.task.template,
            others=self.others,
            classes=self.task.classes,
            targets=shared.targets,
            names=shared.names,
        )

    def _measured_targets(self, names: list[str], targets: Sequence[_Made]) -> tuple[Target, ...]:
        """The targets with all their classes and test images; their names are added to `names`.

        A name that is there already stands for the target's class too: so it has one text feature, and a source
        that is its own target the same accuracy.
        """
        place: dict[str, int] = {}
        for index, name in enumerate(names):
            place.setdefault(name, index)
        found = []
        for wanted, features in targets:
            dataset = wanted.dataset
            for name in dataset.classes:
                if name not in place:
                    place[name] = len(names)
                    names.append(name)
            half = Half(
                classes=torch.tensor([place[name] for name in dataset.classes]),
                features=features[0].float(),
                labels=torch.tensor([item.label for item in dataset.test]),
            )
            found.append(Target(dataset.name, half, is_source=dataset is self.dataset))
        return tuple(found)

    def draw(self, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """The few-shot draw of a seed: from all classes, first train, then val, with one generator."""
        generator = random.Random(seed)
        shots = draws.few_shot(self.dataset.train, self.task.shots, generator)
        val_shots = None if self.task.val_shots == "all" else self.task.val_shots
        return shots, draws.few_shot(self.dataset.val, val_shots, generator)


def _of(items: Sequence[Item], labels: Sequence[int]) -> list[Item]:
    """The items of these labels, in their order."""
    return [items[position] for position in draws.of_labels(items, labels)]


@dataclass(frozen=True)
class _Scored:
    """Images under the fixed transform, with their features [N, E]."""

    items: Sequence[Item]
    features: Tensor

    def half(self, side: Sequence[int], every: Sequence[int]) -> Half:
        """Those of the classes `side`; `every` is the order of the episode's name table."""
        positions = draws.of_labels(self.items, side)
        return Half(
            classes=torch.tensor([every.index(label) for label in side]),
            features=self.features[positions].float(),
            labels=torch.tensor([side.index(self.items[p].label) for p in positions]),
        )


def data_root(task: Task, progress: Progress | None = None) -> Path:
    """The folder that holds the task's data sets; embedded ones are drawn there on first use."""
    if task.root is not None:
        return Path(task.root).expanduser()
    root = cache_folder() / "data"
    for name in (task.dataset, *task.also, *task.targets):
        if worlds.is_embedded(name):
            worlds.write_dataset(name, root, on_image=progress)
    return root
