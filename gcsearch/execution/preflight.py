"""What must hold on every node of a cluster before the first trial, found out by a task on each.

Workers need the same versions, the store (a shared file system), a folder for the cache, and the task: its
data and its weights.  Nothing of these travels through the driver: each node reads and encodes its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gcsearch.config.metrics import Stage
from gcsearch.config.task import Task
from gcsearch.data.datasets import Progress
from gcsearch.errors import InputError
from gcsearch.execution.cluster import Node
from gcsearch.execution.placement import Placement
from gcsearch.sweep import measured
from gcsearch.training import loading, task_data

ANSWER_SECONDS = 60
"""Starting a process on a node takes seconds; one that needs longer than this has something else wrong."""

COMPARED = ("python", "gcsearch", "torch", "open_clip_torch", "ray")
"""What must be the same everywhere: results, and what travels between the nodes, depend on it."""


@dataclass(frozen=True)
class Fault:
    """What is wrong on one node, and how to mend it."""

    node: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what}. {self.remedy}"


@dataclass(frozen=True)
class Readiness:
    """What a look at all nodes came to. `one_cache`: the nodes share the folder of the cache."""

    faults: tuple[Fault, ...]
    one_cache: bool


@dataclass(frozen=True)
class NodeJob:
    """What a node makes ready: the task in stages with seeds, in the cache at `cache` (GCSEARCH_CACHE)."""

    task: Task
    measured: tuple[tuple[Stage, tuple[int, ...]], ...]
    cache: str
    decoders: int | str = "auto"


def examine(nodes: Sequence[Node], store: Path, cache: Path | None) -> Readiness:
    """Let every node read and write a probe in the store and the cache, and say its versions. Takes seconds.

    `nodes` are those that may run trials; the folders are named as this process, on the driver's node, sees
    them, and `cache` is None where that is no folder. What is wrong is returned, not raised; the probes are
    removed again.
    """
    mark = f".probe-{secrets.token_hex(8)}"
    with _marked(store, mark), _marked(cache, mark) if cache else contextlib.nullcontext():
        told = _on_each(nodes, _probing(), (str(store), str(cache or ""), mark), cpus=0)
        faults = []
        for node, answer in told.items():
            if answer.get("store") == "":
                answer["store"] = _unseen(store, mark, node)
            faults += _faults(node, answer, store, cache)
        return Readiness(tuple(faults), all(answer.get("cache_shared") for answer in told.values()))


def prepare(
    nodes: Sequence[Node],
    placement: Placement,
    job: NodeJob,
    *,
    one_cache: bool,
    progress: Progress | None = None,
) -> list[Fault]:
    """Load data and model on every node and encode what is not in its cache, with what a worker may use.

    `one_cache`: the cache is shared, so that one node goes first and the others find its work.
    Returned are the nodes that cannot, or whose data or weights are not those of this machine.
    """
    lab = loading.laboratory(job.task, job.decoders)
    here = {
        "data": data_digest(lab),
        "weights": lab.backbone.fingerprint,
        "contents": measured.digest(measured.look([lab], job.measured)),
    }
    faults, done = [], 0
    rounds = [nodes[:1], nodes[1:]] if one_cache else [nodes]
    for some in filter(None, rounds):
        told = _on_each(
            some,
            _prepare,
            (job,),
            cpus=placement.threads,
            gpus=placement.gpus_per_worker,
            seconds=None,
            on_answer=partial(_advance, progress, done, len(nodes)),
        )
        done += len(some)
        for node, answer in told.items():
            faults += _other_data(node, answer, here, job.task)
    return faults


def refuse(faults: Sequence[Fault]) -> None:
    """InputError that says of each node what is wrong and how to mend it, where there is anything."""
    if faults:
        rule = "every node of the cluster must be able to run trials, and these are not:\n"
        raise InputError(rule + "\n".join(f"- {fault}" for fault in faults), key="resources.address")


def _advance(progress: Progress | None, before: int, total: int, count: int) -> None:
    if progress:
        progress(before + count, total)


# --- On the driver --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _marked(folder: Path, mark: str) -> Iterator[None]:
    """A probe of this machine's in `folder` for the time of the block; all probes of `mark` go with it."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / mark).write_text(mark)
        yield
    finally:
        for path in folder.glob(f"{mark}*"):
            path.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):  # somebody has written there meanwhile
                folder.rmdir()


def _on_each(
    nodes: Sequence[Node],
    function: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
    *,
    cpus: float,
    gpus: float = 0,
    seconds: float | None = ANSWER_SECONDS,
    on_answer: Callable[[int], None] = lambda count: None,
) -> dict[Node, dict[str, Any]]:
    """What `function` says on each node; {"failed": why} for a node where it could not run or took too long."""
    # max_calls: the process ends with its task, so that it keeps no memory from the workers.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(function)
    waiting = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*arguments): node
        for node in nodes
    }
    told: dict[Node, dict[str, Any]] = {}
    deadline = None if seconds is None else time.monotonic() + seconds
    while waiting:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=left)
        if not done:
            told |= {node: {"failed": f"no answer in {seconds:g} seconds"} for node in waiting.values()}
            break
        node = waiting.pop(done[0])
        try:
            told[node] = ray.get(done[0])
        except ray.exceptions.RayError as error:
            told[node] = {"failed": str(error).strip().splitlines()[-1]}
        on_answer(len(told))
    return {node: told[node] for node in nodes}


def _unseen(store: Path, mark: str, node: Node) -> str:
    """Why this machine does not find what `node` has written to the store; empty where it does."""
    path = store / f"{mark}-{node.id[:8]}"
    for _ in range(20):  # a network file system may show a new file late
        if path.exists():
            return ""
        time.sleep(0.1)
    return "what it writes there does not arrive on the driver's node"


def _faults(node: Node, answer: dict[str, Any], store: Path, cache: Path | None) -> list[Fault]:
    if "failed" in answer:
        return [Fault(node.name, f"a task could not run there: {answer['failed']}", "See `ray status` and its logs.")]
    faults = []
    if answer["store"]:
        remedy = "Mount the shared file system there at the same path, or name a shared folder with --store."
        faults.append(Fault(node.name, f"it lacks the shared store {store}: {answer['store']}", remedy))
    if answer["cache"]:
        remedy = "Set GCSEARCH_CACHE to a folder that can be written on every node (it need not be shared)."
        faults.append(Fault(node.name, f"it cannot use the cache folder {cache}: {answer['cache']}", remedy))
    own = versions()
    for name in COMPARED:
        there = answer["versions"].get(name)
        if there != own[name]:
            found = f"{name} {there}" if there else f"no {name}"
            remedy = f"There: pip install {name}=={own[name]}" if name != "python" else "Install the same one there."
            faults.append(Fault(node.name, f"it has {found}, and the driver {own[name]}", remedy))
    return faults


def versions() -> dict[str, str | None]:
    """The versions of this process, as `_probing` tells those of a node."""
    return _probing()("", "", "")["versions"]


def _other_data(node: Node, answer: dict[str, Any], here: dict[str, str], task: Task) -> list[Fault]:
    if "failed" in answer:
        remedy = f"The driver can; data: {task.root or 'embedded'}, weights: {task.pretrained or 'bundled'}."
        return [Fault(node.name, f"it cannot prepare the task: {answer['failed']}", remedy)]
    faults = []
    if answer["data"] != here["data"]:
        remedy = f"Copy {task.root or 'the cache'} there from the driver's node, or share it."
        faults.append(
            Fault(
                node.name, f"its lists of images of {task.dataset} or its targets are others than the driver's", remedy
            )
        )
    elif answer["contents"] != here["contents"] and answer["weights"] == here["weights"]:
        remedy = f"Copy {task.root or 'the cache'} there from the driver's node, or share it."
        faults.append(Fault(node.name, f"images of {task.dataset} have other contents than the driver's", remedy))
    if answer["weights"] != here["weights"]:
        found = f"its weights of {task.backbone} are {answer['weights']}, and the driver's {here['weights']}"
        faults.append(Fault(node.name, found, "Copy the checkpoint there from the driver's node."))
    return faults


def data_digest(lab: task_data.Laboratory) -> str:
    """What the lists of the task's data sets say, as a digest: the same on two nodes that read the same data."""
    told = []
    for dataset in (lab.dataset, *lab.targets):
        parts = (dataset.train, dataset.val, dataset.test)
        told.append([dataset.classes, [[(item.path, item.label) for item in part] for part in parts]])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


# --- On a node ------------------------------------------------------------------------------------------


def _probing() -> Callable[[str, str, str], dict[str, Any]]:
    """The task that looks at a node: a function that carries its code along, for gcsearch may be missing there."""

    def probe(store: str, cache: str, mark: str) -> dict[str, Any]:
        import importlib
        import importlib.metadata
        import platform
        from pathlib import Path

        versions: dict[str, str | None] = {"python": platform.python_version()}
        for name in ("torch", "open_clip_torch", "ray"):
            try:
                # What follows a plus is the kind of build: nodes with a GPU and without one may work together.
                versions[name] = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
        try:
            versions["gcsearch"] = importlib.import_module("gcsearch").__version__
        except ImportError:
            versions["gcsearch"] = None
        answer: dict[str, Any] = {"versions": versions}
        if not mark:
            return answer

        def shared(folder: Path) -> bool:
            path = folder / mark
            return path.exists() and path.read_text() == mark

        import ray

        answer |= {"store": "", "cache": "", "cache_shared": False}
        own = f"{mark}-{ray.get_runtime_context().get_node_id()[:8]}"
        try:
            if not shared(Path(store)):
                answer["store"] = "there is no such folder" if not Path(store).exists() else "it is another folder"
            else:
                (Path(store) / own).write_text(mark)
        except OSError as error:
            answer["store"] = error.strerror or str(error)
        if not cache:
            return answer
        try:
            Path(cache).mkdir(parents=True, exist_ok=True)
            (Path(cache) / own).write_text(mark)
            answer["cache_shared"] = shared(Path(cache))
            if not answer["cache_shared"]:
                (Path(cache) / own).unlink()  # nobody else would
        except OSError as error:
            answer["cache"] = error.strerror or str(error)
        return answer

    return probe


def _prepare(job: NodeJob) -> dict[str, Any]:
    """Load the task and have everything that trials read in this node's cache."""
    os.environ["GCSEARCH_CACHE"] = job.cache
    try:
        task_data.data_root(job.task)
        lab = loading.laboratory(job.task, job.decoders)
        told = {"data": data_digest(lab), "weights": lab.backbone.fingerprint}
        lab.cache.get([one for stage, seeds in job.measured for one in lab.wanted(stage, seeds)])
        told["contents"] = measured.digest(measured.look([lab], job.measured))
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return told
