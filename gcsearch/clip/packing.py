"""Packing: how the texts of the classes are laid end to end, so that no position is computed for nothing.

The positions of a group are divided into *tiles* of equal length, the shared prefix at the start of the first.
Attention is computed within tiles (and to the prefix), so short tiles save attention, and long ones save padding.

Shapes: S groups, C classes, Lp shared positions, T tiles of L positions, N = T L, K pooled positions of a tile, J keys
that a tile sees (L, and with several tiles the Lp shared ones before them), R inserted rows used at most U times each,
G groups of prefixes (S divides G), H heads, D width.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

Row = Sequence[int]
"""A class's text after the prefix: token ids up to and including EOT; -(k+1) stands for row k of `inserted`."""

_PREFIX = -1


@dataclass(frozen=True)
class Tiling:
    """Where the classes of every group go: `places[s][c]` is the tile and the offset of class c of group s."""

    shared: int
    tiles: int
    length: int
    pooled: int  # most classes in a tile
    places: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def positions(self) -> int:
        return self.tiles * self.length

    @property
    def keys(self) -> int:
        return self.length + (self.shared if self.tiles > 1 else 0)


def tiling(lengths: Sequence[Sequence[int]], shared: int, width: int) -> Tiling:
    """Divide the classes of each group among tiles so that a pass costs least.

    Costs are counted in positions, as measured on a CPU at D = 64 and 512: padding costs as much as any position,
    a key costs each query 1/(6D) + 0.0004, a tile 0.7 (small matrices), a pooled position a tenth (it passes
    only the last block), and handing the prefix to several tiles 4e4/D^2.  Nothing depends on the number of
    groups, so that a member alone and in a crowd is divided alike.

    Args:
        lengths: positions of each class, one sequence per group.
        shared: Lp.
        width: D.
    """
    distinct = list(dict.fromkeys(map(tuple, lengths)))
    plans: list[tuple[float, Tiling]] = []
    for tiles in _counts(len(distinct[0])):
        filled = [_fill(group, tiles, shared) for group in distinct]
        places = {group: spots for group, (spots, _, _) in zip(distinct, filled, strict=True)}
        length, pooled = max(load for _, load, _ in filled), max(most for _, _, most in filled)
        plan = Tiling(shared, tiles, length, pooled, tuple(places[tuple(group)] for group in lengths))
        cost = plan.positions * (1 + plan.keys * (1 / (6 * width) + 4e-4)) + tiles * (0.7 + 0.1 * pooled)
        cost += (tiles > 1) * 4e4 / width**2
        plans.append((cost, plan))
    return min(plans, key=lambda pair: pair[0])[1]


def _counts(classes: int) -> list[int]:
    """Numbers of tiles worth trying: from one to one per class, in steps of about a tenth."""
    counts = [1]
    while counts[-1] < classes:
        counts.append(min(classes, max(counts[-1] + 1, int(counts[-1] * 1.1))))
    return counts


def _fill(lengths: Sequence[int], tiles: int, shared: int) -> tuple[tuple[tuple[int, int], ...], int, int]:
    """Longest class first into the emptiest tile: the places, the fullest tile's load, most classes in a tile."""
    loads = [(shared if tile == 0 else 0, tile) for tile in range(tiles)]
    heapq.heapify(loads)
    places, counts = [(0, 0)] * len(lengths), [0] * tiles
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, tile = loads[0]
        places[index] = (tile, load)
        counts[tile] += 1
        heapq.heapreplace(loads, (load + lengths[index], tile))
    return tuple(places), max(load for load, _ in loads), max(counts)


class PackedTables(NamedTuple):
    """A tiling written out as tensors."""

    tokens: Tensor  # [S, N]: token ids; -1 for prefix, inserted rows and padding
    places: Tensor  # [S, N]: position within the text
    mask: Tensor  # [S, T, L, J]: 0 where a position may attend to a key, -inf elsewhere
    rows: Tensor  # [S, T K]: pooled positions; a slot without a class points at position 0
    last_mask: Tensor  # [S, T, K, J]: the mask of the pooled positions
    slots: Tensor  # [S, C]: the slot of each class
    used: Tensor  # [R]: the inserted rows that are used at all
    uses: Tensor  # [S, R, U]: positions of each
    weights: Tensor  # [S, R, U]: 1, and 0 where a row is used less than U times


def tables(rows: Sequence[Sequence[Row]], plan: Tiling) -> PackedTables:
    """The tensors of a tiling of the class texts `rows[group][class]`."""
    groups, count = len(rows), plan.positions
    tokens = torch.full((groups, count), -1)
    places = torch.zeros(groups, count, dtype=torch.long)
    owner = (_PREFIX - 1 - torch.arange(count)).repeat(groups, 1)  # a class, the prefix; padding owns itself
    places[:, : plan.shared], owner[:, : plan.shared] = torch.arange(plan.shared), _PREFIX
    pooled = torch.zeros(groups, plan.tiles * plan.pooled, dtype=torch.long)
    slots = torch.zeros(groups, len(rows[0]), dtype=torch.long)
    at: list[dict[int, list[int]]] = [{} for _ in rows]  # positions of each inserted row
    for s, group in enumerate(rows):
        taken = [0] * plan.tiles
        for c, (row, (tile, offset)) in enumerate(zip(group, plan.places[s], strict=True)):
            start = tile * plan.length + offset
            where = slice(start, start + len(row))
            tokens[s, where] = torch.tensor(row).clamp_min(-1)
            places[s, where] = torch.arange(plan.shared, plan.shared + len(row))
            owner[s, where] = c
            slots[s, c] = tile * plan.pooled + taken[tile]
            pooled[s, slots[s, c]] = where.stop - 1
            taken[tile] += 1
            for i, token in enumerate(row):
                if token < 0:
                    at[s].setdefault(-token - 1, []).append(start + i)
    mask = _mask(owner, places, plan)
    inside = (pooled.view(groups, plan.tiles, -1) - torch.arange(plan.tiles)[:, None] * plan.length).clamp_min(0)
    last_mask = mask.gather(2, inside[..., None].expand(-1, -1, -1, plan.keys))
    return PackedTables(tokens, places, mask, pooled, last_mask, slots, *_uses(at))


def _mask(owner: Tensor, places: Tensor, plan: Tiling) -> Tensor:
    """Each position attends to its own text up to itself, and to the prefix."""
    owner, places = owner.unflatten(1, (plan.tiles, -1)), places.unflatten(1, (plan.tiles, -1))
    asking, asked = owner[..., :, None], owner[..., None, :]
    allowed = (asking == asked) & (places[..., :, None] >= places[..., None, :])
    if plan.tiles == 1:
        allowed |= (asked == _PREFIX) & (asking != _PREFIX)
    else:
        allowed = torch.cat([(asking != _PREFIX).expand(*owner.shape, plan.shared), allowed], dim=-1)
    return torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))


def _uses(at: Sequence[dict[int, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    used = sorted({row for group in at for row in group})
    often = max((len(positions) for group in at for positions in group.values()), default=0)
    uses = torch.zeros(len(at), len(used), often, dtype=torch.long)
    weights = torch.zeros(len(at), len(used), often)
    for s, group in enumerate(at):
        for r, row in enumerate(used):
            positions = group.get(row, [])
            uses[s, r, : len(positions)] = torch.tensor(positions, dtype=torch.long)
            weights[s, r, : len(positions)] = 1
    return torch.tensor(used, dtype=torch.long), uses, weights


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """A packed table of class texts behind a prefix of fixed length: everything that is constant over a run.

    The tables hold each different group of class texts once, S in all; `which` says for every group which it is.
    """

    shared: int  # Lp
    which: Tensor  # [groups], rows of the tables
    states: Tensor  # [S, N, D]: embeddings (zero for prefix, inserted rows and padding) + positions
    mask: Tensor  # [S, T, L, J], 0 or -inf
    rows: Tensor  # [S, T K]: pooled positions; a slot without a class points at position 0
    last_mask: Tensor  # [S, T, K, J]
    slots: Tensor  # [S, C]: the slot of each class
    used: Tensor  # [R]: the inserted rows that are used at all
    uses: Tensor  # [S, R, U]: positions of each
    weights: Tensor  # [S, R, U]: 1, and 0 where a row is used less than U times
    first: Tensor | None  # [S, N, 3D]: the first block's queries, keys and values, where they are worth keeping
    spreads: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def part(self, groups: slice) -> PackedLayout:
        """The layout of some of the groups."""
        return replace(self, which=self.which[groups], spreads={})

    @property
    def tiles(self) -> int:
        return self.mask.shape[1]

    @property
    def repeated(self) -> int:
        """Keys of the prefix that are put before those of each tile; a single tile has them already."""
        return self.shared if self.tiles > 1 else 0

    def prefix(self, states: Tensor, groups: int) -> Tensor:
        """The prefix's rows [G Lp, .] of [G N, .]."""
        return states.view(groups, -1, states.shape[1])[:, : self.shared].reshape(-1, states.shape[1])

    def spread(self, table: Tensor, groups: int) -> Tensor:
        """A copy [G, ...] of a table [S, ...]: as many consecutive prefixes share each group of class texts."""
        return table.index_select(0, self._once("which", groups))

    def flat(self, name: str, groups: int) -> Tensor:
        """The table `rows`, `slots` or `uses` as indices into a table of `groups` groups that is flattened to rows."""
        return self._once(name, groups)

    def masks(self, name: str, groups: int, heads: int) -> Tensor:
        """`mask` or `last_mask` for each group, head and tile: [G H T, ., J], or [., J] where all are equal."""
        mask: Tensor = getattr(self, name)
        return mask[0, 0] if len(mask) == 1 and self.tiles == 1 else self._once(name, groups, heads)

    def _once(self, name: str, groups: int, heads: int = 1) -> Tensor:
        """What the three methods above need, made once for each number of groups."""
        if (name, groups) not in self.spreads:
            with torch.inference_mode(False):
                which = self.which.repeat_interleave(groups // len(self.which))
                table: Tensor = getattr(self, name)
                if name == "which":
                    made = which
                elif name in ("mask", "last_mask"):
                    made = table[which.repeat_interleave(heads)].flatten(0, 1)
                else:
                    size = self.rows.shape[1] if name == "slots" else self.states.shape[1]
                    offsets = torch.arange(groups, device=table.device)[:, None] * size
                    made = (table[which].flatten(1) + offsets).flatten()
            self.spreads[name, groups] = made
        return self.spreads[name, groups]
