"""The gradient rules: the table of GCSAM's branches, its limits, and closed forms on a quadratic."""

from __future__ import annotations

import math

import pytest
import torch

from gcsearch.updates import (
    NOT_FINITE,
    PERTURBED,
    PLAIN,
    PROJECTED,
    constrain_gradient,
    cosine_between,
    gcsam_update,
    perturbation,
    plain_update,
    sam_update,
)


def vectors(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def at_cosine(k: float, length: float = 1.0):
    """A plain gradient along the first axis and a perturbed one at cosine k to it."""
    return vectors([1.0, 0.0]), vectors([k * length, math.sqrt(1 - k * k) * length])


def choose(plain, perturbed, low, high):
    return constrain_gradient(plain, perturbed, torch.tensor([low]), torch.tensor([high]))


@pytest.mark.parametrize(
    ("k", "low", "high", "branch"),
    [
        (0.3, 0.5, 0.8, PLAIN),
        (0.6, 0.5, 0.8, PROJECTED),
        (0.9, 0.5, 0.8, PERTURBED),
        (-0.9, 0.0, 0.8, PROJECTED),  # beta1 <= 0 removes the plain branch ...
        (-0.9, -7.0, 0.8, PROJECTED),  # ... whatever its size
        (0.9, 0.0, 0.8, PERTURBED),
        (0.55, 0.6, 0.5, PLAIN),  # beta1 >= beta2: one switch at beta1
        (0.65, 0.6, 0.5, PERTURBED),
        (0.99, 1.0, 0.8, PLAIN),  # beta1 >= 1 is plain SGD
        (-0.99, 0.0, -1.0, PERTURBED),  # beta1 off, beta2 <= -1 is SAM
        (0.99, 0.0, 1.1, PROJECTED),  # beta1 off, beta2 > 1 always projects
    ],
)
def test_the_cosine_decides_the_branch(k, low, high, branch):
    plain, perturbed = at_cosine(k, length=2.0)
    result = choose(plain, perturbed, low, high)
    total = plain + perturbed
    expected = {
        PLAIN: plain,
        PERTURBED: perturbed,
        PROJECTED: (perturbed * total).sum() / (total * total).sum() * total,
    }[branch]
    assert result.branch.item() == branch
    assert result.cosine.item() == pytest.approx(k, abs=1e-6)
    torch.testing.assert_close(result.gradient, expected)


def test_bounds_are_inclusive_on_the_side_of_the_table():
    plain, perturbed = vectors([1.0, 0.0]), vectors([0.0, 1.0])  # cosine exactly 0
    assert choose(plain, perturbed, -1.0, 0.0).branch.item() == PERTURBED
    plain, perturbed = vectors([3.0, 4.0]), vectors([3.0, 4.0])  # cosine exactly 1
    assert choose(plain, perturbed, 1.0, 2.0).branch.item() == PLAIN


def test_equal_lengths_project_to_the_mean():
    plain, perturbed = at_cosine(0.6)
    result = choose(plain, perturbed, 0.5, 0.8)
    torch.testing.assert_close(result.gradient, (plain + perturbed) / 2)


def test_equal_gradients_stay_as_they_are():
    gradient = vectors([0.3, -0.4, 1.2])
    for low, high in ((0.5, 0.8), (0.0, 2.0), (0.0, -1.0), (1.0, 0.8)):
        torch.testing.assert_close(choose(gradient, gradient, low, high).gradient, gradient)


def test_zero_gradients_count_as_parallel():
    zero, some = vectors([0.0, 0.0]), vectors([1.0, 2.0])
    of_zero_plain = choose(zero, some, 0.5, 0.8)
    assert of_zero_plain.branch.item() == PERTURBED
    torch.testing.assert_close(of_zero_plain.gradient, some)
    torch.testing.assert_close(choose(some, zero, 0.5, 0.8).gradient, zero)
    torch.testing.assert_close(choose(zero, zero, 0.0, 2.0).gradient, zero)
    assert choose(zero, some, 1.0, 0.8).branch.item() == PLAIN


def test_opposite_gradients_give_the_plain_one():
    gradient = vectors([1.0, -2.0])
    for low in (0.5, 0.0):
        result = choose(gradient, -gradient, low, 0.8)
        assert result.branch.item() == PLAIN
        torch.testing.assert_close(result.gradient, gradient)
    # Opposite but of other length: the projection is the perturbed gradient itself.
    torch.testing.assert_close(choose(gradient, -3 * gradient, 0.0, 0.8).gradient, -3 * gradient)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_member_that_is_not_finite_is_named_and_leaves_the_others_alone(poison):
    plain = vectors([1.0, 0.0], [1.0, 0.0], [1.0, 0.0])
    perturbed = vectors([0.0, 1.0], [poison, 1.0], [0.9, 0.1])
    bounds = torch.full((3,), 0.5), torch.full((3,), 0.8)
    result = constrain_gradient(plain, perturbed, *bounds)
    assert result.branch.tolist() == [PLAIN, NOT_FINITE, PERTURBED]
    assert result.gradient[1].tolist() == [0.0, 0.0]
    healthy = constrain_gradient(plain[[0, 2]], perturbed[[0, 2]], bounds[0][:2], bounds[1][:2])
    assert torch.equal(result.gradient[[0, 2]], healthy.gradient)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12, 1e25])
def test_the_choice_does_not_depend_on_the_scale(scale):
    plain, perturbed = at_cosine(0.6)
    expected = choose(plain, perturbed, 0.5, 0.8)
    result = choose(plain * scale, perturbed * scale, 0.5, 0.8)
    assert result.branch.item() == PROJECTED
    torch.testing.assert_close(result.gradient / scale, expected.gradient)


def test_each_member_decides_for_itself_over_its_whole_tensor():
    plain = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    perturbed = plain + torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(2))
    low, high = torch.linspace(0.0, 0.9, 5), torch.linspace(0.5, 1.0, 5)
    together = constrain_gradient(plain, perturbed, low, high)
    for i in range(5):
        alone = constrain_gradient(plain[[i]], perturbed[[i]], low[[i]], high[[i]])
        assert torch.equal(together.gradient[i], alone.gradient[0])
        assert together.branch[i] == alone.branch[0]
        flat = cosine_between(plain[[i]].reshape(1, 12), perturbed[[i]].reshape(1, 12))
        torch.testing.assert_close(together.cosine[[i]], flat)


CURVATURE = torch.tensor([1.0, 4.0, 25.0])


def quadratic(context):
    """L = 1/2 sum a_i x_i^2 for each member: the gradient is a * x."""
    return 0.5 * (CURVATURE * context**2).sum(1), CURVATURE * context


def test_sam_on_a_quadratic_has_its_closed_form():
    start = torch.tensor([[1.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
    rho = torch.tensor([0.1, 0.1])
    update = sam_update(quadratic, start, {"rho": rho})
    g = CURVATURE * start[0]
    torch.testing.assert_close(update.gradient[0], CURVATURE * (start[0] + 0.1 * g / g.norm()))
    torch.testing.assert_close(update.gradient[1], torch.zeros(3))
    torch.testing.assert_close(update.loss, 0.5 * (CURVATURE * start**2).sum(1))


def test_the_perturbation_has_length_rho_for_each_member():
    gradient = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    rho = torch.tensor([0.0, 0.1, 2.0])
    torch.testing.assert_close(perturbation(gradient, rho).flatten(1).norm(dim=1), rho)


@pytest.mark.parametrize(
    ("knobs", "equals"),
    [
        ({"rho": 0.0, "beta1": 0.5, "beta2": 0.8}, plain_update),
        ({"rho": 0.0, "beta1": 0.0, "beta2": 2.0}, plain_update),
        ({"rho": 3.0, "beta1": 1.0, "beta2": 0.8}, plain_update),
        ({"rho": 0.7, "beta1": 0.0, "beta2": -1.0}, sam_update),
    ],
)
def test_gcsam_becomes_its_neighbours_at_its_limits(knobs, equals):
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(3))
    vectors_of = {name: torch.full((6,), value) for name, value in knobs.items()}
    torch.testing.assert_close(
        gcsam_update(quadratic, start, vectors_of).gradient, equals(quadratic, start, vectors_of).gradient
    )
