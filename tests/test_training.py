"""The training loop against a slow, plain reference, and members against one another."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from gcsearch.methods import METHODS
from gcsearch.prompts import Suffix, context_features, initial_context, suffix
from gcsearch.training import Member, Population, batches, learning_rate, train


@pytest.fixture(scope="module")
def episodes(laboratory):
    return laboratory.episodes("search", [1, 2, 3])


def run(laboratory, members, every=1):
    """Curves (a list of metric dicts) and contexts of members trained together."""
    names = suffix(laboratory.backbone, members[0].episode.names)
    curves = [[] for _ in members]

    def note(measured):
        for position, one in measured.items():
            curves[position].append(one)

    return curves, train(laboratory.backbone, names, members, every, note)


def test_the_schedule_is_the_published_one():
    assert learning_rate(0.002, 1, 200) == 1e-5
    assert learning_rate(0.002, 2, 200) == 0.002
    assert learning_rate(0.002, 200, 200) == pytest.approx(4.934e-7, rel=1e-3)
    assert learning_rate(0.002, 10, 10) == pytest.approx(1.910e-4, rel=1e-3)
    assert learning_rate(0.002, 1, 1) == 1e-5


def test_the_last_partial_batch_is_dropped_unless_it_is_the_only_one():
    order = torch.arange(20).reshape(2, 10)
    assert [b.tolist() for b in batches(order, 4)] == [order[:, :4].tolist(), order[:, 4:8].tolist()]
    assert [b.shape[1] for b in batches(order, 5)] == [5, 5]
    assert [b.shape[1] for b in batches(order, 32)] == [10]


def reference(laboratory, member):
    """One member trained alone, step by step, by torch's own SGD and one text forward per class."""
    method, episode, backbone = member.method, member.episode, laboratory.backbone
    generator = torch.Generator().manual_seed(1_000_003 * (episode.seed + 1))
    context = initial_context(backbone, method.n_ctx, method.ctx_init, generator).requires_grad_()
    optimiser = torch.optim.SGD([context], lr=1.0, momentum=method.momentum, weight_decay=method.weight_decay)
    table = suffix(backbone, episode.names)

    def loss_of(at, images, labels):
        rows = [
            context_features(backbone.tower, at[None], Suffix(table.embeddings[:, [c]], table.eot[:, [c]]))[0, 0]
            for c in episode.base.classes
        ]
        return F.cross_entropy(backbone.tower.logit_scale * images @ torch.stack(rows).T, labels)

    losses = []
    for epoch in range(1, method.epochs + 1):
        optimiser.param_groups[0]["lr"] = learning_rate(method.lr, epoch, method.epochs)
        views = episode.views[(epoch - 1) % len(episode.views)]
        order, epoch_losses = torch.randperm(len(episode.labels), generator=generator), []
        for step in range(max(1, len(order) // method.batch_size)):
            chosen = order[step * method.batch_size : (step + 1) * method.batch_size]
            images, labels = views[chosen], episode.labels[chosen]
            loss = loss_of(context, images, labels)
            (plain,) = torch.autograd.grad(loss, context)
            gradient = plain
            if method.rule != "plain":
                moved = (context + method.rho * plain / (plain.norm() + 1e-12)).detach().requires_grad_()
                (perturbed,) = torch.autograd.grad(loss_of(moved, images, labels), moved)
                gradient = perturbed if method.rule == "sam" else choose(plain, perturbed, method)
            context.grad = gradient
            optimiser.step()
            epoch_losses.append(loss.item())
        losses.append(sum(epoch_losses) / len(epoch_losses))
    return losses, context.detach()


def choose(y, x, method):
    low = 0.0 if method.beta1 == "off" else method.beta1
    k = (x * y).sum() / (x.norm() * y.norm())
    if low > 0 and k <= low:
        return y
    if k >= method.beta2:
        return x
    z = x + y
    return (x * z).sum() / (z * z).sum() * z


SETTINGS = {
    "coop": METHODS["coop"](epochs=6, batch_size=4, lr=0.05),
    "sam": METHODS["sam"](epochs=6, batch_size=4, lr=0.05, rho=0.5),
    "gcscoop": METHODS["gcscoop"](epochs=6, batch_size=4, lr=0.05, rho=0.5, beta1=0.5, beta2=0.9),
    "gcscoop, beta1 off": METHODS["gcscoop"](epochs=6, batch_size=4, lr=0.05, rho=0.5, beta1="off", beta2=0.999),
    "random start": METHODS["coop"](epochs=4, batch_size=32, ctx_init="", n_ctx=2),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_curve_equals_the_plain_reference(laboratory, episodes, name):
    member = Member(SETTINGS[name], episodes[1])
    losses, context = reference(laboratory, member)
    (curve,), (ours,) = run(laboratory, [member])
    assert [one.metrics["loss"] for one in curve] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(ours, context, rtol=1e-3, atol=1e-5)
    assert losses[-1] < losses[0]


def test_a_member_is_the_same_alone_and_among_twelve_others(laboratory, episodes):
    ours = Member(METHODS["gcscoop"](epochs=12, batch_size=8, rho=0.3), episodes[0])
    others = [
        Member(METHODS["gcscoop"](epochs=epochs, batch_size=8, rho=rho, beta1=beta1, lr=0.01), episode)
        for epochs, rho, beta1 in ((3, 0.0, 0.5), (12, 1.0, "off"), (7, 0.1, 0.9), (20, 0.05, 0.1))
        for episode in episodes
    ]
    (alone,), (context_alone,) = run(laboratory, [ours])
    curves, contexts = run(laboratory, [*others[:5], ours, *others[5:]])
    assert len(curves[5]) == len(alone) == 12
    for one, other in zip(alone, curves[5], strict=True):
        assert other.metrics == pytest.approx(one.metrics, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(contexts[5], context_alone, rtol=1e-5, atol=1e-5)
    assert [len(curve) for curve in curves[:5]] == [3, 3, 3, 12, 12]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (METHODS["sam"](rho=0.0, epochs=5), METHODS["coop"](epochs=5)),
        (METHODS["gcscoop"](rho=0.0, epochs=5), METHODS["coop"](epochs=5)),
        (METHODS["gcscoop"](rho=0.7, beta1=1.0, epochs=5), METHODS["coop"](epochs=5)),
        (METHODS["gcscoop"](rho=0.7, beta1="off", beta2=-1.0, epochs=5), METHODS["sam"](rho=0.7, epochs=5)),
    ],
)
def test_methods_become_one_another_at_their_limits(laboratory, episodes, one, other):
    (curve, expected), (context, context_expected) = run(
        laboratory, [Member(one, episodes[0]), Member(other, episodes[0])]
    )
    assert [m.metrics["loss"] for m in curve] == pytest.approx([m.metrics["loss"] for m in expected], rel=1e-5)
    torch.testing.assert_close(context, context_expected, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_bits(laboratory, episodes):
    members = [Member(SETTINGS["gcscoop"], episode) for episode in episodes]
    (first, bits), (second, same) = run(laboratory, members), run(laboratory, members)
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(bits, same, strict=True))
    assert not torch.equal(bits[0], bits[1])


def test_a_diverging_member_ends_as_such_and_leaves_the_others_bit_identical(laboratory, episodes, monkeypatch):
    settings = [METHODS["sam"](epochs=5, batch_size=8, rho=rho) for rho in (0.1, 0.2, 0.3)]
    members = [Member(setting, episodes[0]) for setting in settings]
    healthy, contexts = run(laboratory, members)
    gradients = Population.gradients

    def poisoned(self, context, images, labels):
        loss, gradient = gradients(self, context, images, labels)
        if self.epoch == 3:
            gradient = gradient.clone()
            gradient[1] = math.nan
        return loss, gradient

    monkeypatch.setattr(Population, "gradients", poisoned)
    curves, after = run(laboratory, members)
    assert [one.epoch for one in curves[1]] == [1, 2, 3]
    assert [one.diverged for one in curves[1]] == [False, False, True]
    assert torch.isfinite(after[1]).all()
    for i in (0, 2):
        assert curves[i] == healthy[i]
        assert torch.equal(after[i], contexts[i])


def test_frozen_weights_stay_untouched(laboratory, episodes):
    from gcsearch.backbone import fingerprint

    before = fingerprint(laboratory.backbone.model)
    run(laboratory, [Member(SETTINGS["sam"], episodes[0])])
    assert fingerprint(laboratory.backbone.model) == before


def test_branch_shares_add_up_and_the_cosine_is_one_at_rho_zero(laboratory, episodes):
    members = [Member(METHODS["gcscoop"](epochs=2, rho=rho, beta1=0.5, beta2=0.8), episodes[0]) for rho in (0.0, 3.0)]
    (still, moved), _ = run(laboratory, members)
    for one in (*still, *moved):
        shares = [one.metrics[f"share_{branch}"] for branch in ("plain", "projected", "perturbed")]
        assert sum(shares) == pytest.approx(1.0)
    assert still[-1].metrics["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert still[-1].metrics["share_perturbed"] == 1.0
    assert moved[-1].metrics["cosine"] < 0.999
