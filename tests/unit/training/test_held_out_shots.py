"""`val_shots = 0`: a search that reads no validation image, and scores each seed on shots that it does not train on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gcsearch.config.metrics import objectives
from gcsearch.config.task import Task
from gcsearch.config.trials import Proposal, TrialConfig
from gcsearch.data.lists.draws import hold_out_shots
from gcsearch.data.lists.splits import Item
from gcsearch.errors import InputError
from gcsearch.training.trial import run_pack


@pytest.fixture
def strict(laboratory):
    """The tiny task without any validation image: there is none even in the data set, nor one to test on."""
    task = Task.from_dict({**laboratory.task.to_dict(), "val_shots": 0, "folds": 2})
    return replace(laboratory, task=task, dataset=replace(laboratory.dataset, val=(), test=()))


def test_each_fold_holds_out_other_images_of_every_class():
    items = [Item(f"{label}/{index}", label) for label in (7, 3) for index in range(5)] + [Item("alone", 1)]
    parts = [hold_out_shots(items, fold, 3) for fold in range(3)]
    for trained, held in parts:
        assert sorted([*trained, *held]) == list(range(11))
        assert 10 in trained, "a single image is trained"
    assert [held for _, held in parts] == [[0, 3, 5, 8], [1, 4, 6, 9], [2, 7]]
    assert hold_out_shots(items, 4, 3) == parts[1]


def test_a_seed_trains_on_the_shots_that_do_not_score_it(strict, laboratory):
    whole = laboratory.episodes("test", [1, 2])
    for fold, (episode, full) in enumerate(zip(strict.episodes("search", [1, 2]), whole, strict=True)):
        base = strict.halves[0]
        assert episode.new is None and len(episode.names) == len(base)
        items = [item for item in strict.draw(episode.seed)[0] if item.label in base]
        trained, held = hold_out_shots(items, fold, 2)
        assert torch.equal(episode.views, full.views[:, trained])
        assert episode.labels.tolist() == [base.index(items[p].label) for p in trained]
        assert episode.base.labels.tolist() == [base.index(items[p].label) for p in held]
        (fixed,) = laboratory.cache.get([strict.wanted("search", [episode.seed])[1]])
        assert torch.equal(episode.base.features, fixed[0][held].float())


def test_the_search_runs_without_validation_images(strict):
    config = TrialConfig(method="coop", hyperparameters={"epochs": 2})
    (trial,) = run_pack(strict, strict.episodes("search", [1, 2]), [Proposal(number=0, config=config)])
    assert set(trial.record.metrics) >= {"val_base_acc", "val_base_margin"}
    assert "val_h" not in {one.key for one in objectives(strict.task)}


def test_with_all_classes_shots_are_held_out_as_well():
    task = Task(classes="all", val_shots=0)
    assert (task.folds, task.class_folds) == (4, 1)
    assert objectives(task)[0].key in ("val_acc", "val_margin")
    assert Task(shots=2, val_shots=0).folds == 2
    assert (Task(folds=3).class_folds, Task(classes="all").class_folds) == (3, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": 1, "val_shots": 0}, "val_shots.*two or more"),
        ({"shots": 4, "val_shots": 0, "folds": 1}, r"folds.*divided into folds.*Write 2 to 4"),
        ({"shots": 4, "val_shots": 0, "folds": 5}, r"folds.*divided into folds.*Write 2 to 4"),
    ],
)
def test_there_must_be_shots_to_hold_out(values, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        Task.from_dict(values)
