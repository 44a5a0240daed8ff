"""The embedded world: drawn the same every time, written like any other data set, shipped with its model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcsearch import files
from gcsearch.data import datasets, inspect
from gcsearch.data.lists import draws
from gcsearch.data.synthetic import worlds
from gcsearch.data.synthetic.drawing import COLOURS, SHAPES, SIDE, Look
from gcsearch.data.synthetic.generated import FEWEST, MOST
from gcsearch.data.synthetic.styles import STYLES, Finish, render
from gcsearch.data.synthetic.worlds import WORLDS, World, write_dataset
from gcsearch.errors import InputError

ASSETS = files.ASSETS


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of 4 classes and 28 images, known as `tiny`."""
    names = ("red star", "blue striped fish", "key", "dark green two tone lightning bolt")
    world = replace(WORLDS["shapes-sketch"], name="tiny", title="Tiny", class_names=names, train=3, val=2, test=2)
    monkeypatch.setattr(worlds, "WORLDS", {**WORLDS, "tiny": world})
    return world


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---------------------------------------------------------------------------------------------- drawing
@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_every_shape_differently(style: str) -> None:
    """With all else equal (generator, colour, pattern), another shape is another picture."""
    drawn = {render(Look(shape, "blue", "plain"), style, np.random.default_rng(3)).tobytes() for shape in SHAPES}
    assert len(drawn) == len(SHAPES)


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_the_object_has_its_colour(colour: str) -> None:
    image = render(Look("circle", colour, "plain"), "watercolour", np.random.default_rng(0))
    darkest = image.reshape(-1, 3)[image.reshape(-1, 3).sum(1).argsort()[:100]].mean(0)
    assert darkest.argmax() == np.argmax(COLOURS[colour])


def test_images_do_not_depend_on_the_order_of_drawing() -> None:
    world = WORLDS["shapes-neon"]
    keys = [("train", 0, 0), ("train", 0, 1), ("test", 0, 0), ("val", 7, 3)]
    forward = [world.image(*key) for key in keys]
    backward = [world.image(*key) for key in reversed(keys)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert len({image.tobytes() for image in forward}) == len(keys)


def test_another_seed_draws_other_images() -> None:
    world = WORLDS["shapes-photo"]
    assert not np.array_equal(world.image("train", 0, 0, seed=1), world.image("train", 0, 0, seed=2))


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(InputError, match=r"(?s)skech.*Did you mean 'sketch'"):
        render(Look("star"), "skech", np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ names
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_class_names_are_unique_and_say_what_is_drawn(world: World) -> None:
    assert len(set(world.class_names)) == len(world.class_names) >= 20
    assert len(world.class_names) % 2 == 0
    for name in world.class_names:
        assert Look.parse(name).name == name
    assert world.train >= 20 and world.val >= 16 and world.test >= 40


def test_one_world_has_many_classes() -> None:
    assert len(WORLDS) >= 6
    assert max(len(world.class_names) for world in WORLDS.values()) >= 40


def test_a_bare_shape_leaves_the_rest_open() -> None:
    assert Look.parse("key") == Look("key", None, None)
    assert Look.parse("striped key") == Look("key", None, "striped")
    assert Look.parse("red key") == Look("key", "red", "plain")
    assert Look.parse("light blue two tone pine tree") == Look("pine tree", "light blue", "two tone")


@pytest.mark.parametrize("name", ["red unicorn", "reddish star"])
def test_names_outside_the_vocabulary_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="Known:"):
        Look.parse(name)


# ------------------------------------------------------------------------------------------ by seed
def test_a_seed_describes_one_world_for_ever() -> None:
    """Tables name worlds by their seeds. Pixels are compared loosely: another NumPy may round otherwise."""
    world = worlds.find("world:1")
    assert (len(world.class_names), world.style, world.clutter) == (18, "mosaic", 0.65)
    assert world.class_names[:2] == ("red spotted sailboat", "black spotted triangle")
    assert world.finish == Finish(photo=0.208, cast=(1.0, 1.0, 1.0), noise=0.019)
    image = world.image("train", 0, 0)
    assert image.mean(axis=(0, 1)) == pytest.approx([160.93, 158.55, 137.34], abs=0.5)


def test_seeds_differ_in_all_that_is_drawn() -> None:
    drawn = [worlds.find(f"world:{seed}") for seed in range(200)]
    assert {world.style for world in drawn} == set(STYLES)
    sizes = [len(world.class_names) for world in drawn]
    assert min(sizes) == FEWEST and max(sizes) >= MOST - 4 and all(size % 2 == 0 for size in sizes)
    for world in drawn:
        assert len(set(world.class_names)) == len(world.class_names)
        assert all(Look.parse(name).name == name for name in world.class_names)
        assert 0 <= world.finish.noise <= 0.09 and 0.1 <= world.finish.photo <= 0.8
    assert 50 < sum(world.finish.cast != (1, 1, 1) for world in drawn) < 150


def test_a_finish_changes_the_image_and_none_leaves_it() -> None:
    look, finishes = Look("star", "red", "plain"), (Finish(photo=0.5), Finish(cast=(0.5, 1, 1)), Finish(noise=0.1))
    plain, *others = (render(look, "chalk", np.random.default_rng(0), finish=one) for one in (Finish(), *finishes))
    assert np.array_equal(plain, render(look, "chalk", np.random.default_rng(0)))
    assert len({image.tobytes() for image in (plain, *others)}) == 4


def test_a_generated_world_is_an_ordinary_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(worlds.find("world:4"), train=1, val=1, test=1)
    monkeypatch.setattr(worlds, "_generated", lambda seed: small)
    assert write_dataset("world:4", tmp_path) == tmp_path / "world_4"
    dataset = datasets.load("world:4", tmp_path)
    assert (dataset.name, dataset.classes) == ("world-4", small.class_names)
    assert inspect.present(tmp_path) == ["world:4"] and inspect.own(tmp_path) == []
    assert set(draws.other_names(dataset)) <= {name for world in WORLDS.values() for name in world.class_names}


@pytest.mark.parametrize("name", ["world:", "world:01", "world:-1", "world:x", "world:1234567890"])
def test_a_world_has_one_name(name: str) -> None:
    assert not worlds.is_embedded(name)
    with pytest.raises(InputError, match="world:SEED"):
        worlds.find(name)
    with pytest.raises(InputError, match="world:SEED"):
        datasets.find(name)


# ---------------------------------------------------------------------------------------------- writing
def test_it_is_an_ordinary_data_set(tmp_path: Path, tiny: World) -> None:
    folder = write_dataset("tiny", tmp_path)
    assert folder == tmp_path / "tiny"
    split = json.loads((folder / "split_zhou_Tiny.json").read_text(encoding="utf-8"))
    assert {part: len(items) for part, items in split.items()} == {"train": 12, "val": 8, "test": 8}
    paths = [path for items in split.values() for path, _, _ in items]
    assert len(set(paths)) == len(paths) == tiny.images
    for path, label, name in (item for items in split.values() for item in items):
        assert tiny.class_names[label] == name
        with Image.open(folder / "images" / path) as image:
            assert image.size == (SIDE, SIDE) and image.mode == "RGB"


def test_two_writings_are_identical_byte_for_byte(tmp_path: Path, tiny: World) -> None:
    first, second = write_dataset("tiny", tmp_path / "a"), write_dataset("tiny", tmp_path / "b")
    assert digests(first) == digests(second)
    assert digests(first) != digests(write_dataset("tiny", tmp_path / "c", seed=9))


def test_a_complete_folder_is_left_alone(tmp_path: Path, tiny: World) -> None:
    calls: list[tuple[int, int]] = []
    write_dataset("tiny", tmp_path, on_image=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 28) for n in range(1, 29)]
    write_dataset("tiny", tmp_path, on_image=lambda done, total: calls.append((done, total)))
    assert len(calls) == 28


def test_a_killed_writer_leaves_no_folder_behind(tmp_path: Path, tiny: World) -> None:
    """Stopped half-way, the data set is absent rather than half there, and the next call writes all of it."""

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset("tiny", tmp_path, on_image=stop)
    assert list(tmp_path.iterdir()) == []
    assert len(list(write_dataset("tiny", tmp_path).rglob("*.png"))) == 28


def test_old_leftovers_are_swept_and_young_ones_kept(tmp_path: Path, tiny: World) -> None:
    old, young = tmp_path / ".tiny.old", tmp_path / ".tiny.young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    write_dataset("tiny", tmp_path)
    assert not old.exists() and young.exists()


def test_a_folder_that_another_process_finished_first_is_used(tmp_path: Path, tiny: World) -> None:
    def overtake(done: int, total: int) -> None:
        if done == 5:
            write_dataset("tiny", tmp_path)

    folder = write_dataset("tiny", tmp_path, on_image=overtake)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_an_incomplete_folder_is_named(tmp_path: Path, tiny: World) -> None:
    folder = write_dataset("tiny", tmp_path)
    (folder / "images" / "key" / "000.png").unlink()
    with pytest.raises(InputError, match=rf"(?s){re.escape(str(folder))}.*all 28 images.*27 images.*Move or delete"):
        write_dataset("tiny", tmp_path)


def test_a_foreign_folder_is_named_and_kept(tmp_path: Path, tiny: World) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"no readable world\.json"):
        write_dataset("tiny", tmp_path)
    assert (tmp_path / "tiny" / "thesis.txt").read_text() == "mine"


def test_a_folder_of_another_seed_is_not_mistaken_for_ours(tmp_path: Path, tiny: World) -> None:
    write_dataset("tiny", tmp_path, seed=1)
    with pytest.raises(InputError, match="seed is 2, got 1"):
        write_dataset("tiny", tmp_path, seed=2)


def test_an_unknown_world_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Did you mean 'shapes-sketch'.*shapes-many"):
        write_dataset("shapes-skech", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_torch() -> None:
    code = "import sys, gcsearch.data.synthetic.worlds; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------------- the model
def test_the_bundled_model_is_small_and_says_what_it_is() -> None:
    from safetensors import safe_open

    file = ASSETS / "mini.safetensors"
    assert file.stat().st_size <= 8_000_000
    with safe_open(file, "numpy") as stored:
        metadata = stored.metadata()
        rows = stored.get_tensor("token_embedding.rows")
        table = stored.get_tensor("token_embedding.weight")
        names = set(stored.keys())
    architecture = json.loads(metadata["architecture"])
    assert metadata["format"] == "gcsearch-mini"
    assert architecture["image_size"] == SIDE and architecture["quick_gelu"] is True
    assert table.shape == (len(rows), architecture["text"]["width"])
    assert (np.diff(rows) > 0).all()
    assert "attn_mask" not in names and "logit_scale" in names


def test_the_card_belongs_to_the_weights() -> None:
    card = (ASSETS / "mini.md").read_text(encoding="utf-8")
    assert hashlib.sha256((ASSETS / "mini.safetensors").read_bytes()).hexdigest() in card
    assert all(name in card for name in WORLDS)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_model_knows_every_word_of_every_name(world: World) -> None:
    from safetensors import safe_open

    from gcsearch.clip.model import declare_torchvision_operators

    declare_torchvision_operators()
    import open_clip

    with safe_open(ASSETS / "mini.safetensors", "numpy") as stored:
        known = {0, *stored.get_tensor("token_embedding.rows").tolist()}
    tokens = open_clip.tokenize([f"a photo of a {name}." for name in world.class_names])
    assert set(tokens.flatten().tolist()) <= known
