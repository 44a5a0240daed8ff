"""The training loop against a slow, plain reference, and members against one another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gcsearch.methods.prompts import prompts
from gcsearch.methods.registry import METHODS
from gcsearch.methods.schedule import learning_rate
from gcsearch.training.loop import Training
from gcsearch.training.population import Member, batches


@pytest.fixture(scope="module")
def episodes(laboratory):
    return laboratory.episodes("search", [1, 2, 3])


def setting(name, **values):
    return METHODS[name].configured(values)


def run(laboratory, members, every=1):
    """Curves (a list of metric dicts) and contexts of members trained together."""
    curves = [[] for _ in members]

    def note(measured):
        for position, one in measured.items():
            curves[position].append(one)

    return curves, Training(laboratory.backbone, members, note, evaluate_every=every).run()


def test_the_schedule_is_the_published_one():
    assert learning_rate(0.002, 1, 200) == 1e-5
    assert learning_rate(0.002, 2, 200) == 0.002
    assert learning_rate(0.002, 200, 200) == pytest.approx(4.934e-7, rel=1e-3)
    assert learning_rate(0.002, 10, 10) == pytest.approx(1.910e-4, rel=1e-3)
    assert learning_rate(0.002, 1, 1) == 1e-5
    # KgCoOp's doubled scheduler: numbers that its author's log prints for T = 100, after the epoch before.
    assert learning_rate(0.002, 92, 100, squared=True) == pytest.approx(1.197732e-06, rel=1e-6)
    assert learning_rate(0.002, 101, 100, squared=True) == pytest.approx(1.217413e-10, rel=1e-6)
    assert learning_rate(0.002, 1, 100, squared=True) == 1e-5


def test_the_last_partial_batch_is_dropped_unless_it_is_the_only_one():
    order = torch.arange(20).reshape(2, 10)
    assert [b.tolist() for b in batches(order, 4)] == [order[:, :4].tolist(), order[:, 4:8].tolist()]
    assert [b.shape[1] for b in batches(order, 5)] == [5, 5]
    assert [b.shape[1] for b in batches(order, 32)] == [10]


def reference(laboratory, member):
    """One member trained alone, step by step, by torch's own SGD and one text forward per class."""
    method, episode, backbone = member.method, member.episode, laboratory.backbone
    prompt, schedule, numbers = method.prompt, method.schedule, method.numbers
    generator = torch.Generator().manual_seed(1_000_003 * (episode.seed + 1))
    classes = len(episode.base.classes)
    context = prompt.start(backbone, classes, generator).requires_grad_()
    shared = prompt.model_copy(update={"class_specific": False})
    optimiser = torch.optim.SGD([context], lr=1.0, momentum=schedule.momentum, weight_decay=schedule.weight_decay)
    tables = [prompts(backbone, shared, [[name]]) for name in episode.named(episode.base)]

    def loss_of(at, images, labels):
        contexts = at if prompt.class_specific else at.expand(classes, -1, -1)
        rows = [table.features(one[None])[0, 0] for table, one in zip(tables, contexts, strict=True)]
        return F.cross_entropy(backbone.tower.logit_scale * images @ torch.stack(rows).T, labels)

    losses = []
    for epoch in range(1, method.epochs + 1):
        optimiser.param_groups[0]["lr"] = method.rate(epoch)
        views = episode.views[(epoch - 1) % len(episode.views)].float()
        order, epoch_losses = torch.randperm(len(episode.labels), generator=generator), []
        for step in range(max(1, len(order) // schedule.batch_size)):
            chosen = order[step * schedule.batch_size : (step + 1) * schedule.batch_size]
            images, labels = views[chosen], episode.labels[chosen]
            loss = loss_of(context, images, labels)
            (plain,) = torch.autograd.grad(loss, context)
            gradient = plain
            if "rho" in numbers:
                moved = (context + numbers["rho"] * plain / (plain.norm() + 1e-12)).detach().requires_grad_()
                (perturbed,) = torch.autograd.grad(loss_of(moved, images, labels), moved)
                gradient = perturbed if method.name == "sam" else choose(plain, perturbed, numbers)
            context.grad = gradient
            optimiser.step()
            epoch_losses.append(loss.item())
        losses.append(sum(epoch_losses) / len(epoch_losses))
    return losses, context.detach()


def choose(y, x, numbers):
    low = numbers["beta1"]
    k = (x * y).sum() / (x.norm() * y.norm())
    if low > 0 and k <= low:
        return y
    if k >= numbers["beta2"]:
        return x
    z = x + y
    return (x * z).sum() / (z * z).sum() * z


SETTINGS = {
    "coop": setting("coop", epochs=6, batch_size=4, lr=0.05),
    "sam": setting("sam", epochs=6, batch_size=4, lr=0.05, rho=0.5),
    "gcscoop": setting("gcscoop", epochs=6, batch_size=4, lr=0.05, rho=0.5, beta1=0.5, beta2=0.9),
    "gcscoop, beta1 off": setting("gcscoop", epochs=6, batch_size=4, lr=0.05, rho=0.5, beta1="off", beta2=0.999),
    "random start": setting("coop", epochs=4, batch_size=32, ctx_init="", n_ctx=2),
    "name first": setting("coop", epochs=4, batch_size=4, lr=0.05, position="front"),
    "name in the middle": setting("sam", epochs=4, batch_size=4, lr=0.05, position="middle", n_ctx=5),
    "class-specific": setting("sam", epochs=4, batch_size=4, lr=0.05, class_specific=True),
    "class-specific, random, middle": setting(
        "coop", epochs=4, batch_size=4, lr=0.05, class_specific=True, position="middle", ctx_init="", n_ctx=3
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_curve_equals_the_plain_reference(laboratory, episodes, name):
    member = Member(SETTINGS[name], episodes[1])
    losses, context = reference(laboratory, member)
    (curve,), (ours,) = run(laboratory, [member])
    assert [one.metrics["loss"] for one in curve] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(ours, context, rtol=1e-3, atol=1e-5)


def test_a_member_is_the_same_alone_and_among_twelve_others(laboratory, episodes):
    ours = Member(setting("gcscoop", epochs=12, batch_size=8, rho=0.3), episodes[0])
    others = [
        Member(setting("gcscoop", epochs=epochs, batch_size=8, rho=rho, beta1=beta1, lr=0.01), episode)
        for epochs, rho, beta1 in ((3, 0.0, 0.5), (12, 1.0, "off"), (7, 0.1, 0.75), (20, 0.05, 0.1))
        for episode in episodes
    ]
    (alone,), (context_alone,) = run(laboratory, [ours])
    curves, contexts = run(laboratory, [*others[:5], ours, *others[5:]])
    assert len(curves[5]) == len(alone) == 12
    for one, other in zip(alone, curves[5], strict=True):
        assert other.metrics == pytest.approx(one.metrics, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(contexts[5], context_alone, rtol=1e-5, atol=1e-5)
    assert [len(curve) for curve in curves[:5]] == [3, 3, 3, 12, 12]


def test_members_that_are_guided_by_different_templates_are_each_as_if_alone(laboratory, episodes):
    method = setting("kgcoop", epochs=4, batch_size=4, lr=0.05, kg_lambda=8.0)
    members = [Member(method, replace(episodes[0], template=one)) for one in ("a photo of a {}.", "art of a {}.")]
    curves, contexts = run(laboratory, members)
    assert not torch.equal(*contexts)
    for member, curve, context in zip(members, curves, contexts, strict=True):
        (alone,), (ours,) = run(laboratory, [member])
        assert [one.metrics["loss"] for one in curve] == pytest.approx([one.metrics["loss"] for one in alone], rel=1e-4)
        torch.testing.assert_close(context, ours, rtol=1e-5, atol=1e-5)


def test_branch_shares_add_up_and_the_cosine_is_one_at_rho_zero(laboratory, episodes):
    members = [Member(setting("gcscoop", epochs=2, rho=rho, beta1=0.5, beta2=0.8), episodes[0]) for rho in (0.0, 3.0)]
    (still, moved), _ = run(laboratory, members)
    for one in (*still, *moved):
        shares = [one.metrics[f"share_{branch}"] for branch in ("plain", "projected", "perturbed")]
        assert sum(shares) == pytest.approx(1.0)
    assert still[-1].metrics["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert still[-1].metrics["share_perturbed"] == 1.0
    assert moved[-1].metrics["cosine"] < 0.999
