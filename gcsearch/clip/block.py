"""A frozen residual block of a pre-LayerNorm transformer, with its forward and backward pass on packed positions.

The weights never change, so the backward pass is written by hand: it needs no gradient of a weight, keeps about nine
widths per position, and makes few calls, which is what small towers spend their time on.

Shapes as in `text_tower.py`: G groups, T tiles of L positions, N = T L positions of a group, K pooled positions of a
tile, J keys that a tile sees, D width, H heads, d = D/H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gcsearch.clip.packing import PackedLayout

KEPT = 11  # tensors that a block keeps for its backward pass

# The kernels behind autograd's formulas: called directly, as the backward pass is ours.
_layer_norm_backward: Any = torch.ops.aten.native_layer_norm_backward.default
_softmax_backward: Any = torch.ops.aten._softmax_backward_data.default
_silu_backward: Any = torch.ops.aten.silu_backward.grad_input
_gelu_backward: Any = torch.ops.aten.gelu_backward.grad_input


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of a residual block, with each LayerNorm's scale and shift folded into the layer behind it.

    1/sqrt(d) is folded into the queries' weights.  QuickGELU x sigmoid(1.702 x) = silu(1.702 x) / 1.702: its
    factors are folded into `fc` and `proj`, so that one fused call computes it.
    """

    qkv_weight: Tensor  # [3D, D]
    qkv_bias: Tensor  # [3D]
    out_weight: Tensor  # [D, D]
    out_bias: Tensor  # [D]
    fc_weight: Tensor  # [4D, D]
    fc_bias: Tensor  # [4D]
    proj_weight: Tensor  # [D, 4D]
    proj_bias: Tensor  # [D]
    heads: int
    gelu: str | None  # None: silu (QuickGELU); otherwise the `approximate` of GELU
    eps_1: float
    eps_2: float

    def to(self, dtype: torch.dtype) -> Block:
        changed: dict[str, Any] = {name: w.to(dtype) for name, w in vars(self).items() if isinstance(w, Tensor)}
        return replace(self, **changed)

    def forward(
        self, states: Tensor, layout: PackedLayout, groups: int, rows: Tensor | None, first: bool, kept: list[Tensor]
    ) -> Tensor:
        """States [G N, D] to output states [G N, D], or only those at the indices `rows`, [G T K, D].

        Where the block is the `first`, only the prefix's queries, keys and values are computed.  What
        `backward` needs is appended to `kept`.
        """
        width = states.shape[1]
        source = layout.prefix(states, groups) if first else states
        normed, mean, rstd = norm(source, self.eps_1)
        if rows is None:
            mixed = F.linear(normed, self.qkv_weight, self.qkv_bias)
            if first and layout.first is not None:
                everywhere = layout.spread(layout.first, groups)
                everywhere[:, : layout.shared] = mixed.view(groups, layout.shared, 3 * width)
                mixed = everywhere.flatten(0, 1)
            queries, keys, values = mixed.split(width, dim=1)
        else:
            queries = F.linear(normed.index_select(0, rows), self.qkv_weight[:width], self.qkv_bias[:width])
            keys, values = F.linear(normed, self.qkv_weight[width:], self.qkv_bias[width:]).split(width, dim=1)
            states = states.index_select(0, rows)
        asking = _split(queries, groups, self.heads, layout.tiles, 0)
        keys = _split(keys, groups, self.heads, layout.tiles, layout.repeated)
        values = _split(values, groups, self.heads, layout.tiles, layout.repeated)
        if layout.repeated:  # keys and values are copies: a view of `mixed` would keep theirs twice
            asking = asking.contiguous()
        mask = layout.masks("mask" if rows is None else "last_mask", groups, self.heads)
        shares = torch.softmax(torch.baddbmm(mask, asking, keys.transpose(1, 2)), dim=-1)
        attended = _merge(torch.bmm(shares, values), groups, self.heads, layout.tiles, 0)
        middle = F.linear(attended, self.out_weight, self.out_bias).add_(states)
        normed, middle_mean, middle_rstd = norm(middle, self.eps_2)
        wide = F.linear(normed, self.fc_weight, self.fc_bias)
        kept += [source, mean, rstd, asking, keys, values, shares, middle, middle_mean, middle_rstd, wide]
        active = F.silu(wide) if self.gelu is None else F.gelu(wide, approximate=self.gelu)
        return F.linear(active, self.proj_weight, self.proj_bias).add_(middle)

    def backward(
        self,
        gradient: Tensor,
        layout: PackedLayout,
        groups: int,
        rows: Tensor | None,
        first: bool,
        kept: Sequence[Tensor],
    ) -> Tensor:
        """Gradient at the output of `forward` to the gradient at its input; of the `first` block, at the prefix."""
        source, mean, rstd, asking, keys, values, shares, middle, middle_mean, middle_rstd, wide = kept
        width = source.shape[1]
        inner = torch.mm(gradient, self.proj_weight)
        if self.gelu is None:
            _silu_backward(inner, wide, grad_input=inner)
        else:
            _gelu_backward(inner, wide, approximate=self.gelu, grad_input=inner)
        inner = torch.mm(inner, self.fc_weight)
        gradient = norm_backward(inner, middle, middle_mean, middle_rstd).add_(gradient)
        attended = _split(torch.mm(gradient, self.out_weight), groups, self.heads, layout.tiles, 0)
        scores = _softmax_backward(torch.bmm(attended, values.transpose(1, 2)), shares, -1, shares.dtype)
        parts = [
            _merge(torch.bmm(scores, keys), groups, self.heads, layout.tiles, 0),
            _merge(torch.bmm(scores.transpose(1, 2), asking), groups, self.heads, layout.tiles, layout.repeated),
            _merge(torch.bmm(shares.transpose(1, 2), attended), groups, self.heads, layout.tiles, layout.repeated),
        ]
        if rows is None:
            mixed = torch.cat(parts, dim=1)
            if first:
                mixed, gradient = layout.prefix(mixed, groups), layout.prefix(gradient, groups)
            return norm_backward(torch.mm(mixed, self.qkv_weight), source, mean, rstd).add_(gradient)
        normed = torch.mm(torch.cat(parts[1:], dim=1), self.qkv_weight[width:])
        normed.index_add_(0, rows, torch.mm(parts[0], self.qkv_weight[:width]))
        return norm_backward(normed, source, mean, rstd).index_add_(0, rows, gradient)


def fold(
    ln_1: Any,
    attention: Any,
    ln_2: Any,
    fc: Any,
    proj: Any,
    *,
    gelu: str | None,
    out_scale: Tensor | float = 1.0,
    proj_scale: Tensor | float = 1.0,
) -> Block:
    """A `Block` from a pre-LayerNorm residual block's modules (nn.LayerNorm, nn.MultiheadAttention, nn.Linear).

    `gelu` is None for QuickGELU, otherwise nn.GELU's `approximate`; `out_scale` and `proj_scale` [D] multiply
    the two residual branches (LayerScale).
    """
    qkv, qkv_bias = _fold_norm(ln_1, attention.in_proj_weight, attention.in_proj_bias)
    fc_weight, fc_bias = _fold_norm(ln_2, fc.weight, fc.bias)
    width, sharpness = qkv.shape[1], 1.702 if gelu is None else 1.0
    scale = torch.ones(3 * width, device=qkv.device)
    scale[:width] = (width // attention.num_heads) ** -0.5
    out_scale, proj_scale = (torch.as_tensor(s, device=qkv.device).detach().float() for s in (out_scale, proj_scale))
    return Block(
        qkv_weight=qkv * scale[:, None],
        qkv_bias=qkv_bias * scale,
        out_weight=attention.out_proj.weight.detach().float() * out_scale.expand(width)[:, None],
        out_bias=attention.out_proj.bias.detach().float() * out_scale,
        fc_weight=fc_weight * sharpness,
        fc_bias=fc_bias * sharpness,
        proj_weight=proj.weight.detach().float() * (proj_scale.expand(width) / sharpness)[:, None],
        proj_bias=proj.bias.detach().float() * proj_scale,
        heads=attention.num_heads,
        gelu=gelu,
        eps_1=ln_1.eps,
        eps_2=ln_2.eps,
    )


def _fold_norm(norm: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of linear(norm(x)) as applied to the normalised x without scale and shift."""
    weight = weight.detach().float()
    return weight * norm.weight.detach().float(), bias.detach().float() + weight @ norm.bias.detach().float()


def norm(states: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm without scale and shift, its means and reciprocal deviations."""
    return torch.native_layer_norm(states, states.shape[-1:], None, None, eps)


def norm_backward(gradient: Tensor, states: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of the states that `norm` was given, from that of its result."""
    mask = [True, False, False]
    return _layer_norm_backward(gradient, states, states.shape[-1:], mean, rstd, None, None, mask)[0]


def _split(states: Tensor, groups: int, heads: int, tiles: int, repeated: int) -> Tensor:
    """[G T L, D] to [G H T, L, d]; the first `repeated` positions of a group are put before each of its tiles."""
    size = states.shape[1] // heads
    if heads == 1 and not repeated:
        return states.view(groups * tiles, -1, size)
    split = states.view(groups, tiles, -1, heads, size).permute(0, 3, 1, 2, 4)
    if repeated:
        split = torch.cat([split[:, :, :1, :repeated].expand(-1, -1, tiles, -1, -1), split], dim=3)
    return split.flatten(0, 2)


def _merge(split: Tensor, groups: int, heads: int, tiles: int, repeated: int) -> Tensor:
    """[G H T, L, d] to [G T L, D]: the way back from `_split`, what was repeated being summed."""
    if heads == 1 and not repeated:
        return split.view(-1, split.shape[2])
    split = split.view(groups, heads, tiles, -1, split.shape[2])
    if repeated:
        copies, split = split[:, :, :, :repeated], split[:, :, :, repeated:]
        split[:, :, 0, :repeated] += copies.sum(2)
    return split.permute(0, 2, 3, 1, 4).reshape(-1, heads * split.shape[4])
