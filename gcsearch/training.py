"""The one training loop, over a population of prompts.

A *member* is one setting with one seed.  Members that share their structure (prompt, loss, rule, batch and
tensor sizes) train together: their context vectors form one tensor, their learning rates, radii and bounds
are vectors over members, their losses are summed, so that one backward pass gives each its own gradient.
Nothing couples them: a member's numbers are the same alone and in a crowd, up to rounding.

Shapes: P members, n context vectors, D text width, N training images of a member, B batch, C trained
classes, V views, E embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gcsearch import updates
from gcsearch.backbone import Backbone
from gcsearch.methods import Trained
from gcsearch.metrics import accuracy, harmonic_mean
from gcsearch.prompts import Suffix, context_features, initial_context
from gcsearch.schema import Stage

WARMUP_LR = 1e-5


@dataclass(frozen=True)
class Half:
    """One side of the trade-off: its classes and the images that score it."""

    classes: Tensor  # [C], positions in `Episode.names`
    features: Tensor  # [N, E]
    labels: Tensor  # [N], positions in `classes`


@dataclass(frozen=True)
class Episode:
    """All the data that one seed trains on and is measured on.

    In the stage `search`, `base` are the trained and `new` the held-out base classes, with validation
    images; in the stage `test`, the base and new classes with test images.
    """

    seed: int
    stage: Stage
    names: tuple[str, ...]
    views: Tensor  # [V, N, E], of the training images
    labels: Tensor  # [N], positions in `base.classes`
    base: Half
    new: Half


@dataclass(frozen=True)
class Member:
    """One setting with one seed."""

    method: Trained
    episode: Episode


@dataclass(frozen=True)
class Measured:
    """The numbers of one member after one epoch; `diverged` once a number of it was not finite."""

    epoch: int
    metrics: dict[str, float]
    diverged: bool


def learning_rate(base: float, epoch: int, epochs: int) -> float:
    """Rate of epoch 1..`epochs`: 1e-5 in the first, then base/2 (1 + cos(pi (epoch-2) / epochs)).

    The closed form of the CoOp repositories' schedule: one constant warm-up epoch, cosine decay counted
    over all epochs and stepped once per epoch, so that the last epoch's rate is not zero.
    """
    if epoch == 1:
        return WARMUP_LR
    return 0.5 * base * (1 + math.cos(math.pi * (epoch - 2) / epochs))


def batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Split [P, N] into batches [P, B]; the last partial one is dropped, unless it is the only one."""
    count = order.shape[1]
    for step in range(max(1, count // batch_size)):
        yield order[:, step * batch_size : (step + 1) * batch_size]


def structure(member: Member) -> tuple[object, ...]:
    """What must be equal for two members to train in one population."""
    method, episode = member.method, member.episode
    return (
        method.loss,
        method.rule,
        method.n_ctx,
        method.batch_size,
        tuple(episode.views.shape),
        len(episode.base.classes),
        episode.names,
    )


class Population:
    """Members of one structure, trained in step."""

    def __init__(self, backbone: Backbone, names: Suffix, members: Sequence[Member]) -> None:
        self.tower = backbone.tower
        self.names = names
        self.members = list(members)
        self.rule = updates.RULES[members[0].method.rule]
        device = self.tower.device
        self.generators = [torch.Generator().manual_seed(_stream(m.episode.seed)) for m in members]
        self.context = torch.stack(
            [
                initial_context(backbone, m.method.n_ctx, m.method.ctx_init, generator)
                for m, generator in zip(members, self.generators, strict=True)
            ]
        ).to(device)
        self.velocity = torch.zeros_like(self.context)
        self.alive = torch.ones(len(members), dtype=torch.bool, device=device)
        self.epoch = 0
        self._gather()

    def _gather(self) -> None:
        """Vectors and tables over the present members; anew whenever some have left."""
        device = self.tower.device
        self.knobs = {knob: self._vector(knob) for knob in _KNOBS}
        self.labels = torch.stack([m.episode.labels for m in self.members]).to(device)
        self.trained = self.names.select(torch.stack([m.episode.base.classes for m in self.members]).to(device))

    def _vector(self, knob: str) -> Tensor:
        values = [_number(getattr(member.method, knob, 0.0)) for member in self.members]
        return torch.tensor(values, dtype=torch.float32, device=self.tower.device)

    def train_epoch(self) -> list[dict[str, float]]:
        """One epoch of all members; per member the epoch's mean loss, mean cosine and branch shares."""
        self.epoch += 1
        order = torch.stack([torch.randperm(self.labels.shape[1], generator=g) for g in self.generators])
        order = order.to(self.tower.device)
        # Members that share a draw share its views: one stack per epoch, no copy per step.
        views = torch.stack([m.episode.views[(self.epoch - 1) % len(m.episode.views)] for m in self.members])
        views = views.to(self.tower.device)
        rate = torch.tensor([learning_rate(m.method.lr, self.epoch, m.method.epochs) for m in self.members])
        sums = _Sums(len(self.members), self.tower.device)
        for chosen in batches(order, self.members[0].method.batch_size):
            images = views.gather(1, chosen[:, :, None].expand(-1, -1, views.shape[2]))
            self._step(images, self.labels.gather(1, chosen), rate.to(self.tower.device), sums)
        return sums.means()

    def _step(self, images: Tensor, labels: Tensor, rate: Tensor, sums: _Sums) -> None:
        """One optimiser step: SGD with momentum; weight decay is added after the rule has chosen."""
        update = self.rule(lambda context: self.gradients(context, images, labels), self.context, self.knobs)
        finite = torch.isfinite(update.loss) & updates.is_finite(update.gradient)
        if update.branch is not None:
            finite &= update.branch != updates.NOT_FINITE
        like = self.context
        decayed = update.gradient + updates.along(self.knobs["weight_decay"], like) * like
        velocity = updates.along(self.knobs["momentum"], like) * self.velocity + decayed
        moved = self.context - updates.along(rate, like) * velocity
        # A member with a number that is not finite keeps its last good state; the others go on untouched.
        self.alive &= finite & updates.is_finite(moved)
        keep = updates.along(self.alive, like)
        self.velocity = torch.where(keep, velocity, self.velocity)
        self.context = torch.where(keep, moved, self.context)
        sums.add(update)

    def gradients(self, context: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy [P] and its gradient [P, n, D] at `context`, on images [P, B, E], labels [P, B]."""
        with torch.enable_grad():
            context = context.detach().requires_grad_()
            text = context_features(self.tower, context, self.trained)
            logits = self.tower.logit_scale * images @ text.transpose(1, 2)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss = loss.unflatten(0, labels.shape).mean(1)
            (gradient,) = torch.autograd.grad(loss.sum(), context)
        return loss.detach(), gradient

    @torch.inference_mode()
    def evaluate(self) -> list[dict[str, float]]:
        """Accuracy of each member on its two halves."""
        features = context_features(self.tower, self.context, self.names).cpu()
        return [score(m.episode, text) for m, text in zip(self.members, features, strict=True)]

    def keep(self, positions: Sequence[int]) -> None:
        """Shrink to the members at `positions`."""
        index = torch.tensor(positions, dtype=torch.long, device=self.tower.device)
        self.members = [self.members[p] for p in positions]
        self.generators = [self.generators[p] for p in positions]
        self.context, self.velocity = self.context[index], self.velocity[index]
        self.alive = self.alive[index]
        if positions:
            self._gather()


def score(episode: Episode, text: Tensor) -> dict[str, float]:
    """Base and new accuracy and H of text features [all names, E] on an episode, keyed by its stage."""
    base = accuracy(episode.base.features, text[episode.base.classes], episode.base.labels)
    new = accuracy(episode.new.features, text[episode.new.classes], episode.new.labels)
    prefix = "val" if episode.stage == "search" else "test"
    return {
        f"{prefix}_base_acc": base,
        f"{prefix}_new_acc": new,
        f"{prefix}_h": harmonic_mean(base, new),
    }


OnMeasured = Callable[[Mapping[int, Measured]], None]
"""Called after an epoch with the measured members, by position in the list given to `train`."""


def train(
    backbone: Backbone, names: Suffix, members: Sequence[Member], evaluate_every: int, on_measured: OnMeasured
) -> list[Tensor]:
    """Train all members to the end of their own schedules and return their context vectors [n, D].

    Members of equal structure run together. Each is measured every `evaluate_every` epochs, after its last
    epoch, and in the epoch in which it diverges; a diverged member trains no further.
    """
    contexts: list[Tensor] = [torch.empty(0)] * len(members)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, member in enumerate(members):
        groups.setdefault(structure(member), []).append(position)
    for positions in groups.values():
        population = Population(backbone, names, [members[p] for p in positions])
        _train_group(population, positions, evaluate_every, on_measured, contexts)
    return contexts


def _train_group(
    population: Population,
    positions: list[int],
    evaluate_every: int,
    on_measured: OnMeasured,
    contexts: list[Tensor],
) -> None:
    reported: set[int] = set()
    while population.members:
        trained = population.train_epoch()
        epoch, alive = population.epoch, cast(list[bool], population.alive.tolist())
        ends = [epoch >= member.method.epochs for member in population.members]
        broke = [not ok and p not in reported for ok, p in zip(alive, positions, strict=True)]
        due = epoch % evaluate_every == 0
        if due or any(ends) or any(broke):
            scores = population.evaluate()
            measured = {
                p: Measured(epoch, {**scores[i], **trained[i]}, diverged=not alive[i])
                for i, p in enumerate(positions)
                if broke[i] or (alive[i] and (due or ends[i]))
            }
            reported |= {p for i, p in enumerate(positions) if broke[i]}
            on_measured(measured)
        if any(ends):
            for i, p in enumerate(positions):
                contexts[p] = population.context[i].cpu()
            stay = [i for i, over in enumerate(ends) if not over]
            population.keep(stay)
            positions = [positions[i] for i in stay]


class _Sums:
    """Sums over an epoch's steps, kept on the device: nothing is read back before the epoch is over."""

    def __init__(self, members: int, device: torch.device) -> None:
        self.steps = 0
        self.loss = torch.zeros(members, device=device)
        self.cosine: Tensor | None = None
        self.taken: Tensor | None = None  # [P, 3]

    def add(self, update: updates.Update) -> None:
        self.steps += 1
        self.loss = self.loss + update.loss
        if update.cosine is not None:
            self.cosine = update.cosine if self.cosine is None else self.cosine + update.cosine
        if update.branch is not None:
            taken = update.branch[:, None] == torch.arange(3, device=update.branch.device)
            self.taken = taken.float() if self.taken is None else self.taken + taken

    def means(self) -> list[dict[str, float]]:
        columns = {"loss": self.loss}
        if self.cosine is not None:
            columns["cosine"] = self.cosine
        if self.taken is not None:
            columns |= dict(zip(_SHARES, self.taken.unbind(1), strict=True))
        values = {name: (column / self.steps).tolist() for name, column in columns.items()}
        return [{name: values[name][i] for name in values} for i in range(len(self.loss))]


_KNOBS = ("rho", "beta1", "beta2", "momentum", "weight_decay")
_SHARES = ("share_plain", "share_projected", "share_perturbed")


def _number(value: float | str) -> float:
    """A knob as a number: beta1 "off" is 0, which removes the plain branch."""
    return 0.0 if value == "off" else float(value)


def _stream(seed: int) -> int:
    """The seed of a member's own generator, apart from those of the draw and of the views."""
    return 1_000_003 * (seed + 1)
