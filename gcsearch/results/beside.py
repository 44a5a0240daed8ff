"""Finished sweeps beside the published numbers of the same data set, backbone and shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gcsearch.config.metrics import METRICS
from gcsearch.results import published as library
from gcsearch.results.comparison import ORACLE, ComparedRow, TaskGroup, heading, titled, unique_label
from gcsearch.results.published import COLUMNS, Published, PublishedNumber, Result
from gcsearch.results.tables.table import Cell, Entry, Heading, Table
from gcsearch.stats import finite, number, spread

_METRIC = {one.column: one for one in METRICS.values() if one.stage == "test"}


@dataclass(frozen=True)
class PublishedRow:
    """One published result, and one of our rows of the same method where there is any."""

    result: Result
    source: str
    cells: Mapping[str, PublishedNumber]
    row: ComparedRow | None = None

    def ours(self, column: str) -> tuple[float, ...]:
        """Our accuracies in per cent, one per seed; empty where there are none."""
        return self.row.record.metrics.get(_METRIC[column].key, ()) if self.row else ()

    def entry(self, task: Mapping[str, Any]) -> Entry:
        """The published result for a CSV file: of the task only what fits, and no numbers by seed."""
        labels = {
            "dataset": str(task["dataset"]),
            "backbone": self.result.backbone,
            "shots": str(self.result.shots or ""),
            "name": self.result.title,
            **{f"{column}_mean": f"{cell.value:.2f}" for column, cell in self.cells.items()},
            "published_in": self.source,
            "recalled": ";".join(column for column, cell in self.cells.items() if cell.certainty == "recalled"),
        }
        return Entry(labels, (), {})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what does not exist is null."""
        means = {column: finite(spread(self.ours(column)).mean) for column in self.cells}
        return {
            "method": self.result.method,
            "name": self.result.title,
            "source": self.source,
            "read_in": self.result.read_in,
            "seeds": self.result.seeds,
            "note": self.result.note,
            **{column: cell._asdict() for column, cell in self.cells.items()},
            "ours": {"name": self.row.name, **means} if self.row else None,
        }


@dataclass(frozen=True)
class PublishedComparison:
    """What was published for the task of a group, by method, each beside our rows of that method.

    `difference` says in a sentence what the published tables have in another way, where nothing trained fits;
    `caution` that the zero-shot prompt is not the field's.
    """

    columns: tuple[str, ...]
    lines: tuple[PublishedRow, ...]
    difference: str = ""
    caution: str = ""

    @property
    def once(self) -> list[PublishedRow]:
        """The lines with each published result once, however many rows of ours stand beside it."""
        pairs = zip(self.lines, (None, *self.lines), strict=False)
        return [line for line, before in pairs if before is None or line.result is not before.result]

    def table(self, group: TaskGroup, groups: Sequence[TaskGroup], *, formal: bool = False) -> Table:
        """Published numbers and ours in pairs of columns; a question mark behind what is only recalled.

        It stands below the table of `group`, one of `groups`; `formal` as in `TaskGroup.table`.
        """
        headings = [Heading(word, words=True) for word in ("", "published in", "beside")]
        for column in self.columns:
            headings += [Heading("H" if column == "h" else column), Heading("ours")]
        rows = []
        for line in self.lines:
            cells: list[Cell] = [line.result.title, line.source, line.row.name if line.row else "-"]
            for column in self.columns:
                value, certainty = line.cells[column]
                cells += [f"{number(value)}{'?' * (certainty == 'recalled')}", spread(line.ours(column))]
            rows.append(cells)
        recalled = any(cell.certainty == "recalled" for line in self.lines for cell in line.cells.values())
        notes = ["? recalled and not found in a text: provisional"] if recalled else []
        notes += [f"Mind: {self.caution}."] if self.caution else []
        notes += [f"Not beside published numbers: {self.difference}."] if self.difference else []
        title, label = "published accuracy in %, and ours", ""
        if formal:
            named = heading(group, groups, titled(str(group.task["dataset"]), formal=True))
            title = f"Published accuracy in %, and ours: {named}"
            label = unique_label([heading(one, groups) for one in groups], groups.index(group), "published")
        return Table(title, headings, rows, label=label, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "results": [line.to_dict() for line in self.lines],
            "difference": self.difference,
            "caution": self.caution,
        }


def beside(group: TaskGroup, published: Published | None = None) -> PublishedComparison:
    """The published results that fit the task of `group`, each once per row of ours of the same method.

    Rows with a tag (an ensemble, class-specific vectors) are something else than what was published, but for those that
    an oracle has chosen: that is what the field mostly does.
    """
    known = published or library.load()
    found = library.match(group.task, known)
    lines: list[PublishedRow] = []
    for result in found.results:
        cells = result.cells(group.task["dataset"])
        line = PublishedRow(result, known.source(result), cells)
        rows = [row for row in group.rows if row.record.config.method == result.method and set(row.tags) <= {ORACLE}]
        lines += [replace(line, row=row) for row in rows] or [line]
    caution = _caution(group.task) if lines else ""
    return PublishedComparison(COLUMNS[library.protocol_of(group.task)], tuple(lines), found.difference, caution)


def _caution(task: Mapping[str, Any]) -> str:
    """A sentence where zero-shot CLIP, and what is guided by it, had another template than the field's here."""
    from gcsearch.data.datasets import template_of  # late: it brings numpy, which a comparison alone does not need

    theirs = template_of(task["dataset"])
    if task["template"] == theirs:
        return ""
    return f'zero-shot CLIP and what is guided by it saw "{task["template"]}" here and "{theirs}" there'
