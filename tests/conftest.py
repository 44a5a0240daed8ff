"""Fixtures: a tiny random CLIP, a small data set of real PNG files, and places that are thrown away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch.clip import model as backbones
from gcsearch.clip.model import Backbone
from gcsearch.config.task import Task
from gcsearch.data import datasets
from gcsearch.data.features import FeatureCache
from gcsearch.training.task_data import Laboratory
from tests.support.shell import AT_THE_START, cleaned

CLASSES = ("red dog", "blue dog", "green_cat", "tiny yellow cat", "horse", "old horse", "owl", "snowy white owl")


# The same examples each time, however busy the machine is; nothing is kept between runs.
hypothesis.settings.register_profile("gcsearch", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("gcsearch")


def pytest_configure(config: pytest.Config) -> None:
    """Forget the shell, before any module reads it or starts a process. Workers of xdist inherit what is left."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job that a script sent to the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored below nohup
    if not hasattr(config, "workerinput"):
        before = dict(os.environ)
        home = Path(tempfile.mkdtemp(prefix="gcsearch-home-"))
        _replace_environment(cleaned(os.environ, home))
        config.add_cleanup(lambda: _replace_environment(before))
        config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in ("COLUMNS", "LINES"):  # readline exports them behind Python's back, and workers inherit them
        os.environ.pop(name, None)
    AT_THE_START.update(os.environ)


def _replace_environment(wanted: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(wanted)
    tempfile.tempdir = None  # remembered from TMPDIR


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def random_clip(width: int, layers: int, embed: int, seed: int = 0):
    """A randomly initialised CLIP of OpenAI's architecture and open_clip's own class."""
    from importlib import import_module

    backbones.declare_torchvision_operators()
    library = import_module("open_clip.model")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = library.CLIP(
            embed_dim=embed,
            vision_cfg=library.CLIPVisionCfg(image_size=32, layers=1, width=64, patch_size=16),
            text_cfg=library.CLIPTextCfg(
                context_length=77, vocab_size=49408, width=width, heads=width // 64, layers=layers
            ),
            quick_gelu=True,
        )
    return model.eval().requires_grad_(False)


def as_backbone(model, name: str = "tiny") -> Backbone:
    return Backbone(
        name=name,
        tower=backbones.text_tower(model, name),
        image_size=32,
        embedding_size=model.text_projection.shape[1],
        fingerprint=backbones.fingerprint(model),
        model=model,
    )


@pytest.fixture(scope="session")
def clip():
    return random_clip(width=64, layers=2, embed=32)


@pytest.fixture(scope="session")
def backbone(clip) -> Backbone:
    return as_backbone(clip)


def write_dataset(root: Path, classes=CLASSES, train=6, val=4, test=6) -> Path:
    """A data set in the CoOp layout: every class a colour with noise, so that there is something to learn."""
    generator = np.random.default_rng(0)
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        colour = generator.uniform(40, 215, 3)
        for part, count in (("train", train), ("val", val), ("test", test)):
            for index in range(count):
                path = Path(name.replace(" ", "_")) / f"{part}{index}.png"
                pixels = np.clip(colour + generator.normal(0, 40, (40, 36, 3)), 0, 255).astype(np.uint8)
                (root / "tiny" / "images" / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / "tiny" / "images" / path)
                split[part].append([str(path), label, name])
    (root / "tiny" / "split_zhou_Tiny.json").write_text(json.dumps(split))
    return root


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _tiny_is_known(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "tiny", datasets.Layout("tiny", "images", "split_zhou_Tiny.json"))


@pytest.fixture
def tiny_dataset(data_root):
    return datasets.load("tiny", data_root)


@pytest.fixture(scope="session")
def laboratory(data_root, backbone, tmp_path_factory) -> Laboratory:
    datasets.DATASETS["tiny"] = datasets.Layout("tiny", "images", "split_zhou_Tiny.json")
    task = Task(dataset="tiny", shots=4, folds=2, views=2)
    dataset = datasets.load("tiny", data_root)
    del datasets.DATASETS["tiny"]
    return Laboratory(task, backbone, dataset, FeatureCache(tmp_path_factory.mktemp("features"), backbone))
