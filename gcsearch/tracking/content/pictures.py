"""The learning curve of a confirmed configuration as a picture, for MLflow's browser."""

from __future__ import annotations

import io
import textwrap

from gcsearch.config.metrics import METRICS
from gcsearch.config.trials import TrialRecord
from gcsearch.results.report.findings import curve
from gcsearch.results.tables.wording import described

CURVES_FILE = "curves.png"

# The colours of the report's light theme, which only what draws with plotly may import.
_INK, _GRID, _PAPER = "#1f2328", "#e3e6e9", "#fffffe"
_LINES = ("#0072b2", "#d55e00", "#00876a", "#a0448f", "#b98000")


def curves_picture(record: TrialRecord) -> bytes | None:
    """The record's accuracies over the epochs, mean over seeds in a band from the lowest to the highest, as PNG.

    Margins have another unit and are left out. None where nothing was measured more than once.
    """
    curves = {key: curve(record, key) for key, one in METRICS.items() if one.column}
    curves = {key: one for key, one in curves.items() if len(one.epochs) > 1}
    if not curves:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained", facecolor=_PAPER)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor(_PAPER)
    for colour, (key, one) in zip(_LINES, curves.items(), strict=False):
        axes.fill_between(one.epochs, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(one.epochs, one.mean, color=colour, linewidth=1.8, label=METRICS[key].title)
    axes.set_xlabel("epoch", color=_INK)
    axes.set_ylabel("accuracy (%)", color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.legend(frameon=False, fontsize=9)
    seeds = f"{len(record.seeds)} seeds, band from the lowest to the highest"
    axes.set_title(f"{record.label or f't{record.number:04d}'}: {seeds}", fontsize=11, color=_INK, loc="left")
    figure.supxlabel(textwrap.fill(described(record.config), 105), fontsize=7.5, color=_INK, x=0.01, ha="left")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120, metadata={"Software": None})
    return target.getvalue()
