"""Fixtures: a tiny random CLIP, a small data set of real PNG files, and places that are thrown away."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

import hypothesis
import pytest
import torch

from gcsearch.clip.model import Backbone
from gcsearch.config.task import Task
from gcsearch.data import datasets
from gcsearch.data.features import FeatureCache
from gcsearch.training.task_data import Laboratory
from tests.support.browser import Visitor, chromium
from tests.support.images import write_dataset
from tests.support.models import as_backbone, random_clip
from tests.support.shell import AT_THE_START, cleaned

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


@pytest.fixture(scope="session")
def clip():
    return random_clip(width=64, layers=2, embed=32)


@pytest.fixture(scope="session")
def backbone(clip) -> Backbone:
    return as_backbone(clip)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def browser():
    """Of the module: as long as it is open an event loop runs in this thread, which other tests need free."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser):
    """Opens addresses as `Visit`s: `visit(url, width=400, color_scheme="dark").page`."""
    visitor = Visitor(browser)
    yield visitor
    visitor.close()


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


@pytest.fixture
def at_home(laboratory, monkeypatch):
    """The tiny model takes the place of the one that the task names."""
    monkeypatch.setattr("gcsearch.training.loading.backbone_of", lambda task: laboratory.backbone)
    return laboratory
