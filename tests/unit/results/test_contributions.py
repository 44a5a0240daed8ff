"""What each hyperparameter contributed to the champion's gain, against planted truths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcsearch.config.search_space import SearchSpace, load
from gcsearch.config.trials import Outcome
from gcsearch.results.report.numbers.contributions import contributions, differing, every_order, sampled_orders
from gcsearch.results.report.numbers.surrogate import LEAST, fit, mixed, natural, response
from tests.support.records import trial_record

UNIT = {"low": 0.001, "high": 1.0, "log": True}
SPACE = SearchSpace.from_dict(
    {"version": 1, "method": "sam", "parameters": {"rho": UNIT, "lr": UNIT, "momentum": UNIT}}
)
LITERATURE = {"rho": 0.01, "lr": 0.01, "momentum": 0.01}


def unit(value: float) -> float:
    return math.log(value / 0.001) / math.log(1000.0)


def hill(values) -> float:
    """Best at rho = 0.1 and lr = 0.1, alike in both; momentum does nothing."""
    return 80 - 30 * (unit(values["rho"]) - 2 / 3) ** 2 - 30 * (unit(values["lr"]) - 2 / 3) ** 2


def a_search(objective=hill, space=SPACE, count=40, noise=0.3, seed=0, first=LITERATURE):
    """Random configurations of `space`, the first being the literature's, worth `objective` with noise of each seed."""
    draw = np.random.default_rng(seed)
    values = [first, *space.sample(count - 1, seed)]
    return [
        trial_record(
            number,
            config=space.config(one),
            seeds=(1, 2, 3),
            metrics={"val_h": tuple(objective(one) + draw.normal(0, noise, 3))},
            label="" if number else "literature",
        )
        for number, one in enumerate(values)
    ]


def explained(records, space=SPACE):
    best = max(records, key=lambda record: record.mean("val_h"))
    surrogate = fit(space, records, "val_h", keep=(0, best.number))
    return surrogate, natural(space, best), natural(space, records[0])


def test_contributions_add_up_to_the_surrogates_gain_and_find_what_does_nothing():
    surrogate, champion, literature = explained(a_search())
    found = contributions(surrogate, champion, literature)
    ends = surrogate.predict([champion, literature]).means
    assert sum(one.value for one in found.each) == pytest.approx(ends[0] - ends[1], abs=1e-9)
    assert found.gain.value == pytest.approx(ends[0] - ends[1], abs=1e-9)
    assert found.gain.value == pytest.approx(hill(champion) - hill(literature), abs=0.8)
    by_name = {one.name: one for one in found.each}
    assert by_name["momentum"].value == pytest.approx(0.0, abs=0.25)
    assert by_name["momentum"].low < 0 < by_name["momentum"].high
    assert by_name["rho"].low > 0 and by_name["lr"].low > 0
    assert (by_name["rho"].before, by_name["rho"].after) == (0.01, champion["rho"])
    assert found.explained > 0.9 and not found.sampled


def test_hyperparameters_that_do_the_same_get_equal_shares():
    surrogate, _, literature = explained(a_search(noise=0.1))
    found = contributions(surrogate, {"rho": 0.1, "lr": 0.1, "momentum": 0.01}, literature)
    rho, lr = (next(one.value for one in found.each if one.name == name) for name in ("rho", "lr"))
    assert len(found.each) == 2, "momentum is the same in both"
    assert rho == pytest.approx(lr, rel=0.1)
    assert rho == pytest.approx(30 / 9, rel=0.1)


@pytest.mark.slow
def test_intervals_hold_the_truth():
    """Forty searches; three hyperparameters and the gain of each. The surrogate is fitted, so it is no exact 95 %."""
    held = []
    for seed in range(40):
        surrogate, champion, literature = explained(a_search(count=24, noise=1.0, seed=seed))
        found = contributions(surrogate, champion, literature)
        names = differing(SPACE, champion, literature)
        subsets, weights = every_order(len(names))
        mixtures = [mixed(SPACE, champion, literature, frozenset(names[i] for i in one)) for one in subsets]
        truth = dict(zip(names, weights @ np.array([hill(one) for one in mixtures]), strict=True))
        held += [one.low <= truth[one.name] <= one.high for one in found.each]
        held.append(found.gain.low <= sum(truth.values()) <= found.gain.high)
    assert np.mean(held) > 0.92


def test_the_peak_of_the_response_is_the_planted_optimum():
    surrogate, champion, _ = explained(a_search())
    values, line = response(surrogate, champion, "rho", [0.001 * 1000 ** (step / 40) for step in range(41)])
    peak = int(np.argmax(line.means))
    assert unit(values[peak]) == pytest.approx(2 / 3, abs=0.06)
    nearest = min(range(41), key=lambda i: abs(unit(values[i]) - unit(champion["rho"])))
    assert line.deviations[nearest] < 0.1 < line.deviations[0], "the band is of the difference from the champion"
    flat = response(surrogate, champion, "momentum", [0.001, 0.01, 0.1, 1.0])[1].means
    assert max(flat) - min(flat) < 0.5
    assert response(surrogate, champion, "beta1", [0.1, 0.2]) is None


def test_every_order_weighs_each_subset_as_often_as_it_comes():
    subsets, weights = every_order(3)
    worth = {(): 0.0, (0,): 6.0, (1,): 0.0, (2,): 0.0, (0, 1): 12.0, (0, 2): 6.0, (1, 2): 0.0, (0, 1, 2): 12.0}
    assert weights @ np.array([worth[one] for one in subsets]) == pytest.approx([9.0, 3.0, 0.0])
    assert weights.sum(axis=1) == pytest.approx([0.0] * 3)


def test_a_sample_of_orders_is_repeated_by_its_generator_and_adds_up():
    subsets, weights = sampled_orders(12, 50, np.random.default_rng(3))
    again, _ = sampled_orders(12, 50, np.random.default_rng(3))
    assert subsets == again
    worth = np.array([sum(one) ** 1.5 for one in subsets])
    whole = worth[subsets.index(tuple(range(12)))]
    assert (weights @ worth).sum() == pytest.approx(whole)
    additive = np.array([float(sum(one)) for one in subsets])
    assert weights @ additive == pytest.approx(np.arange(12.0))


def test_many_hyperparameters_are_divided_by_a_sample():
    names = [f"momentum{n}" for n in range(12)]
    space = SearchSpace.from_dict({"version": 1, "method": "sam", "parameters": dict.fromkeys(names, UNIT)})
    records = a_search(lambda one: 10 * unit(one["momentum0"]), space, 24, first=dict.fromkeys(names, 0.01))
    found = contributions(*explained(records, space), generator=np.random.default_rng(0))
    assert found.sampled and found.each[0].name == "momentum0"
    assert sum(one.value for one in found.each) == pytest.approx(found.gain.value, abs=1e-9)


# --- Mixtures


def test_a_mixture_keeps_a_bound_by_lowering_to_it():
    space = load("gcscoop")
    ours = {"rho": 0.1, "beta1": 0.7, "beta2": 0.9, "lr": 0.01, "epochs": 50}
    theirs = {"rho": 0.1, "beta1": 0.2, "beta2": 0.4, "lr": 0.01, "epochs": 50}
    assert mixed(space, ours, theirs, frozenset({"beta1"}))["beta1"] == 0.4
    assert mixed(space, ours, theirs, frozenset({"beta1", "beta2"})) == ours
    assert mixed(space, {**ours, "beta1": "off"}, theirs, frozenset({"beta1"}))["beta1"] == "off"
    for taken in (frozenset({"beta1"}), frozenset({"beta2"}), frozenset({"lr", "beta2"})):
        space.parse(mixed(space, ours, theirs, taken))  # each can be run


def test_what_only_one_method_has_comes_and_goes_with_the_method():
    space = load("any-method")
    ours = {"method": "kgcoop", "kg_lambda": 4.0, "lr": 0.01, "epochs": 50}
    theirs = {"method": "gcscoop", "rho": 0.1, "beta1": 0.5, "beta2": 0.8, "lr": 0.002, "epochs": 200}
    assert differing(space, ours, theirs) == ["method", "lr", "epochs"]
    assert mixed(space, ours, theirs, frozenset({"method"})) == {**ours, "lr": 0.002, "epochs": 200}
    assert mixed(space, ours, theirs, frozenset({"lr"})) == {**theirs, "lr": 0.01}
    nested = SearchSpace.from_dict({
        "version": 1, "method": "sam",
        "parameters": {
            "momentum": {"low": 0.0, "high": 0.9, "off": True},
            "position": {"choices": ["end", "front"]},
            "rho": {"low": 0.1, "high": 1.0, "when": {"momentum": "on", "position": "front"}},
        },
    })  # fmt: skip
    needed = mixed(
        nested, {"momentum": 0.5, "position": "end"}, {"momentum": "off", "position": "front"}, frozenset({"momentum"})
    )
    assert needed["rho"] == pytest.approx(0.55), "neither has it: the middle of its range"


def test_the_choice_of_a_method_is_a_contribution_of_its_own():
    space = load("any-method")
    literature = {"method": "gcscoop", "rho": 0.1, "beta1": 0.5, "beta2": 0.8, "lr": 0.002, "epochs": 200}
    records = a_search(lambda one: 80 + 5 * (one["method"] == "kgcoop"), space, 40, first=literature)
    found = contributions(*explained(records, space))
    assert found.each[0].name == "method"
    assert found.each[0].value == pytest.approx(5.0, abs=1.0)
    assert sum(one.value for one in found.each) == pytest.approx(found.gain.value, abs=1e-9)


# --- What a surrogate is fitted on


def test_a_surrogate_needs_completed_configurations_of_the_space():
    records = a_search(count=LEAST)
    assert len(fit(SPACE, records, "val_h").values) == LEAST
    failed = records[3].model_copy(update={"outcome": Outcome.FAILED})
    with pytest.raises(ValueError, match="too few"):
        fit(SPACE, [*records[:3], failed, *records[4:]], "val_h")
    elsewhere = trial_record(99, config=SPACE.config({**LITERATURE, "lr": 7.0}), metrics={"val_h": (1.0, 1.0)})
    assert natural(SPACE, elsewhere) is None


def test_a_long_search_is_thinned_and_what_is_far_off_counts_as_the_fence(monkeypatch):
    monkeypatch.setattr("gcsearch.results.report.numbers.surrogate.MOST", 20)
    assert 20 <= len(fit(SPACE, a_search(count=50), "val_h", keep=(1,)).values) <= 21
    lost = trial_record(999, config=SPACE.config(LITERATURE), seeds=(1, 2, 3), metrics={"val_h": (-1e6,) * 3})
    found = fit(SPACE, [*a_search(), lost], "val_h")
    assert min(found.values + found.level) > 0
