"""Everything that gcsearch raises on purpose.

GcsearchError               base; the command line prints it without a traceback
├── InputError              the user's input is wrong; nothing has been started     (exit code 2)
│                           also a ValueError, so that library callers may catch that
├── RunError                the work itself failed on the way                       (exit code 1)
├── TooManyFailures         the sweep ended, but more trials failed than allowed    (exit code 3)
└── Interrupted             ended on request before the work was done; resumable    (exit code 130)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MASK = "***"

_LOGIN = re.compile(r"(?<!sqlite)(:/{1,2})[^\s'\"`<>]*@")  # of an address, also as a path, which has but one stroke
_SECRET = re.compile(r"(?i)\b([\w-]*(?:passw(?:or)?d|pwd|token|secret|api_?key|sslkey|odbc_connect))=[^\s&;'\"`,]+")


def masked(text: str) -> str:
    """`text` without logins of addresses and values of passwords, wherever they stand in it.

    `gcsearch.config.addresses` knows what of an address is a secret. This is for texts that quote what anybody wrote
    anywhere.
    """
    return _SECRET.sub(rf"\1={MASK}", _LOGIN.sub(rf"\1{MASK}@", text))


class GcsearchError(Exception):
    """Base of the tree; `exit_code` is what the command line ends with. Its words hold no secrets."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


_LONGEST = 1000


def is_control(character: str) -> bool:
    """Whether a character steers a terminal, or is half of one; tabs and ends of lines are none."""
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"


def printable(text: str) -> str:
    """`text` as a terminal may show it, whatever a file or a command line had in it."""
    return "".join(f"{one!a}"[1:-1] if is_control(one) else one for one in text)


class InputError(GcsearchError, ValueError):
    """The user's input breaks a rule.

    The message states, in this order and as far as known: where (file and key), the rule, what was
    received, and what to do next.  For example::

        gcscoop.toml, parameters.rho: `low < high` must hold, got low=2.0, high=0.005.
        Swap the two bounds.
    """

    exit_code = 2

    def __init__(
        self,
        rule: str,
        *,
        file: str | Path | None = None,
        key: str | None = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        self.rule = rule
        self.file = None if file is None else str(file)
        self.key = key
        self.received = received
        self.remedy = remedy
        where = printable(", ".join(part for part in (self.file, key) if part))
        text = f"{where}: {rule}" if where else rule
        if received is not None:
            # A login may have anything in it, even spaces: what was received is an address or has none.
            shown = received if isinstance(received, str) else repr(received)
            shown = printable(re.sub(r"(?<!sqlite)://.*@", f"://{MASK}@", shown))
            text += f", got {shown if len(shown) <= _LONGEST else f'{shown[:_LONGEST]}... ({len(shown)} characters)'}"
        text += "." if not text.endswith((".", "!", "?")) else ""
        super().__init__(f"{text}\n{remedy}" if remedy else text)

    def at(self, *, file: str | Path | None = None, key: str | None = None) -> InputError:
        """The same error with a place added where it was still unknown."""
        return InputError(
            self.rule,
            file=self.file or file,
            key=self.key or key,
            received=self.received,
            remedy=self.remedy,
        )


class RunError(GcsearchError):
    """The work failed after it had been accepted: a worker died for good, a disk is full."""


class TooManyFailures(GcsearchError):
    """The sweep is over and its results are kept, but more trials failed than the pipeline allows."""

    exit_code = 3


class Interrupted(GcsearchError):
    """Somebody asked the driver to stop or to cancel; what had ended is kept, and the sweep can go on."""

    exit_code = 130


def unknown_name(kind: str, name: str, known: Iterable[str], **place: str | Path | None) -> InputError:
    """An InputError for a name that is not in a table: lists the known names and the nearest one."""
    names = sorted(known)
    by_letters = {one.casefold(): one for one in names}
    nearest = get_close_matches(name.casefold(), by_letters, n=1)
    remedy = f"Did you mean {by_letters[nearest[0]]!r}? " if nearest else ""
    return InputError(
        f"the {kind} must be one of the known names",
        received=repr(name),
        remedy=f"{remedy}Known: {', '.join(names)}.",
        file=place.get("file"),
        key=str(place["key"]) if place.get("key") else None,
    )
