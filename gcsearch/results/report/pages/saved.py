"""Pictures as files: the numbers of each as CSV, the picture as PNG and SVG, and a page that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcsearch import files
from gcsearch.results.report.pages.document import Warn
from gcsearch.results.report.picture import Picture
from gcsearch.results.tables.markup import environment
from gcsearch.results.tables.spreadsheet import frame_to_csv

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INDEX = "index.html"
_IMAGES = {"png": 2, "svg": 1}  # by its format the scale of an image
_WIDTH = 760
_NOWHERE = "127.0.0.1:9"
"""The proxy of the Chromium that draws: it would look for news of its own elsewhere, and a picture needs none."""


def save_pictures(title: str, pictures: Sequence[Picture], folder: Path, warn: Warn = lambda _: None) -> Path:
    """Write each picture and its numbers to `folder`, under its name, and return the page that lists them.

    Where images cannot be drawn `warn` hears why and what helps; the numbers are written in any case.
    """
    drawn = []
    for picture in pictures:
        try:
            numbers, figure = frame_to_csv(picture.frame), picture.figure
        except (MemoryError, OSError):
            raise
        except Exception as error:  # the other pictures are no worse for it
            warn(f"the picture {picture.name} could not be drawn: {type(error).__name__}: {error}")
            continue
        files.write_whole(folder / f"{picture.name}.csv", numbers)
        drawn.append((picture, figure))
    why = _write_images({picture.name: figure for picture, figure in drawn}, folder)
    if why:
        warn(f"the pictures are there as CSV only: {why}")
    shown = [picture for picture, _ in drawn]
    page = environment().get_template("figures.html").render(title=title, pictures=shown, images=not why)
    files.write_whole(folder / INDEX, page)
    return folder / INDEX


def _write_images(figures: dict[str, Figure], folder: Path) -> str:
    """Draw the figures in a Chromium of this machine; why that is not possible, in words, else nothing."""
    try:
        import kaleido  # late, and optional: few need images
        from kaleido.errors import ChromeNotFoundError
    except ImportError:
        return "images need kaleido. Install it with `pip install 'gcsearch[figures]'`"
    wanted = [
        {"fig": _on_white(figure), "path": folder / f"{name}.{form}", "opts": _options(figure, form, scale)}
        for name, figure in figures.items()
        for form, scale in _IMAGES.items()
    ]
    try:
        # plotly.js is that of the installed plotly; nothing that we write is set by MathJax.
        failed = kaleido.write_fig_from_object_sync(wanted, kopts={"mathjax": False, "proxy_server": _NOWHERE})
    except ChromeNotFoundError:
        return (
            "images need a Chromium, and there is none on PATH. Install one (`apt-get install chromium`), or name "
            "its program in the environment variable BROWSER_PATH"
        )
    except Exception as error:  # of a program that is not ours
        failed = [error]
    return "; ".join(dict.fromkeys(f"{type(error).__name__}: {error}" for error in failed or ()))


def _options(figure: Figure, form: str, scale: int) -> dict[str, Any]:
    return {"format": form, "scale": scale, "width": _WIDTH, "height": figure.layout.height}


def _on_white(figure: Figure) -> dict[str, Any]:
    whole = figure.to_dict()
    return whole | {"layout": whole["layout"] | {"paper_bgcolor": "white"}}
