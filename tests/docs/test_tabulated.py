"""The committed table: what its card says of it, and that Optuna can search it."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tabulated(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tabulated

    return tabulated


@pytest.fixture
def frame(tabulated):
    return tabulated.load()


def test_every_column_is_on_the_card(tabulated, frame):
    card = (BENCHMARKS / "results" / "table" / "README.md").read_text()
    told = re.findall(r"`([\w.*]+)`", card.split("## Columns")[1])
    patterns = [re.compile(one.replace(".", r"\.").replace("*", ".*")) for one in told]
    own = frame.drop(columns="transfer_acc").columns
    assert [key for key in own if not any(one.fullmatch(key) for one in patterns)] == []


def test_each_configuration_has_ten_seeds_and_ends_once_with_each(tabulated, frame):
    trained = frame[(frame["number"] != tabulated.ZERO_SHOT) & (frame["last"] | frame["diverged"])]
    assert set(trained.groupby(["world", "number"])["seed"].agg(tuple).map(sorted).map(tuple)) == {tuple(range(1, 11))}
    assert (frame[frame["number"] == tabulated.ZERO_SHOT].groupby("world").size() == 1).all()
    assert frame.loc[~frame["diverged"], "test_h"].between(0, 100).all()


def test_a_trial_at_a_tabulated_configuration_has_its_numbers(tabulated, frame):
    world = frame["world"].iloc[0]
    study = tabulated.study(frame, world)
    rows = tabulated.ends(frame, world)
    assert len(study.trials) == len(rows)
    look_up = tabulated.objective(frame, world)
    for trial in study.trials[:5]:
        assert look_up(optuna.trial.FixedTrial(trial.params)) == pytest.approx(trial.value)
        assert trial.value == pytest.approx(rows.loc[trial.user_attrs["number"], "val_base_margin"])
    searched = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    searched.optimize(look_up, n_trials=15)
    assert searched.best_value == pytest.approx(rows.loc[searched.best_trial.user_attrs["number"], "val_base_margin"])
    assert 0 < searched.best_trial.user_attrs["test_h"] <= 100
