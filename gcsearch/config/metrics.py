"""The one table of metrics, what a task's protocol measures, and the columns of its tables.

Whatever ranks, prints, draws, compares or exports a metric reads here how it is called, its unit, where it is measured,
and whether a search may maximise it.

| task             | stage `search`                         | stage `test`                              |
|------------------|----------------------------------------|-------------------------------------------|
| classes = "base" | `val_base_acc`, `val_new_acc`, `val_h` | `test_base_acc`, `test_new_acc`, `test_h` |
| with folds = 1   | `val_base_acc`                         | the same                                  |
| classes = "all"  | `val_acc`                              | `test_acc`                                |
| with targets     | nothing more                           | `test_acc_TARGET`..., `test_acc_targets`  |

The search also measures `val_base_margin`, with all classes `val_margin`: how far wrong images of the trained classes
are from right, see `gcsearch.stats.lost_margin`.  The test stage also measures calibration, `test_base_ece` and
`test_new_ece` (`gcsearch.stats.calibration_error`), and `test_base_nll` and `test_new_nll`; with all classes `test_ece`
and `test_nll`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, NamedTuple, get_args

from gcsearch.config.base import plain_name
from gcsearch.config.task import Task
from gcsearch.errors import InputError

Stage = Literal["search", "test"]
"""`search`: validation images of the trained classes, and of base classes held out as if they were new.
`test`: all classes of the protocol trained; test images of these, of new classes, of the targets."""

Side = Literal["trained", "new", "both", "targets"]

Objective = Literal[
    "val_h", "val_base_acc", "val_base_margin", "val_acc", "val_margin", "test_h", "test_base_acc", "test_acc"
]
"""The metrics that a search may maximise alone.

Those of the stage `search` see what is trained and validation images only.  Those of the stage `test` are oracles: see
`is_oracle`."""

ObjectiveOfSeveral = Objective | Literal["val_new_acc", "test_new_acc"]
"""What may stand among several objectives: accuracy on new classes alone would be served by untrained prompts."""

TARGETS = "targets"
"""The column, and behind `test_acc_` the metric, of the mean over the targets without the source."""


class Unit(NamedTuple):
    """A unit: its sign behind the name of an axis, its words in a sentence, and the bounds of what it measures."""

    sign: str
    words: str
    low: float
    high: float


PERCENT = Unit("%", "in per cent", 0.0, 100.0)
NATS = Unit("nats", "in nats", 0.0, inf)
COSINE = Unit("cosine × 1000", "in thousandths of a cosine", -inf, inf)


@dataclass(frozen=True)
class Metric:
    """A metric: its key in records, files and MLflow, and all that is said of it.

    `title` stands in a sentence ("points of base accuracy"), `long` says on which classes and images it is measured.
    `column` and `heading` are its key and its title in tables; empty for what no table shows beside accuracies.
    `classes` are the protocol's that have it; None: only tasks with targets, or on several data sets, have it.
    """

    key: str
    stage: Stage
    side: Side
    classes: Literal["base", "all"] | None
    title: str
    long: str
    column: str = ""
    heading: str = ""
    unit: Unit = PERCENT

    @property
    def alone(self) -> bool:
        """Whether a search may maximise it and nothing else."""
        return self.key in get_args(Objective)

    @property
    def axis(self) -> str:
        """For axes, and for headings of columns that show objectives: the key with its unit."""
        return f"{self.key} ({self.unit.sign})"

    @property
    def legend(self) -> str:
        """The long title with its unit."""
        return f"{self.long} ({self.unit.sign})"


_TABLE = (
    Metric("val_base_margin", "search", "trained", "base", "lost margin",
           "lost margin of trained base classes, validation images", unit=COSINE),
    Metric("val_base_acc", "search", "trained", "base", "base accuracy",
           "accuracy on trained base classes, validation images", "base", "base"),
    Metric("val_new_acc", "search", "new", "base", "held-out accuracy",
           "accuracy on held-out base classes, validation images", "new", "new"),
    Metric("val_h", "search", "both", "base", "H",
           "H of trained and held-out base classes, validation images", "h", "H"),
    Metric("val_h_of_means", "search", "both", None, "H of means",
           "H of the mean accuracies over the data sets, validation images", "h_of_means", "H of means"),
    Metric("val_acc", "search", "trained", "all", "accuracy",
           "accuracy on all classes, validation images", "acc", "Acc"),
    Metric("val_margin", "search", "trained", "all", "lost margin",
           "lost margin of all classes, validation images", unit=COSINE),
    Metric("test_base_acc", "test", "trained", "base", "base accuracy",
           "accuracy on base classes, test images", "base", "base"),
    Metric("test_new_acc", "test", "new", "base", "new accuracy",
           "accuracy on new classes, test images", "new", "new"),
    Metric("test_h", "test", "both", "base", "H",
           "H of base and new classes, test images", "h", "H"),
    Metric("test_base_ece", "test", "trained", "base", "calibration error on base classes",
           "expected calibration error on base classes, test images"),
    Metric("test_new_ece", "test", "new", "base", "calibration error on new classes",
           "expected calibration error on new classes, test images"),
    Metric("test_base_nll", "test", "trained", "base", "negative log-likelihood on base classes",
           "mean negative log-likelihood on base classes, test images", unit=NATS),
    Metric("test_new_nll", "test", "new", "base", "negative log-likelihood on new classes",
           "mean negative log-likelihood on new classes, test images", unit=NATS),
    Metric("test_h_of_means", "test", "both", None, "H of means",
           "H of the mean accuracies over the data sets, test images", "h_of_means", "H of means"),
    Metric("test_acc", "test", "trained", "all", "accuracy",
           "accuracy on all classes, test images", "acc", "Acc"),
    Metric("test_ece", "test", "trained", "all", "calibration error",
           "expected calibration error on all classes, test images"),
    Metric("test_nll", "test", "trained", "all", "negative log-likelihood",
           "mean negative log-likelihood on all classes, test images", unit=NATS),
    Metric(f"test_acc_{TARGETS}", "test", "targets", None, "mean accuracy on the targets",
           "mean accuracy on the targets without the source, test images", TARGETS, "mean of targets"),
)  # fmt: skip

METRICS: dict[str, Metric] = {one.key: one for one in _TABLE}
"""By key; where a search may maximise one of several, the recommended one comes first and the oracles last."""

SIDES: dict[Stage, tuple[str, str]] = {
    "search": ("val_base_acc", "val_new_acc"),
    "test": ("test_base_acc", "test_new_acc"),
}
"""The two accuracies that the protocol trades, by the stage that measures them."""

H_OF_MEANS: dict[Stage, str] = {"search": "val_h_of_means", "test": "test_h_of_means"}
"""By stage the metric of H of the mean base and the mean new accuracy over several data sets."""


def find(key: str) -> Metric:
    """The metric of a key: of the table, or one of the table on a single data set such as `test_acc_shapes-neon`.

    Raises:
        KeyError: neither.
    """
    if key in METRICS:
        return METRICS[key]
    whole = max((name for name in METRICS if key.startswith(f"{name}_")), key=len, default=None)
    if whole is None:
        raise KeyError(key)
    where = key.removeprefix(f"{whole}_")
    known = METRICS[whole]
    title, long = f"{known.title} on {where}", f"{known.long} of {where}"
    return replace(known, key=key, title=title, long=long, column=where, heading=where)


def measured(stage: Stage, classes: Literal["base", "all"], *, held_out: bool = True) -> list[Metric]:
    """What a stage measures where these classes are trained, in the order of tables; without targets.

    `held_out` says of the stage `search` whether some base classes play "new".
    """
    return [
        one
        for one in METRICS.values()
        if one.stage == stage and one.classes == classes and (one.side == "trained" or stage == "test" or held_out)
    ]


def is_oracle(objective: str) -> bool:
    """Whether choosing by this metric looks at test images, and at new classes with them.

    It is what the field's papers mostly do, and says how well one could have chosen, not how well one can.
    Everything that is chosen so is called an oracle wherever it appears.
    """
    return find(objective).stage == "test"


class Column(NamedTuple):
    """A column of a table: its key in JSON and CSV, its heading, and the metric that it shows."""

    key: str
    title: str
    metric: str

    @classmethod
    def of(cls, metric: Metric) -> Column:
        """The column of a metric."""
        return cls(metric.column, metric.heading, metric.key)


def columns(task: Task, stage: Stage = "test") -> tuple[Column, ...]:
    """What the tables of a task show, from left to right: every accuracy that its configurations can have."""
    own = [Column.of(one) for one in _measured(task, stage) if one.column]
    targets = task.targets if stage == "test" else ()
    if targets and task.classes == "all":
        own = [one._replace(title="source") for one in own]
    if task.also:
        last = own[-1]
        if last.key == "h":
            own.append(Column.of(METRICS[H_OF_MEANS[stage]]))
        own += [Column.of(find(metric_on(last.metric, part.dataset))) for part in task.each]
    own += [Column.of(find(metric_on("test_acc", target))) for target in targets]
    mean = [Column.of(METRICS[f"test_acc_{TARGETS}"])] if set(targets) - {task.dataset} else []
    return (*own, *mean)


def _measured(task: Task, stage: Stage) -> list[Metric]:
    return measured(stage, task.classes, held_out=task.class_folds > 1)


def deciding(task: Task) -> Column:
    """The column that configurations are compared by on test images: H, accuracy, or the mean over the targets."""
    shown = {column.key: column for column in columns(task)}
    return shown["h"] if task.classes == "base" else shown.get(TARGETS, shown["acc"])


def objectives(task: Task) -> tuple[Metric, ...]:
    """The metrics of the protocol that a search may maximise alone, the recommended one first, the oracles last."""
    return tuple(one for stage in STAGES for one in _measured(task, stage) if one.alone)


STAGES: tuple[Stage, ...] = ("search", "test")


def check_objective(task: Task, objective: str | Sequence[str]) -> None:
    """InputError where the protocol of `task` does not measure the objective, or the several do not go together."""
    if not isinstance(objective, str):
        _check_several(task, objective)
        return
    fitting = [one.key for one in objectives(task)]
    if objective in fitting:
        return
    if task.classes == "all":
        rule = "where all classes are trained (task.classes), there is neither base nor H, but `val_acc`"
        other = '`classes = "base"`'
    elif find(objective).classes == "all":
        name = objective.replace("_", "_base_", 1)
        rule = f"where base classes are trained (task.classes), this is called `{name}`"
        other = '`classes = "all"`'
    else:
        key = "val_shots = 0" if task.val_shots == 0 else "folds = 1"
        rule = f"where no class is held out (task.{key}), there is no H to search by"
        other = "val_shots of 1 or more" if task.val_shots == 0 else "two folds or more"
    remedy = f'Set `objective = "{fitting[0]}"` in [search], or {other} in [task].'
    raise InputError(rule, key="search.objective", received=objective, remedy=remedy)


def _check_several(task: Task, names: Sequence[str]) -> None:
    chosen = [find(name) for name in names]
    rule = remedy = ""
    if task.classes == "all" or task.class_folds == 1:
        rule = "several objectives need base classes that are trained and others that are held out"
        first = objectives(task)[0].key
        remedy = f'Set `objective = "{first}"`, or `classes = "base"` and two folds or more in [task].'
    elif len(set(names)) != len(names):
        rule, remedy = "the objectives must be distinct", "Remove the repeated one."
    elif any(one.classes == "all" for one in chosen):
        rule, remedy = "base classes are trained, so there is no number of all", "Name val_base_acc and val_new_acc."
    elif len({one.stage for one in chosen}) > 1:
        rule = "all objectives must be of one stage"
        remedy = "Name only objectives that begin with val, or only objectives that begin with test."
    if rule:
        raise InputError(rule, key="search.objective", received=list(names), remedy=remedy)


def metric_on(metric: str, dataset: str) -> str:
    """What a metric is called in the record of several data sets where it is that of one."""
    return f"{metric}_{plain_name(dataset)}"
