"""What is installed, which devices there are, what is wrong and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcsearch.errors import GcsearchError, InputError
from gcsearch.execution.local_ray import scratch
from gcsearch.execution.placement import Placement
from gcsearch.files import cache_folder
from gcsearch.results.documents import MachineFinding
from gcsearch.sweep.store import Store

if TYPE_CHECKING:
    from gcsearch.execution.cluster import Cluster

PACKAGES = ("torch", "torchvision", "open_clip_torch", "ray", "optuna", "mlflow", "pyarrow", "pydantic", "plotly")
ENOUGH_DISK = 2 * 1024**3


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    what: str
    ok: bool
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return MachineFinding(**asdict(self)).dump()


def examine(address: str | None = None) -> list[Check]:
    """Look at everything; each check stands for itself, so that one fault does not hide another.

    `address`: a Ray cluster to look at too, as in `Resources`; that of RAY_ADDRESS comes first.
    """
    checks: list[Callable[[], list[Check]]] = [
        _python,
        _packages,
        _torch,
        _torchvision,
        _mini,
        _ray,
        partial(_cluster, address),
        _scratch,
        partial(_folder, "store", lambda: Store.locate().root),
        partial(_folder, "cache", cache_folder),
    ]
    findings: list[Check] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:
            name = getattr(check, "__name__", "check").strip("_")
            findings.append(Check(name, False, f"{type(error).__name__}: {error}", _REINSTALL))
    return findings


_REINSTALL = "Install the tested set: pip install --constraint constraints.txt gcsearch"


def _python() -> list[Check]:
    ok = sys.version_info >= (3, 11)
    return [Check("python", ok, sys.version.split()[0], "" if ok else "gcsearch needs Python 3.11 or newer.")]


def _packages() -> list[Check]:
    found = []
    for package in PACKAGES:
        try:
            found.append(Check(package, True, version(package)))
        except PackageNotFoundError:
            found.append(Check(package, False, "not installed", _REINSTALL))
    return found


def _torch() -> list[Check]:
    import torch

    from gcsearch.config.provenance import cores

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        Check("processor", True, f"{cores()} cores for this process, {torch.get_num_threads()} torch threads"),
        Check("GPU", True, ", ".join(gpus) or "none seen by torch: everything runs on the processor"),
    ]


def _torchvision() -> list[Check]:
    from gcsearch.clip.model import OPEN_CLIP_ELSEWHERE, declare_torchvision_operators

    if not declare_torchvision_operators():
        return [Check("torchvision operators", True, "fits torch")]
    found = "compiled operators do not fit this torch; gcsearch declares the two that open_clip's imports need"
    lines = "\n".join(f"    {line}" for line in OPEN_CLIP_ELSEWHERE.splitlines() if line)
    remedy = (
        "In a script of your own `import open_clip` fails (operator torchvision::nms does not exist). Begin it with\n"
        f"{lines}\nor install torchvision from the index that torch came from: then neither is needed."
    )
    return [Check("torchvision operators", True, found, remedy)]


def _mini() -> list[Check]:
    from gcsearch.clip.model import load

    return [Check("bundled model", True, f"mini, weights {load('mini').fingerprint}")]


def _ray() -> list[Check]:
    from gcsearch.execution.cluster import token_source

    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    address = os.environ.get("RAY_ADDRESS", "not set: sweeps start a local Ray of their own")
    return [
        Check("RAY_ADDRESS", True, address),
        Check("RAY_AUTH_MODE", True, f"{mode}; token: {token_source() or 'none'}"),
    ]


def _scratch() -> list[Check]:
    """What a Ray of one's own needs of this machine."""
    try:
        scratch.check()
    except InputError as error:
        rule, _, remedy = str(error).partition("\n")
        return [Check("temporary", False, rule, remedy)]
    return [Check("temporary", True, scratch.describe())]


def _cluster(address: str | None) -> list[Check]:
    """The cluster and each of its nodes, looked at as a sweep looks at them; nothing where there is none."""
    from gcsearch.execution import cluster

    try:
        found = cluster.find(address)
        if found is None:
            return []
        return [Check("Ray cluster", True, found.describe()), *_nodes(found)]
    except GcsearchError as error:
        rule, _, remedy = str(error).partition("\n")
        return [Check("Ray cluster", False, rule, remedy)]


def _nodes(cluster: Cluster) -> list[Check]:
    from gcsearch.execution import preflight
    from gcsearch.execution.cluster import check_workers
    from gcsearch.execution.session import session

    check_workers(cluster)
    workers = [node for node in cluster.nodes if node.cpus >= 1]
    with session(Placement(1, 1), cluster):
        looked = preflight.examine(workers, Store.locate().root, cache_folder())
    findings = []
    for number, node in enumerate(cluster.nodes):
        faults = [fault for fault in looked.faults if fault.node == node.name]
        size = f"{node.name}, {node.cpus:g} CPUs, {node.gpus:g} GPUs" + ("" if node.cpus >= 1 else ", runs no trials")
        text = "; ".join([size, *(fault.what for fault in faults)])
        remedy = "\n".join(fault.remedy for fault in faults)
        findings.append(Check("head" if node.head else f"node {number}", not faults, text, remedy))
    return findings


def _folder(what: str, locate: Callable[[], Path]) -> list[Check]:
    """Whether a folder, or the nearest one above it that exists, can be written to and has room."""
    try:
        folder = locate()
    except InputError as error:
        text, _, remedy = str(error).partition("\n")
        return [Check(what, False, text, remedy)]
    there = folder
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        remedy = f"Choose another: ${'GCSEARCH_STORE' if what == 'store' else 'GCSEARCH_CACHE'}."
        return [Check(what, False, f"{folder}: {error.strerror}", remedy)]
    free = shutil.disk_usage(there).free
    text = f"{folder}, {free / 1024**3:.0f} GiB free"
    return [Check(what, free > ENOUGH_DISK, text, "" if free > ENOUGH_DISK else "Free some disk space.")]
