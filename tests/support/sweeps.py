"""Sweeps: a small one that is run for real, and the files of one written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import TrialRecord
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep

SMOKE = {
    "name": "smoke",
    "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "seeds": [1, 2], "folds": 2},
    "search": {"space": "gcscoop-smoke", "trials": 6, "pack": 2, "generation": 2, "startup": 3},
    "confirm": {"top": 3, "seeds": [4, 5], "references": ["zeroshot", "literature-short"]},
}
"""A pipeline that takes seconds; the fixture `sweep` of the integration tests is what it comes to."""


def long_space(folder: Path, epochs: int) -> str:
    """A search space whose trials take a while; its path."""
    path = folder / "long.toml"
    short = search_space.find("gcscoop-smoke").read_text()
    long = short.replace("low = 2\nhigh = 6\ninteger = true", f"value = {epochs}").replace(
        "epochs = 4", f"epochs = {epochs}"
    )
    assert long.count(str(epochs)) >= 2
    path.write_text(long)
    return str(path)


def a_sweep(
    store: Path,
    name: str,
    records: Iterable[TrialRecord] = (),
    finals: Iterable[TrialRecord] = (),
    *,
    space: str = "",
    **pipeline: Any,
) -> Sweep:
    """The files of a sweep; without `finals` it is unfinished. `pipeline` has the tables of its file."""
    sweep = Sweep(name, Store(store), store / "sweeps" / name)
    content = files.to_toml(Pipeline.from_dict({"name": name, **pipeline}).to_dict())
    files.write_whole(sweep.folder / "pipeline.toml", content)
    if space:
        files.write_whole(sweep.folder / "space.toml", space)
    sweep.journal.append("open", id=f"{name}-0")
    for record in records:
        sweep.journal.append("record", record=record)
    if finals:
        sweep.journal.append("final", records=list(finals), threads=1)
    return sweep


def mirrored(store: Path, name: str, uri: str) -> Sweep:
    """A sweep that has begun, and that MLflow at `uri` is to mirror."""
    return a_sweep(store, name, space="version = 1\n", tracking={"uri": uri, "experiment": "mirrors"})
