"""Where things lie on disk.

STORE/                          `--store`, else $GCSEARCH_STORE, else ./gcsearch-store
    mlflow.db  artifacts/       the embedded MLflow store
    sweeps/NAME/                one sweep: pipeline.toml, space.toml, journal.jsonl, ray/, ...; tracking-uri
    sweeps/.NAME.lease          while a driver runs it, see `gcsearch.sweep.lease`
    matrices/NAME.json          which sweeps a pipeline with a matrix has made
CACHE/                          $GCSEARCH_CACHE, else the user's cache folder; with an address in $GCSEARCH_CACHE
                                (s3://...) a folder of this node below the user's cache folder, and entries are
                                copied from and to CACHE/features at that address
    data/                       embedded data sets, written on first use
    features/                   encoded images
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gcsearch.errors import InputError
from gcsearch.files import absolute, cache_folder, sqlite_uri

PIPELINE_FILE, SPACE_FILE = "pipeline.toml", "space.toml"
WORDS_FILE = "{}.words.md"  # nearest words to what a record's configuration trained, beside that, by its number
"""What a sweep was begun from, as it is kept in its folder; the first names the second where the space is no shipped
one, so that both run wherever they lie beside each other."""

LOG_FILE = "log.txt"
"""In a sweep's folder: what Ray, Optuna and MLflow said while it ran from the command line."""


@dataclass(frozen=True)
class Store:
    """The folder that holds sweeps and the embedded MLflow store."""

    root: Path

    @classmethod
    def locate(cls, folder: str | Path | None = None) -> Store:
        """`folder`, else $GCSEARCH_STORE, else ./gcsearch-store (made when first written to).

        Raises:
            InputError: an address, or a file, and no folder.
        """
        key = "--store" if folder else "GCSEARCH_STORE"
        found = str(folder or os.environ.get("GCSEARCH_STORE") or "gcsearch-store")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", found):  # a Path has lost one of the two strokes of an address
            raise InputError(
                "the store is a folder: its journal and its lease need the locks and flushes of a file system",
                key=key,
                received=found,
                remedy="Name a folder, for a cluster on a shared disk. Encoded images may lie at an address, "
                "see GCSEARCH_CACHE.",
            )
        root = absolute(found, key=key)
        if root.exists() and not root.is_dir():
            raise InputError(
                "the store is a folder, and this is a file", key=key, received=found, remedy=_ANOTHER_STORE
            )
        return cls(root)

    def command(self, verb: str, name: str, *options: str) -> str:
        """The command that does `verb` to a sweep or a matrix of this store, to be typed where the user is now.

        It names the store, unless that is the one which a command without `--store` takes.
        """
        usual = None
        with suppress(InputError):  # GCSEARCH_STORE is no folder
            usual = Store.locate()
        store = () if self == usual else ("--store", str(self.root))
        return shlex.join(["gcsearch", verb, name, *options, *store])

    def check_writable(self) -> None:
        """InputError where nothing can be written to the store."""
        _check_writable(self.root, "the store", "--store", _ANOTHER_STORE)

    @property
    def mlflow_uri(self) -> str:
        return sqlite_uri(self.root / "mlflow.db")

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def sweep(self, name: str) -> Path:
        """The folder of the sweep `name`, whether it exists or not."""
        return self.root / "sweeps" / name

    def lease(self, name: str) -> Path:
        """The lease of the sweep `name`, see `gcsearch.sweep.lease`."""
        return self.root / "sweeps" / f".{name}.lease"

    def sweeps(self) -> list[str]:
        """The names of all sweeps in the store."""
        return sorted(path.parent.name for path in self.root.glob("sweeps/*/journal.jsonl"))

    def existing_sweep(self, name: str) -> Path:
        """The folder of the sweep `name`. InputError, listing the sweeps there are, when it is missing."""
        folder = self.sweep(name)
        if Path(name).name != name or not self._has(folder / "journal.jsonl"):
            parts = self.matrix(name)
            raise InputError(
                "this is a matrix of several sweeps, and one is wanted"
                if parts
                else "there is no sweep of this name in the store",
                file=self.root,
                received=name,
                remedy=f"Its sweeps: {', '.join(parts)}."
                if parts
                else f"Sweeps in it: {', '.join(self.sweeps()) or 'none'}. Another store: --store DIR.",
            )
        return folder

    def _has(self, file: Path) -> bool:
        """Whether the file is there; not where its name is longer than a file's can be."""
        return os.path.exists(file)  # noqa: PTH110  (of too long a name Path raises an error)

    def matrix_file(self, name: str) -> Path:
        """Where the sweeps of the matrix `name` are noted."""
        return self.root / "matrices" / f"{name}.json"

    def matrix(self, name: str) -> list[str]:
        """The sweeps of the matrix `name`, begun or not; empty where there is none of this name."""
        file = self.matrix_file(name)
        if Path(name).name != name or not self._has(file):
            return []
        try:
            return [str(sweep) for sweep in json.loads(file.read_bytes())["sweeps"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            rule, remedy = (
                "the file must list the sweeps of a matrix",
                "Delete it, and run the matrix again: none is lost.",
            )
            raise InputError(rule, file=file, remedy=remedy) from None


_ANOTHER_STORE = "Name another folder: --store, or GCSEARCH_STORE."
_ANOTHER_CACHE = "Name a folder that can be written and has room: GCSEARCH_CACHE=/path/to/folder."


def check_cache() -> None:
    """InputError where nothing can be written to the cache."""
    _check_writable(cache_folder(), "the cache", "GCSEARCH_CACHE", _ANOTHER_CACHE)


def _check_writable(folder: Path, what: str, key: str, remedy: str) -> None:
    existing = next(part for part in (folder, *folder.parents) if part.exists())
    try:
        # Permissions do not tell: root may write everywhere, and yet not to /proc or to a disk mounted read-only.
        with tempfile.TemporaryDirectory(prefix=".gcsearch-", dir=existing):
            pass
    except OSError as error:
        rule, received = f"{what} must be a folder that can be written", f"{folder} ({error.strerror or error})"
        raise InputError(rule, key=key, received=received, remedy=remedy) from None


@contextmanager
def explaining_cache_errors() -> Iterator[None]:
    """What the file system refuses in the cache becomes an InputError that says how to name another one."""
    try:
        yield
    except OSError as error:
        place = cache_folder()
        if not error.filename or not Path(os.fsdecode(error.filename)).is_relative_to(place):
            raise
        received = f"{place} ({error.strerror or error})"
        rule = "the cache must be a folder that can be written and has room"
        raise InputError(rule, key="GCSEARCH_CACHE", received=received, remedy=_ANOTHER_CACHE) from error
