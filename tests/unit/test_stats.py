from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gcsearch.stats import (
    BINS,
    Calibration,
    Score,
    accuracy,
    calibration_error,
    harmonic_mean,
    lost_margin,
    number,
    p_value,
    plus_minus,
    spread,
    t_interval,
)


def test_harmonic_mean_is_the_published_one():
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.005)  # CoOp's average row
    assert harmonic_mean(69.34, 74.22) == pytest.approx(71.70, abs=0.005)  # zero-shot CLIP's
    assert harmonic_mean(0.0, 80.0) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_accuracy_counts_and_ties_go_to_the_first_class():
    text = torch.eye(3)
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert accuracy(images, text, torch.tensor([0, 1, 0, 1])) == 75.0
    assert math.isnan(accuracy(images[:0], text, torch.tensor([], dtype=torch.long)))


def test_the_lost_margin_counts_wrong_images_alone_by_how_far_they_are_from_right():
    text, images = torch.eye(3), torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.8, 0.0], [0.6, 0.6, 0.0], [0.0, 0.3, 0.7]])
    labels = torch.tensor([0, 0, 0, 1])
    # ahead by 0.7, behind by 0.3, a tie, behind by 0.4
    assert lost_margin(images, text, labels) == pytest.approx(-1000 * (0.3 + 0.4) / 4)
    assert lost_margin(images, text.expand(4, 3, 3), labels) == pytest.approx(lost_margin(images, text, labels))
    assert lost_margin(images[:1], text, labels[:1]) == 0.0
    assert lost_margin(images[:1], text[:1], labels[:1]) == 0.0  # of one class none is wrong
    assert math.isnan(lost_margin(images[:0], text, labels[:0]))  # and not perfect


def test_the_lost_margin_is_zero_exactly_where_all_are_right():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        images, text = torch.randn(6, 4, generator=generator), torch.randn(3, 4, generator=generator)
        labels = torch.randint(3, (6,), generator=generator)
        assert (lost_margin(images, text, labels) == 0) == (accuracy(images, text, labels) == 100)


def test_a_score_in_parts_is_that_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    images, text = torch.randn(10, 4, generator=generator), torch.randn(3, 4, generator=generator)
    labels = torch.randint(3, (10,), generator=generator)
    parts = [(len(n), Score.of(i, text, n)) for i, n in zip(images.split(4), labels.split(4), strict=True)]
    assert Score.pooled(parts) == pytest.approx(Score.of(images, text, labels))


def test_spread_over_seeds():
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert spread([5.0]).mean == 5.0
    assert math.isnan(spread([5.0]).deviation)
    assert math.isnan(spread([]).mean)


def test_the_interval_is_students_and_covers_the_mean_as_often_as_it_says():
    assert t_interval([1.0]) is None
    assert t_interval([1.0, math.nan]) is None
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5))
    draws = np.random.default_rng(0).normal(5, 2, (2000, 4))
    covered = sum(low <= 5 <= high for low, high in map(t_interval, draws.tolist()))
    assert 0.935 < covered / 2000 < 0.965


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (10.0, "10.00", "+10.00"),
        (-20.004, "-20.00", "-20.00"),
        (1.005, "1.00", "+1.00"),
        (-0.004, "0.00", "0.00"),
        (0.0, "0.00", "0.00"),
        (math.nan, "-", "-"),
        (-math.inf, "-", "-"),
    ],
)
def test_numbers_have_two_decimals_and_zero_no_sign(value, plain, signed):
    assert (number(value), number(value, signed=True)) == (plain, signed)


def test_a_mean_has_its_deviation_where_there_is_one():
    assert plus_minus(spread([80.0, 81.0])) == "80.50 ± 0.71"
    assert plus_minus(spread([80.0])) == "80.00"
    assert plus_minus(spread([])) == plus_minus(spread([80.0, math.nan])) == "-"


def test_a_p_that_rounds_to_nothing_is_said_to_be_small():
    assert [p_value(p) for p in (0.0625, 0.25, 1.0, 0.0001, math.nan)] == ["0.062", "0.250", "1.000", "<0.001", ""]


# --- Calibration


def test_calibration_of_planted_probabilities():
    """Of 100 images told with confidence 0.85 sixty are right: 25 points too sure, and the likelihood of just that."""
    logits = torch.tensor([math.log(0.85), math.log(0.15)]).repeat(100, 1)
    labels = torch.tensor([0] * 60 + [1] * 40)
    found = Calibration.of(logits, labels)
    assert found.ece == pytest.approx(25.0, abs=1e-4)
    assert found.nll == pytest.approx(-(0.6 * math.log(0.85) + 0.4 * math.log(0.15)), abs=1e-6)
    count, right, sure = found.bins
    assert (count[12], right[12], sure[12]) == (100, 60, pytest.approx(85.0, abs=1e-4))
    assert sum(count) == 100 and len(count) == BINS == 15


def test_what_is_as_sure_as_it_is_right_has_no_error():
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    assert Calibration.of(logits, labels).ece < 1.5
    assert Calibration.of(4 * logits, labels).ece > 10.0


def test_calibration_is_pooled_over_parts_and_left_out_without_a_scale():
    draw = torch.Generator().manual_seed(1)
    images, text = (torch.randn(n, 8, generator=draw) for n in (10, 3))
    labels = torch.randint(3, (10,), generator=draw)
    whole = Score.of(images, text, labels, 2.0)
    parts = [(len(n), Score.of(i, text, n, 2.0)) for i, n in zip(images.split(4), labels.split(4), strict=True)]
    pooled = Score.pooled(parts)
    assert pooled.calibration.ece == pytest.approx(whole.calibration.ece, abs=1e-3)
    assert pooled.calibration.nll == pytest.approx(whole.calibration.nll)
    assert Score.of(images, text, labels).calibration is None
    assert math.isnan(calibration_error(((0.0,) * 15,) * 3))
