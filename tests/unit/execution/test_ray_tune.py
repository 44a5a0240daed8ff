"""The seat between Tune and the waves: batches handed out once, and what became of them."""

import json

import pytest
from ray.tune.search import Searcher

from gcsearch.config.trials import Outcome, Proposal, TrialRecord
from gcsearch.errors import RunError
from gcsearch.execution.executor import Batch, BatchEnded, BatchStarted, TrialsReturned, WorkerGone
from gcsearch.execution.ray_tune import BatchSearcher
from tests.support.bowl import Bowl, search, wave

RECORDS = [record.model_copy(update={"label": ""}) for record in search()[:9]]
PACKS = [[Proposal(number=r.number, config=r.config) for r in RECORDS[first : first + 3]] for first in (0, 3, 6)]


class Listener:
    """What a wave is told, and whether it is to stop."""

    def __init__(self) -> None:
        self.events, self.stops = [], False

    def wave(self, *packs):
        return wave(packs, self.events.append, lambda: self.stops)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def records(self) -> list[TrialRecord]:
        return [record for event in self.of(TrialsReturned) for record in event.records]


def batch_of(suggested) -> list[int]:
    return [trial.number for trial in Batch.from_dict(json.loads(suggested["batch"])).trials]


def end(searcher, trial_id, pack):
    searcher.on_trial_result(trial_id, {"records": [record.to_dict() for record in Bowl()(pack, lambda reports: None)]})
    searcher.on_trial_complete(trial_id)


def test_a_wave_is_asked_for_when_the_one_before_has_ended_and_not_sooner():
    heard = Listener()
    searcher = BatchSearcher(iter([heard.wave(*PACKS[:2]), heard.wave(), heard.wave(PACKS[2])]))
    assert batch_of(searcher.suggest("a")) == [0, 1, 2]
    assert [event.batch.trials[0].number for event in heard.of(BatchStarted)] == [0]  # the second waits for a worker
    assert batch_of(searcher.suggest("b")) == [3, 4, 5]
    end(searcher, "b", PACKS[1])
    assert searcher.suggest("c") is None
    end(searcher, "a", PACKS[0])
    assert batch_of(searcher.suggest("d")) == [6, 7, 8]
    end(searcher, "d", PACKS[2])
    assert searcher.suggest("e") == Searcher.FINISHED
    assert [event.batch.trials[0].number for event in heard.of(BatchEnded)] == [3, 0, 6]
    assert [record.number for record in heard.records] == [3, 4, 5, 0, 1, 2, 6, 7, 8]


def test_a_wave_that_is_to_stop_starts_nothing_more_and_what_runs_ends():
    heard, other = Listener(), Listener()
    searcher = BatchSearcher([heard.wave(*PACKS[:2]), heard.wave(PACKS[2]), other.wave(PACKS[2])])
    searcher.suggest("a")
    heard.stops = True
    assert searcher.suggest("b") is None  # the second batch never starts
    end(searcher, "a", PACKS[0])
    assert [record.number for record in heard.records] == [0, 1, 2]
    assert batch_of(searcher.suggest("c")) == [6, 7, 8]  # of the wave that is not to stop
    assert [event.batch.trials[0].number for event in other.of(BatchStarted)] == [6]


def test_a_batch_that_starts_again_is_announced_once():
    heard = Listener()
    searcher = BatchSearcher([heard.wave(PACKS[0])], retries=2)
    first = searcher.suggest("t")
    searcher.on_worker_death("t", "out of memory")
    searcher.on_trial_complete("t", error=True)
    assert searcher.suggest("again") == first
    assert len(heard.of(BatchStarted)) == 1


def test_a_worker_that_dies_is_named_with_what_becomes_of_its_trials():
    heard = Listener()
    reference = [PACKS[0][0].model_copy(update={"number": -1})]
    searcher = BatchSearcher([heard.wave(PACKS[0], reference)], retries=1)
    searcher.suggest("t")
    searcher.on_trial_result("t", {"worker": "gpu7:12@4f0c21aa"})
    searcher.on_worker_death("t", "The actor died: out of memory.\nPages of Ray's own words")
    searcher.on_worker_death("t", "")
    searcher.suggest("u")
    searcher.on_worker_death("u", "killed")
    assert heard.of(WorkerGone) == [
        WorkerGone(
            "gpu7:12@4f0c21aa",
            "the worker process gpu7:12@4f0c21aa ended (The actor died: out of memory); "
            "trials t0000, t0001, t0002 run again",
        ),
        WorkerGone(
            "",
            "the worker process of a pack ended (no cause given); trials t0000, t0001, t0002 have failed after 2 tries",
        ),
        WorkerGone("", "the worker process of a pack ended (killed); trial reference 1 runs again"),
    ]


def test_a_batch_that_leaves_no_record_failed_for_the_cause_that_was_heard():
    heard = Listener()
    searcher = BatchSearcher([heard.wave(PACKS[0])])
    searcher.suggest("t")
    searcher.on_worker_death("t", "out of memory")
    searcher.on_trial_complete("t", error=True)
    assert [record.outcome for record in heard.records] == [Outcome.FAILED] * 3
    assert heard.records[0].reason == "the worker process ended (tries: 1): out of memory"


def test_a_batch_that_tune_gives_up_early_starts_again_until_its_tries_are_over():
    heard = Listener()
    searcher = BatchSearcher([heard.wave(PACKS[0])], retries=2)
    batches = []
    for trial in ("t", "u", "v"):
        assert heard.records == []
        batches.append(searcher.suggest(trial))
        searcher.on_worker_death(trial, "out of memory")
        searcher.on_trial_complete(trial, error=True)
    assert batches == [batches[0]] * 3
    assert [record.outcome for record in heard.records] == [Outcome.FAILED] * 3
    assert heard.records[0].reason == "the worker process ended (tries: 3): out of memory"
    assert searcher.suggest("w") == Searcher.FINISHED


def test_a_worker_that_dies_after_its_records_came_costs_no_second_ones():
    heard = Listener()
    searcher = BatchSearcher([heard.wave(PACKS[0])], retries=2)
    searcher.suggest("t")
    searcher.on_trial_result("t", {"records": [record.to_dict() for record in RECORDS[:3]]})
    searcher.on_worker_death("t", "killed")
    other = [record.model_copy(update={"worker": "another"}).to_dict() for record in RECORDS[:3]]
    searcher.on_trial_result("t", {"records": other})
    searcher.on_trial_complete("t")
    assert heard.records == RECORDS[:3]
    assert searcher.suggest("u") == Searcher.FINISHED


def full(event):
    raise RunError("the disk is full")


def test_what_a_wave_raises_comes_out_as_it_is():
    searcher = BatchSearcher([wave(PACKS[:1], full)])
    with pytest.raises(RunError, match="disk is full"):
        searcher.suggest("t")
    with pytest.raises(RunError, match="disk is full"):
        searcher.suggest("u")


def test_what_is_raised_between_two_waves_ends_the_run_once_nothing_runs():
    def waves():
        yield wave(PACKS[:1])
        raise RunError("somebody else drives the sweep")

    searcher = BatchSearcher(waves())
    searcher.suggest("t")
    end(searcher, "t", PACKS[0])
    assert searcher.suggest("u") == Searcher.FINISHED
    assert str(searcher.error) == "somebody else drives the sweep"
