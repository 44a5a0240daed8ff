"""Rows of results, the one long-form table of their values, and tables whose cells are values.

An `Entry` is a row with its values over seeds. `to_frame` lays entries out in long form, a line for each value;
`Table.of` lays them out for people. A cell stays a value until a form writes it with `written`, so that the terminal,
Markdown, LaTeX and HTML show the same digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gcsearch.config.trials import TrialConfig, TrialRecord
from gcsearch.results.differences import Difference
from gcsearch.stats import Spread, number, plus_minus, spread

if TYPE_CHECKING:
    from pandas import DataFrame


class Remark(NamedTuple):
    """Words, and the reason behind them, which only a page with room for it shows."""

    text: str
    reason: str


Cell = str | int | float | Spread | Difference | Remark | None
"""What a cell holds; None for an empty one."""


def written(cell: Cell) -> str:
    """A cell in words: `83.10 ± 0.82`, `+1.50 [+0.20, +2.80]*`, the star where the interval leaves out zero."""
    match cell:
        case Spread():
            return plus_minus(cell)
        case Difference():
            return _lead(cell)
        case Remark():
            return cell.text
        case float():
            return number(cell)
        case None:
            return ""
    return str(cell)


def _lead(lead: Difference) -> str:
    mean, low, high = (number(value, signed=True) for value in (lead.mean, lead.low, lead.high))
    if math.isnan(lead.low):
        return f"{mean} (one seed)"
    return f"{mean} [{low}, {high}]{'*' if lead.distinguishable else ''}"


class Heading(NamedTuple):
    """A column: its title, the key of its cells in an `Entry`, and what it holds.

    Words go to the left and numbers to the right; what `wraps` may go on in the next line of a narrow terminal.
    """

    title: str
    key: str = ""
    words: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Entry:
    """A row of results: the labels that say what it is, and the values of its metrics, one for each of its seeds."""

    labels: Mapping[str, Cell]
    seeds: Sequence[int]
    metrics: Mapping[str, Sequence[float]]

    def cell(self, key: str) -> Cell:
        """The label of this key, else the metric's mean and deviation over seeds."""
        return self.labels[key] if key in self.labels else spread(self.metrics.get(key, ()))


def parameters(config: TrialConfig) -> dict[str, Cell]:
    """A configuration as labels: the method, and each hyperparameter as `params_NAME`, as Optuna calls it."""
    return {"method": config.method, **{f"params_{name}": value for name, value in config.hyperparameters.items()}}


def record_entry(record: TrialRecord) -> Entry:
    """A record for a DataFrame."""
    labels: dict[str, Cell] = {"stage": record.stage, "role": record.role.value, "trial": record.number}
    labels |= {"label": record.label, "outcome": record.outcome.value, **parameters(record.config)}
    return Entry(labels, record.seeds, record.metrics)


def to_frame(entries: Iterable[Entry]) -> DataFrame:
    """The long-form table: a line for each row, metric and seed, with the labels of the row and the `value`.

    A row without values, such as a trial that failed before its first epoch, has no line.
    """
    import pandas as pd  # late: it takes longer to import than a table on the terminal takes to print

    rows = list(entries)
    labels = list(dict.fromkeys(key for row in rows for key in row.labels))
    lines = [
        [*(row.labels.get(key) for key in labels), metric, seed, value]
        for row in rows
        for metric, values in row.metrics.items()
        for seed, value in zip(row.seeds, values, strict=False)
    ]
    return pd.DataFrame(lines, columns=[*labels, "metric", "seed", "value"])


@dataclass(frozen=True)
class Table:
    """Rows by columns.

    `strong` are the cells, by row and column, that are bold, `marked` the rows that stand out as a whole. `label` is
    what a LaTeX text refers to it by, `notes` are sentences below it there.
    """

    title: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    strong: frozenset[tuple[int, int]] = frozenset()
    marked: frozenset[int] = frozenset()
    label: str = ""
    notes: Sequence[str] = field(default=())

    @classmethod
    def of(cls, title: str, headings: Sequence[Heading], entries: Iterable[Entry]) -> Table:
        """The table of `entries` with a column for each of `headings`, by its key."""
        return cls(title, headings, [[entry.cell(one.key) for one in headings] for entry in entries])

    @property
    def cells(self) -> list[list[str]]:
        """The cells in words."""
        return [[written(cell) for cell in row] for row in self.rows]
