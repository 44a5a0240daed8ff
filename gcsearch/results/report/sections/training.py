"""What happened over the epochs, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from gcsearch.config.metrics import Metric
from gcsearch.config.trials import TrialRecord
from gcsearch.results.ranking import RankedTrial
from gcsearch.results.report.figures.curves import chosen_gradients, cosine_of_gradients, learning_curves
from gcsearch.results.report.findings import branches, compared, curve
from gcsearch.results.report.picture import Section, WithCurves
from gcsearch.results.tables.wording import describe, searched


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
