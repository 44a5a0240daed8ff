"""Proposals that depend on the seed and the results alone, and a search that goes on as if nothing had happened."""

import json
import math

import optuna
import pytest

from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, Proposal, TrialConfig, TrialRecord
from gcsearch.errors import RunError
from gcsearch.search.proposer import Proposer
from gcsearch.search.samplers import SAMPLERS
from tests.support.bowl import SETTINGS, SPACE, Bowl, Curved, configs, drive, search

# What is proposed


def test_points_come_first_and_then_exactly_as_many_as_asked_for():
    asked = []
    records = search(on_proposal=lambda proposal, label: asked.append((proposal.number, label)))
    assert [record.number for record in records] == list(range(22))
    assert asked == [(0, "literature"), *[(n, "") for n in range(1, 22)]]
    assert records[0].config.hyperparameters == SPACE.points[0].values
    assert [record.label for record in records[:2]] == ["literature", ""]


def test_the_last_generation_and_its_last_pack_are_smaller():
    sizes = []
    search(SETTINGS.model_copy(update={"trials": 11}), evaluate=lambda p, r: sizes.append(len(p)) or Bowl()(p, r))
    assert sizes == [3, 3, 3, 2]


def test_every_proposal_keeps_beta1_below_beta2():
    for record in search(SETTINGS.model_copy(update={"trials": 60})):
        beta1, beta2 = (record.config.hyperparameters[name] for name in ("beta1", "beta2"))
        assert beta1 == "off" or beta1 <= beta2


def test_the_joint_model_keeps_every_box():
    proposer = Proposer(SPACE, SETTINGS)
    drive(proposer)
    encoded = set(SPACE.distributions())
    trials = proposer.study.get_trials()
    assert all(set(trial.params) == encoded for trial in trials)
    # After the generation that fills the startup, all boxes are drawn from the multivariate model.
    assert all(set(json.loads(trial.system_attrs["tpe:relative_params:0"])) == encoded for trial in trials[6:])


# CMA-ES has no choices, so beta1 cannot be off there.
NUMBERS = SearchSpace.from_dict(
    {
        "version": 1,
        "method": "gcscoop",
        "parameters": {
            name: {key: value for key, value in parameter.to_dict().items() if key != "off"}
            for name, parameter in SPACE.parameters.items()
        },
        "points": [point.model_dump() for point in SPACE.points],
    }
)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_seed_repeats_the_sequence_and_another_does_not_and_any_session_goes_on(sampler):
    # The Gaussian process takes its time over each proposal: one, after the startup, will do.
    changes = {"sampler": sampler, **({"trials": 7, "startup": 4} if sampler == "gp" else {})}
    settings, space = SETTINGS.model_copy(update=changes), NUMBERS if sampler == "cmaes" else SPACE
    first = search(settings, space)
    assert search(settings, space, backwards=True) == first
    assert configs(search(settings.model_copy(update={"seed": 2}), space))[1:] != configs(first)[1:]
    for cut in (1, 6):
        assert run_again(first[:cut], settings, space=space) == (first, list(range(cut, settings.trials)))


def test_results_matter_to_what_is_proposed_later():
    class Slope(Bowl):
        def value(self, rho, **others):
            return rho

    first, other = search(), search(evaluate=Slope())
    assert configs(first)[:6] == configs(other)[:6]
    assert configs(first)[6:] != configs(other)[6:]


def test_a_space_with_nothing_to_search_is_one_trial():
    space = SearchSpace.from_dict({"version": 1, "method": "zeroshot"})
    proposer = Proposer(space, SETTINGS)
    ((proposal,),) = proposer.ask()
    assert proposal == Proposal(number=0, config=TrialConfig(method="zeroshot"))
    proposer.tell(Bowl().record(proposal.model_copy(update={"config": SPACE.config(SPACE.points[0].values)})))
    assert proposer.ask() == []


PRUNERS = ["halving", "hyperband", "asha", "median"]


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("pack", [1, 3])
def test_settings_that_leave_early_change_nothing_about_going_on(pruner, pack):
    """Wherever a session ended, also between two records of a pack: the same decisions, the same proposals."""
    settings = SETTINGS.model_copy(update={"pruner": pruner, "pack": pack, "generation": 2})
    undisturbed = search(settings, evaluate=Curved())
    assert search(settings, evaluate=Curved(), backwards=True) == undisturbed
    outcomes = [record.outcome for record in undisturbed]
    assert outcomes.count(Outcome.PRUNED) > (3 if pack > 1 or pruner in ("asha", "median") else -1)
    assert Outcome.COMPLETE in outcomes[-6:]
    for cut in (1, 2, 7, 10, 21):
        again, _ = run_again(undisturbed[:cut], settings, Curved())
        assert again == undisturbed, cut


def test_peers_come_from_earlier_generations_only():
    settings = SETTINGS.model_copy(update={"pruner": "asha", "pack": 1, "generation": 3, "rungs": 1})
    heard = []
    search(settings, evaluate=Curved(), on_proposal=lambda proposal, label: heard.append(proposal.rungs))
    assert [len(rungs[0].peers) for rungs in heard[:9]] == [0, 0, 0, 3, 3, 3, 6, 6, 6]


def test_brackets_take_turns():
    settings = SETTINGS.model_copy(update={"pruner": "hyperband"})
    heard = []
    search(settings, evaluate=Curved(), on_proposal=lambda proposal, label: heard.append(len(proposal.rungs)))
    assert heard == [2] * 3 + [1] * 3 + [0] * 3 + [2] * 3 + [1] * 3 + [0] * 3 + [2] * 3 + [1]


# What the study is told


class Mixed(Bowl):
    """Number 1 is pruned, 2 diverges, 3 fails, 4 comes back without a finite number."""

    def outcome(self, proposal):
        kinds = {1: Outcome.PRUNED, 2: Outcome.DIVERGED, 3: Outcome.FAILED}
        return kinds.get(proposal.number, Outcome.COMPLETE)

    def record(self, proposal):
        record = super().record(proposal)
        bad = {"metrics": {"val_h": (math.nan, 1.0)}} if proposal.number == 4 else {}
        bad |= {"epochs": math.ceil(record.epochs / 2)} if proposal.number == 1 else {}
        return record.model_copy(update=bad | {"reason": "why" if proposal.number in (2, 3) else ""})


def test_outcomes_are_told_as_they_are():
    proposer = Proposer(SPACE, SETTINGS.model_copy(update={"trials": 6, "pruner": "median", "rungs": 3}))
    records = drive(proposer, Mixed())
    told = proposer.study.get_trials()
    assert [trial.number for trial in told] == list(range(6))
    state = optuna.trial.TrialState
    assert [trial.state for trial in told] == [
        state.COMPLETE, state.PRUNED, state.FAIL, state.FAIL, state.FAIL, state.COMPLETE,
    ]  # fmt: skip
    assert told[0].value == records[0].mean("val_h")
    # It left at the middle one of three rungs, after half of its own schedule: that is how far it came.
    assert told[1].intermediate_values == {50: records[1].mean("val_h")}
    assert told[1].user_attrs["epochs"] == records[1].epochs
    reasons = [trial.user_attrs["reason"] for trial in told[2:5]]
    assert reasons == ["diverged: why", "failed: why", "complete: val_h is nan"]


# Going on with a sweep


def run_again(
    known: list[TrialRecord], settings=SETTINGS, evaluate=None, space=SPACE
) -> tuple[list[TrialRecord], list[int]]:
    """The records of a session that knows some already, and the numbers that it ran."""
    ran: list[int] = []
    evaluate = evaluate or Bowl()

    def counting(proposals, report):
        ran.extend(proposal.number for proposal in proposals)
        return evaluate(proposals, report)

    return search(settings, space, known=known, evaluate=counting), ran


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 14, 22])
def test_an_interrupted_sweep_goes_on_as_if_nothing_had_happened(cut):
    undisturbed = search()
    records, ran = run_again(undisturbed[:cut])
    assert records == undisturbed
    assert ran == list(range(cut, 22))


def test_records_count_in_whatever_order_a_generation_ended():
    undisturbed = search()
    shuffled = [undisturbed[n] for n in (3, 4, 5, 1, 0, 2, 8, 6)]
    records, ran = run_again(shuffled)
    assert records == undisturbed
    assert ran == [7, *range(9, 22)]


def test_failed_settings_are_tried_again_before_anything_is_proposed_from_them():
    undisturbed = search()
    failed = undisturbed[1].model_copy(update={"outcome": Outcome.FAILED})
    records, ran = run_again([undisturbed[0], failed, *undisturbed[2:6]])
    assert records == undisturbed
    assert ran == [1, *range(6, 22)]


def test_failed_settings_that_others_were_proposed_from_are_mended_without_changing_history():
    first = search(evaluate=Mixed())
    assert first[3].outcome is Outcome.FAILED
    journal = list(first)
    records, ran = run_again(journal)
    assert ran == [3]
    assert configs(records) == configs(first)
    assert records[3].outcome is Outcome.COMPLETE
    journal.append(records[3])
    assert run_again(journal) == (records, [])


def test_mending_and_going_on_happen_together():
    undisturbed = search(evaluate=Mixed())
    records, ran = run_again(undisturbed[:12])
    assert configs(records) == configs(undisturbed)
    assert sorted(ran) == [3, *range(12, 22)]
    journal = [*undisturbed[:12], *(records[n] for n in (12, 3, *range(13, 18)))]
    again, ran = run_again(journal)
    assert again == records
    assert ran == list(range(18, 22))


def test_a_finished_sweep_is_extended_without_repeating_anything():
    short = SETTINGS.model_copy(update={"trials": 10})
    longer, ran = run_again(search(short))
    assert ran == list(range(10, 22))
    assert longer == search()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 5}, "number 1 was"), ({"pack": 5}, "is proposed now"), ({"sampler": "random"}, "number 6 was")],
)
def test_records_of_another_sweep_are_refused(change, words):
    with pytest.raises(RunError, match=f"do not follow from its settings.*{words}"):
        run_again(search(), SETTINGS.model_copy(update=change))


def test_a_gap_in_the_records_is_refused():
    records = search()
    with pytest.raises(RunError, match="configurations after number 2 have records, but it has none"):
        run_again([record for record in records if record.number != 2])


def test_a_replayed_study_has_no_trial_that_runs():
    undisturbed = search()
    proposer = Proposer(SPACE, SETTINGS)
    proposer.replay(undisturbed[:7])
    drive(proposer)
    assert {trial.state for trial in proposer.study.get_trials()} == {optuna.trial.TrialState.COMPLETE}
    assert len(proposer.study.get_trials()) == 22
