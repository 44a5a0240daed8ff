"""What every method keeps to, with every gradient rule: the one contract."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from gcsearch.clip.model import fingerprint
from gcsearch.methods.registry import METHODS
from gcsearch.training.loop import Training
from gcsearch.training.population import Member, Population, _Sums
from tests.support.methods import NothingReadBack, setting

WITHOUT_RULE = [name for name, method in METHODS.items() if method.trains and "rule" not in method.kinds]
PARTS = (*WITHOUT_RULE, "cocoop+kgcoop+prograd+subpt+nfl")
RULES = ("", *(name for name, method in METHODS.items() if method.kinds == ("rule",)))
EVERY = [
    "+".join(part for part in (parts, rule) if part and not (part == "coop" and rule))
    for parts in PARTS
    for rule in RULES
]
SHAPES = ({"class_specific": True}, {"position": "front"}, {"position": "middle"}, {"ctx_init": "", "n_ctx": 16})


def run(laboratory, members, limit=None):
    """Curves and last parameters of members trained together."""
    curves = [[] for _ in members]

    def note(measured):
        for position, one in measured.items():
            curves[position].append(one)

    return curves, Training(laboratory.backbone, members, note, limit=limit).run()


@pytest.fixture(scope="module")
def episodes(laboratory):
    return laboratory.episodes("search", [1, 2, 3])


def equal(one, other):
    """Bit-identical curves and parameters."""
    return one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_every_method_with_every_rule(laboratory, episodes, name):
    """Same seed, same bits; a member alone and in a crowd; losses that are finite and go down at last."""
    ours = Member(setting(name), episodes[1])
    crowd = [Member(setting(name, lr=0.005), episodes[0]), ours, Member(setting(name, rho=0.3, epochs=4), episodes[2])]
    (curve,), (alone,) = run(laboratory, [ours])
    assert equal(run(laboratory, [ours]), ([curve], [alone]))
    curves, ended = run(laboratory, crowd)
    # Up to rounding; a direction out of three checkpoints turns a little with it.
    apart = 1e-4 if "subpt" in name else 1e-5
    torch.testing.assert_close(ended[1], alone, rtol=1e-4, atol=apart)
    for one, other in zip(curve, curves[1], strict=True):
        assert not one.diverged
        # A cosine near 0 shows their rounding most: 1.2e-4 was seen.
        assert other.metrics == pytest.approx(one.metrics, rel=1e-3, abs=100 * apart)
    assert not torch.equal(ended[0], alone)
    assert [len(one) for one in curves] == [3, 3, 4]


@pytest.mark.parametrize("name", EVERY)
def test_a_broken_member_leaves_the_others_bit_identical_and_a_checkpoint_goes_on(laboratory, episodes, name):
    members = [Member(setting(name), episode) for episode in episodes]
    healthy, saved, broken = (Population(laboratory.backbone, members) for _ in range(3))
    for population in (healthy, saved, broken):
        population.train_epoch()
    state = safetensors.torch.load(safetensors.torch.save(saved.state()))
    resumed = Population(laboratory.backbone, members)
    resumed.restore(state)
    broken.parameters[1] = torch.nan
    for population in (healthy, resumed, broken):
        numbers = [population.train_epoch() for _ in range(2)]
    expected = healthy.evaluate()
    assert resumed.evaluate() == expected
    assert torch.equal(resumed.parameters, healthy.parameters)
    assert torch.equal(resumed.velocity, healthy.velocity)
    assert numbers[-1]
    assert broken.alive.tolist() == [True, False, True]
    assert torch.equal(broken.parameters[[0, 2]], healthy.parameters[[0, 2]])
    scores = broken.evaluate()
    assert [scores[0], scores[2]] == [expected[0], expected[2]]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zeroshot"])
def test_no_step_waits_for_a_number(laboratory, episodes, name):
    """Nothing inside an epoch is read back, which on a GPU would stop it until all before is done."""
    population = Population(laboratory.backbone, [Member(setting(name), episode) for episode in episodes])
    population.train_epoch()  # lays out the class texts, runs SubPT's probe
    images = torch.stack([episode.views[0][:4].float() for episode in episodes])
    labels = population.labels[:, :4]
    with NothingReadBack():
        population._step(images, labels, torch.full((3,), 0.01), _Sums(3, images.device))
    assert population.alive.all()


def test_frozen_weights_stay_untouched(laboratory, episodes):
    before = fingerprint(laboratory.backbone.model)
    for name in METHODS:
        if name != "zeroshot":
            run(laboratory, [Member(setting(name, epochs=3), episodes[0])])
    assert fingerprint(laboratory.backbone.model) == before


@pytest.mark.parametrize("values", SHAPES, ids=str)
def test_every_shape_of_prompt_is_the_same_alone_and_in_a_crowd(laboratory, episodes, values):
    method = setting("gcscoop", epochs=8, rho=0.02, **values)
    _, (alone,) = run(laboratory, [Member(method, episodes[0])])
    _, ended = run(laboratory, [Member(method, episode) for episode in reversed(episodes)])
    torch.testing.assert_close(ended[2], alone, rtol=1e-4, atol=1e-5)


def test_class_specific_vectors_are_measured_on_their_own_classes_only(laboratory, episodes):
    (curve,), (ended,) = run(laboratory, [Member(setting("coop", class_specific=True), episodes[0])])
    assert ended.shape == (len(episodes[0].base.classes), 4, laboratory.backbone.tower.width)
    assert [key for key in curve[-1].metrics if key.startswith("val")] == ["val_base_acc", "val_base_margin"]


# --- Limits: where a method becomes another one ---------------------------------------------------------

LIMITS = [
    ("sam", {"rho": 0.0}, "coop", {}),
    ("gcscoop", {"rho": 0.0}, "coop", {}),
    ("gcscoop", {"rho": 0.7, "beta1": 1.0, "beta2": 1.0}, "coop", {}),
    ("gcscoop", {"rho": 0.7, "beta1": "off", "beta2": -1.0}, "sam", {"rho": 0.7}),
    ("asam", {"rho": 0.0}, "coop", {}),
    ("gsam", {"rho": 0.0}, "coop", {}),
    ("gsam", {"rho": 0.3, "alpha": 0.0}, "sam", {"rho": 0.3}),
    ("sagm", {"rho": 0.0, "alpha": 0.0}, "coop", {}),
    ("fsam", {"rho": 0.0}, "coop", {}),
    ("fsam", {"rho": 0.3, "sigma": 0.0}, "sam", {"rho": 0.3}),
    ("gnp", {"rho": 0.3, "alpha": 0.0}, "coop", {}),
    ("gnp", {"rho": 0.3, "alpha": 1.0}, "sam", {"rho": 0.3}),
    ("conflict", {"rho": 0.0}, "coop", {}),
    ("kgcoop", {"kg_lambda": 0.0}, "coop", {}),
    ("prograd", {"prograd_lambda": 0.0}, "coop", {}),
    ("nfl", {"nfl_lambda": 0.0}, "coop", {}),
    ("subpt+nfl", {"nfl_lambda": 0.0}, "subpt", {}),
    ("kgcoop+gcscoop", {"kg_lambda": 0.0, "rho": 0.4}, "gcscoop", {"rho": 0.4}),
    ("kgcoop+gcscoop", {"rho": 0.0}, "kgcoop", {}),
    ("subpt+gcscoop", {"rho": 0.0}, "subpt", {}),
    ("cocoop+sam", {"rho": 0.0}, "cocoop", {}),
    (
        "gcscoop",
        {"position": "middle", "n_ctx": 1, "ctx_init": "a"},
        "gcscoop",
        {"position": "front", "n_ctx": 1, "ctx_init": "a"},
    ),
]


@pytest.mark.parametrize(("one", "values", "other", "like"), LIMITS, ids=lambda part: str(part))
def test_a_method_becomes_another_at_its_limit(laboratory, episodes, one, values, other, like):
    short = {"epochs": 5, "batch_size": 4}
    members = [
        Member(setting(one, **short, **values), episodes[0]),
        Member(setting(other, **short, **like), episodes[0]),
    ]
    (curve, expected), (ended, aim) = run(laboratory, members)
    assert [m.metrics["loss"] for m in curve] == pytest.approx([m.metrics["loss"] for m in expected], rel=1e-4)
    torch.testing.assert_close(ended, aim, rtol=1e-3, atol=1e-5)


def test_subpt_of_full_rank_is_coop(laboratory, episodes):
    """One context vector has 64 numbers; 70 checkpoints span them all."""
    width = laboratory.backbone.tower.width
    one = {"n_ctx": 1, "ctx_init": "", "epochs": 70, "batch_size": 2, "lr": 0.5, "weight_decay": 0.0, "momentum": 0.0}
    members = [
        Member(setting("subpt", **one, probe_epochs=70, rank=width), episodes[0]),
        Member(setting("coop", **one), episodes[0]),
    ]
    (curve, expected), _ = run(laboratory, members)
    assert [m.metrics["loss"] for m in curve[:20]] == pytest.approx(
        [m.metrics["loss"] for m in expected[:20]], rel=1e-3
    )
