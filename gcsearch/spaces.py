"""A search-space file: what may be searched, and how Optuna sees it.

A file names natural parameters (rho, beta1, ...).  Optuna is shown *boxes*: intervals and choices that are
the same for every trial, whatever the other parameters are.  That matters because a multivariate sampler
models only those dimensions that every finished trial has with the same bounds: a range like
"beta1 from 0 to beta2" would drop beta1 from the joint model without a word.  Three rules make the boxes:

    at_most = "beta2"   box `beta1_fraction` in 0..1:   beta1 = low + fraction * (min(high, beta2) - low)
    zero = true         box `rho_or_zero`: the log interval reaches down to low / 2; below low it means 0
    off = true          box `beta1_switch` in {"on", "off"}: "off" is a value of its own

Everything else is a box under its own name.  `SearchSpace.natural` and `SearchSpace.internal` translate.
Optuna is imported only when boxes are asked for, so that reading and checking a file is fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from gcsearch import files
from gcsearch.errors import InputError, unknown_name
from gcsearch.schema import Model, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

OFF = "off"
ZERO_CELL = 2.0
"""The log interval of a parameter with `zero` is lengthened downwards by this factor; that part means 0.
For rho in 0.005..2 it is ln 2 / ln 800 = 10 % of the box."""

DIGITS = 6
"""Natural values are rounded to this many significant digits, so that what a table shows is what was run
and a value survives the way through the boxes unchanged.  Rounding keeps beta1 <= beta2, being monotone."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Fixed(Model):
    """A parameter that every trial gets with this value."""

    value: Value

    def parse(self, value: Value) -> Value:
        """`value` as it is run. InputError when it is not the fixed one."""
        if value != self.value:
            raise InputError(f"the value must be the fixed {self.value!r}", received=value)
        return self.value


class Choice(Model):
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


class Range(Model):
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


class Point(Model):
    """A setting that is tried before anything is proposed; the parameters are keys beside `label`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Value]

    label: str
    source: str = ""

    @property
    def values(self) -> dict[str, Value]:
        """The natural values by parameter."""
        return dict(self.__pydantic_extra__)


class SearchSpace(Model):
    """The content of a search-space file."""

    version: Literal[1]
    method: str
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    points: tuple[Point, ...] = ()

    @field_validator("parameters", mode="before")
    @classmethod
    def _by_kind(cls, tables: Any) -> dict[str, Parameter]:
        if not isinstance(tables, Mapping):
            raise InputError("`parameters` must be a table", received=tables, remedy="Write [parameters.NAME].")
        return {name: _read_parameter(name, table) for name, table in tables.items()}

    @model_validator(mode="after")
    def _related(self) -> Self:
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Range) and parameter.at_most:
                self._check_upper_parameter(name, parameter, parameter.at_most)
        self._in_order_of_dependence()
        names = [box for name, parameter in self.parameters.items() for box in _box_names(name, parameter)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    "a parameter must not have the name of another one's box",
                    key=f"parameters.{name}",
                    remedy="Rename the parameter.",
                )
        return self

    @model_validator(mode="after")
    def _points_inside(self) -> Self:
        # Written back because the file may say lr = 1 where 1.0 is run, and leaves fixed values out.
        points = tuple(self._checked_point(index, point) for index, point in enumerate(self.points))
        object.__setattr__(self, "points", points)
        return self

    def _check_upper_parameter(self, name: str, parameter: Range, upper: str) -> None:
        key = f"parameters.{name}.at_most"
        if upper not in self.parameters:
            raise unknown_name("parameter", upper, self.parameters, key=key)
        other = self.parameters[upper]
        least = other.least if isinstance(other, Range) else getattr(other, "value", None)
        if isinstance(least, bool | str | None) or (isinstance(other, Range) and other.off):
            raise InputError("`at_most` must name a parameter that is always a number", key=key, received=upper)
        if least < parameter.low:
            raise InputError(
                f"`low` of {name} must not be above the least value of {upper}",
                key=f"parameters.{name}.low",
                received=f"low={parameter.low:g}, {upper} from {least:g}",
                remedy=f"Lower `low` of {name} or raise `low` of {upper}.",
            )

    def _in_order_of_dependence(self) -> list[str]:
        """The parameters' names, each after the one it is bounded by."""
        order: TopologicalSorter[str] = TopologicalSorter()
        for name, parameter in self.parameters.items():
            upper = _upper(parameter)
            order.add(name, *([upper] if upper else []))
        try:
            return list(order.static_order())
        except CycleError as error:
            circle = error.args[1]
            raise InputError(
                "`at_most` must not lead back to the same parameter",
                key=f"parameters.{circle[0]}.at_most",
                received=" -> ".join(reversed(circle)),
                remedy="Remove one of the bounds.",
            ) from None

    def _checked_point(self, index: int, point: Point) -> Point:
        key = f"points.{index}"
        for name in point.values:
            if name not in self.parameters:
                raise unknown_name("parameter", name, self.parameters, key=f"{key}.{name}")
        try:
            return Point(label=point.label, source=point.source, **self.parse(point.values))
        except InputError as error:
            raise InputError(
                error.rule,
                key=f"{key}.{error.key}",
                received=error.received,
                remedy=f"Change the point {point.label!r} or widen the range.",
            ) from None

    def parse(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Natural `values` as they are run, in the file's order; fixed values need not be given.

        Raises InputError, with the parameter as its key, for a missing value and one outside the space.
        """
        parsed: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            value = values.get(name, parameter.value if isinstance(parameter, Fixed) else None)
            if value is None:
                raise InputError("every parameter of the space needs a value", key=name)
            try:
                parsed[name] = parameter.parse(value)
            except InputError as error:
                raise error.at(key=name) from None
        for name, parameter in self.parameters.items():
            upper = _upper(parameter)
            if upper and parsed[name] != OFF and float(parsed[name]) > float(parsed[upper]):
                received = f"{parsed[name]} > {parsed[upper]}"
                raise InputError(f"{name} <= {upper} must hold", key=name, received=received)
        return parsed

    @property
    def searched(self) -> bool:
        """Whether there is anything to search: without it the space is one single setting."""
        return any(not isinstance(parameter, Fixed) for parameter in self.parameters.values())

    def distributions(self) -> dict[str, BaseDistribution]:
        """The boxes that Optuna sees, by internal name: the same for every trial."""
        boxes: dict[str, BaseDistribution] = {}
        for name in self.parameters:
            boxes |= self.boxes(name)
        return boxes

    def boxes(self, name: str) -> dict[str, BaseDistribution]:
        """The boxes of one parameter: none of a fixed one, two of one that can be off."""
        return _boxes(name, self.parameters[name])

    def sample(self, count: int, seed: int) -> list[dict[str, Value]]:
        """`count` settings drawn at random from the boxes; one where there is nothing to search."""
        import optuna

        boxes = self.distributions()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        return [self.natural(study.ask(boxes).params) for _ in range(count if boxes else 1)]

    def natural(self, internal: Mapping[str, Any]) -> dict[str, Value]:
        """The values to run, by natural name, for a place in the boxes."""
        values: dict[str, Value] = {}
        for name in self._in_order_of_dependence():
            parameter = self.parameters[name]
            if isinstance(parameter, Fixed):
                values[name] = parameter.value
            elif isinstance(parameter, Choice):
                values[name] = internal[name]
            elif parameter.off and internal[f"{name}_switch"] == OFF:
                values[name] = OFF
            else:
                values[name] = _number_from_box(name, parameter, internal, values)
        return {name: values[name] for name in self.parameters}

    def internal(self, natural: Mapping[str, Value]) -> dict[str, Any]:
        """The place in the boxes that `natural` gives back: `space.natural(space.internal(x)) == x`.

        That holds for values of up to DIGITS significant digits.  Where many places mean the same (the
        fraction of a parameter that is off, or whose interval has no length) the middle is taken.
        Raises InputError for values outside the space.
        """
        values = self.parse(natural)
        internal: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            value = values[name]
            if isinstance(parameter, Choice):
                internal[name] = value
            elif isinstance(parameter, Range):
                if parameter.off:
                    internal[f"{name}_switch"] = OFF if value == OFF else "on"
                internal[_box_name(name, parameter)] = _place_in_box(parameter, value, values)
        return internal


def _read_parameter(name: str, table: Any) -> Parameter:
    if isinstance(table, Range | Choice | Fixed):
        return table
    key = f"parameters.{name}"
    if not isinstance(table, dict):
        remedy = f"Write [parameters.{name}] with low and high, or choices, or value."
        raise InputError("a parameter must be a table", key=key, received=table, remedy=remedy)
    kind: type[Parameter] = Choice if "choices" in table else Fixed if "value" in table else Range
    try:
        return kind.from_dict(table)
    except InputError as error:
        place = f"{key}.{error.key}" if error.key else key
        raise InputError(error.rule, key=place, received=error.received, remedy=error.remedy) from None


def _upper(parameter: Parameter) -> str | None:
    return parameter.at_most if isinstance(parameter, Range) else None


def _box_name(name: str, parameter: Range) -> str:
    """The name says when the box does not hold the natural value itself."""
    return f"{name}_fraction" if parameter.at_most else f"{name}_or_zero" if parameter.zero else name


def _box_names(name: str, parameter: Parameter) -> list[str]:
    """All names that a parameter takes up: its own and those of its boxes."""
    if not isinstance(parameter, Range):
        return [name]
    switch = [f"{name}_switch"] if parameter.off else []
    return [*dict.fromkeys((name, _box_name(name, parameter))), *switch]


def _boxes(name: str, parameter: Parameter) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Fixed):
        return {}
    if isinstance(parameter, Choice):
        return {name: CategoricalDistribution(parameter.choices)}
    box: BaseDistribution
    if parameter.at_most:
        box = FloatDistribution(0.0, 1.0)
    elif parameter.integer:
        box = IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    else:
        low = parameter.low / ZERO_CELL if parameter.zero else parameter.low
        box = FloatDistribution(low, parameter.high, log=parameter.log)
    switch = {f"{name}_switch": CategoricalDistribution(("on", OFF))} if parameter.off else {}
    return {**switch, _box_name(name, parameter): box}


def _number_from_box(
    name: str, parameter: Range, internal: Mapping[str, Any], values: Mapping[str, Value]
) -> int | float:
    place = internal[_box_name(name, parameter)]
    if parameter.at_most:
        upper = min(parameter.high, float(values[parameter.at_most]))
        return min(parameter.rounded(parameter.low + place * (upper - parameter.low)), upper)
    if parameter.zero and place < parameter.low:
        return 0.0
    return parameter.rounded(place)


def _place_in_box(parameter: Range, value: Value, values: Mapping[str, Value]) -> float:
    low, high = parameter.low, parameter.high
    if parameter.at_most:
        length = min(high, float(values[parameter.at_most])) - low
        undefined = value == OFF or length <= 0
        return 0.5 if undefined else min((float(value) - low) / length, 1.0)
    if value == OFF:
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


def find(name_or_path: str | Path) -> Path:
    """The file of a shipped name (`gcscoop`) or of a path, see `files.find`."""
    return files.find("search_spaces", name_or_path, kind="search space", key="search.space")


def load(name_or_path: str | Path) -> SearchSpace:
    """Read and check a search space: a shipped name or a path.

    Raises InputError with file, key, rule, received value and remedy for whatever is wrong in it.
    """
    file = find(name_or_path)
    return SearchSpace.from_dict(files.read_toml(file), file=file)
