"""Why the champion: what each hyperparameter contributed to its gain."""

from __future__ import annotations

import html
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from gcsearch.config.metrics import Metric
from gcsearch.results.report.numbers.contributions import Contributions
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.theme import ACCENT, BLUE, GRID, INK, MUTED, PURPLE, empty_figure
from gcsearch.results.tables.wording import typeset, value_text
from gcsearch.stats import number

if TYPE_CHECKING:
    from pandas import DataFrame

TOGETHER = "together"


def contributions_picture(found: Contributions, objective: Metric) -> Picture:
    """A bar for each hyperparameter that differs from the literature's, and one for their sum."""
    caption = (
        "What changing each hyperparameter from the literature's value to the champion's gains, averaged over all "
        "orders of changing them (Shapley values); they add up to the last bar. Lines are 95 % intervals over seeds "
        "and trials: a bar whose line crosses zero may be nothing."
    )
    if found.sampled:
        caption = caption.replace("all orders of changing them", "a sample of orders of changing them")
    draw = partial(draw_contributions, objective=objective)
    name, title = "contributions", "Gain over the literature (Shapley)"
    return Picture(name, title, caption, partial(_contributions, found), draw)


def _contributions(found: Contributions) -> DataFrame:
    import pandas as pd

    every = [*found.each, found.gain]
    rows = [(one.name or TOGETHER, one.before, one.after, one.value, one.low, one.high) for one in every]
    columns = ["hyperparameter", "literature", "champion", "contribution", "low", "high"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def draw_contributions(shares: DataFrame, objective: Metric) -> go.Figure:
    """Bars to the right for a gain and to the left for a loss, the sum below."""
    rows = list(shares.itertuples(index=False))[::-1]
    labels = [row.hyperparameter if row.hyperparameter == TOGETHER else _changed(row) for row in rows]
    values = [row.contribution for row in rows]
    colours = [ACCENT if row.hyperparameter == TOGETHER else BLUE if row.contribution >= 0 else PURPLE for row in rows]
    texts = [f"{typeset(number(value, signed=True))}" for value in values]
    hovers = [
        f"{label}<br>{text} [{typeset(number(row.low, signed=True))}, {typeset(number(row.high, signed=True))}]"
        for label, text, row in zip(labels, texts, rows, strict=True)
    ]
    bars = go.Bar(
        x=values, y=labels, orientation="h", marker={"color": colours}, width=0.55, text=hovers,
        textposition="none", hovertemplate="%{text}<extra></extra>",
        error_x={
            "type": "data", "symmetric": False, "array": [row.high - row.contribution for row in rows],
            "arrayminus": [row.contribution - row.low for row in rows], "color": INK, "thickness": 1.2, "width": 4,
        },
    )  # fmt: skip
    figure = empty_figure(80 + 42 * len(rows), [bars])
    right = max(0.0, *(row.high for row in rows))
    left = min(0.0, *(row.low for row in rows))
    for label, text in zip(labels, texts, strict=True):
        figure.add_annotation(
            x=1.0, xref="paper", y=label, text=text, showarrow=False, xanchor="right", font={"size": 12, "color": INK}
        )
    room = (right - left) or 1.0
    figure.update_xaxes(title_text=f"gain, {objective.axis}", range=[left - 0.05 * room, right + 0.22 * room])
    figure.update_yaxes(showgrid=False, ticks="")
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    figure.add_shape(type="line", xref="paper", yref="y", x0=0, x1=1, y0=0.5, y1=0.5, line={"color": GRID, "width": 1})
    return figure


def _changed(row: Any) -> str:
    """A hyperparameter, and below it its two values."""
    before, after = html.escape(value_text(row.literature)), html.escape(value_text(row.champion))
    return f"{html.escape(row.hyperparameter)}<br><span style='font-size:11px'>{before} → {after}</span>"


def in_words(found: Contributions, objective: Metric, measured: tuple[float, float]) -> str:
    """How far the surrogate is to be trusted: its gain beside those that were measured, in the search and again."""
    search, again = (number(value, signed=True) for value in measured)
    beside = f"measured: {search} in the search" + ("" if math.isnan(measured[1]) else f", {again} with new seeds")
    low, high = number(found.gain.low, signed=True), number(found.gain.high, signed=True)
    words = (
        f"A surrogate of the search (a Gaussian process) expects the champion to gain "
        f"{number(found.gain.value, signed=True)} over the literature's configuration in {objective.title}, "
        f"{objective.unit.words} (95 % interval {low} to {high}; {beside}). It explains "
        f"{100 * max(0.0, found.explained):.0f} % of the variance of configurations that it has not seen."
    )
    trusted = found.explained >= _TRUSTED
    return typeset(words if trusted else f"{words} That is little: read nothing into the bars.")


_TRUSTED = 0.3
