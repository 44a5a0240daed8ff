"""The engine under a Tuner and a Study of somebody else's."""

from __future__ import annotations

import math
import re
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

import gcsearch
from gcsearch.config.search_space import load
from gcsearch.config.trials import Proposal, TrialConfig
from gcsearch.errors import InputError
from gcsearch.execution import integrations
from gcsearch.execution.executor import Batch, LocalExecutor, TrialsReturned, Wave
from gcsearch.execution.placement import Placement
from gcsearch.execution.session import session
from gcsearch.execution.worker import PackRunner

TASK = gcsearch.Task(dataset="shapes-sketch", shots=4, views=2, seeds=(1, 2), folds=2)
SPACE = load("gcscoop-smoke")


def our_own(values, metric, task=TASK, space=SPACE):
    """What a sweep of ours comes to with these values."""
    trial, found = Proposal(number=0, config=space.config(values)), []

    def hear(event):
        if isinstance(event, TrialsReturned):
            found.extend(event.records)

    wave = Wave([Batch(stage="search", seeds=task.seeds, trials=(trial,))], hear)
    LocalExecutor().run([wave], PackRunner(task, 1))
    return found[0].mean(metric)


def test_a_study_optimises_what_a_sweep_measures():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    study.optimize(gcsearch.objective(TASK, SPACE, "val_h"), n_trials=3)
    for trial in study.trials:
        values = {name: value for name, value in trial.user_attrs["values"].items() if name in SPACE.parameters}
        assert trial.value == pytest.approx(our_own(values, "val_h"), abs=1e-6)
        assert list(trial.intermediate_values) == list(range(1, values["epochs"] + 1))
        assert trial.intermediate_values[values["epochs"]] == trial.value


def test_the_studys_pruner_decides_who_leaves():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=101))
    study.optimize(gcsearch.objective(TASK, "gcscoop-smoke"), n_trials=1)
    assert [(trial.state.name, list(trial.intermediate_values)) for trial in study.trials] == [("PRUNED", [1])]


def test_several_objectives_give_a_front():
    study = optuna.create_study(directions=["maximize"] * 2, sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(gcsearch.objective(TASK, SPACE, ("val_base_acc", "val_new_acc"), evaluate_every=9), n_trials=2)
    assert all(len(trial.values) == 2 and all(map(math.isfinite, trial.values)) for trial in study.trials)


def test_a_metric_that_is_not_measured_is_refused():
    study = optuna.create_study(direction="maximize")
    with pytest.raises(InputError, match=r"(?s)metric: .*got 'val_hh'.*Did you mean 'val_h'"):
        study.optimize(gcsearch.objective(TASK, SPACE, "val_hh"), n_trials=1)


def test_a_plain_config_is_a_method_and_its_hyperparameters():
    plain = integrations._decoder(None)({"method": "coop", "lr": 0.01, "epochs": 3})
    assert (plain.method, plain.hyperparameters["lr"], plain.hyperparameters["epochs"]) == ("coop", 0.01, 3)
    internal = SPACE.internal(SPACE.points[0].values)
    decoded = integrations._decoder(SPACE)(internal)
    assert SPACE.points[0].values.items() <= decoded.hyperparameters.items()
    assert isinstance(decoded, TrialConfig)


BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "python.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_page_s_tuner_and_study_run_the_engine(tmp_path, monkeypatch):
    """Stock OptunaSearch, ASHAScheduler and MLflow's callback in one Tuner; then a study's own pruner."""
    _, _, tuner, study = BLOCKS  # the others are what test_local runs, on a smaller pipeline
    monkeypatch.chdir(tmp_path)
    names = {"gcsearch": gcsearch}
    quiet = tuner.replace("tune.RunConfig(", f"tune.RunConfig(verbose=0, name='own', storage_path='{tmp_path}', ")
    with session(Placement(workers=2, threads=1)):
        exec(quiet, names)
    results, space, task = names["results"], names["space"], names["task"]
    assert len(results) == 4
    assert not results.errors
    assert all(math.isfinite(result.metrics["val_h"]) for result in results)
    ended = [result for result in results if result.metrics["epoch"] == space.natural(result.config)["epochs"]]
    assert ended
    for result in ended:
        assert result.metrics["val_h"] == pytest.approx(our_own(space.natural(result.config), "val_h", task, space))
    assert any(result.checkpoint for result in results)
    client = MlflowClient("sqlite:///mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'mine'")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 4
    assert all("val_h" in run.data.metrics for run in runs)
    exec(study, names)
    assert len(names["study"].trials) == 3
    assert space.parameters.keys() <= names["study"].best_trial.user_attrs["values"].keys()


@pytest.mark.parametrize(
    ("study", "metric", "received"),
    [
        ({}, "val_h", "minimize"),
        ({"direction": "minimize"}, "val_h", "minimize"),
        ({"direction": "maximize"}, ("val_base_acc", "val_new_acc"), "maximize"),
        ({"directions": ["maximize"] * 2}, "val_h", "maximize, maximize"),
    ],
)
def test_a_study_that_does_not_maximise_is_refused_before_a_trial_trains(study, metric, received):
    with pytest.raises(InputError, match=f"maximise.* got {received}") as raised:
        optuna.create_study(**study).optimize(gcsearch.objective(TASK, SPACE, metric), 1)
    assert "create_study(direction" in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"stage": "tset"}, "stage"), ({"evaluate_every": 0}, "evaluate_every"), ({"task": {"dataset": "pets"}}, "task")],
)
def test_wrong_arguments_are_refused_at_once(wrong, key):
    given = {"task": TASK, "space": SPACE, **wrong}
    for make in (gcsearch.objective, gcsearch.trainable):
        with pytest.raises(InputError) as raised:
            make(**given)
        assert raised.value.key == key
