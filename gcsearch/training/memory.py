"""How much goes through the text tower at once: the planner of `prompts.Pieces`."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from gcsearch.clip.text_tower import TextTower
from gcsearch.errors import InputError
from gcsearch.methods.prompts import Pieces

SHARE_OF_FREE = 0.9
"""Of the free memory that all workers of a machine together plan with where no limit is given."""

SHARE_PLANNED = 0.8
"""Of what a process may still take, this is planned for the text tower; the rest is for everything else."""

WORKING_WIDTHS = 40
"""Widths per position that a process takes beside what is kept: a block's perceptron and its gradients, and
what the allocator holds on to (measured from the peaks of benchmarks/memory.py: 17 to 45)."""

EASY_PIECE = 600 * 2**20
"""On the processor larger pieces are slower, whatever is free: every step then maps new pages (12 members of
500 classes, ViT-B/16 size: 111 s a step at once, 58 s one by one)."""


def budget(limit: int | None, device: torch.device) -> int:
    """Bytes that the text tower may take when the process may take `limit` in all (None: what is free)."""
    if limit is None:
        return int(free_bytes(device) * SHARE_OF_FREE * SHARE_PLANNED)
    taken = taken_bytes(device)
    if limit <= taken:
        rule = f"the memory limit must leave room beside the {taken / 2**20:.0f} MiB that the process has already"
        raise InputError(rule, key="memory", received=f"{limit / 2**20:.0f} MiB", remedy="Raise the limit.")
    return int((limit - taken) * SHARE_PLANNED)


def share_of_free(share: float, device: torch.device) -> int:
    """Bytes that one of several workers may take in all, `share` of what all of them plan with."""
    return int(free_bytes(device) * SHARE_OF_FREE * share)


def taken_bytes(device: torch.device) -> int:
    """Memory that this process has already: resident on the processor, allocated on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError):  # no such table on this system: the most that it ever had
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_bytes(device: torch.device) -> int:
    """Memory that is free for this process on `device`; on the processor, of its control group if it has one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _available()
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 4 * 2**30  # no such table on this system: a modest guess is better than none


@dataclass(frozen=True)
class Load:
    """What one pass through the text tower is asked for.

    `members` P; `shared` positions of the prefix; `suffix_tokens` those behind it, of all `classes` of a
    member; `images` of a batch where every image has a prompt of its own, else None.
    """

    tower: TextTower
    members: int
    shared: int
    suffix_tokens: int
    classes: int
    images: int | None = None

    def pieces(self, budget: int) -> Pieces:
        """The largest pieces that take at most `budget` bytes.

        InputError where even the smallest keep more.
        """
        one = self._bytes(1, 1.0)
        if one <= budget:
            easy = EASY_PIECE if self.tower.device.type == "cpu" else budget
            fitting = max(min(budget, easy) // one, 1)
            # Equal slices: 12 members with room for 8 go as 6 + 6, which needs less than 8 + 4 and is as fast.
            return Pieces() if fitting >= self.members else Pieces(members=_even(self.members, fitting))
        units = self.images or self.classes
        fitting = next((n for n in range(units, 0, -1) if self._bytes(1, n / units) <= budget), 0)
        if not fitting:
            raise InputError(
                "the memory limit must hold one class of one member",
                key="memory",
                received=f"{budget / 2**20:.1f} MiB left for it",
                remedy=f"Raise the limit by {(self._bytes(1, 1 / units) - budget) / SHARE_PLANNED / 2**20:.0f} MiB.",
            )
        return Pieces(members=1, **{"images" if self.images else "classes": _even(units, fitting)})

    def bytes(self, pieces: Pieces) -> int:
        """Bytes that the text tower takes when a pass goes in `pieces`."""
        units, size = (self.images, pieces.images) if self.images else (self.classes, pieces.classes)
        return self._bytes(pieces.members or self.members, (size or units or 1) / (units or 1))

    def _bytes(self, members: int, share: float) -> int:
        """Bytes for a share of the classes, or of the images, of some members: kept and worked on."""
        groups, tokens, classes = members, self.suffix_tokens, self.classes
        if self.images:
            groups *= max(1, round(self.images * share))
        else:
            tokens, classes = math.ceil(tokens * share), math.ceil(classes * share)
        working = groups * (self.shared + tokens) * WORKING_WIDTHS * self.tower.width * self.tower.dtype.itemsize
        return self.tower.kept_bytes(groups, self.shared, tokens, classes) + working


def _even(count: int, at_most: int) -> int:
    """The size of equal slices of `count` that have at most `at_most` each."""
    slices = -(-count // at_most)
    return -(-count // slices)
