"""SubPT's subspace: the gradient projected on the main directions of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from gcsearch.config.base import Count, Epochs, Value
from gcsearch.errors import InputError
from gcsearch.methods.base import Part

if TYPE_CHECKING:
    from torch import Tensor


class Subspace(Part):
    """The gradient projected on the main directions of an earlier run.

    A probe runs the same method without the projection for `probe_epochs` epochs of the full schedule; the
    top `rank` principal directions of its context vectors after each epoch span the subspace. A full rank is
    the method itself.
    """

    kind: ClassVar[str | None] = "subspace"

    probe_epochs: Annotated[Epochs, Field(ge=2)] = 50
    rank: Count = 10

    def check(self, hyperparameters: Mapping[str, Value | None]) -> None:
        epochs = int(hyperparameters["epochs"] or 0)
        if self.probe_epochs > epochs:
            raise InputError(
                "probe_epochs must not exceed epochs",
                key="probe_epochs",
                received=f"probe_epochs={self.probe_epochs}, epochs={epochs}",
                remedy=f"At most {epochs}, and a rank below that.",
            )
        if self.rank >= self.probe_epochs:
            raise InputError(
                "rank must be below probe_epochs: so many centred checkpoints have no more directions",
                key="rank",
                received=f"rank={self.rank}, probe_epochs={self.probe_epochs}",
                remedy=f"At most {self.probe_epochs - 1}.",
            )

    def directions(self, trajectory: Tensor) -> Tensor:
        """U [rank, K] of a probe's parameters after each of at least `probe_epochs` epochs, [t, K]."""
        return principal_directions(trajectory[: self.probe_epochs], self.rank)

    def project(self, gradient: Tensor, basis: Tensor) -> Tensor:
        """Each member's gradient [P, ...] in the span of its directions [P, r, K]."""
        return project(gradient, basis)


def principal_directions(trajectory: Tensor, rank: int) -> Tensor:
    """The `rank` orthonormal directions along which a trajectory varies most: U [rank, K], float32.

    The top right singular vectors of the trajectory less its mean over the checkpoints, not scaled or
    whitened, in float64 (the authors' `compute_eigenvector.py`); the checkpoint before the first epoch is
    not part of the trajectory there.  Each direction has its entry of largest magnitude, the first of equal
    ones, positive; U^T U does not depend on signs.

    t centred checkpoints span at most t - 1 dimensions, so a direction beyond `rank` = min(t - 1, K) says
    nothing about the run: the method's configurations must refuse such a rank, before anything is trained.
    Checkpoints that are all equal give arbitrary orthonormal directions; one number that is not finite, as
    a diverged probe leaves, gives directions of NaN, with which the next run diverges in its first step.

    Args:
        trajectory: flattened parameters after each epoch, [t, K], any floating type.
        rank: number of directions, 1 to t - 1.
    """
    import torch

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
