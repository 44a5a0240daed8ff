"""Sweeps: a small one that is run for real, and the files of one written by hand."""

from __future__ import annotations

from pathlib import Path

from gcsearch.config import search_space

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
