"""What is refused or named before anything is trained: empty lists, images known before, classes that look alike."""

from __future__ import annotations

import json
import os
import shutil
import warnings

import pytest

from gcsearch.config.task import Task
from gcsearch.data import datasets, inspect
from gcsearch.data.features import FeatureCache
from gcsearch.data.lists import draws
from gcsearch.data.lists.splits import FreshSplitWarning, RepeatWarning
from gcsearch.driver.prepare import check_data
from gcsearch.errors import InputError
from gcsearch.sweep.callbacks import Callback
from gcsearch.training import task_checks
from gcsearch.training.task_data import Laboratory
from tests.support.images import write_dataset
from tests.support.trees import put, write

SEARCH, TEST = ("search", (1,)), ("test", (4,))


@pytest.fixture
def check(tmp_path, backbone):
    """Check the data set below `tmp_path` for stages of a task, as `plan`, `run`, `cache` and `train` do."""

    def make(*measured, name="tiny", **task):
        found = datasets.load(name, tmp_path)
        task = Task(dataset=name, root=str(tmp_path), **task)
        laboratory = Laboratory(task, backbone, found, FeatureCache(tmp_path / "c", backbone))
        task_checks.check_names(laboratory)
        for stage, _ in measured:
            laboratory.check_lists(stage)
        check_data(laboratory, measured, Callback())

    return make


def change(root, change):
    """Rewrite the split file of `write_dataset`."""
    path = root / "tiny" / "split_zhou_Tiny.json"
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))


def without(part, *labels):
    return lambda split: split.update({part: [row for row in split[part] if row[1] not in labels]})


# --- No image, no number ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lacking", "task", "stages", "message"),
    [
        (without("val", *range(8)), {}, [SEARCH], "scored on validation images.*in the list val, got no image at all"),
        (without("val", 1, 3), {}, [SEARCH, TEST], "in the list val, got none for blue dog, tiny yellow cat"),
        (without("val", 7), {"classes": "all"}, [SEARCH], "in the list val, got none for snowy white owl"),
        (without("train", 2), {}, [SEARCH], "in the list train, got none for green_cat"),
        (without("train", 2), {}, [TEST], "in the list train, got none for green_cat"),
        (without("train", 6), {"classes": "all"}, [TEST], "in the list train, got none for owl"),
        (without("test", 0), {}, [SEARCH, TEST], "measured on test images.*in the list test, got none for red dog"),
        (without("test", 6), {}, [TEST], "in the list test, got none for owl"),
        (without("test", *range(8)), {}, [TEST], "in the list test, got no image at all"),
    ],
)
def test_a_list_that_is_read_must_have_each_class_that_needs_an_image(tmp_path, check, lacking, task, stages, message):
    change(write_dataset(tmp_path), lacking)
    with pytest.raises(InputError, match=message):
        check(*stages, **task)


@pytest.mark.parametrize(
    ("lacking", "task", "stages"),
    [
        (without("val", *range(8)), {}, [TEST]),  # an oracle's search, and `train` in the stage test
        (without("val", 6, 7), {}, [SEARCH, TEST]),  # new classes are never validated
        (without("train", 6, 7), {}, [SEARCH, TEST]),  # nor trained
        (without("test", 6, 7), {}, [SEARCH]),
    ],
)
def test_what_no_stage_reads_may_lack(tmp_path, check, lacking, task, stages):
    change(write_dataset(tmp_path), lacking)
    check(*stages, **task)


def test_classes_without_training_images_are_new_ones_and_stay_in_the_data_set(tmp_path):
    change(write_dataset(tmp_path), without("train", 6, 7))
    assert draws.halves(datasets.load("tiny", tmp_path)) == ((0, 1, 2, 3), (4, 5, 6, 7))


@pytest.mark.parametrize(("classes", "count"), [("base", 3), ("base", 2)])
def test_a_side_of_one_class_is_refused_since_all_its_images_are_right(tmp_path, check, classes, count):
    write_dataset(tmp_path, classes=("owl", "wren", "tit")[:count])
    with pytest.raises(InputError, match=r'(?s)two each.*classes = "all"'):
        check(SEARCH, classes=classes, folds=1)
    check(SEARCH, TEST, classes="all")


def test_a_data_set_of_one_class_is_refused(tmp_path):
    write(tmp_path / "list.csv", ["path,class,split", "a.png,owl,train", "b.png,owl,val", "c.png,owl,test"])
    with pytest.raises(InputError, match=r"two classes or more.*got owl"):
        datasets.load("table:list.csv", tmp_path)


# --- Known before -------------------------------------------------------------------------------------------


def copied(root, source, target):
    shutil.copy(root / source, root / target)


def linked(root, source, target):
    (root / target).symlink_to(root / source)


def hard_linked(root, source, target):
    os.link(root / source, root / target)


def by_another_folder(root, source, target):
    (root / target).symlink_to(os.path.relpath(root / source, (root / target).parent))


WAYS = [copied, linked, hard_linked, by_another_folder]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_test_image_that_is_also_trained_on_or_chosen_by_is_refused_whatever_its_name(tmp_path, check, way, part):
    write_dataset(tmp_path)
    way(tmp_path / "tiny" / "images", "horse/test1.png", "horse/other.png")
    change(tmp_path, lambda split: split[part].append(["horse/other.png", 4, "horse"]))
    with pytest.raises(
        InputError, match=rf"no test image of tiny may be known.*test: horse/test1.png = {part}: horse/other"
    ):
        check(TEST)
    finding = inspect.examine(tmp_path, "tiny")
    assert (finding.ok, finding.leaks) == (False, (f"test: horse/test1.png = {part}: horse/other.png",))
    with pytest.warns(RepeatWarning, match="tiny: test images that are also in train or val: 1 "):
        check(TEST, repeats="keep")


@pytest.mark.parametrize("same", ["horse/test1.png", "./horse/test1.png", "horse//test1.png", "horse/./test1.png"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_path_in_two_lists_is_refused_however_it_is_written(tmp_path, same, part):
    write_dataset(tmp_path)
    change(tmp_path, lambda split: split[part].append([same, 4, "horse"]))
    with pytest.raises(InputError, match=rf"in one list only; 1 of 48 of the list test are also in {part}, got horse"):
        datasets.load("tiny", tmp_path)


def test_a_path_in_two_classes_is_refused(tmp_path):
    write_dataset(tmp_path)
    change(tmp_path, lambda split: split["train"].append(["horse/train1.png", 5, "old horse"]))
    with pytest.raises(InputError, match=r"must be in one class only, got horse/train1.png"):
        datasets.load("tiny", tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_other_repeats_are_named_in_one_warning(tmp_path, check, way):
    write_dataset(tmp_path)
    images = tmp_path / "tiny" / "images"
    for source, target in (
        ("horse/train1.png", "horse/seen.png"),
        ("owl/train1.png", "owl/again.png"),
        ("owl/train2.png", "horse/owl.png"),
    ):
        way(images, source, target)

    def add(split):
        split["val"].append(["horse/seen.png", 4, "horse"])
        split["train"] += [["owl/again.png", 6, "owl"], ["horse/owl.png", 4, "horse"]]

    change(tmp_path, add)
    with pytest.warns(RepeatWarning) as caught:
        check(SEARCH, TEST)
    (said,) = [str(one.message) for one in caught]
    assert "images in both train and val: 1 (val: horse/seen.png = train: horse/train1.png)" in said
    assert "images in two classes: 1 (train: horse/owl.png = train: owl/train2.png)" in said
    assert "images again in the same list and class: 1 (train: owl/again.png = train: owl/train1.png)" in said
    assert said in inspect.examine(tmp_path, "tiny").notes


def test_the_fields_own_split_is_warned_of_and_not_refused(tmp_path, check, monkeypatch):
    write_dataset(tmp_path)
    copied(tmp_path / "tiny" / "images", "horse/test1.png", "horse/other.png")
    change(tmp_path, lambda split: split["train"].append(["horse/other.png", 4, "horse"]))
    layout = datasets.Layout("tiny", "images", "split_zhou_Tiny.json", published=(8, 49, 32, 48))
    monkeypatch.setitem(datasets.DATASETS, "tiny", layout)
    with pytest.warns(RepeatWarning, match=r"tiny \(as published\): test images that are also"):
        check(SEARCH, TEST)
    assert inspect.examine(tmp_path, "tiny").ok


def test_of_a_long_train_list_the_images_that_are_drawn_are_compared(tmp_path, check, monkeypatch):
    monkeypatch.setattr("gcsearch.data.lists.checks.WHOLE", 10)
    write_dataset(tmp_path)
    copied(tmp_path / "tiny" / "images", "horse/test1.png", "horse/other.png")
    change(tmp_path, lambda split: split["train"].append(["horse/other.png", 4, "horse"]))
    with pytest.raises(InputError, match="no test image of tiny may be known"):
        check(TEST, shots=16)
    drawn = [seed for seed in range(20) if _refused(check, seed)]
    assert 0 < len(drawn) < 20


def _refused(check, seed):
    try:
        check(("test", (seed,)), shots=1)
    except InputError:
        return True
    return False


def test_test_images_of_a_target_may_not_be_trained_on(tmp_path, check, monkeypatch):
    write_dataset(tmp_path)
    shutil.copytree(tmp_path / "tiny", tmp_path / "other")
    monkeypatch.setitem(datasets.DATASETS, "other", datasets.Layout("other", "images", "split_zhou_Tiny.json"))
    images = tmp_path / "other" / "images"
    for index, path in enumerate(sorted(images.rglob("test*.png"))):
        path.write_bytes(path.read_bytes() + bytes([index]))
    check(TEST, targets=("other",))
    shutil.copy(tmp_path / "tiny" / "images" / "owl" / "train0.png", images / "owl" / "test0.png")
    with pytest.raises(InputError, match=r"test of other: owl/test0.png = train: owl/train0.png"):
        check(TEST, targets=("other",))


# --- Splits drawn here --------------------------------------------------------------------------------------


def mine(root):
    for name in ("owl", "wren"):
        for index in range(10):
            put(root / "mine" / name / f"{index}.png")


def as_table(root):
    paths = sorted(path.relative_to(root).as_posix() for path in (root / "mine").rglob("*.png"))
    write(root / "list.csv", ["path,class", *(f"{path},{path.split('/')[1]}" for path in paths)])


@pytest.mark.parametrize("name", ["folder:mine", "table:list.csv"])
def test_repeats_are_left_out_of_a_split_that_is_drawn_here(tmp_path, name):
    mine(tmp_path)
    as_table(tmp_path)
    with pytest.warns(FreshSplitWarning):
        before = datasets.load(name, tmp_path)
    copied(tmp_path / "mine", "owl/3.png", "owl/x.png")
    linked(tmp_path / "mine", "wren/4.png", "wren/y.png")
    as_table(tmp_path)
    with (
        pytest.warns(FreshSplitWarning),
        pytest.warns(RepeatWarning, match=r"without repeats .*: 2 .*owl/x.png, .*wren/y"),
    ):
        assert datasets.load(name, tmp_path).lists == before.lists


@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
@pytest.mark.parametrize("name", ["folder:mine", "table:list.csv"])
def test_an_image_that_two_classes_have_is_in_no_list_of_a_split_that_is_drawn_here(tmp_path, name):
    mine(tmp_path)
    copied(tmp_path / "mine", "owl/3.png", "wren/x.png")
    as_table(tmp_path)
    with pytest.warns(RepeatWarning, match="without images of which another class has a copy: 2"):
        found = datasets.load(name, tmp_path)
    listed = [item.path.removeprefix("mine/") for items in found.lists.values() for item in items]
    assert len(listed) == 19
    assert not {"owl/3.png", "wren/x.png"} & set(listed)


def test_repeats_are_left_out_before_validation_images_are_held_out(tmp_path):
    for part in ("train", "test"):
        for name in ("owl", "wren"):
            for index in range(5):
                put(tmp_path / "mine" / part / name / f"{index}.png")
    copied(tmp_path / "mine", "train/owl/3.png", "train/owl/x.png")
    with (
        pytest.warns(FreshSplitWarning),
        pytest.warns(RepeatWarning, match="without repeats of images of the same class: 1"),
    ):
        found = datasets.load("folder:mine", tmp_path)
    assert [len(items) for items in found.lists.values()] == [8, 2, 10]


# --- Names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    ["Red Squirrel", "red_squirrel", " red  squirrel ", "red\u00a0squirrel", "red\u200b squirrel", "red&#32;squirrel"],
)
def test_two_names_of_the_same_words_are_refused(tmp_path, other):
    write_dataset(tmp_path, classes=("red squirrel", "owl"))
    change(tmp_path, lambda split: [split[part].append([f"x{part}.png", 2, other]) for part in split])
    with pytest.raises(InputError, match=r"two classes must not have the same name.*'red squirrel' and "):
        datasets.load("tiny", tmp_path)


def test_of_a_class_folder_that_was_copied_under_another_case_the_name_is_told(tmp_path):
    for name in ("owl", "wren"):
        for number in range(5):
            put(tmp_path / "mine" / name / f"{number}.png")
    shutil.copytree(tmp_path / "mine" / "owl", tmp_path / "mine" / "Owl")
    with pytest.raises(InputError, match=r"must not have the same name.*, got 'Owl' and 'owl'"):
        datasets.load("folder:mine", tmp_path)


def test_two_ways_to_write_an_accent_are_one_name(tmp_path):
    write_dataset(tmp_path, classes=("caf\u00e9", "cafe\u0301"))
    with pytest.raises(InputError, match="two classes must not have the same name"):
        datasets.load("tiny", tmp_path)


def test_names_of_the_same_tokens_are_refused(tmp_path, check):
    write_dataset(tmp_path, classes=("owl\u2019s", "owl's", "wren", "tit"))
    with pytest.raises(InputError, match=r"told apart by the tokens.*owl.s.* and .*owl's"):
        check(SEARCH)


@pytest.mark.parametrize("name", ["", " ", "_", "\u200b", "\ufeff"])
def test_an_empty_name_is_refused(tmp_path, name):
    write_dataset(tmp_path, classes=("owl", "wren"))
    change(tmp_path, lambda split: [row.__setitem__(2, name) for part in split.values() for row in part if row[1]])
    with pytest.raises(InputError, match="a class must have a name"):
        datasets.load("tiny", tmp_path)


def test_names_that_the_field_has_twice_are_warned_of(tmp_path, monkeypatch):
    write_dataset(tmp_path, classes=("missile", "owl", "Missile"))
    layout = datasets.Layout("tiny", "images", "split_zhou_Tiny.json", published=(3, 1, 1, 1))
    monkeypatch.setitem(datasets.DATASETS, "tiny", layout)
    with pytest.warns(RepeatWarning, match="no prompt tells them apart: 'missile' and 'Missile'"):
        datasets.load("tiny", tmp_path)


def test_clean_data_is_not_warned_of(tmp_path, check):
    write_dataset(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(SEARCH, TEST)


def test_a_plan_that_would_read_too_much_says_that_a_run_compares(tmp_path, backbone):
    found = datasets.load("tiny", write_dataset(tmp_path))
    cache = FeatureCache(tmp_path / "c", backbone)
    laboratory = Laboratory(Task(dataset="tiny", root=str(tmp_path)), backbone, found, cache)
    for item in found.test:  # sizes in common, so that the files have to be read
        path = found.images / item.path
        path.write_bytes(path.read_bytes().ljust(9000, b"\0"))
    assert "compared by content when a sweep runs" in task_checks.check_repeats(laboratory, [1], most=10)
    assert task_checks.check_repeats(laboratory, [1]) == ""


def test_files_that_are_no_images_are_not_called_copies_of_each_other(tmp_path, check):
    found = datasets.load("tiny", write_dataset(tmp_path))
    for item in (found.train[0], found.test[0], found.val[0]):
        (found.images / item.path).write_bytes(b"<html>404</html>")
    check(SEARCH, TEST)
    assert not inspect.examine(tmp_path, "tiny").leaks
