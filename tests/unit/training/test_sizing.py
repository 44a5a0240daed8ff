"""How large a pack should be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.search_space import load
from gcsearch.driver import checks
from gcsearch.training import sizing

SATURATING = {1: 10.0, 2: 18.0, 4: 30.0, 8: 39.0, 16: 40.0}


@pytest.mark.parametrize(
    ("rates", "settings", "size"),
    [
        (SATURATING, {}, 8),  # 39 is more than nine tenths of 40
        ({1: 5.0, 2: 4.9, 4: 4.8}, {}, 1),  # one fills the processor already
        (SATURATING, {"trials": 6, "generation": 2}, 3),
        (SATURATING, {"pruner": "halving", "eta": 4, "rungs": 2}, 16),
        (SATURATING, {"pruner": "halving", "eta": 4, "rungs": 2, "trials": 10}, 5),
        ({1: 5.0, 2: 4.9}, {"pruner": "hyperband", "trials": 1}, 2),
        ({1: 5.0, 2: 4.9}, {"pruner": "asha"}, 1),
    ],
)
def test_the_smallest_pack_with_nearly_the_best_rate(rates, settings, size):
    assert sizing.choose(SearchConfig(**{"trials": 64, **settings}), rates) == size


def test_sizes_are_measured_up_to_where_a_pack_goes_in_pieces(laboratory, monkeypatch):
    tried = []

    def measure(lab, method, names, members, threads, limit):
        tried.append((members, limit))
        return sizing.Cost(seconds=members**0.5, bytes=0, pieces=2 if members >= 24 else 1)

    monkeypatch.setattr(sizing, "measure", measure)
    settings = SearchConfig(trials=64)
    assert sizing.pack_size(settings, load("gcscoop"), [laboratory], 1, limit=7) == 8
    assert tried == [(3, 7), (6, 7), (12, 7), (24, 7)]
    tried.clear()
    few = settings.model_copy(update={"trials": 4})
    assert sizing.pack_size(few, load("gcscoop"), [laboratory], 1) == 2
    assert len(tried) == 2
    assert sizing.pack_size(settings, load("zeroshot"), [laboratory], 1) == 1


def test_of_several_data_sets_the_one_with_the_smallest_pack_decides(laboratory, monkeypatch):
    large = replace(laboratory)

    def measure(lab, method, names, members, threads, limit):
        return sizing.Cost(seconds=members**0.5, pieces=2 if lab is large and members >= 12 else 1)

    monkeypatch.setattr(sizing, "measure", measure)
    settings, space = SearchConfig(trials=64), load("gcscoop")
    assert sizing.pack_size(settings, space, [laboratory], 1) == 32
    assert sizing.pack_size(settings, space, [laboratory, large], 1) == 4
    assert sizing.pack_size(settings, space, [large, laboratory], 1) == 4


def test_steps_are_really_measured(laboratory):
    (method,), epochs = sizing.typical(load("gcscoop-smoke"))
    assert 2 <= epochs <= 6
    cost = sizing.measure(laboratory, method, sizing.trained_names(laboratory), 3, 1)
    assert cost.seconds > 0
    assert cost.bytes > 0
    assert cost.pieces == 1


def test_a_pack_of_several_methods_costs_what_its_parts_cost(laboratory, monkeypatch):
    kinds, _ = sizing.typical(load("any-method"))
    assert sorted(kind.name for kind in kinds) == ["coop", "gcscoop", "kgcoop", "prograd", "sam"]
    asked = []

    def measure(lab, method, names, members, threads, limit):
        asked.append((method.name, members))
        return sizing.Cost(seconds=members, bytes=10 * len(asked), pieces=len(asked))

    monkeypatch.setattr(sizing, "measure", measure)
    assert sizing.measure_mixed(laboratory, kinds, [], 12, 1) == sizing.Cost(seconds=15, bytes=50, pieces=5)
    assert {members for _, members in asked} == {3}
    asked.clear()
    assert sizing.measure_mixed(laboratory, kinds, [], 2, 1).seconds == 2  # two are of two methods at most


def test_a_pack_left_open_passes_the_checks_and_has_no_size_yet():
    chosen = Pipeline.from_dict({"name": "open", "search": {"pack": "auto", "pruner": "halving"}})
    checks.check(chosen)
    with pytest.raises(TypeError, match="still open"):
        chosen.search.size  # noqa: B018
