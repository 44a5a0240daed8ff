"""stdout and stderr of the command line: whatever becomes of them, no result is lost to them.

A terminal of another encoding is shown what it can show, a reader that has gone (`| head`) is no failure, a full device
is one at the end. What libraries warn of is one line of gcsearch's; while a sweep runs, it is in the sweep's log alone.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import logging
import os
import select
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from gcsearch.config.provenance import process_name

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
    sys.stdout, sys.stderr = _text(1, sys.stdout), _text(2, sys.stderr, lines=True)


def trouble() -> str:
    """Why some of what was written to stdout is lost; empty where nothing is, or where its reader has gone."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.lost if isinstance(raw, _Raw) else None
    return f"{error.strerror or error}" if error else ""


def terminal() -> TextIO:
    """Where words for people go: stderr, also while what others write there goes to a log."""
    return _output.terminal or sys.stderr


def say(text: str, style: str = "") -> None:
    """Words on stderr, from gcsearch, above what is drawn there; in the log, too, where one is kept.

    `style` is one of rich's, for a terminal.
    """
    if _output.log:
        _output.log.note(logging.INFO, "gcsearch", text)
    _show(text, style)


def _show(text: str, style: str = "") -> None:
    if _output.above:
        _output.above(f"gcsearch: {text}", style)
    else:
        put(f"gcsearch: {text}\n")


def put(text: str) -> None:
    """Write to the terminal, or whatever stands in its place, as it is."""
    with _output.lock:
        terminal().write(text)
        terminal().flush()


@contextlib.contextmanager
def drawn(above: Callable[[str, str], None]) -> Iterator[None]:
    """While something is drawn on the terminal: `above` prints a text in a style so that it is not in the way."""
    _output.above = above
    try:
        yield
    finally:
        _output.above = None


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Keep what libraries say in the file at `path`, which grows: their log lines and warnings, with the time.

    Of theirs only errors are said on the terminal, too. Where `steady` was called, also what is written to the
    descriptors 1 and 2, as C code and child processes do, goes there, and nothing but `say` reaches the terminal.
    """
    own = logging.getLogger("gcsearch")
    log, level = _Log(path), own.level
    logging.getLogger().addHandler(log)
    own.setLevel(logging.INFO)
    _output.log = log
    log.note(logging.INFO, "gcsearch", f"the process {process_name()} begins")
    try:
        with _aside(log.stream) if isinstance(sys.stderr, _Text) else contextlib.nullcontext():
            yield
    finally:
        _output.log = None
        own.setLevel(level)
        logging.getLogger().removeHandler(log)
        log.close()


class _Output:
    """What becomes of this process's words: `terminal`: where stderr was, `log`: see `logged`, `above`: see `drawn`."""

    terminal: TextIO | None = None
    log: _Log | None = None
    above: Callable[[str, str], None] | None = None
    lock = threading.RLock()
    """Held while something is written, and while `terminal` changes."""


_output = _Output()


class _Log(logging.StreamHandler[TextIO]):
    """A file of log lines, only ever appended to. What it cannot take, on a full disk, is lost without a word."""

    def __init__(self, path: Path) -> None:
        file = io.BufferedWriter(_Raw(path, "ab"))
        super().__init__(_Text(file, encoding="utf-8", errors="backslashreplace", line_buffering=True))
        self.setLevel(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def note(self, level: int, source: str, text: str) -> None:
        """A line of no logger."""
        self.handle(logging.LogRecord(source, level, "", 0, "%s", (text,), None))

    def close(self) -> None:
        self.stream.close()
        super().close()


@contextlib.contextmanager
def _aside(target: TextIO) -> Iterator[None]:
    """The descriptors 1 and 2 go to `target`, and `terminal` is where 2 was."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost, hook = getattr(raw, "lost", None), threading.excepthook
    with _output.lock:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        _output.terminal = _text(kept[2], sys.stderr, lines=True)
        threading.excepthook = _on_thread_error
        for descriptor in kept:
            os.dup2(target.fileno(), descriptor)
    try:
        yield
    finally:
        with _output.lock:
            for stream in (sys.stdout, sys.stderr, _output.terminal):
                stream.flush()
            for descriptor, before in kept.items():
                os.dup2(before, descriptor)
                os.close(before)
            _output.terminal, threading.excepthook = None, hook
        if isinstance(raw, _Raw):
            raw.lost = lost  # what the log could not take is no result


def _on_thread_error(error: threading.ExceptHookArgs) -> None:
    """A thread has died of an exception: its traceback is in the log, and that it did is said."""
    threading.__excepthook__(error)
    name = error.thread.name if error.thread else "a thread"
    say(f"the thread {name} ended: {error.exc_type.__name__}: {error.exc_value}")


def one_line_warnings() -> None:
    """Print warnings and log lines of libraries as one line each, and each once; see `logged`."""
    said: set[str] = set()

    def show_once(text: str) -> None:
        if text not in said:
            said.add(text)
            _show(text)

    def show(message: Any, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        source = _package(filename)
        text = " ".join(str(message).split())
        ours = source == "gcsearch"
        programmers = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
        if not ours and issubclass(category, programmers):
            return
        if _output.log:
            _output.log.note(logging.WARNING, source, text)
        if ours or not _output.log:
            show_once(text if ours else f"{source} warns: {text}")

    warnings.showwarning = show
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines(show_once)])
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
    """Says what is logged in one line; where a log is kept, of others' lines only the errors."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        source = record.name.partition(".")[0]
        if _output.log and source != "gcsearch" and record.levelno < logging.ERROR:
            return
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


class _Text(io.TextIOWrapper):
    """stdout or stderr, made steady."""


def _text(descriptor: int, before: TextIO | None, *, lines: bool = False) -> _Text:
    """Text to a descriptor in the encoding of the stream `before`; `lines`: each goes out at once."""
    encoding = getattr(before, "encoding", None) or "utf-8"
    if before is not None:
        before.flush()
    raw = _Raw(descriptor, "wb", closefd=False)
    lines = lines or raw.isatty()
    return _Text(io.BufferedWriter(raw), encoding=encoding, errors=_HANDLER, line_buffering=lines)


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
