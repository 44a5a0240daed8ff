"""What every part of a method is: a frozen set of hyperparameters with what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import Field

from gcsearch.config.base import Model, Value

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

KINDS = {
    "prompt": "a form of prompt",
    "guidance": "a guidance by zero-shot features",
    "teacher": "a teacher",
    "subspace": "a subspace",
    "novel": "a list of other names",
    "rule": "a gradient rule",
}
"""The kinds of parts, in the order in which the names of their methods stand in a combination."""


class Names(NamedTuple):
    """The class names of a member's data."""

    trained: Sequence[str]
    new: Sequence[str] = ()
    """Those that the result is measured on and that are not trained."""
    others: Sequence[str] = ()
    """Names that are no class of the data set."""


class Part(Model):
    """Base of all parts.

    Members of one population differ in hyperparameters that are floats: those reach the computation as vectors [P].
    All others (counts, words, switches) shape tensors or choose what is computed, see `training.population.structure`.
    """

    kind: ClassVar[str | None] = None
    """A key of `KINDS`; None for what every method has. A combination has at most one part of each kind."""

    @property
    def numbers(self) -> dict[str, float]:
        """The hyperparameters that are vectors over the members of a population, as numbers of this member."""
        return {name: value for name, value in self if isinstance(value, float)}

    @property
    def tags(self) -> tuple[str, ...]:
        """What a reader of the method's numbers must know, shown behind its title everywhere."""
        return ()

    def check(self, hyperparameters: Mapping[str, Value | None]) -> None:
        """InputError where the part does not fit the other parts of its method, whose hyperparameters these are."""

    def changed(self, values: Mapping[str, Any], file: str | Path | None = None) -> Self:
        """The part with those of `values` that are its own. InputError for a wrong one."""
        known = dict(self)
        given = {name: values[name] for name in known if name in values}
        return self.from_dict(known | given, file=file) if given else self
