"""A trial: its configuration, its reports epoch by epoch, its record; a study of many. Accuracies are in per cent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from enum import StrEnum
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from gcsearch.config.base import Count, Model, Seeds, Threads, Value
from gcsearch.config.metrics import Stage
from gcsearch.config.task import Task
from gcsearch.errors import InputError
from gcsearch.stats import Bins


def written(value: Value) -> str:
    """A hyperparameter's value for people: four digits that count."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class TrialConfig(Model):
    """One configuration of one method: all that its numbers depend on beside the task.

    `hyperparameters` carries natural names only (rho, beta1, ...); `gcsearch.methods` knows which ones a
    method has and checks them.
    """

    bounded: ClassVar[bool] = False  # the method knows better, and names its own key

    method: str
    hyperparameters: dict[str, Value] = {}

    @property
    def values(self) -> dict[str, Value]:
        """All that is chosen: the hyperparameters, and the method under the name `method`."""
        return {"method": self.method, **self.hyperparameters}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the configuration, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """For people: `gcscoop rho=0.1 beta1=0.5 beta2=0.8`."""
        values = (f"{name}={written(value)}" for name, value in self.hyperparameters.items())
        return " ".join((self.method, *values))


class Rung(Model):
    """A point of the training from which only the better configurations go on, see `gcsearch.search.pruning`.

    It lies at `share` of a configuration's own epochs. `keep` is the share of those that came there which goes on, by
    `metric`; `peers` are the values of those that came there in other packs.
    """

    bounded: ClassVar[bool] = False

    share: Annotated[float, Field(gt=0, lt=1)]
    keep: Annotated[float, Field(gt=0, le=1)]
    metric: str
    peers: tuple[float, ...] = ()


class Proposal(Model):
    """A numbered configuration that waits to be tried in a sweep; all of a pack have the same `rungs`."""

    bounded: ClassVar[bool] = False

    number: int
    config: TrialConfig
    rungs: tuple[Rung, ...] = ()


class EpochReport(Model):
    """The numbers of one configuration after one epoch: for each metric one value per seed.

    Those of `gcsearch.config.metrics` that the task's protocol has, and with targets `test_acc_TARGET` of each;
    `loss` (mean over the epoch's steps); for rules with a second gradient `cosine` (mean cosine between the plain and
    the perturbed gradient); for GCSAM `share_plain`, `share_projected`, `share_perturbed` (share of the epoch's steps
    in each branch).
    """

    bounded: ClassVar[bool] = False

    number: int
    epoch: int
    metrics: dict[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN where the metric was not measured."""
        values = self.metrics.get(metric, ())
        return fmean(values) if values else float("nan")


OnReports = Callable[[list[EpochReport]], None]
"""Hears of the configurations that have finished an epoch."""


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"


CHAMPION = "champion"
"""The label of the confirmed champion's record."""

SHORTLISTED = "shortlisted"
"""How the labels of the other configurations of the shortlist begin."""


class Role(StrEnum):
    """What a record is in its sweep: a trial of the search, or one of the configurations that are confirmed."""

    SEARCHED = "searched"
    REFERENCE = "reference"
    SHORTLISTED = "shortlisted"
    CHAMPION = "champion"


def _role(known: dict[str, Any]) -> Role:
    """The role of a record whose file does not state it, as an earlier gcsearch wrote them."""
    label = known.get("label", "")
    if label == CHAMPION:
        return Role.CHAMPION
    if known.get("number", 0) < 0:
        return Role.REFERENCE
    return Role.SHORTLISTED if label.startswith(f"{SHORTLISTED} t") else Role.SEARCHED


class TrialRecord(Model):
    """A finished trial. `metrics` holds the last epoch's numbers, one value per seed, in order of `seeds`."""

    bounded: ClassVar[bool] = False

    number: int
    config: TrialConfig
    stage: Stage
    outcome: Outcome
    reason: str = ""
    seeds: tuple[int, ...]
    epochs: int
    metrics: dict[str, tuple[float, ...]] = {}
    curve: tuple[EpochReport, ...] = ()
    reliability: dict[str, Bins] = {}
    """On test images, by side (`base` and `new`, or `all`): the bins of its calibration after the last epoch, of all
    seeds together."""
    seconds: float = 0.0
    worker: str = ""
    label: str = ""
    role: Role = Field(default_factory=_role)
    run_id: str = ""

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN where the metric was never measured."""
        values = self.metrics.get(metric, ())
        return fmean(values) if values else float("nan")


class GeneratorState(Model):
    """Where a generator of numpy's (MT19937) stands; `key`: its 624 words, little-endian, in base64."""

    bounded: ClassVar[bool] = False

    key: str
    position: int
    has_gauss: int
    gauss: float


class StudyState(Model):
    """What Optuna's study of a search was once the trials before number `told` had been told, see `search.study_state`.

    `params` (as Optuna has them) and `on_trials` are of the trials from number `first` on: a state of before has the
    others.
    """

    bounded: ClassVar[bool] = False

    first: int
    told: int
    params: dict[str, tuple[Value, ...]]
    on_trials: dict[str, tuple[Any, ...]] = {}
    on_study: dict[str, Any] = {}
    generators: dict[str, GeneratorState]
    model: Any = None


class TrialFile(Model):
    """One configuration with everything that its numbers depend on: the content of an exported `config.toml`.

    `threads` is part of it because rounding, and so the last digits, depends on it.
    """

    version: Literal[1] = 1
    stage: Stage = "test"
    seeds: Seeds = (1, 2, 3)
    threads: Threads = 1
    evaluate_every: Count = 1
    task: Task = Task()
    trial: TrialConfig

    @field_validator("task")
    @classmethod
    def _one_data_set(cls, task: Task) -> Task:
        if task.also:
            raise InputError(
                "one configuration is trained on one data set at a time",
                key="task.also",
                received=list(task.also),
                remedy="Leave it out, and train on each with a file of its own, as `gcsearch export` writes them.",
            )
        return task
