"""All methods of finished sweeps in one place: a table for each task, averages over data sets, published numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gcsearch.results.averages import AverageTable, averages
from gcsearch.results.beside import PublishedComparison, beside
from gcsearch.results.comparison import Finished, TaskGroup, against, compare
from gcsearch.results.tables import spreadsheet
from gcsearch.results.tables.table import Entry, Table, to_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Comparison:
    """What `gcsearch compare` prints; a notebook shows it as tables.

    `published` has what others have published for each group, and is empty where that was not asked for.
    """

    groups: tuple[TaskGroup, ...]
    averages: tuple[AverageTable, ...]
    published: tuple[PublishedComparison, ...] = field(default=())

    @classmethod
    def of(cls, sweeps: Iterable[Finished], *, against_row: str = "", published: bool = False) -> Comparison:
        """The comparison of finished sweeps, their rows compared with the one called `against_row`.

        Raises:
            InputError: there is no such row, or there are several.
        """
        groups = compare(sweeps)
        groups = against(groups, against_row) if against_row else groups
        return cls(tuple(groups), tuple(averages(groups)), tuple(map(beside, groups)) if published else ())

    @property
    def left_out(self) -> list[str]:
        """The rows that have no average, with the reason."""
        return list(dict.fromkeys(why for table in self.averages for why in table.left_out))

    def tables(self, *, formal: bool = False) -> list[Table]:
        """The tables in the order in which they are shown; `formal` as in `TaskGroup.table`."""
        shown = []
        for index, group in enumerate(self.groups):
            shown.append(group.table(self.groups, formal=formal))
            if self.published:
                shown.append(self.published[index].table(group, self.groups, formal=formal))
        averaged = [table for table in self.averages if table.rows]
        return [*shown, *(table.table(averaged, formal=formal) for table in averaged)]

    def documents(self) -> list[dict[str, Any]]:
        """What `gcsearch compare --json` prints, see `gcsearch.results.documents`."""
        groups = [group.to_dict() for group in self.groups]
        if self.published:
            groups = [one | {"published": found.to_dict()} for one, found in zip(groups, self.published, strict=True)]
        return [*groups, *(table.to_dict() for table in self.averages)]

    def entries(self) -> list[Entry]:
        """Our rows, then the averages."""
        ours = [entry for group in self.groups for entry in group.entries()]
        return ours + [entry for table in self.averages for entry in table.entries()]

    def to_csv(self) -> str:
        """One line per row, with its task; an empty field where there is no number.

        Published numbers follow those of their group; two further columns say where a number was published and which
        of its numbers are only recalled. The averages come last, each a line like those of a data set called "mean of
        7 data sets".
        """
        entries = []
        for index, group in enumerate(self.groups):
            entries += group.entries()
            if self.published:
                entries += [line.entry(group.task) for line in self.published[index].once]
        entries += [entry for table in self.averages for entry in table.entries()]
        compared = any(row.against for group in self.groups for row in group.rows)
        last = [f"against_{part}" for part in ("name", "metric", "mean", "low", "high", "p")] if compared else []
        last += ["published_in", "recalled"] if self.published else []
        # Of a published result the header lacks what no row of ours has.
        header = spreadsheet.header(self.entries(), [key for group in self.groups for key in group.task], last)
        return spreadsheet.to_csv(header, entries)

    def to_frame(self) -> DataFrame:
        """A DataFrame in long form: the task, the row, `metric`, `seed` and `value`; averages last."""
        return to_frame(self.entries())

    def _repr_html_(self) -> str:
        from gcsearch.results.tables.markup import notebook  # late: it brings Jinja2, which a terminal does not need

        return "\n".join(map(notebook, self.tables()))
