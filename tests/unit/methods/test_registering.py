"""A gradient rule of somebody's own as a method: named, searched, combined, and known to workers."""

from __future__ import annotations

from typing import ClassVar

import cloudpickle
import pytest

import gcsearch
from gcsearch import rules
from gcsearch.config.trials import TrialConfig
from gcsearch.errors import InputError
from gcsearch.methods import registry


class Halved(rules.Rule):
    kind: ClassVar[str | None] = "rule"

    share: rules.Share = 0.5

    def update(self, at):
        loss, plain = at.gradients(at.parameters)
        return rules.Update(loss, plain * rules.along(at.numbers["share"], plain))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    yield
    registry.find.cache_clear()


def test_a_registered_rule_is_a_method_with_its_hyperparameters():
    gcsearch.register_rule("halved", Halved(), title="half a step")
    method = registry.build(TrialConfig(method="halved", hyperparameters={"share": 0.25}))
    assert (method.title, method.rule, method.kinds) == ("half a step", Halved(share=0.25), ("rule",))
    assert registry.find("kgcoop+halved").rule == Halved()
    with pytest.raises(InputError, match=r"halved.share: .* less than or equal to 1"):
        registry.build(TrialConfig(method="halved", hyperparameters={"share": 2.0}))


def test_registering_again_takes_the_place_of_the_former_rule():
    gcsearch.register_rule("halved", Halved())
    assert registry.find("halved").rule == Halved()
    gcsearch.register_rule("halved", Halved(share=0.1))
    assert registry.find("halved").rule == Halved(share=0.1)


def test_what_is_registered_travels_to_workers():
    gcsearch.register_rule("halved", Halved(share=0.1), title="half")
    assert registry.registered() == {"halved": (Halved(share=0.1), "half")}
    (told,) = cloudpickle.loads(cloudpickle.dumps(registry.registered())).values()
    assert told == (Halved(share=0.1), "half")


class Clashing(Halved):
    lr: float = 0.1


@pytest.mark.parametrize(
    ("name", "rule", "message"),
    [
        ("Half it", Halved(), "has small letters and digits.*got 'Half it'"),
        ("sam", Halved(), "gcsearch's own stays what it is, got 'sam'"),
        ("plain", rules.PlainGradient(), "a gradient rule is wanted"),
        ("class", Halved, "a gradient rule is wanted"),
        ("clash", Clashing(), "every method has a hyperparameter of this name, got lr"),
    ],
)
def test_what_cannot_be_a_method_is_refused(name, rule, message):
    with pytest.raises(InputError, match=message):
        gcsearch.register_rule(name, rule)
    assert name in registry.SHIPPED or name not in registry.METHODS
