"""The engine on a GPU gives the processor's numbers and never waits for it inside a step. Skipped without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gcsearch.methods.registry import METHODS
from gcsearch.training.population import Member, Population, _Sums
from tests.support.methods import setting
from tests.support.models import as_backbone, random_clip

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TRAINED = [name for name in METHODS if name != "zeroshot"]


@pytest.fixture(scope="module")
def on_gpu():
    return as_backbone(random_clip(width=64, layers=2, embed=32).cuda())


@pytest.mark.parametrize("name", TRAINED)
def test_a_curve_on_a_gpu_is_the_processors(laboratory, on_gpu, name):
    members = [Member(setting(name), episode) for episode in laboratory.episodes("search", [1, 2])]
    there, here = Population(on_gpu, members), Population(laboratory.backbone, members)
    for _ in range(3):
        far, near = there.train_epoch(), here.train_epoch()
    assert [n["loss"] for n in far] == pytest.approx([n["loss"] for n in near], rel=0.02)
    assert all(
        set(one.metrics) == set(other.metrics) for one, other in zip(there.evaluate(), here.evaluate(), strict=True)
    )


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_tower_of_half_precision_trains_float32_prompts(laboratory, on_gpu, precision):
    half = replace(on_gpu, tower=on_gpu.tower.to(precision))
    members = [Member(setting("gcscoop"), episode) for episode in laboratory.episodes("search", [1, 2])]
    population = Population(half, members)
    population.train_epoch()
    assert population.parameters.dtype == torch.float32
    assert population.alive.all()


@pytest.mark.parametrize("name", TRAINED)
def test_no_step_waits_for_the_gpu(laboratory, on_gpu, name):
    members = [Member(setting(name), episode) for episode in laboratory.episodes("search", [1, 2])]
    population = Population(on_gpu, members)
    population.train_epoch()
    images = torch.stack([member.episode.views[0][:4].float() for member in members]).cuda()
    labels, rate, sums = population.labels[:, :4], torch.full((2,), 0.01).cuda(), _Sums(2, images.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        population._step(images, labels, rate, sums)
    finally:
        torch.cuda.set_sync_debug_mode("default")
