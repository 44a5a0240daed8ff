"""Whether the search was worth it: the champion's gain over each reference."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from gcsearch.config.metrics import Metric
from gcsearch.config.trials import Role
from gcsearch.results.report.findings import ConfirmedRow
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.theme import ACCENT, BLUE, GREY, INK, MUTED, PURPLE, empty_figure, entry
from gcsearch.results.tables.wording import typeset
from gcsearch.stats import number

if TYPE_CHECKING:
    from pandas import DataFrame


def worth_picture(rows: Sequence[ConfirmedRow], metric: Metric) -> Picture:
    """The gain over each reference with its interval."""
    caption = (
        f"How many points of {metric.title} on test images the champion is ahead of what needs no search, with the "
        "95 % interval of the mean difference, paired by seed. Where the line crosses zero, these seeds do not tell "
        "the two apart."
    )
    draw = partial(draw_worth, metric=metric)
    return Picture("is-it-worth-it", "Is it worth it?", caption, partial(_worth, rows), draw)


def _worth(rows: Sequence[ConfirmedRow]) -> DataFrame:
    import pandas as pd

    leads = [
        (row.name, row.lead.n, row.lead.mean, row.lead.low, row.lead.high, row.lead.verdict.value)
        for row in rows
        if row.lead and row.record.role is Role.REFERENCE
    ]
    return pd.DataFrame(leads, columns=["against", "seeds", "gain", "low", "high", "verdict"])


def draw_worth(leads: DataFrame, metric: Metric) -> go.Figure:
    """A dot and its interval for each reference, in the order of the table."""
    rows = list(leads.itertuples(index=False))[::-1]
    names = [entry(row.against) for row in rows]
    apart = [not (math.isnan(row.low) or row.low <= 0 <= row.high) for row in rows]
    colours = [GREY if not told else BLUE if row.gain > 0 else PURPLE for told, row in zip(apart, rows, strict=True)]
    ends = [(row.gain, row.gain) if math.isnan(row.low) else (row.low, row.high) for row in rows]
    texts = [
        f"{html.escape(row.against)}: {typeset(number(row.gain, signed=True))}"
        + (f" [{typeset(number(low, signed=True))}, {typeset(number(high, signed=True))}]" if high > low else "")
        for row, (low, high) in zip(rows, ends, strict=True)
    ]
    figure = empty_figure(90 + 40 * len(rows))
    for row, name, colour, (low, high), text in zip(rows, names, colours, ends, texts, strict=True):
        figure.add_trace(
            go.Scatter(
                x=[low, high], y=[name, name], mode="lines", line={"color": colour, "width": 3}, hoverinfo="skip",
                showlegend=False,
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[row.gain], y=[name], mode="markers", marker={"color": colour, "size": 12}, text=[text],
                hovertemplate="%{text}<extra></extra>", showlegend=False,
            )
        )  # fmt: skip
        figure.add_annotation(
            x=1, xref="paper", y=name, text=typeset(number(row.gain, signed=True)), showarrow=False, xanchor="right",
            font={"size": 12, "color": INK},
        )  # fmt: skip
    left, right = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    room = (right - left) or 1.0
    figure.add_vline(x=0, line={"color": ACCENT, "width": 1.5})
    figure.update_xaxes(
        title_text=f"champion ahead by, points of {metric.title}", range=[left - 0.06 * room, right + 0.22 * room]
    )
    figure.update_yaxes(showgrid=False, ticks="", categoryorder="array", categoryarray=names, tickfont={"color": INK})
    figure.update_layout(legend={"font": {"color": MUTED}})
    return figure
