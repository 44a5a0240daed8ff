"""What this process has loaded, once each: frozen models, and tasks with their data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from gcsearch.clip import model
from gcsearch.clip.model import Backbone
from gcsearch.config.task import Precision, Task
from gcsearch.data import datasets
from gcsearch.data.feature_file import CacheStorage
from gcsearch.data.features import FeatureCache
from gcsearch.files import cache_address, cache_folder
from gcsearch.training.task_checks import check_template_of
from gcsearch.training.task_data import Laboratory, data_root


@cache
def _backbone(name: str, pretrained: str | None, precision: Precision) -> Backbone:
    """The frozen model, on the GPU where there is one; shared by all tasks that use it."""
    frozen = model.load(name, pretrained, device="cuda" if gpus() else "cpu")
    return replace(frozen, tower=frozen.tower.to(getattr(torch, precision)))


def backbone_of(task: Task) -> Backbone:
    """The task's frozen model, on the GPU where there is one; kept for the life of the process."""
    return _backbone(task.backbone, task.pretrained, task.precision)


_loaded: dict[tuple[Task, int | str], Laboratory] = {}


def laboratory(task: Task, decoders: int | str = "auto") -> Laboratory:
    """The task with its model and data loaded, and `decoders` as in `Resources`; kept until `forget`."""
    if (task, decoders) not in _loaded:
        backbone = backbone_of(task)
        check_template_of(backbone, task.template, "")  # without any name: before images are drawn or listed
        dataset = datasets.load(task.dataset, data_root(task))
        shared = next(iter(cache_storages()[1:]), None)
        features = FeatureCache(_features(), backbone, decoders, shared, task.exif)
        _loaded[task, decoders] = Laboratory(task, backbone, dataset, features)
    return _loaded[task, decoders]


def laboratories(task: Task, decoders: int | str = "auto") -> list[Laboratory]:
    """One for each data set of a sweep; those of another task go: a process may serve a whole matrix."""
    for other in [known for known in _loaded if known[0] not in task.each]:
        del _loaded[other]
    return [laboratory(one, decoders) for one in task.each]


def forget() -> None:
    """Let go of the tasks that are kept: lists of images of large data sets would add up, and data may change."""
    _loaded.clear()


def cache_storages() -> list[CacheStorage]:
    """Where entries of the feature cache lie: this machine's folder, and the shared place where there is one."""
    address = cache_address()
    return [CacheStorage.of_folder(_features()), *([CacheStorage.of_uri(f"{address}/features")] if address else [])]


def _features() -> Path:
    return cache_folder() / "features"


def weights_of(task: Task) -> str:
    """The fingerprint of the task's model."""
    return backbone_of(task).fingerprint


def gpus() -> int:
    """CUDA devices that torch sees."""
    return torch.cuda.device_count()
