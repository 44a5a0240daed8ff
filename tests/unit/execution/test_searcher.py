"""The seat between Tune and Optuna: proposals that depend on the seed and the results alone."""

import json
import math

import optuna
import pytest
from ray.tune.search import Searcher

from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, Proposal, TrialRecord
from gcsearch.errors import RunError
from gcsearch.execution.searcher import PackSearcher
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
    searcher = PackSearcher(SPACE, SETTINGS)
    drive(searcher)
    boxes = set(SPACE.distributions())
    trials = searcher.study.get_trials()
    assert all(set(trial.params) == boxes for trial in trials)
    # After the generation that fills the startup, all boxes are drawn from the multivariate model.
    assert all(set(json.loads(trial.system_attrs["tpe:relative_params:0"])) == boxes for trial in trials[6:])


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
    searcher = PackSearcher(space, SETTINGS)
    pack = json.loads(searcher.suggest("t")["pack"])
    assert pack == [{"number": 0, "config": {"method": "zeroshot", "hyperparameters": {}}, "rungs": []}]
    searcher.on_trial_complete("t")
    assert searcher.suggest("u") == Searcher.FINISHED


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


def test_rivals_come_from_earlier_generations_only():
    settings = SETTINGS.model_copy(update={"pruner": "asha", "pack": 1, "generation": 3, "rungs": 1})
    heard = []
    search(settings, evaluate=Curved(), on_proposal=lambda proposal, label: heard.append(proposal.rungs))
    assert [len(rungs[0].rivals) for rungs in heard[:9]] == [0, 0, 0, 3, 3, 3, 6, 6, 6]


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
    searcher = PackSearcher(SPACE, SETTINGS.model_copy(update={"trials": 6, "pruner": "median", "rungs": 3}))
    records = drive(searcher, Mixed())
    told = searcher.study.get_trials()
    assert [trial.user_attrs["number"] for trial in told] == list(range(6))
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


def test_a_trial_begins_when_a_worker_gets_its_pack_and_not_when_it_is_proposed():
    asked, stopped = [], []
    searcher = PackSearcher(
        SPACE, SETTINGS, on_proposal=lambda proposal, _: asked.append(proposal.number), stopping=lambda: bool(stopped)
    )
    searcher.suggest("first")
    assert asked == [0, 1, 2]  # a generation of two packs is proposed; the second waits for a worker
    stopped.append(True)
    assert searcher.suggest("second") == Searcher.FINISHED
    assert asked == [0, 1, 2]


def test_a_pack_that_begins_again_is_announced_once():
    asked = []
    searcher = PackSearcher(SPACE, SETTINGS, on_proposal=lambda proposal, _: asked.append(proposal.number), retries=2)
    first = searcher.suggest("t")
    searcher.on_worker_death("t", "out of memory")
    searcher.on_trial_complete("t", error=True)
    assert searcher.suggest("again") == first
    assert asked == [0, 1, 2]


def test_an_error_while_a_pack_is_announced_comes_out_as_it_is():
    def full(*_):
        raise RunError("the journal cannot be written")

    searcher = PackSearcher(SPACE, SETTINGS, on_proposal=full)
    with pytest.raises(RunError, match="the journal"):
        searcher.suggest("t")
    assert isinstance(searcher.error, RunError)


def test_a_worker_that_dies_is_named_with_what_becomes_of_its_trials():
    told = []
    searcher = PackSearcher(SPACE, SETTINGS, retries=1, on_lost=lambda who, text: told.append((who, text)))
    searcher.suggest("t")
    searcher.on_trial_result("t", {"worker": "gpu7:12@4f0c21aa"})
    searcher.on_worker_death("t", "The actor died: out of memory.\nPages of Ray's own words")
    searcher.on_worker_death("t", "")
    assert told == [
        (
            "gpu7:12@4f0c21aa",
            "the worker process gpu7:12@4f0c21aa ended (The actor died: out of memory); "
            "trials t0000, t0001, t0002 run again",
        ),
        (
            "",
            "the worker process of a pack ended (no cause given); trials t0000, t0001, t0002 have failed after 2 tries",
        ),
    ]


def test_a_pack_that_leaves_no_record_failed_for_the_cause_that_was_heard():
    searcher = PackSearcher(SPACE, SETTINGS.model_copy(update={"trials": 3}))
    searcher.suggest("t")
    searcher.on_worker_death("t", "out of memory")
    searcher.on_trial_complete("t", error=True)
    assert [record.outcome for record in searcher.records] == [Outcome.FAILED] * 3
    assert searcher.records[0].reason == "the worker process ended (tries: 1): out of memory"


def test_a_pack_that_tune_gives_up_early_begins_again_until_its_tries_are_over():
    searcher = PackSearcher(SPACE, SETTINGS.model_copy(update={"trials": 3}), retries=2)
    packs = []
    for trial in ("t", "u", "v"):
        assert searcher.records == []
        packs.append(searcher.suggest(trial))
        searcher.on_worker_death(trial, "out of memory")
        searcher.on_trial_complete(trial, error=True)
    assert packs == [packs[0]] * 3
    assert [record.outcome for record in searcher.records] == [Outcome.FAILED] * 3
    assert searcher.records[0].reason == "the worker process ended (tries: 3): out of memory"
    assert searcher.suggest("w") == Searcher.FINISHED


def test_a_worker_that_dies_after_its_records_came_costs_no_second_ones():
    told = []
    searcher = PackSearcher(SPACE, SETTINGS.model_copy(update={"trials": 3}), retries=2, on_record=told.append)
    pack = [Proposal.from_dict(one) for one in json.loads(searcher.suggest("t")["pack"])]
    records = Bowl()(pack, lambda reports: None)
    searcher.on_trial_result("t", {"records": [record.to_dict() for record in records]})
    searcher.on_worker_death("t", "killed")
    other = [record.model_copy(update={"worker": "another"}).to_dict() for record in records]
    searcher.on_trial_result("t", {"records": other})
    searcher.on_trial_complete("t")
    assert told == searcher.records
    assert {record.worker for record in told} == {records[0].worker}
    assert searcher.suggest("u") == Searcher.FINISHED


def test_once_it_is_to_stop_nothing_more_begins_and_what_runs_ends():
    enough = []
    searcher = PackSearcher(SPACE, SETTINGS, stopping=lambda: bool(enough))
    pack = [Proposal.from_dict(one) for one in json.loads(searcher.suggest("t")["pack"])]
    enough.append("no more")
    assert searcher.suggest("u") == Searcher.FINISHED  # the second pack of the generation never begins
    searcher.on_trial_result("t", {"records": [record.to_dict() for record in Bowl()(pack, lambda reports: None)]})
    searcher.on_trial_complete("t")
    assert searcher.suggest("v") == Searcher.FINISHED
    assert run_again(searcher.records) == (search(), list(range(3, 22)))


def test_what_a_callback_raises_ends_the_search():
    def full(record: TrialRecord) -> None:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="disk is full"):
        search(on_record=full)
    searcher = PackSearcher(SPACE, SETTINGS, on_record=full)
    searcher.suggest("t")
    searcher.on_trial_complete("t", error=True)
    with pytest.raises(RunError, match="disk is full"):
        searcher.suggest("u")


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
    with pytest.raises(RunError, match="settings after number 2 have records, but it has none"):
        run_again([record for record in records if record.number != 2])


def test_a_search_that_is_to_stop_begins_nothing_more_and_what_runs_counts():
    asked_to_stop: list[bool] = []
    searcher = PackSearcher(SPACE, SETTINGS, stopping=lambda: bool(asked_to_stop))
    pack = json.loads(searcher.suggest("t")["pack"])
    asked_to_stop.append(True)
    assert searcher.suggest("u") == Searcher.FINISHED
    records = Bowl()([Proposal.from_dict(one) for one in pack], lambda reports: None)
    searcher.on_trial_result("t", {"records": [record.to_dict() for record in records]})
    searcher.on_trial_complete("t")
    assert searcher.suggest("u") == Searcher.FINISHED
    assert [record.number for record in searcher.records] == [0, 1, 2]
    again, ran = run_again(searcher.records)
    assert again == search()
    assert ran == list(range(3, 22))


def test_a_replayed_study_has_no_trial_that_runs():
    undisturbed = search()
    searcher = PackSearcher(SPACE, SETTINGS, known=undisturbed[:7])
    drive(searcher)
    assert {trial.state for trial in searcher.study.get_trials()} == {optuna.trial.TrialState.COMPLETE}
    assert len(searcher.study.get_trials()) == 22
