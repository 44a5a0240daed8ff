"""The sections of a report: their words, their tables, and the pictures that they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gcsearch.config.metrics import Metric, columns, find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import TrialRecord
from gcsearch.methods.registry import title_and_tags, with_tags
from gcsearch.results.comparison import results_table
from gcsearch.results.ranking import RankedTrial
from gcsearch.results.report.figures.curves import chosen_gradients, cosine_of_gradients, learning_curves
from gcsearch.results.report.figures.search import course_of_search, importances_picture, map_of, slice_of
from gcsearch.results.report.figures.sides import confirmed_sides, searched_sides
from gcsearch.results.report.findings import (
    branches,
    choice,
    compared,
    confirmed_rows,
    curve,
    deciding,
    has_both_sides,
    history,
    scatter_points,
)
from gcsearch.results.report.picture import Section, WithCurves
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
from gcsearch.stats import Spread, spread

_MOST_AT_EASE = 7  # columns of numbers that stand beside one another with their deviations in one line
_LEAST_PICTURED, _LEAST_IMPORTANCE = 2, 10  # completed configurations that a picture needs


def results_section(pipeline: Pipeline, finals: Sequence[TrialRecord]) -> Section:
    if not finals:
        return Section("Results on test images", "The champion has not been confirmed yet, so there are none.")
    task = pipeline.task
    rows = confirmed_rows(finals, task)
    table = results_table([row.record for row in rows], task)
    ahead = f"champion ahead by, in {find(deciding(finals, task)).title}"
    table = replace(
        table,
        headings=[Heading("configuration", words=True), *table.headings[1:], Heading(ahead)],
        rows=[[*cells, row.lead] for cells, row in zip(table.rows, rows, strict=True)],
    )
    seeds = sorted({seed for record in finals for seed in record.seeds})
    known = set(seeds) & set(task.seeds)
    lead = (
        f"Accuracy in per cent, mean ± standard deviation over {counted(len(seeds), 'seed')} "
        f"({', '.join(map(str, seeds))}), {'some of which the search used too' if known else 'new to the search'}. "
        f"Whatever is trained was trained on all {'' if task.classes == 'all' else 'base '}classes"
        f"{' of the source' if task.targets else ''}. "
        "The last column pairs the runs by seed and gives the 95 % interval of the mean difference."
    )
    style = "results dense" if len(columns(task)) > _MOST_AT_EASE else "results"
    return Section("Results on test images", lead, table=table, style=style)


def choice_section(
    pipeline: Pipeline,
    records: Sequence[TrialRecord],
    rechecked: Sequence[TrialRecord],
    champion: int | None,
    *,
    over: bool,
) -> Section:
    title, search = "How the champion was chosen", pipeline.search
    if not over:
        first = "" if champion is None else f" So far it is the first of the search by {search.chosen_by}."
        return Section(title, f"The confirmation is still to come.{first}")
    if not rechecked:
        return Section(title, f"It is the first of the search by {search.chosen_by}; nothing was measured again.")
    seeds = counted(len(rechecked[0].seeds), "seed")
    by = f" by {search.criterion}" if len(search.objectives) > 1 else ""
    lead = (
        f"The best {len(rechecked)} of the search{by} were trained again in the same way with {seeds} that no choice "
        "had looked at: the best of many noisy means is on average too high, which the second column shows and the "
        "third does not. Of those within one standard error of the best (of the difference, paired by seed) the one of "
        "fewest epochs, then of smallest rho, is the champion."
    )
    names, again = searched(records), choice(records, rechecked, search.ranking_metric)
    titles = (f"{search.ranking_metric} in the search", "with new seeds", "behind the best")
    table = Table(
        "",
        [Heading("configuration", words=True), *map(Heading, titles)],
        [
            [
                f"trial {row.record.number}, {describe(row.record.config, names)}",
                row.before,
                row.again,
                Spread(-row.behind.mean, row.behind.error, row.behind.n) if row.behind else None,
            ]
            for row in again
        ],
        marked=frozenset(index for index, row in enumerate(again) if row.record.number == champion),
    )
    return Section(title, lead, table=table, style="results")


def scatter_section(records: Sequence[TrialRecord], finals: Sequence[TrialRecord], champion: int | None) -> Section:
    title, points = "Base against new", scatter_points(records)
    pictures = [searched_sides(points, champion, records[0].stage)] if len(points) >= _LEAST_PICTURED else []
    if any(map(has_both_sides, finals)):
        pictures.append(confirmed_sides(finals))
    if not pictures:
        why = "Only one configuration to show." if points else "No configuration has accuracies on both sides."
        return Section(title, why)
    lead = "What is gained on the classes that were trained against what is lost on new ones."
    return Section(title, lead + (" The two are not on one scale." if len(pictures) > 1 else ""), pictures)


def history_section(records: Sequence[TrialRecord], champion: int | None, objective: Metric) -> Section:
    title = "Course of the search"
    if not any(math.isfinite(record.mean(objective.key)) for record in records):
        return Section(title, f"No trial has come to a number ({outcome_counts(records)}).")
    names = searched(records)
    if len(records) < _LEAST_PICTURED:
        return Section(title, f"Only one configuration was tried: {describe(records[0].config, names)}.")
    picture = course_of_search(history(records, objective.key), champion, objective)
    return Section(title, f"{counted(len(records), 'trial')}: {outcome_counts(records)}.", [picture])


def slices_section(tried: Responses, champion: int | None, objective: Metric) -> Section:
    title = "One hyperparameter at a time"
    if len(tried.records) < _LEAST_PICTURED or not tried.axes:
        return Section(title, f"Fewer than {_LEAST_PICTURED} different configurations have completed.")
    pictures = [slice_of(tried, name, champion, objective) for name in tried.axes]
    lead = f"Every completed configuration, {objective.legend}. The other hyperparameters vary too, hence the scatter."
    return Section(title, lead, pictures)


def contours_section(tried: Responses, champion: int | None, objective: Metric) -> Section:
    title = "Two at a time"
    pairs = contour_pairs(tried)
    if not pairs:
        return Section(title, "Fewer than two numeric hyperparameters were searched.")
    if len(tried.records) < _LEAST_PICTURED:
        return Section(title, f"Fewer than {_LEAST_PICTURED} different configurations have completed.")
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


def curves_section(
    ranked: Sequence[RankedTrial], champion: int | None, objective: Metric, every: int, with_curves: WithCurves
) -> Section:
    title = "Learning curves"
    chosen = compared(ranked, champion, every) if champion is not None else []
    if not chosen or chosen[0][1].number != champion:
        return Section(title, "The champion has fewer than two measured epochs, or there is no champion.")
    whole = with_curves([record for _, record in chosen])
    curves = [(name, curve(record, objective.key)) for (name, _), record in zip(chosen, whole, strict=True)]
    names = searched([row.record for row in ranked])
    listed = [(name, describe(record.config, names)) for name, record in chosen]
    lead = "The champion beside those from the literature and others of the search."
    return Section(title, lead, [learning_curves(curves, objective)], legend=listed)


def branches_section(records: Sequence[TrialRecord], champion: int | None, with_curves: WithCurves) -> Section:
    title = "Inside the champion's gradient rule"
    record = next((record for record in records if record.number == champion), None)
    if record is None:
        return Section(title, "There is no champion.")
    (whole,) = with_curves([record])
    chosen = branches(whole)
    if chosen is None:
        name = describe(record.config, ())
        return Section(title, f"{name} does not choose between gradients, or has a single measured epoch.")
    lead = f"What the constraint did while {describe(record.config, ())} trained."
    return Section(title, lead, [chosen_gradients(chosen), cosine_of_gradients(chosen)])


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
