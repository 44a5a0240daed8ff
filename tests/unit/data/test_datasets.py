"""Split files, the few-shot draw of the CoOp repositories, halves and folds."""

from __future__ import annotations

import json
import random

import pytest

from gcsearch.data import datasets
from gcsearch.data.lists import draws
from gcsearch.data.lists.splits import Item
from gcsearch.errors import InputError
from tests.support.images import CLASSES, write_dataset


def test_a_split_file_is_read_as_it_stands(tiny_dataset):
    assert tiny_dataset.classes == CLASSES
    assert [len(part) for part in (tiny_dataset.train, tiny_dataset.val, tiny_dataset.test)] == [48, 32, 48]
    assert tiny_dataset.train[0] == Item("red_dog/train0.png", 0)


def test_the_draw_is_the_one_that_the_global_generator_would_make(tiny_dataset):
    """The CoOp repositories seed Python's global generator once, then draw train and val."""
    ours = random.Random(3)
    drawn = draws.few_shot(tiny_dataset.train, 4, ours), draws.few_shot(tiny_dataset.val, 2, ours)
    state = random.getstate()
    random.seed(3)
    theirs = []
    for items, shots in ((tiny_dataset.train, 4), (tiny_dataset.val, 2)):
        for label in range(8):
            theirs += random.sample([item for item in items if item.label == label], shots)
    random.setstate(state)
    assert [*drawn[0], *drawn[1]] == theirs


def test_a_class_with_too_few_images_gives_all_of_them():
    items = [Item("a", 0), Item("b", 0), Item("c", 1)]
    assert draws.few_shot(items, 2, random.Random(0))[2:] == (Item("c", 1),)
    assert draws.few_shot(items, None, random.Random(0)) == tuple(items)


@pytest.mark.parametrize(("classes", "base"), [(8, 4), (7, 4), (37, 19)])
def test_base_is_the_first_half_rounded_up(tiny_dataset, classes, base):
    items = tuple(Item(f"{label}.png", label) for label in reversed(range(classes)))
    first, rest = draws.halves(datasets.Dataset("x", tiny_dataset.images, ("",) * classes, items, (), ()))
    assert first == tuple(range(base))
    assert (*first, *rest) == tuple(range(classes))


def test_a_data_set_that_only_tests_is_halved_by_its_test_list(tiny_dataset):
    items = tuple(Item(f"{label}.png", label) for label in range(5))
    found = datasets.Dataset("x", tiny_dataset.images, ("",) * 5, (), (), items)
    assert draws.halves(found) == ((0, 1, 2), (3, 4))


@pytest.mark.parametrize(("classes", "folds"), [(12, 3), (10, 3), (5, 3), (4, 2), (19, 4)])
def test_folds_hold_out_disjoint_classes_of_equal_number(classes, folds):
    labels = tuple(range(100, 100 + classes))
    splits = [draws.hold_out(labels, fold, folds) for fold in range(folds)]
    for trained, held in splits:
        assert sorted((*trained, *held)) == list(labels)
        assert len(held) == len(splits[0][1]) >= 2
    if classes >= 2 * folds:
        every = [label for _, held in splits for label in held]
        assert len(set(every)) == len(every)


def test_too_few_base_classes_cannot_be_split_again():
    with pytest.raises(InputError, match="at least 2 base classes"):
        draws.hold_out((0, 1, 2), 0, 2)


def broken(tmp_path, change):
    write_dataset(tmp_path, classes=("a", "b"), train=1, val=1, test=1)
    path = tmp_path / "tiny" / "split_zhou_Tiny.json"
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("val"), "lists train, val and test"),
        (lambda s: s["train"].append(["a/train0.png", "x", "a"]), "lists train, val and test"),
        (lambda s: s["train"].append(["a/train0.png", 0, "b"]), "label 0 must have one name"),
        (lambda s: s["train"].append(["a/train0.png", 5, "z"]), "without a gap"),
        (lambda s: s["train"].append(["../../secret.png", 0, "a"]), "stay inside the image folder"),
        (lambda s: s["val"].append(["/etc/secret.png", 0, "a"]), "stay inside the image folder"),
        (lambda s: [s[part].clear() for part in s], "at least one image, got no class at all"),
        (lambda s: s["test"].append(["a", 0, "a"]), "1 of 7 are missing"),
        (lambda s: s["test"].append(["", 0, "a"]), "1 of 7 are missing"),
        (lambda s: s["test"].append(["a/gone.png", 0, "a"]), "1 of 7 are missing.*\n*.*a/gone.png"),
    ],
)
def test_what_is_wrong_with_a_split_is_said(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        datasets.load("tiny", broken(tmp_path, change))


def test_unknown_and_absent_data_sets(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'tiny'"):
        datasets.load("tinny", tmp_path)
    with pytest.raises(InputError, match="split file of the data set must exist"):
        datasets.load("tiny", tmp_path)


def test_other_names_are_no_class_however_they_are_written(tiny_dataset, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("Red-Dog\ngreen cat.\nzebra\nHORSE\nzebra\nyak\n", encoding="utf-8")
    assert draws.other_names(tiny_dataset, file) == ("zebra", "yak")
    file.write_text("old_horse\n")
    with pytest.raises(InputError, match=r"names\.txt, task\.other_names: the list must hold names that are no class"):
        draws.other_names(tiny_dataset, file)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"task\.other_names: the file must be text in UTF-8, got UTF-16"):
        draws.other_names(tiny_dataset, file)
    shipped = draws.other_names(tiny_dataset)
    assert len(shipped) >= 100
    assert shipped == draws.other_names(tiny_dataset)


def test_an_embedded_set_takes_the_classes_of_the_others(tmp_path):
    from gcsearch.data.synthetic import worlds

    world = worlds.WORLDS["shapes-sketch"]
    dataset = datasets.Dataset("shapes-sketch", tmp_path, world.class_names, (), (), ())
    names = draws.other_names(dataset)
    assert not set(names) & set(world.class_names)
    assert set(names) <= {name for other in worlds.WORLDS.values() for name in other.class_names}
