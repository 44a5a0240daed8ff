"""The packed text tower against the full-length forward of open_clip's own model, and its promises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gcsearch.clip import model as backbones
from gcsearch.errors import InputError
from tests.support.models import random_clip

STOP, END = 269, 49407


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def names(classes, seed=0, longest=6):
    """Token ids of `classes` names of 1 to `longest` tokens."""
    generator = draw(seed)
    lengths = torch.randint(1, longest + 1, (classes,), generator=generator).tolist()
    return [torch.randint(300, 40_000, (length,), generator=generator).tolist() for length in lengths]


def texts(classes, seed=0, longest=6):
    """What follows a context at the end position: name, full stop, EOT."""
    return [[*name, STOP, END] for name in names(classes, seed, longest)]


def prefixes(tower, context):
    start = tower.embed([tower.start]).expand(len(context), -1, -1)
    return torch.cat([start, context], dim=1)


def contexts(members, width, n=4, seed=0):
    return (torch.randn(members, n, width, generator=draw(seed)) * 0.02).requires_grad_()


def full_length(model, prefix, rows, inserted=None):
    """Text features of one prompt as CLIP computes them: 77 positions for each class."""
    features = []
    for row in rows:
        body = [model.token_embedding.weight[token] if token >= 0 else inserted[-token - 1] for token in row]
        text = torch.cat([prefix, torch.stack(body)])
        states = F.pad(text, (0, 0, 0, 77 - len(text))) + model.positional_embedding
        states = model.ln_final(model.transformer(states[None], attn_mask=model.attn_mask))
        features.append(states[0, len(text) - 1] @ model.text_projection)
    return F.normalize(torch.stack(features), dim=-1)


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_equal_with_gradient(ours, theirs, parameters, limit=1e-5):
    weights = torch.randn(theirs.shape, generator=draw(9))
    (our_gradient,) = torch.autograd.grad((ours * weights).sum(), parameters)
    (their_gradient,) = torch.autograd.grad((theirs * weights).sum(), parameters)
    assert relative(ours, theirs) < limit
    assert relative(our_gradient, their_gradient) < limit


TOWERS = [
    pytest.param(lambda: random_clip(width=64, layers=3, embed=32), id="small"),
    pytest.param(lambda: random_clip(width=64, layers=1, embed=32), id="one block"),
    pytest.param(lambda: random_clip(width=512, layers=12, embed=512), id="ViT-B/16-sized"),
    pytest.param(lambda: backbones.load("mini").model, id="mini"),
]


@pytest.mark.parametrize("build", TOWERS)
def test_features_and_gradient_equal_the_full_length_encoder(build):
    model = build()
    tower = backbones.text_tower(model, "tower")
    context, rows = contexts(2, tower.width), texts(5, longest=9)
    ours = tower.encode(prefixes(tower, context), tower.pack([rows]))
    theirs = torch.stack([full_length(model, prefix, rows) for prefix in prefixes(tower, context)])
    assert_equal_with_gradient(ours, theirs, context)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_towers_with_plain_gelu_are_exact_too(approximate):
    model = random_clip(width=64, layers=2, embed=32)
    for block in model.transformer.resblocks:
        block.mlp.gelu = nn.GELU(approximate=approximate)
    tower = backbones.text_tower(model, "gelu")
    context, rows = contexts(1, 64), texts(3)
    ours = tower.encode(prefixes(tower, context), tower.pack([rows]))
    assert_equal_with_gradient(ours, full_length(model, prefixes(tower, context)[0], rows)[None], context)


class Scale(nn.Module):
    """Each channel of a residual branch times a number, as open_clip's LayerScale."""

    def __init__(self, factor):
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(factor, 2 * factor, 64), requires_grad=False)

    def forward(self, states):
        return states * self.gamma


def test_scaled_residual_branches_are_folded_in():
    model = random_clip(width=64, layers=2, embed=32)
    for number, block in enumerate(model.transformer.resblocks):
        block.ls_1, block.ls_2 = (Scale(0.3 + 0.1 * number + part) for part in (0.0, 0.2))
    tower = backbones.text_tower(model, "scaled")
    context, rows = contexts(1, 64), texts(3)
    ours = tower.encode(prefixes(tower, context), tower.pack([rows]))
    assert_equal_with_gradient(ours, full_length(model, prefixes(tower, context)[0], rows)[None], context)


@pytest.mark.parametrize("classes", [4, 30])
def test_constants_of_the_first_block_may_be_computed_or_kept(clip, monkeypatch, classes):
    tower = backbones.text_tower(clip, "tower")
    context, rows = contexts(2, 64), texts(classes)
    kept, computed = tower.pack([rows]), tower.pack([rows])
    ours = tower.encode(prefixes(tower, context), kept)
    monkeypatch.setattr("gcsearch.clip.text_tower.WORTH_KEEPING", 0)
    theirs = tower.encode(prefixes(tower, context), computed)
    assert kept.layout(5, tower).first is not None
    assert computed.layout(5, tower).first is None
    assert_equal_with_gradient(ours, theirs, context)


@pytest.mark.parametrize("width", [64, 128])
def test_many_classes_lie_in_several_tiles_and_keep_their_order(width):
    model = random_clip(width=width, layers=2, embed=32)
    tower = backbones.text_tower(model, "tower")
    context, rows = contexts(1, width), texts(40, longest=12)
    suffix = tower.pack([rows])
    ours = tower.encode(prefixes(tower, context), suffix)
    assert suffix.layout(5, tower).tiles > 1
    assert_equal_with_gradient(ours, full_length(model, prefixes(tower, context)[0], rows)[None], context)


POSITIONS = {
    "front": lambda name, slots: [*name, *slots, STOP, END],
    "middle": lambda name, slots: [*slots[:2], *name, *slots[2:], STOP, END],
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("classes", [3, 30])
def test_inserted_rows_equal_the_full_length_encoder(clip, position, classes):
    tower = backbones.text_tower(clip, "tower")
    rows = [POSITIONS[position](name, [-1, -2, -3, -4]) for name in names(classes)]
    context, prefix = contexts(2, 64), prefixes(tower, torch.empty(2, 0, 64))
    ours = tower.encode(prefix, tower.pack([rows]), context)
    theirs = torch.stack([full_length(clip, prefix[m], rows, context[m]) for m in range(2)])
    assert_equal_with_gradient(ours, theirs, context)


def test_every_class_may_have_inserted_rows_of_its_own(clip):
    tower = backbones.text_tower(clip, "tower")
    context, prefix = contexts(1, 64, n=2 * 12), prefixes(tower, torch.empty(1, 0, 64))
    rows = [[-(2 * c + 1), -(2 * c + 2), *text] for c, text in enumerate(texts(12))]
    ours = tower.encode(prefix, tower.pack([rows]), context)
    assert_equal_with_gradient(ours, full_length(clip, prefix[0], rows, context[0])[None], context)
    last = tower.encode(prefix, tower.pack([rows[-1:]]), context)  # a piece of the classes uses few of the rows
    torch.testing.assert_close(last, ours[:, -1:])


def test_groups_may_have_different_classes(clip):
    tower = backbones.text_tower(clip, "tower")
    context, tables = contexts(2, 64), [texts(25, seed=1, longest=3), texts(25, seed=2, longest=9)]
    ours = tower.encode(prefixes(tower, context), tower.pack(tables))
    theirs = torch.stack([full_length(clip, prefixes(tower, context)[m], tables[m]) for m in range(2)])
    assert_equal_with_gradient(ours, theirs, context)


def test_consecutive_prefixes_share_a_group_of_classes(clip):
    tower = backbones.text_tower(clip, "tower")
    context, tables = contexts(6, 64), [texts(20, seed=1), texts(20, seed=2)]
    ours = tower.encode(prefixes(tower, context), tower.pack(tables))
    apart = [tower.encode(prefixes(tower, context[m : m + 1]), tower.pack([tables[m // 3]])) for m in range(6)]
    assert_equal_with_gradient(ours, torch.cat(apart), context)


@pytest.mark.parametrize("tables", [[texts(20)], [texts(20, seed=seed) for seed in range(3)]], ids=["shared", "own"])
def test_slices_of_groups_and_of_classes_give_the_same(clip, tables):
    tower = backbones.text_tower(clip, "tower")
    context, suffix = contexts(3, 64), tower.pack(tables)
    whole = tower.encode(prefixes(tower, context), suffix)
    by_group = [tower.encode(prefixes(tower, context[g]), suffix.part(g)) for g in (slice(0, 2), slice(2, 3))]
    assert_equal_with_gradient(torch.cat(by_group), whole, context)
    pieces = [tower.pack([table[start : start + 7] for table in tables]) for start in (0, 7, 14)]
    by_class = [tower.encode(prefixes(tower, context), piece) for piece in pieces]
    assert_equal_with_gradient(torch.cat(by_class, dim=1), tower.encode(prefixes(tower, context), suffix), context)


@pytest.mark.parametrize("classes", [4, 30])
def test_a_number_that_is_not_finite_stays_in_its_group(clip, classes):
    tower = backbones.text_tower(clip, "tower")
    suffix = tower.pack([texts(classes, seed=seed) for seed in range(3)])
    weights = torch.randn(3, classes, 32, generator=draw(1))

    def measured(context):
        features = tower.encode(prefixes(tower, context), suffix)
        return features, torch.autograd.grad((features * weights).sum(), context)[0]

    broken = contexts(3, 64).detach().clone()
    broken[1, 2, 3] = float("nan")
    for good, bad in zip(measured(contexts(3, 64)), measured(broken.requires_grad_()), strict=True):
        assert not torch.isfinite(bad[1]).any()
        assert torch.equal(good[[0, 2]], bad[[0, 2]])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_lower_precision_is_close_to_float32(clip, dtype, limit):
    tower = backbones.text_tower(clip, "tower")
    context, rows = contexts(2, 64), texts(12)
    exact = tower.encode(prefixes(tower, context), tower.pack([rows]))
    low = tower.to(dtype)
    assert low.dtype == dtype
    ours = low.encode(prefixes(low, context), low.pack([rows]))
    assert ours.dtype == torch.float32
    assert_equal_with_gradient(ours, exact, context, limit)


def test_a_small_gradient_survives_float16(clip):
    tower = backbones.text_tower(clip, "tower").to(torch.float16)
    context, suffix = contexts(2, 64), tower.pack([texts(5)])
    weights = torch.randn(2, 5, 32, generator=draw(3))
    features = tower.encode(prefixes(tower, context), suffix)
    (gradient,) = torch.autograd.grad((features * weights).sum(), context, retain_graph=True)
    (small,) = torch.autograd.grad((features * weights * 1e-10).sum(), context)
    assert relative(small * 1e10, gradient) < 0.01


SIZES = [(64, 3, 1, 6, 4), (64, 3, 2, 60, 16), (256, 4, 2, 30, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "layers", "members", "classes", "n"), SIZES)
def test_kept_bytes_are_what_autograd_keeps(width, layers, members, classes, n, dtype):
    tower = backbones.text_tower(random_clip(width, layers, embed=64), "tower").to(dtype)
    context, suffix = contexts(members, width, n), tower.pack([texts(classes)])
    kept = {}

    def count(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        tower.encode(prefixes(tower, context), suffix)
    measured = sum(storage.nbytes() for storage in kept.values())
    assert tower.kept_bytes(members, n + 1, suffix.tokens, classes) == pytest.approx(measured, rel=0.15)


def test_a_table_first_used_in_inference_mode_can_be_trained_on(clip):
    tower = backbones.text_tower(clip, "tower")
    context, suffix = contexts(2, 64), tower.pack([texts(20)])
    with torch.inference_mode():
        before = tower.encode(prefixes(tower, context), suffix)
    features = tower.encode(prefixes(tower, context), suffix)
    assert torch.equal(features, before)
    (gradient,) = torch.autograd.grad(features.sum(), context)
    assert gradient.abs().max() > 0


def test_too_long_a_text_is_refused(clip):
    tower = backbones.text_tower(clip, "tower")
    with pytest.raises(InputError, match="fit into 77 tokens, got 78"):
        tower.encode(torch.zeros(1, 57, 64), tower.pack([[[*range(300, 319), STOP, END], [STOP, END]]]))
    tower.encode(torch.zeros(1, 56, 64), tower.pack([[[*range(300, 319), STOP, END], [STOP, END]]]))


def test_missing_rows_and_ragged_tables_are_refused(clip):
    tower = backbones.text_tower(clip, "tower")
    with pytest.raises(ValueError, match="inserted rows are missing"):
        tower.encode(torch.zeros(1, 1, 64), tower.pack([[[-1, STOP, END]]]))
    with pytest.raises(ValueError, match="2 prefixes for 3 groups"):
        tower.encode(torch.zeros(2, 1, 64), tower.pack([texts(2, seed=seed) for seed in range(3)]))
    with pytest.raises(ValueError, match="same number of classes"):
        tower.pack([texts(2), texts(3)])
