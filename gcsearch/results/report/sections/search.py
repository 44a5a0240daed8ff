"""The search: its course, the hyperparameters, all trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gcsearch.config.metrics import Metric, find
from gcsearch.config.parameters import Range
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.trials import Role, TrialRecord
from gcsearch.methods.registry import title_and_tags, with_tags
from gcsearch.results.ranking import RankedTrial
from gcsearch.results.report.figures.course import survival_picture
from gcsearch.results.report.figures.explain import contributions_picture, in_words
from gcsearch.results.report.figures.parallel import parallel_coordinates
from gcsearch.results.report.figures.search import Expected, course_of_search, importances_picture, map_of, slice_of
from gcsearch.results.report.findings import history
from gcsearch.results.report.numbers.contributions import Contributions, contributions
from gcsearch.results.report.numbers.course import survival
from gcsearch.results.report.numbers.surrogate import measured, response
from gcsearch.results.report.picture import LEAST_PICTURED, ReportData, Section
from gcsearch.results.report.responses import (
    LEAST_IMPORTANCE,
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

_STEPS = 40  # of a line along an axis


def history_section(records: Sequence[TrialRecord], champion: int | None, objective: Metric) -> Section:
    title = "Course of the search"
    if not any(math.isfinite(record.mean(objective.key)) for record in records):
        return Section(title, f"No trial has come to a number ({outcome_counts(records)}).")
    names = searched(records)
    if len(records) < LEAST_PICTURED:
        return Section(title, f"Only one configuration was tried: {describe(records[0].config, names)}.")
    picture = course_of_search(history(records, objective.key), champion, objective)
    return Section(title, f"{counted(len(records), 'trial')}: {outcome_counts(records)}.", [picture])


def survival_section(records: Sequence[TrialRecord], settings: SearchConfig) -> Section:
    title, found = "Survival at rungs", survival(records, settings)
    if not found:
        return Section(title, "The search has no pruner: every trial trained to its end.")
    if not records:
        return Section(title, "No trial has ended yet.")
    lead = f"The pruner {settings.pruner} lets the better part of the trials go on from each rung."
    return Section(title, lead, [survival_picture(found)])


def parallel_section(data: ReportData) -> Section:
    title, tried = "All hyperparameters at once", data.tried
    if len(tried.records) < LEAST_PICTURED or not tried.axes:
        return Section(title, f"Fewer than {LEAST_PICTURED} different configurations have completed.")
    roles = {one.number: "confirmed" for one in data.finals if one.role is not Role.REFERENCE}
    roles |= {data.literature.number: "literature"} if data.literature else {}
    roles |= {data.champion: "champion"} if data.champion is not None else {}
    lead = f"Every completed configuration, {data.objective.legend}."
    return Section(title, lead, [parallel_coordinates(tried, roles, data.objective)])


def slices_section(data: ReportData) -> Section:
    title, tried, objective = "One hyperparameter at a time", data.tried, data.objective
    if len(tried.records) < LEAST_PICTURED or not tried.axes:
        return Section(title, f"Fewer than {LEAST_PICTURED} different configurations have completed.")
    lines = {name: _expected(data, name) for name in tried.axes}
    pictures = [slice_of(tried, name, data.champion, objective, line) for name, line in lines.items()]
    lead = f"Every completed configuration, {objective.legend}. The other hyperparameters vary too, hence the scatter."
    if any(lines.values()):
        lead += " The line is what the surrogate of the search expects with all else as in the champion."
    return Section(title, lead, pictures)


def _expected(data: ReportData, name: str) -> Expected | None:
    """The surrogate's response to one hyperparameter around the champion."""
    own, axis = data.natural(data.champion), data.tried.axes[name]
    if axis.words or own is None or data.surrogate is None:
        return None
    values = [axis.natural(step / _STEPS) for step in range(_STEPS + 1)]
    parameter = data.surrogate.space.dimensions[name]
    if isinstance(parameter, Range):  # rounded as they are run
        values = [parameter.rounded(value) for value in values]
    return response(data.surrogate, own, name, values)


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


def importance_section(data: ReportData, generator: np.random.Generator | None = None) -> Section:
    """Contributions and importances; `generator` draws orders where too many hyperparameters differ for all."""
    title, tried = "Which hyperparameters mattered", data.tried
    if len(tried.records) < LEAST_IMPORTANCE:
        return Section(title, f"Fewer than {LEAST_IMPORTANCE} configurations have completed, too few to tell.")
    shares = importances(tried)
    if not shares:
        return Section(title, "All configurations came to the same number.")
    found = _contributions(data, generator)
    if isinstance(found, str):
        lead, pictures = found, [importances_picture(shares)]
    else:
        lead = in_words(found, data.objective, _measured_gain(data))
        pictures = [contributions_picture(found, data.objective), importances_picture(shares)]
    if "rho" in tried.axes and {"beta1", "beta2"} & set(tried.axes):
        lead += (
            " As rho goes to 0 both gradients become the same, and then the bounds beta1 and beta2 mean nothing, so "
            "configurations of small rho make the bounds look less important than they are."
        )
    return Section(title, lead, pictures)


def _contributions(data: ReportData, generator: np.random.Generator | None) -> Contributions | str:
    """What each hyperparameter contributed to the champion's gain, or why that is not known."""
    if data.champion is None:
        return "There is no champion, so no gain to divide among the hyperparameters."
    if data.literature is None:
        return "The search did not try a configuration of the literature, so there is no gain over it to divide."
    if not measured(data.literature, data.objective.key):
        ended = (
            f"The configuration of the literature did not train to its end in the search ({data.literature.outcome})"
        )
        return f"{ended}, so the gain over it is not known there."
    ours, theirs = data.natural(data.champion), data.natural(data.literature.number)
    if data.surrogate is None or ours is None or theirs is None:
        return "The search space is not known, or too few trials are in it, so the gain over it is not divided."
    found = contributions(data.surrogate, ours, theirs, generator)
    return found or "The champion is the configuration of the literature, so there is no gain to divide."


def _measured_gain(data: ReportData) -> tuple[float, float]:
    """The champion's objective less the literature's, in the search and as measured again; NaN where it was not."""

    def gain(records: Sequence[TrialRecord]) -> float:
        means = {record.number: record.mean(data.objective.key) for record in records}
        ends = [data.champion, data.literature.number if data.literature else None]
        ours, theirs = (math.nan if number is None else means.get(number, math.nan) for number in ends)
        return ours - theirs

    return gain(data.records), gain(data.rechecked)


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
