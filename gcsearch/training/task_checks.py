"""What must hold before anything is trained: the configuration and the data fit each other and the frozen model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch

from gcsearch.clip.model import Backbone
from gcsearch.config import parameters
from gcsearch.config.base import Value
from gcsearch.config.search_space import SearchSpace
from gcsearch.data import datasets
from gcsearch.data.datasets import Progress
from gcsearch.data.lists import checks
from gcsearch.errors import InputError
from gcsearch.methods.base import Names
from gcsearch.methods.prompts import ENSEMBLE, prompts
from gcsearch.methods.registry import Method, build
from gcsearch.training.task_data import Laboratory


def check_names(laboratory: Laboratory) -> None:
    """InputError where the tokens of two class names are the same: no prompt could tell them apart."""
    for dataset in dict.fromkeys((laboratory.dataset, *laboratory.targets)):
        if not datasets.is_published_names(dataset.name, dataset.classes):
            checks.check_tokens(dataset, laboratory.backbone.tokenize)


def check_repeats(
    laboratory: Laboratory, seeds: Iterable[int], progress: Progress | None = None, most: float = math.inf
) -> str:
    """What to warn of among images that stand in the data more than once; InputError where test images leak.

    `seeds` are those whose draws are trained on, see `checks.WHOLE`; `most` as in `checks.check_repeats`.
    """
    drawn = (item for seed in seeds for item in laboratory.draw(seed)[0])
    lists = checks.lists_of(laboratory.dataset, drawn)
    lists += [
        checks.Listed(f"test of {target.name}", "test", target.images, target.test)
        for target in laboratory.targets
        if target is not laboratory.dataset
    ]
    keep = laboratory.task.repeats == "keep"
    return checks.check_repeats(
        laboratory.dataset, lists, laboratory.cache.memory, keep=keep, progress=progress, most=most
    )


def check_sizes(laboratory: Laboratory) -> None:
    """InputError where the task asks for more images or folds than the data set has for any class."""
    for key, wanted, items in (
        ("shots", laboratory.task.shots, laboratory.dataset.train),
        ("val_shots", laboratory.task.val_shots, laboratory.dataset.val),
    ):
        most = max(Counter(item.label for item in items).values(), default=0)
        if isinstance(wanted, int) and wanted > most:
            rule = f"no class of {laboratory.task.dataset} has so many images; the largest has {most}"
            raise InputError(rule, key=f"task.{key}", received=wanted, remedy=f"At most {most} are there.")
    most = len(laboratory.halves[0]) // 2
    if laboratory.task.class_folds > max(most, 1):
        rule = f"every fold needs two of the {len(laboratory.halves[0])} base classes"
        raise InputError(rule, key="task.folds", received=laboratory.task.folds, remedy=f"At most {most} folds fit.")


def check_configurations(laboratory: Laboratory, space: SearchSpace) -> None:
    """InputError where a configuration that `space` can propose does not fit in itself or its prompt the model.

    Tried are its points, some configurations drawn at random, and those with each end of what shapes a prompt.
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
            check_prompt(laboratory, method)
        except InputError as error:
            key = "parameters.n_ctx" if error.key == "ctx_init" and "n_ctx" in shaping else error.key
            raise InputError(error.rule, key=key, received=error.received, remedy=error.remedy) from None


def check_template(laboratory: Laboratory, *, ensemble: bool = False) -> None:
    """InputError where the task's template, or one of the `ensemble`, does not fit the model with a class name."""
    names = [*laboratory.dataset.classes, *(name for target in laboratory.targets for name in target.classes)]
    longest = max(names, key=lambda name: len(laboratory.backbone.tokenize(name)))
    for template in (laboratory.task.template, *(ENSEMBLE if ensemble else ())):
        check_template_of(laboratory.backbone, template, longest)


@torch.inference_mode()
def check_prompt(laboratory: Laboratory, method: Method) -> None:
    """InputError where context vectors and start words do not fit each other, or a name the model."""
    tower, classes = laboratory.backbone.tower, len(laboratory.dataset.classes)
    every = (*laboratory.dataset.classes, *(name for target in laboratory.targets for name in target.classes))
    parameters = method.prompt.start(laboratory.backbone, classes, torch.Generator())[None].to(tower.device)
    image = torch.zeros(1, 1, laboratory.backbone.embedding_size, device=tower.device)
    for names in (every, method.other_names(Names((), (), laboratory.others))):
        longest = max(names, key=lambda name: len(laboratory.backbone.tokenize(name)), default=None)
        if longest is None:
            continue
        table = prompts(
            laboratory.backbone, method.prompt, [[longest] * classes if method.prompt.class_specific else [longest]]
        )
        try:
            table.features(parameters, image)
        except InputError as error:
            received = f"{error.received} for the name {longest!r}"
            raise InputError(error.rule, key=error.key, received=received, remedy=error.remedy) from None


def check_template_of(backbone: Backbone, template: str, name: str) -> None:
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


def _first_of_each_method(drawn: Sequence[Mapping[str, Value]], name: str) -> list[Mapping[str, Value]]:
    """Of configurations in natural values, the first of each method that has the parameter."""
    first: dict[Value | None, Mapping[str, Value]] = {}
    for values in drawn:
        if name in values:
            first.setdefault(values.get(parameters.METHOD), values)
    return list(first.values())
