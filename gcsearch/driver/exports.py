"""What is done with a sweep's export: kept for MLflow, registered there, its prompts measured and drawn."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch.config.addresses import is_server
from gcsearch.config.task import Task
from gcsearch.errors import InputError
from gcsearch.files import absolute, write_whole
from gcsearch.results.documents import Sharpnesses
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.store import WORDS_FILE
from gcsearch.sweep.sweep import Sweep, load_parameters, open_sweep, parameters_folder

if TYPE_CHECKING:
    from gcsearch.tracking.registry import Version

EXPORT = "export"
"""The folder in a sweep's folder."""


def keep(sweep: Sweep) -> Path:
    """Export the confirmed champion into the sweep's folder, where MLflow gets it from, with what goes with it: the
    nearest words to every confirmed prompt. Returns the folder of the export.

    Raises:
        InputError: as `Sweep.export`.
    """
    folder = sweep.export(sweep.folder / EXPORT, force=True)
    for task in sweep.pipeline.task.each:
        _keep_words(sweep, task)
    return folder


def _keep_words(sweep: Sweep, task: Task) -> None:
    from gcsearch.export import words
    from gcsearch.methods import registry
    from gcsearch.training import loading

    lab, place = loading.laboratory(task), parameters_folder(sweep.kept, sweep.pipeline.task, task)
    trained = [lab.dataset.classes[label] for label in lab.halves[0]]
    for record in sweep.finals:
        parameters, prompt = load_parameters(place, record), registry.build(record.config).prompt
        if parameters:
            named = (prompt.named(lab.backbone, one)["ctx"] for one in parameters)
            contexts = dict(zip(record.seeds, named, strict=False))
            text = words.write_up(lab.backbone, contexts, names=trained, conditional=prompt.per_image)
            write_whole(place / WORDS_FILE.format(record.number), text)


@dataclass(frozen=True)
class WrittenExport:
    """Where a sweep went: a folder, a version of a registered model, or both."""

    folder: Path | None
    version: Version | None


def write_export(
    name: str,
    store: Path | None = None,
    *,
    out: Path | None = None,
    classes: Path | None = None,
    register: bool = False,
    model: str | None = None,
    calibrate: bool = False,
    force: bool = False,
) -> WrittenExport:
    """Export the sweep `name` to `out`, and with `register` to the registry as `model` (by default its own name).

    With `calibrate` its probabilities have a temperature that is fitted on validation images.

    Raises:
        InputError: nowhere to export to; and whatever `open_sweep`, `Sweep.export` and `registry.register` raise.
    """
    from gcsearch.export.classifier import read_names

    if out is None and not register:
        raise InputError(
            "an export goes to a folder, or to the registry", key="--out", remedy="Add --out or --register."
        )
    if model and not register:
        raise InputError("only a registered model has a name", key="--name", received=model, remedy="Add --register.")
    sweep = open_sweep(name, store)
    if register and sweep.pipeline.task.also:
        raise InputError(
            "a registered model classifies one data set, and this sweep has prompts for several",
            key="--register",
            received=sweep.pipeline.task.title,
            remedy="Export it with --out, and register what you serve with mlflow's own commands.",
        )
    given = read_names(classes) if classes else []
    if out is not None:
        folder = sweep.export(out, classes=given, calibrate=calibrate, force=force)
        return WrittenExport(folder, _register(sweep, folder, model) if register else None)
    with tempfile.TemporaryDirectory() as aside:
        folder = sweep.export(Path(aside, "export"), classes=given, calibrate=calibrate)
        return WrittenExport(None, _register(sweep, folder, model))


def _register(sweep: Sweep, folder: Path, model: str | None) -> Version:
    from gcsearch.tracking import registry, relocation

    uri, store = sweep.mlflow_uri, sweep.store
    if uri == store.mlflow_uri:
        relocation.follow(store)
    artifacts = None if is_server(uri) else store.artifacts
    return registry.register(folder, uri, model or sweep.name, artifacts)


_KINDS = (".html", ".png")


def check_picture(out: Path) -> None:
    """InputError where `out` is no place for a picture."""
    if out.suffix.lower() not in _KINDS or absolute(out, key="--out").is_dir():
        remedy = "For example --out landscape.html."
        raise InputError("a picture is a .html or a .png file", key="--out", received=str(out), remedy=remedy)


def check_report(out: Path) -> None:
    """InputError where a report cannot be written to `out`: a folder, or below a file."""
    if out.is_dir():
        remedy = f"Name a file in it: --out {out / 'report.html'}"
        raise InputError("a report is one file, and this is a folder", key="--out", received=str(out), remedy=remedy)
    check_folder(out.parent, key="--out", received=out)


def check_folder(folder: Path, *, key: str, received: Path | None = None) -> None:
    """InputError where `folder` can be none: it, or one above it, is a file. `received` is what was given as `key`."""
    blocking = [one for one in (folder, *folder.parents) if one.exists() and not one.is_dir()]
    if blocking:
        rule = f"the folder must be one, and {blocking[0]} is a file"
        raise InputError(rule, key=key, received=str(received or folder), remedy="Name another folder.")


def explore(
    folder: Path,
    out: Path | None = None,
    *,
    seed: int | None = None,
    rho: float | None = None,
    random: bool = False,
    draw: int = 0,
    callback: Callback | None = None,
) -> Sharpnesses:
    """Measure the prompts of the export in `folder`; with `out`, draw the loss around them there.

    Raises:
        InputError: no export, nothing trained in it, no prompt of `seed`, a radius of 0 or below.
    """
    from gcsearch.export import loss_landscape
    from gcsearch.export.classifier import load_export

    listener = callback or Callback()
    export = load_export(folder)
    radius = loss_landscape.radius(export, rho)
    listener.stage("features")
    found = loss_landscape.loss_landscapes(export, None if seed is None else [seed], draw=draw)
    listener.stage("sharpness", len(found))
    numbers = loss_landscape.survey(export, found, radius, listener.progress)
    if out is not None:
        from gcsearch.results.report.loss_landscape import loss_page, loss_png

        listener.stage("surface", len(found))
        surfaces = []
        for one in found:
            surfaces.append(one.surface(radius, "random" if random else "hessian"))
            listener.progress(len(surfaces), len(found))
        task = export.trial.task
        title = f"{export.facts.champion.name} on {task.dataset}, {task.backbone}"
        drawn = loss_png if out.suffix.lower() == ".png" else loss_page
        write_whole(out, drawn(title, numbers, surfaces))
    return numbers
