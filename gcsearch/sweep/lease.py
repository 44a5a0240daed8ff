"""One driver per sweep, and what others ask of it.

STORE/sweeps/.NAME.lease      held by the driver: who it is, since when; the file's time of change is its last beat
STORE/sweeps/.NAME.request    what somebody else asks of this very holder: stop, or cancel

Both lie beside the sweep's folder: the lease is taken before there is a folder, and stays when `--fresh` moves it.
No file is locked, because locks do not reach from host to host on every shared file system.  A lease is made by
exclusive creation; whether it still beats is read off the file system's own clock, so that hosts whose clocks
differ agree; and its holder beats through the open file, so that it can never write over a successor's lease.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path

from gcsearch import files
from gcsearch.config.base import Model
from gcsearch.errors import InputError, Interrupted, RunError
from gcsearch.sweep import interrupts
from gcsearch.sweep.store import Store

BEAT = 5.0
"""Seconds between two beats."""

STALE = 60.0
"""Seconds without a beat after which a lease may be taken over."""

_POLL = 0.5  # seconds between two looks for a request


class Request(StrEnum):
    """What can be asked of a driver."""

    STOP = "stop"
    CANCEL = "cancel"


class Holder(Model):
    """Who drives a sweep. `token` tells this lease from any other, `since` is when it was taken (UTC)."""

    token: str
    process: Process
    since: str


@dataclass(frozen=True)
class LeaseState:
    """A lease as somebody else finds it: its holder, its last beat (UTC) and how many seconds ago that was."""

    holder: Holder
    beat: datetime
    age: float

    @property
    def gone(self) -> str:
        """Why nobody drives the sweep although a lease lies there; empty where the holder lives."""
        if self.holder.process.is_gone():
            return f"the process {self.holder.process} is gone"
        if self.age > STALE:
            return f"the process {self.holder.process} has not been heard of for {self.age:.0f} s"
        return ""


def look(path: Path) -> LeaseState | None:
    """The lease at `path`; None where nobody holds one."""
    for _ in range(20):
        try:
            content, changed = path.read_bytes(), path.stat().st_mtime
        except FileNotFoundError:
            return None
        try:
            holder = Holder.from_dict(json.loads(content), file=path)
        except (ValueError, RecursionError):
            time.sleep(0.05)  # it is being written at this moment
            continue
        return LeaseState(holder, datetime.fromtimestamp(changed, UTC), max(_clock(path.parent) - changed, 0.0))
    raise InputError(
        "the lease of a sweep must say who holds it", file=path, remedy="If no driver runs, delete this file."
    )


def living(path: Path) -> LeaseState | None:
    """The lease at `path` of a driver that lives; None where nobody drives."""
    found = look(path)
    return found if found and not found.gone else None


def _clock(folder: Path) -> float:
    """What time it is on the file system of `folder`: that of a file changed there just now."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # a reader that may not write there
        return time.time()


class Lease:
    """A lease that this process holds; see `take`."""

    def __init__(self, path: Path, what: str, holder: Holder, descriptor: int, former: LeaseState | None) -> None:
        self.path, self.what, self.holder, self.former = path, what, holder, former
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, what: str, say: Callable[[str], None] = lambda text: None) -> Lease:
        """Take the lease at `path`, from a holder that is gone too (`former` says which).

        Whether a holder on another machine lives is seen by its beats alone: it is watched until it beats or
        counts as gone, so that a job which is started anew on another host gets the sweep of its dead
        forerunner. `say` is told of the waiting.

        Raises:
            InputError: somebody drives `what`; the message says who and since when.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Holder(token=secrets.token_hex(8), process=this_process(), since=_now())
        former = None
        while (descriptor := _create(path, holder)) is None:
            found = look(path)
            if found and not found.gone:
                if found.holder.process.is_here():
                    raise _held(found, path, what)
                say(f"waiting for a sign of life of {found.holder.process}, which held {what} last")
                _watch(found, path, what)
            elif found:
                _remove(found, path, what)
                former = found
        return cls(path, what, holder, descriptor, former)

    def check(self) -> None:
        """RunError where another driver has taken the lease over: nothing may be written then."""
        try:
            kept = os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            kept = False
        if not kept:
            raise RunError(
                f"Another driver has taken over {self.what}, because this one was not heard of for {STALE:.0f} s.\n"
                "This one has ended; the other goes on."
            )

    def beat(self) -> None:
        """Show that the holder lives."""
        os.utime(self._descriptor)

    def request(self) -> Request | None:
        """What was asked of this holder last."""
        try:
            asked = json.loads(self._request.read_bytes())
            return Request(asked["wish"]) if asked["token"] == self.holder.token else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None  # nothing was asked, or nothing that this version knows

    @property
    def _request(self) -> Path:
        return request_path(self.path)

    def release(self) -> None:
        """Give the lease back, with what was asked of its holder."""
        try:
            self.check()
        except RunError:
            return  # it is another's now
        else:
            self._request.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)


def request_path(lease: Path) -> Path:
    """Where requests to the holder of `lease` lie."""
    return lease.with_suffix(".request")


def ask(path: Path, request: Request) -> LeaseState | None:
    """Ask the holder of the lease at `path`; it hears within a second or two. None where nobody drives."""
    found = living(path)
    if found is None:
        return None
    content = {"wish": request, "token": found.holder.token, "by": str(this_process()), "time": _now()}
    files.write_whole(request_path(path), json.dumps(content))
    return found


def _create(path: Path, holder: Holder) -> int | None:
    """Make the lease's file and return it open; None where there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    try:
        os.write(descriptor, json.dumps(holder.to_dict()).encode())
        os.fsync(descriptor)
    except OSError as error:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise RunError(f"{path}: the lease cannot be written: {error.strerror or error}.") from error
    return descriptor


def _remove(found: LeaseState, path: Path, what: str) -> None:
    """Remove the lease of a holder that is gone.

    Of several that try, one makes the guard's file; and it looks again, so that nobody removes the lease of
    whoever was quicker.
    """
    guard = path.with_suffix(".guard")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if _clock(path.parent) - guard.stat().st_mtime > STALE:
                guard.unlink()  # left by one that was killed in this very moment
                return
        raise _held(found, path, what) from None
    try:
        present = look(path)
        if present and present.holder.token == found.holder.token:
            path.unlink()
    finally:
        guard.unlink(missing_ok=True)


def _watch(found: LeaseState, path: Path, what: str) -> None:
    """Wait until the lease that was `found` is given back or its holder counts as gone. InputError once it beats."""
    while (now := look(path)) and now.holder.token == found.holder.token and not now.gone:
        if now.beat != found.beat:
            raise _held(now, path, what)
        time.sleep(BEAT / 10)


def _held(found: LeaseState, path: Path, what: str) -> InputError:
    return InputError(
        f"{what} is driven by one process at a time",
        file=path,
        received=f"{found.holder.process}, which drives it since {found.holder.since} "
        f"and was heard of {found.age:.0f} s ago",
        remedy=f"Wait for it to end, or end it with `{_command(path, 'stop')}`.",
    )


def _command(lease: Path, verb: str) -> str:
    """The command that does `verb` to the sweep of a lease."""
    return Store(lease.parents[1]).command(verb, lease.name.removeprefix(".").removesuffix(".lease"))


class Driver:
    """This process as the driver of a sweep: it beats and hears requests from a thread of its own."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.request: Request | None = None
        self.lost: RunError | None = None
        self._ended = threading.Event()
        self._main = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._work, name="gcsearch-lease", daemon=True)
        self._thread.start()

    def stopping(self) -> bool:
        """Whether nothing new is to be begun."""
        return self.request is not None or self.lost is not None

    def check(self) -> None:
        """Raise where the work has to end at once: Interrupted after a cancel, RunError where the lease is lost."""
        if self.lost:
            raise self.lost
        if self.request is Request.CANCEL:
            resume = _command(self.lease.path, "resume")
            raise Interrupted(f"{self.lease.what} was cancelled on request; `{resume}` goes on all the same.")

    def end(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join()
        self.lease.release()

    def _work(self) -> None:
        due = 0.0
        while not self._ended.wait(_POLL):
            try:
                if time.monotonic() >= due:
                    self.lease.check()
                    self.lease.beat()
                    due = time.monotonic() + BEAT
                self._hear(self.lease.request())
            except RunError as error:
                self.lost = error
                self._interrupt()
                return
            except (OSError, ValueError, KeyError):
                continue  # a file system that does not answer now: the next beat tries again

    def _hear(self, request: Request | None) -> None:
        if request and request is not self.request:
            self.request = request
            if request is Request.CANCEL:
                self._interrupt()

    def _interrupt(self) -> None:
        """End what the driver waits for, as Ctrl-C would. Only the main thread can be interrupted: another
        one ends where it calls `check`.
        """
        if self._main and not self._ended.is_set():
            interrupts.wake()


@contextlib.contextmanager
def driving(path: Path, what: str, say: Callable[[str], None] = lambda text: None) -> Iterator[Driver]:
    """Drive `what` for the time of the block: nobody else can. See `Lease.take`.

    Raises:
        InputError: somebody else does.
        Interrupted, RunError: see `Driver.check`; also where the block was ended by an interrupt that came of it.
    """
    with interrupts.handled():
        driver = Driver(Lease.take(path, what, say))
        try:
            yield driver
        except KeyboardInterrupt:
            driver.check()
            raise
        finally:
            with interrupts.held():
                driver.end()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Process(Model):
    """A process, told from every other one on any host.

    `machine` names the booted system and, in containers, their own counting of processes; `began` is the
    process's start in the system's ticks. Within one machine both together tell whether the process lives;
    empty where the system does not say.
    """

    host: str
    pid: int
    machine: str = ""
    began: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine, so that this machine knows whether it lives."""
        return bool(self.machine) and self.machine == _machine()

    def is_gone(self) -> bool:
        """Whether it is known to have ended; False for a process of another machine."""
        return self.is_here() and self.began != _began(self.pid)


def this_process() -> Process:
    """The process that asks."""
    return Process(host=socket.gethostname(), pid=os.getpid(), machine=_machine(), began=_began(os.getpid()))


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """The start of the process `pid`; empty where there is none, or only what is left of a dead one."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]
