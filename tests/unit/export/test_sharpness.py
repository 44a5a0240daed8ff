"""Sharpness and curvature where the answer is known, then through the text tower."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.config.trials import TrialConfig
from gcsearch.driver import exports
from gcsearch.errors import InputError
from gcsearch.export import loss_landscape, sharpness
from gcsearch.export.bundle import write
from gcsearch.export.classifier import load_export
from gcsearch.export.sharpness import curvature, heights, hessian_product, random_plane, slope
from gcsearch.methods.prompts import Pieces, prompts
from gcsearch.methods.registry import build
from gcsearch.results.report.loss_landscape import LossSurface, draw_loss, limits
from gcsearch.training.population import Member, Population, _prompted
from tests.support.exports import KINDS, a_champion
from tests.support.schema import check

EIGENVALUES = torch.tensor([5.0, 2.0, 1.0, -0.5, -9.0, 0.3], dtype=torch.float64)
TURN = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
HESSIAN = TURN @ EIGENVALUES.diag() @ TURN.T
ORIGIN = torch.zeros(2, 3, dtype=torch.float64)


def quadratic(hessian, slant=None):
    """x H x / 2 + b x over points [P, 2, 3]."""

    def loss(points):
        flat = points.flatten(1)
        return (flat @ hessian * flat).sum(1) / 2 + (0 if slant is None else flat @ slant)

    return loss


def generator():
    return torch.Generator().manual_seed(3)


def test_slope_and_hessian_of_a_quadratic():
    slant = torch.arange(6, dtype=torch.float64)
    points = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator())
    value, gradient = slope(quadratic(HESSIAN, slant), points)
    torch.testing.assert_close(gradient.flatten(1), points.flatten(1) @ HESSIAN + slant)
    torch.testing.assert_close(value, quadratic(HESSIAN, slant)(points))
    products = hessian_product(quadratic(HESSIAN, slant), points[0], points)
    torch.testing.assert_close(products.flatten(1), points.flatten(1) @ HESSIAN)


def test_the_largest_eigenvalues_are_found_beside_a_more_negative_one():
    found = curvature(quadratic(HESSIAN), ORIGIN, generator(), count=2, tolerance=1e-10)
    assert found.values == pytest.approx([5.0, 2.0], rel=1e-8)
    for index in range(2):
        assert abs(float(found.vectors[index].flatten() @ TURN[:, index])) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_the_sharpness_of_a_minimum_is_half_the_largest_eigenvalue_times_rho_squared(rho):
    convex = TURN @ EIGENVALUES.abs().diag() @ TURN.T
    starts = torch.randn(3, 2, 3, dtype=torch.float64, generator=generator())
    found = sharpness.sharpness(quadratic(convex), ORIGIN, rho, starts, steps=60)
    assert found == pytest.approx(9.0 / 2 * rho**2, rel=1e-6)


def test_the_sharpness_of_a_slope_and_of_a_bowl_off_its_centre():
    slant = torch.arange(6, dtype=torch.float64)
    none = torch.zeros(0, 2, 3, dtype=torch.float64)
    plain = sharpness.sharpness(quadratic(torch.zeros_like(HESSIAN), slant), ORIGIN, 0.2, none)
    assert plain == pytest.approx(0.2 * float(slant.norm()))
    round_bowl = 4.0 * torch.eye(6, dtype=torch.float64)
    bowl = sharpness.sharpness(quadratic(round_bowl, slant), ORIGIN, 0.2, none)
    assert bowl == pytest.approx(0.2 * float(slant.norm()) + 4.0 / 2 * 0.2**2)


def test_a_top_has_no_sharpness_and_a_flat_loss_none():
    top = quadratic(-torch.eye(6, dtype=torch.float64))
    starts = torch.randn(1, 2, 3, dtype=torch.float64, generator=generator())
    assert sharpness.sharpness(top, ORIGIN, 0.3, starts) == 0
    assert sharpness.sharpness(quadratic(0 * HESSIAN), ORIGIN, 0.3, starts) == 0


def test_heights_are_the_loss_at_true_distances_in_the_plane():
    plane = random_plane(ORIGIN, generator())
    torch.testing.assert_close(plane.flatten(1) @ plane.flatten(1).T, torch.eye(2, dtype=torch.float64))
    steps = torch.linspace(-1, 1, 5)
    found = heights(quadratic(torch.eye(6, dtype=torch.float64)), ORIGIN, plane, steps, at_once=7)
    expected = (steps[:, None] ** 2 + steps[None] ** 2) / 2
    torch.testing.assert_close(found.float(), expected)
    tilted = heights(quadratic(0 * HESSIAN, plane[0].flatten()), ORIGIN, plane, steps)
    torch.testing.assert_close(tilted.float(), steps.expand(5, 5))  # the first direction runs along a row


# --- Through the text tower -----------------------------------------------------------------------------


METHODS = {
    "gcscoop": {},
    "cocoop": {},
    "coop": {"class_specific": True},
    "kgcoop": {"kg_lambda": 4.0},
    "subpt+nfl": {"nfl_names": "transductive"},
}


@pytest.mark.parametrize("method", METHODS)
def test_differentiating_twice_agrees_with_differences_of_the_hand_written_gradient(at_home, method):
    built = build(TrialConfig(method=method, hyperparameters=METHODS[method]))
    (episode,) = at_home.episodes("test", [4])
    images, labels = loss_landscape._images(episode, conditional=method == "cocoop")
    twice = replace(at_home.backbone, tower=replace(at_home.backbone.tower, twice=True))
    exact, engine = (Population(one, [Member(built, episode)]) for one in (twice, at_home.backbone))
    loss = loss_landscape._loss(exact, images, labels)
    point = exact.parameters[0]
    value, gradient = engine.gradients(point[None], images[None], labels[None])
    mine = slope(loss, point[None])
    torch.testing.assert_close(mine.value, value)
    torch.testing.assert_close(mine.gradient, gradient, rtol=1e-3, atol=1e-5)
    direction = torch.randn(point.shape, generator=generator())
    direction /= direction.norm()
    reach = 3e-3
    ends = [engine.gradients((point + s * reach * direction)[None], images[None], labels[None])[1][0] for s in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * reach)
    product = hessian_product(loss, point, direction[None])[0]
    assert float((product - difference).norm() / product.norm()) < 0.05
    if method != "cocoop":  # where not all classes fit at once, pieces of them are encoded, and encoded again
        table = prompts(twice, built.prompt, [_prompted(exact.members[0])], Pieces(classes=3))
        exact.parts[0] = replace(exact.parts[0], prompts=table)
        again = hessian_product(loss_landscape._loss(exact, images, labels), point, direction[None])[0]
        assert float((product - again).norm() / product.norm()) < 1e-4


def test_an_export_is_measured_and_drawn(at_home, tmp_path, monkeypatch):
    monkeypatch.setattr("gcsearch.training.loading.laboratory", lambda task: at_home)
    folder = write(tmp_path / "best", a_champion(at_home, "gcscoop", KINDS["gcscoop"]), at_home)
    export = load_export(folder)
    found = loss_landscape.loss_landscapes(export)
    numbers = loss_landscape.survey(export, found, 0.2)
    check(numbers.dump(), "gcsearch landscape --json")
    assert [one.seed for one in numbers.seeds] == [4, 5]
    for one in numbers.seeds:
        assert one.images == 2 * 4 * 4  # views, classes, shots
        # A ball of radius rho holds SAM's point, and the rise there is at least that of the tangent where it is convex.
        assert one.sharpness > 0.2 * one.gradient_norm * 0.9
        assert one.eigenvalue > 0

    (alone,) = loss_landscape.loss_landscapes(export, [5], draw=1)
    surface = alone.surface(0.2, "random", cells=5)
    assert surface.heights[2][2] == pytest.approx(numbers.seeds[1].loss, rel=1e-5)
    assert surface.steps[0] == pytest.approx(-loss_landscape.REACH * 0.2)
    page = exports.explore(folder, tmp_path / "l.html", seed=4, rho=0.2)
    assert page.seeds == numbers.seeds[:1]  # measured anew, with the same directions: the same digits
    assert "://" not in (tmp_path / "l.html").read_text().split("<script>")[0]
    exports.explore(folder, tmp_path / "l.png", seed=5, rho=0.2, random=True)
    with Image.open(tmp_path / "l.png") as picture:
        assert picture.size[0] > picture.size[1] > 500
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_what_has_no_loss_around_it_is_refused(at_home, tmp_path):
    export = load_export(write(tmp_path / "zs", a_champion(at_home, "zeroshot", {}), at_home))
    with pytest.raises(InputError, match="zero-shot CLIP trains nothing"):
        loss_landscape.loss_landscapes(export)
    with pytest.raises(InputError, match="--rho: a radius must be above 0, got 0"):
        loss_landscape.radius(export, 0.0)
    assert loss_landscape.radius(export, None) == 0.1
    with pytest.raises(InputError, match=r"--out: a picture is a .html or a .png file, got .*l.pdf"):
        exports.check_picture(tmp_path / "l.pdf")


def test_the_picture_shows_the_ball_and_one_scale_for_all():
    surfaces = [
        LossSurface(f"seed {seed}", ("a", "b"), [-1.0, 0.0, 1.0], [[seed, 2.0, 3.0]] * 3, rho=0.5)
        for seed in (1.0, 7.0)
    ]
    assert limits(surfaces) == (1.0, 7.0)
    contour, ball, prompt = draw_loss(surfaces[0].to_frame(), surfaces[0], 1.0, 7.0).data
    assert (contour.contours.start, contour.contours.end) == (1.0, 7.0)
    assert all(math.hypot(x, y) == pytest.approx(0.5) for x, y in zip(ball.x, ball.y, strict=True))
    assert (prompt.x, prompt.y) == ((0,), (0,))
