"""`METHODS`: each method as a composition of parts, with the published hyperparameters.

A method never has a training loop of its own: `gcsearch.training` asks its parts.  Methods combine freely, one part
of each kind, with "+" between their names: `kgcoop+gcscoop` is KgCoOp's loss with GCSCoOp's gradient rule,
`subpt+nfl` projects the gradient of NFL's loss.  This module imports no torch, so that a wrong configuration is refused
in milliseconds.  Defaults are the published ones (see docs/methods.md); where a paper's batch size differs, 32 is
used for all but CoCoOp, because the effect of rho and of the bounds depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from gcsearch.config.base import Value
from gcsearch.config.trials import TrialConfig
from gcsearch.errors import InputError, unknown_name
from gcsearch.methods import losses, prompts, rules
from gcsearch.methods.base import KINDS, Names, Part
from gcsearch.methods.losses import Loss, Teacher
from gcsearch.methods.prompts import Context, Template
from gcsearch.methods.rules import PlainGradient, Rule
from gcsearch.methods.schedule import Schedule, learning_rate
from gcsearch.methods.subspace import Subspace


@dataclass(frozen=True)
class Method:
    """A method with its hyperparameters: CoOp where no part says otherwise."""

    name: str
    title: str
    prompt: Context = field(default_factory=Context)
    losses: tuple[Loss, ...] = ()
    """What is added to the cross-entropy."""
    teacher: Teacher | None = None
    projection: Subspace | None = None
    rule: Rule = field(default_factory=PlainGradient)
    schedule: Schedule = field(default_factory=Schedule)
    template: Template | None = None
    """What is measured in place of all that, where nothing is trained."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, in the order in which their hyperparameters are written."""
        if self.template:
            return (self.template,)
        kinds = list(KINDS)
        own: list[Part | None] = [*self.losses, self.teacher, self.projection]
        added = sorted(filter(None, own), key=lambda part: kinds.index(part.kind or ""), reverse=True)
        return (self.schedule, self.prompt, self.rule, *added)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What distinguishes it from CoOp: keys of `KINDS`, in their order."""
        return tuple(kind for kind in KINDS if any(part.kind == kind for part in self.parts))

    @property
    def hyperparameters(self) -> dict[str, Value | None]:
        """All of them with their values, by name; None for one that is left open."""
        return {name: value for part in self.parts for name, value in part}

    @property
    def numbers(self) -> dict[str, float]:
        """Those that are vectors over the members of a population, see `Part.numbers`."""
        return {name: value for part in self.parts for name, value in part.numbers.items()}

    @property
    def tags(self) -> tuple[str, ...]:
        """What a reader of its numbers must know, shown behind the title everywhere."""
        return tuple(tag for part in self.parts for tag in part.tags)

    @property
    def trains(self) -> bool:
        return self.template is None

    @property
    def epochs(self) -> int:
        """Of its schedule; 0 where nothing is trained."""
        return self.schedule.epochs if self.trains else 0

    @property
    def total_epochs(self) -> int:
        """All that are trained for it: those of its schedule and of SubPT's probe."""
        return self.epochs + (self.projection.probe_epochs if self.projection else 0)

    def rate(self, epoch: int) -> float:
        """The learning rate in epoch 1..`epochs`."""
        squared = any(loss.squares_rate for loss in self.losses)
        return learning_rate(self.schedule.lr, epoch, self.schedule.epochs, squared=squared)

    def other_names(self, names: Names) -> list[str]:
        """Names beside the trained ones whose text features the loss reads."""
        return [name for loss in self.losses for name in loss.other_names(names)]

    def configured(self, values: Mapping[str, Any], *, file: str | Path | None = None) -> Method:
        """The method with `values` for some of its hyperparameters. InputError for a wrong key or value."""
        known = self.hyperparameters
        for key in values:
            if key not in known:
                raise unknown_name("key", key, list(known), file=file, key=key)

        method = replace(
            self,
            template=self.template and self.template.changed(values, file),
            schedule=self.schedule.changed(values, file),
            prompt=self.prompt.changed(values, file),
            rule=self.rule.changed(values, file),
            losses=tuple(loss.changed(values, file) for loss in self.losses),
            projection=self.projection and self.projection.changed(values, file),
            teacher=self.teacher and self.teacher.changed(values, file),
        )
        try:
            for part in method.parts:
                part.check(method.hyperparameters)
        except InputError as error:
            raise error.at(file=file) from None
        return method


METHODS = {
    method.name: method
    for method in (
        Method("zeroshot", "zero-shot CLIP", template=Template()),
        Method("coop", "CoOp"),
        Method("cocoop", "CoCoOp", prompt=prompts.ConditionalContext(), schedule=Schedule(epochs=10, batch_size=1)),
        Method("kgcoop", "KgCoOp", losses=(losses.ZeroShotGuidance(),), schedule=Schedule(epochs=100)),
        Method("prograd", "ProGrad", teacher=Teacher(), schedule=Schedule(epochs=100)),
        Method("sam", "SAM", rule=rules.SAM()),
        Method("gcscoop", "GCSCoOp", rule=rules.GradientConstrained()),
        Method("subpt", "SubPT", projection=Subspace()),
        Method("nfl", "NFL", losses=(losses.NovelNames(),)),
        Method("asam", "ASAM", rule=rules.ASAM()),
        Method("gsam", "GSAM", rule=rules.GSAM()),
        Method("sagm", "SAGM", rule=rules.SAGM()),
        Method("fsam", "Friendly-SAM", rule=rules.FriendlySAM()),
        Method("sample", "SAMPLe", rule=rules.SAMPLe()),
        Method("gnp", "gradient-norm penalty", rule=rules.GradientNormPenalty()),
        Method("conflict", "conflict projection", rule=rules.ConflictProjection()),
    )
}
"""The methods that have a search space and a section in the docs of their own."""


@cache
def find(name: str) -> Method:
    """The method `name`, with its defaults: a key of `METHODS`, or a combination like `kgcoop+gcscoop`.

    Where two of a combination have another default for the same hyperparameter, the first one's holds.
    InputError for an unknown name and for methods that do not combine.
    """
    if name in METHODS:
        return METHODS[name]
    parts = name.split("+")
    for part in parts:
        if part not in METHODS:
            raise unknown_name("method", part or name, METHODS, key="method")
    methods = [METHODS[part] for part in parts]
    _check_combination(name, methods)
    defaults: dict[str, Any] = {}
    for method in reversed(methods):
        defaults |= method.schedule.model_dump(exclude_unset=True)
    return Method(
        name,
        " + ".join(method.title for method in methods),
        prompt=next((method.prompt for method in methods if method.prompt.kind), Context()),
        losses=tuple(loss for method in methods for loss in method.losses),
        teacher=next(filter(None, (method.teacher for method in methods)), None),
        projection=next(filter(None, (method.projection for method in methods)), None),
        rule=next((method.rule for method in methods if method.rule.kind), PlainGradient()),
        schedule=Schedule(**defaults),
    )


def _check_combination(name: str, methods: Sequence[Method]) -> None:
    """InputError unless each adds a part of another kind, in the order of `KINDS`."""
    parts = [method.name for method in methods]
    for method in methods:
        if not method.kinds:
            remedy = (
                f"Write {'+'.join(p for p in parts if p != method.name)!r}: every method that trains builds on CoOp."
            )
            rule = f"{method.name} does not combine with other methods"
            raise InputError(rule, key="method", received=name, remedy=remedy)
        kind = next((kind for kind in method.kinds if sum(kind in other.kinds for other in methods) > 1), None)
        if kind:
            rule = f"a combination has at most one of each kind, and this one names {KINDS[kind]} twice"
            raise InputError(rule, key="method", received=name, remedy="Keep one of them.")
    order = list(KINDS)
    ordered = "+".join(one.name for one in sorted(methods, key=lambda one: order.index(one.kinds[0])))
    if ordered != name:
        # One configuration must have one name, or its digest would not identify it.
        rule = "the parts of a combination stand in one fixed order"
        raise InputError(rule, key="method", received=name, remedy=f"Write {ordered!r}.")


METHODS["subpt+nfl"] = find("subpt+nfl")

SHIPPED = frozenset(METHODS)
"""Their names; what else is in `METHODS` was registered by `register_rule`."""


def register_rule(name: str, rule: Rule, *, title: str = "") -> None:
    """Make a method of a gradient rule of one's own: CoOp's prompt trained with it, to be searched as any other.

    The name is known in this process and in the workers of Ray that its sweeps start. Another process that is to
    resume or export such a sweep registers the rule first, too. Registered again, a rule takes the place of its former
    self.

    Args:
        name: small letters and digits; `kgcoop+NAME` and the like work as with every rule.
        rule: with the default values of its hyperparameters, which are its fields.
        title: what tables call the method; by default its name.

    Raises:
        InputError: no such name is possible, it is one of gcsearch's own, or a hyperparameter is called
            as one that every method has.
    """
    if not re.fullmatch("[a-z][a-z0-9]*", name):
        raise InputError("a method's name has small letters and digits, and begins with a letter", received=repr(name))
    if name in SHIPPED:
        said = "a name of gcsearch's own stays what it is"
        raise InputError(said, received=repr(name), remedy="Choose another name.")
    if not isinstance(rule, Rule) or rule.kind != "rule":
        remedy = 'Make an instance of a subclass of `gcsearch.rules.Rule` with `kind: ClassVar[str | None] = "rule"`.'
        raise InputError("a gradient rule is wanted", received=repr(rule), remedy=remedy)
    if taken := sorted(set(dict(rule)) & set(METHODS["coop"].hyperparameters)):
        remedy = "Call it otherwise."
        raise InputError("every method has a hyperparameter of this name", received=", ".join(taken), remedy=remedy)
    METHODS[name] = Method(name, title or name, rule=rule)
    find.cache_clear()


def registered() -> dict[str, tuple[Rule, str]]:
    """What `register_rule` was told in this process, for others that are to know it."""
    return {name: (method.rule, method.title) for name, method in METHODS.items() if name not in SHIPPED}


def build(config: TrialConfig, *, file: str | Path | None = None) -> Method:
    """The method that `config` describes. InputError for an unknown method, a wrong key or value."""
    try:
        method = find(config.method)
    except InputError as error:
        raise error.at(file=file) from None
    try:
        return method.configured(config.hyperparameters, file=file)
    except InputError as error:
        raise InputError(
            error.rule,
            file=error.file,
            key=f"{config.method}.{error.key}" if error.key else config.method,
            received=error.received,
            remedy=error.remedy,
        ) from None


def complete(config: TrialConfig) -> TrialConfig:
    """`config` with every default written out, so that a later change of a default cannot change it."""
    values = build(config).hyperparameters
    return TrialConfig(method=config.method, hyperparameters={k: v for k, v in values.items() if v is not None})


def title_and_tags(config: TrialConfig) -> tuple[str, tuple[str, ...]]:
    """The title and the tags of a configuration's method; its bare name where an older gcsearch wrote it."""
    try:
        method = build(config)
    except InputError:
        return config.method, ()
    return method.title, method.tags


def with_tags(title: str, tags: Sequence[str]) -> str:
    """`SubPT + NFL [transductive]`; tags that the title ends with already are not repeated."""
    brackets = f" [{', '.join(tags)}]" if tags else ""
    return title if title.endswith(brackets) else title + brackets
