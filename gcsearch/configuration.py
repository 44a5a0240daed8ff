"""A pipeline's file, read and checked down to the last key and value; one configuration's file likewise.

Reads small files only: nothing heavy is imported, nothing loaded or started.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcsearch import files, methods, shapes, spaces
from gcsearch.addresses import check_uri
from gcsearch.errors import InputError, unknown_name
from gcsearch.schema import Pipeline, TrialConfig, TrialFile
from gcsearch.spaces import SearchSpace


def load(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> Pipeline:
    """Read a pipeline: a shipped name or a path. `overrides` are dotted keys with TOML values.

    Raises InputError with file, key, rule, value and remedy for whatever is wrong in it or in its space.
    """
    path = files.find("pipelines", name_or_path, kind="pipeline")
    content = files.read_toml(path)
    content.setdefault("name", path.stem)
    _resolve_paths(content, path.parent)
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    pipeline = Pipeline.from_dict(content, file=path)
    try:
        check(pipeline)
    except InputError as error:
        raise error.at(file=path) from None
    return pipeline


def _resolve_paths(content: dict[str, Any], folder: Path) -> None:
    """Relative paths in a pipeline's file, of its data, weights and search space, start at the file's folder."""
    for table, key in (("search", "space"), ("task", "root"), ("task", "other_names"), ("task", "pretrained")):
        values = content.get(table)
        value = values.get(key) if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(value, str):
            continue
        if key == "pretrained" and not files.is_path(value):
            continue  # a tag stays a tag, whatever lies beside the pipeline
        path = value.removeprefix(files.ARCHIVE)
        if (folder / path).exists():
            values[key] = value.removesuffix(path) + str((folder / path).absolute())


def _override(content: dict[str, Any], key: str, value: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise InputError("a dotted key must lead through tables", file="--set", key=key)
    content[last] = parse_value(value)


def parse_value(text: str) -> Any:
    """A value from the command line: TOML where it is TOML (0.1, true, [1, 2]), else the text itself."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check(pipeline: Pipeline) -> SearchSpace:
    """Check what a pipeline names: data set, backbone, space against its method, references.

    Reads small files only; nothing is loaded or started. Returns the search space.
    """
    from gcsearch import datasets

    datasets.find(pipeline.task.dataset)
    if pipeline.task.root is None and pipeline.task.dataset not in shapes.WORLDS:
        raise InputError(
            "a data set that is not embedded needs the folder that holds it",
            key="task.root",
            remedy='Add `root = "/path/to/data"` to [task].',
        )
    _check_weights(pipeline.task.backbone, pipeline.task.pretrained)
    space = spaces.load(pipeline.search.space)
    _check_space(space, spaces.find(pipeline.search.space))
    _check_objective(pipeline, space)
    _check_seeds(pipeline)
    if pipeline.tracking.uri:
        check_uri(pipeline.tracking.uri)
    references(pipeline, space)
    return space


def _check_weights(backbone: str, pretrained: str | None) -> None:
    """What can be said of a model's weights without loading them: named, and there if they are a file or a folder."""
    if backbone == "mini":
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


def _check_space(space: SearchSpace, file: Path) -> None:
    """Every parameter must be one of its method's, and both ends of every range a value it takes."""
    try:
        known = methods.find(space.method).model_fields
    except InputError as error:
        raise error.at(file=file) from None
    for name, parameter in space.parameters.items():
        if name not in known:
            raise unknown_name(f"parameter of {space.method}", name, known, file=file, key=f"parameters.{name}")
        for value in spaces.extremes(parameter):
            hyperparameters = {name: value}
            try:
                methods.build(TrialConfig(method=space.method, hyperparameters=hyperparameters))
            except InputError as error:
                beside = (error.key or "").split(".")[-1]
                if beside != name and beside in space.parameters:
                    continue  # a relation to another parameter: whole settings are tried once the data is there
                key = f"parameters.{name}"
                raise InputError(
                    error.rule, file=file, key=key, received=error.received, remedy="Change the range or the choices."
                ) from None


def _check_objective(pipeline: Pipeline, space: SearchSpace) -> None:
    """H needs new classes, and class-specific context vectors have nothing to say about those."""
    values = spaces.extremes(space.parameters["class_specific"]) if "class_specific" in space.parameters else []
    if any(values) and pipeline.search.objective not in ("val_base_acc", "test_base_acc"):
        raise InputError(
            "class-specific context vectors fit no new class, so there is no H to search by",
            key="search.objective",
            received=pipeline.search.objective,
            remedy='Set `objective = "val_base_acc"`, or leave class_specific = false.',
        )


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


LITERATURE = "literature"
"""The reference that every space may have: its point of this label. Left out where there is none."""


def references(pipeline: Pipeline, space: SearchSpace) -> list[tuple[TrialConfig, str]]:
    """The settings that are confirmed beside the champion, and their titles in tables."""
    absent = {LITERATURE} - {point.label for point in space.points}
    return [
        _reference(name, space, f"confirm.references.{index}")
        for index, name in enumerate(pipeline.confirm.references)
        if name not in absent
    ]


def _reference(name: str, space: SearchSpace, key: str) -> tuple[TrialConfig, str]:
    """The setting that a reference names, and its title in tables.

    A point of the space by its label ("GCSCoOp, literature"), or a method at its defaults ("CoOp").
    """
    for point in space.points:
        if point.label == name:
            config = TrialConfig(method=space.method, hyperparameters=point.values)
            return methods.complete(config), f"{methods.find(space.method).title}, {name}"
    if name.split("+")[0] not in methods.METHODS:
        labels = [*methods.METHODS, *(point.label for point in space.points)]
        raise unknown_name("reference (a method, or a point of the space)", name, labels, key=key)
    try:
        return methods.complete(TrialConfig(method=name)), methods.find(name).title
    except InputError as error:
        raise InputError(error.rule, key=key, received=error.received, remedy=error.remedy) from None


def load_trial(path: str | Path) -> TrialFile:
    """Read an exported `config.toml`; checked down to the method's hyper-parameters."""
    path = Path(path) / "config.toml" if Path(path).is_dir() else Path(path)
    trial = TrialFile.from_dict(files.read_toml(path), file=path)
    methods.build(trial.trial, file=path)
    return trial
