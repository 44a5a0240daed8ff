"""A population: prompts that train in step, each as if it were alone.

A *member* is one configuration with one seed.  Members that share their structure (method, batch and tensor
sizes) train together: their parameters form one tensor, their learning rates, radii and bounds are vectors
over members, their losses are summed, so that one backward pass gives each its own gradient.  Nothing
couples them: a member's numbers are the same alone and in a crowd, up to rounding.

Shapes: P members, parameters [P, ...] as in `gcsearch.methods.prompts`, N training images of a member, B batch,
C trained classes, V views, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gcsearch.clip.model import Backbone
from gcsearch.methods import rules
from gcsearch.methods.base import Names
from gcsearch.methods.losses import TrainingLoss, training_loss
from gcsearch.methods.prompts import Pieces, Prompts, prompts, suffix_tokens
from gcsearch.methods.registry import Method
from gcsearch.stats import Score
from gcsearch.training import memory
from gcsearch.training.episodes import Episode, Evaluation, score

IMAGE_TOKENS = 20_000
"""Token positions that go through the text tower at once when image-conditioned prompts are measured."""

SCORED_NAMES = 1000
"""Class names that go through the text tower at once when prompts are measured: those of many targets are more."""


@dataclass(frozen=True)
class Member:
    """One configuration with one seed."""

    method: Method
    episode: Episode


def batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Split [P, N] into batches [P, B]; the last partial one is dropped, unless it is the only one."""
    count = order.shape[1]
    for step in range(max(1, count // batch_size)):
        yield order[:, step * batch_size : (step + 1) * batch_size]


def structure(member: Member) -> tuple[object, ...]:
    """What must be equal for two members to train in one population."""
    method, episode = member.method, member.episode
    return (
        method.name,
        method.prompt.structure,
        method.schedule.batch_size,
        tuple(episode.views.shape),
        len(_prompted(member)),
        episode.names,
        episode.template,  # what guides or starts a prompt is made from it, once for all members
    )


def _names(episode: Episode) -> Names:
    return Names(episode.named(episode.base), episode.named(episode.new) if episode.new else [], episode.others)


def _prompted(member: Member) -> list[str]:
    """The names that a member's loss has text features of: trained classes, and for NFL other names."""
    names = _names(member.episode)
    return [*names.trained, *member.method.other_names(names)]


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
        self.generators = [torch.Generator().manual_seed(_stream(m.episode.seed)) for m in members]
        classes = len(members[0].episode.base.classes)
        starts = [m.method.prompt.start(backbone, classes, g) for m, g in zip(members, self.generators, strict=True)]
        self.parameters = torch.stack(starts).to(backbone.tower.device)
        self.velocity = torch.zeros_like(self.parameters)
        self.carried: Tensor | None = None  # what the rule hands to its next step
        self.basis: Tensor | None = None  # [P, r, K], of SubPT's subspace
        self.projection = self.method.projection if project else None
        self.alive = torch.ones(len(members), dtype=torch.bool, device=backbone.tower.device)
        self.epochs = [0] * len(members)  # that each member has trained
        numbers = [member.method.numbers for member in members]
        self.numbers = {
            name: torch.tensor([one[name] for one in numbers], dtype=torch.float32, device=backbone.tower.device)
            for name in numbers[0]
        }
        self.labels = torch.stack([m.episode.labels for m in members]).to(backbone.tower.device)
        names = [_names(member.episode) for member in members]
        methods = [member.method for member in members]
        self.loss = training_loss(
            backbone,
            [method.losses for method in methods],
            methods[0].teacher,
            members[0].episode.template,
            names,
            dict(self.numbers),
        )
        self._lay_out()

    def _lay_out(self) -> None:
        """Prompts and pieces of the present members; anew whenever some have left."""
        names = [_prompted(member) for member in self.members]
        pieces = self._pieces(names)
        every = prompts(self.backbone, self.method.prompt, names, pieces)
        size = pieces.members or max(len(names), 1)
        slices = [slice(start, start + size) for start in range(0, len(names), size)]
        self.parts = [_Part(part, every.part(part), self.loss.part(part)) for part in slices]
        self.scored = self._scored_prompts()

    def _scored_prompts(self) -> Prompts | None:
        """The prompts that are measured, where they are the same for every image."""
        if self.method.prompt.per_image:
            return None
        if self.method.prompt.class_specific:
            return prompts(self.backbone, self.method.prompt, [m.episode.named(m.episode.base) for m in self.members])
        return prompts(self.backbone, self.method.prompt, [self.members[0].episode.names], Pieces(classes=SCORED_NAMES))

    def _pieces(self, names: Sequence[Sequence[str]]) -> Pieces:
        tower, prompt = self.backbone.tower, self.method.prompt
        load = memory.Load(
            tower,
            members=len(names),
            shared=1 + prompt.n_ctx,
            suffix_tokens=max(suffix_tokens(self.backbone, prompt, one) for one in names),
            classes=len(names[0]),
            images=min(self.method.schedule.batch_size, self.labels.shape[1]) if prompt.per_image else None,
        )
        pieces = load.pieces(memory.budget(self.limit, tower.device))
        self.bytes = load.bytes(pieces)
        return pieces

    def train_epoch(self) -> list[dict[str, float]]:
        """One epoch of all members; per member the epoch's mean loss, mean cosine and branch shares."""
        if self.projection and self.basis is None:
            self.basis = _probe(self.backbone, self.members, self.limit)
        device = self.parameters.device
        self.epochs = [epoch + 1 for epoch in self.epochs]
        order = torch.stack([torch.randperm(self.labels.shape[1], generator=g) for g in self.generators]).to(device)
        # Members that share a draw share its views: one stack per epoch, no copy per step. The cache keeps float16.
        at = list(zip(self.members, self.epochs, strict=True))
        views = torch.stack([m.episode.views[(epoch - 1) % len(m.episode.views)] for m, epoch in at])
        views = views.to(device).float()
        rates = [member.method.rate(epoch) for member, epoch in at]
        rate = torch.tensor(rates, device=device)
        shares = [one / member.method.schedule.lr for one, member in zip(rates, self.members, strict=True)]
        self.numbers["rate_share"] = torch.tensor(shares, device=device)
        sums = _Sums(len(self.members), device)
        for chosen in batches(order, self.method.schedule.batch_size):
            images = views.gather(1, chosen[:, :, None].expand(-1, -1, views.shape[2]))
            self._step(images, self.labels.gather(1, chosen), rate, sums)
        return sums.means()

    def _step(self, images: Tensor, labels: Tensor, rate: Tensor, sums: _Sums) -> None:
        """One optimiser step: SGD with momentum; weight decay is added after the rule has chosen."""
        like = self.parameters
        step = rules.Step(lambda at: self.gradients(at, images, labels), like, self.numbers, self.carried)
        update = self.method.rule.update(step)
        finite = torch.isfinite(update.loss) & rules.is_finite(update.gradient)
        if update.branch is not None:
            finite &= update.branch != rules.NOT_FINITE
        decayed = update.gradient + rules.along(self.numbers["weight_decay"], like) * like
        velocity = rules.along(self.numbers["momentum"], like) * self.velocity + decayed
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
        if self.projection and self.basis is not None:
            gradient = self.projection.project(gradient, self.basis)
        return loss, gradient

    def _gradients(self, part: _Part, parameters: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        members = part.members
        with torch.enable_grad():
            at = parameters[members].detach().requires_grad_()
            text = part.prompts.features(at, images[members])
            losses = part.loss(text, images[members], labels[members])
            (gradient,) = torch.autograd.grad(losses.total.sum(), at, retain_graph=losses.teacher is not None)
            if losses.teacher is not None and self.method.teacher:
                (teacher,) = torch.autograd.grad(losses.teacher.sum(), at)
                gradient = self.method.teacher.align(gradient, teacher, part.loss.numbers)
        return losses.total.detach(), gradient

    @torch.inference_mode()
    def evaluate(self) -> list[Evaluation]:
        """Accuracy of each member on the sides of its episode; on its own classes alone with class-specific vectors."""
        if self.scored is None:
            return [self._score_by_image(m, p) for m, p in zip(self.members, self.parameters, strict=True)]
        parts = [self.scored.part(part.members).features(self.parameters[part.members]) for part in self.parts]
        return [self._score(member, text) for member, text in zip(self.members, torch.cat(parts).cpu(), strict=True)]

    def _score(self, member: Member, text: Tensor) -> Evaluation:
        episode, scale = member.episode, self.backbone.tower.logit_scale
        if not self.method.prompt.class_specific:
            return score(episode, text, scale)
        base = episode.base
        return Evaluation.of(episode, Score.of(base.features, text, base.labels, episode.calibrated(scale)))

    def _score_by_image(self, member: Member, parameters: Tensor) -> Evaluation:
        """The same where every image has text features of its own: some hundred images at a time."""
        scores, scale = [], member.episode.calibrated(self.backbone.tower.logit_scale)
        for half in member.episode.sides:
            table = prompts(self.backbone, self.method.prompt, [member.episode.named(half)])
            size = max(1, IMAGE_TOKENS // table.suffixes[0].tokens)
            parts = []
            for images, labels in zip(half.features.split(size), half.labels.split(size), strict=True):
                text = table.features(parameters[None], images[None].to(parameters.device))[0].cpu()
                parts.append((len(labels), Score.of(images, text, labels, scale)))
            scores.append(Score.pooled(parts))
        return Evaluation.of(member.episode, *scores)

    def keep(self, positions: Sequence[int]) -> None:
        """Shrink to the members at `positions`."""
        index = torch.tensor(positions, dtype=torch.long, device=self.parameters.device)
        self.members = [self.members[p] for p in positions]
        self.generators = [self.generators[p] for p in positions]
        self.epochs = [self.epochs[p] for p in positions]
        for name in ("parameters", "velocity", "carried", "basis", "alive", "labels"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor[index])
        self.numbers = {name: vector[index] for name, vector in self.numbers.items()}
        self.loss = self.loss.part(index)
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
    """Some of the members, with their prompts and their loss."""

    members: slice
    prompts: Prompts
    loss: TrainingLoss


def _probe(backbone: Backbone, members: Sequence[Member], limit: int | None) -> Tensor:
    """The subspace of each member [P, r, K], from an earlier run of the same members without it.

    The probe starts from the same parameters and sees the same batches. Of members of smaller rank the last
    rows are zero, which project on nothing.
    """
    projections = [member.method.projection for member in members if member.method.projection]
    population = Population(backbone, members, limit=limit, project=False)
    trajectory = []
    for _ in range(max(one.probe_epochs for one in projections)):
        population.train_epoch()
        trajectory.append(population.parameters.flatten(1))
    paths = torch.stack(trajectory, dim=1)  # [P, t, K]
    every = [one.directions(path) for one, path in zip(projections, paths, strict=True)]
    basis = paths.new_zeros(len(members), max(map(len, every)), paths.shape[2])
    for index, directions in enumerate(every):
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


_STATE = ("parameters", "velocity", "carried", "basis", "alive")
_SHARES = ("share_plain", "share_projected", "share_perturbed")


def _stream(seed: int) -> int:
    """The seed of a member's own generator, apart from those of the draw and of the views."""
    return 1_000_003 * (seed + 1)
