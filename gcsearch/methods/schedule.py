"""How long a member trains and by what steps: SGD under the schedule of the CoOp repositories."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from gcsearch.config.base import Epochs
from gcsearch.methods.base import BelowOne, NotNegative, Part, Positive

WARMUP_LR = 1e-5


def learning_rate(base: float, epoch: int, epochs: int, *, squared: bool = False) -> float:
    """Rate of epoch 1..`epochs`: 1e-5 in the first, then base/2 (1 + cos(pi (epoch-2) / epochs)).

    The closed form of the CoOp repositories' schedule: one constant warm-up epoch, cosine decay counted
    over all epochs and stepped once per epoch, so that the last epoch's rate is not zero. With `squared` the
    factor of `base` is squared, as by KgCoOp's code, which steps two schedulers.
    """
    if epoch == 1:
        return WARMUP_LR
    share = 0.5 * (1 + math.cos(math.pi * (epoch - 2) / epochs))
    return base * (share * share if squared else share)


class Schedule(Part):
    """SGD with momentum and weight decay; epoch 1 at the rate 1e-5, then cosine decay of `lr` over `epochs`."""

    lr: Positive = 0.002
    epochs: Epochs = 200
    batch_size: Annotated[int, Field(ge=1, le=2**16)] = 32
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 5e-4
