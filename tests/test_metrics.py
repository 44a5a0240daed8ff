from __future__ import annotations

import math

import pytest
import torch

from gcsearch.metrics import accuracy, harmonic_mean, spread


def test_harmonic_mean_is_the_published_one():
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.005)  # CoOp's average row
    assert harmonic_mean(69.34, 74.22) == pytest.approx(71.70, abs=0.005)  # zero-shot CLIP's
    assert harmonic_mean(0.0, 80.0) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_accuracy_counts_and_ties_go_to_the_first_class():
    text = torch.eye(3)
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert accuracy(images, text, torch.tensor([0, 1, 0, 1])) == 75.0
    assert accuracy(images[:0], text, torch.tensor([], dtype=torch.long)) == 0.0


def test_spread_over_seeds():
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert spread([5.0]).mean == 5.0
    assert math.isnan(spread([5.0]).deviation)
    assert math.isnan(spread([]).mean)
