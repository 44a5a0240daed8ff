"""The page of several sweeps: what differs between them, their champions side by side, how their searches went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from gcsearch.config.metrics import Metric
from gcsearch.config.trials import Outcome
from gcsearch.results.comparison import ComparedRow, TaskGroup, heading
from gcsearch.results.differences import Difference
from gcsearch.results.method_table import Comparison
from gcsearch.results.report.findings import history
from gcsearch.results.report.pages.document import Warn, built, document
from gcsearch.results.report.picture import Picture, ReportData, Section
from gcsearch.results.report.responses import round_steps
from gcsearch.results.report.theme import ACCENT, BLUE, BROWN, GREEN, GREY, PURPLE, empty_figure, entry
from gcsearch.results.tables.table import Cell, Heading, Table, written
from gcsearch.results.tables.wording import counted, describe, joined, outcome_counts, searched
from gcsearch.stats import number, spread

if TYPE_CHECKING:
    from pandas import DataFrame

_LINES = (
    (ACCENT, "solid", "star"), (BLUE, "dash", "diamond"), (GREEN, "dot", "square"), (PURPLE, "dashdot", "triangle-up"),
    (BROWN, "longdash", "hexagon"), (GREY, "longdashdot", "cross"),
)  # fmt: skip
_HERE = ("tracking", "resources", "name")  # tables and keys of a pipeline that decide nothing of what comes out
_UNSET = "unset"


def comparison_page(
    sweeps: Mapping[str, ReportData],
    comparison: Comparison,
    sections: Sequence[Section],
    provenance: Mapping[str, object] | None = None,
    *,
    warn: Warn = lambda _: None,
) -> str:
    """One page for all of `sweeps`, with the `sections` of `comparison_sections`, see `document`."""
    tasks = "; ".join(heading(group, comparison.groups) for group in comparison.groups)
    facts = {f"sweep {name}": _brief(data) for name, data in sweeps.items()}
    return document(
        "gcsearch comparison",
        ", ".join(sweeps),
        f"{counted(len(sweeps), 'sweep')} · {tasks}",
        sections,
        sentences=[sentence for group in comparison.groups for sentence in _sentences(group)],
        facts=facts | {key: str(value) for key, value in (provenance or {}).items()},
        warn=warn,
    )


def comparison_sections(
    sweeps: Mapping[str, ReportData], comparison: Comparison, warn: Warn = lambda _: None
) -> list[Section]:
    """All sections in order; one that cannot be made says why in its words, and to `warn`."""
    parts: dict[str, Callable[[], Section]] = {
        "differences": lambda: _differences(sweeps),
        "champions": lambda: _champions(sweeps, comparison),
    }
    for index, table in enumerate(comparison.tables()):
        parts[f"results {index + 1}"] = partial(_results, table)
    for objective in dict.fromkeys(data.objective for data in sweeps.values()):
        parts[f"searches by {objective.key}"] = partial(_searches, sweeps, objective)
    if comparison.left_out:
        parts["averages"] = lambda: Section("Averages", f"Without one: {'; '.join(comparison.left_out)}.")
    return [built(name, build, warn) for name, build in parts.items()]


def _brief(data: ReportData) -> str:
    return f"{counted(len(data.records), 'configuration')} ({outcome_counts(data.records)}), {data.pipeline.task.title}"


# --- In short


def _sentences(group: TaskGroup) -> list[str]:
    """What the champions of a task reach, and what is known of each beside the one that all are compared with."""
    chosen = [row for row in group.rows if row.sweeps]
    deciding = next(column for column in group.columns if column.metric == group.deciding)
    on = f"on {group.task['dataset']}"
    if group.other is None:
        return [f"{_owner(row)} {_reaches(row, deciding.key, deciding.title)} {on}." for row in chosen]
    first = f"{_owner(group.other)} {_reaches(group.other, deciding.key, deciding.title)} {on}."
    return [first, *(_beside(row) for row in chosen if row is not group.other)]


def _owner(row: ComparedRow) -> str:
    return f"The champion of {joined(row.sweeps)}, {row.name}," if row.sweeps else row.name


def _reaches(row: ComparedRow, key: str, title: str) -> str:
    return f"reaches {title} = {written(row.values(key))} over {counted(len(row.record.seeds), 'seed')}"


def _beside(row: ComparedRow) -> str:
    against = row.against
    if against is None or against.lead is None:
        return f"{_owner(row)} has no seed in common with it, so the two are not compared."
    lead, title = against.lead, against.column.title
    if lead.n == 1:
        return f"{_owner(row)} is {number(lead.mean, signed=True)} points of {title} beside it on one seed."
    interval = f"95 % interval {number(lead.low, signed=True)} to {number(lead.high, signed=True)}"
    how = f"({interval}, {lead.n} paired seeds)"
    if not lead.distinguishable:
        mean = number(lead.mean, signed=True)
        return f"{_owner(row)} is not distinguishable from it: {mean} points of {title} {how}."
    side = "above" if lead.mean > 0 else "below"
    return f"{_owner(row)} is {number(abs(lead.mean))} points of {title} {side} it {how}."


# --- What differs


def _differences(sweeps: Mapping[str, ReportData]) -> Section:
    """The keys of the pipelines that are not the same in all, and what came of each search."""
    flat = {name: _flat(data) for name, data in sweeps.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    differing = [key for key in keys if len({one.get(key, _UNSET) for one in flat.values()}) > 1]
    rows: list[list[Cell]] = [[key, *(one.get(key, _UNSET) for one in flat.values())] for key in differing]
    headings = [Heading("", words=True), *(Heading(name, words=True) for name in sweeps)]
    lead = "Keys of the pipelines that are not the same in all, then what came of each search."
    return Section("What differs", lead, table=Table("", headings, rows), style="results")


def _flat(data: ReportData) -> dict[str, str]:
    """A pipeline by dotted keys, then how much was tried and trained."""
    found: dict[str, str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, one in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), one)
        else:
            found[prefix] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    add("", {key: value for key, value in data.pipeline.to_dict().items() if key not in _HERE})
    seconds = sum(record.seconds for record in (*data.records, *data.rechecked, *data.finals))
    methods = sorted({record.config.method for record in data.records})
    return found | {
        "methods tried": ", ".join(methods),
        "configurations tried": f"{len(data.records)} ({outcome_counts(data.records)})",
        "minutes of training": f"{seconds / 60:.1f}",
    }


# --- Champions and results


def _champions(sweeps: Mapping[str, ReportData], comparison: Comparison) -> Section:
    """A line for each sweep and task: what was chosen, by what, and how it does beside the first."""
    rows: list[list[Cell]] = []
    several = len(comparison.groups) > 1
    for group in comparison.groups:
        key = next(column.key for column in group.columns if column.metric == group.deciding)
        for name, data in sweeps.items():
            row = next((row for row in group.rows if name in row.sweeps), None)
            if row is None:
                continue
            names = searched(data.records)
            mine = next((one for one in data.records if one.number == data.champion), row.record)
            rows.append(
                [
                    name,
                    *([str(group.task["dataset"])] if several else []),
                    f"trial {mine.number}, {describe(mine.config, names)}",
                    f"{data.objective.key} {written(spread(mine.metrics.get(data.objective.key, ())))}",
                    row.values(key),
                    _difference(row),
                ]
            )
    decided = [
        column.title for group in comparison.groups for column in group.columns if column.metric == group.deciding
    ]
    others = dict.fromkeys(
        ", ".join(one.sweeps) or one.name for one in (group.other for group in comparison.groups) if one
    )
    beside = f"{decided[0]} beside {joined(list(others))}" if others else "difference"
    titles = ["sweep", *(["data set"] if several else []), "champion", "in the search", f"{decided[0]} on test images"]
    titles.append(beside)
    words = {"sweep", "data set", "champion"}
    table = Table("", [Heading(one, words=one in words) for one in titles], rows)
    lead = (
        "Search numbers are of validation images and their own seeds, so they compare within a sweep only. "
        "Differences are paired by seed, with the 95 % interval of the mean difference."
    )
    return Section("Champions side by side", lead, table=table, style="results")


def _difference(row: ComparedRow) -> Difference | str | None:
    if row.against is None:
        return None
    return row.against.lead or "no common seed"


def _results(table: Table) -> Section:
    what, _, how = table.title.partition(": ")
    title = f"Results on {what}" if how else what.partition(" (")[0].capitalize()
    lead = (how or what).partition(";")[0]  # without what the star means: the interval stands there
    return Section(title, f"{lead[:1].upper()}{lead[1:]}.", table=table, style="results")


# --- The searches


def _searches(sweeps: Mapping[str, ReportData], objective: Metric) -> Section:
    """The best so far of every search that went by this objective."""
    searches = {name: data for name, data in sweeps.items() if data.objective == objective and data.records}
    name = f"best-so-far-{objective.key.replace('_', '-')}"
    caption = (
        f"The best {objective.legend} of the trials until then, each search by its own seeds. The mark is where the "
        "champion was tried. A higher line is no better champion: the best of many noisy means is too high."
    )
    draw = partial(draw_searches, objective=objective)
    picture = Picture(name, f"Best so far, {objective.key}", caption, partial(_best_so_far, searches, objective), draw)
    return Section(f"Course of the searches by {objective.key}", "How soon each search found what it found.", [picture])


def _best_so_far(searches: Mapping[str, ReportData], objective: Metric) -> DataFrame:
    import pandas as pd

    parts = []
    for name, data in searches.items():
        course = history(data.records, objective.key)
        for place, (trial, best, outcome) in enumerate(zip(course.numbers, course.best, course.outcomes, strict=True)):
            parts.append((name, place + 1, trial, best, outcome is Outcome.COMPLETE, trial == data.champion))
    return pd.DataFrame(parts, columns=["sweep", "trials", "trial", "best", "complete", "champion"])


def draw_searches(course: DataFrame, objective: Metric) -> go.Figure:
    """A line of steps for each sweep; colour, dash and mark differ."""
    figure = empty_figure(400)
    names = list(dict.fromkeys(course["sweep"]))
    for index, name in enumerate(names):
        colour, dash, symbol = _LINES[index % len(_LINES)]
        mine = course[course["sweep"] == name]
        chosen = mine[mine["champion"]]
        line = {"color": colour, "dash": dash, "width": 2.2, "shape": "hv"}
        figure.add_trace(
            go.Scatter(
                x=list(mine["trials"]), y=list(mine["best"]), mode="lines", name=entry(name), line=line,
                hovertemplate=f"{entry(name)}: %{{y:.2f}} after %{{x}} trials<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=list(chosen["trials"]), y=list(chosen["best"]), mode="markers", showlegend=False,
                marker={"color": colour, "symbol": symbol, "size": 12}, hoverinfo="skip",
            )
        )  # fmt: skip
    ticks = [tick for tick in round_steps(0, max(course["trials"]), count=8) if tick.is_integer()]
    figure.update_xaxes(title_text="trials", rangemode="tozero", tickvals=ticks)
    figure.update_yaxes(title_text=objective.axis)
    return figure
