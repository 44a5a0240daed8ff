"""The search: its course, the hyperparameters, all trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gcsearch.config.metrics import Metric, find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import TrialRecord
from gcsearch.methods.registry import title_and_tags, with_tags
from gcsearch.results.ranking import RankedTrial
from gcsearch.results.report.figures.search import course_of_search, importances_picture, map_of, slice_of
from gcsearch.results.report.findings import history
from gcsearch.results.report.picture import LEAST_PICTURED, Section
from gcsearch.results.report.responses import (
    LEAST_SURFACE,
    REACH,
    Responses,
    contour_pairs,
    importances,
    surface,
)
from gcsearch.results.tables.table import Cell, Heading, Remark, Table
from gcsearch.results.tables.wording import counted, describe, outcome_counts, searched, value_text
from gcsearch.stats import spread

_LEAST_IMPORTANCE = 10  # completed configurations


def history_section(records: Sequence[TrialRecord], champion: int | None, objective: Metric) -> Section:
    title = "Course of the search"
    if not any(math.isfinite(record.mean(objective.key)) for record in records):
        return Section(title, f"No trial has come to a number ({outcome_counts(records)}).")
    names = searched(records)
    if len(records) < LEAST_PICTURED:
        return Section(title, f"Only one configuration was tried: {describe(records[0].config, names)}.")
    picture = course_of_search(history(records, objective.key), champion, objective)
    return Section(title, f"{counted(len(records), 'trial')}: {outcome_counts(records)}.", [picture])


def slices_section(tried: Responses, champion: int | None, objective: Metric) -> Section:
    title = "One hyperparameter at a time"
    if len(tried.records) < LEAST_PICTURED or not tried.axes:
        return Section(title, f"Fewer than {LEAST_PICTURED} different configurations have completed.")
    pictures = [slice_of(tried, name, champion, objective) for name in tried.axes]
    lead = f"Every completed configuration, {objective.legend}. The other hyperparameters vary too, hence the scatter."
    return Section(title, lead, pictures)


def contours_section(tried: Responses, champion: int | None, objective: Metric) -> Section:
    title = "Two at a time"
    pairs = contour_pairs(tried)
    if not pairs:
        return Section(title, "Fewer than two numeric hyperparameters were searched.")
    if len(tried.records) < LEAST_PICTURED:
        return Section(title, f"Fewer than {LEAST_PICTURED} different configurations have completed.")
    grounds = [surface(tried, pair) for pair in pairs]
    pictures = [map_of(tried, pair, ground, champion, objective) for pair, ground in zip(pairs, grounds, strict=True)]
    lead = f"Each dot is a configuration, its colour {objective.legend}; the lowest tenth shares one colour. "
    if any(grounds):
        lead += (
            "The surface averages the configurations near by and is blank where none lies within "
            f"{REACH:.3g} of the axes' length. “off”, and 0 on a logarithmic axis, stand apart from it. "
        )
    if not all(grounds):
        lead += f"Fewer than {LEAST_SURFACE} configurations with numbers on both axes get no surface."
    return Section(title, lead, pictures)


def importance_section(tried: Responses) -> Section:
    title = "Which hyperparameters mattered"
    if len(tried.records) < _LEAST_IMPORTANCE:
        return Section(title, f"Fewer than {_LEAST_IMPORTANCE} configurations have completed, too few to tell.")
    shares = importances(tried)
    if not shares:
        return Section(title, "All configurations came to the same number.")
    lead = "Read it with care: it tells which hyperparameters set the best configurations apart, not what they gain."
    if "rho" in tried.axes and {"beta1", "beta2"} & set(tried.axes):
        lead += (
            " As rho goes to 0 both gradients become the same, and then the bounds beta1 and beta2 mean nothing, so "
            "configurations of small rho make the bounds look less important than they are."
        )
    return Section(title, lead, [importances_picture(shares)])


def trials_section(
    pipeline: Pipeline, ranked: Sequence[RankedTrial], champion: int | None, objective: Metric
) -> Section:
    title, records = "All trials", [row.record for row in ranked]
    if not records:
        return Section(title, "No trial has ended yet.")
    search, names = pipeline.search, searched(records)
    seeds = max((record.seeds for record in records), key=len)
    several = [find(name) for name in search.objectives if name != objective.key]
    joint = bool(pipeline.task.also)

    def cells(row: RankedTrial) -> list[Cell]:
        record, values = row.record, row.record.config.values
        per_seed = dict(zip(record.seeds, record.metrics.get(row.objective, ()), strict=False))
        return [
            "" if row.rank is None else f"{row.rank}{' *' if row.front else ''}",
            record.number,
            *(value_text(values[name]) if name in values else None for name in names),
            row.values,
            *(spread(record.metrics.get(one.key, ())) for one in several),
            *([row.worst_regret] if joint else []),
            *(per_seed.get(seed) for seed in seeds),
            record.epochs,
            Remark(" · ".join(filter(None, [record.outcome.value, record.label])), record.reason),
        ]

    further = [one.key for one in several] + (["worst regret"] if joint else [])
    titles = ["rank", "trial", *names, objective.key, *further, *(f"seed {seed}" for seed in seeds), "epochs run"]
    table = Table(
        "",
        [*map(Heading, titles), Heading("outcome", words=True)],
        list(map(cells, ranked)),
        marked=frozenset(index for index, record in enumerate(records) if record.number == champion),
    )
    lead = f"Click a heading to sort. Mean ± standard deviation over seeds, {objective.unit.words}."
    lead += " A star behind the rank: on the front." if several else ""
    same = _shared(records, names)
    lead += f" The same in all: {same}." if same else ""
    return Section(title, lead, table=table, style="sortable")


def _shared(records: Sequence[TrialRecord], varied: Sequence[str]) -> str:
    first = records[0].config
    titles, tags = (set(each) for each in zip(*(title_and_tags(record.config) for record in records), strict=True))
    method = [with_tags(titles.pop(), tags.pop() if len(tags) == 1 else ())] if len(titles) == 1 else []
    common = set.intersection(*(set(record.config.hyperparameters) for record in records)) - set(varied)
    fixed = [f"{name} {value_text(value)}" for name, value in first.hyperparameters.items() if name in common]
    return ", ".join(method + fixed)
