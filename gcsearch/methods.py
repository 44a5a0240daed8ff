"""`METHODS`: each method as a frozen set of hyper-parameters, a prompt, a loss and a gradient rule.

A method never has a training loop of its own: `gcsearch.training` reads the three names `prompt`, `loss`
and `rule` and the hyper-parameters.  This module imports no torch, so that a wrong setting is refused in
milliseconds.  Defaults are the published ones (see docs/methods.md); where a paper's batch size differs,
32 is used for all, because the effect of rho and of the bounds depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gcsearch.errors import InputError, unknown_name
from gcsearch.schema import Model, TrialConfig

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Method(Model):
    """Base: what every trained prompt has. Abstract: only the entries of `METHODS` are used."""

    title: ClassVar[str]
    prompt: ClassVar[Literal["template", "context"]] = "context"
    loss: ClassVar[Literal["cross_entropy"]] = "cross_entropy"
    rule: ClassVar[Literal["plain", "sam", "gcsam"]] = "plain"


class Trained(Method):
    """Schedule, optimiser and context of every method that trains.

    SGD with momentum and weight decay; epoch 1 at the constant rate 1e-5, then cosine decay of `lr` over
    `epochs`. `n_ctx` context vectors before the class name start as the embeddings of `ctx_init`, or from
    N(0, 0.02^2) where it is empty.
    """

    lr: Positive = 0.002
    epochs: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=1)] = 32
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    n_ctx: Annotated[int, Field(ge=1, le=64)] = 4
    ctx_init: str = "a photo of a"


class ZeroShot(Method):
    """CLIP with the task's template and no training."""

    title: ClassVar[str] = "zero-shot CLIP"
    prompt: ClassVar[Literal["template", "context"]] = "template"


class CoOp(Trained):
    """Context optimisation: cross-entropy, plain gradient."""

    title: ClassVar[str] = "CoOp"


class SAM(Trained):
    """CoOp with sharpness-aware minimisation: the gradient at distance `rho` uphill. rho = 0 is CoOp."""

    title: ClassVar[str] = "SAM"
    rule: ClassVar[Literal["plain", "sam", "gcsam"]] = "sam"

    rho: NotNegative = 0.1


class GCSCoOp(Trained):
    """CoOp with gradient-constrained SAM.

    The cosine k between the plain and the perturbed gradient chooses: k <= beta1 plain, k >= beta2
    perturbed, between them the perturbed one projected on the sum of both. `beta1 = "off"` (or <= 0)
    removes the plain branch.  beta1 >= 1 is CoOp; beta1 off with beta2 <= -1 is SAM; rho = 0 is CoOp.
    """

    title: ClassVar[str] = "GCSCoOp"
    rule: ClassVar[Literal["plain", "sam", "gcsam"]] = "gcsam"

    rho: NotNegative = 0.1
    beta1: Annotated[float, Field(allow_inf_nan=False)] | Literal["off"] = 0.5
    beta2: Annotated[float, Field(allow_inf_nan=False)] = 0.8


METHODS: dict[str, type[Method]] = {"zeroshot": ZeroShot, "coop": CoOp, "sam": SAM, "gcscoop": GCSCoOp}


def build(config: TrialConfig, *, file: str | Path | None = None) -> Method:
    """The method that `config` describes. InputError for an unknown method, a wrong key or value."""
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS, file=file, key="method")
    try:
        return METHODS[config.method].from_dict(dict(config.hyperparameters), file=file)
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
