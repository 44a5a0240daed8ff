"""CLIP's frozen text transformer, evaluated and differentiated only where it counts.

The tower is causal and pooled at the end-of-text token (EOT).  So nothing after EOT counts; a prefix that several
classes share has the same keys and values for all of them and is computed once per group; of the last block only the
EOT positions count.  The remaining positions of a group lie end to end in a few *tiles* of equal length, several
classes in each (`packing.py`): every linear layer is one matrix product over all of them, and attention is one batched
product over tiles, under a mask that keeps classes apart.  Equal to the full 77-token forward up to rounding.

The weights never change, so the backward pass is written by hand (`block.py`), as one function of autograd.

Shapes: G groups (a prompt of a member, or of a member and an image), S groups of class names (S divides G), C classes,
Lp shared positions, T tiles of L positions, N = T L positions of a group, K pooled positions of a tile, J keys that a
tile sees, R inserted rows, D width, H heads, d = D/H, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcsearch.clip.block import KEPT, Block, norm, norm_backward
from gcsearch.clip.packing import PackedLayout, PackedTables, Row, tables, tiling
from gcsearch.errors import InputError

WORTH_KEEPING = 4 * 2**20
"""Bytes for a group up to which the first block's constant queries, keys and values are kept: of 50 classes they
save a twelfth of a pass at width 64 and a fiftieth at 512; of 500 they would cost more memory than that is worth."""


@dataclass(frozen=True, eq=False)
class Suffix:
    """A packed table of class texts, for one group shared by all (S = 1) or for S groups."""

    rows: tuple[tuple[Row, ...], ...]  # [S][C], hashable
    whole: Suffix | None = None
    piece: slice | None = None
    layouts: dict[tuple[int, TextTower], PackedLayout] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> int:
        return len(self.rows[0])

    @property
    def tokens(self) -> int:
        """Positions of the longest group."""
        return max(sum(map(len, group)) for group in self.rows)

    def part(self, groups: slice) -> Suffix:
        """The table of a slice of the groups, laid out as in the whole; the table itself where all groups share it."""
        return self if self.groups == 1 else Suffix(self.rows[groups], self, groups)

    def layout(self, shared: int, tower: TextTower) -> PackedLayout:
        """How this table lies behind a prefix of `shared` positions; made on first use."""
        key = (shared, tower)
        if key not in self.layouts:
            if self.whole is not None and self.piece is not None:
                self.layouts[key] = self.whole.layout(shared, tower).part(self.piece)
            else:
                # First use may be an evaluation in inference mode, whose tensors training could not keep.
                with torch.inference_mode(False), torch.no_grad():
                    self.layouts[key] = _layout(self.rows, shared, tower)
        return self.layouts[key]


def _layout(rows: tuple[tuple[Row, ...], ...], shared: int, tower: TextTower) -> PackedLayout:
    longest = shared + max(len(row) for group in rows for row in group)
    if longest > len(tower.positions):
        raise InputError(
            f"context, class name and markers must fit into {len(tower.positions)} tokens",
            received=longest,
            remedy="Use fewer context vectors or shorter class names.",
        )
    distinct = {group: index for index, group in enumerate(dict.fromkeys(rows))}
    plan = tiling([[len(row) for row in group] for group in distinct], shared, tower.width)
    packed = PackedTables(*(table.to(tower.device) for table in tables(list(distinct), plan)))
    tokens = packed.tokens
    states = tower.token_embedding[tokens.clamp_min(0)] * (tokens >= 0)[..., None] + tower.positions[packed.places]
    states = states.to(tower.dtype)
    block, first = tower.blocks[0], None
    worth = states[0].numel() * 3 * states.itemsize <= WORTH_KEEPING
    if worth and len(packed.used) == 0 and len(tower.blocks) > 1:
        first = F.linear(norm(states, block.eps_1)[0], block.qkv_weight, block.qkv_bias)
    return PackedLayout(
        shared=shared,
        which=torch.tensor([distinct[group] for group in rows], device=tower.device),
        states=states,
        mask=packed.mask.to(tower.dtype),
        rows=packed.rows,
        last_mask=packed.last_mask.to(tower.dtype),
        slots=packed.slots,
        used=packed.used,
        uses=packed.uses,
        weights=packed.weights.to(tower.dtype),
        first=first,
    )


@dataclass(frozen=True, eq=False)
class TextTower:
    """CLIP's frozen text transformer on embeddings.

    `blocks` may hold a lower precision than float32 (`to`); embeddings, positions, the final LayerNorm and the
    projection stay float32, and so do all inputs and outputs.
    """

    blocks: tuple[Block, ...]
    token_embedding: Tensor  # [V, D]
    positions: Tensor  # [77, D]
    projection: Tensor  # [E, D], the final LayerNorm's scale folded in
    projection_bias: Tensor  # [E]
    eps: float
    logit_scale: float  # exp of the stored parameter; 100 for OpenAI's weights
    start: int = 49406
    end: int = 49407
    twice: bool = False
    """Whether `encode` can be differentiated twice: then by autograd alone, which is slower and keeps more."""

    @property
    def width(self) -> int:
        return self.token_embedding.shape[1]

    @property
    def device(self) -> torch.device:
        return self.token_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0].qkv_weight.dtype

    def to(self, dtype: torch.dtype) -> TextTower:
        """The same tower with the blocks' weights and activations in `dtype`."""
        return replace(self, blocks=tuple(block.to(dtype) for block in self.blocks))

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Token ids to embeddings [len(tokens), D], without positions."""
        # Row by row: a tensor of indices would have to be copied to a GPU, which waits for it, in every step.
        return torch.stack([self.token_embedding[token] for token in tokens])

    def pack(self, rows: Sequence[Sequence[Row]]) -> Suffix:
        """The table of class texts `rows[group][class]` for `encode`; every group has as many classes."""
        if len({len(group) for group in rows}) != 1 or not all(row for group in rows for row in group):
            raise ValueError("every group needs the same number of classes, and every class a text")
        return Suffix(tuple(tuple(tuple(row) for row in group) for group in rows))

    def encode(self, prefix: Tensor, suffix: Suffix, inserted: Tensor | None = None) -> Tensor:
        """Text features of unit length, for every group and class; differentiable (once, or `twice`) in the embeddings.

        Args:
            prefix: embeddings [G, Lp, D] that begin the text of all classes of a group: start token and context.
            suffix: S groups of class texts; G is a multiple of S, and G/S consecutive groups share one.
            inserted: embeddings [G, R, D] for the slots in the class texts.

        Returns:
            [G, C, E] float32, classes in the order in which they were given to `pack`.

        Raises:
            InputError: a text does not fit into the tower's 77 positions.
        """
        layout = suffix.layout(prefix.shape[1], self)
        if len(prefix) % suffix.groups or (inserted is None and len(layout.used)):
            raise ValueError(f"{len(prefix)} prefixes for {suffix.groups} groups, or inserted rows are missing")
        inputs = [prefix] if inserted is None else [prefix, inserted]
        if not self.twice and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
            return _Encode.apply(self, layout, prefix, inserted)  # type: ignore[no-untyped-call]
        return self._forward(layout, prefix, inserted, None)

    def kept_bytes(self, groups: int, shared: int, suffix_tokens: int, classes: int) -> int:
        """Bytes that `encode` keeps for its backward pass: nine widths per position and block, and the shares.

        Args:
            groups: G.
            shared: Lp.
            suffix_tokens: positions of all class texts of a group, `Suffix.tokens`.
            classes: C.
        """
        ends = [suffix_tokens * c // classes for c in range(classes + 1)]
        plan = tiling([[end - start for start, end in pairwise(ends)]], shared, self.width)
        width, heads, blocks = self.width, self.blocks[0].heads, len(self.blocks)
        keys = plan.tiles * plan.keys
        inner = plan.positions * (7 * width + heads * plan.keys) + keys * 2 * width
        last = plan.positions * width + keys * 2 * width + plan.tiles * plan.pooled * (6 * width + heads * plan.keys)
        pooled = classes * (self.width + len(self.projection))
        return groups * (((blocks - 1) * inner + last) * self.dtype.itemsize + pooled * 4)

    def _start(self, layout: PackedLayout, prefix: Tensor, inserted: Tensor | None) -> Tensor:
        """The first block's input [G N, D]."""
        groups = len(prefix)
        states = layout.spread(layout.states, groups)
        states[:, : layout.shared] = prefix + self.positions[: layout.shared]
        states = states.flatten(0, 1)
        if inserted is not None and len(layout.used):
            chosen = inserted.index_select(1, layout.used).to(states.dtype)[:, :, None]
            chosen = chosen * layout.spread(layout.weights, groups)[..., None]
            states.index_add_(0, layout.flat("uses", groups), chosen.flatten(0, 2))
        return states

    def _forward(
        self, layout: PackedLayout, prefix: Tensor, inserted: Tensor | None, kept: list[Tensor] | None
    ) -> Tensor:
        groups = len(prefix)
        states = self._start(layout, prefix, inserted)
        for index, block in enumerate(self.blocks):
            mine: list[Tensor] = []
            states = block.forward(states, layout, groups, *self._role(index, layout, groups), mine)
            if kept is not None:
                kept += mine
        states = states.index_select(0, layout.flat("slots", groups)).float()
        normed, mean, rstd = norm(states, self.eps)
        features = F.linear(normed, self.projection, self.projection_bias)
        length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        features = features / length
        if kept is not None:
            kept += [states, mean, rstd, features, length]
        return features.view(groups, -1, len(self.projection))

    def _backward(self, layout: PackedLayout, gradient: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """Gradient at the features [G, C, E] to that at the first block's input [G, N, D], or at the prefix."""
        states, mean, rstd, features, length = kept[-5:]
        groups, gradient = len(gradient), gradient.flatten(0, 1)
        gradient = (gradient - features * (features * gradient).sum(-1, keepdim=True)) / length
        gradient = norm_backward(torch.mm(gradient, self.projection), states, mean, rstd)
        pooled = gradient.new_zeros(groups * layout.rows.shape[1], self.width)
        pooled.index_copy_(0, layout.flat("slots", groups), gradient)
        unit = None
        if self.dtype == torch.float16:  # a gradient would fall below its smallest numbers
            unit = pooled.view(groups, -1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
            pooled = (pooled.view(groups, -1) / unit[:, None]).view_as(pooled)
        gradient = pooled.to(self.dtype)
        for index in reversed(range(len(self.blocks))):
            mine = kept[KEPT * index : KEPT * (index + 1)]
            gradient = self.blocks[index].backward(gradient, layout, groups, *self._role(index, layout, groups), mine)
        gradient = gradient.view(groups, -1, self.width).float()
        return gradient if unit is None else gradient * unit[:, None, None]

    def _role(self, index: int, layout: PackedLayout, groups: int) -> tuple[Tensor | None, bool]:
        """Where the block's output is wanted (None: everywhere), and whether most of its input is constant."""
        if index == len(self.blocks) - 1:
            return layout.flat("rows", groups), False
        return None, index == 0 and layout.first is not None


class _Encode(torch.autograd.Function):
    """`TextTower.encode` with the backward pass of a frozen tower."""

    @staticmethod
    def forward(ctx: Any, tower: TextTower, layout: PackedLayout, prefix: Tensor, inserted: Tensor | None) -> Tensor:
        kept: list[Tensor] = []
        features = tower._forward(layout, prefix, inserted, kept)
        ctx.tower, ctx.layout, ctx.inserted = tower, layout, None if inserted is None else inserted.shape
        ctx.save_for_backward(*kept)
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layout: PackedLayout = ctx.layout
        groups = len(gradient)
        states = ctx.tower._backward(layout, gradient, ctx.saved_tensors)
        to_inserted = None
        if ctx.inserted is not None:
            to_inserted = states.new_zeros(ctx.inserted)
            if len(layout.used):
                at = states.flatten(0, 1).index_select(0, layout.flat("uses", groups))
                at = at.view(groups, *layout.uses.shape[1:], -1) * layout.spread(layout.weights, groups)[..., None]
                to_inserted.index_copy_(1, layout.used, at.sum(2))
        return None, None, states[:, : layout.shared], to_inserted
