"""The look of every picture: colours, marks, layout.

Pictures are drawn in the colours of the light theme; `DARK` names the counterpart of each, and the page swaps
them where the reader's system is dark.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from gcsearch.config.trials import Outcome

INK, MUTED, GRID, SURFACE, ACCENT = "#1f2328", "#59636e", "#e3e6e9", "#fffffe", "#d55e00"
BLUE, GREEN, PURPLE, BROWN, GREY, ISO = "#0072b2", "#00876a", "#a0448f", "#6b3d00", "#8b949d", "#c4cbd1"
BAND = {ACCENT: "rgba(213,94,0,0.17)", BLUE: "rgba(0,114,178,0.10)"}
_SCALE = ("#46287c", "#31688e", "#1f9e89", "#7cc250", "#f0d61d")
CLEAR = "rgba(0,0,0,0)"
_ENTRY = 32  # letters of a name in a legend
DARK = {
    INK: "#e6e9ec",
    MUTED: "#9ca6b0",
    GRID: "#2c333a",
    SURFACE: "#171b1f",
    ACCENT: "#ff9142",
    BLUE: "#5cb3ea",
    GREEN: "#3fc79d",
    PURPLE: "#dc8fc9",
    BROWN: "#f0e442",
    GREY: "#78828c",
    ISO: "#434c55",
    BAND[ACCENT]: "rgba(255,145,66,0.24)",
    BAND[BLUE]: "rgba(92,179,234,0.14)",
    _SCALE[0]: "#7d62d6",
    _SCALE[1]: "#4b8fc0",
    _SCALE[2]: "#2bb5a0",
    _SCALE[3]: "#93d061",
    _SCALE[4]: "#fae14b",
}
SYMBOL = {
    Outcome.COMPLETE: "circle",
    Outcome.PRUNED: "triangle-down-open",
    Outcome.DIVERGED: "x-thin-open",
    Outcome.FAILED: "cross-thin-open",
}
OUTCOME_COLOUR = {Outcome.COMPLETE: BLUE, Outcome.PRUNED: GREY, Outcome.DIVERGED: PURPLE, Outcome.FAILED: MUTED}
_FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
BAR = {"thickness": 11, "outlinewidth": 0, "ticks": "", "xpad": 6, "tickfont": {"size": 12}}


def empty_figure(height: int, traces: Sequence[Any] = ()) -> go.Figure:
    """A figure of our own in house style, `height` pixels high and as wide as its place."""
    return styled(go.Figure(list(traces)), height)


def styled(figure: go.Figure, height: int, top: int = 14) -> go.Figure:
    """House style for our own figures and for Optuna's; `top` is the margin above the axes, in pixels."""
    figure.update_layout(
        template="none",
        title=None,
        height=height,
        width=None,
        autosize=True,
        margin={"l": 62, "r": 16, "t": top, "b": 52},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"family": _FONT, "size": 13, "color": INK},
        hoverlabel={"bgcolor": SURFACE, "bordercolor": MUTED, "font": {"family": _FONT, "color": INK}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left", "bgcolor": CLEAR},
        modebar={"bgcolor": CLEAR, "color": ISO, "activecolor": MUTED},
        hovermode="closest",
    )
    line = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "ticks": "outside", "tickcolor": GRID}
    title = {"font": {"size": 13, "color": MUTED}, "standoff": 8}
    figure.update_xaxes(**line, title=title, automargin=True)
    figure.update_yaxes(**line, title=title, automargin=True)
    return figure


def dots(x: Sequence[Any], y: Sequence[Any], text: Sequence[str], name: str = "", **marker: Any) -> go.Scatter:
    """Points with their hover texts; in the legend where they have a name."""
    return _dots(x, y, name, marker).update(text=text)


def trial_dots(x: Sequence[Any], y: Sequence[Any], trials: Sequence[int], name: str = "", **marker: Any) -> go.Scatter:
    """A point for each of `trials`, by number: the page knows their hover texts, once for all pictures."""
    return _dots(x, y, name, marker).update(customdata=list(trials))


def _dots(x: Sequence[Any], y: Sequence[Any], name: str, marker: dict[str, Any]) -> go.Scatter:
    look = {"size": 9, "color": BLUE, "line": {"width": 1, "color": SURFACE}} | marker
    return go.Scatter(
        x=short(x), y=short(y), mode="markers", name=name, marker=look, hovertemplate="%{text}<extra></extra>",
        showlegend=bool(name),
    )  # fmt: skip


def short(values: Sequence[Any]) -> Any:
    """Numbers in half as many bytes, with the seven digits that are more than a picture shows; words as they are."""
    words = any(isinstance(value, str) for value in values)
    return list(values) if words else np.asarray(values, dtype=np.float32)


def entry(name: str) -> str:
    """A name as an entry of a legend: without markup, and short enough for a narrow screen."""
    return html.escape(name if len(name) <= _ENTRY else f"{name[: _ENTRY - 1]}…")


def star(
    x: float | str, y: float | str, *, text: str = "", trial: int | None = None, legend: bool = True
) -> go.Scatter:
    """The champion's mark, with its hover text or the number of its trial."""
    look = {"symbol": "star", "size": 16, "color": ACCENT, "line": {"width": 1.2, "color": SURFACE}}
    mark = go.Scatter(
        x=[x], y=[y], mode="markers", name="champion", marker=look, hovertemplate="%{text}<extra></extra>",
        showlegend=legend,
    )  # fmt: skip
    return mark.update(text=[text] if trial is None else None, customdata=None if trial is None else [trial])


def colour_scale() -> list[tuple[float, str]]:
    """Low to high, as plotly wants it."""
    return [(index / (len(_SCALE) - 1), colour) for index, colour in enumerate(_SCALE)]
