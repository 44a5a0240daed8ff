"""The processes of a local Ray: noticed when one of them dies, ended with the driver, and their folder removed.

Ray itself says nothing when its raylet or its control store is killed, as by a system that is out of memory: the driver
waits for ever, or Ray ends the process after a minute, past every `finally`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path

from gcsearch import interrupts
from gcsearch.errors import RunError
from gcsearch.provenance import Process, this_process

NAMES = {"raylet": "raylet (it starts and feeds the workers)", "gcs_server": "control store"}
"""What of Ray nothing runs without."""

PATIENCE = 40.0
"""Seconds for the driver to end by itself after a loss; a control store that is gone ends the process after 60."""

_MARK = "gcsearch.json"


class RayLost(RunError):
    """A process died that Ray cannot run without."""


class _Watch:
    """Looks after the processes of a Ray that this process has started, from a thread of its own."""

    def __init__(self, processes: Mapping[str, subprocess.Popen[bytes]], session: Path) -> None:
        self.processes, self.session = processes, session
        self.told = threading.Event()  # the main thread is on its way out
        self._over, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._work, name="gcsearch-ray", daemon=True)
        self._thread.start()

    def lost(self) -> str:
        """What has died, and of what; empty while all is there."""
        for name, process in self.processes.items():
            if (code := process.poll()) is not None:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                why = "; the system does that when memory runs out" if code == -signal.SIGKILL else ""
                return f"Ray's {NAMES[name]} {how}{why}."
        return ""

    def end(self) -> None:
        """Look no more."""
        os.close(self._stop)
        self._thread.join()
        os.close(self._over)

    def _work(self) -> None:
        ends = [os.pidfd_open(process.pid) for process in self.processes.values() if process.poll() is None]
        try:
            if self._over in wait([*ends, self._over]):
                return
            # Whoever ends a whole group of processes, or a whole job, ends this one, too: that is no loss.
            if wait([self._over], 0.3) or interrupts.received():
                return
            interrupts.wake()
            if not self.told.wait(PATIENCE):
                self._leave()
        finally:
            for end in ends:
                os.close(end)

    def _leave(self) -> None:
        """End this process: its main thread waits inside Ray for what will never come."""
        try:
            for say in reversed(_last):
                say(self.lost())
            remove(self.session)
        finally:
            os._exit(1)


_watch: _Watch | None = None
_died = ""  # of what the Ray that was put away last had died
_last: list[Callable[[str], None]] = []


def lost() -> str:
    """What of the Ray that this process has started is dead; empty where nothing is."""
    return _watch.lost() if _watch else _died


def check() -> None:
    """RayLost where Ray cannot go on: whatever else fails at this moment fails because of that."""
    if why := lost():
        raise RayLost(why)


@contextlib.contextmanager
def told(advice: str) -> Iterator[None]:
    """What ends the block because Ray has died comes out as a RayLost that says so, followed by `advice`."""
    global _died
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        why, _died = lost(), ""
        if not why or interrupts.received():
            raise
        raise RayLost(f"{why}\n{advice}.") from error


@contextlib.contextmanager
def last_words(say: Callable[[str], None]) -> Iterator[None]:
    """`say` is called with the reason, from another thread, where the block does not end although Ray has died."""
    _last.append(say)
    try:
        yield
    finally:
        _last.remove(say)


@contextlib.contextmanager
def watched(processes: Mapping[str, subprocess.Popen[bytes]], session: Path) -> Iterator[None]:
    """Look after the processes of a Ray session for the time of the block; when one of NAMES dies, it ends."""
    global _watch, _died
    _watch = _Watch({name: process for name, process in processes.items() if name in NAMES}, session)
    try:
        yield
    finally:
        _watch.told.set()
        _died = _watch.lost()
        _watch.end()
        _watch = None


# --- Folders ------------------------------------------------------------------------------------------


def mark(session: Path) -> None:
    """Write into the folder of a Ray session that it is this process's, for who comes after a kill."""
    (session / _MARK).write_text(json.dumps(this_process().to_dict()))


def remove(session: Path) -> None:
    """End what is left of a Ray session that has been put away, and remove its folder."""
    for _ in range(20):
        left = list(_processes_of(session))
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(session, ignore_errors=True)
        if not left and not session.exists():
            break
        time.sleep(0.05)
    latest = session.parent / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        session.parent.rmdir()  # where nobody else has anything in it


def sweep_up(folder: Path) -> None:
    """Remove the sessions below `folder` whose driver, a gcsearch of this machine, is gone."""
    for marked in folder.glob(f"session_*/{_MARK}"):
        with contextlib.suppress(OSError, ValueError):
            if Process.from_dict(json.loads(marked.read_text()), file=marked).is_gone():
                remove(marked.parent)


def _processes_of(session: Path) -> Iterator[int]:
    """Ray's processes that have a file of this session's folder open: its agents outlive their node by a minute."""
    inside = f"{session}{os.sep}"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) == os.getpid() or not _is_of_ray(process):
                continue
            if any(str(file.readlink()).startswith(inside) for file in (process / "fd").iterdir()):
                yield int(process.name)


def _is_of_ray(process: Path) -> bool:
    """Whether this is one of Ray's, and not for example an editor in which somebody reads Ray's logs."""
    command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return command[0].startswith("ray::") or Path(command[0]).name in NAMES or "/site-packages/ray/" in "".join(command)
