"""Paths as a user writes them, made absolute once, where they are read; what cannot be a path is refused in words."""

from __future__ import annotations

import os
from pathlib import Path

from gcsearch.errors import InputError

RENAME = "Rename it; `convmv -r -f latin1 -t utf8 --notest FOLDER` renames all that an archive from Windows left."
"""What to do about names of files that are not in UTF-8."""


def is_text(name: str) -> bool:
    """Whether a name of a file can be written down: it is in UTF-8 and has no zero byte."""
    if name.isascii():
        return "\0" not in name
    return "\0" not in name and not any("\ud800" <= one <= "\udfff" for one in name)


def absolute(text: str | Path, folder: Path | None = None, *, key: str | None = None) -> Path:
    """The path `text`, relative to `folder` (by default that of the command), `~` and `~user` expanded.

    It need not exist. Links and `..` stay as they are written.

    Raises:
        InputError: an empty text, a line break, an unknown user, a part of the path that is a file, a name that is too
            long for the file system or not in UTF-8, a link that leads to itself, a folder that may not be entered.
    """
    written = str(text)
    if not written.strip() or any(ord(mark) < 32 for mark in written):
        rule = "a path has no line break and no other control character" if written.strip() else "a path is not empty"
        raise InputError(rule, key=key, received=repr(written), remedy="Write the path of a file or folder.")
    expanded = os.path.expanduser(written)  # noqa: PTH111  (Path raises RuntimeError where the user is unknown)
    if expanded.startswith("~"):
        user = written.partition("/")[0]
        remedy = f"Write the whole path, or ./{written} for a folder of that name."
        raise InputError(f"there is no home folder of {user}", key=key, received=written, remedy=remedy)
    path = Path(folder or Path.cwd(), expanded).absolute()
    if not is_text(str(path)):
        raise InputError("a path must be in UTF-8", key=key, received=str(path), remedy=RENAME)
    if reason := _unusable(path):
        raise InputError(f"the path cannot be used: {reason}", key=key, received=str(path), remedy="Correct the path.")
    return path


def sqlite_uri(path: Path) -> str:
    """The address of the SQLite file `path` for MLflow, whatever characters are in it."""
    quoted = str(path).replace("%", "%25").replace("?", "%3F")  # what SQLAlchemy reads otherwise than it stands there
    # Of a plain `sqlite:///` MLflow makes the folder as it is quoted, beside the one that is meant.
    return f"sqlite:///{path}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def _unusable(path: Path) -> str:
    """Why neither a file nor a folder can be at `path`; empty where one is, or could be made."""
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except NotADirectoryError:
        blocking = next((str(part) for part in reversed(path.parents) if part.exists() and not part.is_dir()), "a part")
        return f"{blocking} is a file and no folder"
    except OSError as error:
        return error.strerror or str(error)
    return ""
