"""A terminal of a few lines: what stands on it after all that was written to it, and that nothing odd was."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[(?P<number>\d*)(?P<letter>[AJK])|\x1b\[[0-9;]*m|\r\n|[\r\n]|[^\x1b\r\n]")


class Terminal:
    """Takes text, colours, line ends, and the three ways to move and clear that gcsearch uses; nothing else."""

    def __init__(self, width: int = 80) -> None:
        self.width, self.rows, self.row, self.column = width, [""], 0, 0

    def feed(self, text: str) -> None:
        """Write to the terminal. AssertionError for a control sequence that is none of those."""
        end = 0
        for found in _TOKEN.finditer(text):
            assert found.start() == end, f"unknown control sequence: {text[end : found.start()]!r}"
            end = found.end()
            token, letter = found[0], found["letter"]
            if letter == "A":
                self.row = max(self.row - int(found["number"] or 1), 0)
            elif letter in ("J", "K"):
                self.rows[self.row] = self.rows[self.row][: min(self.column, self.width - 1)]
                if letter == "J":
                    del self.rows[self.row + 1 :]
            elif token in ("\n", "\r\n"):
                self._next_row()
            elif token == "\r":
                self.column = 0
            elif not token.startswith("\x1b"):
                self._put(token)
        assert end == len(text), f"unknown control sequence: {text[end:]!r}"

    def resize(self, width: int) -> None:
        """Become narrower: longer rows are broken, as terminals do; the cursor stays at the end."""
        broken = [row[i : i + width] for row in self.rows for i in range(0, max(len(row), 1), width)]
        self.width, self.rows, self.row = width, broken, len(broken) - 1

    @property
    def shown(self) -> list[str]:
        """The rows, without blanks at their ends."""
        return [row.rstrip() for row in self.rows]

    def _put(self, character: str) -> None:
        if self.column == self.width:
            self._next_row()
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
        self.column += 1

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")
