"""Checkpoint files: what is read, what is refused and never run, and what is said where they do not fit."""

from __future__ import annotations

import json
import re
import warnings
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gcsearch.clip import checkpoints
from gcsearch.errors import InputError
from tests.support.models import random_clip


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    drawn = {"ln.weight": torch.randn(4, generator=generator), "fc.weight": torch.randn(3, 4, generator=generator)}
    return {name: tensor.to(dtype) for name, tensor in drawn.items()}


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights.safetensors", "no-suffix"])
def test_a_state_dict_is_read_by_its_content(tmp_path, name):
    (save_file if name.endswith(".safetensors") else torch.save)(tensors(), tmp_path / name)
    assert_same(checkpoints.read(tmp_path / name).state, tensors())


def test_safetensors_under_another_name_are_read(tmp_path):
    save_file(tensors(), tmp_path / "weights.pt")
    assert_same(checkpoints.read(tmp_path / "weights.pt").state, tensors())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 3, "name": "run", "optimizer": {"lr": 0.1}, "state_dict": state},
        lambda state: {"state_dict": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
        *(partial(prefixed, prefix) for prefix in ("model.", "clip_model.", "backbone.", "module.model.", "a.b.c.d.")),
        lambda state: {"model": {**state, "epoch": 3, "best": 0.5, "note": "x", "done": None}},
        lambda state: {
            **state,
            "epoch": 3,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}},
            "args": Namespace(),
        },
        lambda state: {"model_state_dict": state, "model": "ViT-B-16"},
        lambda state: {"ema": state, "optimizer": {"param_groups": [{"lr": 0.1}]}},
        lambda state: {"model": {"state_dict": prefixed("net.", state)}, "ema": {"state_dict": tensors(torch.float64)}},
        lambda state: {"state_dict": state, "best": np.float64(0.5), "epoch": np.int64(3), "out": Path("runs")},
    ],
)
def test_wrappings_and_prefixes_fall_away(tmp_path, wrap):
    torch.save(wrap(tensors()), tmp_path / "weights.pt")
    assert_same(checkpoints.read(tmp_path / "weights.pt").state, tensors())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    torch.save({**tensors(dtype), "steps": torch.tensor(7)}, tmp_path / "weights.pt")
    expected = {name: tensor.float() for name, tensor in tensors(dtype).items()} | {"steps": torch.tensor(7)}
    assert_same(checkpoints.read(tmp_path / "weights.pt").state, expected)


class Touch:
    """A pickle that writes a file when it is loaded with Python's own unpickler."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": tensors(), "extra": Touch(tmp_path / "touched")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"would run code of its own \(.*open\), which is refused.*\n.*save_file"):
        checkpoints.read(tmp_path / "evil.pt")
    assert not (tmp_path / "touched").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)["extra"].close()
    assert (tmp_path / "touched").exists()


def test_a_whole_pickled_model_is_refused_with_the_class_named(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"torch.nn.modules.linear.Linear"):
        checkpoints.read(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("left", [0, 5, 100, 0.5])
def test_part_of_a_file_is_refused_in_words(tmp_path, name, left):
    (save_file if name.endswith(".safetensors") else torch.save)(tensors(), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    with pytest.raises(InputError, match=r"the checkpoint cannot be read: .*\n.*Download it again"):
        checkpoints.read(tmp_path / name)


def test_damage_is_refused_in_words_wherever_it_sits(tmp_path):
    """Every file is read as it is or refused: no error of the readers' own comes through."""
    torch.save(tensors(), tmp_path / "zip.pt")
    torch.save(tensors(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused = 0
    for name in ("zip.pt", "old.pt"):
        whole = (tmp_path / name).read_bytes()
        for place in range(0, len(whole), 11):
            (tmp_path / "damaged.pt").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
            try:
                checkpoints.read(tmp_path / "damaged.pt")
            except InputError:
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "<html>404</html>"])
def test_a_text_in_place_of_weights_is_refused(tmp_path, text):
    (tmp_path / "weights.pt").write_text(text)
    with pytest.raises(InputError, match="the checkpoint cannot be read"):
        checkpoints.read(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 1, "optimizer": {}}, {"state_dict": {"a": 1}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="must hold tensors by name"):
        checkpoints.read(tmp_path / "weights.pt")


class Archived(nn.Module):
    """A module as OpenAI's archives are: half precision, and three numbers beside the weights."""

    def __init__(self, openai):
        super().__init__()
        self.ln = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 3).half()
        if openai:
            for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
                self.register_buffer(name, torch.tensor(value))

    def forward(self, x):
        return self.ln(x)


def write_archive(path, openai=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Archived(openai)).save(str(path))
    return path


def test_a_torchscript_archive_is_opened_only_where_asked(tmp_path):
    path = write_archive(tmp_path / "ViT-B-32.pt")
    with pytest.raises(InputError, match=rf'TorchScript archive is a program.*\n.*pretrained = "jit:{path}"'):
        checkpoints.read(path)
    found = checkpoints.read(f"jit:{path}")
    assert set(found.state) == {"ln.weight", "ln.bias", "fc.weight", "fc.bias"}
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}


def test_jit_is_refused_for_what_is_no_archive(tmp_path):
    torch.save(tensors(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="for TorchScript archives, and this is none"):
        checkpoints.read(f"jit:{tmp_path / 'weights.pt'}")


def test_openais_archives_say_that_they_need_quickgelu(tmp_path):
    assert checkpoints.read(f"jit:{write_archive(tmp_path / 'a.pt')}").quick_gelu is True
    other = checkpoints.read(f"jit:{write_archive(tmp_path / 'b.pt', openai=False)}")
    assert other.quick_gelu is None


def test_a_bare_state_dict_may_look_like_openais(tmp_path):
    torch.save(tensors(), tmp_path / "ViT-B-16.pt")
    torch.save(tensors(), tmp_path / "mine.pt")
    torch.save({**tensors(), "half": torch.ones(2).half()}, tmp_path / "mixed.pt")
    names = ("ViT-B-16.pt", "mine.pt", "mixed.pt")
    assert [checkpoints.read(tmp_path / name).perhaps_openai for name in names] == [True, False, True]
    assert all(checkpoints.read(tmp_path / name).quick_gelu is None for name in names)


def test_a_hub_folder_prefers_safetensors_and_tells_its_settings(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "open_clip_pytorch_model.bin")
    assert set(checkpoints.read(tmp_path).state) == {"other"}
    save_file(tensors(), tmp_path / "open_clip_model.safetensors")
    assert checkpoints.read(tmp_path).quick_gelu is None
    settings = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    found = checkpoints.read(tmp_path)
    assert_same(found.state, tensors())
    assert found.quick_gelu is True
    assert found.preprocessing == {"mean": [0.5, 0.5, 0.5]}


def test_a_repository_of_the_hubs_cache_is_a_folder_too(tmp_path):
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("abc")
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)
    save_file(tensors(), tmp_path / "snapshots" / "abc" / "open_clip_model.safetensors")
    assert_same(checkpoints.read(tmp_path).state, tensors())


def test_folders_that_do_not_serve_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold open_clip's weights.*\n.*open_clip_model\.safetensors"):
        checkpoints.read(tmp_path)
    save_file(tensors(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match="must describe an open_clip model"):
        checkpoints.read(tmp_path)
    with pytest.raises(InputError, match="the checkpoint must exist"):
        checkpoints.read(tmp_path / "absent.pt")


def checkpoint(state, tmp_path):
    return checkpoints.WeightsFile(tmp_path / "weights.pt", dict(state))


def test_faults_are_counted_and_the_first_named(tmp_path):
    model = {f"layer.{i}": torch.zeros(2) for i in range(6)}
    state = {**{f"layer.{i}": torch.zeros(2) for i in range(5, 6)}, "layer.0": torch.zeros(3), "head": torch.zeros(1)}
    told = re.escape(
        "does not fit ViT-X (4 missing: layer.1, layer.2, layer.3 and 1 more; 1 unexpected: head; "
        "1 of another size: layer.0 [3] instead of [2])"
    )
    with pytest.raises(InputError, match=told):
        checkpoints.fit(checkpoint(state, tmp_path), model, "ViT-X", lambda sizes: [])


def test_the_models_of_the_sizes_found_are_named(tmp_path):
    small = random_clip(width=64, layers=2, embed=32).state_dict()
    large = random_clip(width=128, layers=2, embed=32).state_dict()
    asked = []
    with pytest.raises(InputError, match=r"text tower 64 wide with 2 layers.*These are the sizes of Small"):
        checkpoints.fit(checkpoint(small, tmp_path), large, "Large", lambda sizes: asked.append(sizes) or ["Small"])
    assert asked == [checkpoints.Sizes(32, 32, 16, 64, 1, 64, 2)]
    with pytest.raises(InputError, match=r"No model of open_clip has these sizes"):
        checkpoints.fit(checkpoint(small, tmp_path), large, "Large", lambda sizes: [])


def test_a_checkpoint_of_another_library_is_recognised(tmp_path):
    state = {"text_model.final_layer_norm.weight": torch.zeros(2)}
    with pytest.raises(InputError, match="named as in the transformers library"):
        checkpoints.fit(checkpoint(state, tmp_path), tensors(), "ViT-X", lambda sizes: [])


def test_differences_that_mean_nothing_are_levelled(tmp_path):
    model = {
        "text.text_projection": torch.zeros(2),
        "text.transformer.a": torch.zeros(1),
        "visual.bn.num_batches_tracked": torch.tensor(0),
        "visual.proj": torch.zeros(1),
        "logit_scale": torch.tensor(0.0),
    }
    state = {
        "text_projection": torch.ones(2),
        "transformer.a": torch.ones(1),
        "visual.proj": torch.ones(1),
        "logit_scale": torch.ones(1),
    }
    fitted = checkpoints.fit(checkpoint(state, tmp_path), model, "ViT-X", lambda sizes: [])
    assert {name: tensor.shape for name, tensor in fitted.items()} == {n: t.shape for n, t in model.items()}
    assert fitted["text.transformer.a"].item() == 1
    assert fitted["logit_scale"].item() == 1


@pytest.mark.parametrize("beside", [{"step": torch.tensor(7)}, {"logit_bias": torch.tensor([-10.0])}, {"epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "model.", "clip_model.", "module.backbone."])
def test_numbers_beside_the_weights_of_a_clip_do_not_matter(clip, tmp_path, prefix, beside):
    torch.save({"state_dict": prefixed(prefix, clip.state_dict()) | prefixed(prefix, beside)}, tmp_path / "clip.pt")
    fitted = checkpoints.fit(checkpoints.read(tmp_path / "clip.pt"), clip.state_dict(), "tiny", lambda sizes: ())
    assert_same(fitted, clip.state_dict())


def test_weights_beside_those_of_the_model_are_not_dropped(clip, tmp_path):
    extra = {"model.head.weight": torch.ones(3, 3)}
    torch.save(prefixed("model.", clip.state_dict()) | extra, tmp_path / "clip.pt")
    with pytest.raises(InputError, match=r"1 unexpected: head\.weight"):
        checkpoints.fit(checkpoints.read(tmp_path / "clip.pt"), clip.state_dict(), "tiny", lambda sizes: ())


def test_a_tower_alone_keeps_its_name(tmp_path):
    state = {"visual.conv1.weight": torch.ones(2, 2), "visual.proj": torch.ones(2, 2)}
    torch.save(prefixed("model.", state), tmp_path / "visual.pt")
    assert_same(checkpoints.read(tmp_path / "visual.pt").state, state)
