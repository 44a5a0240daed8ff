"""The same methods over several data sets: averages in both conventions that the field's papers use.

    h            mean over the data sets of each one's harmonic mean
    h_of_means   harmonic mean of the mean base and the mean new accuracy

The two differ by up to a point, and papers seldom say which one they print.  AverageTable are taken seed by seed, so
that their spread over seeds is that of the whole benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

from gcsearch.config.metrics import H_OF_MEANS, METRICS, Column
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods.registry import with_tags
from gcsearch.results import documents
from gcsearch.results.comparison import (
    ORACLE,
    ComparedRow,
    Contrast,
    TaskGroup,
    commas,
    compared_table,
    leaders,
    titled,
    unique_label,
)
from gcsearch.results.differences import by_seed, verdict_of
from gcsearch.results.documents import Numbers
from gcsearch.results.tables.table import Cell, Entry, Table
from gcsearch.stats import harmonic_mean, spread

_H_OF_MEANS = Column.of(METRICS[H_OF_MEANS["test"]])

_DATA_SET = frozenset({"dataset", "root", "template"})


@dataclass(frozen=True)
class AverageRow:
    """One method over all data sets of a table, per seed. `rows` are what it is the average of, one of each.

    `sweeps` are those whose searches chose the configurations, none for a reference; `best` the columns without a
    better average; `against` how it does beside the average of the rows that those of the single tables are compared
    with.
    """

    title: str
    tags: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    values: dict[str, tuple[float, ...]]
    sweeps: tuple[str, ...] = ()
    best: frozenset[str] = frozenset()
    against: Contrast | None = None

    @property
    def name(self) -> str:
        """The title with its tags."""
        return with_tags(self.title, self.tags)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that the rows have, all the same."""
        return self.rows[0].record.seeds

    @property
    def records(self) -> list[TrialRecord]:
        """What it is the average of, data set by data set."""
        return [row.record for row in self.rows]

    def by_seed(self, column: Column) -> dict[int, float]:
        """The averages in a column by their seeds; empty where it has none."""
        return dict(zip(self.seeds, self.values[column.key], strict=False))

    def entry(self, table: AverageTable) -> Entry:
        """The row for files and DataFrames: of the task and the configuration what is the same on every data set."""
        first, *others = self.records
        same = all(one.config == first.config for one in others)
        labels = {
            **self.rows[0].entry(table.task).labels,
            "dataset": f"mean of {len(table.datasets)} data sets",
            "name": self.title,
            "tags": ";".join(self.tags),
            "searched_in": ";".join(self.sweeps),
            "configuration": first.config.describe() if same else "",
        }
        labels = {key: label for key, label in labels.items() if not key.startswith("against_")}
        return Entry(labels | (self.against.labels() if self.against else {}), self.seeds, self.values)

    def document(self) -> documents.Average:
        """As `gcsearch compare --json` prints it."""
        numbers = {key: Numbers.of(self.seeds, values) for key, values in self.values.items()}
        against = self.against.document() if self.against else None
        return documents.Average(name=self.name, oracle=ORACLE in self.tags, against=against, **numbers)


@dataclass(frozen=True)
class AverageTable:
    """The methods that were measured on each of several data sets, under one protocol, model and number of shots.

    `task` holds what the tasks of all data sets have in common. `left_out` says of those that are no part of the table
    why not, in words.
    """

    task: Mapping[str, Any]
    datasets: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[AverageRow, ...]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = tuple(row.document() for row in self.rows)
        return documents.Averages(average_over=self.datasets, rows=rows).dump()

    def entries(self) -> list[Entry]:
        """The rows for files and DataFrames."""
        return [row.entry(self) for row in self.rows]

    def table(self, others: Sequence[AverageTable], *, formal: bool = False) -> Table:
        """Each method over all data sets; where the methods differ in their seeds, each shows its own.

        `others` are all tables of averages that are shown together, this one among them; `formal` as in
        `TaskGroup.table`.
        """
        names = ", ".join(titled(name, formal=formal) for name in self.datasets)
        title = f"{'Mean' if formal else 'mean'} over {len(self.datasets)} data sets ({names}), mean ± sd over seeds"
        words = ["", "seeds"] if len({row.seeds for row in self.rows}) > 1 else [""]
        cells: list[list[Cell]] = [
            [row.name, commas(row.seeds)][: len(words)] + [spread(row.values.get(one.key, ())) for one in self.columns]
            for row in self.rows
        ]
        headings = [f"{len(one.datasets)} data sets {one.task['backbone']} {one.task['shots']} shots" for one in others]
        label = unique_label(headings, others.index(self), "mean over") if formal else ""
        best = [(row.best, row.against) for row in self.rows]
        return compared_table(title, words, self.columns, cells, best, label=label, formal=formal)


def averages(groups: Sequence[TaskGroup]) -> list[AverageTable]:
    """One table for all groups whose tasks differ in the data set alone; none where there is but one data set.

    References are averaged by their titles, champions by their methods: those of several searches are one method with
    one configuration per data set, as the published tables have them. A champion that is a reference counts as both.
    Either is in the table if each group has one row of it with the same seeds.
    """
    return [_table(some) for some in alike(groups) if len({group.task["dataset"] for group in some}) > 1]


def alike(groups: Sequence[TaskGroup]) -> list[list[TaskGroup]]:
    """The groups whose tasks differ in the data set alone, together."""
    found: dict[str, list[TaskGroup]] = {}
    for group in groups:
        shared = {key: value for key, value in group.task.items() if key not in _DATA_SET}
        found.setdefault(repr((sorted(shared.items()), group.columns)), []).append(group)
    return list(found.values())


def check_comparable(groups: Sequence[TaskGroup]) -> None:
    """InputError where a sweep has neither a task nor the protocol of an average in common with another."""
    parts = alike(groups)
    names = [
        tuple(dict.fromkeys(name for group in some for row in group.rows for name in row.sweeps)) for some in parts
    ]
    for index, alone in enumerate(names):
        if len(alone) > 1 or any(set(alone) <= set(other) for place, other in enumerate(names) if place != index):
            continue
        other = parts[0 if index else 1][0].task if len(parts) > 1 else {}
        mine = parts[index][0].task
        keys = [
            key for key in dict.fromkeys((*mine, *other)) if key not in _DATA_SET and mine.get(key) != other.get(key)
        ]
        apart = ", ".join(f"task.{key} {mine.get(key, 'unset')} and {other.get(key, 'unset')}" for key in keys)
        raise InputError(
            "sweeps are compared that have the same task, or the same one on several data sets",
            key="sweeps",
            received=f"{alone[0]}, which has nobody to be compared with" + (f": {apart}" if apart else ""),
            remedy=f"Name it alone: `gcsearch report {alone[0]}` draws it by itself.",
        )


class _Averaged(NamedTuple):
    """What has an average: a reference or what searches have chosen, by its title, tags and seeds."""

    searched: bool
    title: str
    tags: tuple[str, ...]
    seeds: tuple[int, ...]

    @classmethod
    def each(cls, row: ComparedRow) -> Iterator[_Averaged]:
        """What the row is a part of: two entries for a champion that is a reference."""
        if row.reference:
            yield cls(False, row.title, row.tags, row.record.seeds)
        if row.sweeps:
            yield cls(True, row.method, row.tags, row.record.seeds)


def _table(groups: Sequence[TaskGroup]) -> AverageTable:
    columns, found = groups[0].columns, _found(groups)
    both = (_H_OF_MEANS,) if any(column.key == "h" for column in columns) else ()
    references = {entry[1:3] for entry in found if not entry.searched}
    obstacles = {entry: _why_not(parts, groups) for entry, parts in found.items()}
    averaged = {entry[:3] for entry, why in obstacles.items() if not why}
    rows, left_out = [], dict[str, list[str]]()
    for entry, parts in found.items():
        title = f"{entry.title}, searched" if entry.searched and entry[1:3] in references else entry.title
        if not obstacles[entry]:
            rows.append(_average(entry._replace(title=title), [row for (row,) in parts], columns))
        elif entry.searched or entry[:3] not in averaged:  # a reference is there, with the seeds that all have
            left_out.setdefault(obstacles[entry], []).append(with_tags(title, entry.tags))
    sentences = (f"{', '.join(dict.fromkeys(names))} ({why})" for why, names in left_out.items())
    task = {key: value for key, value in groups[0].task.items() if all(one.task.get(key) == value for one in groups)}
    return AverageTable(
        task, tuple(_places(groups)), (*columns, *both), _compared(_marked(rows), groups), tuple(sentences)
    )


def _found(groups: Sequence[TaskGroup]) -> dict[_Averaged, list[list[ComparedRow]]]:
    """The rows of each group by what they are a part of, references first.

    A champion that everywhere is the reference of its own name, such as zero-shot CLIP, is that reference.
    """
    found: dict[_Averaged, list[list[ComparedRow]]] = {}
    for index, group in enumerate(groups):
        for row in group.rows:
            for entry in _Averaged.each(row):
                found.setdefault(entry, [[] for _ in groups])[index].append(row)
    ordered = sorted(found, key=lambda entry: entry.searched)
    twice = [one for one in ordered if one.searched and found[one] == found.get(one._replace(searched=False))]
    return {entry: found[entry] for entry in ordered if entry not in twice}


def _why_not(parts: Sequence[Sequence[ComparedRow]], groups: Sequence[TaskGroup]) -> str:
    """What keeps rows from having an average, in words; empty where nothing does."""
    by_place = list(zip(_places(groups), parts, strict=True))
    lacking = [place for place, rows in by_place if not rows]
    if lacking:
        seeds = next(row.record.seeds for rows in parts for row in rows)
        differ = any(other != seeds for group in groups for other in group.seeds)
        return f"not on {', '.join(lacking)}" + (f" with seeds {', '.join(map(str, seeds))}" if differ else "")
    several = [(place, rows) for place, rows in by_place if len(rows) > 1]
    if several:
        sweeps = [name for _, rows in several for row in rows for name in row.sweeps]
        searched = f", searched in {', '.join(sweeps)}" if sweeps else ""
        return f"several on {', '.join(place for place, _ in several)}{searched}"
    ends = [(place, row.record.outcome) for place, (row,) in by_place]
    return ", ".join(f"{end.value} on {place}" for place, end in ends if end is not Outcome.COMPLETE)


def _places(groups: Sequence[TaskGroup]) -> list[str]:
    return [str(group.task["dataset"]) for group in groups]


def _average(entry: _Averaged, rows: Sequence[ComparedRow], columns: Sequence[Column]) -> AverageRow:
    values = {column.key: _means([row.per_seed(column.key) for row in rows]) for column in columns}
    if "h" in values:
        pairs = zip(values["base"], values["new"], strict=False)
        values[_H_OF_MEANS.key] = tuple(harmonic_mean(base, new) for base, new in pairs) if values["h"] else ()
    sweeps = dict.fromkeys(name for row in rows for name in row.sweeps) if entry.searched else ()
    return AverageRow(entry.title, entry.tags, tuple(rows), values, tuple(sweeps))


def _marked(rows: Sequence[AverageRow]) -> tuple[AverageRow, ...]:
    means = [{key: spread(values).mean for key, values in row.values.items()} for row in rows]
    best = leaders(means, [row.tags for row in rows])
    return tuple(replace(row, best=columns) for row, columns in zip(rows, best, strict=True))


def _compared(rows: Sequence[AverageRow], groups: Sequence[TaskGroup]) -> tuple[AverageRow, ...]:
    """The averages beside that of the rows which those of each group are compared with; as they are without one."""
    others = tuple(group.other for group in groups)
    other = next((row for row in rows if row.rows == others), None)
    if other is None:
        return tuple(rows)
    column = next(one for one in groups[0].columns if one.metric == groups[0].deciding)

    def compared(row: AverageRow) -> AverageRow:
        if row is other:
            return row
        lead = by_seed(row.by_seed(column), other.by_seed(column))
        sure = verdict_of(row.records, other.records, lead)
        return replace(row, against=Contrast(other.name, column, lead, sure))

    return tuple(map(compared, rows))


def _means(per_set: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Seed by seed; nothing where a data set has no numbers."""
    return tuple(map(fmean, zip(*per_set, strict=True))) if all(per_set) else ()
