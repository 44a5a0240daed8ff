"""The terms of the loss against their formulas, written out member by member."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gcsearch.methods.losses import NovelNames, Teacher, TrainingLoss, ZeroShotGuidance

P, B, C, A, E = 3, 5, 4, 2, 8
SCALE = 30.0


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def batch():
    labels = torch.randint(C, (P, B), generator=torch.Generator().manual_seed(9))
    return unit(P, C + A, E, seed=1), unit(P, B, E, seed=2), labels


def cross_entropy(text, images, labels):
    return F.cross_entropy(SCALE * images @ text[:C].T, labels)


def test_without_terms_it_is_cross_entropy(batch):
    text, images, labels = batch
    losses = TrainingLoss(SCALE, C, {})(text[:, :C], images, labels)
    assert losses.teacher is None
    expected = torch.stack([cross_entropy(*one) for one in zip(*batch, strict=True)])
    torch.testing.assert_close(losses.total, expected)


def test_kgcoop_adds_the_mean_distance_to_the_zero_shot_features(batch):
    text, images, labels = batch
    anchors, weight = unit(P, C, E, seed=3), torch.tensor([8.0, 1.0, 0.0])
    got = TrainingLoss(SCALE, C, {"kg_lambda": weight}, [(ZeroShotGuidance(), anchors)])(
        text[:, :C], images, labels
    ).total
    for p in range(P):
        distance = 1 - torch.stack([F.cosine_similarity(text[p, c], anchors[p, c], dim=0) for c in range(C)]).mean()
        torch.testing.assert_close(got[p], cross_entropy(text[p], images[p], labels[p]) + weight[p] * distance)


def test_nfl_looks_at_the_other_names_and_predicts_among_the_trained_ones(batch):
    text, images, labels = batch
    anchors, weight = unit(P, A, E, seed=4), torch.tensor([1.0, 2.0, 0.5])
    got = TrainingLoss(SCALE, C, {"nfl_lambda": weight}, [(NovelNames(), anchors)])(text, images, labels).total
    for p in range(P):
        distance = 1 - F.cosine_similarity(text[p, C:], anchors[p], dim=1).mean()
        torch.testing.assert_close(got[p], cross_entropy(text[p], images[p], labels[p]) + weight[p] * distance)


def test_the_teachers_loss_is_the_divergence_from_its_predictions_up_to_a_constant(batch):
    text, images, labels = batch
    known, temperature = unit(P, C, E, seed=5), torch.tensor([1.0, 2.0, 4.0])
    at = text[:, :C].clone().requires_grad_()
    losses = TrainingLoss(SCALE, C, {"temperature": temperature}, teacher=(Teacher(), known))(at, images, labels)
    (got,) = torch.autograd.grad(losses.teacher.sum(), at)
    again = text[:, :C].clone().requires_grad_()
    divergence = sum(
        temperature[p] ** 2
        * F.kl_div(
            (SCALE * images[p] @ again[p].T / temperature[p]).log_softmax(-1),
            (SCALE * images[p] @ known[p].T / temperature[p]).softmax(-1),
            reduction="batchmean",
        )
        for p in range(P)
    )
    (expected,) = torch.autograd.grad(divergence, again)
    torch.testing.assert_close(got, expected)


def test_text_that_depends_on_the_image_is_compared_with_its_own_image(batch):
    _, images, labels = batch
    own = unit(P, B, C, E, seed=6)
    anchors = unit(P, C, E, seed=7)
    loss = TrainingLoss(SCALE, C, {"kg_lambda": torch.ones(P)}, [(ZeroShotGuidance(), anchors)])
    got = loss(own, images, labels).total
    for p in range(P):
        logits = torch.stack([SCALE * own[p, b] @ images[p, b] for b in range(B)])
        distance = torch.stack([1 - F.cosine_similarity(own[p, b], anchors[p], dim=1).mean() for b in range(B)]).mean()
        torch.testing.assert_close(got[p], F.cross_entropy(logits, labels[p]) + distance)


def test_a_part_of_the_members_has_their_numbers(batch):
    text, images, labels = batch
    numbers = {"kg_lambda": [8.0, 1.0, 0.0], "nfl_lambda": [1.0, 2.0, 0.5], "temperature": [1.0, 2.0, 4.0]}
    loss = TrainingLoss(
        SCALE,
        C,
        {name: torch.tensor(values) for name, values in numbers.items()},
        [(ZeroShotGuidance(), unit(P, C, E, seed=3)), (NovelNames(), unit(P, A, E, seed=4))],
        (Teacher(), unit(P, C, E, seed=5)),
    )
    whole = loss(text, images, labels)
    for members in (slice(1, 3), torch.tensor([2, 0])):
        part = loss.part(members)(text[members], images[members], labels[members])
        torch.testing.assert_close(part.total, whole.total[members])
        torch.testing.assert_close(part.teacher, whole.teacher[members])
