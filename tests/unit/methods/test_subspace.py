"""SubPT's subspace against an independent principal component analysis, and the projection's properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gcsearch.methods.subspace import principal_directions, project


def walk(checkpoints, size, seed=0):
    """Parameters after each epoch of a made-up run that drifts and slows down, [t, K]."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(checkpoints, size, generator=generator)
    return torch.cumsum(steps / torch.arange(1, checkpoints + 1)[:, None], 0) + 3.0


def covariance_directions(trajectory, rank):
    """The leading eigenvectors of the covariance matrix, [rank, K] in float64, with numpy."""
    points = trajectory.double().numpy()
    values, columns = np.linalg.eigh(np.cov(points, rowvar=False))
    return columns[:, np.argsort(values)[::-1][:rank]].T


@pytest.mark.parametrize(("checkpoints", "size", "rank"), [(10, 48, 5), (30, 96, 10), (12, 6, 4), (5, 64, 4)])
def test_the_projection_is_that_of_a_principal_component_analysis(checkpoints, size, rank):
    trajectory = walk(checkpoints, size)
    mine = principal_directions(trajectory, rank)
    theirs = covariance_directions(trajectory, rank)
    assert mine.shape == (rank, size)
    assert mine.dtype == torch.float32
    np.testing.assert_allclose((mine.T @ mine).numpy(), theirs.T @ theirs, atol=1e-6)

    gradient = torch.randn(1, 2, size // 2, generator=torch.Generator().manual_seed(4))
    expected = theirs.T @ (theirs @ gradient.flatten().double().numpy())
    projected = project(gradient, mine[None])
    assert projected.shape == gradient.shape
    np.testing.assert_allclose(projected.flatten().numpy(), expected, atol=1e-6)


def test_every_direction_is_the_principal_one_of_its_place():
    trajectory = walk(10, 24)
    mine, theirs = principal_directions(trajectory, 4).double().numpy(), covariance_directions(trajectory, 4)
    np.testing.assert_allclose(np.abs((mine * theirs).sum(1)), np.ones(4), atol=1e-6)


def test_where_the_run_stands_does_not_matter_only_how_it_moves():
    trajectory = walk(8, 20).double()
    torch.testing.assert_close(principal_directions(trajectory, 3), principal_directions(trajectory - 50.0, 3))


def test_rows_are_orthonormal_and_their_largest_entry_is_positive():
    directions = principal_directions(walk(20, 512), 10)
    torch.testing.assert_close(directions @ directions.T, torch.eye(10), rtol=0, atol=1e-6)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_a_mirrored_run_has_the_same_directions():
    trajectory = walk(10, 30)
    torch.testing.assert_close(principal_directions(trajectory, 3), principal_directions(-trajectory, 3))


def test_checkpoints_that_are_all_equal_still_give_orthonormal_rows():
    directions = principal_directions(torch.full((6, 16), 0.3), 5)
    torch.testing.assert_close(directions @ directions.T, torch.eye(5))


def test_a_diverged_probe_gives_directions_that_are_not_numbers():
    trajectory = walk(6, 16)
    trajectory[4, 3] = math.inf
    directions = principal_directions(trajectory, 2)
    assert directions.shape == (2, 16)
    assert directions.isnan().all()


def orthonormal(rank, size, seed=0):
    square = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(square).Q[:rank].float()


def gradients(members, *shape):
    return torch.randn(members, *shape, generator=torch.Generator().manual_seed(9))


def test_projecting_twice_is_projecting_once():
    basis = torch.stack([orthonormal(3, 12, seed) for seed in range(4)])
    once = project(gradients(4, 3, 4), basis)
    torch.testing.assert_close(project(once, basis), once)


def test_what_is_left_out_is_orthogonal_to_the_basis():
    basis, gradient = orthonormal(3, 12)[None], gradients(1, 3, 4)
    rest = (gradient - project(gradient, basis)).flatten()
    torch.testing.assert_close(basis[0] @ rest, torch.zeros(3), rtol=0, atol=1e-6)
    assert rest.norm() > 0.1


def test_full_rank_is_the_identity():
    gradient = gradients(2, 3, 4)
    full = torch.stack([orthonormal(12, 12, seed) for seed in range(2)])
    torch.testing.assert_close(project(gradient, full), gradient, rtol=1e-5, atol=1e-6)


def test_a_zero_gradient_and_an_empty_basis_give_zero():
    basis = torch.stack([orthonormal(3, 12), torch.zeros(3, 12)])
    gradient = gradients(2, 3, 4)
    gradient[0] = 0.0
    assert torch.equal(project(gradient, basis), torch.zeros(2, 3, 4))


def test_members_of_smaller_rank_fill_up_with_zeros():
    gradient = gradients(2, 3, 4)
    small, large = orthonormal(2, 12, 1), orthonormal(5, 12, 2)
    mixed = torch.stack([torch.cat([small, torch.zeros(3, 12)]), large])
    projected = project(gradient, mixed)
    torch.testing.assert_close(projected[:1], project(gradient[:1], small[None]))
    torch.testing.assert_close(projected[1:], project(gradient[1:], large[None]))


@pytest.mark.parametrize("broken", ["gradient", "basis"])
def test_a_broken_member_leaves_the_bits_of_the_others(broken):
    tensors = {"gradient": gradients(3, 3, 4), "basis": torch.stack([orthonormal(3, 12, s) for s in range(3)])}
    clean = project(**tensors)
    tensors[broken][1, 0, 0] = math.nan
    spoilt = project(**tensors)
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])
    assert spoilt[1].isnan().any()


def test_the_projection_keeps_float32_inside_autocast():
    gradient, basis = gradients(1, 8, 16), orthonormal(10, 128)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = project(gradient, basis)
    assert torch.equal(inside, project(gradient, basis))
