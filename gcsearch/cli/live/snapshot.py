"""What is known of a running sweep at one moment. The driver's own display and `status --follow` show the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from gcsearch.config.trials import Outcome
from gcsearch.search.budget import Spent
from gcsearch.stats import Spread
from gcsearch.sweep.journal import Workers

Stage = Literal["search", "recheck", "confirm", "over"]


class Bar(NamedTuple):
    """A stage that is counted, `elapsed` seconds after it began; `total` is 0 where it is not known."""

    title: str
    done: float
    total: float
    elapsed: float
    left: float | None = None
    note: str = ""


class Pace:
    """How long something takes that had come to `done` at a time, in seconds of any clock."""

    def __init__(self, done: float, at: float) -> None:
        self.done, self.at = done, at

    def per_second(self, done: float, now: float) -> float:
        """How much of it is done in a second; 0 while nothing was."""
        return max(done - self.done, 0.0) / (now - self.at) if now > self.at else 0.0

    def left(self, done: float, total: float, now: float) -> float | None:
        """Seconds that are left; None while nothing tells."""
        rate = self.per_second(done, now)
        return max(total - done, 0.0) / rate if rate else None


class Best(NamedTuple):
    """The first of the ranking so far."""

    metric: str
    value: Spread
    number: int
    configuration: str
    oracle: bool


class AtRung(NamedTuple):
    """How many configurations have come to a rung at a share of their epochs, and how many went on from it."""

    share: float
    came: int
    went: int


class Running(NamedTuple):
    """A batch that trains: its trials, and the share of their epochs that they have on average; None: not known."""

    numbers: tuple[int, ...]
    share: float | None


class Measured(NamedTuple):
    """A configuration of the confirmation: its number once it is there, and whether it is known to train now."""

    name: str
    value: Spread | None
    runs: bool


class Confirming(NamedTuple):
    """What the confirmation compares by a metric; `done` counts each configuration with each batch of seeds."""

    metric: str
    seeds: tuple[int, ...]
    compared: tuple[Measured, ...]
    done: int
    total: int


class Next(NamedTuple):
    """What the confirmation will do: the best `top` again with `seeds`, and all beside `references` on test images."""

    top: int
    seeds: tuple[int, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one moment.

    `state`: that of `status`. `done` of `total` trials have ended, `elapsed` seconds after this session began; `left`
    seconds of the stage are about to come, None where nothing tells. `epochs` is whether the shares of running trials
    and the trials that the confirmation runs are known: to the driver alone.
    `devices`: the use of each GPU of this machine. `why`: why nobody drives the sweep any more.
    """

    sweep: str
    title: str
    state: str
    stage: Stage
    outcomes: Mapping[Outcome, int]
    total: int
    running: tuple[Running, ...]
    workers: Workers | None
    best: Best | None
    rungs: tuple[AtRung, ...]
    budget: tuple[Spent, ...]
    elapsed: float
    left: float | None
    confirming: Confirming | None
    next: Next
    log: Path
    epochs: bool = True
    devices: tuple[str, ...] = ()
    driver: str = ""
    why: str = ""

    @property
    def done(self) -> int:
        return sum(self.outcomes.values())

    @property
    def trials_running(self) -> int:
        return sum(len(one.numbers) for one in self.running)
