"""Gradient rules as pure functions over a population.

Shapes: P members; a gradient or a parameter tensor is [P, ...] and every norm, inner product and decision
is taken per member over all of "...".  A rule calls `gradients(context) -> (loss [P], gradient [P, ...])`
as often as it needs and returns an `Update`; it never sees data, optimiser or schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Gradients = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Context vectors [P, ...] to the loss [P] and its gradient [P, ...] there."""

PLAIN, PROJECTED, PERTURBED, NOT_FINITE = 0, 1, 2, 3
"""The branch that a member took in `constrain_gradient`."""


@dataclass(frozen=True)
class Update:
    """What a rule hands to the optimiser. `cosine` and `branch` are None for rules that have none."""

    loss: Tensor  # [P], at the unperturbed context
    gradient: Tensor  # [P, ...]
    cosine: Tensor | None = None  # [P], between the plain and the perturbed gradient
    branch: Tensor | None = None  # [P], int64


class Constrained(NamedTuple):
    """Result of `constrain_gradient`."""

    gradient: Tensor  # [P, ...]
    branch: Tensor  # [P], int64: PLAIN, PROJECTED, PERTURBED or NOT_FINITE
    cosine: Tensor  # [P]


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of each member's tensors: [P, ...], [P, ...] to [P]."""
    return (left * right).flatten(1).sum(1)


def norm(gradient: Tensor) -> Tensor:
    """Euclidean norm of each member's whole tensor: [P, ...] to [P]."""
    return gradient.flatten(1).norm(dim=1)


def along(per_member: Tensor, like: Tensor) -> Tensor:
    """[P] reshaped to [P, 1, ..., 1] so that it multiplies `like` [P, ...] member by member."""
    return per_member.reshape(-1, *[1] * (like.ndim - 1))


def _size(gradient: Tensor) -> Tensor:
    """Largest magnitude of each member, 1 where all is zero: dividing by it keeps squares in range."""
    size = gradient.abs().flatten(1).amax(dim=1)
    return torch.where(size == 0, torch.ones_like(size), size)


def cosine_between(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of the angle between each member's two gradients, [P]; 1 where either is zero.

    Exact at any scale of the gradients, because each is divided by its largest entry first.
    """
    left, right = left / along(_size(left), left), right / along(_size(right), right)
    lengths = norm(left) * norm(right)
    cosine = (inner(left, right) / lengths).clamp(-1.0, 1.0)
    return torch.where(lengths == 0, torch.ones_like(cosine), cosine)


def perturbation(gradient: Tensor, rho: Tensor) -> Tensor:
    """SAM's ascent step rho * g / (|g| + 1e-12) per member (Foret et al. 2021, equation 2).

    A zero gradient gives a zero step; |rho step| = rho otherwise.
    """
    return gradient * along(rho / (norm(gradient) + 1e-12), gradient)


def constrain_gradient(plain: Tensor, perturbed: Tensor, low: Tensor, high: Tensor) -> Constrained:
    """GCSAM's choice between two gradients by the cosine k of the angle between them.

    With y = `plain`, x = `perturbed`, z = x + y, per member::

        low > 0:   k <= low          y            low <= 0:  k < high    proj_z x
                   low < k < high    proj_z x                k >= high   x
                   k >= high         x

    where proj_z x = <x, z> / |z|^2 z, the perturbed gradient's part along the bisecting sum (GCSCoOp;
    authors' optimiser `gcsam.py`, their LOWBOUND = low, UPBOUND = high).  `low <= 0` removes the branch y
    whatever its size.  Ours, where the published code gives NaN: k = 1 if either gradient is zero, and y
    where z = 0.  A member with a number that is not finite gets a zero gradient and NOT_FINITE.

    Limits: x = y gives x; low >= 1 always y (plain SGD); low <= 0 and high <= -1 always x (SAM);
    low <= 0 and high > 1 always the projection.

    Args:
        plain, perturbed: gradients [P, ...] at the context and at the perturbed context.
        low, high: bounds [P] on the cosine (beta1, beta2).
    """
    cosine = cosine_between(plain, perturbed)
    total = plain + perturbed
    scaled = total / along(_size(total), total)
    coefficient = inner(perturbed, scaled) / inner(scaled, scaled).clamp_min(1e-30)
    projected = scaled * along(coefficient, scaled)

    take_plain = (low > 0) & (cosine <= low)
    take_perturbed = ~take_plain & (cosine >= high)
    vanished = ~take_plain & ~take_perturbed & (total == 0).flatten(1).all(1)
    branch = torch.full_like(cosine, PROJECTED, dtype=torch.int64)
    branch = torch.where(take_plain | vanished, PLAIN, branch)
    branch = torch.where(take_perturbed, PERTURBED, branch)
    broken = ~(is_finite(plain) & is_finite(perturbed) & torch.isfinite(cosine))
    branch = torch.where(broken, NOT_FINITE, branch)

    taken = along(branch, plain)
    gradient = torch.where(taken == PLAIN, plain, torch.where(taken == PERTURBED, perturbed, projected))
    gradient = torch.where(taken == NOT_FINITE, torch.zeros_like(gradient), gradient)
    return Constrained(gradient, branch, cosine)


def is_finite(gradient: Tensor) -> Tensor:
    """[P, ...] to [P]: whether all of a member's numbers are finite."""
    return torch.isfinite(gradient).flatten(1).all(1)


def plain_update(gradients: Gradients, context: Tensor, knobs: Mapping[str, Tensor]) -> Update:
    """The gradient itself."""
    loss, gradient = gradients(context)
    return Update(loss, gradient)


def sam_update(gradients: Gradients, context: Tensor, knobs: Mapping[str, Tensor]) -> Update:
    """SAM: the gradient at context + rho g/|g|, on the same batch. Needs `rho` [P]; rho = 0 is plain."""
    loss, plain = gradients(context)
    _, perturbed = gradients(context + perturbation(plain, knobs["rho"]))
    cosine = cosine_between(plain, perturbed)
    return Update(loss, perturbed, cosine)


def gcsam_update(gradients: Gradients, context: Tensor, knobs: Mapping[str, Tensor]) -> Update:
    """GCSAM: SAM's two gradients through `constrain_gradient`. Needs `rho`, `beta1`, `beta2` [P]."""
    loss, plain = gradients(context)
    _, perturbed = gradients(context + perturbation(plain, knobs["rho"]))
    gradient, branch, cosine = constrain_gradient(plain, perturbed, knobs["beta1"], knobs["beta2"])
    return Update(loss, gradient, cosine, branch)


Rule = Callable[[Gradients, Tensor, Mapping[str, Tensor]], Update]

RULES: dict[str, Rule] = {"plain": plain_update, "sam": sam_update, "gcsam": gcsam_update}
