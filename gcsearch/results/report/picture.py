"""Pictures, the sections that show them, and all that a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from gcsearch.config.metrics import Metric, find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import TrialRecord
from gcsearch.results.ranking import Ranking, ranking
from gcsearch.results.report.numbers.contributions import literature_of
from gcsearch.results.report.numbers.surrogate import Configuration, Surrogate, fit, natural
from gcsearch.results.report.responses import Responses, responses
from gcsearch.results.tables.table import Table

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

WithCurves = Callable[[Sequence[TrialRecord]], Sequence[TrialRecord]]
"""Gives records that may come without their curves with them."""

LEAST_PICTURED = 2
"""Configurations that a picture of several needs."""


@dataclass(frozen=True)
class Picture:
    """A picture of the report: what it is called, what to read from it, its numbers, and how they are drawn.

    `name` is unique in a report and fit for a file: letters, digits and hyphens.  `caption` says in one or two plain
    sentences what to read from it.  `data` and `draw` are called when `frame` or `figure` is first asked for, so that
    a picture nobody looks at costs nothing, and one that cannot be drawn costs only itself.
    """

    name: str
    title: str
    caption: str
    data: Callable[[], DataFrame]
    draw: Callable[[DataFrame], Figure]

    @cached_property
    def frame(self) -> DataFrame:
        """The numbers that are drawn, a row for each mark or point of a line."""
        return self.data()

    @cached_property
    def figure(self) -> Figure:
        """The plotly figure, in the colours of the light theme."""
        return self.draw(self.frame)


class Section(NamedTuple):
    """A heading, words, and pictures or a table; without either, the words say why there are none.

    `style` are the CSS classes of the table; a `sortable` one is sorted by a click on a heading. `legend` says what
    the names in the pictures are.
    """

    title: str
    lead: str
    pictures: Sequence[Picture] = ()
    table: Table | None = None
    style: str = ""
    legend: Sequence[tuple[str, str]] = ()

    @property
    def shows(self) -> bool:
        """Whether there is more than words."""
        return bool(self.pictures or self.table)


@dataclass(frozen=True)
class ReportData:
    """All of a sweep that its report is made of.

    `finals` are of the confirmation, labelled, the champion's role is champion; `champion` is its number in the search,
    None where no trial completed.  `rechecked` is the shortlist as measured again, which the champion was chosen by.
    `records` may come without their curves: `with_curves` reads those of the few that are drawn, and
    `confirmed_with_curves` those of `finals`.
    """

    pipeline: Pipeline
    records: Sequence[TrialRecord]
    finals: Sequence[TrialRecord] = ()
    champion: int | None = None
    rechecked: Sequence[TrialRecord] = ()
    with_curves: WithCurves = lambda records: records
    confirmed_with_curves: WithCurves = lambda records: records
    space: SearchSpace | None = None
    """None where it is not known: then there is no surrogate."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """On the clock, see `gcsearch.results.report.numbers.course.STAGES`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", sorted(self.records, key=lambda record: record.number))

    @property
    def objective(self) -> Metric:
        """What the search was ranked by."""
        return find(self.pipeline.search.ranking_metric)

    @cached_property
    def ranked(self) -> Ranking:
        """The search, best first, as the terminal shows it."""
        return ranking(self.pipeline, self.records)

    @cached_property
    def literature(self) -> TrialRecord | None:
        """The search's trial of the literature's configuration."""
        return literature_of(self.records)

    @cached_property
    def surrogate(self) -> Surrogate | None:
        """What the objective is expected to be at other configurations; None where too little is known."""
        anchors = [self.champion, self.literature.number if self.literature else None]
        try:
            keep = [number for number in anchors if number is not None]
            return fit(self.space, self.records, self.objective.key, keep) if self.space else None
        except ValueError:  # too few configurations
            return None

    def natural(self, number: int | None) -> Configuration | None:
        """The configuration of a trial as the space has it."""
        record = next((record for record in self.records if record.number == number), None)
        return natural(self.space, record) if self.space and record else None

    @cached_property
    def tried(self) -> Responses:
        """The completed configurations as points of a space."""
        return responses(self.records, self.objective.key)
