"""A sweep as an Optuna study, for Optuna's own tools: its dashboard, its plots, its importances.

A trial has its number in the sweep. Hyperparameters are under their natural names, with the distributions that the
report draws and weighs them by: what stands apart there, "off" and 0 on a logarithmic axis, has a place below the
others, and the study's attribute `apart` says which. The attribute `config` of a trial has every value as it was run.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from gcsearch.config import metrics
from gcsearch.config.addresses import scrubbed, shown
from gcsearch.config.trials import Outcome, Role, TrialConfig, TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.files import absolute
from gcsearch.results.documents import confirmed_numbers
from gcsearch.results.report.picture import ReportData
from gcsearch.results.report.responses import Axis, axis
from gcsearch.results.tables.wording import named, searched
from gcsearch.stats import spread

Study: TypeAlias = optuna.Study
Storage: TypeAlias = str | Path | BaseStorage
"""A URL of Optuna's, the file of a journal of Optuna's, or an object."""

SWEEP, LINES, TRIALS = "gcsearch.sweep", "gcsearch.lines", "gcsearch.trials"
"""Attributes of a study: whose it is, how many lines of the journal are in it, in how many trials. Written last, but
for the first: what was cut off while it was written lacks them."""

_STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.FAIL,
    Outcome.FAILED: TrialState.FAIL,
}
_SQLITE = b"SQLite format 3\x00"
_STORES = ("optuna", "sqlalchemy", "redis")
"""The packages whose errors say that a storage does not do what it is asked for."""


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has its record, with its curve."""

    record: TrialRecord
    ended: datetime

    @property
    def number(self) -> int:
        """Of the trial in its sweep."""
        return self.record.number


@dataclass(frozen=True)
class ProposedTrial:
    """A trial without a record: somebody trains it, or it waits until the sweep goes on."""

    number: int
    config: TrialConfig
    began: datetime
    label: str = ""
    trains: bool = False


@dataclass(frozen=True)
class StudySource:
    """What a study is made of: `sweep` is the id of the sweep, `lines` how long its journal is.

    `trials` come by number, one at a time, for their curves are most of a sweep. The journal says nothing of a trial
    whose number is left out.
    """

    sweep: str
    lines: int
    data: ReportData
    trials: Iterable[EndedTrial | ProposedTrial]

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the study's values."""
        return self.data.pipeline.search.objectives

    @cached_property
    def more(self) -> dict[int, dict[str, Any]]:
        """By number what is known of a trial beside its record: its place, and what came of its confirmation."""
        found: dict[int, dict[str, Any]] = {
            row.record.number: {"rank": row.rank, "front": row.front, "mlflow_run": row.record.run_id}
            for row in self.data.ranked
        }
        metric = self.data.objective.key
        for record in self.data.rechecked:
            found[record.number] |= means(record, {metric: "recheck"})
        for record in self.data.finals:
            if record.role is not Role.REFERENCE and record.number in found:
                found[record.number] |= {"role": record.role.value, **self.confirmed(record)}
        return found

    def measured(self, record: TrialRecord) -> dict[str, float]:
        """The means of a search record, by metric: all that its table shows. What else was measured is there by seed.

        Each attribute costs a statement or two in a database.
        """
        search = self.data.pipeline.search
        shown = [column.metric for column in metrics.columns(self.data.pipeline.task, search.stage)]
        return means(record, {name: name for name in (*search.objectives, self.data.objective.key, *shown)})

    def confirmed(self, record: TrialRecord) -> dict[str, Any]:
        """What a configuration came to on test images: mean, deviation, and the interval of what decides."""
        task = self.data.pipeline.task
        numbers = confirmed_numbers(record, metrics.columns(task), metrics.deciding(task))
        return {**numbers, "confirm_seeds": list(record.seeds)}

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study says of the sweep as a whole."""
        task, search = self.data.pipeline.task, self.data.pipeline.search
        references = [record for record in self.data.finals if record.role is Role.REFERENCE]
        return {
            "dataset": task.title,
            "backbone": task.backbone,
            "shots": task.shots,
            "objective": self.data.objective.key,
            "chosen_by": search.chosen_by,
            "champion": self.data.champion,
            "references": {named(record): self.confirmed(record) for record in references},
        }


def write(source: StudySource, storage: Storage | None, name: str, *, replace: bool = False) -> Study:
    """The sweep as the study `name` in `storage`; in memory where that is None.

    A study that this sweep has written before is brought up to date; where nothing came since, it is left as it is.

    Args:
        storage: a URL of Optuna's (`sqlite:///...`, `postgresql://...`, `redis://...`), a journal file, or an object.
        replace: also where a study of this name is there that is not this sweep's, or has trials of somebody else.

    Raises:
        InputError: the storage is none, or has another study of this name.
        RunError: the storage does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _speaking_of(storage), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        opened = _open(storage)
        former = _former(source, opened, name, replace=replace)
        if former is not None:
            return former
        directions = ["maximize"] * len(source.objectives)
        study = optuna.create_study(storage=opened, study_name=name, directions=directions)
        study.set_user_attr(SWEEP, source.sweep)
        study.set_metric_names(list(source.objectives))
        places = Places.of(source.data)
        count = 0
        for trial in _in_order(source, places):
            study.add_trial(trial)
            count += 1
        attributes = {**source.attributes, "apart": places.apart, TRIALS: count, LINES: source.lines}
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        return study


def _former(source: StudySource, storage: BaseStorage, name: str, *, replace: bool) -> Study | None:
    """The study of this name where it says all that the sweep does; one that says less is deleted."""
    if name not in optuna.get_all_study_names(storage):
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    known, there = study.user_attrs, len(study.get_trials(deepcopy=False))
    own = known.get(SWEEP) == source.sweep and there == known.get(TRIALS, there)
    if own and known.get(LINES) == source.lines and not replace:
        return study
    if not own and not replace:
        whose = "another study" if known.get(SWEEP) != source.sweep else "this sweep's study, with trials of others"
        raise InputError(
            f"the storage has {whose} under this name",
            key="study",
            received=name,
            remedy="Name another storage, or replace it: --replace.",
        )
    optuna.delete_study(study_name=name, storage=storage)
    return None


def _in_order(source: StudySource, places: Places) -> Iterator[FrozenTrial]:
    """The trials by number: a storage counts them as they come."""
    expected = 0
    for trial in source.trials:
        for _ in range(expected, trial.number):
            yield _unknown()
        yield _ended(trial, source, places) if isinstance(trial, EndedTrial) else _proposed(trial, places)
        expected = trial.number + 1


def _ended(trial: EndedTrial, source: StudySource, places: Places) -> FrozenTrial:
    record = trial.record
    values = [record.mean(objective) for objective in source.objectives]
    state = _STATES[record.outcome]
    reason = record.reason
    if state is TrialState.COMPLETE and not all(map(math.isfinite, values)):
        state, reason = TrialState.FAIL, reason or _missing(source.objectives, values)
    metric = source.data.objective.key
    curve = {one.epoch: one.mean(metric) for one in record.curve} if len(values) == 1 else {}
    if state is TrialState.PRUNED:
        values = [value for value in list(curve.values())[-1:] or values if math.isfinite(value)]
    params, distributions = places.of_config(record.config, complete=record.number in places.drawn)
    attributes = {
        "config": record.config.values,
        "label": record.label,
        "role": record.role.value,
        "outcome": record.outcome.value,
        "reason": reason,
        "seeds": list(record.seeds),
        "epochs_trained": record.epochs,
        "seconds": record.seconds,
        **source.measured(record),
        "by_seed": {name: list(numbers) for name, numbers in record.metrics.items() if _all_finite(numbers)},
        **source.more.get(record.number, {}),
    }
    made = create_trial(
        state=state,
        values=None if state is TrialState.FAIL else values or None,
        params=params,
        distributions=distributions,
        intermediate_values=curve,
        user_attrs={name: value for name, value in attributes.items() if value not in ("", None)},
    )
    made.datetime_start = _local(trial.ended, record.seconds)
    made.datetime_complete = _local(trial.ended)
    return made


def _proposed(trial: ProposedTrial, places: Places) -> FrozenTrial:
    params, distributions = places.of_config(trial.config, complete=False)
    attributes = {"config": trial.config.values} | ({"label": trial.label} if trial.label else {})
    if not trial.trains:  # as `enqueue_trial` leaves one: whoever asks this study next gets it
        return create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs={"fixed_params": params})
    made = create_trial(state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes)
    made.datetime_start = _local(trial.began)
    return made


def _unknown() -> FrozenTrial:
    return create_trial(state=TrialState.FAIL, user_attrs={"reason": "the journal says nothing of this trial"})


def _missing(objectives: Sequence[str], values: Sequence[float]) -> str:
    return ", ".join(f"{name} is {value}" for name, value in zip(objectives, values, strict=True))


def means(record: TrialRecord, names: Mapping[str, str]) -> dict[str, float]:
    """Mean and deviation over seeds of metrics, under the names that `names` gives them, with `_sd`; only numbers."""
    found: dict[str, float] = {}
    for metric, name in names.items():
        value = spread(record.metrics.get(metric, ()))
        found |= {name: value.mean, f"{name}_sd": value.deviation}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _all_finite(numbers: Sequence[float]) -> bool:
    return all(map(math.isfinite, numbers))  # what is not finite has no place in JSON


def _local(time: datetime, seconds: float = 0.0) -> datetime:
    """As Optuna keeps times: of this machine's clock, and without a zone."""
    return datetime.fromtimestamp(time.timestamp() - seconds)


@dataclass(frozen=True)
class Places:
    """Where configurations lie in the study.

    The completed ones lie exactly as in the report, whose importances are therefore the study's. What has no place on
    an axis that was drawn up from those is left out of a trial's parameters.
    """

    axes: Mapping[str, Axis]
    drawn: frozenset[int]
    """The numbers of the trials that `axes` were drawn up from; all of them where none completed."""

    @classmethod
    def of(cls, data: ReportData) -> Places:
        tried, records = data.tried, data.records
        if tried.records:
            return cls(tried.axes, frozenset(record.number for record in tried.records))
        values = [record.config.values for record in records]
        axes = {name: axis(name, [one[name] for one in values if name in one]) for name in searched(records)}
        return cls(axes, frozenset(record.number for record in records))

    @property
    def apart(self) -> dict[str, dict[str, float]]:
        """By hyperparameter what stands apart from its numbers, and where."""
        return {
            name: {text: place for place, text in one.special.items()} for name, one in self.axes.items() if one.special
        }

    def of_config(
        self, config: TrialConfig, *, complete: bool
    ) -> tuple[dict[str, float | str], dict[str, BaseDistribution]]:
        """Parameters and their distributions; `complete`: of a trial that the axes were drawn up from."""
        params: dict[str, float | str] = {}
        distributions: dict[str, BaseDistribution] = {}
        for name, one in self.axes.items():
            if name not in config.values:
                continue
            try:
                place = one.place(config.values[name])
            except ValueError:  # a word on an axis of numbers
                continue
            distribution = one.distribution if complete else _widened(one, place)
            if distribution is not None:
                params[name], distributions[name] = place, distribution
        return params, distributions


def _widened(one: Axis, place: float | str) -> BaseDistribution | None:
    """The distribution of an axis, made wide enough for `place`; None where that is no place on such an axis."""
    if one.words or isinstance(place, str):
        return one.distribution if place in one.words else None
    if one.log and place <= 0:
        return None
    low = min(one.low, place, *one.special)
    return FloatDistribution(low, max(one.high, place), log=one.log)


# --- Storages


def _open(storage: Storage | None) -> BaseStorage:
    """The storage that is meant, as Optuna's own tools tell URLs from journal files."""
    if isinstance(storage, BaseStorage):
        return storage
    if storage is None:
        return optuna.storages.InMemoryStorage()
    text = str(storage)
    if text.startswith("redis"):
        return JournalStorage(JournalRedisBackend(text))
    if "://" in text:
        _check_folder_of(text)
        return RDBStorage(text)
    return JournalStorage(_journal(absolute(text, key="--storage")))


def _journal(path: Path) -> Any:
    if not path.parent.is_dir():
        raise InputError("the folder of a journal file must be there", key="--storage", received=str(path.parent))
    if path.is_dir():
        raise InputError("a journal file must be a file", key="--storage", received=str(path))
    if path.exists():
        with path.open("rb") as file:
            begin = file.read(len(_SQLITE))
        if begin == _SQLITE:
            remedy = f"Write sqlite:///{path}"
            raise InputError("this file is an SQLite database", key="--storage", received=str(path), remedy=remedy)
        if begin and not begin.startswith(b"{"):
            rule = "this file is none of Optuna's journals, and is left alone"
            raise InputError(rule, key="--storage", received=str(path), remedy="Name another file, or a URL.")
    return JournalFileBackend(str(path))


def _check_folder_of(url: str) -> None:
    if url.startswith("sqlite") and (path := sqlalchemy.make_url(url).database) and path != ":memory:":
        folder = Path(path).absolute().parent
        if not folder.is_dir():
            raise InputError("the folder of an SQLite database must be there", key="--storage", received=str(folder))


@contextlib.contextmanager
def _speaking_of(storage: object) -> Iterator[None]:
    """Turn what Optuna, a database or its driver raise into an error that names the storage."""
    text = str(storage)
    try:
        yield
    except (InputError, RunError):
        raise
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
        rule = f"this is no storage: {scrubbed(_first_line(error), text)}"
        remedy = "Write for example sqlite:///study.db, or a file's name for a journal of Optuna's."
        raise InputError(rule, key="--storage", received=shown(text), remedy=remedy) from error
    except ImportError as error:
        rule = f"the driver of this storage is not installed: {scrubbed(_first_line(error), text)}"
        remedy = "Install it beside gcsearch: psycopg2-binary for postgresql://, pymysql for mysql+pymysql://, redis."
        raise InputError(rule, key="--storage", received=shown(text), remedy=remedy) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORES and not isinstance(error, OSError):
            raise
        raise RunError(f"The storage {shown(text)} refused: {scrubbed(_first_line(error), text)}") from error


def _first_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
