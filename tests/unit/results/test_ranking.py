"""The ranking reads validation numbers only, breaks ties the same way always, and finds a planted best."""

from __future__ import annotations

import json
import math
import random

import pytest
from scipy.stats import nct, t

from gcsearch.config.trials import Outcome, TrialConfig
from gcsearch.errors import RunError
from gcsearch.results.ranking import champion, one_standard_error, rank, shortlist
from tests.support.records import numbers
from tests.support.records import ranked_record as record


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


def test_steps_count_and_not_epochs_alone():
    def of(number, method, **values):
        config = TrialConfig(method=method, hyperparameters=values)
        return record(number).model_copy(update={"config": config})

    records = [
        of(0, "subpt", epochs=60, probe_epochs=50),  # 110 epochs of work
        of(1, "subpt", epochs=70, probe_epochs=20),
        of(2, "cocoop", epochs=10),  # one image a step: 320 epochs of batches of 32
        of(3, "coop", epochs=50, batch_size=16),
    ]
    assert numbers(rank(records, "val_h")) == [1, 3, 0, 2]


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


# --- The shortlist, measured again


def again(number, values, **more):
    return record(number, values, **more).model_copy(update={"seeds": tuple(range(4, 4 + len(values)))})


def test_a_shortlist_has_the_best_settings_each_once():
    same = record(4, (90.0, 90.0), rho=0.3)
    records = [
        record(0, (70.0, 70.0), rho=0.1),
        record(1, (80.0, 80.0), rho=0.2),
        record(2, (90.0, 90.0), rho=0.3),
        same,
    ]
    assert [one.number for one in shortlist(rank(records, "val_h"), 2)] == [2, 1]
    assert [one.number for one in shortlist(rank(records, "val_h"), 9)] == [2, 1, 0]
    with pytest.raises(RunError):
        shortlist(rank([record(0, (), Outcome.FAILED)], "val_h"), 5)


def test_of_those_within_one_standard_error_the_simplest_is_chosen():
    best = again(0, (84.0, 86.0, 85.0), epochs=200)
    near = again(1, (84.2, 85.0, 85.2), epochs=50)  # trails by 0.2 on average, standard error 0.4
    far = again(2, (83.0, 85.1, 83.9), epochs=10)  # trails by 1.0 on average, standard error 0.06
    assert one_standard_error([best, near, far], "val_h") is near
    assert one_standard_error([far, best], "val_h") is best
    smaller_rho = again(3, (84.2, 85.0, 85.2), epochs=50, rho=0.05)
    assert one_standard_error([best, near, smaller_rho, far], "val_h") is smaller_rho


def test_one_seed_has_no_error_and_the_best_mean_wins():
    assert one_standard_error([again(0, (80.0,), epochs=200), again(1, (79.9,), epochs=10)], "val_h").number == 0
    with pytest.raises(RunError, match="nothing to choose"):
        one_standard_error([record(0, (), Outcome.DIVERGED)], "val_h")


def planted(generator, lead, noise, seeds):
    """30 configurations of one true value and one, of more epochs, that is `lead` better; per-seed noise of each."""
    truth = [80.0] * 30 + [80.0 + lead]
    common = [generator.gauss(0, 2) for _ in range(seeds)]
    return [
        again(number, tuple(value + shift + generator.gauss(0, noise) for shift in common), epochs=20 + number)
        for number, value in enumerate(truth)
    ]


def test_a_clear_planted_best_among_31_is_always_found():
    """A shortlist of five by three noisy seeds, then five fresh seeds for each."""
    generator = random.Random(0)
    for _ in range(60):
        first, fresh = planted(generator, 3.0, 0.5, 3), planted(generator, 3.0, 0.5, 5)
        short = [fresh[one.number] for one in shortlist(rank(first, "val_h"), 5)]
        assert one_standard_error(short, "val_h").number == 30


@pytest.mark.parametrize("lead", [0.0, 0.5, 1.0, 2.0])
def test_a_planted_best_is_found_at_the_rate_that_the_rule_promises(lead):
    """Beside one simpler configuration it is chosen where lead / error > 1: a non-central t beyond 1."""
    generator, tries, seeds = random.Random(0), 400, 5
    chosen = 0
    for _ in range(tries):
        simple, *_, best = planted(generator, lead, 1.0, seeds)
        chosen += one_standard_error([simple, best], "val_h").number == 30
    promised = nct.sf(1, seeds - 1, lead * math.sqrt(seeds / 2)) if lead else t.sf(1, seeds - 1)
    assert chosen / tries == pytest.approx(promised, abs=3.5 * math.sqrt(promised * (1 - promised) / tries))


def test_fresh_seeds_take_the_winners_curse_away():
    """Among equal configurations the best of the search looks better than it is; measured again it does not."""
    generator, old, new = random.Random(1), [], []
    for _ in range(200):
        first = planted(generator, 0.0, 1.0, 3)
        top = champion(rank(first, "val_h"))
        mean = sum(one.mean("val_h") for one in first) / len(first)
        old.append(top.mean("val_h") - mean)
        fresh = planted(generator, 0.0, 1.0, 5)
        mean = sum(one.mean("val_h") for one in fresh) / len(fresh)
        new.append(fresh[top.number].mean("val_h") - mean)
    assert sum(old) / 200 > 0.8  # the expected maximum of 31 means of deviation 1 / sqrt(3) is 1.2
    assert abs(sum(new) / 200) < 0.15


def test_one_standard_error_costs_little_and_a_clear_best_is_never_passed_over():
    generator, cost = random.Random(2), []
    for _ in range(100):
        truth = {number: generator.gauss(80, 1) for number in range(5)}
        noisy = [again(n, tuple(generator.gauss(v, 0.5) for _ in range(5)), epochs=20 + n) for n, v in truth.items()]
        cost.append(max(truth.values()) - truth[one_standard_error(noisy, "val_h").number])
    assert sum(cost) / 100 < 0.15
    assert max(cost) < 1.0


def test_settings_that_are_refused_by_now_are_ranked_as_they_were_tried():
    refused = [
        record(n, (80.0, 80.0), rho=0.1).model_copy(
            update={
                "config": TrialConfig(method="gcscoop", hyperparameters={"beta1": 0.9, "beta2": 0.5, "epochs": 9 - n})
            }
        )
        for n in range(2)
    ]
    assert numbers(rank(refused, "val_h")) == [1, 0], "fewer epochs first"
