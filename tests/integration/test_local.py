"""Trials in this process: the same numbers as with Ray, which need not even be installed, and open to a debugger."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
import traceback

import pytest

import gcsearch
from gcsearch.config.pipeline import Pipeline
from gcsearch.errors import InputError, Interrupted
from gcsearch.execution.executor import BatchEnded, BatchStarted, EpochsReported, LocalExecutor, TrialsReturned
from gcsearch.search import proposer
from gcsearch.sweep import lease
from gcsearch.sweep.journal import SessionEnd, StudyKept
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.training.loop import Training
from tests.support.bowl import SETTINGS, Bowl, run_search, search
from tests.support.sweeps import SMOKE

WITHOUT = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # as if it were not installed
import gcsearch
"""


def without(names: str, code: str, *words) -> str:
    """What `code` prints where the libraries `names` cannot be imported."""
    words = [sys.executable, "-c", WITHOUT + code, names, *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(records):
    return [record.model_copy(update={"worker": "", "seconds": 0.0, "run_id": ""}) for record in records]


def test_a_search_without_ray_comes_to_the_same_records_and_ranking(sweep, tmp_path):
    code = "gcsearch.run(gcsearch.Pipeline.from_dict(json.loads(sys.argv[3])), store=sys.argv[2], executor='local')"
    without("ray", code, tmp_path, json.dumps(SMOKE))
    store = Store(tmp_path)
    local = Sweep("smoke", store, store.sweep("smoke"))
    assert numbers(local.records) == numbers(sweep.records)
    assert numbers(local.rechecked) == numbers(sweep.rechecked)
    assert numbers(local.finals) == numbers(sweep.finals)
    assert [row.rank for row in local.ranking] == [row.rank for row in sweep.ranking]
    assert [row.record.number for row in local.ranking] == [row.record.number for row in sweep.ranking]
    assert (local.folder / "report.html").exists()


class Interrupting(gcsearch.Callback):
    def __init__(self, number: int) -> None:
        self.number = number

    def record(self, record):
        if record.number == self.number:
            raise KeyboardInterrupt


def test_an_end_within_a_pack_leaves_no_half_of_it_and_the_sweep_comes_to_the_same(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(proposer, "KEEP_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        gcsearch.run(sweep.pipeline, store=tmp_path, executor="local", callback=Interrupting(0))
    begun = Sweep("smoke", Store(tmp_path), Store(tmp_path).sweep("smoke"))
    assert len(begun.records) == sweep.pipeline.search.size > 1
    with pytest.raises(KeyboardInterrupt):
        gcsearch.resume("smoke", store=tmp_path, executor="local", callback=Interrupting(4))
    assert [event.state.told for event in begun.journal.events(StudyKept)] == [4]
    asked, ask = [], proposer.Proposer._ask
    monkeypatch.setattr(proposer.Proposer, "_ask", lambda self, number: asked.append(number) or ask(self, number))
    assert numbers(gcsearch.resume("smoke", store=tmp_path, executor="local").records) == numbers(sweep.records)
    assert asked == [4, 5]  # the last generation: all before it was added as it had ended


class StopsFirst(gcsearch.Callback):
    """Has the sweep asked to stop before its first wave, as somebody may while Ray starts."""

    def __init__(self, store) -> None:
        self.store = store

    def stage(self, name, total=None):
        if name == "search":
            gcsearch.stop("smoke", store=self.store)
            time.sleep(2 * lease._POLL)


def test_a_stop_before_the_first_trial_is_a_stop_and_no_failure(sweep, tmp_path):
    with pytest.raises(Interrupted):
        gcsearch.run(sweep.pipeline, store=tmp_path, executor="local", callback=StopsFirst(tmp_path))
    begun = Sweep("smoke", Store(tmp_path), Store(tmp_path).sweep("smoke"))
    assert (begun.records, begun.state.end) == ([], SessionEnd.STOPPED)


def test_a_sweep_is_pickled_by_its_place(sweep):
    again = pickle.loads(pickle.dumps(sweep))
    assert (again, again.records) == (sweep, sweep.records)


def test_an_export_classifies_without_ray_and_mlflow(exported):
    code = "print(len(gcsearch.load_export(sys.argv[2]).names))\n"
    code += "from gcsearch.cli.app import main\nsys.argv = ['gcsearch', 'predict', sys.argv[2], *sys.argv[3:]]\nmain()"
    task = Pipeline.from_dict(SMOKE).task
    shown = without("ray,mlflow", code, exported, _an_image(task), "--json")
    count, _, answer = shown.partition("\n")
    assert int(count) > 2
    assert json.loads(answer)


def _an_image(task):
    from gcsearch.training import loading

    dataset = loading.laboratory(task).dataset
    return dataset.images / dataset.test[0].path


def test_what_an_executor_says_of_a_search(tmp_path):
    heard = []
    records = run_search(LocalExecutor(), Bowl(), SETTINGS.model_copy(update={"trials": 4}), on_event=heard.append)
    assert numbers(records) == numbers(search(SETTINGS.model_copy(update={"trials": 4})))
    assert [type(event) for event in heard if not isinstance(event, EpochsReported)] == [
        BatchStarted, TrialsReturned, BatchEnded,
    ] * 2  # fmt: skip
    assert [len(event.records) for event in heard if isinstance(event, TrialsReturned)] == [3, 1]


def test_a_search_that_is_to_stop_starts_nothing_more_and_goes_on_later():
    heard = []

    def stopping():
        return sum(isinstance(event, BatchEnded) for event in heard) >= 3

    records = run_search(LocalExecutor(), Bowl(), on_event=heard.append, stopping=stopping)
    assert [record.number for record in records] == list(range(9))
    assert run_search(LocalExecutor(), Bowl(), known=records) == search()


def test_an_exception_in_training_shows_its_own_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        return 1 / 0

    monkeypatch.setattr(Training, "run", broken)
    small = {**SMOKE, "name": "broken", "confirm": {"top": 1, "seeds": [4], "references": []}}
    with pytest.raises(ZeroDivisionError) as caught:
        gcsearch.run(Pipeline.from_dict(small), store=tmp_path, executor="local")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "broken"
    assert gcsearch.open_sweep("broken", tmp_path).state.end == "FAILED"
    monkeypatch.undo()
    assert len(gcsearch.resume("broken", store=tmp_path, executor="local").records) == 6


def test_an_executor_that_there_is_not_is_refused_also_where_nothing_is_left_to_run(sweep):
    for again in (
        lambda: gcsearch.run(sweep.pipeline, store=sweep.store.root, executor="ray2"),
        lambda: gcsearch.resume("smoke", store=sweep.store.root, executor="ray2"),
    ):
        with pytest.raises(InputError, match="executor"):
            again()


def test_a_comparison_of_nothing_is_refused():
    with pytest.raises(InputError, match="a comparison needs finished sweeps"):
        gcsearch.compare()


def test_an_export_is_shown_in_a_line(exported):
    shown = repr(gcsearch.load_export(exported))
    assert shown.startswith("Export('")
    assert "gcscoop" in shown
    assert len(shown) < 500


def test_an_executor_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"(?s)executor: .*got 'locl'.*Did you mean 'local'"):
        gcsearch.run(Pipeline.from_dict({**SMOKE, "name": "none"}), store=tmp_path, executor="locl")
    assert not (tmp_path / "sweeps" / "none").exists()
