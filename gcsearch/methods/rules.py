"""Gradient rules as pure functions over a population.

Shapes: P members; a gradient or a parameter tensor is [P, ...] and every norm, inner product and decision
is taken per member over all of "...".  `Rule.update` calls `gradients(parameters) -> (loss [P], gradient [P, ...])`
once or twice on the same batch and returns an `Update`; it never sees data, optimiser or schedule.

Notation of the docstrings: theta the parameters, g the gradient at theta, g_p the gradient at the perturbed
point theta + epsilon.  A rule's hyperparameters reach it as vectors [P], one number per member.

Three promises hold for every rule.  Members never touch: what one member computes, NaN included, leaves the
bits of the others as they are.  Nothing is 0/0: a zero gradient has a zero direction, so it perturbs nothing
and decomposes nothing.  Nothing is read back by the host, so that on a GPU the step runs on without waiting.
A number that is not finite comes out as a gradient that is not finite, or as the branch NOT_FINITE.

No torch is imported before something is computed, so that a wrong hyperparameter is refused in milliseconds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

from pydantic import model_validator

from gcsearch.errors import InputError
from gcsearch.methods.base import BelowOne, NotNegative, Part, Share

if TYPE_CHECKING:
    from torch import Tensor

Gradients = Callable[["Tensor"], tuple["Tensor", "Tensor"]]
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


class Step(NamedTuple):
    """What a rule has in hand for one step."""

    gradients: Gradients
    parameters: Tensor  # [P, ...]
    numbers: Mapping[str, Tensor]
    """The members' hyperparameters [P] by name, and `rate_share`, the present learning rate over `lr`."""
    memory: Tensor | None = None
    """The last `Update.memory`; None at first."""

    def look_ahead(self, plain: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient [P, ...] at parameters + step, and the cosine [P] of its angle to the plain one."""
        _, perturbed = self.gradients(self.parameters + step)
        return perturbed, cosine_between(plain, perturbed)


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
    return size.where(size != 0, 1.0)


def cosine_between(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of the angle between each member's two gradients, [P]; 1 where either is zero.

    Exact at any scale of the gradients, because each is divided by its largest entry first.
    """
    left, right = left / along(_size(left), left), right / along(_size(right), right)
    lengths = _length(left) * _length(right)
    cosine = (inner(left, right) / lengths).clamp(-1.0, 1.0)
    return cosine.where(lengths != 0, 1.0)


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
    branch = take_plain.long().fill_(PROJECTED)
    branch = branch.masked_fill(take_plain | vanished, PLAIN).masked_fill(take_perturbed, PERTURBED)
    broken = ~(is_finite(plain) & is_finite(perturbed) & cosine.isfinite())
    branch = branch.masked_fill(broken, NOT_FINITE)

    taken = along(branch, plain)
    gradient = plain.where(taken == PLAIN, perturbed.where(taken == PERTURBED, projected))
    return Constrained(gradient.masked_fill(taken == NOT_FINITE, 0.0), branch, cosine)


def is_finite(gradient: Tensor) -> Tensor:
    """[P, ...] to [P]: whether all of a member's numbers are finite."""
    return gradient.isfinite().flatten(1).all(1)


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
    return task.where(along(agrees, task), aligned)


NOISE = 1e-5
"""Of a teacher's gradient, relative to the task's: float32 leaves about 4e-7 where the exact one is zero."""


def _moving_average(average: Tensor, gradient: Tensor, decay: Tensor) -> Tensor:
    """The exponential moving average [P, ...] after `gradient` has joined it."""
    decay = along(decay, gradient)
    return decay * average + (1 - decay) * gradient


# --- The rules ------------------------------------------------------------------------------------------


class Rule(Part):
    """How the gradients of a batch become the one that is followed."""

    @abstractmethod
    def update(self, at: Step) -> Update:
        """The gradient that the members follow in one step."""


class PlainGradient(Rule):
    """The gradient itself."""

    def update(self, at: Step) -> Update:
        loss, gradient = at.gradients(at.parameters)
        return Update(loss, gradient)


class Sharpness(Rule):
    """Base of the rules that look at the gradient at distance `rho`."""

    kind: ClassVar[str | None] = "rule"

    rho: NotNegative = 0.1


class SAM(Sharpness):
    """SAM: g_p at epsilon = rho g/|g| (Foret et al. 2021).

    Limits: rho = 0 is plain.
    """

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        perturbed, cosine = at.look_ahead(plain, perturbation(plain, at.numbers["rho"]))
        return Update(loss, perturbed, cosine)


class GradientConstrained(Sharpness):
    """GCSAM: SAM's two gradients through `constrain_gradient`, which gives source and limits.

    The cosine k between the plain and the perturbed gradient chooses: k <= beta1 plain, k >= beta2
    perturbed, between them the perturbed one projected on the sum of both. `beta1 = "off"` (or <= 0)
    removes the plain branch.  beta1 must not exceed beta2.
    """

    beta1: float | Literal["off"] = 0.5
    beta2: float = 0.8

    @property
    def numbers(self) -> dict[str, float]:
        return super().numbers | ({"beta1": 0.0} if self.beta1 == "off" else {})

    @model_validator(mode="after")
    def _lower_bound_below_upper_bound(self) -> Self:
        if isinstance(self.beta1, float) and self.beta1 > self.beta2:
            raise InputError(
                "beta1 must not exceed beta2: the plain branch ends before the perturbed one begins",
                key="beta1",
                received=f"beta1={self.beta1:g}, beta2={self.beta2:g}",
                remedy='Swap them, or set beta1 = "off". In a space: `at_most = "beta2"` below [parameters.beta1].',
            )
        return self

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        perturbed, _ = at.look_ahead(plain, perturbation(plain, at.numbers["rho"]))
        gradient, branch, cosine = constrain_gradient(plain, perturbed, at.numbers["beta1"], at.numbers["beta2"])
        return Update(loss, gradient, cosine, branch)


class ASAM(Sharpness):
    """ASAM: g_p at epsilon = rho S^2 g / |S g|, S = |theta| + eta elementwise (Kwon et al. 2021).

    The radius is relative to the size of each parameter, so rho is some ten times SAM's.  With eta = 0 a
    parameter at zero is never perturbed.

    Limits: rho = 0 is plain; for large eta it is SAM with radius rho * eta.
    """

    rho: NotNegative = 0.5
    eta: NotNegative = 0.01

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        scale = at.parameters.abs() + along(at.numbers["eta"], at.parameters)
        step = along(at.numbers["rho"], plain) * scale * direction(scale * plain)
        perturbed, cosine = at.look_ahead(plain, step)
        return Update(loss, perturbed, cosine)


class GSAM(Sharpness):
    """GSAM: g_p - alpha g_perp, g_perp the part of g orthogonal to g_p (Zhuang et al. 2022).

    Subtracting g_perp narrows the gap between perturbed and plain loss and leaves the perturbed loss as it
    is to first order.  epsilon is SAM's with a radius that follows the learning rate,
    rho_t = rho_min + (rho - rho_min) * rate_share.  As in the authors' code g is decomposed over everything
    at once, and g_p = 0 leaves g_perp = g.  Ours: their smallest learning rate, subtracted in the share, is 0.

    Limits: alpha = 0 with rho_min = rho is SAM; rho = rho_min = 0 is plain.
    """

    rho_min: NotNegative | None = None
    """The radius at rate 0; None: `rho`, a constant radius."""
    alpha: NotNegative = 0.4

    @property
    def numbers(self) -> dict[str, float]:
        return super().numbers | ({"rho_min": self.rho} if self.rho_min is None else {})

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        radius = at.numbers["rho_min"] + (at.numbers["rho"] - at.numbers["rho_min"]) * at.numbers["rate_share"]
        perturbed, cosine = at.look_ahead(plain, perturbation(plain, radius))
        gradient = perturbed - along(at.numbers["alpha"], plain) * remove_along(plain, perturbed)
        return Update(loss, gradient, cosine)


class SAGM(Sharpness):
    """SAGM: (g + g_p)/2 at epsilon = (rho/(|g| + 1e-12) - alpha) g (Wang et al. 2023, authors' code).

    The term -alpha g looks ahead along the descent, which aligns the two gradients.  alpha multiplies g
    itself: unlike rho it depends on the scale of the loss.

    Limits: rho = alpha = 0 is plain.
    """

    rho: NotNegative = 0.05
    alpha: NotNegative = 0.001

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        step = perturbation(plain, at.numbers["rho"]) - along(at.numbers["alpha"], plain) * plain
        perturbed, cosine = at.look_ahead(plain, step)
        return Update(loss, 0.5 * (plain + perturbed), cosine)


class FriendlySAM(Sharpness):
    """Friendly-SAM: perturbs only along what is particular to the batch (Li et al. 2024, authors' code).

    With m the moving average of the gradients before this step::

        q = g - sigma m          epsilon = rho q/|q|          gradient g_p
        m <- decay m + (1 - decay) g                          carried to the next step

    At the first step q = g and m = g, so it is a step of SAM.

    Limits: sigma = 0 is SAM; rho = 0 is plain.
    """

    rho: NotNegative = 0.05
    sigma: NotNegative = 1.0
    decay: BelowOne = 0.9

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        particular = plain if at.memory is None else plain - along(at.numbers["sigma"], plain) * at.memory
        perturbed, cosine = at.look_ahead(plain, perturbation(particular, at.numbers["rho"]))
        average = plain if at.memory is None else _moving_average(at.memory, plain, at.numbers["decay"])
        return Update(loss, perturbed, cosine, memory=average)


class SAMPLe(Sharpness):
    """SAMPLe: g + g_p, the perturbed point moved back along the batch's own part of g (Rajoli et al.).

    With m the moving average of the gradients, this one included (from m = 0 before the first step)::

        m <- decay m + (1 - decay) g                          carried to the next step
        g_B = g - cos(m, g) |g|/|m| m                         the part of g orthogonal to m
        epsilon = rho g/|g| - alpha g_B

    The objective is L(theta) + L(theta + epsilon) with epsilon held constant, hence a sum and not a mean:
    at small radii the step is twice CoOp's.  The published text leaves g = 0 open; here it is a zero step.
    alpha multiplies g_B itself: unlike rho it depends on the scale of the loss.

    Limits: rho = alpha = 0 is twice the plain gradient; alpha = 0 or decay = 0 is g plus SAM's gradient.
    """

    rho: NotNegative = 0.05
    alpha: NotNegative = 0.0015
    decay: BelowOne = 0.15

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        average = _moving_average(
            plain.new_zeros(plain.shape) if at.memory is None else at.memory, plain, at.numbers["decay"]
        )
        back = along(at.numbers["alpha"], plain) * remove_along(plain, average)
        perturbed, cosine = at.look_ahead(plain, perturbation(plain, at.numbers["rho"]) - back)
        return Update(loss, plain + perturbed, cosine, memory=average)


class GradientNormPenalty(Sharpness):
    """Gradient-norm penalty: (1 - alpha) g + alpha g_p at SAM's epsilon (Zhao et al. 2022).

    To first order in rho the gradient of L + alpha rho |g|.

    Limits: alpha = 0 or rho = 0 is plain; alpha = 1 is SAM.
    """

    alpha: Share = 0.5

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        perturbed, cosine = at.look_ahead(plain, perturbation(plain, at.numbers["rho"]))
        # `lerp` is exact at alpha = 0, at alpha = 1 and for equal gradients.
        return Update(loss, plain.lerp(perturbed, along(at.numbers["alpha"], plain)), cosine)


class ConflictProjection(Sharpness):
    """SAM without what contradicts the plain gradient: PCGrad's projection (Yu et al. 2020), one way.

    g_p where cos(g, g_p) >= 0, else g_p - <g_p, g>/|g|^2 g, the part of g_p orthogonal to g.

    Limits: rho = 0 is plain; SAM wherever the two gradients agree.
    """

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        perturbed, cosine = at.look_ahead(plain, perturbation(plain, at.numbers["rho"]))
        # A cosine of NaN fails the comparison, so that broken gradients show in the result.
        gradient = perturbed.where(along(cosine >= 0, plain), remove_along(perturbed, plain))
        return Update(loss, gradient, cosine)
