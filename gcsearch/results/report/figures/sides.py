"""Base against new accuracy, of the search and of the confirmation."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from gcsearch.config.metrics import SIDES, Stage, find
from gcsearch.config.trials import Outcome, Role, TrialRecord
from gcsearch.results.report.figures.search import DOTS, thin
from gcsearch.results.report.findings import ScatterPoint, has_both_sides, iso_h
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.responses import Axis, axis, decades, left_out, round_steps
from gcsearch.results.report.theme import (
    ACCENT,
    BAR,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ISO,
    MUTED,
    OUTCOME_COLOUR,
    PURPLE,
    SYMBOL,
    colour_scale,
    dots,
    empty_figure,
    entry,
    short,
    star,
    trial_dots,
)
from gcsearch.results.tables.wording import counted, joined, named, value_text
from gcsearch.stats import harmonic_mean

if TYPE_CHECKING:
    from pandas import DataFrame

_NAMED = 7  # configurations that a legend can name without taking the picture's place
_MARKS = ((BLUE, "diamond"), (GREEN, "square"), (PURPLE, "triangle-up"), (BROWN, "hexagon"), (GREY, "cross"))
_LANDMARKS = ("zeroshot", "coop", "sam", "gcscoop")
_EQUAL_H = "Grey curves join points of equal H."


def searched_sides(points: Sequence[ScatterPoint], champion: int | None, stage: Stage) -> Picture:
    """Every configuration of the search."""
    if stage == "search":
        measured = (
            "by validation images; the held-out part of the base classes plays “new”, and no test image or new class "
            "is involved"
        )
    else:
        measured = "an oracle: by test images of base and new classes"
    caption = f"Each point is one configuration, {measured}. {_EQUAL_H}"
    if len(points) > DOTS:
        caption += f" {left_out(len(points), DOTS)}"
    draw = partial(draw_scatter, champion=champion, stage=stage)
    return Picture("base-against-new-search", "The search", caption, partial(_points, points), draw)


def confirmed_sides(finals: Sequence[TrialRecord]) -> Picture:
    """Every configuration of the confirmation, with each of its seeds."""
    caption = f"Test images; small dots are seeds, large marks their means (names on hovering). {_EQUAL_H}"
    if one_sided := [named(record) for record in finals if not has_both_sides(record)]:
        caption += f" Without accuracies on both sides, so not in it: {joined(one_sided)}."
    measured = [record for record in finals if has_both_sides(record)]
    draw = partial(draw_confirmation, finals=measured)
    return Picture("base-against-new-confirmation", "The confirmation", caption, partial(_seeds, measured), draw)


def _points(points: Sequence[ScatterPoint]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame(points, columns=["trial", "base", "new", "rho", "outcome"])


def _seeds(finals: Sequence[TrialRecord]) -> DataFrame:
    import pandas as pd

    rows = [
        (named(record), record.role.value, seed, base, new)
        for record in finals
        for seed, base, new in zip(record.seeds, *(record.metrics[key] for key in SIDES["test"]), strict=True)
    ]
    return pd.DataFrame(rows, columns=["configuration", "role", "seed", "base", "new"])


def draw_scatter(points: DataFrame, champion: int | None, stage: Stage) -> go.Figure:
    """Base against new accuracy of the search, over curves of equal H; colour is rho where there is one."""
    figure = empty_figure(440)
    _iso_lines(figure, points)
    points = thin(points, points["base"] * points["new"] / (points["base"] + points["new"]), champion)  # by H
    radii = axis("rho", points["rho"].dropna())
    if not radii.log or points["rho"].isna().any():
        for outcome in Outcome:
            some = points[points["outcome"] == outcome]
            if len(some):
                look = {"color": OUTCOME_COLOUR[outcome], "symbol": SYMBOL[outcome]}
                figure.add_trace(_dot_cloud(some, outcome.value, **look))
    else:
        figure.add_trace(_dot_cloud(points, "", **_coloured_by(radii, points["rho"])))
    for best in points[points["trial"] == champion].itertuples():
        figure.add_trace(star(best.base, best.new, trial=champion))
    _name_sides(figure, stage)
    return figure


def _dot_cloud(points: DataFrame, name: str, **marker: Any) -> go.Scatter:
    return trial_dots(points["base"], points["new"], points["trial"], name, **marker)


def _coloured_by(radii: Axis, values: Sequence[float]) -> dict[str, Any]:
    """Marker settings that colour by log10 of the radius, with its own ticks; 0 at the low end."""
    places = short([math.log10(float(radii.place(value))) for value in values])
    regular = decades(radii.low, radii.high)
    ticks = {math.log10(place): text for place, text in radii.special.items()}
    ticks |= {math.log10(place): value_text(place) for place in regular}
    bar = {"title": {"text": "rho", "font": {"size": 13}}, "tickvals": list(ticks), "ticktext": list(ticks.values())}
    return {"color": places, "colorscale": colour_scale(), "colorbar": bar | BAR, "size": 10}


def _iso_lines(figure: go.Figure, points: DataFrame) -> None:
    """Curves of equal H behind the points, and axis ranges that fit the points."""
    ranges = []
    for side in ("base", "new"):
        values = points[side]
        pad = max(0.08 * (max(values) - min(values)), 0.75)
        ranges.append((max(min(values) - pad, 0.1), min(max(values) + pad, 100.9)))
    (left, right), (bottom, top) = ranges
    for level in round_steps(harmonic_mean(left, bottom), harmonic_mean(right, top), count=7):
        line = [(x, y) for x, y in iso_h(level, left, right, 200) if bottom <= y <= top]
        if len(line) < 2:
            continue
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in line], y=[y for _, y in line], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": ISO, "width": 1.2},
            )
        )  # fmt: skip
        x, y = line[-1]
        figure.add_annotation(
            x=x, y=y, text=f"H {level:g}", showarrow=False, font={"size": 11, "color": MUTED},
            xanchor="right", yanchor="bottom",
        )  # fmt: skip
    figure.update_xaxes(range=[left, right], showgrid=False)
    figure.update_yaxes(range=[bottom, top], showgrid=False)


def draw_confirmation(seeds: DataFrame, finals: Sequence[TrialRecord]) -> go.Figure:
    """Base against new accuracy on test images: each seed small, each configuration's mean large and named.

    The others of the shortlist are grey and tell their name on hovering; of many configurations all but the landmarks
    are.
    """
    figure = empty_figure(440)
    _iso_lines(figure, seeds)
    many = sum(record.role is not Role.SHORTLISTED for record in finals) > _NAMED
    for index, record in enumerate(finals):
        base, new = (record.metrics[key] for key in SIDES["test"])
        mine, name = record.role is Role.CHAMPION, named(record)
        quiet = record.role is Role.SHORTLISTED or (many and not mine and record.config.method not in _LANDMARKS)
        colour, symbol = (GREY, "circle") if quiet else _MARKS[index % len(_MARKS)]
        colour = ACCENT if mine else colour
        texts = [f"{html.escape(name)}, seed {seed}" for seed in record.seeds]
        figure.add_trace(dots(base, new, texts, size=6, color=colour, opacity=0.55, line={"width": 0}))
        x, y, text = fmean(base), fmean(new), f"{html.escape(name)}, mean of {counted(len(base), 'seed')}"
        if mine:
            figure.add_trace(star(x, y, text=text))
        else:
            shown = "" if quiet else entry(name)
            figure.add_trace(dots([x], [y], [text], shown, size=13, color=colour, symbol=symbol))
    _name_sides(figure, "test")
    return figure


def _name_sides(figure: go.Figure, stage: Stage) -> None:
    base, new = (find(key).axis for key in SIDES[stage])
    figure.update_xaxes(title_text=base)
    figure.update_yaxes(title_text=new)
