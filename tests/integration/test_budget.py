"""When a search has had enough, and what happens then."""

from __future__ import annotations

import pytest

from gcsearch import files, open_sweep
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.trials import Outcome
from gcsearch.driver import prepare, run
from gcsearch.errors import InputError
from gcsearch.search.budget import Meter
from gcsearch.sweep import callbacks
from gcsearch.sweep.journal import BudgetSpent, Event, TrialConfirmed, TrialEnded
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.records import trial_record


def record(number, value=50.0, outcome=Outcome.COMPLETE, seconds=10.0, worker="here"):
    metrics = {"val_h": (value,)}
    return trial_record(number, outcome=outcome, seeds=(1,), epochs=1, metrics=metrics, seconds=seconds, worker=worker)


def meter(records=(), *, now=0.0, devices=2.0, first=0, spent=0.0, **budget):
    times = iter([0.0])
    made = Meter(
        SearchConfig(objective="val_h", pack=2, budget=budget), devices, first, spent, clock=lambda: next(times, now)
    )
    for one in records:
        made.note(one)
    return made


def test_without_a_budget_there_is_no_end():
    assert meter([record(n, outcome=Outcome.FAILED) for n in range(99)], now=1e9).why() == ""


def test_minutes_count_over_sessions():
    assert meter(now=299, spent=300, minutes=10).why() == ""
    assert meter(now=300, spent=300, minutes=10).why() == "the budget of 10 minutes is spent"


def test_the_settings_of_a_pack_took_their_seconds_together():
    records = [record(0), record(1), record(2, seconds=7), record(3, seconds=7)]
    assert meter(records).device_seconds == 2 * (10 + 7)
    assert meter(records, device_seconds=34.5).why() == ""
    assert meter(records, device_seconds=34).why() == "the budget of 34 device-seconds is spent"


def test_failures_count_once_and_mended_ones_not():
    failed = [record(n, outcome=Outcome.FAILED) for n in range(2)]
    assert meter(failed, failed=2).why().startswith("2 configurations failed")
    assert meter([*failed, record(0)], failed=2).why() == ""


def test_no_gain_counts_from_the_best_on():
    records = [record(0, 50), record(1, 60), record(2, 60), record(3, 70, Outcome.PRUNED), record(4, float("nan"))]
    assert meter(records, no_gain=4).why() == ""
    assert meter(records, no_gain=3).why() == "3 configurations brought no better val_h"
    assert meter([*records, record(5, 61)], no_gain=1).why() == ""


def test_an_extension_has_the_budget_anew():
    records = [record(n, outcome=Outcome.FAILED) for n in range(4)]
    assert meter([*records, record(4, outcome=Outcome.FAILED)], first=4, failed=2, no_gain=2).why() == ""
    assert (
        meter([record(0, 60), record(1, 50), record(2, 40)], first=1, no_gain=2)
        .why()
        .startswith("2 configurations brought")
    )


SMALL = {
    "name": "small",
    "task": {"dataset": "shapes-sketch", "shots": 2, "views": 1, "seeds": [1], "folds": 2},
    "search": {"space": "gcscoop-smoke", "trials": 30, "pack": 2, "generation": 1, "budget": {"no_gain": 2}},
    "confirm": {"top": 1, "seeds": [4], "references": ["zeroshot"]},
    "resources": {"threads": 1},
}


@pytest.mark.slow
def test_a_search_ends_with_its_budget_and_a_finished_sweep_is_extended(tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    said = []

    class Listener(callbacks.Callback):
        def warn(self, text):
            said.append(text)

    first = run.run(Pipeline.from_dict(SMALL), store=tmp_path, callback=Listener(), executor="local")
    records, finals = first.records, first.finals  # a sweep follows its journal
    ended = len(records)
    assert 4 <= ended < 30
    assert ended % 2 == 0
    (event,) = first.journal.events(BudgetSpent)
    assert event.why.endswith("configurations brought no better val_base_margin")
    assert said == [f"the search ends with {ended} configurations: {event.why}"]
    assert first.finals[-1].label == "champion"

    lines = len(first.journal.events(Event))
    longer = run.extend("small", 2, store=tmp_path, executor="local")
    assert longer.trials == len(longer.records) == ended + 2
    assert longer.records[:ended] == records
    new = longer.journal.events(Event)[lines:]
    assert [event.record.number for event in new if isinstance(event, TrialEnded)] == [ended, ended + 1]
    assert "zeroshot" not in [e.record.config.method for e in new if isinstance(e, TrialConfirmed)]
    assert longer.finals[0].metrics == finals[0].metrics
    assert longer.finals[-1].number == longer.champion.number
    # Neither command does anything more.
    assert run.run(Pipeline.from_dict(SMALL), store=tmp_path).records == longer.records
    assert open_sweep("small", tmp_path).journal.events(Event) == longer.journal.events(Event)


def test_an_unfinished_sweep_is_not_extended(tmp_path):
    sweep = Sweep("small", Store(tmp_path), tmp_path / "sweeps" / "small")
    for name, text in prepare.origin_texts(Pipeline.from_dict(SMALL)).items():
        files.write_whole(sweep.folder / name, text)
    sweep.journal.append("open", id="small-1")
    with pytest.raises(InputError, match="only a finished sweep can be extended"):
        run.extend("small", 2, store=tmp_path)
