"""A population: prompts that train in step, each as if it were alone.

A *member* is one setting with one seed.  Members that share their structure (method, batch and tensor
sizes) train together: their parameters form one tensor, their learning rates, radii and bounds are vectors
over members, their losses are summed, so that one backward pass gives each its own gradient.  Nothing
couples them: a member's numbers are the same alone and in a crowd, up to rounding.

Shapes: P members, parameters [P, ...] as in `gcsearch.methods.prompts`, N training images of a member, B batch,
C trained classes, V views, E embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from gcsearch.clip.model import Backbone
from gcsearch.methods import rules
from gcsearch.methods.losses import Anchored, Objective, Teacher
from gcsearch.methods.prompts import Pieces, Prompts, initial_parameters, prompts, suffix_tokens, template_features
from gcsearch.methods.registry import NFL, CoCoOp, KgCoOp, ProGrad, SubPT, Trained
from gcsearch.methods.rules import principal_directions, project
from gcsearch.stats import Score
from gcsearch.training import memory
from gcsearch.training.episodes import Episode, metrics_of, score

WARMUP_LR = 1e-5

IMAGE_TOKENS = 20_000
"""Token positions that go through the text tower at once when image-conditioned prompts are measured."""

SCORED_NAMES = 1000
"""Class names that go through the text tower at once when prompts are measured: those of many targets are more."""


@dataclass(frozen=True)
class Member:
    """One setting with one seed."""

    method: Trained
    episode: Episode


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


def batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Split [P, N] into batches [P, B]; the last partial one is dropped, unless it is the only one."""
    count = order.shape[1]
    for step in range(max(1, count // batch_size)):
        yield order[:, step * batch_size : (step + 1) * batch_size]


def structure(member: Member) -> tuple[object, ...]:
    """What must be equal for two members to train in one population."""
    method, episode = member.method, member.episode
    return (
        type(method),
        method.n_ctx,
        method.class_specific,
        method.position,
        method.batch_size,
        tuple(episode.views.shape),
        len(_prompted(member)),
        episode.names,
        episode.template,  # what guides or starts a prompt is made from it, once for all members
    )


def _prompted(member: Member) -> list[str]:
    """The names that a member's loss has text features of: trained classes, and for NFL other names."""
    return [*member.episode.named(member.episode.base), *_others(member)]


def _others(member: Member) -> list[str]:
    method, episode = member.method, member.episode
    if not isinstance(method, NFL):
        return []
    if method.nfl_names == "transductive" and episode.new:
        return episode.named(episode.new)
    return list(episode.others[: method.nfl_count])


class Population:
    """Members of one structure, trained in step.

    Args:
        limit: bytes that this process may take in all; None: a share of what is free.
        project: whether SubPT projects; its probe runs without.
    """

    def __init__(
        self, backbone: Backbone, members: Sequence[Member], *, limit: int | None = None, project: bool = True
    ) -> None:
        self.backbone = backbone
        self.members = list(members)
        self.limit = limit
        self.method = members[0].method
        self.rule = rules.RULES[self.method.rule]
        self.generators = [torch.Generator().manual_seed(_stream(m.episode.seed)) for m in members]
        classes = len(members[0].episode.base.classes)
        starts = [
            initial_parameters(backbone, m.method, classes, g) for m, g in zip(members, self.generators, strict=True)
        ]
        self.parameters = torch.stack(starts).to(backbone.tower.device)
        self.velocity = torch.zeros_like(self.parameters)
        self.carried: Tensor | None = None  # what the rule hands to its next step
        self.basis: Tensor | None = None  # [P, r, K], of SubPT's subspace
        self.project = project and isinstance(self.method, SubPT)
        self.alive = torch.ones(len(members), dtype=torch.bool, device=backbone.tower.device)
        self.epochs = [0] * len(members)  # that each member has trained
        self.knobs = {knob: _vector(members, knob, backbone.tower.device) for knob in _KNOBS}
        self.labels = torch.stack([m.episode.labels for m in members]).to(backbone.tower.device)
        self.objective = _objective(backbone, self.members)
        self._lay_out()

    def _lay_out(self) -> None:
        """Prompts and pieces of the present members; anew whenever some have left."""
        names = [_prompted(member) for member in self.members]
        pieces = self._pieces(names)
        every = prompts(self.backbone, self.method, names, pieces)
        size = pieces.members or max(len(names), 1)
        slices = [slice(start, start + size) for start in range(0, len(names), size)]
        self.parts = [_Part(part, every.part(part), self.objective.part(part)) for part in slices]
        self.scored = self._scored_prompts()

    def _scored_prompts(self) -> Prompts | None:
        """The prompts that are measured, where they are the same for every image."""
        if isinstance(self.method, CoCoOp):
            return None
        if self.method.class_specific:
            return prompts(self.backbone, self.method, [m.episode.named(m.episode.base) for m in self.members])
        return prompts(self.backbone, self.method, [self.members[0].episode.names], Pieces(classes=SCORED_NAMES))

    def _pieces(self, names: Sequence[Sequence[str]]) -> Pieces:
        tower, images = self.backbone.tower, min(self.method.batch_size, self.labels.shape[1])
        load = memory.Load(
            tower,
            members=len(names),
            shared=1 + self.method.n_ctx,
            suffix_tokens=max(suffix_tokens(self.backbone, self.method, one) for one in names),
            classes=len(names[0]),
            images=images if isinstance(self.method, CoCoOp) else None,
        )
        pieces = load.pieces(memory.budget(self.limit, tower.device))
        self.bytes = load.bytes(pieces)
        return pieces

    def train_epoch(self) -> list[dict[str, float]]:
        """One epoch of all members; per member the epoch's mean loss, mean cosine and branch shares."""
        if self.project and self.basis is None:
            self.basis = _probe(self.backbone, self.members, self.limit)
        device = self.parameters.device
        self.epochs = [epoch + 1 for epoch in self.epochs]
        order = torch.stack([torch.randperm(self.labels.shape[1], generator=g) for g in self.generators]).to(device)
        # Members that share a draw share its views: one stack per epoch, no copy per step. The cache keeps float16.
        at = list(zip(self.members, self.epochs, strict=True))
        views = torch.stack([m.episode.views[(epoch - 1) % len(m.episode.views)] for m, epoch in at])
        views = views.to(device).float()
        rates = [_rate(member.method, epoch) for member, epoch in at]
        rate = torch.tensor(rates, device=device)
        shares = [one / member.method.lr for one, member in zip(rates, self.members, strict=True)]
        self.knobs["rate_share"] = torch.tensor(shares, device=device)
        sums = _Sums(len(self.members), device)
        for chosen in batches(order, self.method.batch_size):
            images = views.gather(1, chosen[:, :, None].expand(-1, -1, views.shape[2]))
            self._step(images, self.labels.gather(1, chosen), rate, sums)
        return sums.means()

    def _step(self, images: Tensor, labels: Tensor, rate: Tensor, sums: _Sums) -> None:
        """One optimiser step: SGD with momentum; weight decay is added after the rule has chosen."""
        like = self.parameters
        update = self.rule(lambda at: self.gradients(at, images, labels), like, self.knobs, self.carried)
        finite = torch.isfinite(update.loss) & rules.is_finite(update.gradient)
        if update.branch is not None:
            finite &= update.branch != rules.NOT_FINITE
        decayed = update.gradient + rules.along(self.knobs["weight_decay"], like) * like
        velocity = rules.along(self.knobs["momentum"], like) * self.velocity + decayed
        moved = like - rules.along(rate, like) * velocity
        # A member with a number that is not finite keeps its last good state; the others go on untouched.
        self.alive &= finite & rules.is_finite(moved)
        keep = rules.along(self.alive, like)
        self.velocity = torch.where(keep, velocity, self.velocity)
        self.parameters = torch.where(keep, moved, like)
        if update.memory is not None:
            former = torch.zeros_like(like) if self.carried is None else self.carried
            self.carried = torch.where(keep, update.memory, former)
        sums.add(update)

    def gradients(self, parameters: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [P] and its gradient [P, ...] at `parameters`, on images [P, B, E] with labels [P, B].

        What a method makes of its gradient before any rule sees it belongs to it: ProGrad's alignment with
        the teacher, SubPT's projection on its subspace.
        """
        done = [self._gradients(part, parameters, images, labels) for part in self.parts]
        loss, gradient = (torch.cat(pieces) if len(done) > 1 else pieces[0] for pieces in zip(*done, strict=True))
        if self.basis is not None:
            gradient = project(gradient, self.basis)
        return loss, gradient

    def _gradients(self, part: _Part, parameters: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        members = part.members
        with torch.enable_grad():
            at = parameters[members].detach().requires_grad_()
            text = part.prompts.features(at, images[members])
            losses = part.objective(text, images[members], labels[members])
            (gradient,) = torch.autograd.grad(losses.total.sum(), at, retain_graph=losses.teacher is not None)
            if losses.teacher is not None:
                (teacher,) = torch.autograd.grad(losses.teacher.sum(), at)
                gradient = rules.align_with_teacher(gradient, teacher, self.knobs["prograd_lambda"][members])
        return losses.total.detach(), gradient

    @torch.inference_mode()
    def evaluate(self) -> list[dict[str, float]]:
        """Accuracy of each member on the sides of its episode; on its own classes alone with class-specific vectors."""
        if self.scored is None:
            return [self._score_by_image(m, p) for m, p in zip(self.members, self.parameters, strict=True)]
        parts = [self.scored.part(part.members).features(self.parameters[part.members]) for part in self.parts]
        return [self._score(member, text) for member, text in zip(self.members, torch.cat(parts).cpu(), strict=True)]

    def _score(self, member: Member, text: Tensor) -> dict[str, float]:
        if not self.method.class_specific:
            return score(member.episode, text)
        base = member.episode.base
        return metrics_of(member.episode, Score.of(base.features, text, base.labels))

    def _score_by_image(self, member: Member, parameters: Tensor) -> dict[str, float]:
        """The same where every image has text features of its own: some hundred images at a time."""
        scores = []
        for half in member.episode.sides:
            table = prompts(self.backbone, self.method, [member.episode.named(half)])
            size = max(1, IMAGE_TOKENS // table.suffixes[0].tokens)
            parts = []
            for images, labels in zip(half.features.split(size), half.labels.split(size), strict=True):
                text = table.features(parameters[None], images[None].to(parameters.device))[0].cpu()
                parts.append((len(labels), Score.of(images, text, labels)))
            scores.append(Score.pooled(parts))
        return metrics_of(member.episode, *scores)

    def keep(self, positions: Sequence[int]) -> None:
        """Shrink to the members at `positions`."""
        index = torch.tensor(positions, dtype=torch.long, device=self.parameters.device)
        self.members = [self.members[p] for p in positions]
        self.generators = [self.generators[p] for p in positions]
        self.epochs = [self.epochs[p] for p in positions]
        for name in ("parameters", "velocity", "carried", "basis", "alive", "labels"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor[index])
        self.knobs = {knob: vector[index] for knob, vector in self.knobs.items()}
        self.objective = self.objective.part(index)
        if positions:
            self._lay_out()

    def state(self) -> dict[str, Tensor]:
        """All that the next epoch depends on beside the members, [P, ...]: what a checkpoint keeps.

        Members are independent: a row of each tensor is all there is of one of them, and the rows of members
        that left and of members that stayed may be put together again as they please.
        """
        tensors = {name: getattr(self, name) for name in _STATE}
        kept = {name: tensor.cpu().clone() for name, tensor in tensors.items() if tensor is not None}
        return kept | {
            "epochs": torch.tensor(self.epochs),
            "generators": torch.stack([generator.get_state() for generator in self.generators]),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the `state` of a population of the same members."""
        for name in _STATE:
            setattr(self, name, state[name].to(self.parameters.device) if name in state else None)
        self.epochs = state["epochs"].tolist()
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.clone())  # torch reads it as a struct: it must lie aligned


@dataclass(frozen=True)
class _Part:
    """Some of the members, with their prompts and their objective."""

    members: slice
    prompts: Prompts
    objective: Objective


def _objective(backbone: Backbone, members: Sequence[Member]) -> Objective:
    """The loss of the members, with the zero-shot features that its terms refer to."""
    method, device = members[0].method, backbone.tower.device

    def zero_shot(names: Sequence[Sequence[str]], *, ensemble: bool) -> Tensor:
        template = members[0].episode.template
        known = list(dict.fromkeys(name for one in names for name in one))
        table = template_features(backbone, template, known, ensemble=ensemble)
        place = {name: index for index, name in enumerate(known)}
        return torch.stack([table[[place[name] for name in one]] for one in names])

    bases = [member.episode.named(member.episode.base) for member in members]
    objective = Objective(backbone.tower.logit_scale, classes=len(bases[0]))
    if isinstance(method, KgCoOp):
        guidance = Anchored(_vector(members, "kg_lambda", device), zero_shot(bases, ensemble=False))
        objective = replace(objective, guidance=guidance)
    if isinstance(method, ProGrad):
        teacher = Teacher(_vector(members, "temperature", device), zero_shot(bases, ensemble=False), objective.scale)
        objective = replace(objective, teacher=teacher)
    if isinstance(method, NFL):
        names = [_others(member) for member in members]
        novel = Anchored(_vector(members, "nfl_lambda", device), zero_shot(names, ensemble=True))
        objective = replace(objective, novel=novel)
    return objective


def _probe(backbone: Backbone, members: Sequence[Member], limit: int | None) -> Tensor:
    """SubPT's subspace of each member [P, r, K], from an earlier run of the same members without it.

    The probe starts from the same parameters and sees the same batches. Of members of smaller rank the last
    rows are zero, which project on nothing.
    """
    methods = [cast(SubPT, member.method) for member in members]
    population = Population(backbone, members, limit=limit, project=False)
    trajectory = []
    for _ in range(max(method.probe_epochs for method in methods)):
        population.train_epoch()
        trajectory.append(population.parameters.flatten(1))
    basis = torch.zeros(
        len(members), max(m.rank for m in methods), trajectory[0].shape[1], device=population.parameters.device
    )
    for index, method in enumerate(methods):
        path = torch.stack([parameters[index] for parameters in trajectory[: method.probe_epochs]])
        directions = principal_directions(path, method.rank)
        basis[index, : len(directions)] = directions
    return basis


class _Sums:
    """Sums over an epoch's steps, kept on the device: nothing is read back before the epoch is over."""

    def __init__(self, members: int, device: torch.device) -> None:
        self.steps = 0
        self.loss = torch.zeros(members, device=device)
        self.cosine: Tensor | None = None
        self.taken: Tensor | None = None  # [P, 3]

    def add(self, update: rules.Update) -> None:
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


_KNOBS = (
    "momentum",
    "weight_decay",
    "prograd_lambda",
    *("rho", "rho_min", "beta1", "beta2", "alpha", "eta", "sigma", "decay"),
)
"""Hyper-parameters that are vectors over members; 0 where a method lacks one, which nothing reads."""

_STATE = ("parameters", "velocity", "carried", "basis", "alive")
_SHARES = ("share_plain", "share_projected", "share_perturbed")


def _number(method: Trained, knob: str) -> float:
    """A knob as a number: beta1 "off" is 0, which removes the plain branch; no rho_min is a constant radius."""
    value = getattr(method, knob, 0.0)
    if value is None:
        value = getattr(method, "rho", 0.0)
    return 0.0 if value == "off" else float(value)


def _vector(members: Sequence[Member], knob: str, device: torch.device) -> Tensor:
    """A knob of all members, [P]."""
    return torch.tensor([_number(m.method, knob) for m in members], dtype=torch.float32, device=device)


def _rate(method: Trained, epoch: int) -> float:
    squared = isinstance(method, KgCoOp) and method.kgcoop_lr == "squared"
    return learning_rate(method.lr, epoch, method.epochs, squared=squared)


def _stream(seed: int) -> int:
    """The seed of a member's own generator, apart from those of the draw and of the views."""
    return 1_000_003 * (seed + 1)
