"""`gcsearch landscape`: the numbers of an export's prompts, and the picture of the loss around them."""

from __future__ import annotations

from pathlib import Path

from gcsearch.documents import Sharpnesses
from gcsearch.errors import InputError
from gcsearch.files import write_whole
from gcsearch.paths import absolute
from gcsearch.watcher import Watcher

_KINDS = (".html", ".png")


def check_picture(out: Path) -> None:
    """InputError where `out` is no place for a picture."""
    if out.suffix.lower() not in _KINDS or absolute(out, key="--out").is_dir():
        remedy = "For example --out landscape.html."
        raise InputError("a picture is a .html or a .png file", key="--out", received=str(out), remedy=remedy)


def explore(
    folder: Path,
    out: Path | None = None,
    *,
    seed: int | None = None,
    rho: float | None = None,
    random: bool = False,
    draw: int = 0,
    watcher: Watcher | None = None,
) -> Sharpnesses:
    """Measure the prompts of the export in `folder`; with `out`, draw the loss around them there.

    Raises:
        InputError: no export, nothing trained in it, no prompt of `seed`, a radius of 0 or below.
    """
    from gcsearch import terrain
    from gcsearch.prediction import open_export

    listener = watcher or Watcher()
    export = open_export(folder)
    radius = terrain.radius(export, rho)
    listener.stage("features")
    found = terrain.terrains(export, None if seed is None else [seed], draw=draw)
    listener.stage("sharpness", len(found))
    numbers = terrain.survey(export, found, radius, listener.progress)
    if out is not None:
        from gcsearch.report.basin import basin_page, basin_png

        listener.stage("surface", len(found))
        grounds = []
        for one in found:
            grounds.append(one.ground(radius, "random" if random else "hessian"))
            listener.progress(len(grounds), len(found))
        task = export.trial.task
        title = f"{export.facts.champion.name} on {task.dataset}, {task.backbone}"
        drawn = basin_png if out.suffix.lower() == ".png" else basin_page
        write_whole(out, drawn(title, numbers, grounds))
    return numbers
