"""A pipeline's file, read: shipped or one's own, overridden, completed, its paths made absolute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gcsearch import files
from gcsearch.config.addresses import absolute_uri
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.task import Task
from gcsearch.config.trials import TrialFile
from gcsearch.driver.checks import check, check_backbone, check_configuration, check_sets, check_weights
from gcsearch.errors import InputError
from gcsearch.methods import registry
from gcsearch.sweep.store import PIPELINE_FILE, SPACE_FILE

_T = TypeVar("_T")


def load(name_or_path: str | Path, overrides: Mapping[str, str] | None = None, *, quick: bool = False) -> Pipeline:
    """Read a pipeline: a shipped name or a path. `overrides` are dotted keys with TOML values; `quick`: see `read`.

    Raises InputError with file, key, rule, value and remedy for whatever is wrong in it or in its space.
    """
    return with_quick(_load, name_or_path, overrides, quick=quick)


def _load(name_or_path: str | Path, overrides: Mapping[str, str] | None, quick: bool) -> Pipeline:
    path, content = read(name_or_path, overrides, quick=quick)
    if "matrix" in content:
        raise InputError(
            "this file is a matrix of several sweeps, and one pipeline is wanted",
            file=path,
            key="matrix",
            remedy="Run them all with `gcsearch run` or `gcsearch.run_matrix`, or remove the table.",
        )
    return complete(content, path)


def read(
    name_or_path: str | Path, overrides: Mapping[str, str] | None = None, *, quick: bool = False
) -> tuple[Path, dict[str, Any]]:
    """The file of a pipeline and its content: named, relative paths made whole, overrides put in; not checked.

    `quick` puts in the values of the file's table [quick], before the overrides, and lets the name end with it, so that
    neither budget is taken for the other. Without it that table counts for nothing.

    Raises:
        InputError: there is no such table, or it has no keys.
    """
    path = files.find("pipelines", name_or_path, kind="pipeline")
    content = _read_file(path)
    content.setdefault("name", path.stem)
    keys = _quick_keys(content, path) if quick else {}
    content.pop(QUICK, None)
    if quick:
        try:
            for key, value in keys.items():
                put(content, key, value)
        except InputError as error:
            raise error.at(file=path) from None
        content["name"] = f"{content['name']}-{QUICK}"
    _use_kept_space(content, path)
    try:
        for key, value in (overrides or {}).items():
            put(content, key, with_absolute_paths({key: parse_value(value, key)}, Path.cwd())[key])
    except InputError as error:
        raise error.at(file="--set") from None
    return path, content


QUICK = "quick"
"""The table of a small budget: dotted keys with the values that they have with `--quick`."""


def _quick_keys(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """The values of [quick] by dotted key. `"task.shots" = 4` and `task.shots = 4` are the same."""
    table, matrix = content.get(QUICK), content.get("matrix")
    if table is None:
        raise InputError(
            "this pipeline has no quick budget",
            file=file,
            key=QUICK,
            remedy='Add a table [quick] with keys such as `"search.trials" = 4`, or leave --quick out.',
        )
    keys = dict(flat(table)) if isinstance(table, dict) else {}
    if not keys or "name" in keys:
        raise InputError(
            'a quick budget has keys of the pipeline, such as "search.trials", but no name',
            file=file,
            key=QUICK,
            received=repr(table),
            remedy='Write for example `"search.trials" = 4`; the name ends in -quick by itself.',
        )
    for key in dict(flat(matrix)) if isinstance(matrix, dict) else ():
        if key in keys:
            raise InputError(
                "a key of the matrix has a list of values, with --quick too",
                file=file,
                key=f'{QUICK}."{key}"',
                received=repr(keys[key]),
                remedy=f'Write `"matrix.{key}" = [...]`.',
            )
    return keys


def with_quick(
    load: Callable[[str | Path, Mapping[str, str] | None, bool], _T],
    name_or_path: str | Path,
    overrides: Mapping[str, str] | None,
    *,
    quick: bool,
) -> _T:
    """What `load` gives with or without the file's quick budget. That is checked in any case, and blamed by key."""
    loaded = None if quick else load(name_or_path, overrides, False)
    path = files.find("pipelines", name_or_path, kind="pipeline")
    content = _read_file(path)
    if QUICK not in content and loaded is not None:
        return loaded
    keys = _quick_keys(content, path)
    try:
        shortened = load(name_or_path, overrides, True)
    except InputError as error:
        raise blamed(error, QUICK, keys, "with --quick", path) from None
    return shortened if loaded is None else loaded


def complete(content: dict[str, Any], file: Path) -> Pipeline:
    """The checked pipeline of what `read` gave; errors name `file`."""
    if isinstance(content.get("task"), dict):
        content = {**content, "task": own_template(content["task"])}
    pipeline = Pipeline.from_dict(content, file=file)
    try:
        check(pipeline)
    except InputError as error:
        raise error.at(file=file) from None
    return pipeline


OWN = "own"
"""As `task.template`: the zero-shot form that the field uses on the data set."""


def own_template(task: dict[str, Any]) -> dict[str, Any]:
    """The keys of a task, with the data set's own template in place of "own"."""
    if task.get("template") != OWN:
        return task
    from gcsearch.data import datasets

    first = datasets.template_of(str(task.get("dataset", Task.model_fields["dataset"].default)))
    also = task.get("also", ())
    names = list(map(str, also)) if isinstance(also, list | tuple) else []
    others = [datasets.template_of(name, key=f"task.also.{index}") for index, name in enumerate(names)]
    if set(others) - {first}:
        task = {**task, "also_templates": others}
    return {**task, "template": first}


PATHS = ("search.space", "task.root", "task.other_names", "task.pretrained", "tracking.uri")
"""Keys whose values are paths, or may be."""


def _read_file(path: Path) -> dict[str, Any]:
    """The content of a pipeline's file, every path in it absolute: relative ones start at the file's folder."""
    try:
        return with_absolute_paths(files.read_toml(path), path.parent)
    except InputError as error:
        raise error.at(file=path) from None


def with_absolute_paths(content: Mapping[str, Any], folder: Path, before: str = "") -> dict[str, Any]:
    """The content of a pipeline, or a part of it, with every path absolute; relative ones start at `folder`.

    Also those in [matrix] and [quick], and in keys that are written with dots.

    Raises:
        InputError: a value that cannot be a path, see `files.absolute`.
    """
    made: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{before}{name}"
        if isinstance(value, dict):
            made[name] = with_absolute_paths(value, folder, f"{key}.")
        elif isinstance(value, list):
            made[name] = [_absolute(key, one, folder) for one in value]
        else:
            made[name] = _absolute(key, value, folder)
    return made


def _absolute(written: str, value: Any, folder: Path) -> Any:
    """The value of one key: absolute where it is a path; a shipped name or a tag stays, whatever lies in `folder`."""
    key = written.removeprefix(f"{QUICK}.").removeprefix("matrix.")
    if key not in PATHS or not isinstance(value, str):
        return value
    if key == "tracking.uri":
        return absolute_uri(value, folder)
    if (key == "search.space" and not files.is_file_name(value)) or (
        key == "task.pretrained" and not files.is_path(value)
    ):
        return value
    path = value.removeprefix(files.ARCHIVE) if key == "task.pretrained" else value
    return value.removesuffix(path) + str(files.absolute(path, folder, key=written))


def given(pipeline: Pipeline | str | Path, overrides: Mapping[str, str] | None, *, quick: bool = False) -> Pipeline:
    """The pipeline that a caller means: one that is there already, a shipped name, or a path."""
    if isinstance(pipeline, Pipeline):
        return with_command_paths(pipeline)
    return load(pipeline, overrides, quick=quick)


def with_command_paths(pipeline: Pipeline) -> Pipeline:
    """A pipeline that a program has made, every path absolute; relative ones start at the folder of the command."""
    content = pipeline.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    return Pipeline.from_dict(with_absolute_paths(content, Path.cwd()))


def _use_kept_space(content: dict[str, Any], path: Path) -> None:
    """Name the space that lies beside the kept pipeline of a sweep, where the path of the original is gone.

    Former versions kept that path.
    """
    search, kept = content.get("search"), path.with_name(SPACE_FILE)
    space = search.get("space") if isinstance(search, dict) else None
    gone = isinstance(space, str) and files.is_file_name(space) and not Path(space).exists()
    if gone and path.name == PIPELINE_FILE and kept.is_file():
        content["search"] = {**content["search"], "space": str(kept)}


def parse_value(text: str, key: str | None = None) -> Any:
    """The value of `key` from the command line: TOML where it is TOML (0.1, true, [1, 2]), else the text itself."""
    try:
        return files.parse_toml(f"value = {text}")["value"]
    except InputError as error:
        raise InputError(error.rule, key=key, received=error.received, remedy=error.remedy) from None
    except ValueError:
        files.check_text(text, key or "value")
        return text


def trial_of(flags: Mapping[str, str], dataset: str, seeds: Sequence[int], threads: int) -> TrialFile:
    """One configuration given by flags: `method`, hyperparameters, and `task.KEY` for the keys of the task."""
    given = with_absolute_paths({key: parse_value(value, key) for key, value in flags.items()}, Path.cwd())
    task = {key.removeprefix("task."): value for key, value in given.items() if key.startswith("task.")}
    values = {key: value for key, value in given.items() if not key.startswith("task.")}
    config = {"method": values.pop("method", "gcscoop"), "hyperparameters": values}
    task = own_template({"dataset": dataset, **task})
    content = {"seeds": list(seeds), "threads": threads, "task": task, "trial": config}
    file = TrialFile.from_dict(content, file="--set")
    registry.build(file.trial, file="--set")
    check_sets(file.task)
    check_weights(file.task.backbone, file.task.pretrained)
    check_configuration(file.task, file.trial)
    return file


def load_trial(path: str | Path) -> TrialFile:
    """Read an exported `config.toml`; checked down to the method's hyperparameters."""
    path = files.absolute(path)
    if path.is_dir():
        files.check_export(path, "config.toml")
        path /= "config.toml"
    trial = TrialFile.from_dict(_read_file(path), file=path)
    registry.build(trial.trial, file=path)
    try:
        check_sets(trial.task)
        check_backbone(trial.task)
        check_configuration(trial.task, trial.trial)
    except InputError as error:
        raise error.at(file=path) from None
    return trial


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key. InputError where it does not lead through tables.

    The backbone `mini` takes the place of a file's backbone and of its weights, which are another model's.
    """
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise InputError("a dotted key must lead through tables", key=key)
    content[last] = value
    if (key, value) == ("task.backbone", "mini"):
        content.pop("pretrained", None)


def flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value: `"task.shots" = 1` and `task.shots = 1` are the same."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def blamed(error: InputError, table: str, keys: Iterable[str], where: str, file: Path) -> InputError:
    """The same error by the key of `table` that it comes from; where it comes from none, its rule ends with `where`."""
    plain = (error.key or "").replace('"', "")
    found = next((key for key in keys if f"{plain}.".startswith(f"{key}.")), None)
    rule = error.rule if found else f"{error.rule}, {where}"
    place = f'{table}."{found}"' if found else error.key
    named = Path(error.file) if error.file else file
    return InputError(rule, file=named, key=place, received=error.received, remedy=error.remedy)
