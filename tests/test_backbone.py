"""The one door to model weights: what is loaded, what is refused, and that features are open_clip's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gcsearch import backbone as backbones
from gcsearch.errors import InputError
from gcsearch.prompts import template_features
from tests.conftest import random_clip

NAMES = ("dog", "red_striped_star", "a very long name of a rather small thing")


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_template_features_equal_encode_text(clip, backbone):
    library = pytest.importorskip("open_clip")
    tokens = library.get_tokenizer("ViT-B-32")([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    theirs = F.normalize(clip.encode_text(tokens), dim=-1)
    assert relative(template_features(backbone, "a photo of a {}.", NAMES), theirs) < 1e-5


def test_image_features_equal_open_clips(clip, backbone):
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = F.normalize(clip.encode_image(pixels), dim=-1)
    torch.testing.assert_close(backbone.encode_images(pixels), theirs)


def test_mini_is_a_clip_with_openais_names_and_sizes():
    state = backbones.mini_state_dict()
    assert state["token_embedding.weight"].shape[0] == 49408
    assert state["positional_embedding"].shape[0] == 77
    assert {"visual.conv1.weight", "visual.proj", "transformer.resblocks.0.attn.in_proj_weight", "logit_scale"} <= set(
        state
    )
    mini = backbones.load("mini")
    assert mini.tower.width // mini.tower.blocks[0].heads == 64
    assert mini.image_size >= 32
    assert mini.fingerprint == backbones.load("mini").fingerprint


def test_the_fingerprint_changes_with_one_weight(clip):
    other = random_clip(width=64, layers=2, embed=32)
    assert backbones.fingerprint(other) == backbones.fingerprint(clip)
    with torch.no_grad():
        other.ln_final.bias[3] += 1e-6
    assert backbones.fingerprint(other) != backbones.fingerprint(clip)


def test_unknown_names_and_tags_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match="Did you mean 'ViT-B-16'"):
        backbones.load("ViT-B-61", "openai")
    with pytest.raises(InputError, match=r"Tags of ViT-B-16: .*openai"):
        backbones.load("ViT-B-16", "no-such-tag")


def test_a_local_checkpoint_is_loaded(tmp_path):
    library = pytest.importorskip("open_clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = library.create_model("RN50-quickgelu")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = backbones.load("RN50-quickgelu", str(tmp_path / "weights.pt"))
    assert loaded.embedding_size == 1024
    assert loaded.image_size == 224
    torch.testing.assert_close(loaded.model.text_projection, model.text_projection)


def test_a_text_tower_that_is_not_causal_is_refused_by_name(clip):
    class Tower:
        attn_mask = None

    class Model:
        text = Tower()

    with pytest.raises(InputError, match=r"causal.*got SigLIP"):
        backbones.text_tower(Model(), "SigLIP")


def test_residual_blocks_that_are_not_clips_are_refused_by_name():
    model = random_clip(width=64, layers=1, embed=32)
    model.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(InputError, match=r"GELU or QuickGELU, got odd \(ResidualAttentionBlock with ReLU\)"):
        backbones.text_tower(model, "odd")
