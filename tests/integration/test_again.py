"""What is asked of a sweep again: returned, refused, kept, put right, or gone on with after an interruption."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from mlflow import MlflowClient

from gcsearch import open_sweep
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome
from gcsearch.driver import run as pipelines
from gcsearch.driver.session import judge
from gcsearch.errors import InputError, RunError, TooManyFailures
from gcsearch.execution import executor, worker
from gcsearch.sweep.journal import TrialConfirmed
from gcsearch.sweep.lease import driving
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.calls import call
from tests.support.processes import command, journal_has, left_behind, start
from tests.support.sweeps import SMOKE


def test_a_finished_sweep_is_returned_and_not_run_again(sweep, copy):
    again = pipelines.run(Pipeline.from_dict(SMOKE), store=copy)
    assert again.records == sweep.records
    assert (again.folder / "journal.jsonl").read_text() == (sweep.folder / "journal.jsonl").read_text()


def test_another_pipeline_under_the_same_name_is_refused(copy):
    other = Pipeline.from_dict({**SMOKE, "search": {**SMOKE["search"], "seed": 9}})
    with pytest.raises(InputError, match="goes on with the pipeline and space that it began with"):
        pipelines.run(other, store=copy)


def test_fresh_keeps_the_former_sweep(sweep, copy):
    small = {**SMOKE, "search": {"space": "zeroshot"}, "confirm": {"top": 1, "seeds": [4], "references": []}}
    pipelines.run(Pipeline.from_dict(small), store=copy, fresh=True, executor="local")
    assert (copy / "sweeps" / "smoke.1" / "journal.jsonl").read_text() == (sweep.folder / "journal.jsonl").read_text()
    assert len(open_sweep("smoke", copy).records) == 1


def test_a_sweep_is_run_by_one_process_at_a_time(sweep, copy):
    lease = Store.locate(copy).lease("smoke")
    with driving(lease, "the sweep smoke"):
        for begin in (
            lambda: pipelines.run(Pipeline.from_dict(SMOKE), store=copy),
            lambda: pipelines.sync("smoke", store=copy),
        ):
            with pytest.raises(
                InputError, match=f"the sweep smoke is driven by one process at a time, got .*:{os.getpid()}"
            ):
                begin()
    assert not lease.exists()
    assert pipelines.run(Pipeline.from_dict(SMOKE), store=copy).records == sweep.records


def test_more_failures_than_allowed_end_with_3_and_keep_the_results(sweep, tmp_path):
    copy = Sweep("smoke", Store(tmp_path), tmp_path / "sweeps" / "smoke")
    shutil.copytree(sweep.folder, copy.folder)
    judge(copy, 0)
    failed = sweep.records[3].model_copy(update={"outcome": Outcome.FAILED, "reason": "out of memory"})
    copy.journal.append("record", record=failed)
    with pytest.raises(TooManyFailures, match=r"1 of 6 trials failed, 0 are allowed.*out of memory") as caught:
        judge(Sweep("smoke", copy.store, copy.folder), 0)
    assert caught.value.exit_code == 3
    with pytest.raises(TooManyFailures):  # nor is it a success when the same job is handed in again
        pipelines.run(Pipeline.from_dict(SMOKE), store=tmp_path)
    for words in (["run", copy.folder / "pipeline.toml"], ["resume", "smoke"]):
        done = call(*words, "--store", tmp_path)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
    allowed = {**SMOKE, "search": {**SMOKE["search"], "max_failed": 1}}
    assert pipelines.run(Pipeline.from_dict(allowed), store=tmp_path).champion
    final = [*sweep.finals[:-1], sweep.finals[-1].model_copy(update={"outcome": Outcome.DIVERGED, "reason": "nan"})]
    copy.journal.append("final", records=final, threads=1)
    with pytest.raises(RunError, match="champion could not be confirmed: nan"):
        judge(Sweep("smoke", copy.store, copy.folder), 1)
    with pytest.raises(InputError, match="only a confirmed champion can be exported, and this one diverged: nan"):
        Sweep("smoke", copy.store, copy.folder).export(tmp_path / "out")


def test_a_setting_that_failed_in_the_confirmation_is_measured_again_by_whoever_goes_on(sweep, tmp_path, monkeypatch):
    copy = Sweep("smoke", Store(tmp_path), tmp_path / "sweeps" / "smoke")
    shutil.copytree(sweep.folder, copy.folder)
    lines = copy.journal.path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f'"kind":"{kind}"' in line for kind in ("confirmed", "final", "close"))]
    copy.journal.path.write_text("".join(kept))
    train = worker.PackRunner.__call__

    def short_of_memory(runner, batch, report):
        (trial,) = batch.trials
        champion = batch.stage == "test" and trial.number == sweep.champion.number
        return [executor.failed(trial, "out of memory", "test")] if champion else train(runner, batch, report)

    with monkeypatch.context() as patch:
        patch.setattr(worker.PackRunner, "__call__", short_of_memory)
        with pytest.raises(RunError, match=r"champion could not be confirmed: out of memory\n.*gcsearch resume smoke"):
            pipelines.run(Pipeline.from_dict(SMOKE), store=tmp_path, executor="local")
    assert copy.state.end == "FAILED"
    with pytest.raises(InputError, match=r"this one failed: out of memory.\n`gcsearch resume smoke --store"):
        Sweep("smoke", copy.store, copy.folder).export(tmp_path / "out")
    elsewhere = {**SMOKE, "resources": {"memory": "16 GiB"}, "tracking": {"experiment": "other"}}
    done = pipelines.run(Pipeline.from_dict(elsewhere), store=tmp_path, executor="local")
    assert [(r.label, r.metrics) for r in done.finals] == [(r.label, r.metrics) for r in sweep.finals]
    assert len(done.journal.events(TrialConfirmed)) == len(sweep.journal.events(TrialConfirmed)) + 1
    assert (done.state.end, done.pipeline.resources.memory) == ("FINISHED", "16 GiB")


def numbers(sweep):
    return [(one.config, one.metrics, one.curve) for one in (*sweep.records, *sweep.rechecked, *sweep.finals)]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(sweep, tmp_path, number, code):
    path = tmp_path / "smoke.toml"
    path.write_text((sweep.folder / "pipeline.toml").read_text())
    store = tmp_path / "store"
    with (tmp_path / "log").open("w") as log:
        process = start(command("run", path, store=store), log)
        journal_has(store / "sweeps" / "smoke" / "journal.jsonl", "record", 2)
        process.send_signal(number)
        assert process.wait(300) == code, (tmp_path / "log").read_text()
    assert left_behind(process.pid, seconds=180) == []
    before = len(open_sweep("smoke", store).records)
    assert before >= 2
    done = pipelines.run(path, store=store)
    assert numbers(done) == numbers(sweep)
    ended = [record.number for record in done.journal.records()]
    assert sorted(ended) == list(range(6))  # nothing that had ended ran again
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=100)
    assert len(runs) == 1 + 6 + 5
    assert {run.info.status for run in runs} == {"FINISHED"}
