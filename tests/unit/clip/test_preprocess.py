"""Pixels: those of open_clip's own preparation, and views that keep to what they state."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gcsearch.clip.model import _preparation, declare_torchvision_operators
from gcsearch.clip.preprocess import Preparation, random_box, random_view
from gcsearch.data import image_files
from gcsearch.data.image_loader import Job, prepare
from gcsearch.errors import InputError
from tests.support.images import noise


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("width", "height"), [(71, 50), (50, 71), (32, 32), (17, 90), (20, 24), (301, 299)])
def test_the_fixed_transform_is_open_clips_to_the_last_pixel(resize_mode, interpolation, width, height):
    declare_torchvision_operators()
    library = pytest.importorskip("open_clip")
    mode = "L" if width == 20 else "RGB"
    image = noise(width, height, mode)
    theirs = library.image_transform(
        32, is_train=False, resize_mode=resize_mode, interpolation=interpolation, fill_color=77, mean=(0.0,), std=(1.0,)
    )
    expected = np.round(theirs(image).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    ours = Preparation(32, interpolation=interpolation, resize_mode=resize_mode, fill_color=77)
    assert np.array_equal(np.asarray(ours.fixed(image.convert("RGB"))), expected)


def test_a_models_own_preparation_is_read_from_what_it_states():
    stated = {"mean": 0.5, "std": [0.1, 0.2, 0.3], "interpolation": "bilinear", "resize_mode": "squash", "size": 32}
    assert _preparation(stated) == {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.1, 0.2, 0.3),
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    assert _preparation({"interpolation": "random", "fill_color": None}) == {}
    with pytest.raises(InputError, match="known resize_mode, got 'stretch'"):
        _preparation({"resize_mode": "stretch"})


def test_random_views_keep_to_the_stated_area_and_ratio():
    generator = np.random.default_rng(0)
    encoded = [random_box(200, 100, generator) for _ in range(300)]
    areas = [(r - left) * (b - top) / 20000 for left, top, r, b in encoded]
    ratios = [(r - left) / (b - top) for left, top, r, b in encoded]
    assert 0.07 < min(areas) < 0.15
    assert max(areas) > 0.5
    assert 0.7 < min(ratios) < max(ratios) < 1.38
    assert all(0 <= left < r <= 200 and 0 <= top < b <= 100 for left, top, r, b in encoded)
    image = Image.new("RGB", (200, 100), "blue")
    assert random_view(image, 32, generator).size == (32, 32)
    assert random_box(1, 1000, generator)[2:] <= (1, 1000)


def test_an_image_is_opened_once_for_its_views_and_all_unreadable_ones_are_told(tmp_path, monkeypatch):
    for name in ("a.png", "c.png"):
        noise(40, 30).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"nothing")
    cut = (tmp_path / "c.png").read_bytes()
    (tmp_path / "d.png").write_bytes(cut[: len(cut) // 2])
    opened = []
    read = image_files.read
    monkeypatch.setattr(image_files, "read", lambda path, exif: opened.append(path.name) or read(path, exif=exif))
    names = tuple(name for name in ("a.png", "b.png", "c.png", "d.png") for _ in range(3))
    done = prepare(Job(str(tmp_path), names, tuple((1, view) for view in range(3)) * 4, Preparation(16)))
    assert opened == ["a.png", "b.png", "c.png", "d.png"]
    assert sorted(done.unreadable) == ["b.png", "d.png"]
    assert done.pixels.shape == (12, 16, 16, 3)
    assert not np.array_equal(done.pixels[0], done.pixels[1])
    assert [bool(rows.any()) for rows in done.pixels.reshape(4, -1)] == [True, False, True, False]
