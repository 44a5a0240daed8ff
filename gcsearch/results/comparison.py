"""Finished sweeps to one table: what the protocol measures of every method on the same task, each configuration once.

Reads confirmed records only: test images, all classes of the protocol trained.  Rows of one group were measured on the
same data with the same frozen model; only the seeds may differ, and then every row says which were its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gcsearch.config import metrics
from gcsearch.config.metrics import Column
from gcsearch.config.task import Task
from gcsearch.config.trials import Outcome, Role, TrialConfig, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods import registry
from gcsearch.methods.registry import title_and_tags, with_tags
from gcsearch.results import documents
from gcsearch.results.differences import Difference, Verdict, paired, verdict
from gcsearch.results.documents import Numbers, facts
from gcsearch.results.tables import latex
from gcsearch.results.tables.table import Cell, Entry, Heading, Table
from gcsearch.results.tables.wording import named
from gcsearch.stats import Spread, p_value, spread

BASE_TO_NEW = metrics.columns(Task())
"""The columns of the usual protocol: base, new, H."""

ORACLE = "oracle"
"""The tag of a champion whose search looked at test images."""

_APART = ("transductive", ORACLE)
"""Tags of rows that have seen what others have not: the names of the new classes, or test images."""

_NOT_SHARED = frozenset({"val_shots", "folds", "seeds", "other_names"})
"""Keys of the task that decide what a sweep chooses, not what test images say of it, and one that is NFL's alone."""

_Key = tuple[str, tuple[int, ...], str | None, bool]


@dataclass(frozen=True)
class Finished:
    """What a finished sweep brings to the table: its champion and the configurations confirmed beside it.

    `oracle` says that the champion was chosen by test images; what stands beside it was not.
    """

    name: str
    task: Task
    champion: TrialRecord
    references: Sequence[TrialRecord]
    oracle: bool = False


class Contrast(NamedTuple):
    """How a row does beside another one: named, by which metric; `lead` is None where they have no seed in common."""

    name: str
    column: Column
    lead: Difference | None
    verdict: Verdict

    def document(self) -> documents.Against | None:
        """As `gcsearch compare --json` prints it."""
        if self.lead is None:
            return None
        numbers = self.lead.to_dict() | {"verdict": self.verdict.value}
        return documents.Against(name=self.name, metric=self.column.metric, **numbers)

    def labels(self) -> dict[str, Cell]:
        """As labels of an entry, none without a common seed."""
        if self.lead is None:
            return {}
        numbers = {"mean": self.lead.mean, "low": self.lead.low, "high": self.lead.high, "p": self.lead.p}
        labels: dict[str, Cell] = {f"against_{part}": value for part, value in numbers.items()}
        return {"against_name": self.name, "against_metric": self.column.metric, **labels}

    @staticmethod
    def cells(against: Contrast | None) -> list[Cell]:
        """The difference and Wilcoxon's p as two cells of a table, which the row that all are compared with has not."""
        if against is None:
            return [None, None]
        if against.lead is None:
            return ["no common seed", None]
        return [against.lead, p_value(against.lead.p)]


@dataclass(frozen=True)
class ComparedRow:
    """One confirmed configuration. `sweeps` are those whose search chose it; `best` its columns without a better row.

    `reference` says whether it was confirmed beside a champion; a row can be both, and then has the reference's title.
    `against` is how it does beside the row that all are compared with; None for that one, and where none was asked for.
    """

    title: str
    tags: tuple[str, ...]
    record: TrialRecord
    sweeps: tuple[str, ...] = ()
    reference: bool = False
    best: frozenset[str] = frozenset()
    against: Contrast | None = None
    columns: tuple[Column, ...] = BASE_TO_NEW

    @property
    def name(self) -> str:
        """The title with its tags, and with how the configuration ended where that was not well."""
        broken = self.record.outcome is not Outcome.COMPLETE
        return with_tags(self.title, self.tags) + (f" ({self.record.outcome.value})" if broken else "")

    @property
    def oracle(self) -> bool:
        """Whether the search that chose it looked at test images."""
        return ORACLE in self.tags

    @property
    def method(self) -> str:
        """The title of its method: what a champion is called, whatever title the row has as a reference."""
        return title_and_tags(self.record.config)[0]

    def per_seed(self, column: str) -> tuple[float, ...]:
        """Test accuracies in per cent in the order of the record's seeds; empty where it has none."""
        (metric,) = (one.metric for one in self.columns if one.key == column)
        return self.record.metrics.get(metric, ())

    def values(self, column: str) -> Spread:
        """Mean and deviation over seeds."""
        return spread(self.per_seed(column))

    def entry(self, task: Mapping[str, Any]) -> Entry:
        """The row with the task that it is a row of, for files and DataFrames."""
        labels = {
            **{key: _field(value) for key, value in task.items()},
            "name": self.title,
            "tags": ";".join(self.tags),
            "searched_in": ";".join(self.sweeps),
            "seeds": ";".join(map(str, self.record.seeds)),
            "outcome": self.record.outcome.value,
            "configuration": self.record.config.describe(),
            **(self.against.labels() if self.against else {}),
        }
        return Entry(labels, self.record.seeds, {one.key: self.per_seed(one.key) for one in self.columns})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; numbers that do not exist are null."""
        return self.document().dump()

    def document(self) -> documents.Compared:
        """The row as `gcsearch compare --json` prints it."""
        return documents.Compared(
            **facts(self.record) | {"name": self.title, "tags": self.tags},
            sweeps=self.sweeps,
            oracle=self.oracle,
            **{one.key: Numbers.of(self.record.seeds, self.per_seed(one.key)) for one in self.columns},
            best=tuple(one.key for one in self.columns if one.key in self.best),
            against=self.against.document() if self.against else None,
        )


@dataclass(frozen=True)
class TaskGroup:
    """All rows of one task. `task` holds the keys that test numbers depend on.

    `other` is the row that all are compared with; None where none was asked for, or the task has no such row.
    """

    task: Mapping[str, Any]
    rows: tuple[ComparedRow, ...]
    columns: tuple[Column, ...] = BASE_TO_NEW
    deciding: str = "test_h"
    """The metric that configurations are compared by."""
    other: ComparedRow | None = None

    @property
    def seeds(self) -> list[tuple[int, ...]]:
        """The different lists of seeds among the rows; one where every row has the same."""
        return list(dict.fromkeys(row.record.seeds for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """What `gcsearch compare --json` prints for a task, see `gcsearch.results.documents`."""
        return documents.Group(task=dict(self.task), rows=tuple(row.document() for row in self.rows)).dump()

    def entries(self) -> list[Entry]:
        """The rows for files and DataFrames."""
        return [row.entry(self.task) for row in self.rows]

    def table(self, groups: Sequence[TaskGroup], *, formal: bool = False) -> Table:
        """The rows for people; where they differ in their seeds, each shows its own. `groups` are all that are shown.

        `formal` is for a paper: proper names, a label, and notes below in place of words above.
        """
        differ = len(self.seeds) > 1
        seeds = " or ".join(map(commas, self.seeds))
        named = heading(self, groups, titled(str(self.task["dataset"]), formal=formal))
        title = f"{named}: accuracy on test images in %, mean ± sd over seeds {seeds}"
        words = ["", "searched in", "seeds"] if differ else ["", "searched in"]
        cells: list[list[Cell]] = [
            [row.name, ", ".join(row.sweeps), commas(row.record.seeds)][: len(words)]
            + [row.values(column.key) for column in self.columns]
            for row in self.rows
        ]
        label = unique_label([heading(one, groups) for one in groups], groups.index(self)) if formal else ""
        best = [(row.best, row.against) for row in self.rows]
        return compared_table(title, words, self.columns, cells, best, label=label, formal=formal)


def compare(sweeps: Iterable[Finished]) -> list[TaskGroup]:
    """One group per task, in the order of the sweeps; in it the references first, then the champions.

    The same configuration with the same seeds is one row, however many sweeps confirmed it: under a reference's
    title where one named it so, with the names of all sweeps that chose it. What an oracle chose is a row apart.
    """
    tasks: dict[str, dict[str, Any]] = {}
    shown: dict[str, tuple[tuple[Column, ...], str]] = {}
    found: dict[str, dict[_Key, ComparedRow]] = {}
    ordered = list(sweeps)
    for chosen in (False, True):
        for sweep in ordered:
            task = {key: value for key, value in sweep.task.to_dict().items() if key not in _NOT_SHARED}
            key = repr(sorted(task.items()))
            tasks.setdefault(key, task)
            shown.setdefault(key, (metrics.columns(sweep.task), metrics.deciding(sweep.task).metric))
            for record in [sweep.champion] if chosen else sweep.references:
                _enter(found.setdefault(key, {}), record, sweep, chosen=chosen)
    return [TaskGroup(task, _marked(list(found[key].values())), *shown[key]) for key, task in tasks.items()]


def _enter(rows: dict[_Key, ComparedRow], record: TrialRecord, sweep: Finished, *, chosen: bool) -> None:
    """Add the record, or to the row of the same configuration and seeds the sweep that chose it."""
    names = sweep.task.other_names if "nfl" in record.config.method.split("+") else None
    oracle = chosen and sweep.oracle
    key = (_identity(record.config), record.seeds, names, oracle)
    title, tags = title_and_tags(record.config)
    if names:
        tags = (*tags, f"names of {Path(names).name}")
    if oracle:
        tags = (*tags, ORACLE)
    title = title if chosen else record.label or title
    known = rows.get(key) or ComparedRow(title, tags, record, columns=metrics.columns(sweep.task))
    better = known.record.outcome is not Outcome.COMPLETE and record.outcome is Outcome.COMPLETE
    chosen_by = (*known.sweeps, sweep.name) if chosen and sweep.name not in known.sweeps else known.sweeps
    named = known.reference or not chosen
    rows[key] = replace(known, record=record if better else known.record, sweeps=chosen_by, reference=named)


def _identity(config: TrialConfig) -> str:
    """The digest with every default written out, also those that an older gcsearch did not have yet."""
    try:
        return registry.complete(config).digest
    except InputError:
        return config.digest


def _marked(rows: Sequence[ComparedRow]) -> tuple[ComparedRow, ...]:
    """The rows with the best of each column noted."""
    means = [{column.key: row.values(column.key).mean for column in row.columns} for row in rows]
    best = leaders(means, [row.tags for row in rows])
    return tuple(replace(row, best=columns) for row, columns in zip(rows, best, strict=True))


def leaders(means: Sequence[Mapping[str, float]], tags: Sequence[Sequence[str]]) -> list[frozenset[str]]:
    """Of each row the columns in which none is better, equals in the second decimal all alike.

    A row that has seen what others have not, by its tags, competes only where all have.
    """
    apart = [tag for tag in _APART if not all(tag in own for own in tags)]
    fair = [{} if set(apart) & set(own) else row for row, own in zip(means, tags, strict=True)]
    finite = [{key: round(mean, 2) for key, mean in row.items() if math.isfinite(mean)} for row in fair]
    top = {key: max(row[key] for row in finite if key in row) for row in finite for key in row}
    return [frozenset(key for key, mean in row.items() if mean == top[key]) for row in finite]


def against(groups: Sequence[TaskGroup], name: str) -> list[TaskGroup]:
    """The groups with every row compared, seed by seed, with the one called `name`.

    `name` is a row's name or the sweep that chose it, else its title without tags, else its method (`coop`). A group
    without such a row stays as it is.

    Raises:
        InputError: no group has such a row, or one has several.
    """
    found = [_compared(group, name) for group in groups]
    if not any(row.against for group in found for row in group.rows):
        known = dict.fromkeys(row.name for group in groups for row in group.rows)
        raise InputError(
            "configurations are compared with one that is in the table",
            key="--against",
            received=name,
            remedy=f"There are: {', '.join(known)}; a method's or a sweep's name serves too.",
        )
    return found


def _compared(group: TaskGroup, name: str) -> TaskGroup:
    plain = name.casefold()
    chosen = [row for row in group.rows if plain in map(str.casefold, (row.name, *row.sweeps))]
    chosen = chosen or [row for row in group.rows if plain == row.title.casefold()]
    chosen = chosen or [row for row in group.rows if plain == row.record.config.method]
    if len(chosen) > 1:
        names = ", ".join(dict.fromkeys(row.name for row in chosen))
        raise InputError(
            "several rows are called so", key="--against", received=name, remedy=f"Name one by its title: {names}."
        )
    if not chosen:
        return group
    (other,) = chosen
    column = next(one for one in group.columns if one.metric == group.deciding)

    def compared(row: ComparedRow) -> ComparedRow:
        if row is other:
            return row
        lead = paired(row.record, other.record, column.metric)
        sure = verdict(row.record, other.record, lead)
        return replace(row, against=Contrast(other.name, column, lead, sure))

    return replace(group, rows=tuple(map(compared, group.rows)), other=other)


# --- Tables ---------------------------------------------------------------------------------------------


def compared_table(
    title: str,
    words: Sequence[str],
    columns: Sequence[Column],
    cells: Sequence[list[Cell]],
    rows: Sequence[tuple[frozenset[str], Contrast | None]],
    *,
    label: str,
    formal: bool,
) -> Table:
    """A table with the best of each column bold, and behind it the differences where `rows` have any.

    `rows` say of each row which of its columns have no better one, and how it does beside another row.
    """
    keys = [*words, *(column.key for column in columns)]
    headings = [*(Heading(word, words=True) for word in words)]
    headings += [Heading(titled(column.title, formal=formal)) for column in columns]
    strong = {(line, keys.index(key)) for line, (best, _) in enumerate(rows) for key in best}
    notes: list[str] = []
    other = next((against for _, against in rows if against), None)
    if other:
        headings += [Heading(f"{other.column.title} beside {other.name}"), Heading("p")]
        cells = [[*line, *Contrast.cells(against)] for line, (_, against) in zip(cells, rows, strict=True)]
        if formal:
            notes.append(
                f"* The 95 % interval of the difference to {other.name}, paired by seed, leaves out zero. "
                "p is that of Wilcoxon's signed-rank test and does not decide the star."
            )
        else:
            title += "; * the 95 % interval of the difference leaves out zero"
    return Table(title, headings, cells, frozenset(strong), label=label, notes=notes)


def results_table(records: Sequence[TrialRecord], task: Task, title: str = "", *, epochs: bool = False) -> Table:
    """What the protocol of `task` measures of records of one stage, with how long each ran if `epochs`."""
    shown = metrics.columns(task, records[0].stage if records else "test")
    headings = [Heading("", words=True), *(Heading(column.title) for column in shown)]
    rows: list[list[Cell]] = [
        [named(record), *(spread(record.metrics.get(column.metric, ())) for column in shown)] for record in records
    ]
    if epochs:
        headings.append(Heading("epochs"))
        rows = [[*row, str(record.epochs or "-")] for row, record in zip(rows, records, strict=True)]
    marked = {index for index, record in enumerate(records) if record.role is Role.CHAMPION}
    return Table(title, headings, rows, marked=frozenset(marked))


def commas(seeds: Iterable[int]) -> str:
    """`4, 5, 6`."""
    return ", ".join(map(str, seeds))


def titled(dataset: str, *, formal: bool) -> str:
    """The data set's name in a table: its key, in a paper its proper name."""
    if not formal:
        return dataset
    from gcsearch.data.datasets import title_of  # late: it brings numpy, which a comparison alone does not need

    return title_of(dataset)


def unique_label(headings: Sequence[str], index: int, *words: str) -> str:
    """The LaTeX label of the table at `index`, which no other of these tables has."""
    labels = [latex.label(*words, one) for one in headings]
    twice = labels.count(labels[index]) > 1
    return f"{labels[index]}-{index + 1}" if twice else labels[index]


def _field(value: object) -> str:
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


# --- Names ----------------------------------------------------------------------------------------------


def heading(group: TaskGroup, groups: Sequence[TaskGroup], dataset: str = "") -> str:
    """What all rows of the group share: data set, model, shots, and further keys where the groups differ in them.

    `dataset` is how the data set is called, where that is not its key.
    """
    first = ("dataset", "backbone", "shots", "classes", "targets")  # the columns tell the last two apart
    words = [dataset or str(group.task["dataset"]), str(group.task["backbone"]), f"{group.task['shots']} shots"]
    words += ["all classes"] if group.task.get("classes") == "all" else []
    further = dict.fromkeys(key for other in groups for key in other.task if key not in first)
    differing = [key for key in further if any(other.task.get(key) != group.task.get(key) for other in groups)]
    return ", ".join([*words, *(f"{key} {group.task.get(key, 'unset')}" for key in differing)])
