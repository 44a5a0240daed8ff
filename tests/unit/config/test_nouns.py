"""The nouns: refused input says file, key, rule, value and remedy; accepted input survives the round trip."""

from __future__ import annotations

import json

import pytest

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import EpochReport, Outcome, TrialConfig, TrialFile, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods.registry import METHODS, build, complete


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "a", "taks": {}}, r"p.toml, taks: the key must be one of the known names.*\n.*Did you mean 'task'"),
        ({"name": "a", "task": {"shot": 4}}, r"p.toml, task.shot: .*\n.*Did you mean 'shots'"),
        (
            {"name": "a", "search": {"sampler": "tpee"}},
            r"search.sampler: input should be 'tpe', 'gp', .*'random' or 'grid', got 'tpee'",
        ),
        ({"name": "a", "task": {"shots": 0}}, r"task.shots: input should be greater than or equal to 1, got 0"),
        ({"name": "a", "task": {"seeds": [1, 1]}}, r"task.seeds: seeds must be distinct.*got \[1, 1\]"),
        ({"name": "a", "task": {"template": "a photo"}}, r"template must contain {} exactly once"),
        ({"name": "../x"}, r"name: a name is made of letters, digits, .*got '../x'.\n.*for example `pets-16shots`"),
        ({"name": "a", "search": {"trials": True}}, r"search.trials: input should be a valid integer, got True"),
        ({"name": "a", "search": {"trials": "3"}}, r"search.trials: input should be a valid integer, got '3'"),
        ({"name": "a", "task": {"seeds": [1, True]}}, r"task.seeds.1: input should be a valid integer, got True"),
        ({"name": "a", "task": {"val_shots": -1}}, r"task.val_shots: .*greater than or equal to 0, or 'all', got -1"),
        ({"name": "a", "resources": {"workers": "two"}}, r"resources.workers: .*integer, or 'auto', got 'two'"),
        ({}, r"p.toml, name: this key is required.\nAdd `name = ...`."),
        ({"name": "a", "version": 2}, r"version: input should be 1, got 2"),
    ],
)
def test_wrong_pipelines_are_refused_in_words(content, message):
    with pytest.raises(InputError, match=message):
        Pipeline.from_dict(content, file="p.toml")


def test_a_record_survives_json():
    record = TrialRecord(
        number=3,
        config=TrialConfig(method="gcscoop", hyperparameters={"rho": 0.1, "beta1": "off"}),
        stage="search",
        outcome=Outcome.PRUNED,
        seeds=(1, 2),
        epochs=4,
        metrics={"val_h": (50.0, 60.0)},
        curve=(EpochReport(number=3, epoch=4, metrics={"val_h": (50.0, 60.0)}),),
    )
    assert TrialRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert record.mean("val_h") == 55.0


def test_a_digest_depends_on_values_and_not_on_order():
    one = TrialConfig(method="sam", hyperparameters={"rho": 0.1, "lr": 0.002})
    same = TrialConfig(method="sam", hyperparameters={"lr": 0.002, "rho": 0.1})
    other = TrialConfig(method="sam", hyperparameters={"lr": 0.002, "rho": 0.2})
    assert one.digest == same.digest != other.digest


def test_a_trial_file_keeps_every_default():
    trial = TrialFile(trial=complete(TrialConfig(method="gcscoop")))
    assert TrialFile.from_dict(trial.to_dict()) == trial
    assert trial.trial.hyperparameters["momentum"] == 0.9


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("gcscop", {}, r"method: the method must be one of.*\n.*Did you mean 'gcscoop'"),
        ("sam", {"roh": 0.1}, r"sam.roh: the key must be one of the known names.*\n.*Did you mean 'rho'"),
        ("sam", {"rho": -1}, r"sam.rho: input should be greater than or equal to 0, got -1"),
        ("coop", {"rho": 0.1}, r"coop.rho: the key must be one of the known names"),
        ("coop", {"epochs": 1.5}, r"coop.epochs: .*got 1.5"),
        ("gcscoop", {"beta1": "on"}, r"gcscoop.beta1: input should be a valid number, or 'off', got 'on'"),
        ("gcscoop", {"beta1": True}, r"gcscoop.beta1: input should be a valid number, or 'off', got True"),
        ("sam", {"rho": False}, r"sam.rho: input should be a valid number, got False"),
        ("sam", {"rho": float("nan")}, r"sam.rho"),
    ],
)
def test_wrong_settings_are_refused_in_words(method, values, message):
    with pytest.raises(InputError, match=message):
        build(TrialConfig(method=method, hyperparameters=values))


def test_a_whole_number_is_a_number_and_a_list_a_tuple():
    assert build(TrialConfig(method="sam", hyperparameters={"rho": 1})).numbers["rho"] == 1.0
    assert Pipeline.from_dict({"name": "a", "task": {"seeds": [3, 4]}}).task.seeds == (3, 4)
    values = {"flag": True, "count": 1, "share": 1.0, "word": "end"}
    read = TrialConfig.from_dict({"method": "sam", "hyperparameters": values}).hyperparameters
    assert [type(value) for value in read.values()] == [bool, int, float, str]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_title_and_builds_from_its_defaults(method):
    config = complete(TrialConfig(method=method))
    assert complete(config) == config
    assert METHODS[method].title
