"""How many packs run at a time, and with how much of the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gcsearch.errors import InputError
from gcsearch.schema import Resources


@dataclass(frozen=True)
class Placement:
    """How many packs run at a time, and what each worker process may use."""

    workers: int
    threads: int
    gpus_per_worker: float = 0.0


def place(resources: Resources, *, cores: int, gpus: int, generation: int) -> Placement:
    """Fill in what `resources` leaves open for a machine with `cores` and `gpus`.

    Workers: one per pack of a generation (more would only wait), as far as the cores go. Threads: the cores
    shared evenly. GPUs: workers spread evenly, so that each has one GPU or a share 1/k of one.

    Raises InputError for a share of a GPU that does not divide 1, or GPUs where there are none.
    """
    wanted = resources.threads if isinstance(resources.threads, int) else 1
    fitting = min(max(cores // wanted, 1), generation)
    workers = resources.workers if isinstance(resources.workers, int) else fitting
    threads = resources.threads if isinstance(resources.threads, int) else max(cores // workers, 1)
    if resources.gpus_per_worker == "auto":
        share = _gpu_share(math.ceil(workers / gpus)) if gpus else 0.0
    else:
        share = _checked_share(resources.gpus_per_worker, gpus)
    return Placement(workers, threads, share)


def _gpu_share(sharers: int) -> float:
    # Ray counts in steps of 0.0001: rounded down, the shares of one GPU never add up to more than 1.
    return math.floor(1e4 / sharers) / 1e4


def _checked_share(share: float, gpus: int) -> float:
    key = "resources.gpus_per_worker"
    if share > gpus:
        remedy = "Lower it, or write 0 to run on the CPU."
        raise InputError(f"this machine has {gpus} GPUs", key=key, received=share, remedy=remedy)
    if 0 < share < 1:
        if abs(1 / share - round(1 / share)) > 0.01:
            remedy = "Use 0.5, 0.25, 0.2 or the like."
            raise InputError("a share of a GPU must divide 1", key=key, received=share, remedy=remedy)
        return _gpu_share(round(1 / share))
    if share != int(share):
        raise InputError("more than one GPU must be a whole number", key=key, received=share)
    return share
