"""`METHODS`: each method as a frozen set of hyper-parameters, a prompt, a loss and a gradient rule.

A method never has a training loop of its own: `gcsearch.training.loop` asks which parts it has.  Parts combine
freely, one of each kind, with "+" between their names: `kgcoop+gcscoop` is KgCoOp's loss with GCSCoOp's
gradient rule, `subpt+nfl` projects the gradient of NFL's loss.  This module imports no torch, so that a
wrong setting is refused in milliseconds.  Defaults are the published ones (see docs/methods.md); where a
paper's batch size differs, 32 is used for all but CoCoOp, because the effect of rho and of the bounds
depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, cast

from pydantic import Field, create_model, model_validator

from gcsearch.config.base import Count, Epochs, Model
from gcsearch.config.trials import TrialConfig
from gcsearch.errors import InputError, unknown_name

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Batch = Annotated[int, Field(ge=1, le=2**16)]


class Method(Model):
    """Base of all. Abstract: only what `find` returns is used."""

    title: ClassVar[str]
    kind: ClassVar[str | None] = None
    """Which part of training it defines, a key of `KINDS`; None for what does not combine."""

    @property
    def tags(self) -> tuple[str, ...]:
        """What a reader of its numbers must know, shown behind the title everywhere."""
        return ()


class ZeroShot(Method):
    """CLIP with the task's template and no training; `ensemble` averages it with seven further templates."""

    title: ClassVar[str] = "zero-shot CLIP"

    ensemble: bool = False

    @property
    def tags(self) -> tuple[str, ...]:
        return ("ensemble",) if self.ensemble else ()


class Trained(Method):
    """Schedule, optimiser and context of every method that trains.

    SGD with momentum and weight decay; epoch 1 at the constant rate 1e-5, then cosine decay of `lr` over
    `epochs`. `n_ctx` context vectors at the `position` end (before the class name), front (after it) or
    middle (half of them on each side) start as the embeddings of `ctx_init`, or from N(0, 0.02^2) where it is
    empty. With `class_specific` every class has vectors of its own; they say nothing about other classes, so
    only base accuracy is measured.
    """

    rule: ClassVar[str] = "plain"
    """A key of `gcsearch.methods.rules.RULES`."""

    lr: Positive = 0.002
    epochs: Epochs = 200
    batch_size: Batch = 32
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    n_ctx: Annotated[int, Field(ge=1, le=64)] = 4
    ctx_init: str = "a photo of a"
    class_specific: bool = False
    position: Literal["end", "middle", "front"] = "end"

    @property
    def tags(self) -> tuple[str, ...]:
        return ("class-specific",) if self.class_specific else ()


class CoOp(Trained):
    """Context optimisation: cross-entropy, plain gradient."""

    title: ClassVar[str] = "CoOp"


# --- Prompts --------------------------------------------------------------------------------------------


class CoCoOp(Trained):
    """Context vectors shifted for each image by a small network of its features."""

    title: ClassVar[str] = "CoCoOp"
    kind: ClassVar[str | None] = "prompt"

    epochs: Epochs = 10
    batch_size: Batch = 1

    @model_validator(mode="after")
    def _shared_context_in_front_of_the_name(self) -> Self:
        if self.class_specific or self.position != "end":
            raise InputError(
                "CoCoOp shifts one shared context in front of the class name",
                key="class_specific" if self.class_specific else "position",
                received=self.class_specific or self.position,
                remedy='Leave class_specific = false and position = "end".',
            )
        return self


# --- Losses ---------------------------------------------------------------------------------------------


class KgCoOp(Trained):
    """Cross-entropy plus `kg_lambda` times the mean distance 1 - cos to the zero-shot features of the classes.

    `kgcoop_lr = "squared"` reproduces the published code's doubled scheduler: the cosine factor of the rate
    is squared. kg_lambda = 0 is CoOp.
    """

    title: ClassVar[str] = "KgCoOp"
    kind: ClassVar[str | None] = "guidance"

    epochs: Epochs = 100
    kg_lambda: NotNegative = 8.0
    kgcoop_lr: Literal["single", "squared"] = "single"


class ProGrad(Trained):
    """The task gradient without its part, times `prograd_lambda`, that conflicts with zero-shot CLIP's knowledge.

    The teacher's softmax has the temperature `temperature`. prograd_lambda = 0 is CoOp.
    """

    title: ClassVar[str] = "ProGrad"
    kind: ClassVar[str | None] = "teacher"

    epochs: Epochs = 100
    prograd_lambda: NotNegative = 1.0
    temperature: Positive = 1.0


class NFL(Trained):
    """Novel feature learner: `nfl_lambda` times the mean distance 1 - cos to zero-shot features of other names.

    `nfl_names = "clean"` takes at most `nfl_count` names that are no class of the data set; "transductive"
    takes the names of the very classes that the result is measured on, as the published base-to-new
    experiments do. nfl_lambda = 0 is CoOp.
    """

    title: ClassVar[str] = "NFL"
    kind: ClassVar[str | None] = "novel"

    nfl_lambda: NotNegative = 1.0
    nfl_names: Literal["clean", "transductive"] = "clean"
    nfl_count: Count = 100

    @property
    def tags(self) -> tuple[str, ...]:
        return (*super().tags, *(["transductive"] if self.nfl_names == "transductive" else []))

    @model_validator(mode="after")
    def _context_for_other_names(self) -> Self:
        if self.class_specific:
            raise InputError(
                "NFL needs a context that fits names without images, and class-specific vectors fit none",
                key="class_specific",
                received=True,
                remedy="Leave class_specific = false.",
            )
        return self


class SubPT(Trained):
    """The gradient projected on the main directions of an earlier run.

    A probe runs the same method without the projection for `probe_epochs` epochs of the full schedule; the
    top `rank` principal directions of its context vectors after each epoch span the subspace. A full rank is
    the method itself.
    """

    title: ClassVar[str] = "SubPT"
    kind: ClassVar[str | None] = "subspace"

    probe_epochs: Annotated[Epochs, Field(ge=2)] = 50
    rank: Count = 10

    @model_validator(mode="after")
    def _enough_checkpoints(self) -> Self:
        if self.probe_epochs > self.epochs:
            raise InputError(
                "probe_epochs must not exceed epochs",
                key="probe_epochs",
                received=f"probe_epochs={self.probe_epochs}, epochs={self.epochs}",
                remedy=f"At most {self.epochs}, and a rank below that.",
            )
        if self.rank >= self.probe_epochs:
            raise InputError(
                "rank must be below probe_epochs: so many centred checkpoints have no more directions",
                key="rank",
                received=f"rank={self.rank}, probe_epochs={self.probe_epochs}",
                remedy=f"At most {self.probe_epochs - 1}.",
            )
        return self


# --- Gradient rules -------------------------------------------------------------------------------------


class Sharpness(Trained):
    """Base of the rules that look at the gradient at distance `rho`."""

    kind: ClassVar[str | None] = "rule"

    rho: NotNegative = 0.1


class SAM(Sharpness):
    """Sharpness-aware minimisation: the gradient at distance `rho` uphill. rho = 0 is CoOp."""

    title: ClassVar[str] = "SAM"
    rule: ClassVar[str] = "sam"


class GCSCoOp(Sharpness):
    """Gradient-constrained SAM.

    The cosine k between the plain and the perturbed gradient chooses: k <= beta1 plain, k >= beta2
    perturbed, between them the perturbed one projected on the sum of both. `beta1 = "off"` (or <= 0)
    removes the plain branch.  beta1 must not exceed beta2.  beta1 >= 1 is CoOp; beta1 off with beta2 <= -1 is SAM;
    rho = 0 is CoOp.
    """

    title: ClassVar[str] = "GCSCoOp"
    rule: ClassVar[str] = "gcsam"

    beta1: float | Literal["off"] = 0.5
    beta2: float = 0.8

    @model_validator(mode="after")
    def _lower_bound_below_upper_bound(self) -> Self:
        if isinstance(self.beta1, float) and self.beta1 > self.beta2:
            raise InputError(
                "beta1 must not exceed beta2: the plain branch ends before the perturbed one begins",
                key="beta1",
                received=f"beta1={self.beta1:g}, beta2={self.beta2:g}",
                remedy='Swap them, or set beta1 = "off". In a space: `at_most = "beta2"` below [parameters.beta1].',
            )
        return self


class ASAM(Sharpness):
    """Adaptive SAM: the radius is measured relative to each coordinate's magnitude plus `eta`. rho = 0 is CoOp."""

    title: ClassVar[str] = "ASAM"
    rule: ClassVar[str] = "asam"

    rho: NotNegative = 0.5
    eta: NotNegative = 0.01


class GSAM(Sharpness):
    """Surrogate-gap SAM: the perturbed gradient minus `alpha` times the plain one's part orthogonal to it.

    The radius goes from `rho` to `rho_min` with the learning rate. alpha = 0 with rho_min = rho is SAM.
    """

    title: ClassVar[str] = "GSAM"
    rule: ClassVar[str] = "gsam"

    rho_min: NotNegative | None = None
    """The radius at rate 0; None: `rho`, a constant radius."""
    alpha: NotNegative = 0.4


class SAGM(Sharpness):
    """Sharpness-aware gradient matching: the mean of the gradients here and at (rho/|g| - alpha) g."""

    title: ClassVar[str] = "SAGM"
    rule: ClassVar[str] = "sagm"

    rho: NotNegative = 0.05
    alpha: NotNegative = 0.001


class FriendlySAM(Sharpness):
    """Friendly-SAM: perturbed along the gradient minus `sigma` times its moving average. sigma = 0 is SAM."""

    title: ClassVar[str] = "Friendly-SAM"
    rule: ClassVar[str] = "fsam"

    rho: NotNegative = 0.05
    sigma: NotNegative = 1.0
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9


class SAMPLe(Sharpness):
    """SAMPLe: the gradient plus the one at a perturbation without the batch's own part."""

    title: ClassVar[str] = "SAMPLe"
    rule: ClassVar[str] = "sample"

    rho: NotNegative = 0.05
    alpha: NotNegative = 0.0015
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.15


class GradientNormPenalty(Sharpness):
    """The mean of plain and perturbed gradient with weight `alpha` on the latter: 0 is CoOp, 1 is SAM."""

    title: ClassVar[str] = "gradient-norm penalty"
    rule: ClassVar[str] = "gnp"

    alpha: Share = 0.5


class ConflictProjection(Sharpness):
    """SAM's gradient without its part against the plain one, where the two conflict (cosine below 0)."""

    title: ClassVar[str] = "conflict projection"
    rule: ClassVar[str] = "conflict"


# --- Names ----------------------------------------------------------------------------------------------

KINDS = {
    "prompt": "a form of prompt",
    "guidance": "a guidance by zero-shot features",
    "teacher": "a teacher",
    "subspace": "a subspace",
    "novel": "a list of other names",
    "rule": "a gradient rule",
}
"""The kinds of parts, in the order in which their names stand in a combination."""

_SINGLE: dict[str, type[Method]] = {
    "zeroshot": ZeroShot,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "kgcoop": KgCoOp,
    "prograd": ProGrad,
    "sam": SAM,
    "gcscoop": GCSCoOp,
    "subpt": SubPT,
    "nfl": NFL,
    "asam": ASAM,
    "gsam": GSAM,
    "sagm": SAGM,
    "fsam": FriendlySAM,
    "sample": SAMPLe,
    "gnp": GradientNormPenalty,
    "conflict": ConflictProjection,
}


@cache
def find(name: str) -> type[Method]:
    """The method `name`: a key of `METHODS`, or a combination like `kgcoop+gcscoop`.

    Where two parts have another default for the same hyper-parameter, the first part's holds.
    InputError for an unknown name and for parts that do not combine.
    """
    parts = name.split("+")
    for part in parts:
        if part not in _SINGLE:
            raise unknown_name("method", part or name, METHODS, key="method")
    if len(parts) == 1:
        return _SINGLE[name]
    _check_combination(name, parts)
    classes = tuple(_SINGLE[part] for part in parts)
    combined = cast(type[Method], create_model(name, __base__=classes))
    combined.title = " + ".join(part.title for part in classes)
    return combined


def _check_combination(name: str, parts: list[str]) -> None:
    kinds = [_SINGLE[part].kind for part in parts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind is None:
            remedy = f"Write {'+'.join(p for p in parts if p != part)!r}: every method that trains builds on CoOp."
            raise InputError(f"{part} does not combine with other methods", key="method", received=name, remedy=remedy)
        if kinds.count(kind) > 1:
            rule = f"a combination has at most one of each kind, and this one names {KINDS[kind]} twice"
            raise InputError(rule, key="method", received=name, remedy="Keep one of them.")
    order = list(KINDS)
    ordered = "+".join(sorted(parts, key=lambda part: order.index(_SINGLE[part].kind or "")))
    if ordered != name:
        # One setting must have one name, or its digest would not identify it.
        rule = "the parts of a combination stand in one fixed order"
        raise InputError(rule, key="method", received=name, remedy=f"Write {ordered!r}.")


METHODS: dict[str, type[Method]] = {**_SINGLE}
METHODS["subpt+nfl"] = find("subpt+nfl")
"""The methods that have a search space and a section in the docs of their own."""


def build(config: TrialConfig, *, file: str | Path | None = None) -> Method:
    """The method that `config` describes. InputError for an unknown method, a wrong key or value."""
    try:
        method = find(config.method)
    except InputError as error:
        raise error.at(file=file) from None
    try:
        return method.from_dict(dict(config.hyperparameters), file=file)
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
    return TrialConfig(method=config.method, hyperparameters=build(config).to_dict())


def title_and_tags(config: TrialConfig) -> tuple[str, tuple[str, ...]]:
    """The title and the tags of a setting's method; its bare name where an older gcsearch wrote the setting."""
    try:
        method = build(config)
    except InputError:
        return config.method, ()
    return method.title, method.tags


def with_tags(title: str, tags: Sequence[str]) -> str:
    """`SubPT + NFL [transductive]`; tags that the title ends with already are not repeated."""
    brackets = f" [{', '.join(tags)}]" if tags else ""
    return title if title.endswith(brackets) else title + brackets
