"""The one training loop: populations of members to the end of their schedules, or until they have to leave."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gcsearch import files
from gcsearch.clip.model import Backbone
from gcsearch.config.trials import Proposal
from gcsearch.stats import Bins
from gcsearch.training.population import Member, Population, structure

State = dict[str, Tensor]
"""What there is of one member: a row [1, ...] of each tensor of `Population.state`."""


@dataclass(frozen=True)
class Measurement:
    """The numbers of one member after one epoch; `diverged` once a number of it was not finite.

    `bins` are those of its calibration on test images, by side.
    """

    epoch: int
    metrics: dict[str, float]
    diverged: bool
    bins: dict[str, Bins] = field(default_factory=dict)


OnMeasured = Callable[[Mapping[int, Measurement]], None]
"""Called after an epoch with the measured members, by position in the list given to `Training`."""


@dataclass(frozen=True)
class Rungs:
    """Where members may have to leave.

    `epochs`: for each rung, in order, the epoch of each member at which it has come there. `leaving`: called
    with the index of a rung once all members that are left have come there; gives the positions that go.
    """

    epochs: Sequence[Sequence[int]] = ()
    leaving: Callable[[int], Collection[int]] = lambda rung: ()


@dataclass(frozen=True)
class TrainingState:
    """All that training goes on from: the rung that is aimed at, and what there is of each member by position."""

    rung: int = 0
    states: Mapping[int, State] = field(default_factory=dict)


class Training:
    """Members on their way to the ends of their own schedules.

    Members of equal structure run together. Each is measured every `evaluate_every` epochs, at each rung,
    after its last epoch, and in the epoch in which it diverges; a diverged member trains no further. At a rung
    members wait for one another, and those that have to leave train no further.
    """

    def __init__(
        self,
        backbone: Backbone,
        members: Sequence[Member],
        on_measured: OnMeasured,
        *,
        evaluate_every: int = 1,
        rungs: Rungs = Rungs(),
        limit: int | None = None,
    ) -> None:
        self.backbone, self.members, self.limit = backbone, members, limit
        self.evaluate_every, self.on_measured, self.rungs = evaluate_every, on_measured, rungs
        self.stops = [{epochs[p] for epochs in rungs.epochs} | {m.method.epochs} for p, m in enumerate(members)]
        self.rung = 0
        self.resting: dict[int, State] = {}
        self.moving: tuple[list[int], Population] | None = None
        self.left: set[int] = set()
        groups: dict[tuple[object, ...], list[int]] = {}
        for position, member in enumerate(members):
            groups.setdefault(structure(member), []).append(position)
        self.groups = list(groups.values())

    def run(
        self, start: TrainingState = TrainingState(), after_epoch: Callable[[], None] = lambda: None
    ) -> list[Tensor]:
        """Train to the end, from a `snapshot` where there is one, and return the members' parameters.

        `after_epoch` is called after every epoch of a population. Who left at a rung before that of `start` is
        asked again.
        """
        self.resting |= start.states
        for rung, epochs in enumerate(self.rungs.epochs):
            if rung >= start.rung:
                self._run_to(rung, epochs, after_epoch)
            self.left |= set(self.rungs.leaving(rung))
        self._run_to(len(self.rungs.epochs), [member.method.epochs for member in self.members], after_epoch)
        return [self.resting[position]["parameters"][0] for position in range(len(self.members))]

    def state(self) -> TrainingState:
        """Of those that rest and of those that train, at the end of an epoch."""
        moving = zip(self.moving[0], _rows(self.moving[1]), strict=True) if self.moving else ()
        return TrainingState(self.rung, self.resting | dict(moving))

    def _run_to(self, rung: int, targets: Sequence[int], after_epoch: Callable[[], None]) -> None:
        """Train every member that has not left up to its epoch in `targets`, or to its end if that is nearer."""
        self.rung = rung
        ends = [min(target, member.method.epochs) for target, member in zip(targets, self.members, strict=True)]
        for group in self.groups:
            going = [p for p in group if p not in self.left and self._trained(p) < ends[p]]
            if going:
                self._run_group(self._population(going), going, ends, after_epoch)

    def _trained(self, position: int) -> int:
        state = self.resting.get(position)
        return int(state["epochs"]) if state else 0

    def _population(self, going: Sequence[int]) -> Population:
        population = Population(self.backbone, [self.members[p] for p in going], limit=self.limit)
        known = [self.resting[p] for p in going if p in self.resting]
        if known:  # all of a structure begin together, so that either every one has a state or none
            population.restore({name: torch.cat([state[name] for state in known]) for name in known[0]})
        return population

    def _run_group(
        self, population: Population, going: list[int], ends: Sequence[int], after_epoch: Callable[[], None]
    ) -> None:
        while going:
            living = cast(list[bool], population.alive.tolist())
            trained = population.train_epoch()
            self._measure(population, going, trained, living)
            arrived = [epoch >= ends[p] for epoch, p in zip(population.epochs, going, strict=True)]
            if any(arrived):
                states = _rows(population)
                self.resting |= {p: states[i] for i, p in enumerate(going) if arrived[i]}
                stay = [i for i, over in enumerate(arrived) if not over]
                population.keep(stay)
                going = [going[i] for i in stay]
            self.moving = going, population
            after_epoch()
        self.moving = None

    def _measure(
        self, population: Population, going: Sequence[int], trained: Sequence[dict[str, float]], living: Sequence[bool]
    ) -> None:
        """Measure those whose epoch asks for it, and those that have just diverged (they were `living` before)."""
        alive = cast(list[bool], population.alive.tolist())
        broke = [was and not is_ for was, is_ in zip(living, alive, strict=True)]
        due = [
            broke[i] or (alive[i] and (epoch % self.evaluate_every == 0 or epoch in self.stops[p]))
            for i, (p, epoch) in enumerate(zip(going, population.epochs, strict=True))
        ]
        if any(due):
            scores = population.evaluate()
            self.on_measured(
                {
                    p: Measurement(
                        population.epochs[i], {**scores[i].metrics, **trained[i]}, not alive[i], scores[i].bins
                    )
                    for i, p in enumerate(going)
                    if due[i]
                }
            )


def _rows(population: Population) -> list[State]:
    """The states of a population's members, one by one."""
    if not population.members:
        return []
    state = population.state()
    return [{name: tensor[i : i + 1] for name, tensor in state.items()} for i in range(len(population.members))]


# --- Checkpoints -----------------------------------------------------------------------------------------


logger = logging.getLogger(__name__)


def name_of(proposals: Sequence[Proposal]) -> str:
    """Name of a pack's file: the same for the same configurations, numbers and rungs, and for no other pack."""
    text = json.dumps([proposal.to_dict() for proposal in proposals], sort_keys=True)
    return f"{proposals[0].number}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


Notes = dict[str, Any]
"""JSON values."""


@dataclass
class Checkpoint:
    """The file at `path`, written every `every` calls of `keep`.

    Nothing that goes wrong with it stops a pack: one that cannot be written or read costs only what it would
    have saved.
    """

    path: Path
    every: int
    calls: int = 0

    def load(self) -> tuple[Notes, TrainingState] | None:
        """What was kept; None where there is no such file."""
        import safetensors

        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                kept = json.loads(file.metadata()["kept"])
                states: dict[int, State] = {}
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    position, _, name = key.partition(".")
                    states.setdefault(int(position), {})[name] = file.get_tensor(key)
        except Exception as error:  # whatever a damaged file brings about, the pack begins anew
            logger.warning("%s cannot be read, so its pack begins anew: %s", self.path, error)
            return None
        return kept["notes"], TrainingState(kept["rung"], states)

    def keep(self, training: Training, notes: Callable[[], Notes]) -> None:
        """Write the file if it is time to; the former one is there until the new one is whole."""
        self.calls += 1
        if self.calls % self.every:
            return
        now = training.state()
        tensors = {f"{position}.{name}": tensor for position, one in now.states.items() for name, tensor in one.items()}
        try:
            files.write_tensors(self.path, tensors, {"kept": json.dumps({"rung": now.rung, "notes": notes()})})
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error.strerror or error)

    def remove(self) -> None:
        """Whoever has the records of the pack needs it no longer."""
        self.path.unlink(missing_ok=True)
