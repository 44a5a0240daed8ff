"""The gradient rules: GCSAM's table of branches, one contract for every rule, and each rule's formula.

The formulas are written once more below, for one member, as slow float64 code over a flat vector.
"""

from __future__ import annotations

import math

import pytest
import torch

from gcsearch.methods.registry import METHODS
from gcsearch.methods.rules import (
    NOT_FINITE,
    PERTURBED,
    PLAIN,
    PROJECTED,
    PlainGradient,
    Step,
    align_with_teacher,
    constrain_gradient,
    cosine_between,
    direction,
    norm,
    perturbation,
    remove_along,
)
from tests.support.methods import NothingReadBack

RULES = {"plain": PlainGradient()} | {name: one.rule for name, one in METHODS.items() if one.kinds == ("rule",)}


def step(rule, gradients, parameters, numbers, memory=None):
    return RULES[rule].update(Step(gradients, parameters, numbers, memory))


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
    update = step("sam", quadratic, start, {"rho": rho})
    g = CURVATURE * start[0]
    torch.testing.assert_close(update.gradient[0], CURVATURE * (start[0] + 0.1 * g / g.norm()))
    torch.testing.assert_close(update.gradient[1], torch.zeros(3))
    torch.testing.assert_close(update.loss, 0.5 * (CURVATURE * start**2).sum(1))


def test_the_perturbation_has_length_rho_for_each_member():
    gradient = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    rho = torch.tensor([0.0, 0.1, 2.0])
    torch.testing.assert_close(perturbation(gradient, rho).flatten(1).norm(dim=1), rho)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_lengths_and_directions_hold_at_any_scale(scale):
    gradient = vectors([3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]) * scale
    torch.testing.assert_close(norm(gradient) / scale, torch.tensor([5.0, 0.0, 13.0]))
    torch.testing.assert_close(direction(gradient), vectors([0.6, 0.8], [0.0, 0.0], [-5 / 13, 12 / 13]))


def test_a_part_along_nothing_is_nothing():
    gradient = vectors([3.0, 4.0], [3.0, 4.0], [0.0, 0.0])
    rest = remove_along(gradient, vectors([0.0, 2.0], [0.0, 0.0], [1.0, 1.0]))
    torch.testing.assert_close(rest, vectors([3.0, 0.0], [3.0, 4.0], [0.0, 0.0]))


# ---- The loss of the tests below: wells and saddles, so that two gradients may also oppose each other.

SHAPE = (2, 3)  # of one member's parameters
CURVED = torch.tensor(
    [
        [-3.0, 0.2, 0.0, 0.1, 0.0, 0.3],
        [0.2, 0.5, -0.4, 0.0, 0.2, 0.0],
        [0.0, -0.4, -2.0, 0.3, 0.0, 0.1],
        [0.1, 0.0, 0.3, 0.6, 0.2, 0.0],
        [0.0, 0.2, 0.0, 0.2, -2.5, -0.5],
        [0.3, 0.0, 0.1, 0.0, -0.5, 0.8],
    ],
    dtype=torch.float64,
)
QUARTIC = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.3, 0.7], dtype=torch.float64)


def slope(x):
    """The gradient of 1/2 x'Ax + 1/4 sum b x^4 at [..., 6]."""
    curved, quartic = CURVED.to(x.dtype), QUARTIC.to(x.dtype)
    return (curved * x[..., None, :]).sum(-1) + quartic * x**3


def wells(parameters, scale=1.0):
    """Loss and gradient of every member, [P, 2, 3]."""
    x = parameters.flatten(1)
    loss = 0.5 * (x * (CURVED.to(x.dtype) * x[:, None, :]).sum(-1)).sum(1) + 0.25 * (QUARTIC.to(x.dtype) * x**4).sum(1)
    return scale * loss, scale * slope(x).reshape(parameters.shape)


def random_starts(count, dtype=torch.float32):
    """Some near the saddle at zero, some out in the wells."""
    generator = torch.Generator().manual_seed(5)
    size = torch.tensor([0.1, 0.5, 0.9]).repeat(count)[:count, None, None]
    return (size * torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)).to(dtype)


RANGES = {
    "plain": {},
    "sam": {"rho": (0.05, 1.5)},
    "gcscoop": {"rho": (0.05, 1.5), "beta1": (-0.5, 0.6), "beta2": (0.6, 1.0)},
    "asam": {"rho": (0.1, 1.5), "eta": (0.0, 0.2)},
    "gsam": {"rho": (0.3, 1.5), "rho_min": (0.0, 0.3), "alpha": (0.1, 0.9), "rate_share": (0.05, 1.0)},
    "sagm": {"rho": (0.05, 1.5), "alpha": (0.001, 0.3)},
    "fsam": {"rho": (0.05, 1.5), "sigma": (0.2, 1.2), "decay": (0.1, 0.9)},
    "sample": {"rho": (0.05, 1.5), "alpha": (0.001, 0.5), "decay": (0.1, 0.9)},
    "gnp": {"rho": (0.05, 1.5), "alpha": (0.1, 1.0)},
    "conflict": {"rho": (0.05, 2.5)},
}
"""The numbers of a rule, with the range over the members of a test; of one that is not here, around its defaults."""

SCALED = {"sagm": "alpha", "sample": "alpha"}
"""Of a rule, the hyperparameter that multiplies a gradient and so goes with one over the scale of the loss."""


def ranges_of(rule):
    return RANGES.get(rule) or {name: (0.5 * value, 1.5 * value) for name, value in RULES[rule].numbers.items()}


def numbers_of(rule, count, dtype=torch.float32, **fixed):
    """Another value for every member, `fixed` ones the same for all."""
    generator = torch.Generator().manual_seed(7)
    spread = {}
    for name, (low, high) in ranges_of(rule).items():
        spread[name] = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
        if name in fixed:
            spread[name] = torch.full((count,), fixed[name], dtype=torch.float64)
    assert set(fixed) <= set(spread)
    return {name: values.to(dtype) for name, values in spread.items()}


def run(rule, parameters, numbers, gradients=wells, steps=3, rate=0.1):
    """`steps` steps of gradient descent: every update, and the parameters at the end."""
    taken, memory = [], None
    for _ in range(steps):
        update = step(rule, gradients, parameters, numbers, memory)
        taken.append(update)
        parameters, memory = parameters - rate * update.gradient, update.memory
    return taken, parameters


def bits(update):
    """All tensors of an update, each [P, ...]."""
    fields = (update.loss, update.gradient, update.cosine, update.branch, update.memory)
    return [field for field in fields if field is not None]


# ---- The contract of every rule.


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_shapes_and_reports_the_plain_loss(rule):
    start = random_starts(4)
    updates, _ = run(rule, start, numbers_of(rule, 4))
    assert torch.equal(updates[0].loss, wells(start)[0])
    for update in updates:
        assert update.gradient.shape == start.shape
        assert all(len(field) == 4 for field in bits(update))
    assert len({len(bits(update)) for update in updates}) == 1  # what it reports and keeps, it does at every step


@pytest.mark.parametrize("rule", RULES)
def test_a_member_does_the_same_alone_and_in_a_crowd(rule):
    start, numbers = random_starts(5), numbers_of(rule, 5)
    _, together = run(rule, start, numbers)
    for i in range(5):
        _, alone = run(rule, start[[i]], {name: values[[i]] for name, values in numbers.items()})
        torch.testing.assert_close(together[[i]], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_member_is_named_and_leaves_the_bits_of_the_others(rule, poison):
    start, numbers = random_starts(4), numbers_of(rule, 4)
    broken = start.clone()
    broken[1, 0, 2] = poison
    clean, _ = run(rule, start, numbers)
    spoilt, _ = run(rule, broken, numbers)
    for healthy, update in zip(clean, spoilt, strict=True):
        for left, right in zip(bits(healthy), bits(update), strict=True):
            assert torch.equal(left[[0, 2, 3]], right[[0, 2, 3]])
        named = update.branch is not None and update.branch[1].item() == NOT_FINITE
        assert named or not torch.isfinite(update.gradient[1]).all()


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"plain"}))
def test_a_gradient_that_breaks_only_at_the_perturbed_point_is_named(rule):
    calls = []

    def breaks_at_the_second_look(parameters):
        calls.append(parameters)
        loss, gradient = wells(parameters)
        if len(calls) == 2:
            gradient[0, 1, 1] = math.nan
        return loss, gradient

    update = step(rule, breaks_at_the_second_look, random_starts(2), numbers_of(rule, 2))
    named = update.branch is not None and update.branch[0].item() == NOT_FINITE
    assert named or not torch.isfinite(update.gradient[0]).all()
    assert torch.isfinite(update.gradient[1]).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1e-4, 1e12, 1e25])
def test_a_rule_follows_the_scale_of_the_loss(rule, scale):
    numbers = numbers_of(rule, 6)
    expected, _ = run(rule, random_starts(6), numbers)
    if rule in SCALED:
        numbers[SCALED[rule]] = numbers[SCALED[rule]] / scale
    scaled, _ = run(rule, random_starts(6), numbers, lambda x: wells(x, scale), rate=0.1 / scale)
    for small, large in zip(expected, scaled, strict=True):
        torch.testing.assert_close(large.gradient / scale, small.gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_vanishing_gradient_vanishes_in_peace(rule):
    updates, _ = run(rule, random_starts(3), numbers_of(rule, 3), lambda x: wells(x, 1e-36))
    for update in updates:
        assert all(torch.isfinite(field).all() for field in bits(update))
        assert update.gradient.abs().max() < 1e-33


@pytest.mark.parametrize("rule", RULES)
def test_a_member_at_a_critical_point_stays_there(rule):
    start = random_starts(3)
    start[1] = 0.0
    updates, end = run(rule, start, numbers_of(rule, 3))
    assert torch.equal(end[1], torch.zeros(SHAPE))
    assert all(torch.isfinite(field).all() for update in updates for field in bits(update))
    assert torch.equal(updates[0].gradient[1], torch.zeros(SHAPE))
    assert updates[0].gradient[0].abs().max() > 0


@pytest.mark.parametrize(
    ("rule", "fixed", "share"),
    [
        ("sam", {}, 0.0),
        ("asam", {}, 0.0),
        ("gsam", {"alpha": 0.25}, -0.25),  # all of g is orthogonal to nothing
        ("sagm", {}, 0.5),
        ("fsam", {}, 0.0),
        ("sample", {}, 1.0),
        ("gnp", {"alpha": 0.25}, 0.75),
        ("conflict", {}, 0.0),
    ],
)
def test_flat_ground_at_the_perturbed_point_leaves_a_share_of_the_plain_gradient(rule, fixed, share):
    start = random_starts(2)

    def flat_elsewhere(parameters):
        loss, gradient = wells(parameters)
        return loss, torch.where((parameters == start).flatten(1).all(1)[:, None, None], gradient, 0.0)

    update = step(rule, flat_elsewhere, start, numbers_of(rule, 2, **fixed))
    torch.testing.assert_close(update.gradient, share * wells(start)[1])
    assert update.cosine.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.tolist() and float(x[0]),
    ],
)
def test_the_guard_against_waiting_sees_what_waits(waits):
    with NothingReadBack(), pytest.raises(AssertionError, match="waits for the device"):
        waits(torch.ones(3))


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_makes_the_host_wait(rule):
    start, numbers = random_starts(3), numbers_of(rule, 3)
    with NothingReadBack():
        updates, _ = run(rule, start, numbers)
    assert torch.isfinite(updates[-1].gradient).all()


# ---- Every rule against its formula, one member at a time, in float64.


def unit(v):
    length = math.sqrt(sum(float(x) ** 2 for x in v))
    return v / length if length else torch.zeros_like(v)


def cos(a, b):
    return float(unit(a) @ unit(b))


def sam_of(x, k):
    return slope(x + k["rho"] * unit(slope(x)))


def gcsam_of(g, sam, k):
    if k["beta1"] > 0 and cos(g, sam) <= k["beta1"]:
        return g
    return sam if cos(g, sam) >= k["beta2"] else unit(g + sam) * (sam @ unit(g + sam))


def asam_of(x, g, k):
    s = torch.diag(x.abs() + k["eta"])
    return slope(x + k["rho"] * s @ s @ g / (s @ g).norm())


def gsam_of(x, g, k):
    there = slope(x + (k["rho_min"] * (1 - k["rate_share"]) + k["rho"] * k["rate_share"]) * unit(g))
    return there - k["alpha"] * (g - (g @ there) / (there @ there) * there)


def fsam_of(x, g, k, m):
    if m is None:
        return sam_of(x, k), g
    return slope(x + k["rho"] * unit(g - k["sigma"] * m)), k["decay"] * m + (1 - k["decay"]) * g


def sample_of(x, g, k, m):
    m = (1 - k["decay"]) * g + (0 if m is None else k["decay"] * m)
    batch = g - cos(m, g) * g.norm() / m.norm() * m
    return g + slope(x + k["rho"] * unit(g) - k["alpha"] * batch), m


def conflict_of(g, sam):
    return sam if cos(g, sam) >= 0 else sam - (sam @ g) / (g @ g) * g


FORMULAS = {
    "plain": lambda x, g, k, m: (g, None),
    "sam": lambda x, g, k, m: (sam_of(x, k), None),
    "gcscoop": lambda x, g, k, m: (gcsam_of(g, sam_of(x, k), k), None),
    "asam": lambda x, g, k, m: (asam_of(x, g, k), None),
    "gsam": lambda x, g, k, m: (gsam_of(x, g, k), None),
    "sagm": lambda x, g, k, m: ((g + slope(x + (k["rho"] / g.norm() - k["alpha"]) * g)) / 2, None),
    "fsam": fsam_of,
    "sample": sample_of,
    "gnp": lambda x, g, k, m: ((1 - k["alpha"]) * g + k["alpha"] * sam_of(x, k), None),
    "conflict": lambda x, g, k, m: (conflict_of(g, sam_of(x, k)), None),
}
"""(gradient, memory) of one member at the flat float64 vector x, with gradient g, numbers k and memory m."""


def reference(rule, x, k, m):
    return FORMULAS[rule](x, slope(x), k, m)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("rule", RULES)
def test_four_steps_follow_the_formula(rule, dtype, tolerance):
    members = 12
    start, numbers = random_starts(members, dtype), numbers_of(rule, members, dtype)
    updates, _ = run(rule, start, numbers, steps=4)
    for i in range(members):
        x, memory = start[i].flatten().double(), None
        k = {name: values[i].item() for name, values in numbers.items()}
        for update in updates:
            gradient, memory = reference(rule, x, k, memory)
            got = update.gradient[i].flatten().double()
            torch.testing.assert_close(got, gradient, rtol=tolerance, atol=tolerance)
            if memory is not None:
                torch.testing.assert_close(update.memory[i].flatten().double(), memory, rtol=tolerance, atol=tolerance)
            x = x - 0.1 * gradient


def test_the_starts_lead_into_every_case_of_the_formulas():
    conflict, _ = run("conflict", random_starts(12), numbers_of("conflict", 12), steps=1)
    assert 0 < (conflict[0].cosine < 0).sum() < 12
    gcsam, _ = run("gcscoop", random_starts(12), numbers_of("gcscoop", 12), steps=4)
    assert {PLAIN, PROJECTED, PERTURBED} == {b for update in gcsam for b in update.branch.tolist()}


# ---- The configurations at which a rule is another one.

LIMITS = [
    ("sam", {"rho": 0.0}, "plain"),
    ("gcscoop", {"rho": 0.0, "beta1": 0.5, "beta2": 0.8}, "plain"),
    ("gcscoop", {"rho": 0.0, "beta1": 0.0, "beta2": 2.0}, "plain"),
    ("gcscoop", {"rho": 3.0, "beta1": 1.0, "beta2": 0.8}, "plain"),
    ("gcscoop", {"beta1": 0.0, "beta2": -1.0}, "sam"),
    ("asam", {"rho": 0.0}, "plain"),
    ("gsam", {"rho": 0.0, "rho_min": 0.0}, "plain"),
    ("gsam", {"rho": 0.4, "rho_min": 0.4, "alpha": 0.0}, "sam"),
    ("sagm", {"rho": 0.0, "alpha": 0.0}, "plain"),
    ("fsam", {"rho": 0.0}, "plain"),
    ("fsam", {"sigma": 0.0}, "sam"),
    ("gnp", {"rho": 0.0}, "plain"),
    ("gnp", {"alpha": 0.0}, "plain"),
    ("gnp", {"alpha": 1.0}, "sam"),
    ("conflict", {"rho": 0.0}, "plain"),
]


@pytest.mark.parametrize(("rule", "fixed", "becomes"), LIMITS)
def test_a_rule_becomes_its_neighbour_at_its_limit(rule, fixed, becomes):
    start, numbers = random_starts(6), numbers_of(rule, 6, **fixed)
    updates, _ = run(rule, start, numbers)
    neighbours, _ = run(becomes, start, numbers)
    for update, neighbour in zip(updates, neighbours, strict=True):
        torch.testing.assert_close(update.gradient, neighbour.gradient, rtol=1e-5, atol=2e-6)


def test_sample_without_radius_and_offset_is_twice_the_plain_gradient():
    start, numbers = random_starts(6), numbers_of("sample", 6, rho=0.0, alpha=0.0)
    assert torch.equal(step("sample", wells, start, numbers, None).gradient, 2 * wells(start)[1])


@pytest.mark.parametrize("fixed", [{"alpha": 0.0}, {"decay": 0.0}])
def test_sample_without_a_batch_part_adds_the_two_gradients_of_sam(fixed):
    start, numbers = random_starts(6), numbers_of("sample", 6, **fixed)
    sam = step("sam", wells, start, numbers, None).gradient
    for memory in (None, random_starts(12)[6:]):
        update = step("sample", wells, start, numbers, memory)
        torch.testing.assert_close(update.gradient, wells(start)[1] + sam, rtol=1e-5, atol=2e-6)


def test_asam_with_a_large_eta_is_sam_with_a_larger_radius():
    start = random_starts(4, torch.float64)
    ones = torch.ones(4, dtype=torch.float64)
    asam = step("asam", wells, start, {"rho": 0.5e-6 * ones, "eta": 1e6 * ones}, None)
    sam = step("sam", wells, start, {"rho": 0.5 * ones}, None)
    torch.testing.assert_close(asam.gradient, sam.gradient, rtol=1e-5, atol=1e-5)


def test_asam_without_eta_leaves_zero_parameters_unperturbed():
    start = random_starts(1)
    start[0, 0] = 0.0  # a row of zeros, as short words leave in the context
    looked = []

    def watched(parameters):
        looked.append(parameters)
        return wells(parameters)

    step("asam", watched, start, numbers_of("asam", 1, eta=0.0), None)
    assert torch.equal(looked[1][0, 0], torch.zeros(3))
    assert (looked[1][0, 1] != start[0, 1]).all()


def test_conflict_is_sam_where_the_gradients_agree_and_orthogonal_where_not():
    start, numbers = random_starts(12), numbers_of("conflict", 12)
    update, sam = step("conflict", wells, start, numbers, None), step("sam", wells, start, numbers, None)
    agree = sam.cosine >= 0
    assert torch.equal(update.gradient[agree], sam.gradient[agree])
    assert cosine_between(update.gradient, wells(start)[1])[~agree].abs().max() < 1e-5


# ---- What the two rules with a memory carry.


def constant(*rows):
    """A loss whose gradient is `rows`, wherever one looks."""
    gradient = vectors(*rows)
    return lambda parameters: (torch.zeros(len(gradient)), gradient)


def test_friendly_sam_averages_from_its_first_gradient_and_subtracts_the_average_before():
    numbers = {"rho": torch.tensor([0.5]), "sigma": torch.tensor([1.0]), "decay": torch.tensor([0.75])}
    looked, memory, start = [], None, torch.zeros(1, 2)
    for gradient in ([1.0, 0.0], [0.0, 1.0], [0.0, 1.0]):
        fixed = constant(gradient)
        update = step("fsam", lambda x, fixed=fixed: looked.append(x) or fixed(x), start, numbers, memory)
        memory = update.memory
    steps = torch.cat(looked[1::2])
    # g; then g - m with m = (1, 0); then g - m with m = (3/4, 1/4): always along a unit vector times rho.
    torch.testing.assert_close(steps, 0.5 * direction(vectors([1.0, 0.0], [-1.0, 1.0], [-0.75, 0.75])))
    torch.testing.assert_close(memory, vectors([0.5625, 0.4375]))


def test_sample_averages_from_zero_and_subtracts_the_average_with_this_gradient():
    numbers = {"rho": torch.tensor([0.0]), "alpha": torch.tensor([1.0]), "decay": torch.tensor([0.75])}
    looked, memories, memory, start = [], [], None, torch.zeros(1, 2)
    for gradient in ([4.0, 0.0], [0.0, 4.0]):
        fixed = constant(gradient)
        update = step("sample", lambda x, fixed=fixed: looked.append(x) or fixed(x), start, numbers, memory)
        memory = update.memory
        memories.append(memory)
    torch.testing.assert_close(torch.cat(memories), vectors([1.0, 0.0], [0.75, 1.0]))
    # First nothing is orthogonal; then (0, 4) less its part along (3, 4)/5 is (-1.92, 1.44), gone backwards.
    torch.testing.assert_close(torch.cat(looked[1::2]), vectors([0.0, 0.0], [1.92, -1.44]))


# ---- ProGrad.


def test_the_teacher_takes_out_what_opposes_it():
    task = vectors([1.0, 2.0], [1.0, 2.0], [1.0, -2.0], [1.0, -2.0], [1.0, -2.0])
    teacher = vectors([3.0, 0.0], [-3.0, 6.0], [0.0, 5.0], [0.0, 5.0], [0.0, 5.0])
    aligned = align_with_teacher(task, teacher, torch.tensor([1.0, 1.0, 1.0, 0.8, 0.0]))
    expected = vectors([1.0, 2.0], [1.0, 2.0], [1.0, 0.0], [1.0, -0.4], [1.0, -2.0])
    torch.testing.assert_close(aligned, expected)
    assert torch.equal(aligned[[0, 1, 4]], task[[0, 1, 4]])


def test_the_teacher_follows_its_closed_form_over_the_whole_tensor():
    task, teacher = random_starts(8, torch.float64), random_starts(16, torch.float64)[8:]
    strength = torch.linspace(0.0, 1.5, 8, dtype=torch.float64)
    aligned = align_with_teacher(task, teacher, strength)
    opposed = 0
    for a, b, weight, got in zip(task, teacher, strength, aligned, strict=True):
        a, b = a.flatten(), b.flatten()
        opposed += bool(a @ b < 0)
        expected = a - weight * (a @ b) / (b @ b) * b if a @ b < 0 else a
        torch.testing.assert_close(got.flatten(), expected)
    assert 0 < opposed < 8


def test_a_teacher_or_a_task_without_a_gradient_changes_nothing():
    some, zero = vectors([1.0, -2.0]), vectors([0.0, 0.0])
    one = torch.ones(1)
    assert torch.equal(align_with_teacher(some, zero, one), some)
    assert torch.equal(align_with_teacher(zero, some, one), zero)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_teacher_works_at_any_scale(scale):
    task, teacher = vectors([1.0, -2.0]), vectors([1.0, 5.0])
    expected = align_with_teacher(task, teacher, torch.ones(1))
    torch.testing.assert_close(align_with_teacher(task * scale, teacher * scale, torch.ones(1)) / scale, expected)
    torch.testing.assert_close(align_with_teacher(task, teacher * 1e25, torch.ones(1)), expected)


@pytest.mark.parametrize("broken", ["task", "teacher"])
def test_a_broken_gradient_stays_in_its_member_of_prograd(broken):
    pair = {"task": random_starts(3), "teacher": random_starts(6)[3:]}
    strength = torch.tensor([1.0, 0.0, 1.0])
    clean = align_with_teacher(**pair, strength=strength)
    pair[broken] = pair[broken].clone()
    pair[broken][1, 0, 0] = math.nan
    with NothingReadBack():
        spoilt = align_with_teacher(**pair, strength=strength)
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])
    assert not torch.isfinite(spoilt[1]).all()


def test_a_teacher_that_is_only_rounding_noise_says_nothing():
    task = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    teacher = torch.tensor([[-4e-7, 3e-7], [-4e-3, -3e-3]])
    got = align_with_teacher(task, teacher, torch.ones(2))
    assert torch.equal(got[0], task[0])
    torch.testing.assert_close((got[1] * teacher[1]).sum(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert not torch.equal(got[1], task[1])
