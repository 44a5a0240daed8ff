"""A data set is part of what a sweep is: other images, names or weights than those that were measured are refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.task import Task
from gcsearch.data import datasets
from gcsearch.data.features import FeatureCache
from gcsearch.driver import load, prepare, run, session
from gcsearch.errors import InputError, RunError
from gcsearch.execution.executor import Batch
from gcsearch.execution.worker import PackRunner
from gcsearch.export import bundle
from gcsearch.export.classifier import read_facts
from gcsearch.sweep import measured
from gcsearch.sweep.journal import DataMeasured, Journal
from gcsearch.sweep.state import SweepState
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.training import loading
from gcsearch.training.task_data import Laboratory
from tests.support.exports import KINDS, a_champion
from tests.support.images import CLASSES, write_dataset

STAGES = (("search", (1, 2)), ("test", (1, 2)))
IMAGES = "tiny/images"


@pytest.fixture
def root(data_root, tmp_path) -> Path:
    return Path(shutil.copytree(data_root, tmp_path / "data"))


def at(root: Path, backbone, **task) -> Laboratory:
    """The data as they lie there now."""
    made = Task(dataset="tiny", root=str(root), shots=4, folds=2, views=1, seeds=(1, 2), **task)
    cache = FeatureCache(root.parent / "features", backbone)
    return Laboratory(made, backbone, datasets.load("tiny", root), cache)


@pytest.fixture
def begun(root, backbone, tmp_path):
    """The folder and journal of a sweep that has measured them."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    record(journal, folder, measured.look([at(root, backbone)], STAGES))
    return journal, folder


def recorded(journal):
    return SweepState.replay(journal.follow()).measured


def record(journal, folder, now) -> None:
    measured.record(journal, recorded(journal), folder, now)


def check(begun, lab) -> None:
    journal, folder = begun
    measured.check(recorded(journal), folder, measured.look([lab], STAGES), "Put them back.")


def replace_images(root: Path, pattern: str) -> list[Path]:
    """Others of the same name, size and time of modification."""
    paths = sorted((root / IMAGES).glob(pattern))
    for path in paths:
        found, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    return paths


def change_split(root: Path, change) -> None:
    path = root / "tiny" / "split_zhou_Tiny.json"
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))


def test_the_same_data_go_on_wherever_they_lie_and_whenever_they_were_copied(begun, root, backbone, tmp_path):
    check(begun, at(root, backbone))
    other = Path(shutil.copytree(root, tmp_path / "moved", copy_function=shutil.copyfile))  # times are not copied
    check(begun, at(other, backbone))


def test_other_test_images_of_the_same_name_size_and_time_are_refused_and_named(begun, root, backbone):
    replace_images(root, "horse/test*.png")
    message = r"(?s)these differ:\n- tiny: 6 of 48 images of test have another content \(horse/test0.png, horse/test1.*"
    with pytest.raises(InputError, match=message):
        check(begun, at(root, backbone))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: replace_images(root, "red_dog/train*.png"), r"\d of \d+ images of train have another content"),
        (lambda root: replace_images(root, "*/val*.png"), r"tiny: 16 of 16 images of val have another content"),
        (
            lambda root: change_split(root, lambda split: split["train"].pop(3)),
            r"the list train has 47 images, and it had 48 \(red_dog/train3.png\)",
        ),
        (lambda root: change_split(root, lambda split: split["test"].reverse()), "had 48, in another order"),
        (
            lambda root: change_split(
                root, lambda s: [one.__setitem__(2, "mare") for part in s.values() for one in part if one[1] == 4]
            ),
            r"tiny: class names \(horse is now mare\)",
        ),
    ],
)  # fmt: skip
def test_whatever_changes_a_number_is_refused_and_named(begun, root, backbone, change, message):
    change(root)
    with pytest.raises(InputError, match=message):
        check(begun, at(root, backbone))


def test_other_weights_and_other_names_of_the_users_file_are_refused(begun, root, backbone, tmp_path):
    with pytest.raises(InputError, match="the weights of the model: fingerprint other, and it was"):
        check(begun, at(root, replace(backbone, fingerprint="other")))
    names, folder = tmp_path / "names.txt", tmp_path / "second"
    names.write_text("tree\n")
    folder.mkdir()
    second = Journal(folder / "journal.jsonl"), folder
    record(*second, measured.look([at(root, backbone, other_names=str(names))], STAGES))
    check(second, at(root, backbone, other_names=str(names)))
    names.write_text("cloud\n")
    with pytest.raises(InputError, match=r"the names in the file of task\.other_names"):
        check(second, at(root, backbone, other_names=str(names)))


def test_without_the_names_behind_the_digests_the_difference_is_told_all_the_same(begun, root, backbone):
    (begun[1] / measured.DETAILS).write_bytes(b"damaged")
    replace_images(root, "*/test*.png")
    with pytest.raises(InputError, match="images of test have another content"):
        check(begun, at(root, backbone))


def test_what_is_measured_later_is_written_down_and_what_was_first_holds(begun, root, backbone):
    journal, folder = begun
    lab = at(root, backbone)
    record(journal, folder, measured.look([lab], STAGES))
    assert len(journal.events(DataMeasured)) == 1
    record(journal, folder, measured.look([lab], (("test", (9,)),)))
    contents = recorded(journal).sets["tiny"].contents
    assert {"train/1", "train/2", "train/9", "val/1", "test"} <= set(contents) and len(
        journal.events(DataMeasured)
    ) == 2
    replace_images(root, "*/train*.png")
    with pytest.raises(InputError, match=r"images of train have another content \(.*png"):
        measured.check(recorded(journal), folder, measured.look([at(root, backbone)], (("test", (9,)),)), "")


def test_a_journal_of_a_former_version_goes_on_and_keeps_digests_from_now_on(root, backbone, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("open", id="old-1", trials=3)
    check((journal, tmp_path), at(root, backbone))
    assert recorded(journal) is None
    record(journal, tmp_path, measured.look([at(root, backbone)], STAGES))
    replace_images(root, "*/test*.png")
    with pytest.raises(InputError, match="48 of 48 images of test"):
        check((journal, tmp_path), at(root, backbone))


def test_an_export_attests_what_was_measured_and_not_what_lies_there_now(begun, root, backbone, tmp_path):
    journal, _ = begun
    lab = at(root, backbone)
    before = lab.digests((1, 2))
    replace_images(root, "*/t*.png")
    now = at(root, backbone)
    assert measured.draws_of(recorded(journal), now.dataset, (1, 2)) == before != now.digests((1, 2))
    assert measured.draws_of(recorded(journal), now.dataset, (1, 7)) is None
    change_split(
        root, lambda split: [one.__setitem__(2, "mare") for part in split.values() for one in part if one[1] == 4]
    )
    with pytest.raises(
        InputError, match=r"an export is of what was measured.*class names of tiny \(horse is now mare\)"
    ):
        measured.check_model(recorded(journal), begun[1], at(root, backbone))
    measured.check_model(recorded(journal), begun[1], lab)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: replace_images(root, "*/test*.png"), "- the test images"),
        (lambda root: replace_images(root, "red_dog/train*.png"), "- the images that seed 4 trains on"),
        (lambda root: change_split(root, lambda split: split["test"].pop()), "the list test has 47 images, and it"),
    ],
)  # fmt: skip
def test_an_export_is_trained_again_on_what_it_was_measured_on_alone(root, backbone, tmp_path, change, message):
    lab = at(root, backbone)
    facts = read_facts(bundle.write(tmp_path / "best", a_champion(lab, "zeroshot", KINDS["zeroshot"]), lab))
    measured.check_attested(facts, at(root, backbone), (4, 5), tmp_path)
    former = facts.model_copy(
        update={
            "data": facts.data.model_copy(
                update={"digests": "sizes", "draws": {}, "test": lab.digests_by_size((4,))["test"]}
            )
        }
    )
    measured.check_attested(former, lab, (4,), tmp_path)
    change(root)
    with pytest.raises(InputError, match=message):
        measured.check_attested(facts, at(root, backbone), (4, 5), tmp_path)


def test_a_worker_knows_what_it_must_read(root, backbone):
    """Images that are replaced while a sweep runs would otherwise go into one ranking with those before."""
    lab = at(root, backbone)
    now = measured.look([lab], STAGES)
    for stage, seeds in (*STAGES, ("search", (2,))):
        assert measured.of_stage([lab], stage, seeds) == measured.expected(now, stage, seeds)
    batch = Batch(stage="test", seeds=(1, 2), trials=(), data=measured.expected(now, "test", (1, 2)))
    (episodes,) = PackRunner(lab.task, 1)._of_stage([at(root, backbone)], batch)
    assert len(episodes) == 2
    replace_images(root, "*/test*.png")
    with pytest.raises(RunError, match="images or weights have changed while the sweep runs"):
        PackRunner(lab.task, 1)._of_stage([at(root, backbone)], batch)
    assert measured.of_stage([at(root, backbone)], "search", (1, 2)) == measured.expected(now, "search", (1, 2))


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A sweep on files of one's own that was interrupted."""
    write_dataset(tmp_path / "data", CLASSES, train=4, val=2, test=2)
    split = json.loads((tmp_path / "data" / "tiny" / "split_zhou_Tiny.json").read_text())
    assert split["train"]
    chosen = load.with_command_paths(
        Pipeline.from_dict(
            {
                "name": "mine",
                "task": {
                    "dataset": "tiny",
                    "root": str(tmp_path / "data"),
                    "shots": 2,
                    "val_shots": 2,
                    "views": 1,
                    "folds": 2,
                },
                "search": {"space": "gcscoop-smoke", "trials": 2},
                "confirm": {"top": 1, "references": []},
            }
        )
    )
    store = Store(tmp_path / "store")
    begun = run._open_or_begin(chosen, store, prepare.origin_texts(chosen), fresh=False, uri=None)
    begun.journal.append("open", id="mine-1", trials=2)
    labs = loading.laboratories(chosen.task)
    record(begun.journal, begun.folder, measured.look(labs, chosen.measured))
    loading.forget()
    return begun


def test_resume_and_run_refuse_other_images_and_run_takes_the_same_ones_elsewhere(sweep, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(session.Session, "run", lambda self: asked.append(self.pipeline.task.root))
    chosen = sweep.pipeline
    data, other = tmp_path / "data", tmp_path / "other"
    run.resume("mine", store=tmp_path / "store")
    shutil.copytree(data, other)
    replace_images(data, "*/train*.png")
    loading.forget()
    lines = sweep.journal.path.read_text()
    for go_on in (
        lambda: run.resume("mine", store=tmp_path / "store"),
        lambda: run.run(chosen, store=tmp_path / "store"),
    ):
        with pytest.raises(InputError, match=r"(?s)images of train have another content.*under another name"):
            go_on()
    assert sweep.journal.path.read_text() == lines
    moved = chosen.model_copy(update={"task": chosen.task.model_copy(update={"root": str(other)})})
    run.run(moved, store=tmp_path / "store")
    assert asked == [str(data), str(other)]
    assert files.read_toml(sweep.folder / "pipeline.toml")["task"]["root"] == str(other)
