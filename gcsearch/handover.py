"""A finished sweep handed over: to a folder, and to MLflow's model registry."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch.addresses import is_server
from gcsearch.errors import InputError
from gcsearch.sweep import Sweep, open_sweep

if TYPE_CHECKING:
    from gcsearch.registry import Version


@dataclass(frozen=True)
class Handed:
    """Where a sweep went: a folder, a version of a registered model, or both."""

    folder: Path | None
    version: Version | None


def hand_over(
    name: str,
    store: Path | None = None,
    *,
    out: Path | None = None,
    classes: Path | None = None,
    register: bool = False,
    model: str | None = None,
    force: bool = False,
) -> Handed:
    """Export the sweep `name` to `out`, and with `register` to the registry as `model` (by default its own name).

    Raises:
        InputError: nowhere to export to; and whatever `open_sweep`, `Sweep.export` and `registry.register` raise.
    """
    from gcsearch.prediction import read_names

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
        folder = sweep.export(out, classes=given, force=force)
        return Handed(folder, _register(sweep, folder, model) if register else None)
    with tempfile.TemporaryDirectory() as aside:
        return Handed(None, _register(sweep, sweep.export(Path(aside, "export"), classes=given), model))


def _register(sweep: Sweep, folder: Path, model: str | None) -> Version:
    from gcsearch import moved, registry

    uri, store = sweep.mlflow_uri, sweep.store
    if uri == store.mlflow_uri:
        moved.follow(store)
    artifacts = None if is_server(uri) else store.artifacts
    return registry.register(folder, uri, model or sweep.name, artifacts)
