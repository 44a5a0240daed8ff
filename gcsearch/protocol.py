"""What a task's protocol measures: metrics, the objectives that fit it, the columns of its tables.

| task             | stage `search`                         | stage `test`                              |
|------------------|----------------------------------------|-------------------------------------------|
| classes = "base" | `val_base_acc`, `val_new_acc`, `val_h` | `test_base_acc`, `test_new_acc`, `test_h` |
| with folds = 1   | `val_base_acc`                         | the same                                  |
| classes = "all"  | `val_acc`                              | `test_acc`                                |
| with targets     | nothing more                           | `test_acc_TARGET`..., `test_acc_targets`  |

The search also measures `val_base_margin`, with all classes `val_margin`: how far wrong images of the trained classes
are from right, see `gcsearch.metrics.lost_margin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gcsearch.config.metrics import METRICS, TARGETS, Metric, Stage, find, measured
from gcsearch.errors import InputError
from gcsearch.joint import h_of_means, metric_on
from gcsearch.schema import SearchSettings, Task


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
    """What the tables of a task show, from left to right: every accuracy that its settings can have."""
    own = [Column.of(one) for one in _measured(task, stage) if one.column]
    targets = task.targets if stage == "test" else ()
    if targets and task.classes == "all":
        own = [one._replace(title="source") for one in own]
    if task.also:
        last = own[-1]
        if last.key == "h":
            own.append(Column.of(METRICS[h_of_means("test" if stage == "test" else "val")]))
        own += [Column.of(find(metric_on(last.metric, part.dataset))) for part in task.each]
    own += [Column.of(find(metric_on("test_acc", target))) for target in targets]
    mean = [Column.of(METRICS[f"test_acc_{TARGETS}"])] if set(targets) - {task.dataset} else []
    return (*own, *mean)


def _measured(task: Task, stage: Stage) -> list[Metric]:
    return measured(stage, task.classes, held_out=task.folds > 1)


def deciding(task: Task) -> Column:
    """The column that settings are compared by on test images: H, accuracy, or the mean over the targets."""
    shown = {column.key: column for column in columns(task)}
    return shown["h"] if task.classes == "base" else shown.get(TARGETS, shown["acc"])


def objectives(task: Task) -> tuple[Metric, ...]:
    """The metrics of the protocol that a search may maximise alone, the recommended one first, the oracles last."""
    return tuple(one for stage in STAGES for one in _measured(task, stage) if one.alone)


STAGES: tuple[Stage, ...] = ("search", "test")


def check_objective(task: Task, settings: SearchSettings) -> None:
    """InputError where the protocol of `task` does not measure the objective, or the several do not go together."""
    if not isinstance(settings.objective, str):
        _check_several(task, settings.objectives)
        return
    objective, fitting = settings.objective, [one.key for one in objectives(task)]
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
        rule = "where nothing is held out (task.folds = 1), there is no H to search by"
        other = "two folds or more"
    remedy = f'Set `objective = "{fitting[0]}"` in [search], or {other} in [task].'
    raise InputError(rule, key="search.objective", received=objective, remedy=remedy)


def _check_several(task: Task, names: Sequence[str]) -> None:
    chosen = [find(name) for name in names]
    rule = remedy = ""
    if task.classes == "all" or task.folds == 1:
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
