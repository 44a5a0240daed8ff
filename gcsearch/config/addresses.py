"""Addresses of MLflow stores: which can keep runs, what of them is a secret, how they are shown. Knows no MLflow."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from gcsearch.errors import MASK, InputError, masked
from gcsearch.files import absolute, sqlite_uri

_SERVERS, _DATABASES = ("http", "https"), ("sqlite", "postgresql", "mysql", "mssql")
_OPEN = ("host", "port", "user", "driver", "charset", "mode", "sslmode", "timeout", "connect_timeout", "service")
"""Parts of a query that everybody may see. Any other value is taken for a secret, whatever its name is."""
_SHORTEST = 3  # characters of a secret that is looked for in other texts


class _Parts(NamedTuple):
    """An address in parts: `scheme://login@place?query`. A login may hold "@" itself, and is the longest that fits."""

    scheme: str
    login: str
    place: str
    query: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.scheme.partition("+")[0]

    @property
    def user(self) -> str:
        """Whom a database is asked as. That of a server is none: it may be a token."""
        user, colon, _ = self.login.partition(":")
        plain = re.fullmatch(r"[\w.%-]+", user) and (colon or "@" not in self.login)
        return user if plain and self.kind in _DATABASES else ""

    def text(self, login: str, query: tuple[str, ...]) -> str:
        """The address with another login and another query."""
        before = f"{self.scheme}://" if self.scheme else ""
        return f"{before}{login}{'@' if login else ''}{self.place}{'?' if query else ''}{'&'.join(query)}"


def _split(uri: str) -> _Parts:
    scheme, slashes, rest = uri.partition("://")
    if not slashes:
        scheme, rest = "", uri
    before, *query = re.split(r"\?(?=[\w.-]+=)", rest, maxsplit=1)
    if scheme.startswith("sqlite"):
        return _Parts(scheme, "", before, _pairs(*query))
    login, _, place = before.rpartition("@")
    place, _, fragment = place.partition("#")
    place, _, nameless = place.partition("?")
    return _Parts(scheme, login, place, (*_pairs(nameless), *_pairs(*query), *_pairs(fragment)))


def _pairs(query: str = "") -> tuple[str, ...]:
    return tuple(filter(None, re.split("[&;]", query)))


def _is_open(pair: str) -> bool:
    name, _, value = pair.partition("=")
    return name.lower() in _OPEN and bool(re.fullmatch(r"[\w.,:/%+ -]*", value))


def _value(pair: str) -> str:
    """What stands after the name in a part of a query; all of a part without a name, which may be a token."""
    name, equals, value = pair.partition("=")
    return value if equals else name


def shown(uri: str) -> str:
    """`uri` for people: without password, token, or any part of a query that is not known to be harmless."""
    parts = _split(uri)
    login = (f"{parts.user}:{MASK}" if parts.user and ":" in parts.login else parts.user) or MASK
    query = tuple(pair if _is_open(pair) else pair.removesuffix(_value(pair)) + MASK for pair in parts.query)
    return parts._replace(place=masked(parts.place)).text(login if parts.login else "", query)


def without_secrets(uri: str) -> str:
    """`uri` as it may be kept in files that others read: the same where it has no secrets."""
    parts = _split(uri)
    return parts.text(parts.user, tuple(filter(_is_open, parts.query)))


def has_secrets(uri: str) -> bool:
    """Whether `uri` must not be kept in files that others read."""
    return without_secrets(uri) != uri


def scrubbed(text: str, uri: str) -> str:
    """`text`, which may quote the address `uri` or parts of it, without its secrets."""
    parts = _split(uri)
    login = parts.login.removeprefix(f"{parts.user}:") if parts.user else parts.login
    values = [_value(pair) for pair in parts.query if not _is_open(pair)]
    user, _, password = login.partition(":")
    raw = [] if login == parts.user else [login, user, password]
    wanted = {form for one in (*raw, *values) for form in (one, urllib.parse.unquote(one), urllib.parse.quote(one))}
    text = text.replace(uri, shown(uri))
    for secret in sorted(wanted, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    return masked(text)


def check_uri(uri: str) -> None:
    """Refuse a place where runs cannot be kept. Opens no connection and makes no file.

    Raises:
        InputError: a plain folder, an unknown kind of store, a server without a name, or a SQLite file whose
            folder is not there.
    """
    parts = _split(uri)
    if parts.scheme in ("", "file"):
        raise InputError(
            "runs are kept in a database or on a server, not in a plain folder",
            key="tracking.uri",
            received=shown(uri),
            remedy="Write for example `sqlite:////path/to/mlflow.db`, or leave the key out.",
        )
    if parts.kind not in (*_SERVERS, *_DATABASES):
        rule = "a store must be of a known kind"
        known = f"Known: {', '.join(f'{kind}://' for kind in (*_SERVERS, *_DATABASES))}."
        raise InputError(rule, key="tracking.uri", received=shown(uri), remedy=known)
    if re.search(r"[/\s]", parts.login):
        rule, remedy = "a login has no slashes and spaces", "Write `%2F` for `/`, `%40` for `@` and `%20` for a space."
        raise InputError(rule, key="tracking.uri", received=shown(uri), remedy=remedy)
    if parts.kind != "sqlite" and re.search(r"\s", parts.place):
        rule, remedy = "the address of a store has no spaces", "Correct it: in the name of a database write `%20`."
        raise InputError(rule, key="tracking.uri", received=shown(uri), remedy=remedy)
    if parts.kind in _SERVERS and not _hostname(uri):
        rule = "the address of a server must name one"
        remedy = "Write for example `http://127.0.0.1:5000`."
        raise InputError(rule, key="tracking.uri", received=shown(uri), remedy=remedy)
    if parts.kind == "sqlite":
        _check_sqlite(uri, uri.partition("://")[2])


def _hostname(uri: str) -> str:
    """The server that an address names; empty where it names none, or its port is no port."""
    try:
        split = urllib.parse.urlsplit(uri)
        _ = split.port
    except ValueError:
        return ""
    return split.hostname or ""


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
    received = shown(uri)
    file = Path(urllib.parse.unquote(place.partition("?")[0].removeprefix("/")))
    if not place.startswith("/") or str(file) in (".", ":memory:"):
        rule = "a SQLite store must be a file, which outlives the process"
        remedy = "Write `sqlite:///` and then the path: `sqlite:////path/to/mlflow.db`."
        raise InputError(rule, key="tracking.uri", received=received, remedy=remedy)
    if file.is_dir():
        remedy = f"Write for example `sqlite:///{file / 'mlflow.db'}`."
        raise InputError("a SQLite store is a file, not a folder", key="tracking.uri", received=received, remedy=remedy)
    if not file.parent.is_dir():
        remedy = "Make the folder, or correct the path: `sqlite:///` and then the path (four slashes if absolute)."
        raise InputError(f"the folder {file.parent} must exist", key="tracking.uri", received=received, remedy=remedy)
    if file.exists() and not _is_database(file):
        remedy = "Name another file: one that is not there is made."
        raise InputError("the file must be a SQLite database", key="tracking.uri", received=received, remedy=remedy)


def _is_database(file: Path) -> bool:
    """Whether a file is one of SQLite's, or an empty one, of which it makes one."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(16) in (b"", b"SQLite format 3\0")
