"""Whatever a search space is like: what its distributions give lies in it, and goes back to a place that gives it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gcsearch.config.parameters import OFF, ON
from gcsearch.config.search_space import SearchSpace

NUMBERS = st.floats(-1e4, 1e4)
WORDS = st.sampled_from(["end", "front", "middle", True, False, 3, 0.25])


@st.composite
def ranges(draw, at_most=None):
    """A range of any kind; below the parameter `at_most`, which has `least`, where one is given."""
    if at_most:
        name, least = at_most
        low = draw(st.floats(least - 10.0, least))
        return {"low": low, "high": draw(st.floats(low, low + 100.0, exclude_min=True)), "at_most": name}
    kind = draw(st.sampled_from(["linear", "log", "integer", "log integer"]))
    if "integer" in kind:
        low = draw(st.integers(1 if "log" in kind else -50, 50))
        bounds = {"low": low, "high": draw(st.integers(low + 1, 500)), "integer": True}
    else:
        low = draw(st.floats(1e-6, 10.0) if kind == "log" else NUMBERS)
        bounds = {"low": low, "high": draw(st.floats(low, 2e4, exclude_min=True))}
    flags = {"log": True} if "log" in kind else {}
    if kind == "log" and draw(st.booleans()):
        flags["zero"] = True
    return bounds | flags


@st.composite
def spaces(draw):
    """Up to six parameters: fixed ones, choices and ranges, some below another one, some there on a condition."""
    tables = {}
    for number in range(draw(st.integers(1, 6))):
        conditions = {
            name: one.get("choices", [ON, OFF]) for name, one in tables.items() if "choices" in one or one.get("off")
        }
        when = {}
        if conditions and draw(st.booleans()):
            name = draw(st.sampled_from(sorted(conditions)))
            when = {name: draw(st.lists(st.sampled_from(conditions[name]), min_size=1, unique_by=repr))}
        upper = {name: one for name, one in tables.items() if "low" in one and not one.get("off")}
        kind = draw(st.sampled_from(["fixed", "choice", "range", "below"] if upper else ["fixed", "choice", "range"]))
        if kind == "fixed":
            table = {"value": draw(st.one_of(WORDS, NUMBERS))}
        elif kind == "choice":
            table = {"choices": draw(st.lists(WORDS, min_size=2, max_size=4, unique=True))}
        elif kind == "range":
            table = draw(ranges())
        else:
            name = draw(st.sampled_from(sorted(upper)))
            other = upper[name]
            table = draw(ranges((name, 0.0 if other.get("zero") else float(other["low"]))))
            when = dict(other.get("when", {}))
        if "low" in table and draw(st.booleans()):
            table["off"] = True
        tables[f"p{number}"] = table | ({"when": when} if when else {})
    return SearchSpace.from_dict({"version": 1, "method": "sam", "parameters": tables})


@st.composite
def places(draw):
    """A space, and a place in its distributions as a sampler may give it."""
    space = draw(spaces())
    place = {}
    for name, one in space.distributions().items():
        if hasattr(one, "choices"):
            place[name] = draw(st.sampled_from(one.choices))
        else:
            numbers = st.integers if isinstance(one.low, int) else st.floats
            place[name] = draw(numbers(one.low, one.high))
    return space, place


@given(places())
def test_what_comes_out_of_the_distributions_lies_in_the_space(drawn):
    space, place = drawn
    values = space.natural(place)
    assert space.parse(values) == values
    for name, value in values.items():
        upper = getattr(space.parameters[name], "at_most", None)
        assert upper is None or value == OFF or value <= values[upper]
        assert not isinstance(value, float) or math.isfinite(value)


@given(places())
def test_values_go_back_to_a_place_of_the_distributions_that_gives_them_again(drawn):
    space, place = drawn
    values = space.natural(place)
    back = space.internal(values)
    assert back.keys() == space.distributions().keys()
    for name, one in space.distributions().items():
        assert one._contains(one.to_internal_repr(back[name]))
    assert space.natural(back) == values


@given(spaces(), st.floats(1e-3, 1e3))
def test_nothing_comes_out_above_a_cap(space, cap):
    caps = {
        name: cap
        for name, one in space.parameters.items()
        if hasattr(one, "low") and cap >= one.low and not one.at_most
    }
    for values in space.capped(caps).sample(3, seed=0):
        assert all(isinstance(values[name], str) or values[name] <= cap for name in caps if name in values)
