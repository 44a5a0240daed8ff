"""A search-space file: parameters, their relations, points of the literature."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from gcsearch import files
from gcsearch.config.base import Model, Text, Value
from gcsearch.config.parameters import (
    METHOD,
    OFF,
    ON,
    Choice,
    Fixed,
    Parameter,
    Range,
    decode_number,
    distributions_of,
    encode_number,
    encoded_name,
    encoded_names,
    extremes,
    lower_end,
    upper_end,
)
from gcsearch.config.trials import TrialConfig
from gcsearch.errors import InputError, unknown_name

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LITERATURE = "literature"
"""Label of the point, and name of the reference, that every space may have: the published values. Left out of the
references where there is none."""
LITERATURE_CAPPED = f"{LITERATURE}-capped"
"""The label of that point once `search.cap` has lowered it."""


class Point(Model):
    """A configuration that is tried before anything is proposed; the parameters are keys beside `label`."""

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
        names = [key for name, parameter in self.dimensions.items() for key in encoded_names(name, parameter)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    "a parameter must not have the name of another one's distribution",
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
        caps = {name: most for name, most in method_cap(cap, self.method or "").items() if name in self.parameters}
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
        """The configuration with these natural values."""
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
            upper = upper_end(parameter)
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

    @property
    def groups(self) -> list[set[str]]:
        """The dimensions in groups: none bounds one of another group, or decides whether it is there."""
        groups: list[set[str]] = []
        for name, parameter in self.dimensions.items():
            upper = upper_end(parameter)
            linked = {name, *parameter.when, *([upper] if upper else [])}
            groups = [group for group in groups if not group & linked] + [
                linked.union(*(group for group in groups if group & linked))
            ]
        return groups

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
            upper = upper_end(parameter)
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
        """Whether there is anything to search: without it the space is one single configuration."""
        return any(not isinstance(parameter, Fixed) for parameter in self.dimensions.values())

    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions that Optuna sees, by internal name: the same for every trial."""
        distributions: dict[str, BaseDistribution] = {}
        for name in self.dimensions:
            distributions |= self.distributions_of(name)
        return distributions

    def distributions_of(self, name: str) -> dict[str, BaseDistribution]:
        """The distributions of one parameter, by internal name; see `parameters.distributions_of`."""
        return distributions_of(name, self.dimensions[name])

    def sample(self, count: int, seed: int) -> list[dict[str, Value]]:
        """`count` configurations drawn at random from the distributions; one where there is nothing to search."""
        import optuna

        distributions = self.distributions()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        return [self.natural(study.ask(distributions).params) for _ in range(count if distributions else 1)]

    def natural(self, internal: Mapping[str, Any]) -> dict[str, Value]:
        """The values to run, by natural name, for Optuna's values."""
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
                values[name] = decode_number(name, parameter, internal, values)
        return {name: values[name] for name in self.dimensions if name in values}

    def internal(self, natural: Mapping[str, Value]) -> dict[str, Any]:
        """Optuna's values that `natural` turns back: `space.natural(space.internal(x)) == x`.

        That holds for values of up to DIGITS significant digits.  Where many values mean the same (the
        fraction of a parameter that is off, or whose interval has no length, any value of one that is not there) the
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
                internal[encoded_name(name, parameter)] = encode_number(parameter, value, values)
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
        return parameter.model_copy(update={"value": lower_end(parameter.value, cap)})
    if cap > parameter.low:
        high = min(parameter.high, math.floor(cap) if parameter.integer else cap)
        return parameter.model_copy(update={"high": float(high)})
    return Fixed(value=math.floor(cap) if parameter.integer else cap, when=parameter.when)


def _capped_point(point: Point, caps: Mapping[str, float]) -> Point:
    values = {name: lower_end(value, caps.get(name, math.inf)) for name, value in point.values.items()}
    label = point.label if values == point.values else f"{point.label}-capped"
    return Point(label=label, source=point.source, **values)


def method_cap(cap: Mapping[str, float | Mapping[str, float]], method: str) -> dict[str, float]:
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
        if (over := list(_above(config, method_cap(cap, config.method))))
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


def find(name_or_path: str | Path) -> Path:
    """The file of a shipped name (`gcscoop`) or of a path, see `files.find`."""
    return files.find("search_spaces", name_or_path, kind="search space", key="search.space")


def load(name_or_path: str | Path) -> SearchSpace:
    """Read and check a search space: a shipped name or a path.

    Raises InputError with file, key, rule, received value and remedy for whatever is wrong in it.
    """
    file = find(name_or_path)
    return SearchSpace.from_dict(files.read_toml(file), file=file)
