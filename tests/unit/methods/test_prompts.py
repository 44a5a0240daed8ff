"""From what is trained to text features: start values, positions, CoCoOp's network, ensembles, pieces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gcsearch.errors import InputError
from gcsearch.methods.prompts import ENSEMBLE, ConditionalContext, Context, Pieces, prompts, template_features

NAMES = ["dog", "tiny yellow cat", "old_horse", "snowy white owl"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cocoop(backbone, members=2, seed=0):
    """CoCoOp's parameters with a meta-net far from zero."""
    context = ConditionalContext(n_ctx=3, ctx_init="")
    stacked = torch.stack([context.start(backbone, 4, generator(seed + i)) for i in range(members)])
    return context, stacked


def images(*shape, seed=5):
    return F.normalize(torch.randn(*shape, generator=generator(seed)), dim=-1)


def test_cocoops_features_and_gradient_equal_a_loop_over_images(backbone):
    context, parameters = cocoop(backbone)
    batch = images(2, 3, backbone.embedding_size)
    parameters.requires_grad_()
    got = prompts(backbone, context, [NAMES]).features(parameters, batch)
    weights = torch.randn(got.shape, generator=generator(7))
    (gradient,) = torch.autograd.grad((got * weights).sum(), parameters)
    plain = Context(n_ctx=3, ctx_init="")
    for member in range(2):
        at = parameters[member].detach().clone().requires_grad_()
        tensors = context.named(backbone, at)
        first, second = nn.Linear(32, 2), nn.Linear(2, 64)
        shape = {"linear1": first, "linear2": second}
        assert {name for name in tensors if name != "ctx"} == {
            f"meta_net.{layer}.{kind}" for layer in shape for kind in ("weight", "bias")
        }
        for b in range(3):
            hidden = F.relu(
                F.linear(batch[member, b], tensors["meta_net.linear1.weight"], tensors["meta_net.linear1.bias"])
            )
            shift = F.linear(hidden, tensors["meta_net.linear2.weight"], tensors["meta_net.linear2.bias"])
            one = prompts(backbone, plain, [NAMES]).features((tensors["ctx"] + shift)[None])[0]
            torch.testing.assert_close(one, got[member, b], rtol=1e-4, atol=1e-6)
            (part,) = torch.autograd.grad((one * weights[member, b]).sum(), at, retain_graph=True)
            gradient[member] -= part
    assert gradient.abs().max() < 1e-4


def test_a_meta_net_that_gives_zero_is_coop(backbone):
    context, parameters = cocoop(backbone, members=1)
    tensors = context.named(backbone, parameters)
    tensors["meta_net.linear2.weight"].zero_()
    tensors["meta_net.linear2.bias"].zero_()
    got = prompts(backbone, context, [NAMES]).features(parameters, images(1, 3, backbone.embedding_size))
    expected = prompts(backbone, Context(n_ctx=3), [NAMES]).features(tensors["ctx"])
    torch.testing.assert_close(got[0], expected.expand(3, -1, -1))


def test_the_meta_net_starts_as_torchs_linear_layers_do(backbone):
    context, _ = cocoop(backbone)
    start = context.named(backbone, context.start(backbone, 4, generator()))
    for layer, inputs in (("linear1", backbone.embedding_size), ("linear2", backbone.embedding_size // 16)):
        for kind in ("weight", "bias"):
            values = start[f"meta_net.{layer}.{kind}"]
            assert 0.5 * inputs**-0.5 < values.abs().max() <= inputs**-0.5
    other = context.start(backbone, 4, generator(1))
    assert not torch.equal(other, context.start(backbone, 4, generator()))


def test_words_fill_the_last_rows_and_random_vectors_are_small(backbone):
    tower = backbone.tower
    start = Context(n_ctx=6).start(backbone, 4, generator())
    assert torch.equal(start[:2], torch.zeros(2, 64))
    assert torch.equal(start[2:], tower.embed(backbone.tokenize("a photo of a")))
    random = Context(n_ctx=16, ctx_init="").start(backbone, 4, generator())
    assert random.std().item() == pytest.approx(0.02, rel=0.1)
    with pytest.raises(InputError, match=r"more tokens.*\(4 tokens\) with n_ctx=3"):
        Context(n_ctx=3).start(backbone, 4, generator())


def test_class_specific_vectors_start_alike_with_words_and_apart_without(backbone):
    words = Context(class_specific=True).start(backbone, 3, generator())
    assert words.shape == (3, 4, 64)
    assert torch.equal(words[0], words[2])
    random = Context(class_specific=True, ctx_init="").start(backbone, 3, generator())
    assert not torch.equal(random[0], random[2])


@pytest.mark.parametrize(
    ("position", "sentence"),
    [("end", "a photo of a {}."), ("front", "{} a photo of a."), ("middle", "a photo {} of a.")],
)
def test_word_vectors_at_every_position_are_the_sentence(backbone, position, sentence):
    """Context vectors that are the embeddings of words give the features of the written sentence."""
    for specific in (False, True):
        context = Context(position=position, class_specific=specific)
        start = context.start(backbone, len(NAMES), generator())
        got = prompts(backbone, context, [NAMES]).features(start[None])[0]
        torch.testing.assert_close(got, template_features(backbone, sentence, NAMES), rtol=1e-4, atol=1e-5)


def test_members_may_have_different_names(backbone):
    context = Context()
    start = torch.randn(2, 4, 64, generator=generator()) * 0.02
    both = prompts(backbone, context, [NAMES[:2], NAMES[2:]]).features(start)
    for member, names in enumerate((NAMES[:2], NAMES[2:])):
        alone = prompts(backbone, context, [names]).features(start[[member]])
        torch.testing.assert_close(both[[member]], alone, rtol=1e-4, atol=1e-6)


def test_the_ensemble_is_the_normalised_mean_of_eight_templates(backbone):
    got = template_features(backbone, "a photo of a {}.", NAMES, ensemble=True)
    each = torch.stack([template_features(backbone, one, NAMES) for one in (*ENSEMBLE, "a photo of a {}.")])
    assert len(each) == 8
    torch.testing.assert_close(got, F.normalize(each.mean(0), dim=-1))


@pytest.mark.parametrize("pieces", [Pieces(classes=1), Pieces(classes=3), Pieces(images=1), Pieces(images=2)])
def test_pieces_change_no_feature_and_no_gradient(backbone, pieces):
    if pieces.images:
        context, parameters = cocoop(backbone)
    else:
        context, parameters = Context(), torch.randn(2, 4, 64, generator=generator()) * 0.02
    batch = images(2, 3, backbone.embedding_size)
    results = []
    for cut in (Pieces(), pieces):
        at = parameters.clone().requires_grad_()
        text = prompts(backbone, context, [NAMES], cut).features(at, batch)
        weights = torch.randn(text.shape, generator=generator(3))
        twice = [torch.autograd.grad((text * w).sum(), at, retain_graph=True)[0] for w in (weights, weights.flip(0))]
        results.append((text.detach(), *twice))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
