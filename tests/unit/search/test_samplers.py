"""Who proposes: what each sampler is asked for, and what is refused before the first trial."""

from __future__ import annotations

import pytest

from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.search_space import SearchSpace, load
from gcsearch.driver import checks
from gcsearch.errors import InputError
from gcsearch.search import samplers

SPACE = SearchSpace.from_dict(
    {
        "version": 1,
        "method": "gcscoop",
        "parameters": {
            "rho": {"low": 0.01, "high": 1.0, "log": True, "zero": True},
            "beta1": {"low": 0.0, "high": 0.9, "at_most": "beta2", "off": True},
            "beta2": {"low": 0.5, "high": 1.0},
            "epochs": {"low": 10, "high": 11, "integer": True},
            "lr": {"value": 0.01},
        },
        "points": [{"label": "known", "rho": 0.1, "beta1": 0.5, "beta2": 0.8, "epochs": 10}],
    }
)


def settings(**changes):
    return SearchConfig(**({"sampler": "grid", "trials": 1000} | changes))


def natural(found):
    return [SPACE.natural(place) for place in found]


def test_a_grid_has_both_ends_and_zero_and_off_and_every_setting_once():
    found = natural(samplers.grid(settings(grid={"rho": 3, "beta1": 2, "beta2": 2}), SPACE))
    assert sorted({values["rho"] for values in found}) == [0.0, pytest.approx(0.0707107), 1.0]
    assert {values["beta2"] for values in found} == {0.5, 1.0}
    assert {values["epochs"] for values in found} == {10, 11}  # the three steps are two whole numbers
    assert {values["beta1"] for values in found if values["beta2"] == 0.5} == {"off", 0.0, 0.5}
    # With beta1 off its fraction means nothing: 3 * 2 * (1 + 2) * 2, each once.
    assert len(found) == len({tuple(values.items()) for values in found}) == 36
    middle = natural(samplers.grid(settings(grid={"rho": 1, "beta1": 1, "beta2": 1, "epochs": 1}), SPACE))
    assert {values["beta2"] for values in middle} == {0.75}


@pytest.mark.parametrize("name", ["gcscoop", "sam", "subpt+nfl", "any-method", "zeroshot"])
def test_a_grid_is_counted_as_it_is_listed(name):
    space = load(name)
    chosen = settings(grid=dict.fromkeys(space.parameters, 2 if name == "gcscoop" else 1), trials=10**6)
    listed = len(samplers.grid(chosen, space)) if space.searched else 0
    assert samplers.total(chosen, space) == max(1, len(space.points) + listed)


def test_a_grid_of_many_points_is_counted_without_listing_them(monkeypatch):
    asked, give = [], SearchSpace.natural
    monkeypatch.setattr(SearchSpace, "natural", lambda *each: asked.append(each) or give(*each))
    chosen = settings(grid={"rho": 500, "beta1": 4, "beta2": 4}, trials=10**6)  # rho is 0 in one of 501
    assert samplers.total(chosen, SPACE) == len(SPACE.points) + len(samplers.grid(chosen, SPACE))
    asked.clear()
    assert samplers.total(chosen, SPACE) > 10_000
    assert len(asked) < 1_000


def test_a_grid_is_walked_in_an_order_of_the_seeds_and_ends():
    chosen = settings(grid={"rho": 2, "beta1": 1, "beta2": 1})
    other = chosen.model_copy(update={"seed": 1})
    walked = samplers.grid(chosen, SPACE)
    assert walked == samplers.grid(chosen, SPACE) != samplers.grid(other, SPACE)
    assert sorted(map(str, walked)) == sorted(map(str, samplers.grid(other, SPACE)))
    assert samplers.total(chosen, SPACE) == 1 + len(walked) == 1 + 2 * 2 * 2
    assert samplers.total(chosen.model_copy(update={"trials": 5}), SPACE) == 5
    assert samplers.total(settings(sampler="tpe"), SPACE) == 1000
    assert samplers.total(settings(sampler="tpe"), load("zeroshot")) == 1


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "cmaes"}, r"search\.sampler: cmaes searches numbers only.*got cmaes with beta1.*drop `off`"),
        ({"grid": {"rho": 3}}, r"search\.grid: .*got grid with sampler tpe"),
        ({"sampler": "grid", "grid": {"roh": 3}}, r"search\.grid\.roh: .*rho"),
        ({"sampler": "grid", "grid": {"rho": 0}}, r"search\.grid\.rho: .*greater than or equal to 1"),
        ({"sampler": "grid", "grid": {"rho": 900, "lr": 900}}, r"search\.grid: a grid has at most 100000 points"),
        ({"sampler": "bayes"}, r"search\.sampler: .*'tpe', 'gp'"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused_before_the_first_trial(search, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        checks.check(Pipeline.from_dict({"name": "one", "search": search}))


@pytest.mark.parametrize("sampler", sorted(samplers.SAMPLERS))
def test_every_sampler_can_be_named_in_a_pipeline(sampler):
    space = {"space": "gcscoop" if sampler != "cmaes" else "kgcoop"}
    checks.check(Pipeline.from_dict({"name": "one", "search": {"sampler": sampler, **space}}))
