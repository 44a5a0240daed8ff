"""Trials alive at each rung, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from gcsearch.results.report.numbers.course import AtRung, TimeSpent
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.theme import BLUE, GREY, INK, empty_figure
from gcsearch.results.tables.wording import duration

if TYPE_CHECKING:
    from pandas import DataFrame


def survival_picture(rungs: Sequence[AtRung]) -> Picture:
    """Bars of the trials that came to each rung."""
    caption = (
        "How many trials came to each rung, at a share of their own epochs, and how many had to leave there. What is "
        "missing between a bar and the next beyond those diverged or failed on the way."
    )
    return Picture("survival-at-rungs", "Trials alive", caption, partial(_rungs, rungs), draw_survival)


def time_picture(spent: Sequence[TimeSpent]) -> Picture:
    """A bar for each stage."""
    caption = "Time on the clock, of all sessions together, by the journal's times. Encoding of images is not in it."
    return Picture("where-the-time-went", "Where the time went", caption, partial(_spent, spent), draw_time)


def _rungs(rungs: Sequence[AtRung]) -> DataFrame:
    import pandas as pd

    rows = [(one.share, one.arrived, one.pruned, one.went_on) for one in rungs]
    return pd.DataFrame(rows, columns=["share", "arrived", "pruned", "went_on"])


def _spent(spent: Sequence[TimeSpent]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame(spent, columns=["stage", "seconds"])


def draw_survival(rungs: DataFrame) -> go.Figure:
    """Bars side by side, what had to leave on top."""
    last = len(rungs) - 1
    names = [
        "start" if place == 0 else "end" if place == last else f"{100 * share:.3g} %"
        for place, share in enumerate(rungs["share"])
    ]
    figure = empty_figure(300)
    for column, name, colour in (("went_on", "went on", BLUE), ("pruned", "pruned here", GREY)):
        counts = [int(count) for count in rungs[column]]
        texts = [str(count) if count else "" for count in counts]
        figure.add_trace(
            go.Bar(
                x=names, y=counts, name=name, marker={"color": colour}, text=texts, textposition="auto", width=0.6,
                hovertemplate=f"%{{x}}: %{{y}} {name}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title_text="share of a trial's own epochs", type="category")
    figure.update_yaxes(title_text="trials", rangemode="tozero")
    return figure


def draw_time(spent: DataFrame) -> go.Figure:
    """Bars from the first stage down to the last."""
    stages, seconds = list(spent["stage"])[::-1], [float(one) for one in spent["seconds"]][::-1]
    total, longest = sum(seconds), max(seconds)
    unit, size = ("hours", 3600.0) if longest > 5400 else ("minutes", 60.0) if longest > 90 else ("seconds", 1.0)
    texts = [f"{duration(one)} ({100 * one / total:.0f} %)" for one in seconds]
    bars = go.Bar(
        x=[one / size for one in seconds], y=stages, orientation="h", marker={"color": BLUE}, width=0.6, text=texts,
        textposition="outside", textfont={"color": INK}, cliponaxis=False, hoverinfo="skip",
    )  # fmt: skip
    figure = empty_figure(80 + 36 * len(stages), [bars])
    figure.update_xaxes(title_text=unit, range=[0, 1.35 * longest / size])
    figure.update_yaxes(showgrid=False, ticks="")
    return figure
