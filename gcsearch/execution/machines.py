"""The machines that trials run on: this one, or the nodes of a Ray cluster, looked at and made ready."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.provenance import cores
from gcsearch.execution import cluster
from gcsearch.execution.cluster import Cluster, Node
from gcsearch.execution.executor import Executor, ExecutorName, LocalExecutor
from gcsearch.execution.local_ray import scratch
from gcsearch.execution.placement import Machine, Placement, spread

if TYPE_CHECKING:
    from gcsearch.data.datasets import Progress


@dataclass(frozen=True)
class Machines:
    """This machine, or a cluster, and how many workers run on it with how much each."""

    placement: Placement
    cluster: Cluster | None = None

    @property
    def nodes(self) -> list[Node]:
        """The cluster's nodes that have room for a worker; none on this machine alone."""
        wanted = self.placement.threads, self.placement.gpus_per_worker
        return [node for node in (self.cluster.nodes if self.cluster else ()) if node.machine.holds(*wanted)]

    @property
    def share(self) -> float:
        """How much of a machine's memory, or of a GPU's, is for one worker."""
        if self.placement.gpus_per_worker:
            return min(self.placement.gpus_per_worker, 1.0)
        together = max((node.machine.holds(self.placement.threads) for node in self.nodes), default=math.inf)
        return 1 / min(together, self.placement.workers)


def find_machines(pipeline: Pipeline, *, local: bool = False) -> Machines:
    """What `pipeline` would run on; a cluster is asked, not joined, and not even asked where all is `local`.

    Raises:
        InputError: the cluster cannot be joined, see `cluster.find`, has no workers, or not what `resources` asks for.
    """
    from gcsearch.training import loading

    found = None if local else cluster.find(pipeline.resources.address)
    if found:
        cluster.check_workers(found)
    machines = [n.machine for n in found.nodes] if found else [Machine(cores(), loading.gpus())]
    return Machines(spread(pipeline.resources, machines, generation=pipeline.search.generation), found)


def check_here(where: Machines) -> None:
    """InputError where a Ray of its own cannot be started on this machine, see `scratch.check`."""
    if where.cluster is None:
        scratch.check()


@contextmanager
def joined(where: Machines) -> Iterator[None]:
    """Be part of the cluster for the time of the block; nothing to do on this machine alone.

    RunError where no node of the cluster has room for a worker.
    """
    if where.cluster is None:
        yield
        return
    from gcsearch.execution.session import session

    with session(where.placement, where.cluster):
        yield


def check_nodes(where: Machines, store: Path, cache: Path | None) -> bool:
    """Look at every node that may run trials; whether they share the folder of the cache, if it is one.

    InputError that names each node which lacks the shared store, a folder for the cache, or a version.
    """
    from gcsearch.execution import preflight

    found = preflight.examine(where.nodes, store, cache)
    preflight.refuse(found.faults)
    return found.one_cache


def prepare_nodes(where: Machines, pipeline: Pipeline, cache: str, *, one_cache: bool, progress: Progress) -> None:
    """Have every node load the task and encode what trials read there, so that nothing travels from the driver.

    InputError that names each node which cannot, or which reads other data or weights than the driver.
    """
    from gcsearch.execution import preflight

    for task in pipeline.task.each:
        job = preflight.NodeJob(task, pipeline.measured, cache, pipeline.resources.decoders)
        preflight.refuse(preflight.prepare(where.nodes, where.placement, job, one_cache=one_cache, progress=progress))


def make_executor(name: ExecutorName, placement: Placement, folder: Path) -> Executor:
    """The executor with this name; Ray's working files go below `folder`."""
    if name == "local":
        return LocalExecutor(placement.threads)
    from gcsearch.execution.ray_tune import TuneExecutor

    return TuneExecutor(placement, folder)
