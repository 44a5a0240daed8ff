"""The files of MLflow's runs where the store lies now: it may have been moved, copied or reached through another path.

MLflow keeps the absolute address of every run's files in its database.  Taken at their word, these addresses would
lead out of the store, and from a copy into the original.
"""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import sqlalchemy

from gcsearch.files import locked
from gcsearch.sweep.store import Store

_COLUMNS = ("artifact_location", "artifact_uri", "source", "storage_location")
"""Of any table of MLflow's: experiments, runs, logged models, versions of registered models."""

_FORMER = """
SELECT DISTINCT replace(runs.artifact_uri, '/' || runs.run_uuid || '/artifacts', '') FROM runs
JOIN tags ON tags.run_uuid = runs.run_uuid WHERE tags.key = 'gcsearch.kind'
UNION SELECT experiments.artifact_location FROM experiments
JOIN runs ON runs.experiment_id = experiments.experiment_id
JOIN tags ON tags.run_uuid = runs.run_uuid WHERE tags.key = 'gcsearch.kind'
"""


def follow(store: Store) -> None:
    """Let the addresses in the embedded MLflow database name the folder of files as it is reached now.

    Nothing changes where they name this folder already, be it through a link.
    """
    if not (store.root / "mlflow.db").exists():
        return
    engine = sqlalchemy.create_engine(store.mlflow_uri)
    try:
        with locked(store.root / ".mlflow.lock", wait=True), engine.connect() as connection:
            tables = sqlalchemy.inspect(connection)
            if not {"runs", "tags", "experiments"} <= set(tables.get_table_names()):
                return  # nobody has set it up yet
            every = [row[0] for row in connection.execute(sqlalchemy.text(_FORMER))]
            former = [one for one in every if is_of_a_store(one, store.artifacts) and not _is(one, store.artifacts)]
            for table in tables.get_table_names() if former else ():
                for column in (one["name"] for one in tables.get_columns(table) if one["name"] in _COLUMNS):
                    for place in former:
                        _replace(connection, table, column, place, store.artifacts.as_uri())
            connection.commit()
    finally:
        engine.dispose()


def _replace(connection: sqlalchemy.Connection, table: str, column: str, former: str, now: str) -> None:
    """Let what lies at or below the address `former` lie at, or below, `now`."""
    connection.execute(
        sqlalchemy.text(
            f'UPDATE "{table}" SET "{column}" = :now || substr("{column}", :length + 1) '  # noqa: S608  (MLflow's names)
            f'WHERE "{column}" = :former OR substr("{column}", 1, :length + 1) = :former || \'/\''
        ),
        {"now": now, "former": former, "length": len(former)},
    )


def is_of_a_store(address: str, artifacts: Path) -> bool:
    """Whether files at `address` are kept by a store of gcsearch: this one, of the folder `artifacts`, or another one.

    A folder that somebody has chosen for an experiment, or a bucket, is not.
    """
    folder = _folder(address)
    if folder is None:
        return False
    gone_or_store = not folder.exists() or (folder.parent / "sweeps").is_dir()
    return _is(address, artifacts) or (folder.name == artifacts.name and gone_or_store)


def address_of(run_id: str, artifacts: Path) -> str:
    """Where the files of a run lie."""
    return f"{artifacts.as_uri()}/{run_id}/artifacts"


def claim(uri: str, artifacts: Path, runs: Mapping[str, str]) -> None:
    """Let runs of this store in the database `uri` have their files in `artifacts`; `runs` has addresses by id."""
    moved = [{"run": one, "place": address_of(one, artifacts)} for one in _elsewhere(runs, artifacts)]
    if not moved:
        return
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE runs SET artifact_uri = :place WHERE run_uuid = :run"), moved)
    finally:
        engine.dispose()


def _elsewhere(runs: Mapping[str, str], artifacts: Path) -> Iterable[str]:
    for run_id, address in runs.items():
        location = address.removesuffix(f"/{run_id}/artifacts")
        if is_of_a_store(location, artifacts) and not _is(location, artifacts):
            yield run_id


def _folder(address: str) -> Path | None:
    """The folder of this machine that an address names; None for another kind of place."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(urllib.request.url2pathname(parts.path) if parts.scheme else address)


def _is(address: str, folder: Path) -> bool:
    found = _folder(address)
    if found is None or found == folder:
        return found is not None
    return found.exists() and folder.exists() and found.samefile(folder)
