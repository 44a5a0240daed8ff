"""A sweep as an Optuna study: Optuna's own tools find in it what gcsearch says."""

from __future__ import annotations

import os
import sqlite3

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.config.trials import Outcome, TrialConfig
from gcsearch.errors import InputError, RunError
from gcsearch.results.report.responses import importances, responses
from gcsearch.sweep.lease import driving
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.records import ZEROSHOT, a_final, a_record
from tests.support.sweeps import a_sweep

RHOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SPACE = """version = 1
method = "gcscoop"
[parameters.rho]
low = 0.005
high = 2
log = true
zero = true
"""


def tried(number: int, **fields):
    """A trial that is the better the nearer its rho is to 0.1; the first and the last have no bound below."""
    rho = RHOS[number % len(RHOS)]
    bound = "off" if number in (0, 7) else 0.1 * number
    values = {"rho": rho, "beta1": bound, "beta2": 0.9, "epochs": 3 + number % 2}
    fields = {"config": TrialConfig(method="gcscoop", hyperparameters=values)} | fields
    record = a_record(number, **fields)
    if record.outcome is not Outcome.COMPLETE:
        return record
    shift = -abs(rho - 0.1)
    return record.model_copy(update={"metrics": {"val_h": (80 + shift, 81 + shift), "loss": (0.1, 0.2)}})


@pytest.fixture
def sweep(tmp_path):
    """Eight trials that completed, one that was pruned, one that diverged, one that failed; the champion is t0004."""
    config = tried(4).config
    records = [
        *map(tried, range(8)),
        tried(8, outcome=Outcome.PRUNED, epochs=1, metrics={"val_h": (51.0, 61.0)}),
        tried(9, outcome=Outcome.DIVERGED, metrics={}, reason="the loss is nan"),
        tried(10, outcome=Outcome.FAILED, metrics={}, curve=(), reason="out of memory"),
    ]
    champion = a_final("gcscoop", number=4).model_copy(update={"config": config})
    search = {"space": "space.toml", "objective": "val_h"}
    return a_sweep(tmp_path, "one", records, [ZEROSHOT, champion], space=SPACE, search=search)


def storages(folder):
    return [f"sqlite:///{folder}/study.db", str(folder / "journal.log")]


def load(storage: str, name: str = "one") -> optuna.Study:
    """As a script would that knows nothing of gcsearch."""
    if "://" not in storage:
        backend = optuna.storages.journal.JournalFileBackend(storage)
        return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize("kind", [0, 1], ids=["sqlite", "journal"])
def test_a_script_of_optuna_finds_best_trial_states_and_importances_of_gcsearch(sweep, tmp_path, kind):
    storage = storages(tmp_path)[kind]
    sweep.to_study(storage)
    study = load(storage)
    assert study.best_trial.number == sweep.ranking[0].record.number == 4
    assert study.best_value == sweep.ranking[0].values.mean
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8 + ["PRUNED", "FAIL", "FAIL"]
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE]
    assert study.metric_names == ["val_h"]
    own = optuna.importance.get_param_importances(study)
    assert own == importances(responses(sweep.searched, "val_h"))
    assert set(own) == {"rho", "beta1", "epochs"}


def test_a_trial_says_what_it_was_and_when(sweep):
    trial = sweep.to_study().trials[4]
    assert trial.params["rho"] == 0.1
    assert trial.intermediate_values == {1: 56.0, 2: 57.0, 3: 58.0}
    said = trial.user_attrs
    assert said["config"] == {"method": "gcscoop", "rho": 0.1, "beta1": 0.4, "beta2": 0.9, "epochs": 3}
    assert (said["role"], said["rank"], said["outcome"], said["seeds"]) == ("champion", 1, "complete", [1, 2])
    assert (said["val_h"], said["by_seed"]["loss"]) == (80.5, [0.1, 0.2])
    assert (said["h"], said["base"], said["confirm_seeds"]) == (67.0, 81.0, [4, 5])
    assert said["h_low"] < said["h"] < said["h_high"]
    written = sweep.journal.read(sweep.state.places[4]).time
    assert trial.datetime_complete.timestamp() == written.timestamp()
    assert trial.duration.total_seconds() == 30


def test_what_stands_apart_has_a_place_and_the_study_says_which(sweep):
    study = sweep.to_study()
    apart = study.user_attrs["apart"]
    assert study.trials[0].params["rho"] == apart["rho"]["0"] < 0.01
    assert study.trials[0].params["beta1"] == apart["beta1"]["off"] < 0.1
    assert study.trials[0].user_attrs["config"]["beta1"] == "off"


def test_trials_that_ended_early_keep_what_they_had(sweep):
    pruned, diverged, failed = sweep.to_study().trials[8:]
    assert (pruned.state, pruned.intermediate_values, pruned.value) == (TrialState.PRUNED, {1: 56.0}, 56.0)
    assert (diverged.value, diverged.user_attrs["outcome"]) == (None, "diverged")
    assert failed.user_attrs["reason"] == "out of memory"


def test_what_runs_or_waits_is_told_apart(sweep):
    for number in (11, 13):  # the journal lost what it had of 12
        sweep.journal.append("proposal", number=number, config=tried(number).config, label="")
    study = sweep.to_study()
    waiting, lost, _ = study.trials[11:]
    assert (waiting.state, lost.state) == (TrialState.WAITING, TrialState.FAIL)
    assert waiting.user_attrs["config"]["rho"] == 0.05
    assert "says nothing" in lost.user_attrs["reason"]
    assert study.ask().suggest_float("rho", 0.005, 2, log=True) == 0.05
    with driving(sweep.store.lease(sweep.name), "the sweep"):
        running = sweep.to_study().trials[11]
    assert (running.state, running.params["rho"]) == (TrialState.RUNNING, 0.05)


def test_writing_again_changes_nothing_and_brings_up_to_date_what_has_grown(sweep, tmp_path):
    storage = storages(tmp_path)[1]
    sweep.to_study(storage)
    before = (tmp_path / "journal.log").read_bytes()
    sweep.to_study(storage)
    assert (tmp_path / "journal.log").read_bytes() == before
    sweep.journal.append("record", record=tried(11))
    sweep.to_study(storage)
    assert len(load(storage).trials) == 12


def test_another_study_of_the_name_is_refused_unless_it_is_to_be_replaced(sweep, tmp_path):
    storage = storages(tmp_path)[1]
    backend = optuna.storages.journal.JournalFileBackend(storage)
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="one")
    study.enqueue_trial({"x": 1})
    with pytest.raises(InputError, match=r"another study under this name, got one\.\n.*--replace"):
        sweep.to_study(storage)
    assert len(load(storage).trials) == 1
    sweep.to_study(storage, replace=True)
    load(storage).ask()
    with pytest.raises(InputError, match="with trials of others"):
        sweep.to_study(storage)
    sweep.to_study(storage, "two")
    assert len(load(storage, "two").trials) == 11


def test_a_sweep_that_has_hardly_begun_is_a_study_too(tmp_path):
    sweep = a_sweep(tmp_path, "one", space=SPACE, search={"space": "space.toml", "objective": "val_h"})
    assert sweep.to_study().trials == []
    sweep.journal.append("record", record=tried(0, outcome=Outcome.FAILED, metrics={}, curve=()))
    assert [trial.state for trial in sweep.to_study().trials] == [TrialState.FAIL]


def test_several_objectives_are_several_values(tmp_path):
    names = ["val_base_acc", "val_new_acc"]
    records = [
        a_record(number, metrics=dict(zip(names, [(80.0 + number,), (70.0 - number,)], strict=True)), seeds=(1,))
        for number in range(2)
    ]
    sweep = a_sweep(tmp_path, "one", records, space=SPACE, search={"space": "space.toml", "objective": names})
    study = sweep.to_study()
    assert (study.metric_names, study.trials[1].values) == (names, [81.0, 69.0])
    assert {trial.number for trial in study.best_trials} == {0, 1}
    assert study.trials[0].user_attrs["front"] is True


def test_a_study_that_was_cut_off_half_way_is_written_again(sweep, tmp_path, monkeypatch):
    storage = storages(tmp_path)[1]
    with monkeypatch.context() as patch:
        add = optuna.Study.add_trial
        patch.setattr(
            optuna.Study, "add_trial", lambda study, t: add(study, t) if t.state != TrialState.PRUNED else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            sweep.to_study(storage)
    sweep.to_study(storage)
    assert len(load(storage).trials) == 11


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite:///missing/study.db", "the folder of an SQLite database must be there"),
        ("missing/journal.log", "the folder of a journal file must be there"),
        ("nonsense://here", "this is no storage"),
        ("taken.db", r"is an SQLite database, got .*\nWrite sqlite:///"),
        ("notes.txt", "none of Optuna's journals, and is left alone"),
        (".", "a journal file must be a file"),
    ],
)
def test_what_is_no_storage_is_refused(sweep, tmp_path, monkeypatch, storage, message):
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("taken.db") as database:
        database.execute("CREATE TABLE notes (text)")
    (tmp_path / "notes.txt").write_text("remember the milk")
    with pytest.raises(InputError, match=message):
        sweep.to_study(storage)


def test_a_database_that_is_none_says_so(sweep, tmp_path):
    (tmp_path / "notes.txt").write_text("remember the milk" * 100)
    with pytest.raises(RunError, match=r"refused: .*not a database"):
        sweep.to_study(f"sqlite:///{tmp_path}/notes.txt")


def test_the_command_writes_the_study_and_counts_its_states(sweep, tmp_path):
    storage = storages(tmp_path)[1]
    done = CliRunner().invoke(app, ["study", "one", "--storage", storage, "--store", str(tmp_path)])
    assert done.stdout == f"study one in {storage}: 11 trials (8 complete, 1 pruned, 2 fail)\n"
    assert os.path.exists(storage)
    assert Sweep.named("one", Store(tmp_path)).state.lines == sweep.state.lines
