"""Parallel coordinates: every configuration a line through its hyperparameters to the objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from gcsearch.config.base import Value
from gcsearch.config.metrics import Metric
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.responses import Axis, Responses, left_out, round_steps, thinned
from gcsearch.results.report.theme import (
    ACCENT,
    BAR,
    BLUE,
    GRID,
    INK,
    MUTED,
    SURFACE,
    colour_scale,
    empty_figure,
    short,
)
from gcsearch.results.tables.wording import value_text

if TYPE_CHECKING:
    from pandas import DataFrame

LINES = 300
"""Configurations that are drawn; of more, a third are the best, the others at even distances in rank."""
_ABSENT = -0.1  # where a line passes an axis whose hyperparameter its configuration does not have
_LOOK: Mapping[str, dict[str, Any]] = {
    "confirmed": {"color": INK, "width": 1.6},
    "literature": {"color": BLUE, "width": 3, "dash": "dash"},
    "champion": {"color": ACCENT, "width": 3.4},
}


def parallel_coordinates(tried: Responses, roles: Mapping[int, str], objective: Metric) -> Picture:
    """Every completed configuration; `roles` are of the trials that stand out: champion, literature, confirmed."""
    total = len(tried.records)
    caption = (
        "Each line is a configuration; follow those of the brightest colour, the best ones, to "
        "where they bundle. The lowest tenth shares one colour; axes are scaled as they were sampled."
    )
    if any(set(tried.axes) - set(record.config.values) for record in tried.records):
        caption += " A line below an axis: the configuration has no such hyperparameter."
    if total > LINES:
        caption += " " + left_out(total, LINES)
    draw = partial(draw_parallel, axes=list(tried.axes.values()), objective=objective)
    return Picture(
        "parallel-coordinates", "Parallel coordinates", caption, partial(_lines, tried, roles, objective), draw
    )


def _lines(tried: Responses, roles: Mapping[int, str], objective: Metric) -> DataFrame:
    """A row for each configuration, the best first; `drawn` says whether it has a line."""
    import pandas as pd

    order = sorted(range(len(tried.records)), key=lambda i: -tried.values[i])
    shown = thinned(len(order), LINES)
    rows = [
        (
            record.number,
            *(record.config.values.get(name) for name in tried.axes),
            tried.values[i],
            roles.get(record.number, ""),
            place in shown or record.number in roles,
        )
        for place, i in enumerate(order)
        for record in [tried.records[i]]
    ]
    return pd.DataFrame(rows, columns=["trial", *tried.axes, objective.key, "role", "drawn"], dtype=object)


def height(one: Axis, value: Value | None) -> float:
    """Where a value lies on its axis, 0..1 in the scale that it was sampled in; below it where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _ABSENT
    if one.words:
        return one.words.index(value_text(value)) / max(len(one.words) - 1, 1)
    return _unit(one, float(one.place(value)))


def _unit(one: Axis, place: float) -> float:
    ends = min([one.low, *one.special]), one.high, place
    low, high, at = map(math.log, ends) if one.log else ends
    return (at - low) / (high - low)


def draw_parallel(lines: DataFrame, axes: Sequence[Axis], objective: Metric) -> go.Figure:
    """Lines from the worst to the best, those that stand out on top with a mark on every axis."""
    figure = empty_figure(430)
    values = [float(value) for value in lines[objective.key]]
    low, high = quantiles(values, n=10, method="inclusive")[0], max(values)
    bottom = min(values) if high == low else low
    top = high if high > bottom else bottom + 1.0
    last = len(axes)
    drawn = lines[lines["drawn"].astype(bool)]
    heights = [
        [*(height(one, value) for one, value in zip(axes, row[1 : last + 1], strict=True)),
         min(1.0, max(0.0, (float(row[last + 1]) - bottom) / (top - bottom)))]
        for row in drawn.itertuples(index=False)
    ]  # fmt: skip
    _axes(figure, axes, bottom, top)
    colours = [colour for _, colour in colour_scale()]
    share = [0 if top == bottom else line[-1] for line in heights]
    bins = [min(int(one * len(colours)), len(colours) - 1) for one in share]
    numbers, roles = list(drawn["trial"]), list(drawn["role"])
    for shade, colour in enumerate(colours):
        here = [i for i, at in enumerate(bins) if at == shade and not roles[i]]
        line = {"color": colour, "width": 1 + 0.2 * shade}
        figure.add_trace(_polylines([heights[i] for i in here], [numbers[i] for i in here], line))
    for role, line in _LOOK.items():
        here = [i for i, one in enumerate(roles) if one == role]
        if here:
            trace = _polylines([heights[i] for i in here], [numbers[i] for i in here], line)
            mark = {"size": 10 if role == "champion" else 6, "symbol": "star" if role == "champion" else "circle"}
            trace.update(mode="lines+markers", name=role, showlegend=True, opacity=1)
            trace.marker = {**mark, "color": line["color"], "line": {"width": 1, "color": SURFACE}}
            figure.add_trace(trace)
    bar = {"title": {"text": objective.axis, "font": {"size": 13}, "side": "right"}} | BAR
    look = {"color": [bottom, top], "colorscale": colour_scale(), "colorbar": bar, "opacity": 0, "showscale": True}
    figure.add_trace(go.Scatter(x=[0, 0], y=[0, 0], mode="markers", marker=look, hoverinfo="skip", showlegend=False))
    return figure


def _polylines(heights: Sequence[Sequence[float]], trials: Sequence[int], line: Mapping[str, Any]) -> go.Scatter:
    """Lines as one trace, with gaps between them; each point knows its trial."""
    x: list[int] = []
    y: list[float] = []
    owners: list[int] = []
    for one, trial in zip(heights, trials, strict=True):
        x += [*range(len(one)), len(one) - 1]
        y += [*one, math.nan]
        owners += [trial] * (len(one) + 1)
    return go.Scatter(
        x=x, y=short(y), mode="lines", line=dict(line), opacity=0.7, customdata=owners, showlegend=False,
        connectgaps=False, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _axes(figure: go.Figure, axes: Sequence[Axis], low: float, high: float) -> None:
    """An upright line for each hyperparameter and the objective, with its ticks beside it."""
    for place, one in enumerate(axes):
        if one.words:
            ticks = {height(one, word): word for word in one.words} if len(one.words) > 1 else {0.0: one.words[0]}
        else:
            given = one.ticks()
            regular = round_steps(one.low, one.high) if "tickvals" not in given else given["tickvals"]
            texts = given.get("ticktext") or list(map(value_text, regular))
            ticks = {_unit(one, float(at)): text for at, text in zip(regular, texts, strict=True)}
        _axis(figure, place, ticks)
    _axis(figure, len(axes), {(at - low) / (high - low): value_text(float(at)) for at in round_steps(low, high)})
    names = [*(one.name for one in axes), "objective"]
    figure.update_xaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[-0.15, len(axes) + 0.35], showgrid=False,
        side="bottom", tickfont={"size": 13, "color": INK},
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.16, 1.06])


def _axis(figure: go.Figure, place: int, ticks: Mapping[float, str]) -> None:
    inside = {at: text for at, text in ticks.items() if -0.001 <= at <= 1.001}
    figure.add_trace(
        go.Scatter(
            x=[place, place], y=[0, 1], mode="lines", line={"color": MUTED, "width": 1}, hoverinfo="skip",
            showlegend=False,
        )
    )  # fmt: skip
    for at, text in inside.items():
        figure.add_annotation(
            x=place, y=at, text=text, showarrow=False, xanchor="left", xshift=3, font={"size": 11, "color": MUTED},
            bgcolor=SURFACE,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[place] * len(inside), y=list(inside), mode="markers", hoverinfo="skip", showlegend=False,
            marker={"symbol": "line-ew-open", "size": 6, "color": GRID},
        )
    )  # fmt: skip
