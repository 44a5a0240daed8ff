"""The environment that tests run in: what the machine needs, and nothing that the user's shell says of gcsearch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

KEPT = re.compile(
    r"PATH|LD_\w+|PYTHONPATH|PYTHONDONTWRITEBYTECODE|PYTHONPYCACHEPREFIX|VIRTUAL_ENV|USER|LOGNAME|SHELL"
    r"|CUDA_\w+|NVIDIA_\w+|PYTEST_\w+|COV_\w+|COVERAGE_\w+"
)
"""Where programs and libraries lie, who runs them, and what the machine has. All else is the user's own."""

SHORT = 40
"""Ray's sockets lie below the temporary directory, and their whole path has at most 107 characters."""

RAY = {
    "RAY_worker_niceness": "0",  # workers give way to all else by default: tests beside them would halt them
    "RAY_agent_register_timeout_ms": "300000",  # a node ends itself where its agents start late
    "RAY_timeout_ms_task_wait_for_death_info": "60000",  # "died", and not "unavailable", also when news are slow
}
"""How Ray is on a busy machine."""


AT_THE_START: dict[str, str] = {}
"""The environment of this process as the tests began; libraries add to it as they are imported."""


def cleaned(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment for tests: no store, cluster, token, server, proxy, terminal or language of the user's.

    `home` takes the place of the home folder, and holds the cache that all tests share.
    """
    kept = {name: value for name, value in environment.items() if KEPT.fullmatch(name)}
    if _is_ordinary(environment.get("TMPDIR", "")):
        kept["TMPDIR"] = environment["TMPDIR"]
    return kept | RAY | {"HOME": str(home), "GCSEARCH_CACHE": str(home / "cache"), "LANG": "C.UTF-8"}


def _is_ordinary(folder: str) -> bool:
    """Whether a temporary directory is one in which everything works: short, of plain characters, ours to write."""
    plain = re.fullmatch(r"/[\w./-]+", folder, re.ASCII) is not None
    return plain and len(folder) <= SHORT and Path(folder).is_dir() and os.access(folder, os.W_OK)
