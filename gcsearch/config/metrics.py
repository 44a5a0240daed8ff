"""The one table of metrics: how each is called, its unit, where it is measured, and whether a search may maximise it.

Whatever ranks, prints, draws, compares or exports a metric reads it here; `gcsearch.protocol` says which of them a task
has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal, NamedTuple, get_args

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
    Metric("test_h_of_means", "test", "both", None, "H of means",
           "H of the mean accuracies over the data sets, test images", "h_of_means", "H of means"),
    Metric("test_acc", "test", "trained", "all", "accuracy",
           "accuracy on all classes, test images", "acc", "Acc"),
    Metric(f"test_acc_{TARGETS}", "test", "targets", None, "mean accuracy on the targets",
           "mean accuracy on the targets without the source, test images", TARGETS, "mean of targets"),
)  # fmt: skip

METRICS: dict[str, Metric] = {one.key: one for one in _TABLE}
"""By key; where a search may maximise one of several, the recommended one comes first and the oracles last."""


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
