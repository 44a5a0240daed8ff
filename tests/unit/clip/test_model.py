"""The one door to model weights: what is loaded, what is refused, and that features are open_clip's own."""

from __future__ import annotations

import gc
import json
import os
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gcsearch.clip import checkpoints
from gcsearch.clip import model as backbones_model
from gcsearch.errors import InputError
from gcsearch.methods.prompts import template_features
from tests.support.models import random_clip, random_model

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
    state = backbones_model.mini_state_dict()
    assert state["token_embedding.weight"].shape[0] == 49408
    assert state["positional_embedding"].shape[0] == 77
    assert {"visual.conv1.weight", "visual.proj", "transformer.resblocks.0.attn.in_proj_weight", "logit_scale"} <= set(
        state
    )
    mini = backbones_model.load("mini")
    assert mini.tower.width // mini.tower.blocks[0].heads == 64
    assert mini.image_size >= 32
    assert mini.fingerprint == backbones_model.load("mini").fingerprint


def test_the_fingerprint_changes_with_one_weight(clip):
    other = random_clip(width=64, layers=2, embed=32)
    assert backbones_model.fingerprint(other) == backbones_model.fingerprint(clip)
    with torch.no_grad():
        other.ln_final.bias[3] += 1e-6
    assert backbones_model.fingerprint(other) != backbones_model.fingerprint(clip)


def test_unknown_names_and_tags_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match="Did you mean 'ViT-B-16'"):
        backbones_model.load("ViT-B-61", "openai")
    with pytest.raises(InputError, match=r"Tags of ViT-B-16: .*openai"):
        backbones_model.load("ViT-B-16", "no-such-tag")


BIG = [pytest.param(name, 224, marks=pytest.mark.slow) for name in ("ViT-B-16-quickgelu", "ViT-L-14")]


@pytest.mark.parametrize(("name", "side"), [("ViT-B-32", 224), ("RN50", 224), ("Small-16-quickgelu", 32), *BIG])
def test_encoders_equal_open_clips_own(tmp_path, name, side):
    theirs = random_model(name)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = backbones_model.load(name, str(tmp_path / "weights.safetensors"))
    (tmp_path / "weights.safetensors").unlink()
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    assert (ours.name, ours.image_size) == (name, side)
    assert relative(ours.encode_images(pixels), F.normalize(theirs.encode_image(pixels), dim=-1)) < 1e-5
    tokens = import_module("open_clip").get_tokenizer(name)(
        [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    )
    encoded = F.normalize(theirs.encode_text(tokens), dim=-1)
    assert ours.embedding_size == encoded.shape[1]
    assert relative(template_features(ours, "a photo of a {}.", NAMES), encoded) < 1e-5
    del theirs, ours
    gc.collect()


def test_batch_norm_stays_frozen_while_prompts_are_trained(tmp_path):
    save_file(random_model("RN50").state_dict(), tmp_path / "weights.safetensors")
    frozen = backbones_model.load("RN50", str(tmp_path / "weights.safetensors"))
    before = backbones_model.fingerprint(frozen.model)
    start = frozen.tower.embed([frozen.tower.start])[None]
    context = torch.zeros(1, 2, 512, requires_grad=True)
    suffix = frozen.tower.pack([[[320, 49407], [500, 49407]]])
    images = frozen.encode_images(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)))
    features = frozen.tower.encode(torch.cat([start, context], dim=1), suffix)[0]
    F.cross_entropy(100 * images @ features.T, torch.tensor([0, 1])).backward()
    assert context.grad.abs().sum() > 0
    assert not any(module.training for module in frozen.model.modules())
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())
    assert backbones_model.fingerprint(frozen.model) == before


def settings_of(patch=16, width=64, **more):
    return {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": patch},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": 1},
        **more,
    }


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory):
    """Small models beside open_clip's own, so that the door is tested without large files."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "Small-16": settings_of(),
        "Small-16-quickgelu": settings_of(quick_gelu=True),
        "Small-8": settings_of(patch=8),
        "Small-custom": settings_of(custom_text=True),
    }
    for name, settings in models.items():
        (folder / f"{name}.json").write_text(json.dumps(settings))
    backbones_model.declare_torchvision_operators()
    factory = import_module("open_clip.factory")
    places, known = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    factory.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS[:], factory._MODEL_CONFIGS = places, known


def saved(path, name="Small-16", seed=0):
    model = random_model(name, seed)
    (save_file if path.suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    return model


def assert_loaded(loaded, model):
    expected = model.state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_a_local_checkpoint_is_loaded(tmp_path, file):
    model = saved(tmp_path / file)
    assert_loaded(backbones_model.load("Small-16", str(tmp_path / file)), model)


def test_loading_leaves_the_global_generator_alone(tmp_path):
    saved(tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    backbones_model.load("Small-16", str(tmp_path / "weights.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_text_tower_filed_under_text_takes_both_forms(tmp_path):
    model = saved(tmp_path / "new.safetensors", "Small-custom")
    old = {name.removeprefix("text."): tensor for name, tensor in model.state_dict().items()}
    save_file(old, tmp_path / "old.safetensors")
    assert_loaded(backbones_model.load("Small-custom", str(tmp_path / "new.safetensors")), model)
    assert_loaded(backbones_model.load("Small-custom", str(tmp_path / "old.safetensors")), model)


def test_weights_of_another_model_are_refused_and_the_right_one_is_named(tmp_path):
    saved(tmp_path / "weights.safetensors", "Small-8")
    with pytest.raises(InputError, match=r"does not fit Small-16 \(2 of another size: visual\.") as caught:
        backbones_model.load("Small-16", str(tmp_path / "weights.safetensors"))
    assert "visual.positional_embedding [17, 64] instead of [5, 64]" in str(caught.value)
    assert "images of 32 px, patches of 8 px" in str(caught.value)
    assert "These are the sizes of Small-8." in str(caught.value)


def test_a_name_or_a_file_that_is_absent_is_refused():
    with pytest.raises(InputError, match=r"the checkpoint must exist, got \./absent\.pt"):
        backbones_model.load("Small-16", "./absent.pt")
    with pytest.raises(InputError, match=r"(?s)tag of this backbone or the path.*Tags of Small-16: none"):
        backbones_model.load("Small-16")


def test_the_same_weights_with_another_activation_have_another_fingerprint(tmp_path):
    saved(tmp_path / "weights.safetensors")
    plain, quick = (
        backbones_model.load(name, str(tmp_path / "weights.safetensors")) for name in ("Small-16", "Small-16-quickgelu")
    )
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(plain.encode_images(pixels), quick.encode_images(pixels))
    assert plain.fingerprint != quick.fingerprint


def assert_has_quickgelu(loaded, model):
    """`model`: of the same weights, with QuickGELU."""
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = import_module("open_clip").get_tokenizer("ViT-B-32")(["a photo of a dog."])
    assert loaded.name == "Small-16-quickgelu"
    assert relative(loaded.encode_images(pixels), F.normalize(model.encode_image(pixels), dim=-1)) < 1e-6
    theirs = F.normalize(model.encode_text(tokens), dim=-1)
    assert relative(template_features(loaded, "a photo of a {}.", ("dog",)), theirs) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_archive_brings_quickgelu_with_it(tmp_path):
    class Archive(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            for name in ("visual", "transformer", "token_embedding", "ln_final"):
                setattr(self, name, getattr(model, name))
            for name in ("positional_embedding", "text_projection", "logit_scale"):
                self.register_parameter(name, getattr(model, name))
            for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
                self.register_buffer(name, torch.tensor(value))

        def forward(self, pixels):
            return pixels * self.logit_scale

    model = random_model("Small-16-quickgelu")
    torch.jit.trace(Archive(model), torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "ViT-S-16.pt"))
    loaded = backbones_model.load("Small-16", f"jit:{tmp_path / 'ViT-S-16.pt'}")
    assert_loaded(loaded, model)
    assert_has_quickgelu(loaded, model)


def test_what_looks_like_openais_weights_is_warned_of(tmp_path):
    saved(tmp_path / "ViT-B-16.pt", "Small-16-quickgelu")
    with pytest.warns(UserWarning, match="trained with QuickGELU.* backbone = 'Small-16-quickgelu'"):
        assert backbones_model.load("Small-16", str(tmp_path / "ViT-B-16.pt")).name == "Small-16"
    backbones_model.load("Small-16-quickgelu", str(tmp_path / "ViT-B-16.pt"))


def write_folder(folder, settings, name="Small-16"):
    folder.mkdir(parents=True)
    model = saved(folder / "open_clip_model.safetensors", name)
    preprocessing = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    content = {"model_cfg": settings, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return model


def test_a_hub_folder_tells_activation_and_preparation(tmp_path):
    model = write_folder(tmp_path / "quick", settings_of(quick_gelu=True), "Small-16-quickgelu")
    loaded = backbones_model.load("Small-16", str(tmp_path / "quick"))
    assert_has_quickgelu(loaded, model)
    assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    write_folder(tmp_path / "plain", settings_of())
    with pytest.warns(UserWarning, match="says that its model has GELU.* backbone = 'Small-16'"):
        backbones_model.load("Small-16-quickgelu", str(tmp_path / "plain"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of which nothing can be reached, an empty cache, and a tag of Small-16 that lies in that hub."""
    constants = import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    tag = {"hf_hub": "someone/small/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setitem(import_module("open_clip.pretrained")._PRETRAINED, "Small-16", {"someones": tag})
    return tmp_path / "hub" / "models--someone--small"


def test_a_tag_is_taken_from_the_hubs_cache(hub):
    model = write_folder(hub / "snapshots" / "abc", settings_of(quick_gelu=True), "Small-16-quickgelu")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    loaded = backbones_model.load("Small-16", "someones")
    assert_has_quickgelu(loaded, model)
    assert loaded.mean == (0.1, 0.2, 0.3)
    assert_has_quickgelu(backbones_model.load("Small-16", str(hub)), model)


@pytest.mark.parametrize("offline", [False, True])
def test_without_network_the_error_names_the_file_and_its_place(hub, monkeypatch, offline):
    monkeypatch.setattr(import_module("huggingface_hub.constants"), "HF_HUB_OFFLINE", offline)
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        backbones_model.load("Small-16", "someones")
    assert time.monotonic() - begin < 30  # nothing is asked of the network again and again
    text = str(caught.value)
    assert ("HF_HUB_OFFLINE" in text) is offline
    for part in ("someone/small", 'pretrained = "/path/to/open_clip_model.safetensors"', hub.name, str(hub.parent)):
        assert part in text


def test_openais_tag_switches_to_quickgelu():
    settings = import_module("open_clip").get_model_config("ViT-B-32")
    tag = backbones_model._tags("ViT-B-32")["openai"]
    checkpoint = checkpoints.WeightsFile(Path("any"), {}, quick_gelu=tag["quick_gelu"])
    assert backbones_model._switched(checkpoint, settings, "ViT-B-32")
    assert not backbones_model._switched(checkpoint, {"quick_gelu": True}, "ViT-B-32-quickgelu")


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "coca_ViT-B-32", "roberta-ViT-B-32"])
def test_models_with_other_text_towers_are_refused_before_anything_is_built(name, monkeypatch):
    monkeypatch.setattr(backbones_model, "_build", None)
    with pytest.raises(InputError, match=rf"causal, pooled at the end token.*got {name}"):
        backbones_model.load(name, os.devnull)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("CustomTextCLIP", {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
        ("CustomTextCLIP", {"pool_type": "last"}),
        ("CustomTextCLIP", {"embed_cls": True, "context_length": 76}),
        ("CustomTextCLIP", {"proj_bias": True}),
        ("CLIP", {"vocab_size": 32000}),
    ],
)
def test_towers_that_cannot_be_served_are_refused_by_name(model, text):
    library = import_module("open_clip.model")
    settings = settings_of()
    text_cfg = library.CLIPTextCfg(**{**settings["text_cfg"], **text})
    built = getattr(library, model)(32, library.CLIPVisionCfg(**settings["vision_cfg"]), text_cfg)
    with pytest.raises(InputError, match=r"causal, pooled at the end token.*got odd"):
        backbones_model.text_tower(built, "odd")


def test_a_text_tower_that_is_not_causal_is_refused_by_name(clip):
    class Tower:
        attn_mask = None

    class Model:
        text = Tower()

    with pytest.raises(InputError, match=r"causal.*got SigLIP"):
        backbones_model.text_tower(Model(), "SigLIP")


def test_residual_blocks_that_are_not_clips_are_refused_by_name():
    model = random_clip(width=64, layers=1, embed=32)
    model.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(InputError, match=r"GELU or QuickGELU, got odd \(ResidualAttentionBlock with ReLU\)"):
        backbones_model.text_tower(model, "odd")
