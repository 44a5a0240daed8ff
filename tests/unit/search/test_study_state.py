"""A study that is put together from what was kept of it proposes what one that was asked for everything proposes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, StudyState, TrialRecord
from gcsearch.search import proposer as proposing
from gcsearch.search import study_state
from gcsearch.search.proposer import Proposer
from gcsearch.search.samplers import SAMPLERS
from tests.support.bowl import SETTINGS, SPACE, Bowl, Curved

Line = TrialRecord | StudyState

# CMA-ES has no choices, so beta1 cannot be off there.
NUMBERS = SearchSpace.from_dict({
    "version": 1,
    "method": "gcscoop",
    "parameters": {
        name: {key: value for key, value in parameter.to_dict().items() if key != "off"}
        for name, parameter in SPACE.parameters.items()
    },
})  # fmt: skip


class Uneven(Curved):
    """Of every seven trials one fails and one diverges, and one has no finite number."""

    def record(self, proposal):
        record = super().record(proposal)
        match proposal.number % 7:
            case 1:
                return record.model_copy(update={"outcome": Outcome.FAILED, "reason": "why"})
            case 3:
                return record.model_copy(update={"outcome": Outcome.DIVERGED})
            case 5:
                return record.model_copy(update={"metrics": {"val_h": (math.nan, 1.0)}})
        return record


class Traded(Bowl):
    """Two objectives of which each costs the other something."""

    def record(self, proposal):
        record = super().record(proposal)
        value, lr = record.mean("val_h"), 100 * proposal.config.hyperparameters["lr"]
        return record.model_copy(update={"metrics": {"val_base_acc": (value + lr,), "val_new_acc": (value - lr,)}})


@pytest.fixture(autouse=True)
def _kept_often(monkeypatch):
    monkeypatch.setattr(proposing, "KEEP_EVERY", 4)


class Going:
    """A session that goes on: what it asked Optuna for, what it ran, and what it wrote."""

    def __init__(self, config: SearchConfig, lines=(), evaluate=None, *, space=SPACE, before=(), keep=True) -> None:
        self.lines: list[Line] = list(lines)
        self.asked = 0
        proposer = Proposer(space, config, before=before)
        asks = proposer.study.ask

        def counting(*given, **named):
            self.asked += 1
            return asks(*given, **named)

        proposer.study.ask = counting
        states = [line for line in lines if isinstance(line, StudyState)]
        proposer.replay([line for line in lines if isinstance(line, TrialRecord)], states if keep else ())
        self.ran = []
        while packs := self._asked_of(proposer):
            for pack in packs:
                self.ran += pack
                self.lines += map(proposer.tell, (evaluate or Bowl())(pack, lambda reports: None))
        self.trials = [
            (trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, trial.user_attrs)
            for trial in proposer.study.get_trials()
        ]

    def _asked_of(self, proposer: Proposer):
        packs = proposer.ask()
        if state := proposer.state():
            self.lines.append(StudyState.from_dict(json.loads(json.dumps(state.to_dict()))))
        return packs


def check_goes_on(config: SearchConfig, lines, evaluate=None, **options) -> Going:
    """Both ways end alike, to the last bit; the one with states as it went on."""
    kept, replayed = (Going(config, lines, evaluate, keep=keep, **options) for keep in (True, False))
    assert kept.ran == replayed.ran
    assert kept.trials == replayed.trials
    assert replayed.asked == len(replayed.trials) - len(list(options.get("before", ())))
    return kept


def configured(sampler: str, **changes) -> SearchConfig:
    return SETTINGS.model_copy(update={"sampler": sampler, "trials": 26, "pack": 2, "generation": 2} | changes)


def space_of(sampler: str) -> SearchSpace:
    return NUMBERS if sampler == "cmaes" else SPACE


QUICK = sorted(SAMPLERS.keys() - {"gp"})


def test_every_sampler_is_kept():
    for sampler in SAMPLERS:
        assert study_state.memory(sampler, Proposer(SPACE, configured(sampler)).study), sampler


@pytest.mark.parametrize("sampler", QUICK)
def test_wherever_a_session_ended_the_next_one_proposes_what_a_replay_does(sampler):
    config, space = configured(sampler), space_of(sampler)
    lines = Going(config, space=space, evaluate=Uneven()).lines
    states = [place for place, line in enumerate(lines) if isinstance(line, StudyState)]
    assert len(states) == 7
    for cut in (states[0], states[2] + 1, states[4] + 3, len(lines)):
        kept = check_goes_on(config, lines[:cut], Uneven(), space=space)
        told = max((line.told for line in lines[:cut] if isinstance(line, StudyState)), default=0)
        assert kept.asked <= 26 - told + 4
        assert {line.told for line in kept.lines if isinstance(line, StudyState)} == {4, 8, 12, 16, 20, 24, 26}


@pytest.mark.slow
def test_a_gaussian_process_goes_on_from_where_its_last_fit_ended():
    config = configured("gp", trials=6, startup=2, pack=1, generation=1)
    lines = Going(config).lines
    place = next(place for place, line in enumerate(lines) if isinstance(line, StudyState))
    assert lines[place].told == 4
    assert lines[place].model
    assert check_goes_on(config, lines[: place + 1]).asked == 2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3"])
def test_several_objectives(sampler):
    config = configured(sampler, objective=("val_base_acc", "val_new_acc"))
    lines = Going(config, evaluate=Traded()).lines
    check_goes_on(config, lines[:-6], Traded())


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2", "qmc"])
def test_earlier_sweeps_come_first(sampler):
    space = space_of(sampler)
    before = [line for line in Going(configured("random", seed=9), space=space).lines if isinstance(line, TrialRecord)]
    lines = Going(configured(sampler), space=space, before=before).lines
    check_goes_on(configured(sampler), lines[:-6], space=space, before=before)


@pytest.mark.parametrize("pruner", ["halving", "asha"])
def test_who_left_early(pruner):
    for sampler in ("tpe", "cmaes"):
        config, space = configured(sampler, pruner=pruner), space_of(sampler)
        lines = Going(config, evaluate=Curved(), space=space).lines
        assert Outcome.PRUNED in {line.outcome for line in lines if isinstance(line, TrialRecord)}
        check_goes_on(config, lines[:-6], Curved(), space=space)


def test_an_extension_asks_again_for_a_last_generation_that_was_cut_short_and_for_nothing_else():
    short, longer = configured("tpe", trials=18), configured("tpe", trials=26)
    lines = Going(short).lines
    assert check_goes_on(longer, lines).asked == 26 - 16
    assert Going(longer, lines).ran == Going(longer).ran[18:]


def test_a_sweep_that_is_over_is_asked_for_nothing():
    config = configured("tpe")
    assert Going(config, Going(config).lines).asked == 0


def test_a_journal_of_before_is_replayed_once():
    config = configured("tpe")
    records = [line for line in Going(config).lines if isinstance(line, TrialRecord)]
    once = Going(config, records[:20])
    assert once.asked == 26
    first = next(line for line in once.lines if isinstance(line, StudyState))
    assert (first.first, first.told) == (0, 20)
    assert Going(config, once.lines[:22]).asked == 6


def test_trials_that_failed_and_were_run_again_are_told_as_they_were_then():
    config = configured("tpe")
    lines = Going(config, evaluate=Uneven()).lines
    mended = Going(config, lines[:-2], Bowl())
    assert sorted(proposal.number for proposal in mended.ran) == [1, 8, 15, 22, 25]
    check_goes_on(config, mended.lines, Bowl())
    assert Going(config, mended.lines, Bowl()).ran == []


def test_a_state_of_which_a_part_is_lost_is_not_used():
    config = configured("tpe")
    lines = Going(config).lines
    first = next(line for line in lines if isinstance(line, StudyState))
    assert check_goes_on(config, [line for line in lines if line is not first]).asked == 26


def test_a_state_of_another_sampler_or_version_is_not_used(monkeypatch):
    config = configured("tpe")
    lines = Going(config).lines
    renamed = {"_rng": study_state._MEMORIES["random"].generators}
    others = [
        line.model_copy(update={"generators": dict.fromkeys(renamed, line.generators["_rng"])})
        if isinstance(line, StudyState)
        else line
        for line in lines
    ]
    assert Going(config, others).asked == 26
    monkeypatch.setitem(study_state._MEMORIES, "tpe", study_state.Memory(("_generator",)))
    assert Going(config, lines).asked == 26
    assert not any(isinstance(line, StudyState) for line in Going(config).lines)


OUTCOMES = st.lists(st.sampled_from([*Outcome, None]), min_size=24, max_size=24)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.sampled_from(QUICK), st.integers(1, 3), st.integers(1, 3), OUTCOMES, st.integers(0, 40), st.integers(0, 9))
def test_for_any_history(sampler, pack, generation, outcomes, cut, more):
    class Drawn(Bowl):
        """What comes of a trial is drawn; `None`: it has no finite number."""

        def record(self, proposal):
            outcome = outcomes[proposal.number]
            changes = {"outcome": outcome} if outcome else {"metrics": {"val_h": (math.inf, 0.0)}}
            return super().record(proposal).model_copy(update=changes)

    config = configured(sampler, pack=pack, generation=generation, trials=24 - more, startup=3)
    lines = Going(config, evaluate=Drawn(), space=space_of(sampler)).lines
    check_goes_on(config.model_copy(update={"trials": 24}), lines[:cut], Bowl(), space=space_of(sampler))
