"""The protocols: what is trained, on what it is measured, what is never looked at, and what each number is called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from gcsearch.config.metrics import PERCENT, columns, deciding, measured, objectives
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.task import Task
from gcsearch.config.trials import Proposal, TrialConfig
from gcsearch.data import datasets, image_loader
from gcsearch.data.features import FeatureCache
from gcsearch.data.lists.draws import reference_draw
from gcsearch.driver import checks, load
from gcsearch.errors import InputError
from gcsearch.methods.prompts import prompts, template_features
from gcsearch.methods.registry import build
from gcsearch.stats import accuracy
from gcsearch.training import task_checks
from gcsearch.training.task_data import Laboratory
from gcsearch.training.trial import run_pack
from tests.support.images import write_dataset
from tests.support.trees import TREES

SHORT = {"epochs": 3, "batch_size": 4, "lr": 0.02}
METHODS = {
    "zeroshot": {},
    "coop": SHORT,
    "gcscoop": SHORT,
    "kgcoop": SHORT,
    "cocoop": {**SHORT, "epochs": 2},
    "subpt+nfl": {**SHORT, "probe_epochs": 3, "rank": 1, "nfl_count": 3},
}
VARIANTS = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")


def variant(laboratory, **changes):
    """The tiny laboratory under another protocol."""
    return replace(laboratory, task=Task.from_dict({**laboratory.task.to_dict(), "folds": 1, **changes}))


def proposals(chosen=METHODS):
    settings = [TrialConfig(method=name, hyperparameters=values) for name, values in chosen.items()]
    return [Proposal(number=index, config=config) for index, config in enumerate(settings)]


def accuracies(record):
    return {key: value for key, value in record.metrics.items() if "_acc" in key or key.endswith("_h")}


# --- What is drawn


@pytest.mark.parametrize(("shots", "expected"), [(1, 1), (2, 2), (4, 4), (6, 4)])
def test_validation_shots_follow_the_shots_as_the_reference_does(laboratory, shots, expected):
    lab = replace(laboratory, task=Task(dataset="tiny", shots=shots))
    assert lab.task.val_shots == expected
    for seed in (1, 2, 3):
        assert lab.draw(seed) == reference_draw(lab.dataset, shots, seed)


def test_what_is_set_holds_whatever_the_shots():
    assert Task(shots=1, val_shots=3).val_shots == 3
    assert Task(shots=1, val_shots="all").val_shots == "all"


# --- One fold


def test_one_fold_trains_all_base_classes_in_the_search_as_in_the_test(laboratory):
    lab = variant(laboratory)
    (searched,), (tested,) = lab.episodes("search", [1]), lab.episodes("test", [1])
    assert searched.new is None
    assert searched.base.classes.tolist() == [0, 1, 2, 3]
    assert torch.equal(searched.views, tested.views)
    assert torch.equal(searched.labels, tested.labels)
    chosen = {name: METHODS[name] for name in ("coop", "gcscoop", "cocoop")}
    once, again = (run_pack(lab, [episode], proposals(chosen)) for episode in (searched, tested))
    for one, other in zip(once, again, strict=True):
        assert list(accuracies(one.record)) == ["val_base_acc"]
        assert list(accuracies(other.record)) == ["test_base_acc", "test_new_acc", "test_h"]
        assert [r.metrics["loss"] for r in one.record.curve] == [r.metrics["loss"] for r in other.record.curve]
        assert torch.equal(one.parameters[0], other.parameters[0])


# --- All classes


def test_with_all_classes_nothing_is_called_base_and_the_search_sees_no_test_image(laboratory, tmp_path, monkeypatch):
    opened: list[Path] = []
    prepared = image_loader.prepared

    def seen(jobs, *rest):
        jobs = list(jobs)
        opened.extend(Path(name) for job in jobs for name in job.names)
        return prepared(jobs, *rest)

    monkeypatch.setattr(image_loader, "prepared", seen)
    lab = replace(variant(laboratory, classes="all"), cache=FeatureCache(tmp_path, laboratory.backbone))
    episodes = lab.episodes("search", [1, 2])
    assert {path.parent.name for path in opened} == {name.replace(" ", "_") for name in lab.dataset.classes}
    assert {path.stem.rstrip("0123456789") for path in opened} == {"train", "val"}
    assert [len(episode.base.classes) for episode in episodes] == [8, 8]
    assert episodes[0].views.shape == (2, 8 * 4, 32)
    for trial in run_pack(lab, episodes, proposals()):
        assert list(accuracies(trial.record)) == ["val_acc"]
        assert len(trial.record.metrics["val_acc"]) == 2
    for trial in run_pack(lab, lab.episodes("test", [1, 2]), proposals()):
        assert list(accuracies(trial.record)) == ["test_acc"]


def test_accuracy_on_all_classes_is_that_of_all_test_images_among_all_names(laboratory):
    lab = variant(laboratory, classes="all")
    (trial,) = run_pack(lab, lab.episodes("test", [1]), proposals({"zeroshot": {}}))
    text = template_features(lab.backbone, lab.task.template, lab.dataset.classes)
    labels = torch.tensor([item.label for item in lab.dataset.test])
    expected = accuracy(lab.cache.fixed(lab.dataset, lab.dataset.test).float(), text, labels)
    assert trial.record.metrics["test_acc"] == (expected,)
    assert set(trial.record.metrics) == {"test_acc", "test_ece", "test_nll"}


# --- Targets


def test_a_source_that_is_its_own_target_has_the_same_accuracy_and_no_mean(laboratory):
    lab = variant(laboratory, classes="all", targets=["tiny"])
    for trial in run_pack(lab, lab.episodes("test", [1, 2]), proposals()):
        found = accuracies(trial.record)
        assert list(found) == ["test_acc", "test_acc_tiny"]
        assert found["test_acc_tiny"] == found["test_acc"]


@pytest.fixture
def away(laboratory, data_root, tmp_path, monkeypatch):
    """The tiny data set, and beside it one of other classes, two of which have the name of one here."""
    shutil.copytree(data_root / "tiny", tmp_path / "tiny")
    names = ("zebra", "owl", "old yellow dog", "red dog", "yak")
    (write_dataset(tmp_path / "aside", names, train=1, val=1, test=3) / "tiny").rename(tmp_path / "other")
    monkeypatch.setitem(datasets.DATASETS, "other", datasets.Layout("other", "images", "split_zhou_Tiny.json"))

    def make(**changes):
        task = {**laboratory.task.to_dict(), "root": str(tmp_path), "folds": 1, **changes}
        return replace(laboratory, task=Task.from_dict(task), dataset=datasets.load("tiny", tmp_path))

    return make


def by_hand(lab, trial, target):
    """Accuracy of the first seed's prompt on a data set, from the encoded images and the prompts of its names alone."""
    method, labels = build(trial.record.config), torch.tensor([item.label for item in target.test])
    images = lab.cache.fixed(target, target.test).float()
    if trial.record.config.method == "zeroshot":
        return accuracy(images, template_features(lab.backbone, lab.task.template, target.classes), labels)
    table = prompts(lab.backbone, method.prompt, [target.classes])
    with torch.inference_mode():
        text = table.features(trial.parameters[0][None], images[None] if method.prompt.per_image else None)[0]
    return accuracy(images, text, labels)


@pytest.mark.parametrize("classes", ["base", "all"])
def test_a_target_is_measured_on_all_its_test_images_among_all_its_names(away, classes):
    lab, plain = away(classes=classes, targets=["other", "tiny"]), away(classes=classes)
    trials = run_pack(lab, lab.episodes("test", [1]), proposals())
    (target, source) = lab.targets
    assert source is lab.dataset
    for trial, other in zip(trials, run_pack(plain, plain.episodes("test", [1]), proposals()), strict=True):
        found = accuracies(trial.record)
        assert found["test_acc_other"] == (by_hand(lab, trial, target),)
        assert found["test_acc_tiny"] == (by_hand(lab, trial, source),)
        assert found["test_acc_targets"] == found["test_acc_other"]  # the mean leaves the source out
        kept = {key: value for key, value in found.items() if not key.startswith("test_acc_")}
        assert kept == accuracies(other.record)  # what is measured beside it changes nothing


def test_the_search_stage_reads_no_target(away, monkeypatch):
    lab = away(targets=["other"])

    def refuse(self):
        raise AssertionError("the search looked at a target")

    monkeypatch.setattr(Laboratory, "targets", property(refuse))
    (episode,) = lab.episodes("search", [1])
    assert episode.targets == ()
    assert set(episode.names) == set(lab.dataset.classes[:4])
    with pytest.raises(AssertionError, match="looked at a target"):
        lab.episodes("test", [1])


def test_the_imagenet_variants_are_scored_over_their_own_classes(backbone, tmp_path):
    """ImageNet as people have it on disk, small: trained on all classes, measured on V2, Sketch, A and R."""
    for name in ("ImageNet", *VARIANTS):
        TREES[name](tmp_path)
    task = Task(dataset="ImageNet", root=str(tmp_path), classes="all", targets=VARIANTS, shots=2, val_shots=1, views=1)
    cache = FeatureCache(tmp_path / "features", backbone)
    lab = Laboratory(task, backbone, datasets.load("ImageNet", tmp_path), cache)
    task_checks.check_sizes(lab)
    assert [len(target.classes) for target in lab.targets] == [12, 5, 5, 5]
    chosen = {name: METHODS[name] for name in ("zeroshot", "coop", "cocoop")}
    for trial in run_pack(lab, lab.episodes("test", [1]), proposals(chosen)):
        found = accuracies(trial.record)
        assert list(found) == ["test_acc", *(f"test_acc_{name}" for name in VARIANTS), "test_acc_targets"]
        for name, target in zip(VARIANTS, lab.targets, strict=True):
            assert found[f"test_acc_{name}"] == (by_hand(lab, trial, target),)
        assert found["test_acc_targets"] == pytest.approx((fmean(found[f"test_acc_{name}"][0] for name in VARIANTS),))


def test_a_target_without_test_images_is_refused(away, tmp_path):
    split = tmp_path / "other" / "split_zhou_Tiny.json"
    split.write_text(split.read_text().replace('"test": [', '"val": ['))
    content = split.read_text()
    split.write_text(content[: content.rindex("}")] + ', "test": []}')
    with pytest.raises(
        InputError, match=r"task\.targets: targets are measured on test images.*list test, got no image at all"
    ):
        away(targets=["other"]).episodes("test", [1])
    with pytest.raises(InputError, match=r"(?s)task\.targets: .*Did you mean 'other'"):
        away(targets=["othr"]).episodes("test", [1])


def test_a_name_of_a_target_that_does_not_fit_the_model_is_refused(away, tmp_path):
    split = tmp_path / "other" / "split_zhou_Tiny.json"
    split.write_text(split.read_text().replace('"yak"]', f'"{"very " * 90}hairy yak"]'))
    with pytest.raises(InputError, match="hairy yak"):
        task_checks.check_prompt(away(targets=["other"]), build(TrialConfig(method="coop")))
    task_checks.check_prompt(away(), build(TrialConfig(method="coop")))


# --- What is called what, and what does not fit


@pytest.mark.parametrize(
    ("task", "searched", "tested", "decides"),
    [
        ({}, "base new h", "base new h", "H"),
        ({"folds": 1}, "base", "base new h", "H"),
        ({"classes": "all"}, "acc", "acc", "Acc"),
        ({"classes": "all", "targets": ["shapes-sketch"]}, "acc", "acc shapes-sketch", "source"),
        (
            {"classes": "all", "targets": ["shapes-neon", "folder:my birds"]},
            "acc",
            "acc shapes-neon folder-my-birds targets",
            "mean of targets",
        ),
        ({"targets": ["shapes-neon"]}, "base new h", "base new h shapes-neon targets", "H"),
    ],
)
def test_columns_show_what_the_protocol_measures(task, searched, tested, decides):
    task = Task.from_dict(task)
    assert " ".join(column.key for column in columns(task, "search")) == searched
    assert " ".join(column.key for column in columns(task)) == tested
    assert deciding(task).title == decides
    shown = {column.metric for stage in ("search", "test") for column in columns(task, stage)}
    assert {one.key for one in objectives(task) if one.unit is PERCENT} <= shown


def test_columns_are_the_metrics_that_a_trial_has(away):
    for changes in ({"folds": 2}, {}, {"classes": "all"}, {"classes": "all", "targets": ["other", "tiny"]}):
        lab = away(**changes)
        for stage in ("search", "test"):
            (trial,) = run_pack(lab, lab.episodes(stage, [1]), proposals({"zeroshot": {}}))
            assert list(accuracies(trial.record)) == [column.metric for column in columns(lab.task, stage)]
            others = set(trial.record.metrics) - set(accuracies(trial.record))
            assert others == {one.key for one in measured(stage, lab.task.classes) if not one.column}


ALL = {"classes": "all"}
TRANSFER = {**ALL, "targets": ["shapes-neon"]}
BY_ACC = {"objective": "val_acc"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": ALL}, r'(?s)search\.objective: .*got val_base_margin.*Set `objective = "val_acc"`'),
        ({"task": ALL, "search": {"objective": "val_base_acc"}}, r"search\.objective: .*neither base nor H"),
        ({"search": BY_ACC}, r'(?s)called `val_base_acc`, got val_acc.*`classes = "all"`'),
        (
            {"task": {"folds": 1}, "search": {"objective": "val_h"}},
            r'(?s)task\.folds = 1.*got val_h.*Set `objective = "val_base_margin"`.*two folds',
        ),
        (
            {"task": {"val_shots": 0}, "search": {"objective": "val_h"}},
            r"(?s)task\.val_shots = 0.*got val_h.*val_shots of 1 or more",
        ),
        ({"task": {"folds": 1}, "search": BY_ACC}, r"called `val_base_acc`"),
        ({"task": {**ALL, "folds": 2}, "search": BY_ACC}, r"task\.folds: where all classes are trained, none is held"),
        ({"task": {"targets": ["shapes-noen"]}}, r"(?s)task\.targets\.0: .*Did you mean 'shapes-neon'"),
        ({"task": {"targets": ["folder:../x"]}}, r"task\.targets\.0: .*stay below task\.root"),
        ({"task": {"targets": ["EuroSAT"]}}, r"(?s)task\.root: .*--set task\.root=/path"),
        ({"task": {"targets": ["folder:a b", "folder:a-b"]}}, r"task\.targets: targets must be distinct"),
        (
            {"task": TRANSFER, "search": {**BY_ACC, "space": "csc.toml"}},
            r"search\.space: class-specific context vectors fit no class of another data set",
        ),
        (
            {"task": ALL, "search": {**BY_ACC, "space": "seen.toml"}},
            r"search\.space: where all classes are trained, there are no new names",
        ),
        (
            {"task": {"folds": 1}, "search": {"objective": "val_base_acc", "space": "seen.toml"}},
            r"task\.folds: where nothing is held out in the search, there are no new names",
        ),
    ],
)
def test_what_does_not_fit_the_protocol_is_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = 'version = 1\nmethod = "{}"\n[parameters.{}]\n{}\n[parameters.lr]\nlow = 0.001\nhigh = 0.01\n'
    (tmp_path / "csc.toml").write_text(space.format("coop", "class_specific", "choices = [true, false]"))
    (tmp_path / "seen.toml").write_text(space.format("nfl", "nfl_names", 'value = "transductive"'))
    with pytest.raises(InputError, match=message):
        checks.check(Pipeline.from_dict({"name": "x", **content}))


def test_the_template_of_the_data_set_is_had_by_a_word():
    assert load.own_template({"template": "own"})["template"] == "a photo of a {}."
    assert load.own_template({"dataset": "Food101", "template": "own"}) == {
        "dataset": "Food101",
        "template": "a photo of {}, a type of food.",
    }
    assert load.own_template({"dataset": "Food101", "template": "a {}."})["template"] == "a {}."


def test_one_setting_is_held_to_the_protocol_too():
    own = TrialConfig(method="coop", hyperparameters={"class_specific": True})
    seen = TrialConfig(method="nfl", hyperparameters={"nfl_names": "transductive"})
    checks.check_configuration(Task.from_dict(ALL), own)
    checks.check_configuration(Task(), seen)
    with pytest.raises(InputError, match=r"task\.targets: class-specific"):
        checks.check_configuration(Task.from_dict(TRANSFER), own)
    with pytest.raises(InputError, match=r"task\.classes: .*no new names"):
        checks.check_configuration(Task.from_dict(ALL), seen)
