"""The loss around a trained prompt, as a page for browsers or a PNG for papers.

The surface is over the numbers of the prompt; that over hyperparameters is in `responses`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from gcsearch.results.documents import Sharpnesses
from gcsearch.results.report.pages.document import document
from gcsearch.results.report.picture import Picture, Section
from gcsearch.results.report.theme import ACCENT, BAR, INK, SURFACE, colour_scale, empty_figure

if TYPE_CHECKING:
    from pandas import DataFrame

_STEPS = "distance along the {}"
_READING = (
    "The loss that training minimised, without weight decay, on a plane through the prompt (the star), {} times rho to "
    "each side. Distances in the plane are true, so the circle is the edge of the ball that a sharpness-aware step of "
    "radius rho looks at. One colour scale for all seeds."
)


def limits(surfaces: Sequence[LossSurface]) -> tuple[float, float]:
    """The lowest and the highest loss of all, so that one scale fits them."""
    every = np.array([surface.heights for surface in surfaces])
    return float(np.nanmin(every)), float(np.nanmax(every))


def draw_loss(_: DataFrame, surface: LossSurface, low: float, high: float) -> go.Figure:
    """Filled contours of the loss, the prompt, and the ball of radius rho."""
    size = (high - low) / 16 or 1.0
    contour = go.Contour(
        x=surface.steps,
        y=surface.steps,
        z=surface.heights,
        colorscale=colour_scale(),
        contours={"start": low, "end": high, "size": size},
        line={"width": 0.4, "color": SURFACE},
        colorbar={**BAR, "title": {"text": "loss"}},
        hovertemplate="%{x:.3f}, %{y:.3f}: loss %{z:.4f}<extra></extra>",
    )
    figure = empty_figure(460, [contour, _ball(surface.rho), _prompt()])
    figure.update_layout(showlegend=False)
    figure.add_annotation(
        text=surface.title, x=0, y=1.03, xref="paper", yref="paper", showarrow=False, yanchor="bottom"
    )
    figure.update_layout(margin={"t": 34})
    figure.update_xaxes(title_text=_STEPS.format(surface.axes[0]), constrain="domain")
    figure.update_yaxes(title_text=_STEPS.format(surface.axes[1]), scaleanchor="x", constrain="domain")
    return figure


def _ball(rho: float) -> go.Scatter:
    angle = np.linspace(0, 2 * np.pi, 121)
    line = {"color": SURFACE, "width": 2, "dash": "dash"}
    x, y = (rho * np.cos(angle)).tolist(), (rho * np.sin(angle)).tolist()
    return go.Scatter(x=x, y=y, mode="lines", line=line, hovertemplate=f"rho {rho:.4g}<extra></extra>")


def _prompt() -> go.Scatter:
    mark = {"symbol": "star", "size": 16, "color": ACCENT, "line": {"width": 1.2, "color": SURFACE}}
    return go.Scatter(x=[0], y=[0], mode="markers", marker=mark, hovertemplate="the prompt<extra></extra>")


def loss_page(title: str, numbers: Sharpnesses, surfaces: Sequence[LossSurface]) -> str:
    """One HTML file, readable without a network: the numbers of every seed, and a picture for each of `surfaces`."""
    low, high = limits(surfaces)
    lead = (
        "Sharpness is the largest rise of the loss that was found within rho; the eigenvalue is the Hessian's largest."
    )
    reading = _READING.format(round(surfaces[0].steps[-1] / numbers.rho))
    pictures = [
        Picture(f"loss-{at}", one.title, "", one.to_frame, partial(draw_loss, surface=one, low=low, high=high))
        for at, one in enumerate(surfaces, start=1)
    ]
    sections = [
        Section("Numbers", lead, table=numbers.table()),
        Section("The loss around the prompts", reading, pictures),
    ]
    about = f"{numbers.method} · rho {numbers.rho:.4g}"
    return document("gcsearch landscape", title, about, sections)


def loss_png(title: str, numbers: Sharpnesses, surfaces: Sequence[LossSurface]) -> bytes:
    """The same pictures side by side as a PNG, 150 pixels an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    low, high = limits(surfaces)
    scale = LinearSegmentedColormap.from_list("gcsearch", [colour for _, colour in colour_scale()])
    figure = Figure(figsize=(1.2 + 4.4 * len(surfaces), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, len(surfaces), squeeze=False)[0]
    for place, surface in zip(places, surfaces, strict=True):
        levels = np.linspace(low, high, 17) if high > low else 17
        drawn = place.contourf(surface.steps, surface.steps, surface.heights, levels=levels, cmap=scale)
        angle = np.linspace(0, 2 * np.pi, 121)
        place.plot(surface.rho * np.cos(angle), surface.rho * np.sin(angle), "--", color=SURFACE, linewidth=1.5)
        place.plot(0, 0, "*", color=ACCENT, markeredgecolor=SURFACE, markersize=14)
        place.set_title(surface.title, fontsize=11, color=INK)
        place.set_xlabel(_STEPS.format(surface.axes[0]), fontsize=9)
        place.set_ylabel(_STEPS.format(surface.axes[1]), fontsize=9)
        place.set_aspect("equal")
        place.tick_params(labelsize=8)
    figure.colorbar(drawn, ax=list(places), label="loss", shrink=0.8, format="%.3g")
    figure.suptitle(
        f"{title}: loss around the prompt, circle of radius rho = {numbers.rho:.4g}", fontsize=12, color=INK
    )
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=150)
    return target.getvalue()


@dataclass(frozen=True)
class LossSurface:
    """The loss on a plane through a point.

    `heights[i][j]` is the one at the distances steps[j] along the first direction and steps[i] along the second.
    """

    title: str
    axes: tuple[str, str]
    steps: list[float]
    heights: list[list[float]]
    rho: float

    def to_frame(self) -> DataFrame:
        """A row for each place: its distances along both directions, and the loss."""
        import pandas as pd

        places = np.array(np.meshgrid(self.steps, self.steps)).reshape(2, -1)
        return pd.DataFrame({"first": places[0], "second": places[1], "loss": np.ravel(self.heights)})
