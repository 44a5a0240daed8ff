"""Where a result came from: versions, git commit, and the size of the machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gcsearch import __version__
from gcsearch.schema import Model

_PACKAGES = ("torch", "open_clip_torch", "ray", "optuna", "mlflow", "pyarrow")


def environment() -> dict[str, str]:
    """What the numbers may depend on beside the pipeline: versions, and the git commit where there is one."""
    found = {"gcsearch": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | _git(Path.cwd())


def _git(folder: Path) -> dict[str, str]:
    """`git.commit` and `git.dirty` of the working directory; nothing outside a repository."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _ask_git(folder, "status", "--porcelain")
    return {"git.commit": commit} | ({} if changes is None else {"git.dirty": str(bool(changes)).lower()})


def _ask_git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603
            ("git", *arguments),  # noqa: S607
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


NODE = "GCSEARCH_NODE"
"""Set in a worker process: the first eight digits of its Ray node's id, for several nodes may be on one host."""


def process_name() -> str:
    """Which process made a record: `host:pid`, in a worker `host:pid@node`."""
    node = os.environ.get(NODE)
    return f"{socket.gethostname()}:{os.getpid()}" + (f"@{node}" if node else "")


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
