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

from typing import NamedTuple

from gcsearch.errors import InputError
from gcsearch.joint import h_of_means, metric_on
from gcsearch.schema import Objective, SearchSettings, Stage, Task, is_oracle, plain_name

TARGETS = "targets"
"""The column, and behind `test_acc_` the metric, of the mean over the targets without the source."""


OF_ALL = ("val_acc", "val_margin", "test_acc")
"""The objectives where all classes are trained."""


class Column(NamedTuple):
    """A column of a table: its key in JSON and CSV, its heading, and the metric that it shows."""

    key: str
    title: str
    metric: str


def columns(task: Task, stage: Stage = "test") -> tuple[Column, ...]:
    """What the tables of a task show, from left to right: every accuracy that its settings can have."""
    prefix = "test" if stage == "test" else "val"
    base = Column("base", "base", f"{prefix}_base_acc")
    new = Column("new", "new", f"{prefix}_new_acc"), Column("h", "H", f"{prefix}_h")
    targets = task.targets if stage == "test" else ()
    if task.classes == "all":
        own: tuple[Column, ...] = (Column("acc", "source" if targets else "Acc", f"{prefix}_acc"),)
    else:
        own = (base,) if stage == "search" and task.folds == 1 else (base, *new)
    away = [plain_name(target) for target in targets]
    mean = [Column(TARGETS, "mean of targets", f"test_acc_{TARGETS}")] if set(targets) - {task.dataset} else []
    if task.also:
        of_means = (Column("h_of_means", "H of means", h_of_means(prefix)),) if own[-1].key == "h" else ()
        names = [part.dataset for part in task.each]
        own = (*own, *of_means, *(Column(plain_name(n), plain_name(n), metric_on(own[-1].metric, n)) for n in names))
    return (*own, *(Column(name, name, f"test_acc_{name}") for name in away), *mean)


def deciding(task: Task) -> Column:
    """The column that settings are compared by on test images: H, accuracy, or the mean over the targets."""
    shown = {column.key: column for column in columns(task)}
    return shown["h"] if task.classes == "base" else shown.get(TARGETS, shown["acc"])


def objectives(task: Task) -> tuple[Objective, ...]:
    """The objectives that the protocol measures, the recommended one first, the oracles last."""
    if task.classes == "all":
        return ("val_acc", "val_margin", "test_acc")
    held_out: tuple[Objective, ...] = () if task.folds == 1 else ("val_h",)
    return ("val_base_margin", "val_base_acc", *held_out, "test_h", "test_base_acc")


def check_objective(task: Task, settings: SearchSettings) -> None:
    """InputError where the protocol of `task` does not measure the objective, or the several do not go together."""
    if not isinstance(settings.objective, str):
        _check_several(task, settings.objectives)
        return
    objective, fitting = settings.objective, objectives(task)
    if objective in fitting:
        return
    if task.classes == "all":
        rule = "where all classes are trained (task.classes), there is neither base nor H, but `val_acc`"
        other = '`classes = "base"`'
    elif objective in OF_ALL:
        name = objective.replace("_", "_base_", 1)
        rule = f"where base classes are trained (task.classes), this is called `{name}`"
        other = '`classes = "all"`'
    else:
        rule = "where nothing is held out (task.folds = 1), there is no H to search by"
        other = "two folds or more"
    remedy = f'Set `objective = "{fitting[0]}"` in [search], or {other} in [task].'
    raise InputError(rule, key="search.objective", received=objective, remedy=remedy)


def _check_several(task: Task, names: tuple[str, ...]) -> None:
    measured = objectives(task)
    fitting = [name for name in measured if "test" not in name]
    rule = remedy = ""
    if "val_h" not in measured:
        rule = "several objectives need base classes that are trained and others that are held out"
        remedy = f'Set `objective = "{fitting[0]}"`, or `classes = "base"` and two folds or more in [task].'
    elif len(set(names)) != len(names):
        rule, remedy = "the objectives must be distinct", "Remove the repeated one."
    elif any(name in OF_ALL for name in names):
        rule, remedy = "base classes are trained, so there is no number of all", "Name val_base_acc and val_new_acc."
    elif len({is_oracle(name) for name in names}) > 1:
        rule, remedy = "all objectives must be of one stage", "Name such as begin with val, or such as begin with test."
    if rule:
        raise InputError(rule, key="search.objective", received=list(names), remedy=remedy)
