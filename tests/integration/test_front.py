"""Several objectives: the front, who is asked and told what, what is chosen from it, and what is refused."""

from __future__ import annotations

import math
import random

import pytest

from gcsearch.cli.render import print_table
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.trials import Outcome
from gcsearch.driver import checks
from gcsearch.errors import InputError
from gcsearch.results.ranking import front, rank, shortlist
from gcsearch.search import warm_start
from gcsearch.search.budget import Meter
from gcsearch.search.proposer import Proposer
from gcsearch.search.samplers import SAMPLERS
from gcsearch.stats import harmonic_mean
from gcsearch.sweep.state import read_status
from gcsearch.tracking.content.sweeps import pipeline_params, sweep_tags
from tests.support import bench as benches
from tests.support.bench import Bench
from tests.support.bowl import SETTINGS, SPACE, Bowl, configs, drive, search
from tests.support.records import numbers
from tests.support.records import ranked_record as record

BOTH = ("val_base_acc", "val_new_acc")
SEVERAL = SETTINGS.model_copy(update={"objective": BOTH})


def setting(number, base, new, outcome=Outcome.COMPLETE):
    h = harmonic_mean(base, new) if base + new else 0.0
    return record(number, (h, h), outcome, rho=0.1 + number / 100, val_base_acc=(base, base), val_new_acc=(new, new))


class Traded(Bowl):
    """What is gained on one side by a larger rho is lost on the other."""

    def record(self, proposal):
        whole = super().record(proposal)
        (low, high), rho = whole.metrics["val_h"], proposal.config.hyperparameters["rho"]
        sides = {"val_base_acc": (low - 9 * rho, high - 9 * rho), "val_new_acc": (low + 9 * rho, high + 9 * rho)}
        return whole.model_copy(update={"metrics": whole.metrics | sides})


# The front


def test_the_front_is_what_its_definition_says():
    generator = random.Random(0)
    for size in (1, 2, 5, 40):
        for names in (BOTH, (*BOTH, "val_h"), BOTH[:1]):
            records = [setting(n, generator.randint(1, 9), generator.randint(1, 9)) for n in range(size)]
            values = {one.number: [one.mean(name) for name in names] for one in records}

            def beaten(own, values=values):
                return any(
                    other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in values.values()
                )

            assert front(records, names) == {number for number, own in values.items() if not beaten(own)}


def test_only_what_completed_with_every_objective_is_on_the_front():
    records = [
        setting(0, 50, 50),
        setting(1, 99, 99, Outcome.PRUNED),
        setting(2, math.nan, 99),
        record(3, val_base_acc=(99.0, 99.0)),
        setting(4, 50, 50),
    ]
    assert front(records, BOTH) == {0, 4}
    assert front([], BOTH) == set()


UNEVEN = [setting(0, 90, 20), setting(1, 60, 60), setting(2, 59, 60), setting(3, 20, 80), setting(4, 50, 50)]


def test_the_front_comes_first_by_h_and_the_shortlist_ends_with_it():
    rows = rank(UNEVEN, "val_h", BOTH)
    assert numbers(rows) == [1, 0, 3, 2, 4]
    assert [row.front for row in rows] == [True] * 3 + [False] * 2
    assert [row.to_dict()["front"] for row in rows] == [True] * 3 + [False] * 2
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert [one.number for one in shortlist(rows, 5)] == [1, 0, 3]
    assert [one.number for one in shortlist(rows, 2)] == [1, 0]


def test_by_one_objective_nothing_is_on_a_front():
    rows = rank(UNEVEN, "val_h", ("val_h",))
    assert rows == rank(UNEVEN, "val_h")
    assert numbers(rows) == [1, 2, 4, 0, 3]
    assert {row.to_dict()["front"] for row in rows} == {None}
    assert len(shortlist(rows, 5)) == 5


# The search


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"cmaes"}))
def test_a_search_by_two_objectives_repeats_and_goes_on_from_any_record(sampler):
    changes = {"sampler": sampler, **({"trials": 7, "startup": 4} if sampler == "gp" else {})}
    settings = SEVERAL.model_copy(update=changes)
    first = search(settings, evaluate=Traded())
    assert search(settings, evaluate=Traded(), backwards=True) == first
    for cut in (1, 6):
        assert configs(search(settings, evaluate=Traded(), known=first[:cut])) == configs(first)


def test_the_study_knows_the_same_front_and_a_lost_setting_as_failed():
    class Holed(Traded):
        def record(self, proposal):
            whole = super().record(proposal)
            return whole.model_copy(update={"metrics": {"val_base_acc": (1.0, 1.0)}}) if proposal.number == 3 else whole

    proposer = Proposer(SPACE, SEVERAL)
    records = drive(proposer, Holed())
    best = {trial.number for trial in proposer.study.best_trials}
    assert best == front(records, BOTH)
    assert len(best) > 1
    lost = proposer.study.get_trials()[3]
    assert lost.state.name == "FAIL"
    assert lost.user_attrs["reason"] == "complete: val_base_acc is 1.0, val_new_acc is nan"


def test_both_objectives_matter_to_what_is_proposed_later():
    class Turned(Traded):
        def record(self, proposal):
            whole = super().record(proposal)
            sides = {name: whole.metrics[other] for name, other in zip(BOTH, BOTH[::-1], strict=True)}
            return whole.model_copy(update={"metrics": whole.metrics | sides | {"val_base_acc": (50.0, 50.0)}})

    first, second = search(SEVERAL, evaluate=Traded()), search(SEVERAL, evaluate=Turned())
    assert configs(first)[:6] == configs(second)[:6]
    assert configs(first)[6:] != configs(second)[6:]


def test_earlier_sweeps_are_known_by_all_objectives():
    before = search(SEVERAL.model_copy(update={"seed": 7}), evaluate=Traded())
    left = before[0].model_copy(update={"outcome": Outcome.PRUNED})
    single = before[1].model_copy(update={"metrics": {"val_base_acc": (1.0, 1.0)}})
    assert warm_start.fitting(SPACE, [left, single, *before[2:]], BOTH) == before[2:]
    proposer = Proposer(SPACE, SEVERAL, before=[left, single, *before[2:]])
    told = [trial.values for trial in proposer.study.get_trials() if trial.values]
    assert told == [[one.mean(name) for name in BOTH] for one in before[2:]]


def test_whatever_adds_to_the_front_is_a_gain():
    def meter(records, objective):
        made = Meter(SearchConfig(pack=2, objective=objective, budget={"no_gain": 2}), 1.0)
        for one in records:
            made.note(one)
        return made

    rising = [setting(0, 60, 60), setting(1, 90, 5), setting(2, 5, 90), setting(3, 60, 59)]
    assert meter(rising, BOTH).without_gain == 1
    assert meter(rising, "val_h").why() == "3 configurations brought no better val_h"
    stale = [*rising, setting(4, 60, 60), setting(5, 99, 99, Outcome.DIVERGED)]
    assert meter(stale, BOTH).why() == "3 configurations brought no better val_base_acc or val_new_acc"
    assert meter([*stale, setting(6, 61, 60)], BOTH).without_gain == 0


# What is chosen, and where it shows


def test_the_champion_is_chosen_among_the_front_by_h(tmp_path, monkeypatch, capsys):
    sides = {0: 9.0, 1: -9.0, 2: 3.0, 3: 0.0, 4: -12.0}
    plain = benches.measured

    def measured(proposal, stage, seeds):
        """Whose H is high leans to base, or to new: 2 has more base than 3, and 0 and 1 the most of either."""
        one = plain(proposal, stage, seeds)
        lean = sides.get(proposal.number, 0.0)
        names = ("val_base_acc", "val_new_acc") if stage == "search" else ("test_base_acc", "test_new_acc")
        leaning = {
            name: tuple(v + by for v in one.metrics[name]) for name, by in zip(names, (lean, -lean), strict=True)
        }
        return one.model_copy(update={"metrics": one.metrics | leaning})

    monkeypatch.setattr(benches, "measured", measured)
    bench = Bench(tmp_path, objective=list(BOTH), top=5)
    assert numbers(bench.sweep.ranking) == [2, 3, 1, 0, 4]
    assert [row.front for row in bench.sweep.ranking] == [True, True, True, True, False]
    finals, champion = bench.finish()
    assert [number for stage, _, number in bench.asked if stage == "search"] == [2, 3, 1, 0]  # not 4
    assert champion.number == 3  # as good as 2 in H, with a fifth of the epochs
    assert len(finals) == 5
    assert read_status(bench.sweep).best_number == 2
    print_table(bench.sweep.ranking.table(10))
    shown = " ".join(capsys.readouterr().out.split())
    assert "by val_h on the front of val_base_acc and val_new_acc, mean ± sd over seeds; * on the front" in shown
    assert "rank trial val_h val_base_acc val_new_acc outcome" in shown
    assert "4 * t0000" in shown
    assert "5 t0004" in shown
    page = bench.sweep.report().read_text()
    assert "The best 4 of the search by val_h on the front of val_base_acc and val_new_acc were trained again" in page


def test_several_that_look_at_test_images_are_an_oracle():
    settings = SearchConfig(objective=("test_base_acc", "test_new_acc"))
    assert (settings.oracle, settings.stage, settings.ranking_metric) == (True, "test", "test_h")
    assert settings.chosen_by == (
        "test_h on the front of test_base_acc and test_new_acc (oracle: it looks at test images)"
    )
    pipeline = Pipeline(name="pets", search=settings)
    checks.check(pipeline)
    tags = sweep_tags("pets", pipeline, {})
    assert tags["gcsearch.objective"] == "test_base_acc,test_new_acc"
    assert tags["gcsearch.selection"] == "oracle"
    assert pipeline_params(pipeline)["search.objective"] == "test_base_acc,test_new_acc"


def test_one_objective_reads_as_ever():
    settings = SearchConfig(objective="val_base_acc")
    assert settings.objectives == ("val_base_acc",)
    assert settings.ranking_metric == settings.chosen_by == "val_base_acc"
    assert settings.to_dict()["objective"] == "val_base_acc"
    assert pipeline_params(Pipeline(name="pets", search=settings))["search.objective"] == "val_base_acc"


# What is refused


def space_of(folder, text):
    path = folder / "mine.toml"
    path.write_text(f'version = 1\nmethod = "coop"\n{text}')
    return str(path)


@pytest.mark.parametrize(
    ("search", "task", "message"),
    [
        ({"sampler": "cmaes", "space": "coop"}, {}, r"search\.sampler: cmaes searches by one objective, got cmaes"),
        ({"pruner": "halving"}, {}, r"search\.pruner: who leaves early.*got halving with val_base_acc and val_new_acc"),
        ({"pruner": "median"}, {}, r"search\.pruner: who leaves early"),
        ({}, {"folds": 1}, r"search\.objective: several objectives need.*val_base_acc"),
        ({}, {"classes": "all"}, r"search\.objective: several objectives need.*val_acc"),
        ({"objective": ["val_h", "val_h"]}, {}, r"search\.objective: the objectives must be distinct"),
        ({"objective": ["val_h", "val_acc"]}, {}, r"search\.objective: base classes are trained, so"),
        ({"objective": ["val_h", "test_new_acc"]}, {}, r"search\.objective: all objectives must be of one stage"),
        ({"objective": ["val_h"]}, {}, r"search\.objective: .*at least 2 items"),
        ({"objective": "val_new_acc"}, {}, r"search\.objective: .*got 'val_new_acc'"),
        ({"objective": ["val_h", "val_loss"]}, {}, r"search\.objective.*'val_loss'"),
        ({"space": "[parameters.class_specific]\nchoices = [true, false]"}, {}, r"class-specific context vectors fit"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_several_is_refused_before_the_first_trial(search, task, message, tmp_path):
    search = {"objective": list(BOTH)} | search
    if "\n" in search.get("space", ""):
        search["space"] = space_of(tmp_path, search["space"])
    with pytest.raises(InputError, match=f"(?s){message}"):
        checks.check(Pipeline.from_dict({"name": "one", "search": search, "task": task}))


def test_two_sides_of_the_base_classes_pass_the_checks():
    checks.check(Pipeline.from_dict({"name": "one", "search": {"objective": list(BOTH), "sampler": "nsga2"}}))
