"""`gcsearch` in a process of its own: what it writes while it runs, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def command(*words, store) -> list[str]:
    """The command line of `gcsearch WORDS --store STORE` with this Python."""
    return [sys.executable, "-m", "gcsearch", *map(str, words), "--store", str(store)]


def start(words, log) -> subprocess.Popen[bytes]:
    """Start a command as a session of its own that writes to the file `log`."""
    return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def journal_has(path: Path, kind: str, count: int = 1, seconds: float = 500) -> None:
    """Wait until a journal has `count` lines of a kind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().count(f'"kind":"{kind}"') >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {kind} in {path} after {seconds} s")


def left_behind(session: int, seconds: float) -> list[str]:
    """Processes of the session `session`, or of a Ray that it started, which do not end in `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def processes_of(session: int) -> list[str]:
    """The command lines of the processes that the session `session` has."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except (OSError, ValueError, IndexError):
            continue
    return found
