"""stdout and stderr of the command line: whatever becomes of them, no result is lost to them.

A terminal of another encoding is shown what it can show, a reader that has gone (`| head`) is no failure, a full device
is one at the end, and what libraries warn of is one line of gcsearch's.
"""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import select
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

_PLAIN = str.maketrans(
    {"±": "+/-", "−": "-", "–": "-", "—": "-", "─": "-", "…": "...", "×": "x", "ρ": "rho", "’": "'", "“": '"', "”": '"'}
)
_HANDLER = "gcsearch-plain"
_LOUD = ("ray", "optuna", "mlflow", "alembic")  # libraries whose loggers print by themselves


def steady() -> None:
    """Make stdout and stderr of this process such that writing to them never raises. Called once, at the start."""
    codecs.register_error(_HANDLER, _replaced)
    for descriptor in (0, 1, 2):
        _occupy(descriptor)
    sys.stdout, sys.stderr = _text(1, sys.stdout), _text(2, sys.stderr)


def trouble() -> str:
    """Why some of what was written to stdout is lost; empty where nothing is, or where its reader has gone."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.lost if isinstance(raw, _Raw) else None
    return f"{error.strerror or error}" if error else ""


def one_line_warnings() -> None:
    """Print warnings and log lines of libraries as one line each, and each once."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            print(f"gcsearch: {text}", file=sys.stderr, flush=True)

    def show(message: Any, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        source = _package(filename)
        text = " ".join(str(message).split())
        if source == "gcsearch":
            say(text)
        elif not issubclass(category, (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)):
            say(f"{source} warns: {text}")  # the others are for programmers

    warnings.showwarning = show
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines(say)])
    create = logging.getLogRecordFactory()

    def adopted(name: str, *args: Any, **more: Any) -> logging.LogRecord:
        # A library gives its logger a handler when it is imported, whenever that is: it goes when it first speaks.
        library = name.partition(".")[0]
        if library in _LOUD:
            logger = logging.getLogger(library)
            logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
            logger.propagate = True
        return create(name, *args, **more)

    logging.setLogRecordFactory(adopted)


class _Lines(logging.Handler):
    """Says what is logged in one line."""

    def __init__(self, say: Any) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        source = record.name.partition(".")[0]
        text = next((line.strip() for line in record.getMessage().splitlines() if line.strip()), "")
        self._say(text if source == "gcsearch" else f"{source}: {text}")


def _package(filename: str) -> str:
    """The package that a file of source code belongs to."""
    path = Path(filename)
    if path.is_relative_to(Path(__file__).parents[1]):
        return "gcsearch"
    parts = path.parts
    if "site-packages" in parts:
        return Path(parts[parts.index("site-packages") + 1]).stem
    return path.stem


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What is written in place of characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    try:
        text.encode(error.encoding)
    except UnicodeEncodeError:
        text = "".join(character if character.isascii() else "?" for character in text)
    return text, error.end


def _occupy(descriptor: int) -> None:
    """Open a closed descriptor (`>&-`) on nothing: the next file would get its number, and be printed into."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _text(descriptor: int, before: TextIO | None) -> TextIO:
    encoding = getattr(before, "encoding", None) or "utf-8"
    if before is not None:
        before.flush()
    raw = _Raw(descriptor, "wb", closefd=False)
    lines = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=_HANDLER, line_buffering=lines)


class _Raw(io.FileIO):
    """A descriptor on which a write never fails; `lost` is why something that somebody waits for was not written."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block is full
                select.select([], [self.fileno()], [])
            return written
        except OSError as error:
            if error.errno == errno.ENOSPC:  # there may be room again later
                self.lost = error
            else:
                # Nobody reads any more. What this process and its children still write goes nowhere.
                self.lost = self.lost if error.errno == errno.EPIPE else error
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
            return memoryview(data).nbytes
