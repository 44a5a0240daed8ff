"""Methods by name: defaults, combinations, and what is refused."""

from __future__ import annotations

import pytest

from gcsearch.config.trials import TrialConfig
from gcsearch.errors import InputError
from gcsearch.methods.registry import METHODS, build, complete, find

PUBLISHED = {
    "coop": {"lr": 0.002, "epochs": 200, "batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4, "n_ctx": 4},
    "cocoop": {"epochs": 10, "batch_size": 1},
    "kgcoop": {"kg_lambda": 8.0, "epochs": 100},
    "prograd": {"prograd_lambda": 1.0, "temperature": 1.0, "epochs": 100},
    "subpt": {"probe_epochs": 50, "rank": 10, "epochs": 200},
    "nfl": {"nfl_lambda": 1.0},
    "asam": {"rho": 0.5, "eta": 0.01},
    "sagm": {"rho": 0.05, "alpha": 0.001},
    "fsam": {"rho": 0.05, "sigma": 1.0, "decay": 0.9},
    "sample": {"rho": 0.05, "alpha": 0.0015, "decay": 0.15},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_constants_are_the_defaults(name):
    assert PUBLISHED[name].items() <= METHODS[name].hyperparameters.items()


def test_a_combination_has_all_parts():
    method = find("kgcoop+gcscoop").configured({"rho": 0.3, "kg_lambda": 2.0})
    assert method.title == "KgCoOp + GCSCoOp"
    assert method.kinds == ("guidance", "rule")
    assert method.rule == METHODS["gcscoop"].rule.changed({"rho": 0.3})
    assert method.losses == (METHODS["kgcoop"].losses[0].changed({"kg_lambda": 2.0}),)
    assert method.epochs == 100  # the first that has a default of its own
    assert find("cocoop+kgcoop").epochs == 10
    assert find("subpt+nfl") is METHODS["subpt+nfl"]
    assert METHODS["subpt+nfl"].losses == METHODS["nfl"].losses
    assert METHODS["subpt+nfl"].projection == METHODS["subpt"].projection


def test_total_epochs_count_the_probe_and_nothing_that_is_not_trained():
    assert {name: METHODS[name].total_epochs for name in ("zeroshot", "coop", "kgcoop", "subpt")} == {
        "zeroshot": 0,
        "coop": 200,
        "kgcoop": 100,
        "subpt": 250,
    }


def test_hyperparameters_that_are_floats_are_vectors_over_the_members():
    shared = {"lr", "momentum", "weight_decay"}
    assert METHODS["coop"].numbers.keys() == shared
    assert find("kgcoop+gcscoop").numbers.keys() == shared | {"kg_lambda", "rho", "beta1", "beta2"}
    assert METHODS["gcscoop"].configured({"beta1": "off"}).numbers["beta1"] == 0.0  # removes the plain branch
    assert METHODS["gsam"].configured({"rho": 0.3}).numbers["rho_min"] == 0.3  # a constant radius


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kgop", "Did you mean 'kgcoop'"),
        ("kgcoop+gcsoop", "Did you mean 'gcscoop'"),
        ("gcscoop+kgcoop", "Write 'kgcoop\\+gcscoop'"),
        ("sam+gcscoop", "names a gradient rule twice"),
        ("coop+sam", "Write 'sam'"),
        ("zeroshot+sam", "does not combine"),
        ("kgcoop+", "known names"),
    ],
)
def test_what_does_not_combine_is_refused_with_the_remedy(name, message):
    with pytest.raises(InputError, match=message):
        find(name)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("subpt", {"rank": 50}, r"subpt\.rank: rank must be below probe_epochs.*\nAt most 49"),
        ("subpt", {"epochs": 40}, r"subpt\.probe_epochs: .*must not exceed epochs.*\nAt most 40"),
        ("cocoop", {"position": "front"}, r"cocoop\.position: CoCoOp shifts"),
        ("cocoop", {"class_specific": True}, r"cocoop\.class_specific: CoCoOp shifts"),
        ("nfl", {"class_specific": True}, r"nfl\.class_specific: NFL needs a context"),
        ("kgcoop", {"kgcoop_lr": "double"}, r"kgcoop\.kgcoop_lr"),
        ("kgcoop+gcscoop", {"rhoo": 1}, r"kgcoop\+gcscoop\.rhoo.*\nDid you mean 'rho'"),
        ("kgcoop", {"rho": 0.1}, r"kgcoop\.rho: the key must be one of the known"),
        ("gsam", {"alpha": -1.0}, r"gsam\.alpha"),
    ],
)
def test_a_wrong_setting_is_refused_by_key(name, values, message):
    with pytest.raises(InputError, match=message):
        build(TrialConfig(method=name, hyperparameters=values))


def test_tags_say_what_a_reader_must_know():
    assert METHODS["nfl"].tags == ()
    assert METHODS["nfl"].configured({"nfl_names": "transductive"}).tags == ("transductive",)
    assert METHODS["zeroshot"].configured({"ensemble": True}).tags == ("ensemble",)
    assert METHODS["sam"].configured({"class_specific": True}).tags == ("class-specific",)


@pytest.mark.parametrize("name", METHODS)
def test_a_completed_setting_is_the_same_method(name):
    config = complete(TrialConfig(method=name))
    assert build(config) == METHODS[name]
    assert complete(config) == config
