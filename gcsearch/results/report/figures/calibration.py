"""How sure against how right: reliability diagrams."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from gcsearch.config.trials import Role, TrialRecord
from gcsearch.results.report.picture import Picture
from gcsearch.results.report.theme import ACCENT, BLUE, GREEN, GREY, ISO, PURPLE, SURFACE, empty_figure, entry, short
from gcsearch.results.tables.wording import named
from gcsearch.stats import BINS

if TYPE_CHECKING:
    from pandas import DataFrame

_LINES = ((BLUE, "dash"), (GREEN, "dot"), (PURPLE, "dashdot"), (GREY, "longdash"))
_LEAST = 20  # images of a bin that is drawn: the share of right ones among fewer is mostly chance
_SIDES = {"base": "Base classes", "new": "New classes", "all": "All classes"}


def reliability_diagram(records: Sequence[TrialRecord], side: str) -> Picture:
    """Accuracy over confidence in `BINS` bins, of test images of one side; the first record is the champion's."""
    caption = (
        f"Test images of all seeds in {BINS} equal-width bins of confidence; larger marks hold more images. On the "
        "diagonal an 80 % sure answer is right in 80 of 100 cases; below it the prompts are too sure of themselves, "
        f"above it not sure enough. Bins of fewer than {_LEAST} images are not drawn."
    )
    draw = partial(draw_reliability, champion=named(records[0]) if records[0].role is Role.CHAMPION else "")
    return Picture(f"reliability-{side}", _SIDES[side], caption, partial(_bins, records, side), draw)


def _bins(records: Sequence[TrialRecord], side: str) -> DataFrame:
    import pandas as pd

    rows = [
        (named(record), place / BINS, (place + 1) / BINS, int(count), sure / count, right / count)
        for record in records
        for place, (count, right, sure) in enumerate(zip(*record.reliability[side], strict=True))
        if count
    ]
    return pd.DataFrame(rows, columns=["configuration", "low", "high", "images", "confidence", "accuracy"])


def draw_reliability(bins: DataFrame, champion: str) -> go.Figure:
    """A line through the bins of each configuration, and the diagonal."""
    figure = empty_figure(380)
    ideal = {"color": ISO, "width": 1.5}
    figure.add_trace(go.Scatter(x=[0, 100], y=[0, 100], mode="lines", line=ideal, hoverinfo="skip", showlegend=False))
    several = list(bins[bins["images"] >= _LEAST].groupby("configuration", sort=False))
    most = max(bins["images"])
    for index, (name, one) in reversed(list(enumerate(several))):
        mine = name == champion
        colour, dash = (ACCENT, "solid") if mine else _LINES[index % len(_LINES)]
        sizes = [4 + 12 * (count / most) ** 0.5 for count in one["images"]]
        line = {"color": colour, "width": 3 if mine else 1.8, "dash": dash}
        texts = [
            f"{html.escape(name)}<br>{100 * sure:.1f} % sure, {100 * right:.1f} % right, {count} images"
            for sure, right, count in zip(one["confidence"], one["accuracy"], one["images"], strict=True)
        ]
        figure.add_trace(
            go.Scatter(
                x=short([100 * sure for sure in one["confidence"]]),
                y=short([100 * right for right in one["accuracy"]]),
                mode="lines+markers", name=entry(name), line=line,
                marker={"size": sizes, "color": colour, "line": {"width": 1, "color": SURFACE}}, text=texts,
                hovertemplate="%{text}<extra></extra>", legendrank=index + 1,
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="confidence (%)", range=[0, 102])
    figure.update_yaxes(title_text="accuracy (%)", range=[0, 102])
    return figure
