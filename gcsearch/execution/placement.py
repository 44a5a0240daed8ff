"""How many packs run at a time, and with how much of the machine or of the machines of a cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gcsearch.config.pipeline import Resources
from gcsearch.errors import InputError


@dataclass(frozen=True)
class Placement:
    """How many packs run at a time, and what each worker process may use."""

    workers: int
    threads: int
    gpus_per_worker: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What one machine gives to worker processes."""

    cores: int
    gpus: int = 0

    def holds(self, threads: int, gpu_share: float = 0.0) -> int:
        """How many workers of `threads` and a share of a GPU it has room for."""
        by_cores = self.cores // threads
        if not gpu_share:
            return by_cores
        return min(by_cores, self.gpus * math.floor(1 / gpu_share) if gpu_share < 1 else int(self.gpus // gpu_share))


def place(resources: Resources, *, cores: int, gpus: int, generation: int) -> Placement:
    """Fill in what `resources` leaves open for a machine with `cores` and `gpus`, see `spread`."""
    return spread(resources, [Machine(cores, gpus)], generation=generation)


def spread(resources: Resources, machines: Sequence[Machine], *, generation: int) -> Placement:
    """Fill in what `resources` leaves open for `machines` together; a worker is on one of them.

    Workers: one per pack of a generation (more would only wait), as far as the cores go. Threads: as many as
    still leave room for all workers. GPUs: workers spread evenly, so that each has one GPU or a share 1/k of
    one; machines without a GPU then run none.

    Raises InputError for a share of a GPU that does not divide 1, or GPUs where there are none.
    """
    share = resources.gpus_per_worker
    gpu_share = 0.0 if share == "auto" else _checked_share(share, machines)
    used = [one for one in machines if one.gpus] if share == "auto" or gpu_share else []
    used = used or list(machines)
    threads = resources.threads if isinstance(resources.threads, int) else 1
    check_threads(threads, max(one.cores for one in machines), key="resources.threads")
    if isinstance(resources.workers, int):
        workers = resources.workers
    else:
        workers = min(max(_room(used, threads, gpu_share), 1), generation)
    if share == "auto":
        gpu_share = _even_share(used, threads, workers)
    if resources.threads == "auto":
        threads = _most_threads(used, workers, gpu_share)
    most = max(64, 16 * sum(one.cores for one in machines))
    if workers * threads > most:
        rule = f"all workers together have at most {most} threads here"
        received = f"{workers} workers with {threads} threads each"
        raise InputError(rule, key="resources.workers", received=received, remedy='Lower it, or write "auto".')
    return Placement(workers, threads, gpu_share)


def check_threads(threads: int, cores: int, *, key: str) -> None:
    """InputError for so many threads that a machine with `cores` does nothing but change between them."""
    most = max(16, 4 * cores)
    if threads > most:
        rule = f"a process has at most {most} threads on a machine with {cores} cores"
        raise InputError(rule, key=key, received=threads, remedy="Lower it; the last digits of numbers depend on it.")


def _room(machines: Sequence[Machine], threads: int, gpu_share: float) -> int:
    return sum(one.holds(threads, gpu_share) for one in machines)


def _most_threads(machines: Sequence[Machine], workers: int, gpu_share: float) -> int:
    """The most threads with which all `workers` still have room; 1 where they have not even so."""
    most = max((one.cores for one in machines), default=1)
    return next((n for n in range(most, 1, -1) if _room(machines, n, gpu_share) >= workers), 1)


def _even_share(machines: Sequence[Machine], threads: int, workers: int) -> float:
    """The largest share of a GPU with which all `workers` have room; as few to a GPU as can be where none has."""
    gpus = sum(one.gpus for one in machines)
    if not gpus:
        return 0.0
    fewest = math.ceil(workers / gpus)
    shares = [_gpu_share(sharers) for sharers in range(fewest, workers + 1)]
    return next((share for share in shares if _room(machines, threads, share) >= workers), shares[0])


def _gpu_share(sharers: int) -> float:
    # Ray counts in steps of 0.0001: rounded down, the shares of one GPU never add up to more than 1.
    return math.floor(1e4 / sharers) / 1e4


def _checked_share(share: float, machines: Sequence[Machine]) -> float:
    key = "resources.gpus_per_worker"
    gpus = max(one.gpus for one in machines)
    if share > gpus:
        rule = f"{'this machine' if len(machines) == 1 else 'the best machine of the cluster'} has {gpus} GPUs"
        raise InputError(rule, key=key, received=share, remedy="Lower it, or write 0 to run on the CPU.")
    if 0 < share < 1:
        if abs(1 / share - round(1 / share)) > 0.01:
            remedy = "Use 0.5, 0.25, 0.2 or the like."
            raise InputError("a share of a GPU must divide 1", key=key, received=share, remedy=remedy)
        return _gpu_share(round(1 / share))
    if share != int(share):
        raise InputError("more than one GPU must be a whole number", key=key, received=share)
    return share
