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
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import wait
from pathlib import Path

from gcsearch.errors import RunError
from gcsearch.sweep import interrupts
from gcsearch.sweep.lease import Process, this_process

NAMES = {"raylet": "raylet (it starts and feeds the workers)", "gcs_server": "control store"}
"""What of Ray nothing runs without."""

PATIENCE = 40.0
"""Seconds for the driver to end by itself after a loss; a control store that is gone ends the process after 60."""

_MARK = "gcsearch.json"
_PAUSE = 5.0  # seconds between two looks at a control store on another machine
_LOOKS = 4  # looks in vain after which it counts as dead; after a minute Ray ends the process


class RayLost(RunError):
    """A process died that Ray cannot run without."""


@dataclass(frozen=True)
class Daemon:
    """One of Ray's processes. `process`: where it is a child of this one, so that how it ended can be told."""

    name: str
    pid: int
    process: subprocess.Popen[bytes] | None = None

    def ended(self) -> str:
        """How it ended; empty while it runs."""
        if self.process is None:
            try:
                state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                state = "Z"
            return "has ended" if state == "Z" else ""
        code = self.process.poll()
        if code is None:
            return ""
        why = "; the system does that when memory runs out" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{why}" if code < 0 else f"ended with exit code {code}"


class _Watch:
    """Looks after the processes of the Ray that this process uses, from a thread of its own.

    `session` is the folder of a Ray that this process has started. `address` is where a control store on another
    machine listens.
    """

    def __init__(self, daemons: Sequence[Daemon], session: Path | None, address: str) -> None:
        self.daemons, self.session, self.address = daemons, session, address
        self.explaining_lost_ray = threading.Event()  # the main thread is on its way out
        self._silent = 0  # looks in a row at which nothing listened at the address
        self._over, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._work, name="gcsearch-ray", daemon=True)
        self._thread.start()

    def lost(self) -> str:
        """What has died, and of what; empty while all is there."""
        for daemon in self.daemons:
            if how := daemon.ended():
                return f"Ray's {NAMES[daemon.name]} {how}."
        if self._silent >= _LOOKS:
            return f"Ray's {NAMES['gcs_server']} at {self.address} does not answer any more."
        return ""

    def end(self) -> None:
        """Look no more."""
        os.close(self._stop)
        self._thread.join()
        os.close(self._over)

    def _work(self) -> None:
        ends = []
        for daemon in self.daemons:
            with contextlib.suppress(ProcessLookupError):
                ends.append(os.pidfd_open(daemon.pid))
        try:
            while not self.lost():
                if self._over in wait([*ends, self._over], _PAUSE if self.address else None):
                    return
                if self.address:
                    self._silent = 0 if _listens(self.address) else self._silent + 1
            # Whoever ends a whole group of processes, or a whole job, ends this one, too: that is no loss.
            if wait([self._over], 0.3) or interrupts.received():
                return
            interrupts.wake()
            if not self.explaining_lost_ray.wait(PATIENCE):
                self._leave()
        finally:
            for end in ends:
                os.close(end)

    def _leave(self) -> None:
        """End this process: its main thread waits inside Ray for what will never come."""
        try:
            for say in reversed(_last):
                say(self.lost())
            if self.session:
                remove(self.session)
        finally:
            os._exit(1)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PAUSE).close()
    except OSError:
        return False
    return True


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
def explaining_lost_ray(advice: str) -> Iterator[None]:
    """What ends the block because Ray has died comes out as a RayLost that says so, followed by `advice`."""
    global _died
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        why, _died = lost(), ""
        told_already = isinstance(error, RayLost) and "\n" in str(error)  # by a block in this one
        if not why or told_already or interrupts.received():
            raise
        raise RayLost(f"{why}\n{advice}.") from error


@contextlib.contextmanager
def report_at_exit(say: Callable[[str], None]) -> Iterator[None]:
    """`say` is called with the reason, from another thread, where the block does not end although Ray has died."""
    _last.append(say)
    try:
        yield
    finally:
        _last.remove(say)


@contextlib.contextmanager
def watched(daemons: Sequence[Daemon], session: Path | None = None, address: str = "") -> Iterator[None]:
    """Look after Ray's processes for the time of the block; when one dies, the block ends. See `_Watch`."""
    global _watch, _died
    _watch = _Watch(daemons, session, address)
    try:
        yield
    finally:
        _watch.explaining_lost_ray.set()
        _died = _watch.lost()
        _watch.end()
        _watch = None


def started(processes: Mapping[str, subprocess.Popen[bytes]]) -> list[Daemon]:
    """Those of the processes that this one has started which Ray cannot run without."""
    return [Daemon(name, process.pid, process) for name, process in processes.items() if name in NAMES]


def joined(session: str, raylet: str) -> list[Daemon]:
    """Those of a Ray that runs already and are on this machine, by its folder and its raylet's socket."""
    # Whole words: one session may have several raylets on one machine, whose sockets differ in their ends only.
    wanted = {"raylet": f"--raylet_socket_name={raylet}", "gcs_server": f"--log_dir={session}/logs"}
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = line.read_bytes().decode(errors="replace").split("\0")
            name = Path(words[0]).name
            if name in wanted and wanted[name] in words:
                found.append(Daemon(name, int(line.parent.name)))
    return found


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


def end_children() -> None:
    """End the processes of a Ray that this process has begun to start: it knows only those of one that has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if int(parent) == os.getpid() and _is_of_ray(stat.parent):
                os.kill(int(stat.parent.name), signal.SIGKILL)


def remove_begun(folder: Path, since: datetime) -> None:
    """Remove the sessions below `folder` that this process has begun `since` then and that have not started.

    Ray names a session by the local time and by its driver.
    """
    for session in folder.glob(f"session_*_{os.getpid()}"):
        if session.name >= f"session_{since:%Y-%m-%d_%H-%M-%S_%f}":
            remove(session)


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
