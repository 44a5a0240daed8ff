"""The feature cache: exact, never stale, never half-written, mended when damaged."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gcsearch import datasets, features, files
from gcsearch.errors import InputError
from gcsearch.features import FeatureCache, centre, random_view
from tests.conftest import as_backbone, random_clip


@pytest.fixture
def cache(tmp_path, backbone):
    return FeatureCache(tmp_path / "features", backbone)


def entries(cache):
    return sorted(cache.folder.glob("*.arrow"))


def test_features_are_those_of_the_encoder(cache, tiny_dataset, backbone):
    items = tiny_dataset.test[:5]
    found = cache.fixed(tiny_dataset, items)
    library = pytest.importorskip("open_clip")
    transform = library.image_transform(32, is_train=False)
    pixels = torch.stack([transform(Image.open(tiny_dataset.images / item.path)) for item in items])
    torch.testing.assert_close(found, backbone.encode_images(pixels))


def test_an_entry_is_computed_once(cache, tiny_dataset):
    calls = []
    first = cache.fixed(tiny_dataset, tiny_dataset.val, lambda done, total: calls.append((done, total)))
    assert calls == [(32, 32)]
    again = cache.fixed(tiny_dataset, tiny_dataset.val, lambda done, total: calls.append("again"))
    assert calls == [(32, 32)]
    assert torch.equal(first, again)


def test_views_depend_on_seed_and_image_only(cache, tiny_dataset):
    items = tiny_dataset.train[:6]
    views = cache.views(tiny_dataset, items, seed=1, count=3)
    assert views.shape == (3, 6, 32)
    assert not torch.equal(views[0], views[1])
    torch.testing.assert_close(cache.views(tiny_dataset, items[::-1], seed=1, count=2), views[:2].flip(1))
    assert not torch.equal(cache.views(tiny_dataset, items, seed=2, count=3), views)


def test_the_key_changes_with_every_input(cache, tiny_dataset, tmp_path):
    cache.fixed(tiny_dataset, tiny_dataset.val)
    cache.fixed(tiny_dataset, tiny_dataset.val[1:])
    FeatureCache(cache.folder, as_backbone(random_clip(64, 2, 32, seed=1))).fixed(tiny_dataset, tiny_dataset.val)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_dataset.images.parent, copy / "tiny")
    same = datasets.load("tiny", copy)
    cache.fixed(same, same.val)
    assert len(entries(cache)) == 3  # another place is no other content
    Image.new("RGB", (40, 36), "red").save(copy / "tiny" / "images" / same.val[0].path)
    cache.fixed(same, same.val)
    assert len(entries(cache)) == 4


@pytest.mark.parametrize("damage", ["flip a byte", "cut off", "empty", "foreign"])
def test_a_damaged_entry_is_rebuilt_and_never_read(cache, tiny_dataset, damage):
    good = cache.fixed(tiny_dataset, tiny_dataset.val).clone()
    (path,) = entries(cache)
    content = bytearray(path.read_bytes())
    middle = content.index(good[3].numpy().tobytes())
    content[middle] ^= 0xFF
    path.unlink()
    path.write_bytes(
        {"flip a byte": bytes(content), "cut off": bytes(content[:middle]), "empty": b"", "foreign": b"PK" * 999}[
            damage
        ]
    )
    calls = []
    mended = cache.fixed(tiny_dataset, tiny_dataset.val, lambda *done: calls.append(done))
    assert calls
    assert torch.equal(mended, good)


def test_an_interrupted_write_leaves_nothing_that_is_read(cache, tiny_dataset, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cache.fixed(tiny_dataset, tiny_dataset.val)
    assert entries(cache) == []


def test_an_unreadable_image_is_named(cache, tiny_dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_dataset.images.parent, copy / "tiny")
    broken = datasets.load("tiny", copy)
    (broken.images / broken.val[2].path).write_bytes(b"not an image")
    with pytest.raises(InputError, match=f"{broken.val[2].path}.*must be readable"):
        cache.fixed(broken, broken.val)


def test_transforms_equal_torchvisions(backbone):
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(0).integers(0, 255, (50, 71, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    theirs = transforms.Compose(
        [transforms.Resize(32, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
    )(image)
    assert np.array_equal(np.asarray(centre(image, 32)), np.asarray(theirs))


def test_random_views_keep_to_the_stated_area_and_ratio():
    generator = np.random.default_rng(0)
    boxes = [features._random_box(200, 100, generator) for _ in range(300)]
    areas = [(r - left) * (b - top) / 20000 for left, top, r, b in boxes]
    ratios = [(r - left) / (b - top) for left, top, r, b in boxes]
    assert 0.07 < min(areas) < 0.15
    assert max(areas) > 0.5
    assert 0.7 < min(ratios) < max(ratios) < 1.38
    assert all(0 <= left < r <= 200 and 0 <= top < b <= 100 for left, top, r, b in boxes)
    image = Image.new("RGB", (200, 100), "blue")
    assert random_view(image, 32, generator).size == (32, 32)
    assert features._random_box(1, 1000, generator)[2:] <= (1, 1000)
