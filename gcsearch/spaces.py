"""A search-space file: what may be searched, and how Optuna sees it.

A file names natural parameters (rho, beta1, ...).  Optuna is shown *boxes*: intervals and choices that are
the same for every trial, whatever the other parameters are.  That matters because a multivariate sampler
models only those dimensions that every finished trial has with the same bounds: a range like
"beta1 from 0 to beta2" would drop beta1 from the joint model without a word.  Three rules make the boxes:

    at_most = "beta2"   box `beta1_fraction` in 0..1:   beta1 = low + fraction * (min(high, beta2) - low)
    zero = true         box `rho_or_zero`: the log interval reaches down to low / 2; below low it means 0
    off = true          box `beta1_switch` in {"on", "off"}: "off" is a value of its own

Everything else is a box under its own name.  `SearchSpace.natural` and `SearchSpace.internal` translate.

With `methods` in place of `method` the method is a choice like any other, under the name `method`.  `when` says
under which values of others a parameter is there at all:

    when = { method = ["sam", "gcscoop"] }

Its box stays, for the same reason: every trial has all boxes, and in those where the parameter is not there its place
means nothing.  What is run carries the parameters that are there and no others.

Optuna is imported only when boxes are asked for, so that reading and checking a file is fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from gcsearch import files
from gcsearch.errors import InputError, unknown_name
from gcsearch.schema import Model, Text, TrialConfig, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

OFF = "off"
ON = "on"
METHOD = "method"
LITERATURE = "literature"
"""Label of the point, and name of the reference, that every space may have: the published values. Left out of the
references where there is none."""
LITERATURE_CAPPED = f"{LITERATURE}-capped"
"""The label of that point once `search.cap` has lowered it."""
ZERO_CELL = 2.0
"""The log interval of a parameter with `zero` is lengthened downwards by this factor; that part means 0.
For rho in 0.005..2 it is ln 2 / ln 800 = 10 % of the box."""

DIGITS = 6
"""Natural values are rounded to this many significant digits, so that what a table shows is what was run
and a value survives the way through the boxes unchanged.  Rounding keeps beta1 <= beta2, being monotone."""

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


class Point(Model):
    """A setting that is tried before anything is proposed; the parameters are keys beside `label`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Value]

    label: Text
    source: str = ""

    @property
    def values(self) -> dict[str, Value]:
        """The natural values by parameter."""
        return dict(self.__pydantic_extra__)


class SearchSpace(Model):
    """The content of a search-space file."""

    version: Literal[1]
    method: str | None = None
    """What all trials run; or"""
    methods: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """what is chosen from."""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    points: tuple[Point, ...] = ()

    @field_validator("parameters", mode="before")
    @classmethod
    def _by_kind(cls, tables: Any) -> dict[str, Parameter]:
        if not isinstance(tables, Mapping):
            raise InputError("`parameters` must be a table", received=tables, remedy="Write [parameters.NAME].")
        return {name: _read_parameter(name, table) for name, table in tables.items()}

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if (self.method is None) == (self.methods is None):
            rule, remedy = (
                "a space has either `method` or `methods`",
                'Write `method = "gcscoop"`, or a list of several.',
            )
            raise InputError(rule, key="method", received=self.method, remedy=remedy)
        if len(set(self.every_method)) != len(self.every_method):
            received = list(self.every_method)
            raise InputError("methods must be distinct", key="methods", received=received, remedy="Remove one.")
        if METHOD in self.parameters:
            rule = "`method` is the name of the choice among methods"
            raise InputError(rule, key=f"parameters.{METHOD}", remedy="Name the values in `methods`.")
        return self

    @model_validator(mode="after")
    def _related(self) -> Self:
        for name, parameter in self.parameters.items():
            for other, values in parameter.when.items():
                self._check_condition(f"parameters.{name}.when.{other}", other, values)
        _ = self.order  # which there is none of in a circle
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Range) and parameter.at_most:
                self._check_upper_parameter(name, parameter, parameter.at_most)
        names = [box for name, parameter in self.dimensions.items() for box in _box_names(name, parameter)]
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

    @property
    def every_method(self) -> tuple[str, ...]:
        """The methods that trials of this space run."""
        return self.methods or (self.method or "",)

    def capped(self, cap: Mapping[str, float | Mapping[str, float]]) -> Self:
        """The space in which no parameter goes above its cap: the one under its method's name, else under its own.

        A range that begins at its cap or above it is fixed to it. Points are brought down, and their labels then
        end in "-capped". InputError for a cap on choices, or one that leaves the space inconsistent.
        """
        caps = {name: most for name, most in cap_of(cap, self.method or "").items() if name in self.parameters}
        if not caps:
            return self
        points = [_capped_point(point, caps) for point in self.points]
        content = self.to_dict() | {
            "parameters": {name: _capped(name, one, caps.get(name)) for name, one in self.parameters.items()},
            "points": [{"label": point.label, "source": point.source, **point.values} for point in points],
        }
        return type(self).from_dict(content)

    @cached_property
    def dimensions(self) -> dict[str, Parameter]:
        """The parameters, and before them the choice among methods where there is one."""
        return ({METHOD: Choice(choices=self.methods)} if self.methods else {}) | self.parameters

    def methods_with(self, name: str) -> tuple[str, ...]:
        """The methods whose trials can have the parameter."""
        parameter = self.parameters[name]
        above = [set(self.methods_with(other)) for other in parameter.when if other != METHOD]
        own = parameter.when.get(METHOD, self.every_method)
        return tuple(one for one in self.every_method if one in own and all(one in names for names in above))

    def config(self, values: Mapping[str, Value]) -> TrialConfig:
        """The setting with these natural values."""
        hyperparameters = {name: value for name, value in values.items() if name != METHOD}
        return TrialConfig(method=str(values.get(METHOD, self.method)), hyperparameters=hyperparameters)

    def is_there(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether the parameter is there beside natural `values`, in which those that are not there are missing."""
        when = self.dimensions[name].when.items()
        return all(other in values and self._state(other, values[other]) in allowed for other, allowed in when)

    def there(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Of `values` those whose parameters are there, in the file's order."""
        found: dict[str, Value] = {}
        for name in self.order:
            if name in values and self.is_there(name, found):
                found[name] = values[name]
        return {name: found[name] for name in self.dimensions if name in found}

    def _state(self, name: str, value: Value) -> Value:
        """What a condition sees of a value: of a number that can be off whether it is."""
        off = isinstance(self.dimensions[name], Range)
        return (OFF if value == OFF else ON) if off else value

    def _check_condition(self, key: str, other: str, values: tuple[Value, ...]) -> None:
        if other == METHOD and not self.methods:
            rule, remedy = "the space has one method only", "Remove the condition, or name several `methods`."
            raise InputError(rule, key=key, received=list(values), remedy=remedy)
        if other not in self.dimensions:
            raise unknown_name("parameter", other, self.dimensions, key=key)
        parameter = self.dimensions[other]
        if isinstance(parameter, Range) and not parameter.off:
            rule = "a condition names a parameter with choices, or one that can be off"
            raise InputError(rule, key=key, received=other, remedy=f"Add `off = true` to {other}, or give it choices.")
        known = (ON, OFF) if isinstance(parameter, Range) else tuple(extremes(parameter))
        for value in values:
            if not any(value == one and type(value) is type(one) for one in known):
                rule, remedy = f"{other} must be able to have the value", f"It can be: {', '.join(map(str, known))}."
                raise InputError(rule, key=key, received=value, remedy=remedy)

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
        for condition, allowed in other.when.items():
            if condition not in parameter.when or not set(parameter.when[condition]) <= set(allowed):
                raise InputError(
                    f"{upper} must be there wherever {name} is",
                    key=key,
                    received=upper,
                    remedy=f"Give {name} the condition of {upper}: when.{condition} = {list(allowed)}.",
                )

    @cached_property
    def order(self) -> list[str]:
        """The names of all dimensions, each after those that bound it and those that it is there with."""
        order: TopologicalSorter[str] = TopologicalSorter()
        for name, parameter in self.dimensions.items():
            upper = _upper(parameter)
            order.add(name, *parameter.when, *([upper] if upper else []))
        try:
            return list(order.static_order())
        except CycleError as error:
            circle = error.args[1]
            first, second = circle[-1], circle[-2]
            key = "when" if second in self.parameters[first].when else "at_most"
            raise InputError(
                f"`{key}` must not lead back to the same parameter",
                key=f"parameters.{first}.{key}",
                received=" -> ".join(reversed(circle)),
                remedy="Remove one of the bounds or conditions.",
            ) from None

    def _checked_point(self, index: int, point: Point) -> Point:
        key = f"points.{index}"
        for name in point.values:
            if name not in self.dimensions:
                raise unknown_name("parameter", name, self.dimensions, key=f"{key}.{name}")
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

        Raises InputError, with the parameter as its key, for a missing value, one outside the space, and one of a
        parameter that is not there.
        """
        parsed: dict[str, Value] = {}
        for name in self.order:
            if self.is_there(name, parsed):
                parsed[name] = self._parse_one(name, values)
            elif name in values:
                when = self.dimensions[name].when.items()
                conditions = (f"{other} is {' or '.join(map(str, allowed))}" for other, allowed in when)
                rule = f"{name} is there only where {' and '.join(conditions)}"
                raise InputError(rule, key=name, received=values[name])
        for name, parameter in self.parameters.items():
            upper = _upper(parameter)
            if upper and name in parsed and parsed[name] != OFF and float(parsed[name]) > float(parsed[upper]):
                received = f"{parsed[name]} > {parsed[upper]}"
                raise InputError(f"{name} <= {upper} must hold", key=name, received=received)
        return {name: parsed[name] for name in self.dimensions if name in parsed}

    def _parse_one(self, name: str, values: Mapping[str, Value]) -> Value:
        parameter = self.dimensions[name]
        value = values.get(name, parameter.value if isinstance(parameter, Fixed) else None)
        if value is None:
            raise InputError("every parameter of the space needs a value", key=name)
        try:
            return parameter.parse(value)
        except InputError as error:
            raise error.at(key=name) from None

    @property
    def searched(self) -> bool:
        """Whether there is anything to search: without it the space is one single setting."""
        return any(not isinstance(parameter, Fixed) for parameter in self.dimensions.values())

    def distributions(self) -> dict[str, BaseDistribution]:
        """The boxes that Optuna sees, by internal name: the same for every trial."""
        boxes: dict[str, BaseDistribution] = {}
        for name in self.dimensions:
            boxes |= self.boxes(name)
        return boxes

    def boxes(self, name: str) -> dict[str, BaseDistribution]:
        """The boxes of one parameter: none of a fixed one, two of one that can be off."""
        return _boxes(name, self.dimensions[name])

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
        for name in self.order:
            parameter = self.dimensions[name]
            if not self.is_there(name, values):
                continue
            if isinstance(parameter, Fixed):
                values[name] = parameter.value
            elif isinstance(parameter, Choice):
                values[name] = internal[name]
            elif parameter.off and internal[f"{name}_switch"] == OFF:
                values[name] = OFF
            else:
                values[name] = _number_from_box(name, parameter, internal, values)
        return {name: values[name] for name in self.dimensions if name in values}

    def internal(self, natural: Mapping[str, Value]) -> dict[str, Any]:
        """The place in the boxes that `natural` gives back: `space.natural(space.internal(x)) == x`.

        That holds for values of up to DIGITS significant digits.  Where many places mean the same (the
        fraction of a parameter that is off, or whose interval has no length, any place of one that is not there) the
        middle is taken, of a choice the first.
        Raises InputError for values outside the space.
        """
        values = self.parse(natural)
        internal: dict[str, Any] = {}
        for name, parameter in self.dimensions.items():
            value = values.get(name)
            if isinstance(parameter, Choice):
                internal[name] = parameter.choices[0] if value is None else value
            elif isinstance(parameter, Range):
                if parameter.off:
                    internal[f"{name}_switch"] = OFF if value == OFF else ON
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


def _capped(name: str, parameter: Parameter, cap: float | None) -> Parameter:
    """The parameter that does not go above `cap`."""
    if cap is None:
        return parameter
    if isinstance(parameter, Choice):
        remedy = "Leave this one out, or write a space of your own with fewer choices."
        raise InputError(f"only ranges can be capped, and {name} has choices", received=cap, remedy=remedy)
    if isinstance(parameter, Fixed):
        return parameter.model_copy(update={"value": _lower(parameter.value, cap)})
    if cap > parameter.low:
        high = min(parameter.high, math.floor(cap) if parameter.integer else cap)
        return parameter.model_copy(update={"high": float(high)})
    return Fixed(value=math.floor(cap) if parameter.integer else cap, when=parameter.when)


def _capped_point(point: Point, caps: Mapping[str, float]) -> Point:
    values = {name: _lower(value, caps.get(name, math.inf)) for name, value in point.values.items()}
    label = point.label if values == point.values else f"{point.label}-capped"
    return Point(label=label, source=point.source, **values)


def cap_of(cap: Mapping[str, float | Mapping[str, float]], method: str) -> dict[str, float]:
    """The upper bounds of `search.cap` that concern a method: those under its name, else those for all."""
    own = cap.get(method, {})
    every = {**cap, **own} if isinstance(own, Mapping) else cap
    return {name: most for name, most in every.items() if isinstance(most, int | float)}


def cap_remarks(
    cap: Mapping[str, float | Mapping[str, float]], references: Iterable[tuple[TrialConfig, str]], *, left_out: bool
) -> list[str]:
    """What a capped search has to say of the references that it is compared with, in sentences.

    Args:
        references: their configurations and titles; they train as they are published, above the cap or not.
        left_out: whether the space's point "literature" was asked for as a reference, and the cap has changed it.
    """
    sentences = []
    above = [
        f"{title} ({', '.join(f'{name} {value:g}, cap {most:g}' for name, value, most in over)})"
        for config, title in references
        if (over := list(_above(config, cap_of(cap, config.method))))
    ]
    if above:
        sentences.append(f"search.cap holds for the search only; the references train uncapped: {'; '.join(above)}.")
    if left_out:
        sentences.append(
            "The reference literature is left out: search.cap lowers its values, so the search tries it as "
            "literature-capped."
        )
    return sentences


def _above(config: TrialConfig, caps: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """The numbers of a configuration that are above their cap: name, value, cap."""
    for name, most in caps.items():
        value = config.hyperparameters.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > most:
            yield name, value, most


def _lower(value: Value, cap: float) -> Value:
    """`value`, or the cap where it is a number above it."""
    if isinstance(value, bool | str) or value <= cap:
        return value
    return math.floor(cap) if isinstance(value, int) else cap


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
    switch = {f"{name}_switch": CategoricalDistribution((ON, OFF))} if parameter.off else {}
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


def _place_in_box(parameter: Range, value: Value | None, values: Mapping[str, Value]) -> float:
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


def find(name_or_path: str | Path) -> Path:
    """The file of a shipped name (`gcscoop`) or of a path, see `files.find`."""
    return files.find("search_spaces", name_or_path, kind="search space", key="search.space")


def load(name_or_path: str | Path) -> SearchSpace:
    """Read and check a search space: a shipped name or a path.

    Raises InputError with file, key, rule, received value and remedy for whatever is wrong in it.
    """
    file = find(name_or_path)
    return SearchSpace.from_dict(files.read_toml(file), file=file)
