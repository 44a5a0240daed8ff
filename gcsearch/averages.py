"""The same methods over several data sets: averages in both conventions that the field's papers use.

    h            mean over the data sets of each one's harmonic mean
    h_of_means   harmonic mean of the mean base and the mean new accuracy

The two differ by up to a point, and papers seldom say which one they print.  Averages are taken seed by seed, so
that their spread over seeds is that of the whole benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gcsearch import documents
from gcsearch.comparison import Group, Row
from gcsearch.documents import Numbers
from gcsearch.metrics import harmonic_mean
from gcsearch.protocol import Column

H_OF_MEANS = Column("h_of_means", "H of means", "")

_DATA_SET = frozenset({"dataset", "root", "template"})


@dataclass(frozen=True)
class Average:
    """One method over all data sets of a table, per seed."""

    name: str
    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]

    def document(self) -> documents.Average:
        """As `gcsearch compare --json` prints it."""
        return documents.Average(
            name=self.name, **{key: Numbers.of(self.seeds, values) for key, values in self.values.items()}
        )


@dataclass(frozen=True)
class Averages:
    """The methods that were measured on each of several data sets, under one protocol, model and number of shots."""

    datasets: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Average, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = tuple(row.document() for row in self.rows)
        return documents.Averages(average_over=self.datasets, rows=rows).dump()


def averages(groups: Sequence[Group]) -> list[Averages]:
    """One table for all groups whose tasks differ in the data set alone; none where there is but one data set.

    A method is in it if each group has one row of its name, all with the same seeds: the champions of several searches
    are one method with one setting per data set, as the published tables have them.
    """
    alike: dict[str, list[Group]] = {}
    for group in groups:
        shared = {key: value for key, value in group.task.items() if key not in _DATA_SET}
        alike.setdefault(repr((sorted(shared.items()), group.columns)), []).append(group)
    return [_table(some) for some in alike.values() if len({group.task["dataset"] for group in some}) > 1]


def _table(groups: Sequence[Group]) -> Averages:
    columns = groups[0].columns
    both = (H_OF_MEANS,) if any(column.key == "h" for column in columns) else ()
    rows = []
    for name in dict.fromkeys(row.name for row in groups[0].rows):
        found = [[row for row in group.rows if row.name == name] for group in groups]
        if all(len(some) == 1 for some in found) and len({some[0].record.seeds for some in found}) == 1:
            rows.append(_average(name, [some[0] for some in found], columns))
    return Averages(tuple(group.task["dataset"] for group in groups), (*columns, *both), tuple(rows))


def _average(name: str, rows: Sequence[Row], columns: Sequence[Column]) -> Average:
    values = {column.key: _means([row.per_seed(column.key) for row in rows]) for column in columns}
    if "h" in values:
        pairs = zip(values["base"], values["new"], strict=False)
        values[H_OF_MEANS.key] = tuple(harmonic_mean(base, new) for base, new in pairs) if values["h"] else ()
    return Average(name, rows[0].record.seeds, values)


def _means(per_set: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Seed by seed; nothing where a data set has no numbers."""
    return tuple(map(fmean, zip(*per_set, strict=True))) if all(per_set) else ()
