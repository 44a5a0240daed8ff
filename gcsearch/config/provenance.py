"""Where a result came from: versions, git commit, the cores of the machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gcsearch import __version__

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
