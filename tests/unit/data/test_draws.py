"""The reference's few-shot draw from the same seed, and its pickled caches, read without running them."""

from __future__ import annotations

import os
import pickle
import random
import sys
import types

import pytest

from gcsearch.data import datasets, inspect
from gcsearch.data.datasets import Dataset
from gcsearch.data.lists import draws
from gcsearch.data.lists.splits import Item
from gcsearch.errors import InputError
from tests.support.trees import TREES


class Datum:
    """As the toolbox of the CoOp repositories records an image."""

    def __init__(self, impath, label, classname):
        self._impath, self._label, self._domain, self._classname = impath, label, 0, classname


Datum.__module__ = "dassl.data.datasets.base_dataset"


def dump(content, path, monkeypatch):
    """Pickle as the repositories do, their toolbox being there while it is written and gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as there:
        parts = Datum.__module__.split(".")
        for depth in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:depth]))
            module.Datum = Datum
            there.setitem(sys.modules, module.__name__, module)
        path.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
    assert Datum.__module__ not in sys.modules


def their_draw(dataset, shots, seed):
    """The published procedure on Python's global generator: seed, then train, then val with min(shots, 4)."""
    state = random.getstate()
    random.seed(seed)
    lists = []
    for items, count in ((dataset.train, shots), (dataset.val, min(shots, 4))):
        by_label: dict[int, list[Item]] = {}
        for item in items:
            by_label.setdefault(item.label, []).append(item)
        lists.append(
            [i for some in by_label.values() for i in (random.sample(some, count) if len(some) >= count else some)]
        )
    random.setstate(state)
    return lists


@pytest.fixture
def uneven(tmp_path):
    """Labels out of order in the train list, and a class with fewer images than shots."""
    counts = {3: 20, 0: 5, 2: 30, 1: 17}
    train = [Item(f"t{label}/{index}.jpg", label) for label, count in counts.items() for index in range(count)]
    random.Random(0).shuffle(train)
    val = [Item(f"v{label}/{index}.jpg", label) for index in range(6) for label in (1, 3, 0, 2)]
    return Dataset("x", tmp_path, ("a", "b", "c", "d"), tuple(train), tuple(val), ())


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_draw_is_the_references_from_the_same_seed(uneven, shots, seed):
    ours = draws.reference_draw(uneven, shots, seed)
    assert [list(part) for part in ours] == their_draw(uneven, shots, seed)
    assert len(ours[1]) == 4 * min(shots, 4)


def cached(dataset, shots, seed):
    train, val = their_draw(dataset, shots, seed)
    as_data = [
        [Datum(f"/home/someone/data/{item.path}", item.label, dataset.classes[item.label]) for item in items]
        for items in (train, val)
    ]
    return dict(zip(("train", "val"), as_data, strict=True))


def test_a_reference_cache_is_read_and_agrees(uneven, tmp_path, monkeypatch):
    path = tmp_path / "shot_4-seed_1.pkl"
    dump(cached(uneven, 4, 1), path, monkeypatch)
    read = draws.read_reference_draw(path)
    ours = draws.reference_draw(uneven, 4, 1)
    assert [(i.path, i.label) for i in read.train] == [(f"/home/someone/data/{i.path}", i.label) for i in ours[0]]
    assert read.val[0].name == uneven.classes[ours[1][0].label]
    assert draws.compare_draw(uneven, path) == "agrees"


def test_a_cache_of_another_draw_is_told_by_its_number_of_images(uneven, tmp_path, monkeypatch):
    path = tmp_path / "shot_4-seed_2.pkl"
    content = cached(uneven, 4, 2)
    content["train"][0]._label += 1
    content["val"][0]._impath += ".png"
    dump(content, path, monkeypatch)
    assert draws.compare_draw(uneven, path) == "differs in 2 of 32 images"
    other = path.rename(tmp_path / "other.pkl")
    assert draws.compare_draw(uneven, other) == "is not named shot_K-seed_S.pkl"


def test_a_cache_without_val_is_compared_by_its_train_list(uneven, tmp_path, monkeypatch):
    path = tmp_path / "shot_4-seed_1.pkl"
    dump({"train": cached(uneven, 4, 1)["train"]}, path, monkeypatch)
    assert draws.read_reference_draw(path).val == ()
    assert draws.compare_draw(uneven, path) == "agrees"


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_cache_that_would_execute_something_is_refused_unexecuted(tmp_path, protocol):
    path, marker = tmp_path / "shot_1-seed_1.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"train": [Evil(marker)], "val": []}, protocol=protocol))
    with pytest.raises(InputError, match=r"nothing but records of images, got .*mkdir"):
        draws.read_reference_draw(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"val": []}), pickle.dumps({"train": [1]})],
)
def test_a_damaged_cache_is_said_to_be_one(uneven, tmp_path, content):
    path = tmp_path / "shot_1-seed_1.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds the lists train and val of images"):
        draws.read_reference_draw(path)
    assert draws.compare_draw(uneven, path).startswith("cannot be read: ")


def test_records_of_other_shapes_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "shot_1-seed_1.pkl"
    dump({"train": [Datum(b"bytes", 0, "a")]}, path, monkeypatch)
    with pytest.raises(InputError, match="holds the lists train and val of images"):
        draws.read_reference_draw(path)
    with pytest.raises(InputError, match="must exist"):
        draws.read_reference_draw(tmp_path / "absent.pkl")


def test_the_data_check_says_whether_cached_draws_agree(tmp_path, monkeypatch):
    TREES["OxfordPets by its split"](tmp_path)
    found = datasets.load("OxfordPets", tmp_path)
    folder = tmp_path / "oxford_pets" / "split_fewshot"
    dump(cached(found, 2, 1), folder / "shot_2-seed_1.pkl", monkeypatch)
    dump(cached(found, 2, 1), folder / "shot_2-seed_2.pkl", monkeypatch)
    _, first, second = inspect.examine(tmp_path, "OxfordPets").notes
    assert first == "split_fewshot/shot_2-seed_1.pkl agrees"
    assert "shot_2-seed_2.pkl differs in" in second
