"""Dotted keys such as `search.trials`: put into the tables of a file, read off them, blamed for what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gcsearch.errors import InputError


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key. InputError where it does not lead through tables."""
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise InputError("a dotted key must lead through tables", key=key)
    content[last] = value


def flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value: `"task.shots" = 1` and `task.shots = 1` are the same."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def blamed(error: InputError, table: str, keys: Iterable[str], where: str, file: Path) -> InputError:
    """The same error by the key of `table` that it comes from; where it comes from none, its rule ends with `where`."""
    plain = (error.key or "").replace('"', "")
    found = next((key for key in keys if f"{plain}.".startswith(f"{key}.")), None)
    rule = error.rule if found else f"{error.rule}, {where}"
    place = f'{table}."{found}"' if found else error.key
    named = Path(error.file) if error.file else file
    return InputError(rule, file=named, key=place, received=error.received, remedy=error.remedy)
