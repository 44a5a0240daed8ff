"""Documents of configurations with their numbers: `best --json`, `compare --json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from gcsearch.config.base import Model
from gcsearch.config.metrics import Column, Stage
from gcsearch.config.trials import Outcome, TrialConfig, TrialRecord
from gcsearch.methods.registry import title_and_tags
from gcsearch.stats import finite, spread, t_interval


class Document(Model):
    """Base of all documents: every key is there, those without a value as null."""

    bounded: ClassVar[bool] = False

    def dump(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")


class Numbers(Document):
    """One quantity over seeds: sample deviation (n - 1) and 95 % interval of the mean are null for a single seed."""

    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    per_seed: dict[str, float | None]

    @classmethod
    def of(cls, seeds: Sequence[int], values: Sequence[float]) -> Self:
        """The numbers of `values`, one for each of `seeds`; of nothing where there are no values."""
        mean, deviation, _ = spread(values)
        return cls(
            mean=finite(mean),
            deviation=finite(deviation),
            interval=t_interval(values),
            per_seed={str(seed): finite(value) for seed, value in zip(seeds, values, strict=False)},
        )


def confirmed_numbers(record: TrialRecord, shown: Iterable[Column], decides: Column) -> dict[str, float]:
    """What tables show of a configuration on test images, flat, for tools that keep one number under one name.

    By the keys of the columns `shown`, the one that `decides` first: mean, deviation (`_sd`), and of that one the 95 %
    interval of the mean (`_low`, `_high`). What is no number is left out.
    """
    found: dict[str, float | None] = {}
    for column in sorted(shown, key=lambda one: one != decides):
        numbers = Numbers.of(record.seeds, record.metrics.get(column.metric, ()))
        found |= {column.key: numbers.mean, f"{column.key}_sd": numbers.deviation}
        if column == decides and numbers.interval:
            found |= zip((f"{column.key}_low", f"{column.key}_high"), numbers.interval, strict=True)
    return {name: value for name, value in found.items() if value is not None}


class Measured(Document):
    """One configuration and its numbers. `stage` says on which images: validation (`search`) or test (`test`)."""

    name: str
    """The title of the method."""
    tags: tuple[str, ...]
    """What a reader of its numbers must know."""
    config: TrialConfig
    number: int
    label: str
    stage: Stage
    outcome: Outcome
    reason: str
    seeds: tuple[int, ...]
    epochs: int
    seconds: float
    metrics: dict[str, Numbers]
    run_id: str
    """The run in MLflow; empty where there is none."""


def facts(record: TrialRecord) -> dict[str, Any]:
    """What every document says of a record: the fields of `Measured`."""
    title, tags = title_and_tags(record.config)
    kept = ("config", "number", "label", "stage", "outcome", "reason", "seeds", "epochs", "seconds", "run_id")
    return {
        "name": title,
        "tags": tags,
        "metrics": {name: Numbers.of(record.seeds, values) for name, values in record.metrics.items()},
        **{key: getattr(record, key) for key in kept},
    }


class Objective(Numbers):
    """The numbers that a sweep was ranked by, with their metric's name; `oracle` where they are from test images."""

    name: str
    oracle: bool


class Ranked(Measured):
    """A row of `best --json`. `rank` is null for a trial that did not complete or has no objective.

    Of a search by several objectives `objective` is H, and `front` says whether no other configuration is as good in
    all of them and better in one; of a search by one it is null. Of a search on several data sets `worst_regret` says
    how far the configuration is behind the best one where it is worst, in the unit of the objective.
    """

    rank: int | None
    objective: Objective
    front: bool | None = None
    worst_regret: float | None = None


class Compared(Measured):
    """A row of `compare --json`; `name` is the title in tables, `sweeps` those that chose the configuration.

    `oracle` says that they looked at test images to choose it; it is then one of the `tags` too.
    Each column of the table (`base`, `new`, `h`) is a key of its own with its `Numbers`; `best` names those in which no
    row is better.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Numbers]

    sweeps: tuple[str, ...]
    best: tuple[str, ...]
    oracle: bool = False
    against: Against | None = None


class Against(Document):
    """A paired difference: the row minus the configuration `name` over their common seeds, in points of `metric`.

    `low` and `high` are its 95 % interval, `p` is Wilcoxon's, `error` the standard error; null for one seed.
    """

    name: str
    metric: str
    mean: float | None
    error: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None
    verdict: str


class Average(Document):
    """A method over all data sets of a table; each column is a key with its `Numbers`.

    `oracle` and `against` are as in `Compared`; the differences are those of the averages, seed by seed.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Numbers]

    name: str
    oracle: bool = False
    against: Against | None = None


class Averages(Document):
    """A last entry of `compare --json`, where the tasks before it differ in the data set alone.

    `h` is the mean of the data sets' harmonic means, `h_of_means` the harmonic mean of the mean accuracies.
    """

    average_over: tuple[str, ...]
    rows: tuple[Average, ...]


class Group(Document):
    """An entry of `compare --json`: all rows of one task; `published` what others have, with --published."""

    task: dict[str, Any]
    rows: tuple[Compared, ...]
    published: dict[str, Any] | None = None
