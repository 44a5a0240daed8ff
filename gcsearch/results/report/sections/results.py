"""What came out: test images, the choice, base against new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gcsearch.config.metrics import columns, find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Role, TrialRecord
from gcsearch.results.comparison import results_table
from gcsearch.results.report.figures.calibration import reliability_diagram
from gcsearch.results.report.figures.sides import confirmed_sides, searched_sides
from gcsearch.results.report.figures.worth import worth_picture
from gcsearch.results.report.findings import (
    calibrated,
    choice,
    confirmed_rows,
    deciding,
    has_both_sides,
    scatter_points,
)
from gcsearch.results.report.picture import LEAST_PICTURED, Section
from gcsearch.results.tables.table import Heading, Table
from gcsearch.results.tables.wording import counted, describe, named, searched
from gcsearch.stats import BINS, Spread, spread

_MOST_AT_EASE = 7  # columns of numbers that stand beside one another with their deviations in one line


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


def worth_section(pipeline: Pipeline, finals: Sequence[TrialRecord]) -> Section:
    title, rows = "Is it worth it?", confirmed_rows(finals, pipeline.task)
    leads = [row for row in rows if row.lead and row.record.role is Role.REFERENCE]
    if not leads:
        why = "nothing has been confirmed yet" if not finals else "no reference shares a seed and a metric with it"
        return Section(title, f"The champion has not been compared with a reference: {why}.")
    picture = worth_picture(leads, find(deciding(finals, pipeline.task)))
    return Section(title, "The champion against zero-shot CLIP, known methods and the literature's values.", [picture])


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


def calibration_section(finals: Sequence[TrialRecord]) -> Section:
    """How far the champion, the literature's configuration and zero-shot CLIP can be believed how sure they are."""
    title, shown = "How sure, and how right", [one for one in calibrated(finals) if one.reliability]
    if not shown:
        why = "was not measured" if finals else "has not been confirmed yet"
        return Section(title, f"The champion's calibration {why}.")
    sides = list(dict.fromkeys(side for record in shown for side in record.reliability))
    keys = [f"test_{'' if side == 'all' else f'{side}_'}{what}" for side in sides for what in ("ece", "nll")]
    headings = [Heading(f"{what} {'' if side == 'all' else side}".strip()) for side in sides for what in ("ECE", "NLL")]
    table = Table(
        "",
        [Heading("configuration", words=True), *headings],
        [[named(one), *(spread(one.metrics.get(key, ())) for key in keys)] for one in shown],
        marked=frozenset(index for index, one in enumerate(shown) if one.role is Role.CHAMPION),
    )
    lead = (
        f"Probabilities are the softmax over the names of a side. ECE is the expected calibration error in per cent, "
        f"over {BINS} equal-width bins of confidence; NLL the mean negative log-likelihood in nats. Less is better. "
        "Mean ± standard deviation over seeds. gcsearch export --calibrate fits a temperature."
    )
    pictures = [reliability_diagram([one for one in shown if side in one.reliability], side) for side in sides]
    return Section(title, lead, pictures, table=table, style="results")


def scatter_section(records: Sequence[TrialRecord], finals: Sequence[TrialRecord], champion: int | None) -> Section:
    title, points = "Base against new", scatter_points(records)
    pictures = [searched_sides(points, champion, records[0].stage)] if len(points) >= LEAST_PICTURED else []
    if any(map(has_both_sides, finals)):
        pictures.append(confirmed_sides(finals))
    if not pictures:
        why = "Only one configuration to show." if points else "No configuration has accuracies on both sides."
        return Section(title, why)
    lead = "What is gained on the classes that were trained against what is lost on new ones."
    return Section(title, lead + (" The two are not on one scale." if len(pictures) > 1 else ""), pictures)
