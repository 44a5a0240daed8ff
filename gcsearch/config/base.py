"""The base of all nouns that cross stages: frozen, unknown keys refused, violations as `InputError`.

`to_dict` and `from_dict` give plain JSON values.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails

from gcsearch.errors import InputError, unknown_name

Value = bool | int | float | str
"""What a hyperparameter can be."""


MOST = 2**63 - 1
"""The largest integer that TOML, databases and torch agree on."""


def _strict_numbers(schema: Any, *, bounded: bool) -> Any:
    """The schema with every number and truth value in it strict; lists for tuples and texts for enums still pass.

    `bounded`: numbers are finite, and integers have 64 bits, also where a field says nothing of its range.
    """
    if isinstance(schema, list):
        return [_strict_numbers(part, bounded=bounded) for part in schema]
    if not isinstance(schema, dict):
        return schema
    walked = {
        key: part if key == "metadata" else _strict_numbers(part, bounded=bounded) for key, part in schema.items()
    }
    match walked.get("type"):
        case "int":
            return ({"ge": -MOST, "le": MOST} if bounded else {}) | walked | {"strict": True}
        case "float":
            return walked | {"strict": True} | ({"allow_inf_nan": False} if bounded else {})
        case "bool":
            return walked | {"strict": True}
    return walked


class Model(BaseModel):
    """Base of all nouns: frozen, unknown keys refused, `true` is no number and 3.0 no integer (3 is a float).

    Numbers are bounded, see `_strict_numbers`. `bounded = False` is for what is measured, where NaN can come out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bounded: ClassVar[bool] = True

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _strict_numbers(handler(source), bounded=cls.bounded)
        return schema

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; unset optional keys are left out (TOML has no null)."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, file: str | Path | None = None) -> Self:
        """Validate `data`; the first violation becomes an InputError naming file, key, rule and value."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _first_violation(cls, error, file) from None


def _first_violation(cls: type[BaseModel], error: ValidationError, file: str | Path | None) -> InputError:
    # A misspelt key is also a missing one: the spelling is what the user can mend.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = _plain_location(cls, first)
    key = ".".join(location) or None
    wrapped = first.get("ctx", {}).get("error")
    if isinstance(wrapped, InputError):
        return wrapped.at(file=file, key=key)
    if first["type"] == "extra_forbidden":
        return unknown_name("key", location[-1], _known_keys(cls, location[:-1]), file=file, key=key)
    if first["type"] == "missing":
        return InputError("this key is required", file=file, key=key, remedy=f"Add `{location[-1]} = ...`.")
    # A value that may be of several kinds breaks a rule of each.
    rules = [one["msg"] for one in error.errors() if _plain_location(cls, one) == location]
    rule = ", or ".join([rules[0], *(other.removeprefix("Input should be ") for other in rules[1:])])
    for theirs, ours in _KINDS_IN_TOML.items():
        rule = re.sub(theirs, ours, rule)
    return InputError(
        rule[0].lower() + rule[1:],
        file=file,
        key=key,
        received=_shown(first["input"]),
        remedy=f"Change the value of `{key}`.",
    )


_KINDS_IN_TOML = {
    r"a valid (tuple|list)": "a list",
    r"a valid dictionary( or instance of \w+)?": "a table",
    r"a valid boolean": "true or false",
    r"[Tt]uple should": "list should",
    r" after validation": "",
}
"""What pydantic calls the kinds of values, and what they are called in a file."""


def _shown(value: object) -> str:
    """A refused value in a message."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists
        return f"a {type(value).__name__} that is too large to print"


def _plain_location(cls: type[BaseModel], error: ErrorDetails) -> list[str]:
    """Where the error is, as the user wrote it: without the names that pydantic gives to the kinds of a union."""
    annotation: Any = cls
    location = []
    for part in error["loc"]:
        kinds = _kinds(annotation)
        if len(kinds) > 1:
            annotation = next((kind for kind in kinds if getattr(kind, "__name__", "") == part), None)
            continue
        location.append(str(part))
        annotation = _inside(kinds[0], str(part))
    return location


def _kinds(annotation: Any) -> list[Any]:
    """The members of a union beside None; of anything else, it alone."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for kind in get_args(annotation) if kind is not NoneType]
    return [annotation]


def _inside(annotation: Any, part: str) -> Any:
    """What stands below the key or index `part` of a value of this kind; None where that is not known."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if part in annotation.model_fields:
            return annotation.model_fields[part].annotation
        return Value if annotation.model_config.get("extra") == "allow" else None
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return get_args(annotation)[0] if get_origin(annotation) in (tuple, list) else None


def _known_keys(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = cls.model_fields[part].annotation if part in cls.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            cls = annotation
    return list(cls.model_fields)


Count = Annotated[int, Field(ge=1, le=10**6)]
"""How many of something. What is above a million is a slip, and would take the machine's memory before it is told."""

CountOrZero = Annotated[int, Field(ge=0, le=10**6)]
"""As `Count`, and 0 too."""

Epochs = Annotated[int, Field(ge=1, le=10**5)]

Threads = Annotated[int, Field(ge=1, le=10**4)]
"""Of one process. What the machine's cores make of it is for `placement.check_threads`."""

Text = Annotated[str, Field(min_length=1)]
"""A name or a path: an empty one means nothing."""

Seed = Annotated[int, Field(ge=0, le=MOST)]
"""Of what is drawn by Python and torch."""

SamplerSeed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""Of Optuna's samplers, which draw by numpy's RandomState."""


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise InputError("seeds must be distinct", received=list(seeds), remedy="Remove the repeated one.")
    return seeds


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000), AfterValidator(_distinct)]
"""One number per repetition: fixes few-shot draw, views, batches and random start."""


def plain_name(dataset: str) -> str:
    """The name of a data set as files and metrics are called by it: `folder:my birds` is `folder-my-birds`."""
    return re.sub(r"[^\w.-]+", "-", dataset)
