"""The temporary folder and the shared memory that a local Ray needs: looked at before one is started."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from gcsearch.errors import InputError

OBJECT_STORE = 200 * 1024**2
"""Bytes of shared memory that Ray is given; what travels between driver and workers is small."""

_LOGS = 64 * 1024**2  # bytes of room for Ray's logs and sockets
_LONGEST = (104 if sys.platform == "darwin" else 108) - 1  # bytes of the path of a Unix socket
_SOCKET = f"ray/session_2000-01-01_00-00-00_000000_{2**22}/sockets/plasma_store"  # below the temporary folder
_SHARED = Path("/dev/shm")  # noqa: S108


def variable() -> str:
    """The environment variable that says where temporary files of Ray go, or would say so."""
    return "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"


def folder() -> Path:
    """Where temporary files of Ray go."""
    return Path(os.environ.get(variable()) or "/tmp")  # noqa: S108  (Ray's own default)


def check() -> None:
    """Look whether a local Ray can use its temporary folder and the shared memory.

    Raises:
        InputError: the folder is absent, cannot be written, is full, or has a path that Ray's sockets do not bear.
    """
    name, place = variable(), folder()
    path = f"{place}/{_SOCKET}"
    if not str(place).isascii():
        _refuse("Ray reads no path with other characters than those of ASCII", place, "Name a plain one")
    if len(path) > _LONGEST:
        most = _LONGEST - len(_SOCKET) - 1
        rule = f"Ray's sockets lie below it, and their paths have at most {_LONGEST} bytes, so this one at most {most}"
        _refuse(rule, f"{place} with {len(str(place))}", "Name a shorter one")
    if name == "TMPDIR" and not place.is_dir():
        _refuse("the temporary folder must exist", place, "Make it, or name another one")
    there = next(part for part in (place, *place.parents) if part.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        _refuse("the temporary folder must be writable", f"{place} ({error.strerror})", "Name another one")
    if sys.platform == "linux" and not _SHARED.is_dir():
        rule, remedy = f"Ray needs the shared memory of {_SHARED}", "Mount a tmpfs there; Docker makes one by itself."
        raise InputError(rule, received="none", remedy=remedy)
    shared = _free(_SHARED)
    needed = _LOGS + (OBJECT_STORE if shared < OBJECT_STORE else 0)
    if _free(there) < needed:
        why = f", {shared / 2**20:.0f} MiB being free in {_SHARED}" if shared < OBJECT_STORE else ""
        received = f"{place} with {_free(there) / 2**20:.0f} MiB"
        _refuse(
            f"Ray needs {needed / 2**20:.0f} MiB of temporary room{why}", received, "Make room, or name another one"
        )


def describe() -> str:
    """The folder, how much is free there and in the shared memory."""
    return f"{folder()}, {_free(folder()) / 2**30:.0f} GiB free; {_SHARED}, {_free(_SHARED) / 2**30:.1f} GiB free"


def _free(place: Path) -> int:
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return 0


def _refuse(rule: str, received: object, remedy: str) -> None:
    name = variable()
    example = f"{name}=/tmp" if name == "RAY_TMPDIR" else "RAY_TMPDIR=/tmp for Ray alone, or TMPDIR=/tmp"
    raise InputError(rule, key=name, received=str(received), remedy=f"{remedy}: for example {example}.")
