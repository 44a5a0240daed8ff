"""The nouns that cross stages: validated, frozen, and the same on disk as in memory.

Each is a pydantic model that refuses unknown keys, so that a typing error in a file is found before the
first trial.  `to_dict`/`from_dict` give plain JSON values.  Accuracies are in per cent throughout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from gcsearch.errors import InputError, unknown_name

Value = bool | int | float | str
"""What a hyper-parameter can be."""

Stage = Literal["search", "test"]
"""`search`: base classes only, split again by class into trained and held out; validation images.
`test`: all base classes trained; test images of base and new classes."""

Objective = Literal["val_h", "val_base_acc"]
"""The metric that a sweep maximises: names a key of `EpochReport.metrics` in the stage `search`."""


class Model(BaseModel):
    """Base of all nouns: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; unset optional keys are left out (TOML has no null)."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, file: str | Path | None = None) -> Self:
        """Validate `data`; the first violation becomes an InputError naming file, key, rule and value."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _first_violation(cls, error, file) from None


def _first_violation(cls: type[BaseModel], error: ValidationError, file: str | Path | None) -> InputError:
    # A misspelt key is also a missing one: the spelling is what the user can mend.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"]]
    key = ".".join(location) or None
    wrapped = first.get("ctx", {}).get("error")
    if isinstance(wrapped, InputError):
        return wrapped.at(file=file, key=key)
    if first["type"] == "extra_forbidden":
        return unknown_name("key", location[-1], _known_keys(cls, location[:-1]), file=file, key=key)
    if first["type"] == "missing":
        return InputError("this key is required", file=file, key=key, remedy=f"Add `{location[-1]} = ...`.")
    return InputError(
        first["msg"][0].lower() + first["msg"][1:],
        file=file,
        key=key,
        received=repr(first["input"]),
        remedy=f"Change the value of `{key}`.",
    )


def _known_keys(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = cls.model_fields[part].annotation if part in cls.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            cls = annotation
    return list(cls.model_fields)


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise InputError(
            "seeds must be distinct and not negative", received=list(seeds), remedy="Remove the repeated one."
        )
    return seeds


Seeds = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_distinct)]
"""One number per repetition: fixes few-shot draw, views, batches and random start."""


class Task(Model):
    """What is trained on: data set, frozen model and few-shot protocol.

    `views` augmented views of each training image are encoded once; epoch e uses view (e-1) mod views.
    `val_shots` validation images per class score the search (`"all"`: every one that the data set has).
    `folds`: in the search stage the seed at index i trains on the base classes without fold i mod `folds`,
    which plays "new".
    """

    dataset: str = "shapes-sketch"
    root: str | None = None
    backbone: str = "mini"
    pretrained: str | None = None
    template: str = "a photo of a {}."
    shots: Annotated[int, Field(ge=1)] = 16
    val_shots: Annotated[int, Field(ge=1)] | Literal["all"] = 4
    folds: Annotated[int, Field(ge=2)] = 3
    views: Annotated[int, Field(ge=1)] = 8
    seeds: Seeds = (1, 2, 3)

    @field_validator("template")
    @classmethod
    def _one_slot(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise InputError(
                "a template must contain {} exactly once",
                received=template,
                remedy='Write for example "a photo of a {}.".',
            )
        return template


class TrialConfig(Model):
    """One setting of one method: all that its numbers depend on beside the task.

    `hyperparameters` carries natural names only (rho, beta1, ...); `gcsearch.methods` knows which ones a
    method has and checks them.
    """

    method: str
    hyperparameters: dict[str, Value] = {}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the setting, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """For people: `gcscoop rho=0.1 beta1=0.5 beta2=0.8`."""
        values = (
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.hyperparameters.items()
        )
        return " ".join((self.method, *values))


class Proposal(Model):
    """A numbered setting that waits to be tried in a sweep."""

    number: int
    config: TrialConfig


class EpochReport(Model):
    """The numbers of one setting after one epoch: for each metric one value per seed.

    Accuracies `val_base_acc`, `val_new_acc`, `val_h` (stage search) or `test_base_acc`, `test_new_acc`,
    `test_h` (stage test), in per cent; `loss` (mean over the epoch's steps); for rules with a second
    gradient `cosine` (mean cosine between the plain and the perturbed gradient); for GCSAM
    `share_plain`, `share_projected`, `share_perturbed` (share of the epoch's steps in each branch).
    """

    number: int
    epoch: int
    metrics: dict[str, tuple[float, ...]]


OnReports = Callable[[list[EpochReport]], None]
"""Hears of the settings that have finished an epoch."""


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"


class TrialRecord(Model):
    """A finished trial. `metrics` holds the last epoch's numbers, one value per seed, in order of `seeds`."""

    number: int
    config: TrialConfig
    stage: Stage
    outcome: Outcome
    reason: str = ""
    seeds: tuple[int, ...]
    epochs: int
    metrics: dict[str, tuple[float, ...]] = {}
    curve: tuple[EpochReport, ...] = ()
    seconds: float = 0.0
    worker: str = ""
    label: str = ""
    run_id: str = ""

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN where the metric was never measured."""
        values = self.metrics.get(metric, ())
        return fmean(values) if values else float("nan")


class SearchSettings(Model):
    """How settings are proposed.

    `pack` settings are trained at once in one process. `generation` packs are proposed from the same
    knowledge and told together, in order: so a sweep repeats exactly, whichever worker finishes first.
    """

    space: str = "gcscoop"
    sampler: Literal["tpe", "random"] = "tpe"
    objective: Objective = "val_h"
    trials: Annotated[int, Field(ge=1)] = 32
    seed: Annotated[int, Field(ge=0)] = 0
    pack: Annotated[int, Field(ge=1)] = 4
    generation: Annotated[int, Field(ge=1)] = 2
    startup: Annotated[int, Field(ge=0)] = 10
    max_failed: Annotated[int, Field(ge=0)] = 0


class Resources(Model):
    """What a worker process may use; what is `auto` is filled in for the machine by `search.place`."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"


class Tracking(Model):
    """Where MLflow keeps the runs. No `uri`: SQLite and an artifact folder inside the store."""

    uri: str | None = None
    experiment: str | None = None


class Confirm(Model):
    """What is retrained on all base classes and measured on test images once the sweep has chosen."""

    seeds: Seeds = (4, 5, 6)
    references: tuple[str, ...] = ("zeroshot", "coop", "sam", "literature")


class Pipeline(Model):
    """One job: a task, a search on it, and what to do with the result. The content of a pipeline file."""

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: Task = Task()
    search: SearchSettings = SearchSettings()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    evaluate_every: Annotated[int, Field(ge=1)] = 1


class TrialFile(Model):
    """One setting with everything that its numbers depend on: the content of an exported `config.toml`.

    `threads` is part of it because rounding, and so the last digits, depends on it.
    """

    version: Literal[1] = 1
    stage: Stage = "test"
    seeds: Seeds = (1, 2, 3)
    threads: Annotated[int, Field(ge=1)] = 1
    evaluate_every: Annotated[int, Field(ge=1)] = 1
    task: Task = Task()
    trial: TrialConfig
