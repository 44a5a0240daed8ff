"""The search: its course, the objective over the hyperparameters, and their importance."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from gcsearch.config.base import Value
from gcsearch.config.metrics import Metric
from gcsearch.config.trials import Outcome
from gcsearch.results.report.findings import History
from gcsearch.results.report.numbers.surrogate import Estimates
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.responses import Axis, Responses, Surface, left_out, round_steps, thinned
from gcsearch.results.report.theme import (
    ACCENT,
    BAND,
    BAR,
    BLUE,
    GREY,
    INK,
    OUTCOME_COLOUR,
    SURFACE,
    SYMBOL,
    colour_scale,
    empty_figure,
    short,
    star,
    styled,
    trial_dots,
)

if TYPE_CHECKING:
    from pandas import DataFrame, Series

DOTS = 2000
"""Configurations that a picture draws as dots: more lie upon one another."""

Expected = tuple[Sequence[Value], Estimates]
"""Values of a hyperparameter and what the surrogate expects there."""

_MEANING = {
    "rho": "rho, radius of the perturbation",
    "beta1": "beta1, lower bound on the cosine",
    "beta2": "beta2, upper bound on the cosine",
    "lr": "lr, learning rate",
    "epochs": "epochs",
    "kg_lambda": "kg_lambda, weight of guidance",
    "prograd_lambda": "prograd_lambda, share removed",
    "nfl_lambda": "nfl_lambda, weight of other names",
    "nfl_count": "nfl_count, other names",
    "probe_epochs": "probe_epochs, of the probe run",
    "rank": "rank, directions kept",
    "n_ctx": "n_ctx, context vectors",
}


def file_name(words: str) -> str:
    """Words as a part of a picture's name."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def course_of_search(course: History, champion: int | None, objective: Metric) -> Picture:
    """The objective of each trial in the order of proposal."""
    caption = f"Shown is {objective.legend}. Bars are standard deviations over seeds: read differences against them."
    if len(course.numbers) > DOTS:
        caption += f" {left_out(len(course.numbers), DOTS)}"
    draw = partial(draw_history, champion=champion, objective=objective)
    return Picture("course-of-the-search", "Course of the search", caption, partial(_course, course), draw)


def slice_of(
    tried: Responses, name: str, champion: int | None, objective: Metric, expected: Expected | None = None
) -> Picture:
    """The objective over one hyperparameter; `expected` is the surrogate's with all others as the champion has them."""
    one = tried.axes[name]
    caption = "".join(f"“{text}” stands apart from the numbers. " for text in one.special.values())
    if expected:
        caption += "The band is the 95 % interval of the difference from the champion."
    if len(tried.having((name,))) > DOTS:
        caption += " " + left_out(len(tried.having((name,))), DOTS)
    draw = partial(draw_slice, one=one, champion=champion, objective=objective)
    data = partial(_slice, tried, name, objective, expected)
    return Picture(f"slice-{file_name(name)}", _MEANING.get(name, name), caption.strip(), data, draw)


def map_of(
    tried: Responses, pair: tuple[str, str], ground: Surface | None, champion: int | None, objective: Metric
) -> Picture:
    """The objective over two hyperparameters."""
    draw = partial(draw_contour, tried=tried, pair=pair, ground=ground, champion=champion, objective=objective)
    name = f"map-{'-'.join(map(file_name, pair))}"
    both = len(tried.having(pair))
    caption = "Bright is good: the surface averages the configurations near by." if ground else "Bright is good."
    caption += " " + left_out(both, DOTS) if both > DOTS else ""
    return Picture(name, " and ".join(pair), caption, partial(_places, tried, pair, objective), draw)


def importances_picture(shares: Mapping[str, float]) -> Picture:
    """PED-ANOVA's importances."""
    caption = "How far the best tenth of configurations differs from all configurations, per hyperparameter."
    return Picture("importances", "In the best tenth (PED-ANOVA)", caption, partial(_shares, shares), draw_importances)


def _course(course: History) -> DataFrame:
    import pandas as pd

    return pd.DataFrame(dict(zip(("trial", "mean", "deviation", "best", "outcome"), course, strict=True)))


def _places(tried: Responses, names: tuple[str, ...], objective: Metric) -> DataFrame:
    """Trial, hyperparameters and objective of every completed configuration that has these hyperparameters."""
    import pandas as pd

    rows = [
        (tried.records[i].number, *(tried.records[i].config.values[name] for name in names), tried.values[i])
        for i in tried.having(names)
    ]
    return pd.DataFrame(rows, columns=["trial", *names, objective.key], dtype=object)


def _slice(tried: Responses, name: str, objective: Metric, expected: Expected | None) -> DataFrame:
    """The configurations, and below them the line that is expected, which has no trial but an interval."""
    points = _places(tried, (name,), objective).assign(low=None, high=None)
    if expected is None:
        return points
    import pandas as pd

    values, estimates = expected
    rows = [(None, value, float(estimates.means[i]), *estimates.interval(i)) for i, value in enumerate(values)]
    return pd.concat([points, pd.DataFrame(rows, columns=points.columns, dtype=object)], ignore_index=True)


def _shares(shares: Mapping[str, float]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame({"hyperparameter": list(shares), "share": list(shares.values())})


def draw_history(course: DataFrame, champion: int | None, objective: Metric) -> go.Figure:
    """Each trial with its deviation over seeds, and the best so far; trials without a number on the floor."""
    figure = empty_figure(360)
    known, lost = course[np.isfinite(course["mean"])], course[~np.isfinite(course["mean"])]
    drawn = thin(known, known["mean"], champion)
    for outcome in Outcome:
        here = drawn[drawn["outcome"] == outcome]
        if len(here):
            look = {"color": OUTCOME_COLOUR[outcome], "symbol": SYMBOL[outcome]}
            trace = trial_dots(here["trial"], here["mean"], here["trial"], outcome.value, **look)
            deviations = short(here["deviation"].fillna(0.0))
            trace.error_y = {"type": "data", "array": deviations, "thickness": 1, "width": 0, "color": GREY}
            figure.add_trace(trace)
    if len(known):
        steps = course[course["best"].ne(course["best"].shift()) | course["best"].ne(course["best"].shift(-1))]
        best = go.Scatter(
            x=list(steps["trial"]), y=short(steps["best"]), mode="lines", name="best so far", hoverinfo="skip",
            line={"shape": "hv", "color": ACCENT},
        )  # fmt: skip
        figure.add_trace(best)
    for outcome in sorted(set(lost["outcome"])):
        trials = list(lost[lost["outcome"] == outcome]["trial"])
        line = {"width": 2, "color": OUTCOME_COLOUR[outcome]}
        name = f"{outcome}, no number"
        floor = trial_dots(trials, [0] * len(trials), trials, name, symbol=SYMBOL[outcome], line=line)
        figure.add_trace(floor.update(yaxis="y2"))
    for mine in known[known["trial"] == champion].itertuples():
        figure.add_trace(star(mine.trial, mine.mean, trial=champion))
    last = max(course["trial"])
    ticks = [tick for tick in round_steps(0, max(last, 1), count=10) if tick.is_integer()]
    figure.update_xaxes(title_text="trial, in the order of proposal", range=[-0.7, last + 0.7], tickvals=ticks)
    figure.update_yaxes(title_text=objective.axis, domain=[0.12 if len(lost) else 0, 1])
    figure.update_layout(yaxis2={"domain": [0, 0.08], "range": [-1, 1], "visible": False})
    figure.update_layout(xaxis={"anchor": "free", "position": 0})
    return figure


def draw_slice(points: DataFrame, one: Axis, champion: int | None, objective: Metric) -> go.Figure:
    """One hyperparameter: its value in every completed configuration that has it, against the objective."""
    line, points = points[points["trial"].isna()], points[points["trial"].notna()]
    points = thin(points, points[objective.key], champion)
    trials, values = list(points["trial"]), list(points[objective.key])
    places = list(map(one.place, points[one.name]))
    figure = styled(
        go.Figure([*_expected(line, one, objective), trial_dots(places, values, trials, size=8)]), 300, top=30
    )
    if len(line):
        every = [*values, *line[objective.key]]
        low, high = min(every), max(every)
        figure.update_yaxes(range=[low - 0.06 * (high - low), high + 0.06 * (high - low)])
    if one.words:
        figure.update_xaxes(categoryorder="array", categoryarray=one.words)
    if champion in trials:
        spot = trials.index(champion)
        figure.add_trace(star(places[spot], values[spot], trial=champion, legend=False))
    _apply(figure.update_xaxes, one)
    figure.update_yaxes(title_text=objective.axis)
    return figure


def thin(points: DataFrame, worth: Series, champion: int | None) -> DataFrame:
    """The rows that are drawn as dots: of many the best and others at even distances of rank, and the champion."""
    if len(points) <= DOTS:
        return points
    order = worth.astype(float).sort_values(ascending=False).index
    shown = {order[place] for place in thinned(len(order), DOTS)}
    return points[[row in shown or trial == champion for row, trial in zip(points.index, points["trial"], strict=True)]]


def _expected(line: DataFrame, one: Axis, objective: Metric) -> list[go.Scatter]:
    """The surrogate's line over the band of its interval."""
    if not len(line):
        return []
    x = [float(one.place(value)) for value in line[one.name]]
    edge = [*line["high"], *reversed(list(line["low"]))]
    band = go.Scatter(
        x=[*x, *reversed(x)], y=short(edge), fill="toself", fillcolor=BAND[BLUE], line={"width": 0}, mode="lines",
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    middle = go.Scatter(
        x=x, y=short(list(line[objective.key])), mode="lines", line={"color": BLUE, "width": 2}, showlegend=False,
        hovertemplate="expected %{y:.2f} at %{x:.4g}<extra></extra>",
    )  # fmt: skip
    return [band, middle]


def draw_contour(
    points: DataFrame,
    tried: Responses,
    pair: tuple[str, str],
    ground: Surface | None,
    champion: int | None,
    objective: Metric,
) -> go.Figure:
    """A map of two hyperparameters: each configuration a dot in the colour of its value, over `ground` if there is one.

    The lowest tenth of values shares one colour.
    """
    figure = styled(go.Figure(), 340, top=30)
    low, high = quantiles(tried.values, n=10, method="inclusive")[0], max(tried.values)
    if ground:
        figure.add_trace(_contours(ground, low, high))
    points = thin(points, points[objective.key], champion)
    x, y = (list(map(tried.axes[name].place, points[name])) for name in pair)
    trials = list(points["trial"])
    look: dict[str, Any] = {"size": 6, "line": {"width": 1, "color": INK}} if ground else {"size": 11}
    bar = {"title": {"text": objective.axis, "font": {"size": 13}, "side": "right"}} | BAR
    look |= {"color": short(list(points[objective.key])), "colorscale": colour_scale(), "colorbar": bar}
    figure.add_trace(trial_dots(x, y, trials, cmin=low, cmax=high, **look))
    if champion in trials:
        spot = trials.index(champion)
        figure.add_trace(star(x[spot], y[spot], trial=champion, legend=False))
    _apply(figure.update_xaxes, tried.axes[pair[0]])
    _apply(figure.update_yaxes, tried.axes[pair[1]])
    return figure


def _contours(ground: Surface, low: float, high: float) -> go.Contour:
    rounded = [[round(value, 2) for value in row] for row in ground.z]
    steps = {"start": low, "end": high, "size": max(high - low, 0.01) / 12}
    return go.Contour(
        x=ground.x, y=ground.y, z=rounded, zmin=low, zmax=high, colorscale=colour_scale(), showscale=False,
        autocontour=False, contours=steps, line={"width": 0.4, "color": SURFACE}, connectgaps=False, hoverinfo="skip",
    )  # fmt: skip


def _apply(update: Callable[..., Any], one: Axis) -> None:
    update(title_text=_MEANING.get(one.name, one.name), **one.ticks())


def draw_importances(shares: DataFrame) -> go.Figure:
    """A bar per hyperparameter, the largest on top."""
    names = list(shares["hyperparameter"])[::-1]
    values = [100.0 * share for share in shares["share"]][::-1]
    bar = go.Bar(
        x=values, y=names, orientation="h", marker={"color": BLUE},
        text=[f"{value:.0f} %" for value in values], textposition="outside", cliponaxis=False,
        hoverinfo="skip", width=0.6,
    )  # fmt: skip
    figure = empty_figure(70 + 38 * len(names), [bar])
    figure.update_xaxes(
        title_text="share of importance (%)", range=[0, 1.2 * max(values)], tickvals=round_steps(0, max(values))
    )
    figure.update_yaxes(showgrid=False, ticks="")
    return figure
