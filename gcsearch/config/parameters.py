"""The parameters of a search space and their distributions: fixed, a choice, a range, a condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from gcsearch.config.base import Model, Value
from gcsearch.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


OFF = "off"
ON = "on"
METHOD = "method"
ZERO_CELL = 2.0
"""The log interval of a parameter with `zero` is lengthened downwards by this factor; that part means 0.
For rho in 0.005..2 it is ln 2 / ln 800 = 10 % of the interval."""

DIGITS = 6
"""Natural values are rounded to this many significant digits, so that what a table shows is what was run
and a value survives encoding and decoding unchanged. Rounding keeps beta1 <= beta2, being monotone."""

Number = Annotated[float, Field(strict=True, ge=-1e15, le=1e15)]
"""A bound of a range. Beyond 1e15 neighbouring integers are one float."""


class Conditional(Model):
    """What every kind of parameter has."""

    when: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """The parameter is there only where each one named here is there and has one of these values."""

    @field_validator("when", mode="before")
    @classmethod
    def _values_in_lists(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            remedy = 'Write for example `when = { method = ["sam"] }`.'
            raise InputError("`when` must be a table of other parameters", received=when, remedy=remedy)
        listed = {
            name: tuple(values) if isinstance(values, list | tuple) else (values,) for name, values in when.items()
        }
        for name, values in listed.items():
            if not values:
                raise InputError(f"`when` must name a value of {name}", received=list(values), remedy="Add a value.")
        return listed


class Fixed(Conditional):
    """A parameter that every trial gets with this value."""

    value: Value

    def parse(self, value: Value) -> Value:
        """`value` as it is run. InputError when it is not the fixed one."""
        if value != self.value:
            raise InputError(f"the value must be the fixed {self.value!r}", received=value)
        return self.value


class Choice(Conditional):
    """A parameter with one of a few values."""

    choices: Annotated[tuple[Value, ...], Field(min_length=2)]

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Value, ...]) -> tuple[Value, ...]:
        if len(set(choices)) != len(choices):
            raise InputError("choices must be distinct", received=list(choices), remedy="Remove the repeated one.")
        return choices

    def parse(self, value: Value) -> Value:
        """`value` as it is run. InputError when it is not one of the choices."""
        if value not in self.choices:
            raise InputError(f"the value must be one of {list(self.choices)}", received=value)
        return self.choices[self.choices.index(value)]


class Range(Conditional):
    """A number between `low` and `high`, both included."""

    low: Number
    high: Number
    log: bool = False
    integer: bool = False
    zero: bool = False
    """0 can be reached too, as the low end of the log axis."""
    off: bool = False
    """The word "off" can be reached too, as a choice of its own."""
    at_most: str | None = None
    """The value never exceeds that of the parameter named here."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low < self.high:
            raise InputError(
                "`low < high` must hold",
                received=f"low={self.low:g}, high={self.high:g}",
                remedy="Swap the two bounds, or write `value = ...` for a fixed parameter.",
            )
        if self.log and self.low <= 0:
            rule, remedy = "`low` must be above 0 on a log axis", "To include 0 itself, add `zero = true`."
            raise InputError(rule, key="low", received=self.low, remedy=remedy)
        if self.zero and (not self.log or self.integer):
            raise InputError("`zero` needs a log axis of real numbers", key="zero", remedy="Add `log = true`.")
        if self.at_most and (self.log or self.integer):
            rule, remedy = "`at_most` needs a linear axis of real numbers", "Drop `log` and `integer`."
            raise InputError(rule, key="at_most", remedy=remedy)
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            bounds = f"low={self.low:g}, high={self.high:g}"
            raise InputError("the bounds of an integer must be whole numbers", received=bounds)
        return self

    @property
    def least(self) -> float:
        """The smallest number that can come out."""
        return 0.0 if self.zero else self.low

    def parse(self, value: Value) -> Value:
        """`value` as it is run: int, float or "off". InputError when it is outside the range."""
        if self.off and value == OFF:
            return OFF
        words = f"a number from {self.low:g} to {self.high:g}" + (", or 0" if self.zero else "")
        words += ', or "off"' if self.off else ""
        if isinstance(value, bool | str) or not self._holds(value):
            raise InputError(f"the value must be {words}", received=value)
        if self.integer and value != int(value):
            raise InputError("the value must be a whole number", received=value)
        return int(value) if self.integer else float(value)

    def _holds(self, number: float) -> bool:
        return self.low <= number <= self.high or (self.zero and number == 0)

    def rounded(self, value: float) -> int | float:
        """`value` as it is run: whole, or with DIGITS significant digits, and never outside the bounds."""
        if self.integer:
            return round(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Parameter = Range | Choice | Fixed


def lower_end(value: Value, cap: float) -> Value:
    """`value`, or the cap where it is a number above it."""
    if isinstance(value, bool | str) or value <= cap:
        return value
    return math.floor(cap) if isinstance(value, int) else cap


def upper_end(parameter: Parameter) -> str | None:
    return parameter.at_most if isinstance(parameter, Range) else None


def encoded_name(name: str, parameter: Range) -> str:
    """Optuna's name of the parameter: it says so where the distribution does not hold the natural value itself."""
    return f"{name}_fraction" if parameter.at_most else f"{name}_or_zero" if parameter.zero else name


def encoded_names(name: str, parameter: Parameter) -> list[str]:
    """All names that a parameter takes up: its own and those of its distributions."""
    if not isinstance(parameter, Range):
        return [name]
    switch = [f"{name}_switch"] if parameter.off else []
    return [*dict.fromkeys((name, encoded_name(name, parameter))), *switch]


def distributions_of(name: str, parameter: Parameter) -> dict[str, BaseDistribution]:
    """Optuna's distributions of one parameter: none of a fixed one, two of one that can be off."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Fixed):
        return {}
    if isinstance(parameter, Choice):
        return {name: CategoricalDistribution(parameter.choices)}
    distribution: BaseDistribution
    if parameter.at_most:
        distribution = FloatDistribution(0.0, 1.0)
    elif parameter.integer:
        distribution = IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    else:
        low = parameter.low / ZERO_CELL if parameter.zero else parameter.low
        distribution = FloatDistribution(low, parameter.high, log=parameter.log)
    switch = {f"{name}_switch": CategoricalDistribution((ON, OFF))} if parameter.off else {}
    return {**switch, encoded_name(name, parameter): distribution}


def decode_number(name: str, parameter: Range, internal: Mapping[str, Any], values: Mapping[str, Value]) -> int | float:
    """The natural value behind Optuna's; `values` has the natural values of the parameters before it."""
    number = internal[encoded_name(name, parameter)]
    if parameter.at_most:
        upper = min(parameter.high, float(values[parameter.at_most]))
        return min(parameter.rounded(parameter.low + number * (upper - parameter.low)), upper)
    if parameter.zero and number < parameter.low:
        return 0.0
    return parameter.rounded(number)


def encode_number(parameter: Range, value: Value | None, values: Mapping[str, Value]) -> float:
    """Optuna's value for a natural one, see `SearchSpace.internal`; None is a parameter that is not there."""
    low, high = parameter.low, parameter.high
    if parameter.at_most:
        if value is None or value == OFF:
            return 0.5
        length = min(high, float(values[parameter.at_most])) - low
        return 0.5 if length <= 0 else min((float(value) - low) / length, 1.0)
    if value is None or value == OFF:
        middle = math.sqrt(low * high) if parameter.log else (low + high) / 2
        return round(middle) if parameter.integer else middle
    if parameter.zero and value == 0:
        return low / math.sqrt(ZERO_CELL)
    return int(value) if parameter.integer else float(value)


def extremes(parameter: Parameter) -> list[Value]:
    """The values at the ends of what a parameter can be: both bounds, 0 and "off" where they count, all choices."""
    if isinstance(parameter, Fixed):
        return [parameter.value]
    if isinstance(parameter, Choice):
        return list(parameter.choices)
    ends: list[Value] = [parameter.parse(parameter.low), parameter.parse(parameter.high)]
    return ends + ([0.0] if parameter.zero else []) + ([OFF] if parameter.off else [])
