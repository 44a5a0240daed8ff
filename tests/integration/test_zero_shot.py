"""Zero-shot accuracy from image files is open_clip's own: same files, same weights, same sentence, every image."""

from __future__ import annotations

import gc
import json
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from gcsearch.clip import model as backbones
from gcsearch.config.task import Task
from gcsearch.data import datasets
from gcsearch.data.features import FeatureCache
from gcsearch.methods.prompts import template_features
from gcsearch.training.episodes import score
from gcsearch.training.task_data import Laboratory

CLASSES = ("red_fox", "great horned owl", "tabby", "große Küche", "x-ray")
TEMPLATE = "a photo of a {}, a type of pet."
SIDES = ((300, 200), (200, 301), (224, 224), (90, 64), (640, 225), (131, 517))
"""Width and height: landscape, portrait, square, smaller than the model's images, odd to scale and to cut."""


def write_images(root):
    """A data set in the CoOp layout: a soft pattern of one colour per class, in JPEG, PNG and grey, in many sizes."""
    generator = np.random.default_rng(0)
    split = {"train": [], "val": [], "test": []}
    for label, name in enumerate(CLASSES):
        colour = generator.uniform(30, 225, 3)
        for part, count in (("train", 1), ("val", 1), ("test", len(SIDES))):
            for index in range(count):
                width, height = SIDES[index]
                coarse = generator.normal(0, 45, (9, 7, 3)) + colour
                image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((width, height))
                image = image.convert("L") if index == 3 else image
                path = f"{label}/{part}{index}{'.png' if index % 3 == 1 else '.jpg'}"
                (root / "tiny" / "images" / path).parent.mkdir(parents=True, exist_ok=True)
                image.save(root / "tiny" / "images" / path)
                split[part].append([path, label, name])
    (root / "tiny" / "split_zhou_Tiny.json").write_text(json.dumps(split), encoding="utf-8")


@torch.no_grad()
def images_by_open_clip(model, preprocess, dataset):
    """Image features [N, E] by nothing but open_clip's functions."""
    pixels = torch.stack([preprocess(Image.open(dataset.images / item.path)) for item in dataset.test])
    return F.normalize(model.encode_image(pixels), dim=-1)


@torch.no_grad()
def names_by_open_clip(name, model, classes):
    """Text features [C, E] by nothing but open_clip's functions."""
    sentences = [TEMPLATE.format(one.replace("_", " ")) for one in classes]
    return F.normalize(model.encode_text(import_module("open_clip").get_tokenizer(name)(sentences)), dim=-1)


@torch.no_grad()
def teach(model, images, labels, text):
    """Set the text projection so that random towers tell classes apart: each name points to where its images lie.

    Untaught, one name wins for nearly every image, and equal predictions would prove little.
    """
    common = images.mean(0)
    offsets = torch.stack([images[labels == label].mean(0) for label in range(len(text))]) - common
    offsets -= (offsets @ common)[:, None] * common / common.square().sum()
    pooled = text @ torch.linalg.pinv(model.text_projection)
    model.text_projection.copy_(torch.linalg.pinv(pooled) @ offsets)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_every_image_is_classified_as_open_clip_does(name, tmp_path):
    """Of equal scores both take the first class; that there are none is asserted, so rounding decides nothing."""
    write_images(tmp_path / "data")
    dataset = datasets.load("tiny", tmp_path / "data")
    labels = torch.tensor([item.label for item in dataset.test])
    backbones.declare_torchvision_operators()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, preprocess = import_module("open_clip").create_model_and_transforms(name, load_weights=False)
    images = images_by_open_clip(model.eval(), preprocess, dataset)
    teach(model, images, labels, names_by_open_clip(name, model, dataset.classes))
    text = names_by_open_clip(name, model, dataset.classes)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    del model
    gc.collect()

    frozen = backbones.load(name, str(tmp_path / "weights.safetensors"))
    task = Task(dataset="tiny", backbone=name, template=TEMPLATE, shots=1, val_shots=1, views=1)
    (episode,) = Laboratory(task, frozen, dataset, FeatureCache(tmp_path / "cache", frozen)).episodes("test", [1])
    features = template_features(frozen, TEMPLATE, episode.names)
    accuracies = []
    for half in (episode.base, episode.new):
        mine = torch.isin(labels, half.classes)
        theirs = images[mine] @ text[half.classes].T
        ours = half.features @ features[half.classes].T
        apart, nearest_tie = (ours - theirs).abs().max(), theirs.topk(2).values.diff().abs().min()
        # Ours come from the cache, in half precision: far closer than any two classes are.
        assert apart < 1e-4 < 1e-3 < nearest_tie
        predicted = theirs.argmax(dim=1)
        assert ours.argmax(dim=1).tolist() == predicted.tolist()
        assert len(set(predicted.tolist())) == len(half.classes)  # a proof on one class would be none
        accuracies.append(100 * (half.classes[predicted] == labels[mine]).sum().item() / int(mine.sum()))
    measured = score(episode, features, frozen.tower.logit_scale).metrics
    assert [measured["test_base_acc"], measured["test_new_acc"]] == accuracies
    assert min(accuracies) > 50  # the lesson was learnt
