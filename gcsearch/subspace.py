"""SubPT's subspace: the directions in which a probe run moved, and gradients projected into it.

Subspace prompt tuning (Ma et al. 2023) first trains as usual and keeps the parameters after every epoch,
takes the principal directions of the early ones, and then trains anew with every gradient projected into
their span, so that the later, over-fitting directions are closed.

Shapes: P members, t kept checkpoints, r directions, K parameters of a member.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
