"""Sharpness of the loss at a point: values on planes, the largest eigenvalue of the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


class Slope(NamedTuple):
    """Values [P] and gradients [P, ...] at points."""

    value: Tensor
    gradient: Tensor


def slope(loss: Loss, points: Tensor, at_once: int = 64) -> Slope:
    """The loss and its gradient at points [P, ...], `at_once` of them at a time."""
    parts = [_slope(loss, part) for part in points.split(at_once)]
    return Slope(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


def _slope(loss: Loss, points: Tensor) -> Slope:
    with torch.enable_grad():
        at = points.detach().requires_grad_()
        value = loss(at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    return Slope(value.detach(), gradient)


def hessian_product(loss: Loss, point: Tensor, vectors: Tensor) -> Tensor:
    """The Hessian at `point` [...] times each of `vectors` [S, ...], exact by differentiating twice."""
    with torch.enable_grad():
        at = point.detach()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at).sum(), at, create_graph=True)
        products = [
            torch.autograd.grad((gradient[0] * vector).sum(), at, retain_graph=True)[0][0] for vector in vectors
        ]
    return torch.stack(products)


class Curvature(NamedTuple):
    """The largest eigenvalues of a Hessian, in descending order, and their unit eigenvectors [S, ...]."""

    values: list[float]
    vectors: Tensor


def curvature(
    loss: Loss, point: Tensor, generator: torch.Generator, *, count: int = 1, tolerance: float = 1e-3
) -> Curvature:
    """The `count` largest eigenvalues (by sign, not by size) of the Hessian at `point` [...].

    Lanczos' method: like power iteration it needs nothing but products with the Hessian, but it keeps the directions of
    all of them, so that near equal or negative eigenvalues do not slow or mislead it. It starts from a random direction
    of `generator`; the relative error is at most `tolerance`.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    size = point.numel()

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(vector.reshape(-1).copy()).to(point).view_as(point)
        return hessian_product(loss, point, direction[None])[0].flatten().double().cpu().numpy()

    start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    values, vectors = eigsh(operator, k=count, which="LA", v0=start, tol=tolerance)
    order = np.argsort(values)[::-1]
    found = torch.from_numpy(vectors.T[order].copy()).to(point).view(count, *point.shape)
    return Curvature([float(value) for value in values[order]], found)


def sharpness(loss: Loss, point: Tensor, rho: float, starts: Tensor, *, steps: int = 10, at_once: int = 64) -> float:
    """The largest rise of the loss found within distance `rho` of `point` [...]: a lower bound of the sharpness.

    From every start x goes to point + rho g / |g|, with g the gradient at x, `steps` times, and the highest value on
    the way counts. Starts are `point`, whose first step is SAM's, and point +- rho d for the directions d in `starts`
    [S, ...]. Where the loss is convex, no step goes down.
    """
    directions = torch.cat([torch.zeros_like(point)[None], starts, -starts])
    at = point + rho * _unit(directions)
    here = slope(loss, point[None]).value[0]
    highest = here
    for _ in range(steps + 1):
        value, gradient = slope(loss, at, at_once)
        highest = torch.maximum(highest, value.max())
        still = (_length(gradient) == 0).expand_as(at)
        at = torch.where(still, at, point + rho * _unit(gradient))
    return float(highest - here)


def _unit(directions: Tensor) -> Tensor:
    """Each of [S, ...] at length 1; zero stays zero."""
    length = _length(directions)
    return directions / length.where(length > 0, 1)


def _length(directions: Tensor) -> Tensor:
    return torch.linalg.vector_norm(directions.flatten(1), dim=1).view(-1, *[1] * (directions.ndim - 1))


def random_plane(point: Tensor, generator: torch.Generator) -> Tensor:
    """Two random directions [2, ...] at right angles, of length 1: distances in the plane are true."""
    drawn = torch.randn(point.numel(), 2, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.to(point).view(2, *point.shape)


def heights(loss: Loss, point: Tensor, plane: Tensor, steps: Tensor, *, at_once: int = 64) -> Tensor:
    """The loss [N, N] at point + steps[j] plane[0] + steps[i] plane[1], `at_once` points at a time."""
    second, first = torch.meshgrid(steps, steps, indexing="ij")
    weights = torch.stack([first.flatten(), second.flatten()], dim=1).to(point)  # [N N, 2]
    with torch.no_grad():
        points = (point + torch.tensordot(part, plane, dims=1) for part in weights.split(at_once))
        return torch.cat([loss(part) for part in points]).view(len(steps), len(steps))
