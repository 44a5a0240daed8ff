"""Where things lie on disk.

STORE/                          `--store`, else $GCSEARCH_STORE, else ./gcsearch-store
    mlflow.db  artifacts/       the embedded MLflow store
    sweeps/NAME/                one sweep: pipeline.toml, space.toml, journal.jsonl, ray/, ...
CACHE/                          $GCSEARCH_CACHE, else the user's cache folder
    data/                       embedded data sets, written on first use
    features/                   encoded images
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gcsearch.errors import InputError


@dataclass(frozen=True)
class Store:
    """The folder that holds sweeps and the embedded MLflow store."""

    root: Path

    @classmethod
    def locate(cls, folder: str | Path | None = None) -> Store:
        """`folder`, else $GCSEARCH_STORE, else ./gcsearch-store (made when first written to)."""
        return cls(Path(folder or os.environ.get("GCSEARCH_STORE") or "gcsearch-store").absolute())

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def sweep(self, name: str) -> Path:
        """The folder of the sweep `name`, whether it exists or not."""
        return self.root / "sweeps" / name

    def existing_sweep(self, name: str) -> Path:
        """The folder of the sweep `name`. InputError, listing the sweeps there are, when it is missing."""
        folder = self.sweep(name)
        if not (folder / "journal.jsonl").exists():
            there = sorted(path.parent.name for path in self.root.glob("sweeps/*/journal.jsonl"))
            raise InputError(
                "there is no sweep of this name in the store",
                file=self.root,
                received=name,
                remedy=f"Sweeps in it: {', '.join(there) or 'none'}. Another store: --store DIR.",
            )
        return folder


def cache_folder() -> Path:
    """Where encoded images and embedded data sets are kept: safe to delete, rebuilt when needed."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("GCSEARCH_CACHE")
    return Path(chosen).absolute() if chosen else user_cache_path("gcsearch")
