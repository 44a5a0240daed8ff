"""Every file under search_spaces/ loads, opens with what a reader needs, and fits its method."""

import random

import pytest

from gcsearch import files
from gcsearch.config.parameters import Fixed
from gcsearch.config.search_space import find, load
from gcsearch.methods.registry import METHODS, build

FILES = sorted(files.shipped("search_spaces"))


def test_there_is_a_space_for_every_method():
    assert {load(name).method for name in FILES} - {None} == set(METHODS)


@pytest.mark.parametrize("name", FILES)
def test_the_file_opens_with_a_description_and_the_command_to_run_it(name):
    head = find(name).read_text().split("\nversion")[0]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    assert f"--set search.space={name}" in head
    assert "docs/log.md" in head


@pytest.mark.parametrize("name", FILES)
def test_its_points_are_accepted_by_the_method_and_come_back_from_the_boxes(name):
    space = load(name)
    assert space.points or not space.searched
    for point in space.points:
        build(space.config(point.values))
        assert space.natural(space.internal(point.values)) == point.values


@pytest.mark.parametrize("name", FILES)
def test_whatever_may_be_proposed_is_accepted_by_the_method(name):
    from optuna.samplers import RandomSampler
    from optuna.study import create_study

    space = load(name)
    study = create_study(sampler=RandomSampler(seed=random.Random(name).randrange(2**31)))
    for _ in range(200):
        values = space.natural(study.ask(space.distributions()).params)
        build(space.config(values))


@pytest.mark.parametrize("name", FILES)
def test_it_names_no_parameter_that_the_method_lacks(name):
    space = load(name)
    for parameter in space.parameters:
        assert all(parameter in METHODS[method].hyperparameters for method in space.methods_with(parameter))
    assert not any(isinstance(parameter, Fixed) for parameter in space.parameters.values())


def test_zeroshot_is_one_single_setting():
    assert not load("zeroshot").searched
    assert load("zeroshot").natural({}) == {}


def test_the_literature_points():
    point = load("gcscoop").points[0]
    assert point.label == "literature"
    assert point.values == {"rho": 0.1, "beta1": 0.5, "beta2": 0.8, "lr": 0.002, "epochs": 200}
    assert [p.values["rho"] for p in load("sam").points] == [0.05, 0.1]
    assert load("coop").points[0].values == {"lr": 0.002, "epochs": 200}
