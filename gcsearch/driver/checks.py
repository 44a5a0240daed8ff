"""What must hold before the first trial, told without loading anything large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from gcsearch import files
from gcsearch.config import parameters, search_space
from gcsearch.config.addresses import check_uri
from gcsearch.config.base import Value
from gcsearch.config.metrics import check_objective
from gcsearch.config.metrics import find as find_metric
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.search_space import LITERATURE, LITERATURE_CAPPED, SearchSpace
from gcsearch.config.task import Task
from gcsearch.config.trials import TrialConfig
from gcsearch.data.synthetic import worlds
from gcsearch.errors import InputError, unknown_name
from gcsearch.methods import registry


def check(pipeline: Pipeline) -> SearchSpace:
    """Check what a pipeline names: data set, backbone, space against its method, references.

    Reads small files only; nothing is loaded or started. Returns the search space.
    """
    task = pipeline.task
    check_sets(task)
    check_backbone(task)
    check_weights(task.backbone, task.pretrained)
    space = search_space.load(pipeline.search.space)
    _check_space(space, search_space.find(pipeline.search.space))
    space = _capped(space, pipeline.search.cap)
    check_objective(pipeline.task, pipeline.search.objective)
    _check_prompts(pipeline, space)
    _check_seeds(pipeline)
    _check_pruner(pipeline)
    _check_sampler(pipeline.search, space)
    if pipeline.tracking.uri:
        check_uri(pipeline.tracking.uri)
    for index, (config, _) in enumerate(references(pipeline, space)):
        check_configuration(pipeline.task, config, key=f"confirm.references.{index}")
    return space


def check_sets(task: Task) -> None:
    """InputError where a data set of the task is none, or where it lies is not said."""
    from gcsearch.data import datasets

    datasets.find(task.dataset)
    for key in ("also", "targets"):
        for index, name in enumerate(getattr(task, key)):
            datasets.find(name, key=f"task.{key}.{index}")
    if task.root is None and not is_embedded(task):
        raise InputError(
            "a data set that is not embedded needs the folder that holds it",
            key="task.root",
            remedy='Add `root = "/path/to/data"` to [task], or `--set task.root=/path/to/data`.',
        )


def check_configuration(task: Task, config: TrialConfig, key: str | None = None) -> None:
    """InputError where a configuration has nothing to say about what the task measures in the stage `test`."""
    method = registry.build(config)
    if task.targets and method.prompt.class_specific:
        raise InputError(
            "class-specific context vectors fit no class of another data set",
            key=key or "task.targets",
            received=f"class_specific = true with targets {', '.join(task.targets)}",
            remedy="Leave class_specific = false, or name no targets.",
        )
    if task.classes == "all" and method.hyperparameters.get("nfl_names") == "transductive":
        raise InputError(
            "where all classes are trained, there are no new names to be seen",
            key=key or "task.classes",
            received='nfl_names = "transductive"',
            remedy='Set `nfl_names = "clean"`, or `classes = "base"`.',
        )


def is_embedded(task: Task) -> bool:
    """Whether every data set of the task is one that comes with gcsearch."""
    return all(map(worlds.is_embedded, (task.dataset, *task.also, *task.targets)))


_REAL_CLIP = '`backbone = "ViT-B-16"` and `pretrained = "openai"`'


def check_backbone(task: Task) -> None:
    """InputError where images of one's own would be searched with the bundled test bed because nobody named a model."""
    if "backbone" not in task.model_fields_set and not is_embedded(task):
        raise InputError(
            "a data set that is not embedded needs a model, and the bundled `mini` is a test bed",
            key="task.backbone",
            remedy=f"For OpenAI's ViT-B/16 write {_REAL_CLIP} in [task]; for a mere trial `backbone = 'mini'`.",
        )


def test_bed_remarks(task: Task) -> list[str]:
    """What to know before images of one's own are searched with the bundled test bed."""
    if task.backbone != "mini" or is_embedded(task):
        return []
    return [
        "`mini` is a test bed that knows the embedded drawings alone: on other images accuracies end near chance. "
        f"For OpenAI's ViT-B/16 write {_REAL_CLIP} in [task]."
    ]


def check_weights(backbone: str, pretrained: str | None) -> None:
    """What can be said of a model's weights without loading them: named, and there if they are a file or a folder."""
    if backbone == "mini":
        if pretrained is not None:
            raise InputError(
                "the bundled `mini` has weights of its own and reads no others",
                key="task.pretrained",
                received=pretrained,
                remedy="Remove it, or name the backbone that these weights belong to.",
            )
        return
    if pretrained is None:
        raise InputError(
            "a backbone that is not bundled needs its weights",
            key="task.pretrained",
            remedy='Add a tag of open_clip, `pretrained = "openai"`, or a path, `pretrained = "./weights.pt"`.',
        )
    path = pretrained.removeprefix(files.ARCHIVE)
    if files.is_path(pretrained) and not Path(path).expanduser().exists():
        raise InputError(
            "the checkpoint must exist", key="task.pretrained", received=pretrained, remedy="Check the path."
        )


def _capped(space: SearchSpace, cap: Mapping[str, float | dict[str, float]]) -> SearchSpace:
    """The space with the caps of `search.cap` that concern it. InputError for one that concerns no method."""
    every = {name for method in registry.METHODS.values() for name in method.hyperparameters}
    for name, most in cap.items():
        key = f"search.cap.{name}"
        if not isinstance(most, dict):
            _check_known(name, every, "any method", key)
            continue
        try:
            known = registry.find(name).hyperparameters
        except InputError as error:
            raise InputError(error.rule, key=key, received=error.received, remedy=error.remedy) from None
        for own in most:
            _check_known(own, known, name, f"{key}.{own}")
    try:
        capped = space.capped(cap)
    except InputError as error:
        raise InputError(error.rule, key="search.cap", received=error.received, remedy=error.remedy) from None
    try:
        _check_parameters(capped)
    except InputError as error:
        name = (error.key or "").removeprefix("parameters.")
        raise InputError(error.rule, key=f"search.cap.{name}", received=error.received, remedy="Raise it.") from None
    return capped


def _check_known(name: str, known: Iterable[str], method: str, key: str) -> None:
    if name not in known:
        raise unknown_name(f"parameter of {method}", name, sorted(known), key=key)


def _check_space(space: SearchSpace, file: Path) -> None:
    """Every parameter must be one of its methods', and both ends of every range a value they take."""
    try:
        for method in space.every_method:
            registry.find(method)
        for name in space.parameters:
            if not space.methods_with(name):
                raise InputError("no method of the space fulfils its conditions", key=f"parameters.{name}.when")
        _check_parameters(space)
    except InputError as error:
        raise error.at(file=file) from None


def _check_parameters(space: SearchSpace) -> None:
    # What is fixed comes first: ranges are tried beside it, and would be blamed for it.
    for name in sorted(space.parameters, key=lambda one: len(parameters.extremes(space.parameters[one])) > 1):
        for method in space.methods_with(name):
            _check_parameter(space, name, method)


def _check_parameter(space: SearchSpace, name: str, method: str) -> None:
    known, key = registry.find(method).hyperparameters, f"parameters.{name}"
    if name not in known and space.methods and any(name in registry.find(one).hyperparameters for one in space.methods):
        having = ", ".join(f'"{one}"' for one in space.methods if name in registry.find(one).hyperparameters)
        remedy = f"Say which methods have it: when = {{ method = [{having}] }}."
        raise InputError(f"{method} has no such parameter", key=key, remedy=remedy)
    if name not in known:
        raise unknown_name(f"parameter of {method}", name, known, key=key)
    upper = getattr(space.parameters[name], "at_most", None)
    for value in parameters.extremes(space.parameters[name]):
        values = {name: value, upper: value} if upper and isinstance(value, float) else {name: value}
        try:
            registry.build(TrialConfig(method=method, hyperparameters=values))
        except InputError as error:
            if _fits_beside_another(space, method, name, value):
                continue  # whole configurations are tried once the data is there
            remedy = "Change the range or the choices."
            raise InputError(error.rule, key=key, received=error.received, remedy=remedy) from None


def _fits_beside_another(space: SearchSpace, method: str, name: str, value: Value) -> bool:
    """Whether what is refused beside defaults is a value of the parameter beside an end of another one's range.

    What the space fixes is as it fixes it, whatever the default is.
    """
    known = registry.find(method).hyperparameters
    ends = {
        other: parameters.extremes(parameter)
        for other, parameter in space.parameters.items()
        if other != name and method in space.methods_with(other) and other in known
    }
    fixed = {other: values[0] for other, values in ends.items() if len(values) == 1}
    for other, values in ends.items():
        for end in values:
            try:
                registry.build(TrialConfig(method=method, hyperparameters={**fixed, name: value, other: end}))
            except InputError:
                continue
            return True
    return False


def _check_prompts(pipeline: Pipeline, space: SearchSpace) -> None:
    """Class-specific vectors fit no other class, and names of new classes need some: as far as the space has them."""
    task, objective = pipeline.task, pipeline.search.objective
    of_new = any(find_metric(name).side in ("new", "both") for name in pipeline.search.objectives)
    values = parameters.extremes(space.parameters["class_specific"]) if "class_specific" in space.parameters else []
    if any(values) and of_new:
        raise InputError(
            "class-specific context vectors fit no new class, so there is no H to search by",
            key="search.objective",
            received=objective,
            remedy='Set `objective = "val_base_acc"`, or leave class_specific = false.',
        )
    for name in ("class_specific", "nfl_names"):
        for value in parameters.extremes(space.parameters[name]) if name in space.parameters else []:
            for method in space.methods_with(name):
                check_configuration(task, TrialConfig(method=method, hyperparameters={name: value}), key="search.space")
            if value == "transductive" and task.class_folds == 1:
                raise InputError(
                    "where nothing is held out in the search, there are no new names to be seen",
                    key="task.folds",
                    received=f'{task.class_folds} with nfl_names = "transductive"',
                    remedy='Set two folds or more, or nfl_names = "clean".',
                )


def _check_pruner(pipeline: Pipeline) -> None:
    pruner, pack = pipeline.search.pruner, pipeline.search.pack
    if pruner != "none" and not isinstance(pipeline.search.objective, str):
        raise InputError(
            "who leaves early is decided by one number, and the search has several objectives",
            key="search.pruner",
            received=f"{pruner} with {' and '.join(pipeline.search.objectives)}",
            remedy='Set `pruner = "none"`, or one objective.',
        )
    if pruner != "none" and pipeline.task.also:
        raise InputError(
            "who leaves early is decided by the mean over the data sets, which is known only when the last is trained",
            key="search.pruner",
            received=f"{pruner} with {pipeline.task.title}",
            remedy='Set `pruner = "none"`, or leave `task.also` out.',
        )
    if pruner in ("halving", "hyperband") and pack == 1:
        raise InputError(
            f"{pruner} compares the configurations of a pack, so a pack must have two or more",
            key="search.pruner",
            received=f"{pruner} with pack = {pack}",
            remedy='Raise `pack`, or set `pruner = "asha"`, which compares with earlier configurations.',
        )


def _check_sampler(search: SearchConfig, space: SearchSpace) -> None:
    # TPE and random search everything; what must be looked at needs Optuna, which is slow to import.
    if search.sampler not in ("tpe", "random") or search.grid:
        from gcsearch.search import samplers

        samplers.check(search, space)


def _check_seeds(pipeline: Pipeline) -> None:
    """A choice among the best of the search needs seeds that did not make them the best."""
    known = sorted(set(pipeline.task.seeds) & set(pipeline.confirm.seeds))
    if known and pipeline.confirm.top > 1:
        raise InputError(
            "the shortlist is measured again with seeds that the search has not used",
            key="confirm.seeds",
            received=f"{list(pipeline.confirm.seeds)}, of which {known} are in task.seeds",
            remedy="Name other seeds, or set confirm.top = 1: then the first of the search is the champion.",
        )


def references(pipeline: Pipeline, space: SearchSpace) -> list[tuple[TrialConfig, str]]:
    """The configurations that are confirmed beside the champion, and their titles in tables. One named twice is one."""
    absent = {LITERATURE} - {point.label for point in space.points}
    return [
        _reference(name, space, f"confirm.references.{pipeline.confirm.references.index(name)}")
        for name in dict.fromkeys(pipeline.confirm.references)
        if name not in absent
    ]


def cap_remarks(pipeline: Pipeline, space: SearchSpace) -> list[str]:
    """What `search.cap` means for the references of a pipeline on its capped space, in sentences."""
    lowered = LITERATURE in pipeline.confirm.references and LITERATURE_CAPPED in {p.label for p in space.points}
    return search_space.cap_remarks(pipeline.search.cap, references(pipeline, space), left_out=lowered)


def _reference(name: str, space: SearchSpace, key: str) -> tuple[TrialConfig, str]:
    """The configuration that a reference names, and its title in tables.

    A point of the space by its label ("GCSCoOp, literature"), or a method at its defaults ("CoOp").
    """
    for point in space.points:
        if point.label == name:
            config = registry.complete(space.config(point.values))
            return config, f"{registry.find(config.method).title}, {name}"
    if name.split("+")[0] not in registry.METHODS:
        labels = [*registry.METHODS, *(point.label for point in space.points)]
        raise unknown_name("reference (a method, or a point of the space)", name, labels, key=key)
    try:
        return registry.complete(TrialConfig(method=name)), registry.find(name).title
    except InputError as error:
        raise InputError(error.rule, key=key, received=error.received, remedy=error.remedy) from None
