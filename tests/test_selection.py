"""The ranking reads validation numbers only, breaks ties the same way always, and finds a planted best."""

from __future__ import annotations

import json
import random

import pytest

from gcsearch.errors import RunError
from gcsearch.schema import Outcome, TrialConfig, TrialRecord
from gcsearch.selection import champion, rank


def record(number, values=(80.0, 80.0), outcome=Outcome.COMPLETE, epochs=50, rho=0.1, **more):
    return TrialRecord(
        number=number,
        config=TrialConfig(method="gcscoop", hyperparameters={"rho": rho, "epochs": epochs}),
        stage="search",
        outcome=outcome,
        seeds=(1, 2),
        epochs=epochs,
        metrics={"val_h": values, **more} if values else {},
    )


def numbers(rows):
    return [row.record.number for row in rows]


def test_the_best_mean_wins_and_test_numbers_do_not_count():
    records = [
        record(0, (80.0, 82.0), test_h=(99.0, 99.0)),
        record(1, (85.0, 81.0), test_h=(1.0, 1.0)),
        record(2, (90.0, 60.0)),
    ]
    assert numbers(rank(records, "val_h")) == [1, 0, 2]
    assert champion(rank(records, "val_h")).number == 1


def test_ties_go_to_fewer_epochs_then_smaller_rho_then_the_earlier():
    records = [record(0, rho=0.2), record(1, epochs=20), record(2), record(3), record(4, rho=0.0, epochs=50)]
    expected = [1, 4, 2, 3, 0]
    for seed in range(5):
        shuffled = random.Random(seed).sample(records, len(records))
        assert numbers(rank(shuffled, "val_h")) == expected


def test_only_completed_trials_have_a_rank():
    rows = rank(
        [
            record(0, (), Outcome.FAILED),
            record(1, (99.0, 99.0), Outcome.PRUNED),
            record(2, (70.0, 70.0)),
            record(3, (99.0, 99.0), Outcome.DIVERGED),
        ],
        "val_h",
    )
    assert [(row.rank, row.record.number) for row in rows] == [(1, 2), (None, 1), (None, 3), (None, 0)]


def test_a_setting_without_the_objective_comes_after_those_that_have_it():
    base_only = record(0).model_copy(update={"metrics": {"val_base_acc": (99.0, 99.0)}})
    not_a_number = record(1, (float("nan"), 90.0))
    rows = rank([base_only, not_a_number, record(2), record(3, (), Outcome.FAILED)], "val_h")
    assert [(row.rank, row.record.number) for row in rows] == [(1, 2), (None, 0), (None, 1), (None, 3)]
    assert rows[1].to_dict()["objective"] == {
        "name": "val_h", "oracle": False, "mean": None, "deviation": None, "interval": None, "per_seed": {}
    }  # fmt: skip
    assert json.loads(json.dumps(rows[2].to_dict(), allow_nan=False))["objective"]["per_seed"] == {"1": None, "2": 90.0}
    assert champion(rank([base_only], "val_base_acc")).number == 0
    with pytest.raises(RunError, match=r"No trial of the sweep has a val_h.*choose them by val_base_acc"):
        champion(rank([base_only], "val_h"))


def test_rows_are_json_with_per_seed_values():
    (row, failed) = rank([record(0, (80.0, 90.0)), record(1, (), Outcome.FAILED)], "val_h")
    found = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert found["objective"]["per_seed"] == {"1": 80.0, "2": 90.0}
    assert found["objective"]["mean"] == 85.0
    assert {"rank", "config", "objective", "outcome", "run_id"} <= set(found)
    assert json.loads(json.dumps(failed.to_dict(), allow_nan=False))["objective"]["mean"] is None


def test_without_a_completed_trial_there_is_no_champion():
    failed = record(0, (), Outcome.FAILED).model_copy(update={"reason": "out of memory\n  trace"})
    with pytest.raises(RunError, match=r"No trial of the sweep completed.*out of memory$"):
        champion(rank([failed], "val_h"))
    with pytest.raises(RunError):
        champion([])
