"""Addresses of MLflow stores: which can keep runs, how they are shown. Knows no MLflow, so that checking is quick."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

from gcsearch.errors import InputError
from gcsearch.paths import absolute, sqlite_uri

_SERVERS, _DATABASES = ("http", "https"), ("sqlite", "postgresql", "mysql", "mssql")


def check_uri(uri: str) -> None:
    """Refuse a place where runs cannot be kept. Opens no connection and makes no file.

    Raises:
        InputError: a plain folder, an unknown kind of store, a server without a name, or a SQLite file whose
            folder is not there.
    """
    scheme, slashes, place = uri.partition("://")
    if not slashes or scheme == "file":
        raise InputError(
            "runs are kept in a database or on a server, not in a plain folder",
            key="tracking.uri",
            received=uri,
            remedy="Write for example `sqlite:////path/to/mlflow.db`, or leave the key out.",
        )
    if scheme.partition("+")[0] not in (*_SERVERS, *_DATABASES):
        rule = "a store must be of a known kind"
        known = f"Known: {', '.join(f'{kind}://' for kind in (*_SERVERS, *_DATABASES))}."
        raise InputError(rule, key="tracking.uri", received=shown(uri), remedy=known)
    if scheme in _SERVERS and not urllib.parse.urlsplit(uri).hostname:
        rule = "the address of a server must name one"
        raise InputError(rule, key="tracking.uri", received=uri, remedy="Write for example `http://127.0.0.1:5000`.")
    if scheme.partition("+")[0] == "sqlite":
        _check_sqlite(uri, place)


def absolute_uri(uri: str, folder: Path) -> str:
    """`uri` with the absolute path of its file where it is a SQLite store; a relative one starts at `folder`."""
    scheme, _, place = uri.partition(":///")
    path, question, options = place.partition("?")
    if scheme.partition("+")[0] != "sqlite" or path in ("", ".", ":memory:") or path.startswith(("/", "file:")):
        return uri
    file = absolute(urllib.parse.unquote(path), folder, key="tracking.uri")
    return f"{sqlite_uri(file)}{question}{options}"


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of an MLflow server, not of a database."""
    return uri.partition("://")[0] in _SERVERS


def _check_sqlite(uri: str, place: str) -> None:
    """MLflow would make a missing folder, so that a misspelt path begins an empty store without a word."""
    file = Path(urllib.parse.unquote(place.partition("?")[0].removeprefix("/")))
    if not place.startswith("/") or str(file) in (".", ":memory:"):
        rule = "a SQLite store must be a file, which outlives the process"
        remedy = "Write `sqlite:///` and then the path: `sqlite:////path/to/mlflow.db`."
        raise InputError(rule, key="tracking.uri", received=uri, remedy=remedy)
    if file.is_dir():
        remedy = f"Write for example `sqlite:///{file / 'mlflow.db'}`."
        raise InputError("a SQLite store is a file, not a folder", key="tracking.uri", received=uri, remedy=remedy)
    if not file.parent.is_dir():
        remedy = "Make the folder, or correct the path: `sqlite:///` and then the path (four slashes if absolute)."
        raise InputError(f"the folder {file.parent} must exist", key="tracking.uri", received=uri, remedy=remedy)


def shown(uri: str) -> str:
    """`uri` without a password."""
    return re.sub(r"(://[^:/@]+):[^@]+@", r"\1:***@", uri)
