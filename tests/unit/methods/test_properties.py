"""Gradient rules, for any gradients: members are apart, scale drops out, and the limits are the known rules."""

from __future__ import annotations

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcsearch.methods import rules
from gcsearch.methods.registry import METHODS
from gcsearch.methods.rules import PERTURBED, PLAIN, PROJECTED, PlainGradient, Step, constrain_gradient

RULES = {"plain": PlainGradient()} | {name: one.rule for name, one in METHODS.items() if one.kinds == ("rule",)}

ENTRIES = st.integers(-400, 400).map(lambda eighths: eighths / 8)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
SHARES = st.integers(0, 16).map(lambda sixteenths: sixteenths / 16)
BOUNDS = st.integers(-16, 16).map(lambda sixteenths: sixteenths / 16)
NAMES = ["rate_share", *sorted({name for rule in RULES.values() for name in rule.numbers})]


def tensors(shape, entries=ENTRIES):
    return npst.arrays(np.float32, shape, elements=entries).map(torch.from_numpy)


@st.composite
def pairs(draw):
    """Two gradients of a population and each member's bounds."""
    shape = draw(SHAPES)
    low, high = (draw(tensors(shape[:1], BOUNDS)) for _ in range(2))
    return draw(tensors(shape)), draw(tensors(shape)), torch.minimum(low, high), torch.maximum(low, high)


@st.composite
def populations(draw):
    """Parameters of a population in a bowl of its own for each member, its hyperparameters and its memory."""
    shape = draw(SHAPES)
    numbers = {name: draw(tensors(shape[:1], SHARES)) for name in NAMES}
    numbers["beta1"] = torch.minimum(numbers["beta1"], numbers["beta2"])
    centre, steep = draw(tensors(shape)), draw(tensors(shape, st.integers(1, 16).map(lambda eighths: eighths / 8)))
    return draw(tensors(shape)), numbers, centre, steep, draw(st.none() | tensors(shape))


def bowl(centre, steep):
    """The gradients of sum(steep * (theta - centre)^2 / 2) of each member."""

    def gradients(parameters):
        apart = parameters - centre
        return 0.5 * (steep * apart**2).flatten(1).sum(1), steep * apart

    return gradients


def chosen(order, *tensors):
    return [tensor if tensor is None else tensor[order] for tensor in tensors]


@given(pairs(), st.randoms(use_true_random=False))
def test_the_constraint_treats_each_member_alone(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    whole, shuffled = constrain_gradient(*pair), constrain_gradient(*chosen(order, *pair))
    for one, other in zip(whole, shuffled, strict=True):
        assert torch.equal(one[order], other)


@given(pairs(), st.integers(-10, 10))
def test_the_constraint_does_not_know_the_scale(pair, power):
    plain, perturbed, low, high = pair
    whole, scaled = constrain_gradient(*pair), constrain_gradient(plain * 2.0**power, perturbed * 2.0**power, low, high)
    assert torch.equal(whole.branch, scaled.branch)
    torch.testing.assert_close(scaled.gradient, whole.gradient * 2.0**power)


@given(pairs())
def test_the_constraint_has_its_limits(pair):
    plain, perturbed, low, high = pair
    one = torch.ones(len(plain))
    always = {PLAIN: (one, 2 * one), PERTURBED: (-one, -one)}
    for branch, gradient in ((PLAIN, plain), (PERTURBED, perturbed)):
        found = constrain_gradient(plain, perturbed, *always[branch])
        assert torch.equal(found.gradient, gradient)
        assert set(found.branch.tolist()) == {branch}
    same = constrain_gradient(plain, plain, low, high)
    torch.testing.assert_close(same.gradient, plain)
    assert torch.all(same.cosine == 1) or torch.allclose(same.cosine, one)


@given(pairs())
def test_the_projection_is_the_nearest_point_on_the_line_between_the_two(pair):
    plain, perturbed, _, _ = pair
    one = torch.ones(len(plain))
    found = constrain_gradient(plain, perturbed, -one, 2 * one)
    between = plain + perturbed
    for member, branch in enumerate(found.branch.tolist()):
        if branch == PROJECTED:
            rest = (perturbed - found.gradient)[member].double().flatten()
            along = between[member].double().flatten()
            assert abs(float(rest @ along)) <= 1e-4 * float(perturbed[member].double().norm() * along.norm())
        else:
            assert branch == PLAIN and not between[member].any()


@pytest.mark.parametrize("name", RULES)
@given(population=populations(), random=st.randoms(use_true_random=False))
def test_a_rule_treats_each_member_alone(name, population, random):
    parameters, numbers, centre, steep, memory = population
    order = list(range(len(parameters)))
    random.shuffle(order)
    order = order[: random.randint(1, len(order))]
    whole = RULES[name].update(Step(bowl(centre, steep), parameters, numbers, memory))
    some = {key: value[order] for key, value in numbers.items()}
    gradients, (at, kept) = bowl(*chosen(order, centre, steep)), chosen(order, parameters, memory)
    part = RULES[name].update(Step(gradients, at, some, kept))
    for field in ("loss", "gradient", "cosine", "branch", "memory"):
        one, other = getattr(whole, field), getattr(part, field)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one[order], other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in RULES if name == "plain" or "rho" in RULES[name].numbers])
@given(population=populations())
def test_without_a_radius_every_rule_is_the_plain_one_and_sample_twice_it(name, population):
    parameters, numbers, centre, steep, memory = population
    nothing = torch.zeros(len(parameters))
    numbers |= {"rho": nothing, "rho_min": nothing} | ({"alpha": nothing} if name in ("sagm", "sample") else {})
    _, plain = bowl(centre, steep)(parameters)
    found = RULES[name].update(Step(bowl(centre, steep), parameters, numbers, memory)).gradient
    torch.testing.assert_close(found, 2 * plain if name == "sample" else plain, rtol=1e-4, atol=1e-4)


@given(pairs())
def test_what_is_left_along_nothing_is_orthogonal(pair):
    gradient, other, _, _ = pair
    left = rules.remove_along(gradient, other)
    for member in range(len(gradient)):
        product = float(left[member].double().flatten() @ other[member].double().flatten())
        assert abs(product) <= 1e-4 * float(gradient[member].double().norm() * other[member].double().norm()) + 1e-12
    torch.testing.assert_close(rules.remove_along(left, other), left, rtol=1e-4, atol=1e-3)
