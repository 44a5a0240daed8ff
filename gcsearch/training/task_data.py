"""A task with its frozen model and its data: what episodes are made in."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from gcsearch.clip import model
from gcsearch.clip.model import Backbone
from gcsearch.config import parameters
from gcsearch.config.base import Value
from gcsearch.config.metrics import Stage
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.task import Precision, Task
from gcsearch.data import datasets
from gcsearch.data.datasets import Dataset, Progress
from gcsearch.data.feature_file import Shelf
from gcsearch.data.features import FeatureCache, Wanted
from gcsearch.data.lists import checks, draws
from gcsearch.data.lists.splits import Item
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError
from gcsearch.files import cache_address, cache_folder
from gcsearch.methods.base import Names
from gcsearch.methods.prompts import ENSEMBLE, prompts
from gcsearch.methods.registry import Method, build
from gcsearch.training.episodes import Episode, Half, Target

_Made = tuple[Wanted, Tensor]
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
            checks.check_list(dataset, "val", base, "the search is scored on validation images")
            return
        checks.check_list(dataset, "test", (*base, *new), "results are measured on test images")
        for target in self.targets:
            place = "task.targets"
            checks.check_list(
                target, "test", range(len(target.classes)), "targets are measured on test images", place=place
            )

    def check_names(self) -> None:
        """InputError where the tokens of two class names are the same: no prompt could tell them apart."""
        for dataset in dict.fromkeys((self.dataset, *self.targets)):
            if not datasets.is_published_names(dataset.name, dataset.classes):
                checks.check_tokens(dataset, self.backbone.tokenize)

    def check_repeats(self, seeds: Iterable[int], progress: Progress | None = None, most: float = math.inf) -> str:
        """What to warn of among images that stand in the data more than once; InputError where test images leak.

        `seeds` are those whose draws are trained on, see `checks.WHOLE`; `most` as in `checks.check_repeats`.
        """
        drawn = (item for seed in seeds for item in self._draw(seed)[0])
        lists = checks.lists_of(self.dataset, drawn)
        lists += [
            checks.Listed(f"test of {target.name}", "test", target.images, target.test)
            for target in self.targets
            if target is not self.dataset
        ]
        keep = self.task.repeats == "keep"
        return checks.check_repeats(self.dataset, lists, self.cache.memory, keep=keep, progress=progress, most=most)

    def check_sizes(self) -> None:
        """InputError where the task asks for more images or folds than the data set has for any class."""
        for key, wanted, items in (
            ("shots", self.task.shots, self.dataset.train),
            ("val_shots", self.task.val_shots, self.dataset.val),
        ):
            most = max(Counter(item.label for item in items).values(), default=0)
            if isinstance(wanted, int) and wanted > most:
                rule = f"no class of {self.task.dataset} has so many images; the largest has {most}"
                raise InputError(rule, key=f"task.{key}", received=wanted, remedy=f"At most {most} are there.")
        most = len(self.halves[0]) // 2
        if self.task.folds > max(most, 1):
            rule = f"every fold needs two of the {len(self.halves[0])} base classes"
            raise InputError(rule, key="task.folds", received=self.task.folds, remedy=f"At most {most} folds fit.")

    def check_settings(self, space: SearchSpace) -> None:
        """InputError where a setting that `space` can propose does not fit in itself or its prompt the model.

        Tried are its points, some settings drawn at random, and those with each end of what shapes a prompt.
        """
        drawn = space.sample(32 * len(space.every_method), seed=0)
        shaping = [name for name in ("n_ctx", "ctx_init", "position", "class_specific") if name in space.parameters]
        ends = [
            {**values, name: end}
            for name in shaping
            for values in _first_of_each_method(drawn, name)
            for end in parameters.extremes(space.parameters[name])
        ]
        every = [*(point.values for point in space.points), *drawn, *map(space.there, ends)]
        built = [build(space.config(values)) for values in every]
        distinct = {(method.name, method.prompt): method for method in built if method.trains}
        for method in distinct.values():
            try:
                self.check_prompt(method)
            except InputError as error:
                key = "parameters.n_ctx" if error.key == "ctx_init" and "n_ctx" in shaping else error.key
                raise InputError(error.rule, key=key, received=error.received, remedy=error.remedy) from None

    def check_template(self, *, ensemble: bool = False) -> None:
        """InputError where the task's template, or one of the `ensemble`, does not fit the model with a class name."""
        names = [*self.dataset.classes, *(name for target in self.targets for name in target.classes)]
        longest = max(names, key=lambda name: len(self.backbone.tokenize(name)))
        for template in (self.task.template, *(ENSEMBLE if ensemble else ())):
            _check_template(self.backbone, template, longest)

    @torch.inference_mode()
    def check_prompt(self, method: Method) -> None:
        """InputError where context vectors and start words do not fit each other, or a name the model."""
        tower, classes = self.backbone.tower, len(self.dataset.classes)
        every = (*self.dataset.classes, *(name for target in self.targets for name in target.classes))
        parameters = method.prompt.start(self.backbone, classes, torch.Generator())[None].to(tower.device)
        image = torch.zeros(1, 1, self.backbone.embedding_size, device=tower.device)
        for names in (every, method.other_names(Names((), (), self.others))):
            longest = max(names, key=lambda name: len(self.backbone.tokenize(name)), default=None)
            if longest is None:
                continue
            table = prompts(
                self.backbone, method.prompt, [[longest] * classes if method.prompt.class_specific else [longest]]
            )
            try:
                table.features(parameters, image)
            except InputError as error:
                received = f"{error.received} for the name {longest!r}"
                raise InputError(error.rule, key=error.key, received=received, remedy=error.remedy) from None

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
        drawn = {str(seed): self._draw(seed)[0] for seed in seeds} | {"test": self.dataset.test}
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

    def wanted(self, stage: Stage, seeds: Sequence[int]) -> list[Wanted]:
        """The features that a stage needs: for each seed those it trains on and those that score it; then the targets'.

        What it trains on is all base classes in both stages, so that they share it.
        """
        (base, _), every = self.halves, self._scored_labels(stage)
        tested = Wanted(self.dataset, _of(self.dataset.test, every))
        wanted = []
        for seed in seeds:
            train, val = self._draw(seed)
            scoring = Wanted(self.dataset, _of(val, every)) if stage == "search" else tested
            wanted += [Wanted(self.dataset, _of(train, base), seed, self.task.views), scoring]
        return wanted + [Wanted(target, target.test) for target in (self.targets if stage == "test" else ())]

    def _episode(self, shared: _Shared, index: int, seed: int, train: _Made, scoring: _Made) -> Episode:
        every = self._scored_labels(shared.stage)
        if shared.stage == "search":
            trained, held = draws.hold_out(every, index, self.task.folds)
        else:
            trained, held = self.halves
        items, views = train[0].items, train[1]
        positions = draws.of_labels(items, trained)
        scored = _Scored(scoring[0].items, scoring[1][0])
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

    def _draw(self, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """The few-shot draw of a seed: from all classes, first train, then val, with one generator."""
        generator = random.Random(seed)
        shots = draws.few_shot(self.dataset.train, self.task.shots, generator)
        val_shots = None if self.task.val_shots == "all" else self.task.val_shots
        return shots, draws.few_shot(self.dataset.val, val_shots, generator)


def _first_of_each_method(drawn: Sequence[Mapping[str, Value]], name: str) -> list[Mapping[str, Value]]:
    """Of settings in natural values, the first of each method that has the parameter."""
    first: dict[Value | None, Mapping[str, Value]] = {}
    for values in drawn:
        if name in values:
            first.setdefault(values.get(parameters.METHOD), values)
    return list(first.values())


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
        if name in worlds.WORLDS:
            worlds.write_dataset(name, root, on_image=progress)
    return root


@cache
def _backbone(name: str, pretrained: str | None, precision: Precision) -> Backbone:
    """The frozen model, on the GPU where there is one; shared by all tasks that use it."""
    frozen = model.load(name, pretrained, device="cuda" if gpus() else "cpu")
    return replace(frozen, tower=frozen.tower.to(getattr(torch, precision)))


def frozen(task: Task) -> Backbone:
    """The task's frozen model, on the GPU where there is one; kept for the life of the process."""
    return _backbone(task.backbone, task.pretrained, task.precision)


def of(task: Task, decoders: int | str = "auto") -> Laboratory:
    """The task with its model and data loaded, and `decoders` as in `Resources`; kept until `forget`."""
    return _of_task(task, decoders)


@cache
def _of_task(task: Task, decoders: int | str) -> Laboratory:
    backbone = frozen(task)
    _check_template(backbone, task.template, "")  # without any name: before images are drawn or listed
    dataset = datasets.load(task.dataset, data_root(task))
    shared = next(iter(shelves()[1:]), None)
    features = FeatureCache(_features(), backbone, decoders, shared, task.exif)
    return Laboratory(task, backbone, dataset, features)


def _check_template(backbone: Backbone, template: str, name: str) -> None:
    """InputError where a template with a class name does not fit the model."""
    room = len(backbone.tower.positions) - 2  # beside the markers of start and end
    count = len(backbone.tokenize(template.format(name)))
    if count > room:
        raise InputError(
            f"the template with a class name must fit into {room} tokens",
            key="task.template",
            received=f"{count} tokens for the name {name!r}" if name else f"{count} tokens without any name",
            remedy="Shorten the template, or the name of the class.",
        )


def forget() -> None:
    """Let go of the tasks that `of` keeps: lists of images of large data sets would add up, and data may change."""
    _of_task.cache_clear()


def shelves() -> list[Shelf]:
    """Where entries of the feature cache lie: this machine's folder, and the shared place where there is one."""
    address = cache_address()
    return [Shelf.of_folder(_features()), *([Shelf.of_uri(f"{address}/features")] if address else [])]


def _features() -> Path:
    return cache_folder() / "features"


def weights_of(task: Task) -> str:
    """The fingerprint of the task's model."""
    return frozen(task).fingerprint


def gpus() -> int:
    """CUDA devices that torch sees."""
    return torch.cuda.device_count()
