"""The last lines of a terminal, drawn again and again in place; what is said meanwhile stands above them.

The cursor is never hidden and the terminal never put into another mode, so that nothing has to be put back: also a
process that is killed leaves it as it was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable
from math import ceil
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from gcsearch.cli import streams

logger = logging.getLogger(__name__)

_SECONDS = 0.25  # between two frames
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def can_draw() -> bool:
    """Whether stderr is a terminal on which the cursor can be moved."""
    return streams.terminal().isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown", "")


class Screen:
    """A context manager that draws what `frame` gives, four times a second, at the end of the terminal.

    `frame` is called from a thread of the screen's; None: nothing is drawn.
    """

    def __init__(self, frame: Callable[[], RenderableType | None]) -> None:
        self._frame = frame
        self._console = Console(file=streams.terminal(), force_terminal=True)
        self._drawn: list[str] = []  # the lines of the last frame
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gcsearch-screen", daemon=True)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(streams.drawn(self.above))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            streams.put(self._cleared())
            self._drawn = []
        self._open.close()

    def above(self, text: str, style: str = "") -> None:
        """Print a text above what is drawn."""
        with self._lock:
            said = self._rendered(Text(text, style), soft_wrap=True)
            streams.put(self._cleared() + said + "".join(f"{line}\n" for line in self._drawn))

    def refresh(self) -> None:
        """Draw the frame as it is now. Where nothing has changed nothing is written."""
        renderable = self._frame()
        with self._lock:
            if self._over.is_set():
                return
            self._fit()
            text = self._rendered(renderable) if renderable is not None else ""
            lines, rows = text.splitlines()[: max(self._console.height - 1, 1)], self._rows()
            if lines != self._drawn or rows != len(lines):
                # Line over line, so that nothing is blank in between; what is left of a longer frame goes at the end.
                up = f"\x1b[{rows}A\r" if rows else ""
                streams.put(up + "".join(f"\x1b[K{line}\n" for line in lines) + "\x1b[J")
                self._drawn = lines

    def _work(self) -> None:
        while not self._over.wait(_SECONDS):
            try:
                self.refresh()
            except Exception:  # whatever it is of, a frame that cannot be drawn is left out
                logger.info("a frame of the display is missing", exc_info=True)

    def _cleared(self) -> str:
        """What goes to the first line of the last frame and clears the terminal from there."""
        rows = self._rows()
        return f"\x1b[{rows}A\r\x1b[J" if rows else ""

    def _rows(self) -> int:
        """How many rows of the terminal the last frame takes: one that has become narrower has broken its lines."""
        width = self._console.width
        return sum(max(ceil(cell_len(_STYLES.sub("", line)) / width), 1) for line in self._drawn)

    def _fit(self) -> None:
        """Take the size that the terminal has now."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(streams.terminal().fileno())
            if size.columns and size.lines:
                self._console.size = (size.columns, size.lines)

    def _rendered(self, renderable: RenderableType, *, soft_wrap: bool = False) -> str:
        with self._console.capture() as captured:
            self._console.print(renderable, soft_wrap=soft_wrap, highlight=False)
        return captured.get()
