"""What happened over the epochs, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from gcsearch.config.metrics import METRICS, Metric, columns, find
from gcsearch.config.trials import Role, TrialRecord
from gcsearch.results.ranking import RankedTrial
from gcsearch.results.report.figures.course import time_picture
from gcsearch.results.report.figures.curves import (
    chosen_gradients,
    cosine_of_gradients,
    learning_curves,
    on_test_images,
)
from gcsearch.results.report.findings import branches, compared, curve, landmarks
from gcsearch.results.report.numbers.course import time_spent
from gcsearch.results.report.picture import ReportData, Section, WithCurves
from gcsearch.results.tables.wording import describe, duration, named, searched

_ALL = ("rho", "beta1", "beta2", "lr", "epochs")


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


def test_curves_section(data: ReportData) -> Section:
    """The overfitting picture: champion, CoOp and the literature on test images over the epochs."""
    title = "Over the epochs, on test images"
    chosen = landmarks(data.finals)
    if not chosen or chosen[0].role is not Role.CHAMPION:
        return Section(title, "The champion has not been confirmed yet.")
    whole = [one for one in data.confirmed_with_curves(chosen) if len(one.curve) > 1]
    if not whole or whole[0].role is not Role.CHAMPION:
        return Section(title, "Fewer than two epochs of the champion's confirmation were measured.")
    every = data.pipeline.evaluate_every
    when = "measured after every epoch" if every == 1 else f"measured after every {every} epochs and the last"
    metrics = [find(column.metric) for column in columns(data.pipeline.task)]
    pictures = []
    for metric in metrics:
        curves = [(named(record), curve(record, metric.key)) for record in whole]
        if metric.side in ("trained", "new") and metric.key in METRICS and curves[0][1].epochs:
            pictures.append(on_test_images([one for one in curves if one[1].epochs], metric, when))
    if not pictures:
        return Section(title, "No accuracy of a single data set was measured.")
    lead = "What training gains on the classes that it sees, and what it costs on those that it does not."
    return Section(title, lead, pictures, legend=[(named(one), describe(one.config, _ALL)) for one in whole])


def time_section(data: ReportData) -> Section:
    title, spent = "Where the time went", time_spent(data.stage_seconds)
    if not spent:
        return Section(title, "The journal's times are not known.")
    total = sum(one.seconds for one in spent)
    return Section(title, f"{duration(total)} in all.", [time_picture(spent)])


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
