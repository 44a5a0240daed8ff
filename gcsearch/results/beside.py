"""Finished sweeps beside the published numbers of the same data set, backbone and shots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gcsearch.config.metrics import METRICS
from gcsearch.results import published as numbers
from gcsearch.results.comparison import ORACLE, ComparedRow, TaskGroup
from gcsearch.results.published import COLUMNS, Cell, Published, Result
from gcsearch.stats import finite, spread

_METRIC = {one.column: one for one in METRICS.values() if one.stage == "test"}


@dataclass(frozen=True)
class Line:
    """One published result, and one of our rows of the same method where there is any."""

    result: Result
    source: str
    cells: Mapping[str, Cell]
    row: ComparedRow | None = None

    def ours(self, column: str) -> tuple[float, ...]:
        """Our accuracies in per cent, one per seed; empty where there are none."""
        return self.row.record.metrics.get(_METRIC[column].key, ()) if self.row else ()

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
class Beside:
    """What was published for the task of a group, by method, each beside our rows of that method.

    `difference` says in a sentence what the published tables have in another way, where nothing trained fits;
    `caution` that the zero-shot prompt is not the field's.
    """

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    difference: str = ""
    caution: str = ""

    @property
    def once(self) -> list[Line]:
        """The lines with each published result once, however many rows of ours stand beside it."""
        pairs = zip(self.lines, (None, *self.lines), strict=False)
        return [line for line, before in pairs if before is None or line.result is not before.result]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "results": [line.to_dict() for line in self.lines],
            "difference": self.difference,
            "caution": self.caution,
        }


def beside(group: TaskGroup, published: Published | None = None) -> Beside:
    """The published results that fit the task of `group`, each once per row of ours of the same method.

    Rows with a tag (an ensemble, class-specific vectors) are something else than what was published, but for those that
    an oracle has chosen: that is what the field mostly does.
    """
    library = published or numbers.load()
    found = numbers.match(group.task, library)
    lines: list[Line] = []
    for result in found.results:
        cells = result.cells(group.task["dataset"])
        line = Line(result, library.source(result), cells)
        rows = [row for row in group.rows if row.record.config.method == result.method and set(row.tags) <= {ORACLE}]
        lines += [replace(line, row=row) for row in rows] or [line]
    caution = _caution(group.task) if lines else ""
    return Beside(COLUMNS[numbers.protocol_of(group.task)], tuple(lines), found.difference, caution)


def _caution(task: Mapping[str, Any]) -> str:
    """A sentence where zero-shot CLIP, and what is guided by it, had another template than the field's here."""
    from gcsearch.data.datasets import template_of  # late: it brings numpy, which a comparison alone does not need

    theirs = template_of(task["dataset"])
    if task["template"] == theirs:
        return ""
    return f'zero-shot CLIP and what is guided by it saw "{task["template"]}" here and "{theirs}" there'
