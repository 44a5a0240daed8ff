"""Gradient rules as pure functions over a population.

Shapes: P members; a gradient or a parameter tensor is [P, ...] and every norm, inner product and decision
is taken per member over all of "...".  A rule calls `gradients(parameters) -> (loss [P], gradient [P, ...])`
once or twice on the same batch and returns an `Update`; it never sees data, optimiser or schedule.

Notation of the docstrings: theta the parameters, g the gradient at theta, g_p the gradient at the perturbed
point theta + epsilon.  Settings ("knobs") are vectors [P], one number per member.

Three promises hold for every rule.  Members never touch: what one member computes, NaN included, leaves the
bits of the others as they are.  Nothing is 0/0: a zero gradient has a zero direction, so it perturbs nothing
and decomposes nothing.  Nothing is read back by the host, so that on a GPU the step runs on without waiting.
A number that is not finite comes out as a gradient that is not finite, or as the branch NOT_FINITE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Gradients = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Parameters [P, ...] to the loss [P] and its gradient [P, ...] there."""

PLAIN, PROJECTED, PERTURBED, NOT_FINITE = 0, 1, 2, 3
"""The branch that a member took in `constrain_gradient`."""


@dataclass(frozen=True)
class Update:
    """What a rule hands to the optimiser. `cosine`, `branch`, `memory` are None for rules that have none."""

    loss: Tensor  # [P], at the unperturbed parameters
    gradient: Tensor  # [P, ...]
    cosine: Tensor | None = None  # [P], between the plain and the perturbed gradient
    branch: Tensor | None = None  # [P], int64
    memory: Tensor | None = None  # [P, ...], what the rule wants back at the next step


class Constrained(NamedTuple):
    """Result of `constrain_gradient`."""

    gradient: Tensor  # [P, ...]
    branch: Tensor  # [P], int64: PLAIN, PROJECTED, PERTURBED or NOT_FINITE
    cosine: Tensor  # [P]


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of each member's tensors: [P, ...], [P, ...] to [P]."""
    return (left * right).flatten(1).sum(1)


def norm(gradient: Tensor) -> Tensor:
    """Euclidean norm of each member's whole tensor, [P, ...] to [P], without overflow or underflow."""
    size = _size(gradient)
    return size * _length(gradient / along(size, gradient))


def _length(gradient: Tensor) -> Tensor:
    """The same for tensors whose squares are known to be in range."""
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
    lengths = _length(left) * _length(right)
    cosine = (inner(left, right) / lengths).clamp(-1.0, 1.0)
    return torch.where(lengths == 0, torch.ones_like(cosine), cosine)


def direction(gradient: Tensor) -> Tensor:
    """Unit vector g / |g| of each member, [P, ...]; zero where g is zero, exact at any scale."""
    scaled = gradient / along(_size(gradient), gradient)
    # The largest entry is now 1 in magnitude, so only a zero tensor is shorter than 1.
    return scaled / along(_length(scaled).clamp_min(1.0), scaled)


def remove_along(gradient: Tensor, other: Tensor) -> Tensor:
    """The part of `gradient` orthogonal to `other`, per member; all of it where `other` is zero."""
    unit = direction(other)
    return gradient - unit * along(inner(gradient, unit), unit)


def perturbation(gradient: Tensor, rho: Tensor) -> Tensor:
    """SAM's ascent step rho * g / (|g| + 1e-12) per member (Foret et al. 2021, equation 2).

    A zero gradient gives a zero step; |step| = rho while |g| is far above 1e-12.
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


def align_with_teacher(task: Tensor, teacher: Tensor, strength: Tensor) -> Tensor:
    """ProGrad's gradient: the task's, less what would undo the teacher's knowledge (Zhu et al. 2023).

    With a = `task`, b = `teacher`, lambda = `strength`, per member::

        cos(a, b) >= 0:   a
        otherwise:        a - lambda <a, b>/|b|^2 b

    a is the gradient of the cross-entropy, b that of the divergence from the zero-shot predictions
    (authors' code, repository Prompt-align).  Where either is zero the result is a, as there; a teacher's
    gradient below NOISE |a| counts as zero: a context that starts as the template's words starts *at* the
    teacher, and the direction of what rounding leaves there would decide the first step.

    Limits: lambda = 0 is a; lambda = 1 leaves a part orthogonal to b.

    Args:
        task, teacher: gradients [P, ...] at the same parameters.
        strength: lambda [P].

    Returns:
        [P, ...]
    """
    unit = direction(teacher)
    aligned = task - unit * along(strength * inner(task, unit), task)
    # A comparison with NaN fails, so that a broken teacher shows in the result.
    agrees = (cosine_between(task, teacher) >= 0) | (norm(teacher) <= NOISE * norm(task))
    return torch.where(along(agrees, task), task, aligned)


NOISE = 1e-5
"""Of a teacher's gradient, relative to the task's: float32 leaves about 4e-7 where the exact one is zero."""


def plain_update(
    gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None
) -> Update:
    """The gradient itself."""
    loss, gradient = gradients(parameters)
    return Update(loss, gradient)


def sam_update(gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None) -> Update:
    """SAM: g_p at epsilon = rho g/|g| (Foret et al. 2021).

    Knobs: `rho`.  Limits: rho = 0 is plain.
    """
    loss, plain = gradients(parameters)
    perturbed, cosine = _look_ahead(gradients, parameters, plain, perturbation(plain, knobs["rho"]))
    return Update(loss, perturbed, cosine)


def gcsam_update(
    gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None
) -> Update:
    """GCSAM: SAM's two gradients through `constrain_gradient`, which gives source and limits.

    Knobs: `rho`, `beta1`, `beta2`.
    """
    loss, plain = gradients(parameters)
    perturbed, _ = _look_ahead(gradients, parameters, plain, perturbation(plain, knobs["rho"]))
    gradient, branch, cosine = constrain_gradient(plain, perturbed, knobs["beta1"], knobs["beta2"])
    return Update(loss, gradient, cosine, branch)


def asam_update(gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None) -> Update:
    """ASAM: g_p at epsilon = rho S^2 g / |S g|, S = |theta| + eta elementwise (Kwon et al. 2021).

    The radius is relative to the size of each parameter, so rho is some ten times SAM's.  With eta = 0 a
    parameter at zero is never perturbed.

    Knobs: `rho`, `eta`.  Limits: rho = 0 is plain; for large eta it is SAM with radius rho * eta.
    """
    loss, plain = gradients(parameters)
    scale = parameters.abs() + along(knobs["eta"], parameters)
    step = along(knobs["rho"], plain) * scale * direction(scale * plain)
    perturbed, cosine = _look_ahead(gradients, parameters, plain, step)
    return Update(loss, perturbed, cosine)


def gsam_update(gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None) -> Update:
    """GSAM: g_p - alpha g_perp, g_perp the part of g orthogonal to g_p (Zhuang et al. 2022).

    Subtracting g_perp narrows the gap between perturbed and plain loss and leaves the perturbed loss as it
    is to first order.  epsilon is SAM's with a radius that follows the learning rate,
    rho_t = rho_min + (rho - rho_min) * rate_share.  As in the authors' code g is decomposed over everything
    at once, and g_p = 0 leaves g_perp = g.  Ours: their smallest learning rate, subtracted in the share, is 0.

    Knobs: `rho`, `rho_min`, `alpha`; `rate_share`, the present learning rate over the setting's, comes from
    training.  Limits: alpha = 0 with rho_min = rho is SAM; rho = rho_min = 0 is plain.
    """
    loss, plain = gradients(parameters)
    radius = knobs["rho_min"] + (knobs["rho"] - knobs["rho_min"]) * knobs["rate_share"]
    perturbed, cosine = _look_ahead(gradients, parameters, plain, perturbation(plain, radius))
    gradient = perturbed - along(knobs["alpha"], plain) * remove_along(plain, perturbed)
    return Update(loss, gradient, cosine)


def sagm_update(gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None) -> Update:
    """SAGM: (g + g_p)/2 at epsilon = (rho/(|g| + 1e-12) - alpha) g (Wang et al. 2023, authors' code).

    The term -alpha g looks ahead along the descent, which aligns the two gradients.  alpha multiplies g
    itself: unlike rho it depends on the scale of the loss.

    Knobs: `rho`, `alpha`.  Limits: rho = alpha = 0 is plain.
    """
    loss, plain = gradients(parameters)
    step = perturbation(plain, knobs["rho"]) - along(knobs["alpha"], plain) * plain
    perturbed, cosine = _look_ahead(gradients, parameters, plain, step)
    return Update(loss, 0.5 * (plain + perturbed), cosine)


def fsam_update(gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None) -> Update:
    """Friendly-SAM: perturbs only along what is particular to the batch (Li et al. 2024, authors' code).

    With m the moving average of the gradients before this step::

        q = g - sigma m          epsilon = rho q/|q|          gradient g_p
        m <- decay m + (1 - decay) g                          carried to the next step

    At the first step q = g and m = g, so it is a step of SAM.

    Knobs: `rho`, `sigma`, `decay`.  Limits: sigma = 0 is SAM; rho = 0 is plain.
    """
    loss, plain = gradients(parameters)
    particular = plain if memory is None else plain - along(knobs["sigma"], plain) * memory
    perturbed, cosine = _look_ahead(gradients, parameters, plain, perturbation(particular, knobs["rho"]))
    average = plain if memory is None else _moving_average(memory, plain, knobs["decay"])
    return Update(loss, perturbed, cosine, memory=average)


def sample_update(
    gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None
) -> Update:
    """SAMPLe: g + g_p, the perturbed point moved back along the batch's own part of g (Rajoli et al.).

    With m the moving average of the gradients, this one included (from m = 0 before the first step)::

        m <- decay m + (1 - decay) g                          carried to the next step
        g_B = g - cos(m, g) |g|/|m| m                         the part of g orthogonal to m
        epsilon = rho g/|g| - alpha g_B

    The objective is L(theta) + L(theta + epsilon) with epsilon held constant, hence a sum and not a mean:
    at small radii the step is twice CoOp's.  The published text leaves g = 0 open; here it is a zero step.
    alpha multiplies g_B itself: unlike rho it depends on the scale of the loss.

    Knobs: `rho`, `alpha`, `decay`.  Limits: rho = alpha = 0 is twice the plain gradient; alpha = 0 or
    decay = 0 is g plus SAM's gradient.
    """
    loss, plain = gradients(parameters)
    average = _moving_average(torch.zeros_like(plain) if memory is None else memory, plain, knobs["decay"])
    back = along(knobs["alpha"], plain) * remove_along(plain, average)
    perturbed, cosine = _look_ahead(gradients, parameters, plain, perturbation(plain, knobs["rho"]) - back)
    return Update(loss, plain + perturbed, cosine, memory=average)


def gnp_update(gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None) -> Update:
    """Gradient-norm penalty: (1 - alpha) g + alpha g_p at SAM's epsilon (Zhao et al. 2022).

    To first order in rho the gradient of L + alpha rho |g|.

    Knobs: `rho`, `alpha`.  Limits: alpha = 0 or rho = 0 is plain; alpha = 1 is SAM.
    """
    loss, plain = gradients(parameters)
    perturbed, cosine = _look_ahead(gradients, parameters, plain, perturbation(plain, knobs["rho"]))
    # `lerp` is exact at alpha = 0, at alpha = 1 and for equal gradients.
    return Update(loss, torch.lerp(plain, perturbed, along(knobs["alpha"], plain)), cosine)


def conflict_update(
    gradients: Gradients, parameters: Tensor, knobs: Mapping[str, Tensor], memory: Tensor | None
) -> Update:
    """SAM without what contradicts the plain gradient: PCGrad's projection (Yu et al. 2020), one way.

    g_p where cos(g, g_p) >= 0, else g_p - <g_p, g>/|g|^2 g, the part of g_p orthogonal to g.

    Knobs: `rho`.  Limits: rho = 0 is plain; SAM wherever the two gradients agree.
    """
    loss, plain = gradients(parameters)
    perturbed, cosine = _look_ahead(gradients, parameters, plain, perturbation(plain, knobs["rho"]))
    # A cosine of NaN fails the comparison, so that broken gradients show in the result.
    gradient = torch.where(along(cosine >= 0, plain), perturbed, remove_along(perturbed, plain))
    return Update(loss, gradient, cosine)


def _look_ahead(gradients: Gradients, parameters: Tensor, plain: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient [P, ...] at parameters + step, and the cosine [P] of its angle to the plain one."""
    _, perturbed = gradients(parameters + step)
    return perturbed, cosine_between(plain, perturbed)


def _moving_average(average: Tensor, gradient: Tensor, decay: Tensor) -> Tensor:
    """The exponential moving average [P, ...] after `gradient` has joined it."""
    decay = along(decay, gradient)
    return decay * average + (1 - decay) * gradient


Rule = Callable[[Gradients, Tensor, Mapping[str, Tensor], Tensor | None], Update]
"""(gradients, parameters [P, ...], knobs [P] by name, the last `Update.memory` or None at first) to an `Update`."""

RULES: dict[str, Rule] = {
    "plain": plain_update,
    "sam": sam_update,
    "gcsam": gcsam_update,
    "asam": asam_update,
    "gsam": gsam_update,
    "sagm": sagm_update,
    "fsam": fsam_update,
    "sample": sample_update,
    "gnp": gnp_update,
    "conflict": conflict_update,
}


# --- SubPT's subspace ------------------------------------------------------------------------------------


def principal_directions(trajectory: Tensor, rank: int) -> Tensor:
    """The `rank` orthonormal directions along which a trajectory varies most: U [rank, K], float32.

    The top right singular vectors of the trajectory less its mean over the checkpoints, not scaled or
    whitened, in float64 (the authors' `compute_eigenvector.py`); the checkpoint before the first epoch is
    not part of the trajectory there.  Each direction has its entry of largest magnitude, the first of equal
    ones, positive; U^T U does not depend on signs.

    t centred checkpoints span at most t - 1 dimensions, so a direction beyond `rank` = min(t - 1, K) says
    nothing about the run: the method's settings must refuse such a rank, before anything is trained.
    Checkpoints that are all equal give arbitrary orthonormal directions; one number that is not finite, as
    a diverged probe leaves, gives directions of NaN, with which the next run diverges in its first step.

    Args:
        trajectory: flattened parameters after each epoch, [t, K], any floating type.
        rank: number of directions, 1 to t - 1.
    """
    centred = trajectory.double()
    centred = centred - centred.mean(0)
    if not torch.isfinite(centred).all():  # the decomposition would raise
        return torch.full((rank, trajectory.shape[1]), torch.nan, device=trajectory.device)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:rank]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).float()


def project(gradient: Tensor, basis: Tensor) -> Tensor:
    """Each member's gradient projected into the span of its basis: U^T U g, [P, ...].

    Rows of zeros add nothing, so members of smaller rank fill up with them.  A full basis gives the gradient
    back; a zero gradient stays zero.  Weight decay and momentum come after it and are not projected, as
    in the published code.

    Args:
        gradient: [P, ...], K numbers per member.
        basis: [P, r, K], rows orthonormal or zero.
    """
    flat = gradient.flatten(1)
    # Products and sums, no matrix product: those may run in TF32 or half precision, entries are ~ K^-1/2.
    coefficients = (basis * flat[:, None]).sum(2)
    return (coefficients[:, :, None] * basis).sum(1).reshape(gradient.shape)
