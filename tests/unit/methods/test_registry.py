"""Methods by name: defaults, combinations, and what is refused."""

from __future__ import annotations

import pytest

from gcsearch.config.trials import TrialConfig
from gcsearch.errors import InputError
from gcsearch.methods import rules as updates
from gcsearch.methods.registry import KINDS, METHODS, NFL, KgCoOp, SubPT, Trained, build, complete, find


def test_published_constants_are_the_defaults():
    assert (METHODS["cocoop"]().epochs, METHODS["cocoop"]().batch_size) == (10, 1)
    assert (METHODS["kgcoop"]().kg_lambda, METHODS["kgcoop"]().epochs) == (8.0, 100)
    assert (METHODS["prograd"]().prograd_lambda, METHODS["prograd"]().temperature) == (1.0, 1.0)
    assert (METHODS["subpt"]().probe_epochs, METHODS["subpt"]().rank, METHODS["subpt"]().epochs) == (50, 10, 200)
    assert METHODS["nfl"]().nfl_lambda == 1.0
    assert (METHODS["asam"]().rho, METHODS["asam"]().eta) == (0.5, 0.01)
    assert (METHODS["sagm"]().rho, METHODS["sagm"]().alpha) == (0.05, 0.001)
    assert (METHODS["fsam"]().rho, METHODS["fsam"]().sigma, METHODS["fsam"]().decay) == (0.05, 1.0, 0.9)
    assert (METHODS["sample"]().rho, METHODS["sample"]().alpha, METHODS["sample"]().decay) == (0.05, 0.0015, 0.15)


def test_every_rule_is_one_that_exists():
    rules = {method.rule for method in METHODS.values() if issubclass(method, Trained)}
    assert rules == set(updates.RULES)
    assert {method.kind for method in METHODS.values() if method.kind} <= set(KINDS)


def test_a_combination_has_all_parts():
    method = find("kgcoop+gcscoop")(rho=0.3, kg_lambda=2.0)
    assert (method.title, method.rule, method.rho, method.kg_lambda) == ("KgCoOp + GCSCoOp", "gcsam", 0.3, 2.0)
    assert isinstance(method, KgCoOp)
    assert method.epochs == 100  # the first part that has a default of its own
    both = METHODS["subpt+nfl"]()
    assert isinstance(both, SubPT)
    assert isinstance(both, NFL)
    assert find("subpt+nfl") is find("subpt+nfl")


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
    assert METHODS["nfl"]().tags == ()
    assert METHODS["nfl"](nfl_names="transductive").tags == ("transductive",)
    assert METHODS["zeroshot"](ensemble=True).tags == ("ensemble",)
    assert METHODS["sam"](class_specific=True).tags == ("class-specific",)


@pytest.mark.parametrize("name", METHODS)
def test_a_completed_setting_is_the_same_method(name):
    config = complete(TrialConfig(method=name))
    assert build(config) == METHODS[name]()
    assert complete(config) == config
