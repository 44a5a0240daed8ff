"""The one training loop: populations of members to the end of their schedules, or until they have to leave."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gcsearch import files
from gcsearch.clip.model import Backbone
from gcsearch.config.trials import Proposal
from gcsearch.training.population import Member, Population, structure

State = dict[str, Tensor]
"""What there is of one member: a row [1, ...] of each tensor of `Population.state`."""


@dataclass(frozen=True)
class Measurement:
    """The numbers of one member after one epoch; `diverged` once a number of it was not finite."""

    epoch: int
    metrics: dict[str, float]
    diverged: bool


OnMeasured = Callable[[Mapping[int, Measurement]], None]
"""Called after an epoch with the measured members, by position in the list given to `train`."""


@dataclass(frozen=True)
class Rungs:
    """Where members may have to leave.

    `epochs`: for each rung, in order, the epoch of each member at which it has come there. `leaving`: called
    with the index of a rung once all members that are left have come there; gives the positions that go.
    """

    epochs: Sequence[Sequence[int]] = ()
    leaving: Callable[[int], Collection[int]] = lambda rung: ()


Keep = Callable[[int, Callable[[], Mapping[int, State]]], None]
"""Called after every epoch of a population with the rung that is aimed at and a function that gives the states."""


def train(
    backbone: Backbone,
    members: Sequence[Member],
    evaluate_every: int,
    on_measured: OnMeasured,
    limit: int | None = None,
    rungs: Rungs = Rungs(),
    keep: Keep = lambda rung, states: None,
    resume: tuple[int, Mapping[int, State]] = (0, {}),
) -> list[Tensor]:
    """Train all members to the end of their own schedules and return their parameters.

    Members of equal structure run together. Each is measured every `evaluate_every` epochs, at each rung,
    after its last epoch, and in the epoch in which it diverges; a diverged member trains no further. At a rung
    members wait for one another, and those that have to leave train no further.

    `keep` is handed what a checkpoint needs, and `resume` goes on from that: the rung and the states. Who left
    at an earlier rung is asked again then.
    """
    course = _Course(backbone, members, evaluate_every, on_measured, limit, rungs, keep)
    first, states = resume
    course.states |= states
    for rung, epochs in enumerate(rungs.epochs):
        if rung >= first:
            course.run(rung, epochs)
        course.left |= set(rungs.leaving(rung))
    course.run(len(rungs.epochs), [member.method.epochs for member in members])
    return [course.states[position]["parameters"][0] for position in range(len(members))]


class _Course:
    """Members on their way from rung to rung; what rests is kept in `states`, by position."""

    def __init__(
        self,
        backbone: Backbone,
        members: Sequence[Member],
        evaluate_every: int,
        on_measured: OnMeasured,
        limit: int | None,
        rungs: Rungs,
        keep: Keep,
    ) -> None:
        self.backbone, self.members, self.limit, self.keep = backbone, members, limit, keep
        self.evaluate_every, self.on_measured = evaluate_every, on_measured
        self.stops = [{epochs[p] for epochs in rungs.epochs} | {m.method.epochs} for p, m in enumerate(members)]
        self.states: dict[int, State] = {}
        self.left: set[int] = set()
        groups: dict[tuple[object, ...], list[int]] = {}
        for position, member in enumerate(members):
            groups.setdefault(structure(member), []).append(position)
        self.groups = list(groups.values())

    def run(self, rung: int, targets: Sequence[int]) -> None:
        """Train every member that has not left up to its epoch in `targets`, or to its end if that is nearer."""
        ends = [min(target, member.method.epochs) for target, member in zip(targets, self.members, strict=True)]
        for group in self.groups:
            going = [p for p in group if p not in self.left and self._trained(p) < ends[p]]
            if going:
                self._run_group(rung, self._population(going), going, ends)

    def _trained(self, position: int) -> int:
        state = self.states.get(position)
        return int(state["epochs"]) if state else 0

    def _population(self, going: Sequence[int]) -> Population:
        population = Population(self.backbone, [self.members[p] for p in going], limit=self.limit)
        known = [self.states[p] for p in going if p in self.states]
        if known:  # all of a structure begin together, so that either every one has a state or none
            population.restore({name: torch.cat([state[name] for state in known]) for name in known[0]})
        return population

    def _run_group(self, rung: int, population: Population, going: list[int], ends: Sequence[int]) -> None:
        while going:
            living = cast(list[bool], population.alive.tolist())
            trained = population.train_epoch()
            self._measure(population, going, trained, living)
            arrived = [epoch >= ends[p] for epoch, p in zip(population.epochs, going, strict=True)]
            if any(arrived):
                states = _rows(population)
                self.states |= {p: states[i] for i, p in enumerate(going) if arrived[i]}
                stay = [i for i, over in enumerate(arrived) if not over]
                population.keep(stay)
                going = [going[i] for i in stay]
            self.keep(rung, partial(self._all_states, population, going))

    def _all_states(self, population: Population, going: Sequence[int]) -> dict[int, State]:
        """Of those that rest and of those that train."""
        return self.states | dict(zip(going, _rows(population), strict=True))

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
                    p: Measurement(population.epochs[i], {**scores[i], **trained[i]}, diverged=not alive[i])
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
    """Name of the file of a pack: the same for the same settings under the same numbers and rungs, for no other."""
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

    def load(self) -> tuple[Notes, int, dict[int, State]] | None:
        """The notes, the rung that was aimed at, and the members' states; None where there is no such file."""
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
        return kept["notes"], kept["rung"], states

    def keep(self, rung: int, states: Callable[[], Mapping[int, State]], notes: Callable[[], Notes]) -> None:
        """Write the file if it is time to; the former one is there until the new one is whole."""
        self.calls += 1
        if self.calls % self.every:
            return
        tensors = {
            f"{position}.{name}": tensor for position, state in states().items() for name, tensor in state.items()
        }
        try:
            files.write_tensors(self.path, tensors, {"kept": json.dumps({"rung": rung, "notes": notes()})})
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error.strerror or error)

    def remove(self) -> None:
        """Whoever has the records of the pack needs it no longer."""
        self.path.unlink(missing_ok=True)
