"""Several sweeps in one pipeline file: `[matrix]` gives keys lists of values, and every combination is a sweep.

    name = "few-shot"
    [matrix]
    "task.dataset" = ["Caltech101", "OxfordPets"]
    "task.shots" = [1, 16]

makes the sweeps few-shot-Caltech101-1, few-shot-Caltech101-16, few-shot-OxfordPets-1, few-shot-OxfordPets-16.  Each is
a sweep like any other, with its own folder and journal; the store notes which belong together.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.driver.load import PATHS, blamed, complete, flat, put, read, with_quick
from gcsearch.errors import InputError, Interrupted, TooManyFailures
from gcsearch.execution.local_ray import daemons
from gcsearch.results.documents import PlannedMatrix
from gcsearch.sweep.store import Store

if TYPE_CHECKING:
    from gcsearch.data.feature_file import CachedFile
    from gcsearch.driver.plan import Plan
    from gcsearch.execution.executor import ExecutorName
    from gcsearch.execution.placement import Placement
    from gcsearch.sweep.callbacks import Callback
    from gcsearch.sweep.sweep import Sweep

Watch = Callable[[Pipeline], "AbstractContextManager[Callback | None]"]
"""Opens what listens to one sweep."""


@dataclass(frozen=True)
class Matrix:
    """The checked sweeps of a pipeline file. `single`: it has no matrix, and its one sweep has the file's own name."""

    name: str
    pipelines: tuple[Pipeline, ...]
    single: bool = False


@dataclass(frozen=True)
class MatrixResult:
    """How a sweep of a matrix ended: with results, with an error, or with both (too many failed trials)."""

    name: str
    sweep: Sweep | None = None
    error: Exception | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.error is None else getattr(self.error, "exit_code", 1)


# --- Reading --------------------------------------------------------------------------------------------


def load(name_or_path: str | Path, overrides: Mapping[str, str] | None = None, *, quick: bool = False) -> Matrix:
    """Read a pipeline file, with or without a matrix, and check every sweep of it.

    An override of a key of the matrix leaves that one value, so that a part of the matrix runs under the same names;
    `matrix.KEY` replaces the list. `quick`: with the file's table [quick], see `gcsearch.driver.load.read`.

    Raises:
        InputError: what any of its sweeps would be refused for, naming the key of the matrix or of [quick]; a key
            without a list of values; two values that would give one name.
    """
    return with_quick(_load, name_or_path, overrides, quick=quick)


def _load(name_or_path: str | Path, overrides: Mapping[str, str] | None, quick: bool) -> Matrix:
    path, content = read(name_or_path, overrides, quick=quick)
    table, name = content.pop("matrix", None), str(content["name"])
    if table is None:
        return Matrix(name, (complete(content, path),), single=True)
    axes = _axes(table, path)
    for key in overrides or {}:
        if key in axes:
            axes[key] = [_value(content, key)]
    tracking = content.setdefault("tracking", {})
    if isinstance(tracking, dict):
        tracking.setdefault("experiment", name)  # one MLflow experiment for all of them
    count = math.prod(map(len, axes.values()))
    if count > _LARGEST:
        rule, remedy = f"a matrix is at most {_LARGEST} sweeps", "Name fewer values, or write several files."
        raise InputError(rule, file=path, key="matrix", received=count, remedy=remedy)
    assignments = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    names = ["-".join([name, *(_slug(key, value) for key, value in one.items())]) for one in assignments]
    _check_distinct(axes, names, path)
    pipelines = [_sweep(content, one, own, path) for one, own in zip(assignments, names, strict=True)]
    return Matrix(name, tuple(pipelines))


_LARGEST = 10_000


def _axes(table: Any, file: Path) -> dict[str, list[Any]]:
    """The lists of values by dotted key; `"task.shots" = [...]` and `task.shots = [...]` are the same."""
    axes: dict[str, list[Any]] = {}
    for key, values in flat(table if isinstance(table, dict) else {"": table}):
        place = f'matrix."{key}"' if key else "matrix"
        fitting = isinstance(values, list) and values and not any(isinstance(value, dict) for value in values)
        if not fitting or key in ("name", "tracking.uri") or not key:
            raise InputError(
                'a matrix has keys of the pipeline, such as "task.shots", each with a list of values',
                file=file,
                key=place,
                received=repr(values),
                remedy='Write for example `"task.shots" = [1, 2, 4]`.',
            )
        axes[key] = values
    if not axes:
        raise InputError("a matrix has at least one key", file=file, key="matrix", remedy="Remove the empty table.")
    return axes


def _value(content: dict[str, Any], key: str) -> Any:
    """What stands at a dotted key that is there."""
    found: Any = content
    for part in key.split("."):
        found = found[part]
    return found


def _slug(key: str, value: Any) -> str:
    """A value as a part of a sweep's name: of a path its file's name, of a list its parts."""
    if isinstance(value, list):
        return "-".join(_slug(key, part) for part in value) or "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if key in PATHS and files.is_path(text):
        text = Path(text).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "none"


def _check_distinct(axes: Mapping[str, list[Any]], names: list[str], file: Path) -> None:
    """InputError where two sweeps would have one name, with the key whose values are alike if there is one."""
    parts = {f'matrix."{key}"': [_slug(key, value) for value in values] for key, values in axes.items()}
    for key, slugs in {**parts, "matrix": names}.items():
        if len(set(slugs)) != len(slugs):
            raise InputError(
                "every combination must give a name of its own",
                file=file,
                key=key,
                received=", ".join(slugs),
                remedy="Remove the repeated value, or rename its file.",
            )


def _sweep(content: dict[str, Any], assignment: Mapping[str, Any], name: str, file: Path) -> Pipeline:
    """The pipeline of one combination. InputError naming the key of the matrix, or else the sweep."""
    own = copy.deepcopy(content)
    try:
        for key, value in assignment.items():
            put(own, key, value)
        return complete({**own, "name": name}, file)
    except InputError as error:
        raise blamed(error, "matrix", assignment, f"in the sweep {name}", file) from None


# --- Running --------------------------------------------------------------------------------------------


def run_matrix(
    matrix: Matrix | str | Path,
    *,
    store: str | Path | None = None,
    overrides: Mapping[str, str] | None = None,
    quick: bool = False,
    fresh: bool = False,
    watch: Watch = lambda pipeline: nullcontext(),
    on_end: Callable[[MatrixResult], None] = lambda ended: None,
    executor: ExecutorName = "ray",
) -> list[MatrixResult]:
    """Run every sweep of a matrix, one after another. Those that are over are not run again.

    A sweep that is refused or fails does not keep the others from running: its error is in what comes back. Only an
    interruption ends them all; the same call goes on.

    Args:
        matrix: a shipped name, a path, or what `load` gave. store, overrides, quick, fresh: see `run.run`.
        watch: opens what listens to a sweep, for the time of that sweep.
        on_end: called with each sweep as it ends.
        executor: see `run`.

    Raises:
        InputError: something in the file is wrong, or a sweep has the matrix's name.
    """
    from gcsearch.driver import run
    from gcsearch.sweep.sweep import Sweep
    from gcsearch.training import loading

    matrix = matrix if isinstance(matrix, Matrix) else load(matrix, overrides, quick=quick)
    located = Store.locate(store)
    if not matrix.single:
        _note(matrix, located)
    ended = []
    with _SharedRay() as shared_ray:
        for chosen in matrix.pipelines:
            sweep, error = None, None
            try:
                with watch(chosen) as callback:
                    if executor == "ray" and (fresh or not run.is_finished(chosen, store)):
                        shared_ray.ready(chosen)
                    sweep = run.run(chosen, store=store, fresh=fresh, callback=callback, executor=executor)
            except Interrupted:  # who stops one sweep of a matrix wants the others to wait too
                raise
            except Exception as trouble:  # whatever one sweep dies of, the others are run
                error = trouble
                shared_ray.leave()  # it may have died of its Ray
                if isinstance(trouble, TooManyFailures):
                    sweep = Sweep.named(chosen.name, located)
            ended.append(MatrixResult(chosen.name, sweep, error))
            on_end(ended[-1])
            loading.forget()
    return ended


class _SharedRay:
    """One local Ray under all sweeps of a matrix that ask the same of it: starting one takes seconds.

    A sweep on a cluster joins it by itself, as ever. A context manager; whatever ends the block puts the Ray away.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._placement: Placement | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def ready(self, pipeline: Pipeline) -> None:
        """Have a Ray that holds what the sweep's placement asks for. InputError and RunError as `run.run`."""
        from gcsearch.execution import machines

        found = machines.find_machines(pipeline)
        wanted = None if found.cluster else found.placement
        if wanted == self._placement and not daemons.lost():
            return
        self.leave()
        if wanted:
            from gcsearch.execution.session import session

            self._open.enter_context(session(wanted))
            self._placement = wanted

    def leave(self) -> None:
        """Put the Ray away, if there is one; the next sweep gets another."""
        self._placement = None
        self._open.close()


def _note(matrix: Matrix, store: Store) -> None:
    """Write down which sweeps belong together; those of earlier runs of a part of the matrix stay."""
    if (store.sweep(matrix.name) / "journal.jsonl").exists():
        raise InputError(
            "a matrix needs a name that no sweep of the store has",
            file=store.root,
            key="name",
            received=matrix.name,
            remedy="Name it otherwise: `--set name=OTHER`.",
        )
    names = dict.fromkeys([*store.matrix(matrix.name), *(pipeline.name for pipeline in matrix.pipelines)])
    files.write_whole(store.matrix_file(matrix.name), json.dumps({"sweeps": list(names)}, indent=2) + "\n")


def plan(matrix: Matrix, *, store: str | Path | None = None) -> list[Plan]:
    """The plan of each sweep; what several of them read counts where it is encoded.

    InputError, naming the sweep, for whatever a run would refuse.
    """
    from gcsearch.driver.plan import make
    from gcsearch.training import loading

    made: list[Plan] = []
    counted: set[Path] = set()
    for pipeline in matrix.pipelines:
        with _named(matrix, pipeline):
            made.append(make(pipeline, store=store, counted=counted))
        loading.forget()
    return made


def planned(matrix: Matrix, plans: Sequence[Plan]) -> PlannedMatrix:
    """What the plans of a matrix come to, one sweep after another."""
    return PlannedMatrix(
        name=matrix.name,
        seconds=sum(plan.seconds for plan in plans),
        search_seconds=sum(plan.search_seconds for plan in plans),
        sweeps=tuple(plans),
    )


def cache(matrix: Matrix, watch: Watch = lambda pipeline: nullcontext(), *, store: str | Path | None = None) -> None:
    """Encode what every sweep reads; what several of them read, such as test images, is encoded once.

    InputError, naming the sweep, for whatever `run.cache_features` refuses; what was encoded before it stays.
    """
    from gcsearch.driver import run
    from gcsearch.training import loading

    for pipeline in matrix.pipelines:
        with watch(pipeline) as callback, _named(matrix, pipeline):
            run.cache_features(pipeline, store=store, callback=callback)
        loading.forget()


def prune_cache(keep: Sequence[str], *, older_than: str | None, everything: bool, remove: bool) -> list[CachedFile]:
    """Entries of the feature cache that are superfluous, see `feature_file.superfluous`; removed with `remove`.

    Args:
        keep: pipelines; entries of other models than theirs are superfluous. older_than: an age such as "30d".
    """
    from gcsearch.data import feature_file
    from gcsearch.training.loading import cache_storages, weights_of

    age = None if older_than is None else feature_file.seconds_of(older_than)
    weights = {weights_of(one.task) for name in keep for one in load(name).pipelines} if keep else None
    chosen: list[CachedFile] = []
    for storage in cache_storages():
        found = [*storage.entries(), *storage.leftovers()]
        taken = list(feature_file.superfluous(found, older_than=age, keep_weights=weights, everything=everything))
        for one in taken if remove else ():
            storage.remove(one)
        chosen += taken
    return chosen


@contextmanager
def _named(matrix: Matrix, pipeline: Pipeline) -> Iterator[None]:
    """An InputError in the block says in which sweep of the matrix it is."""
    try:
        yield
    except InputError as error:
        rule = error.rule if matrix.single else f"{error.rule}, in the sweep {pipeline.name}"
        raise InputError(rule, file=error.file, key=error.key, received=error.received, remedy=error.remedy) from None
