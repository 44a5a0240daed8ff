"""Numbers over the epochs: learning curves, and what a gradient rule did."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from gcsearch.config.metrics import PERCENT, Metric
from gcsearch.results.report.findings import Branches, Curve
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.theme import ACCENT, BAND, BLUE, GREEN, GREY, MUTED, PURPLE, empty_figure, entry
from gcsearch.results.tables.wording import value_text

if TYPE_CHECKING:
    from pandas import DataFrame

_OTHER_LINES = ((BLUE, "dash"), (GREEN, "dot"), (PURPLE, "dashdot"), (GREY, "longdash"))


def learning_curves(curves: Sequence[tuple[str, Curve]], objective: Metric) -> Picture:
    """The objective over the epochs; the first curve is the champion's."""
    caption = f"Shown is {objective.legend}; the band spans the champion's lowest and highest seed."
    draw = partial(draw_curves, objective=objective)
    return Picture("learning-curves", "During the search", caption, partial(_curves, curves), draw)


def chosen_gradients(chosen: Branches) -> Picture:
    """Which gradient the steps of a constrained rule took."""
    caption = (
        "Which gradient the steps of each epoch took: the plain one where the cosine is at or below beta1, the "
        "perturbed one at or above beta2, between them the projection. Means over seeds."
    )
    return Picture("gradient-shares", "Steps by gradient", caption, partial(_shares, chosen), draw_shares)


def cosine_of_gradients(chosen: Branches) -> Picture:
    """What it chose by."""
    caption = "The cosine between the plain and the perturbed gradient, which decides; the band spans all seeds."
    draw = partial(draw_cosine, bounds=chosen.bounds)
    return Picture("gradient-cosine", "What it is decided by", caption, partial(_cosine, chosen), draw)


def _curves(curves: Sequence[tuple[str, Curve]]) -> DataFrame:
    import pandas as pd

    rows = [(name, *point) for name, one in curves for point in zip(*one, strict=True)]
    return pd.DataFrame(rows, columns=["configuration", "epoch", "mean", "low", "high"])


def _shares(chosen: Branches) -> DataFrame:
    import pandas as pd

    given = {"epoch": chosen.epochs, "plain": chosen.plain, "projected": chosen.projected}
    return pd.DataFrame({**given, "perturbed": chosen.perturbed})


def _cosine(chosen: Branches) -> DataFrame:
    import pandas as pd

    one = chosen.cosine
    return pd.DataFrame({"epoch": one.epochs, "mean": one.mean, "low": one.low, "high": one.high, **chosen.bounds})


def draw_curves(curves: DataFrame, objective: Metric) -> go.Figure:
    """Learning curves; the first is the champion's and has a band from the lowest to the highest seed."""
    figure = empty_figure(400)
    unit = f" {objective.unit.sign}" if objective.unit is PERCENT else ""
    several = list(curves.groupby("configuration", sort=False))
    for index, (name, one) in reversed(list(enumerate(several))):
        if index == 0:
            figure.add_trace(_band(one, BAND[ACCENT]))
            line = {"color": ACCENT, "width": 3}
        else:
            colour, dash = _OTHER_LINES[(index - 1) % len(_OTHER_LINES)]
            line = {"color": colour, "width": 1.8, "dash": dash}
        template = f"{html.escape(name)}<br>epoch %{{x}}: %{{y:.2f}}{unit}<extra></extra>"
        figure.add_trace(
            go.Scatter(
                x=list(one["epoch"]), y=list(one["mean"]), mode="lines", name=entry(name), line=line,
                hovertemplate=template, legendrank=index + 1,
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="epoch", rangemode="tozero")
    figure.update_yaxes(title_text=f"{objective.axis}, mean over seeds")
    return figure


def _band(one: DataFrame, colour: str) -> go.Scatter:
    epochs = list(one["epoch"])
    return go.Scatter(
        x=[*epochs, *reversed(epochs)], y=[*one["high"], *reversed(list(one["low"]))], fill="toself", fillcolor=colour,
        line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def draw_shares(shares: DataFrame) -> go.Figure:
    """Share of steps in each branch of the gradient rule."""
    figure = empty_figure(300)
    for name, colour in (("plain", GREY), ("projected", BLUE), ("perturbed", GREEN)):
        figure.add_trace(
            go.Scatter(
                x=list(shares["epoch"]), y=list(shares[name]), mode="lines", name=name, stackgroup="one",
                fillcolor=colour, line={"width": 0.5, "color": colour},
                hovertemplate=f"{name}: %{{y:.0f}} %, epoch %{{x}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="share of steps (%)", range=[0, 100])
    return figure


def draw_cosine(cosine: DataFrame, bounds: dict[str, float]) -> go.Figure:
    """Cosine between the plain and the perturbed gradient, with the two bounds."""
    figure = empty_figure(300, [_band(cosine, BAND[ACCENT])])
    figure.add_trace(
        go.Scatter(
            x=list(cosine["epoch"]), y=list(cosine["mean"]), mode="lines", name="cosine, mean over seeds",
            line={"color": ACCENT, "width": 3}, hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    for name, value in bounds.items():
        figure.add_hline(
            y=value, line={"color": MUTED, "width": 1.2, "dash": "dash"}, annotation_text=f"{name} {value_text(value)}",
            annotation_position="bottom right", annotation_font={"size": 12, "color": MUTED},
        )  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="cosine of the two gradients", range=[min([-0.05, *cosine["low"]]), 1.04])
    return figure


def on_test_images(curves: Sequence[tuple[str, Curve]], metric: Metric, every: str) -> Picture:
    """A metric of test images over the epochs of the confirmation; the first curve is the champion's."""
    caption = (
        f"Shown is {metric.legend}, {every}; the band spans the champion's lowest and highest seed. A curve that falls "
        "while that of the trained classes rises is overfitting. Nothing was chosen by these numbers."
    )
    draw = partial(draw_curves, objective=metric)
    return Picture(f"test-curves-{metric.column}", metric.title.capitalize(), caption, partial(_curves, curves), draw)
