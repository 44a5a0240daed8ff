"""Records to numbers: the table, the sentences that claim no more than the seeds allow, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from gcsearch.config import metrics
from gcsearch.config.metrics import SIDES, find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import LITERATURE, LITERATURE_CAPPED, cap_remarks
from gcsearch.config.task import Task
from gcsearch.config.trials import Outcome, Role, TrialRecord
from gcsearch.results.differences import Difference, Verdict, paired, verdict
from gcsearch.results.ranking import RankedTrial, rank
from gcsearch.results.tables.wording import counted, describe, joined, named, outcome_counts, searched
from gcsearch.stats import Spread, number, p_value, plus_minus, spread

BASE_TO_NEW = Task()

_OTHERS = 4  # learning curves drawn beside the champion's
_IN_FULL = 5  # references that the verdict compares in a sentence each; further ones share one


class ConfirmedRow(NamedTuple):
    """One line of the results: test accuracies in per cent by column, mean and deviation over seeds.

    `lead` is the champion's `deciding` metric minus this one's, paired by seed; None for the champion, without
    one, and where either was not measured.
    """

    name: str
    record: TrialRecord
    values: dict[str, Spread]
    lead: Difference | None


def confirmed_rows(finals: Sequence[TrialRecord], task: Task = BASE_TO_NEW) -> list[ConfirmedRow]:
    """The confirmed configurations with the metrics of `metrics.columns`, the champion last, and its leads."""
    champion = champion_of(finals)
    metric = deciding(finals, task)

    def row(record: TrialRecord) -> ConfirmedRow:
        values = {column.key: spread(record.metrics.get(column.metric, ())) for column in metrics.columns(task)}
        lead = paired(champion, record, metric) if champion and record is not champion else None
        return ConfirmedRow(named(record), record, values, lead)

    return [row(record) for record in sorted(finals, key=lambda record: record is champion)]


def champion_of(finals: Sequence[TrialRecord]) -> TrialRecord | None:
    """The confirmed champion, if there is one."""
    return next((record for record in finals if record.role is Role.CHAMPION), None)


class Rechecked(NamedTuple):
    """A configuration of the shortlist: the objective in the search and with new seeds, and how far behind the best."""

    record: TrialRecord
    before: Spread
    again: Spread
    behind: Difference | None


def choice(records: Sequence[TrialRecord], rechecked: Sequence[TrialRecord], objective: str) -> list[Rechecked]:
    """The shortlist by its second measurement, the best first."""
    before = {record.number: record.metrics.get(objective, ()) for record in records}
    ordered = [row.record for row in rank(rechecked, objective)]
    return [
        Rechecked(
            record,
            spread(before.get(record.number, ())),
            spread(record.metrics.get(objective, ())),
            paired(ordered[0], record, objective) if record is not ordered[0] else None,
        )
        for record in ordered
    ]


def deciding(finals: Sequence[TrialRecord], task: Task = BASE_TO_NEW) -> str:
    """What the champion is compared by: the protocol's metric, or base accuracy where it has nothing else."""
    champion, metric = champion_of(finals), metrics.deciding(task).metric
    base, _ = SIDES["test"]
    return base if champion and champion.metrics.get(base) and not champion.metrics.get(metric) else metric


def headline(
    pipeline: Pipeline, records: Sequence[TrialRecord], finals: Sequence[TrialRecord], champion: int | None
) -> list[str]:
    """What came out, in plain sentences that claim no more than the seeds allow."""
    if not any(record.outcome is Outcome.COMPLETE for record in records):
        reasons = [record.reason.splitlines()[0] for record in records if record.reason]
        first = f" The first reason given: {reasons[0]}" if reasons else ""
        return [f"No configuration has completed ({outcome_counts(records)}), so there is nothing to choose.{first}"]
    confirmed = champion_of(finals)
    metric = deciding(finals, pipeline.task)
    if confirmed is None or not confirmed.metrics.get(metric):
        return _unconfirmed(pipeline, records, champion)
    rows = confirmed_rows(finals, pipeline.task)
    sentences = [_reached(confirmed, describe(confirmed.config, searched(records)), rows[-1])]
    yardsticks = [row for row in rows if row.record.role is Role.REFERENCE]
    sentences += [_comparison(row, confirmed, metric) for row in yardsticks[:_IN_FULL]]
    if further := yardsticks[_IN_FULL:]:
        sentences.append(_summary(further, confirmed, metric))
    mean = confirmed.mean(metric)
    ahead = [named(record) for record in finals if record.mean(metric) > mean]
    if ahead:
        verb = "is" if len(ahead) == 1 else "are"
        words = f"mean {find(metric).title}".replace("mean mean", "mean")
        sentences.append(f"By {words} it is not in front: {joined(ahead)} {verb} higher.")
    return [*sentences, *_about_cap(pipeline, records, finals)]


def _about_cap(pipeline: Pipeline, records: Sequence[TrialRecord], finals: Sequence[TrialRecord]) -> list[str]:
    """How far the references are comparable where `search.cap` holds for the search alone."""
    references = [(record.config, record.label) for record in finals if record.role is Role.REFERENCE]
    lowered = LITERATURE in pipeline.confirm.references and LITERATURE_CAPPED in {one.label for one in records}
    return cap_remarks(pipeline.search.cap, references, left_out=lowered)


def _reached(champion: TrialRecord, described: str, mine: ConfirmedRow) -> str:
    words = {key: plus_minus(value) for key, value in mine.values.items()}
    over, who = counted(len(champion.seeds), "seed"), f"The champion, {described},"
    if champion.metrics.get("test_h"):
        return f"{who} reaches H = {words['h']} on test images (base {words['base']}, new {words['new']}; {over})."
    if champion.metrics.get("test_acc_targets"):
        return f"{who} reaches a mean accuracy of {words['targets']} on the targets (source {words['acc']}; {over})."
    if champion.metrics.get("test_acc"):
        return f"{who} reaches an accuracy of {words['acc']} on test images of all classes ({over})."
    return (
        f"{who} reaches a base accuracy of {words['base']} on test images ({over}). "
        "It says nothing about new classes, so it has no H."
    )


def _unconfirmed(pipeline: Pipeline, records: Sequence[TrialRecord], champion: int | None) -> list[str]:
    objective = pipeline.search.ranking_metric
    best = next((record for record in records if record.number == champion), None)
    if best is None:
        return ["Configurations have completed, but none has been chosen yet."]
    return [
        f"The best configuration so far is trial {best.number}, {describe(best.config, searched(records))}: "
        f"{objective} = {plus_minus(spread(best.metrics.get(objective, ())))} over {counted(len(best.seeds), 'seed')}.",
        "It has not been confirmed on fresh seeds and test images yet. "
        "The best of many noisy numbers is on average too high; expect less from it.",
    ]


def _comparison(row: ConfirmedRow, champion: TrialRecord, metric: str) -> str:
    lead, words = row.lead, find(metric).title
    known = verdict(champion, row.record, lead)
    if known is Verdict.SAME:
        return f"It is the same configuration as {row.name}: the search found nothing better."
    if not row.record.metrics.get(metric):
        return f"{row.name} has no {words}, so the two are not compared."
    if lead is None:
        return f"It has no seed in common with {row.name}, so the two are not compared."
    if lead.n == 1:
        by = number(lead.mean, signed=True)
        return f"Against {row.name} it is {by} points of {words} on one seed, which says little."
    low, mean, high = (number(value, signed=True) for value in (lead.low, lead.mean, lead.high))
    p = p_value(lead.p).replace("<", "< ")
    interval = (
        f"95 % interval {low} to {high}, {lead.n} paired seeds, Wilcoxon p {p if p.startswith('<') else f'= {p}'}"
    )
    if known is Verdict.INDISTINGUISHABLE:
        return f"It is not distinguishable from {row.name}: {mean} points of {words} ({interval})."
    side = "above" if lead.mean > 0 else "below"
    return f"That is {number(abs(lead.mean))} points {side} {row.name} ({interval})."


_KINDS = {
    Verdict.BETTER: "above",
    Verdict.WORSE: "below",
    Verdict.INDISTINGUISHABLE: "not distinguishable from",
    Verdict.SAME: "the same configuration as",
    Verdict.UNKNOWN: "not compared with",
}


def _summary(rows: Sequence[ConfirmedRow], champion: TrialRecord, metric: str) -> str:
    """Many references in one sentence, by what their intervals say."""
    kinds: dict[Verdict, list[str]] = {}
    for row in rows:
        kinds.setdefault(verdict(champion, row.record, row.lead), []).append(row.name)
    parts = [f"{words} {joined(kinds[kind])}" for kind, words in _KINDS.items() if kind in kinds]
    return f"By the same intervals of {find(metric).title} it is {'; '.join(parts)}."


class ScatterPoint(NamedTuple):
    """A configuration between base and new accuracy, per cent, means over seeds."""

    number: int
    base: float
    new: float
    rho: float | None
    outcome: Outcome


def has_both_sides(record: TrialRecord) -> bool:
    """Whether it has an accuracy on either side in its stage."""
    return all(math.isfinite(record.mean(key)) for key in SIDES[record.stage])


def scatter_points(records: Sequence[TrialRecord]) -> list[ScatterPoint]:
    """Every configuration with an accuracy on both sides, in the stage that the search was measured in."""
    points = []
    for record in records:
        if has_both_sides(record):
            base, new = map(record.mean, SIDES[record.stage])
            rho = record.config.hyperparameters.get("rho")
            radius = float(rho) if isinstance(rho, (int, float)) else None
            points.append(ScatterPoint(record.number, base, new, radius, record.outcome))
    return points


def iso_h(level: float, low: float, high: float, steps: int = 60) -> list[tuple[float, float]]:
    """The curve N = HB / (2B - H) of all (base, new) with H = `level`, for base from `low` to `high` per cent."""
    bases = [low + (high - low) * step / steps for step in range(steps + 1)]
    return [(base, level * base / (2 * base - level)) for base in bases if 2 * base > level]


class History(NamedTuple):
    """Objective over the order of trials; `best` is the best completed mean up to and including each trial."""

    numbers: list[int]
    means: list[float]
    deviations: list[float]
    best: list[float]
    outcomes: list[Outcome]


def history(records: Sequence[TrialRecord], objective: str) -> History:
    """The course of the search; NaN where a trial has no number."""
    ordered = sorted(records, key=lambda record: record.number)
    summaries = [spread(record.metrics.get(objective, ())) for record in ordered]
    best, running = [], math.nan
    for record, summary in zip(ordered, summaries, strict=True):
        if record.outcome is Outcome.COMPLETE and not math.isnan(summary.mean):
            running = summary.mean if math.isnan(running) else max(running, summary.mean)
        best.append(running)
    return History(
        [record.number for record in ordered],
        [summary.mean for summary in summaries],
        [summary.deviation for summary in summaries],
        best,
        [record.outcome for record in ordered],
    )


class Curve(NamedTuple):
    """A metric per epoch: mean over seeds, lowest and highest seed."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(record: TrialRecord, metric: str) -> Curve:
    """The learning curve of a record; empty where the metric was not measured."""
    points = [(r.epoch, r.metrics[metric]) for r in record.curve if r.metrics.get(metric)]
    return Curve(
        [epoch for epoch, _ in points],
        [fmean(values) for _, values in points],
        [min(values) for _, values in points],
        [max(values) for _, values in points],
    )


def compared(ranking: Sequence[RankedTrial], champion: int, every: int) -> list[tuple[str, TrialRecord]]:
    """The configurations whose learning curves are shown, where one is measured after `every` epochs and after its
    last.

    The champion, then those from the literature, the runner-up, the worst and the middle one, as far as there
    are such.
    """
    ranked = [row.record for row in ranking if row.rank is not None and row.record.epochs > every]
    others = [record for record in ranked if record.number != champion]
    wanted = [("champion", record) for record in ranked if record.number == champion]
    wanted += [(record.label, record) for record in others if record.label][:2]
    if others:
        wanted += [("runner-up", others[0]), ("worst", others[-1]), ("middle", others[len(others) // 2])]
    chosen: dict[int, tuple[str, TrialRecord]] = {}
    for name, record in wanted:
        chosen.setdefault(record.number, (f"trial {record.number}, {name}", record))
    return list(chosen.values())[: _OTHERS + 1]


def landmarks(finals: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Of the confirmed ones the champion, plain CoOp and the literature's configuration, as far as there are such.

    The literature's is left out where it is the champion.
    """
    champion = champion_of(finals)
    if champion is None:
        return []
    references = [record for record in finals if record.role is Role.REFERENCE and record.config != champion.config]
    coop = [record for record in references if record.config.method == "coop"][:1]
    published = [record for record in references if record.config.method == champion.config.method != "coop"][:1]
    return [champion, *coop, *published]


def calibrated(finals: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The confirmed ones whose calibration is shown: the champion, the literature's configuration, zero-shot CLIP."""
    shown = [one for one in landmarks(finals) if one.config.method != "coop" or one.role is Role.CHAMPION]
    return [*shown, *(one for one in finals if one.config.method == "zeroshot" and one not in shown)]


class Branches(NamedTuple):
    """How a gradient-constrained configuration chose: per cent of steps per branch, and the mean cosine."""

    epochs: list[int]
    plain: list[float]
    projected: list[float]
    perturbed: list[float]
    cosine: Curve
    bounds: dict[str, float]


def branches(record: TrialRecord) -> Branches | None:
    """Shares over the epochs, means over seeds; None for a method without branches."""
    shares = [curve(record, f"share_{name}") for name in ("plain", "projected", "perturbed")]
    if not all(len(share.epochs) > 1 for share in shares):
        return None
    plain, projected, perturbed = ([100.0 * value for value in share.mean] for share in shares)
    given = {name: record.config.hyperparameters.get(name) for name in ("beta1", "beta2")}
    bounds = {name: float(value) for name, value in given.items() if isinstance(value, (int, float))}
    return Branches(shares[0].epochs, plain, projected, perturbed, curve(record, "cosine"), bounds)
