"""The seat between Tune and the proposer: packs handed out once, and what became of them."""

import json

import pytest
from ray.tune.search import Searcher

from gcsearch.config.trials import Outcome, Proposal, TrialRecord
from gcsearch.errors import RunError
from gcsearch.execution.searcher import PackSearcher
from tests.support.bowl import SETTINGS, SPACE, Bowl, search


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
    assert [record.number for record in searcher.records] == [0, 1, 2]
    assert search(known=searcher.records) == search()


def test_what_a_callback_raises_ends_the_search():
    def full(record: TrialRecord) -> None:
        raise RunError("the disk is full")

    searcher = PackSearcher(SPACE, SETTINGS, on_record=full)
    searcher.suggest("t")
    searcher.on_trial_complete("t", error=True)
    with pytest.raises(RunError, match="disk is full"):
        searcher.suggest("u")
