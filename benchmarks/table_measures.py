"""What `table.py` measures of a prompt: all that an objective may look at, and what it is judged by.

Shapes: M prompts, K names of all kinds, C names of one kind, N images, E embedding size.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gcsearch.data import datasets
from gcsearch.data.features import FeatureRequest
from gcsearch.methods.prompts import Context, prompts, template_features
from gcsearch.stats import harmonic_mean
from gcsearch.training import loading, task_data
from gcsearch.training.episodes import Episode, Half
from gcsearch.training.task_data import Laboratory

OTHERS = 24
"""Names that are no class of the data set, beside which images may have to be told."""

FEW = 4
"""Validation images per class of the published protocol, which the columns `val_few_` are measured on."""

RADII = (0.1, 0.5)
"""Lengths of the perturbations that flatness is measured by."""

BINS = 15
AT_ONCE = 32
"""Prompts that go through the text tower together."""

BRIEF = ("acc", "ll")
"""What is kept of the images of other data sets."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Told:
    """Images that are told among some of the names."""

    features: Tensor  # [N, E]
    labels: Tensor  # [N], positions in `names`
    names: Tensor  # [C], positions in all names

    def cosines(self, text: Tensor) -> Tensor:
        """[M, N, C], of text features [M, K, E]."""
        return torch.einsum("ne,mce->mnc", self.features, text[:, self.names])

    def scores(self, text: Tensor, scale: float) -> dict[str, Tensor]:
        """Each [M]: accuracy in %, margin (`stats.lost_margin`), mean log-likelihood, calibration error in %."""
        cosine = self.cosines(text)
        own = self.labels[None, :, None].expand(len(cosine), -1, 1)
        margin = cosine.gather(2, own)[..., 0] - cosine.scatter(2, own, float("-inf")).amax(2)
        likelihood = (scale * cosine).log_softmax(2)
        right = cosine.argmax(2) == self.labels
        return {
            "acc": 100 * right.double().mean(1),
            "margin": 1000 * margin.clamp(max=0).double().mean(1),
            "ll": likelihood.gather(2, own)[..., 0].double().mean(1),
            "ece": 100 * calibration_error(likelihood.amax(2).exp(), right),
        }


def calibration_error(sure: Tensor, right: Tensor) -> Tensor:
    """[M]: the gap between how sure and how often right [M, N], over bins of equal width, weighted by their images."""
    bins = (sure * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(len(sure), BINS, dtype=torch.float64)
    return gaps.scatter_add_(1, bins, right.double() - sure.double()).abs().sum(1) / sure.shape[1]


@dataclass(frozen=True)
class Snapshot:
    """One configuration with one seed after one epoch."""

    number: int
    seed: int
    epoch: int
    parameters: Tensor


class Measures:
    """A task's images and names, against which prompts are measured.

    Args:
        context: the kind of prompt.
        seeds: a search's, then as many of its confirmation.
        others: data sets that prompts are carried to, without the classes that bear a name of this one.
    """

    def __init__(self, lab: Laboratory, context: Context, seeds: Sequence[int], others: Sequence[str]) -> None:
        self.lab, self.context, self.seeds = lab, context, tuple(seeds)
        self.scale = lab.backbone.tower.logit_scale
        self.costs: dict[str, float] = defaultdict(float)
        self.names: dict[str, int] = {}
        self.test = lab.episodes("test", seeds)
        val = self._search("all")[0]
        self.base = val.named(val.base)
        self.kinds = {
            "val_base": self._told(val.base, self.base),
            "val_beside": self._told(val.base, [*self.base, *val.others[:OTHERS]]),
            "test_base": self._told(self.test[0].base, self.base),
        }
        if new := self.test[0].new:
            self.kinds["test_new"] = self._told(new, self.test[0].named(new))
        self.kinds |= {f"transfer_{at}": self._carried(name) for at, name in enumerate(others, start=1)}
        self.few = [self._told(episode.base, self.base) for episode in self._search(FEW)]
        self.zero_shot = template_features(lab.backbone, lab.task.template, list(self.names))

    def _search(self, shots: int | Literal["all"]) -> list[Episode]:
        task = self.lab.task.model_copy(update={"val_shots": shots})
        return loading.laboratory(task).episodes("search", self.seeds)

    def _told(self, half: Half, names: Sequence[str]) -> Told:
        return Told(half.features, half.labels, self._positions(names))

    def _positions(self, names: Sequence[str]) -> Tensor:
        return torch.tensor([self.names.setdefault(name, len(self.names)) for name in names])

    def _carried(self, name: str) -> Told:
        """The validation images of all classes of another data set but those whose names this one has."""
        task_data.data_root(self.lab.task.model_copy(update={"dataset": name}))
        dataset = datasets.load(name, task_data.data_root(self.lab.task))
        (features,) = self.lab.cache.get([FeatureRequest(dataset, dataset.val)])
        kept = [label for label, one in enumerate(dataset.classes) if one not in self.lab.dataset.classes]
        chosen = [at for at, item in enumerate(dataset.val) if item.label in kept]
        labels = torch.tensor([kept.index(dataset.val[at].label) for at in chosen])
        return Told(features[0][chosen].float(), labels, self._positions([dataset.classes[label] for label in kept]))

    # --- Measuring

    def of_zero_shot(self) -> Numbers:
        """The template's own numbers; `val_few_` of the first seed."""
        (row,), _ = self._of_text(0, self.zero_shot[None])
        return row

    def of(self, snapshots: Sequence[Snapshot]) -> list[Numbers]:
        """The numbers of each, in order."""
        rows: list[Numbers] = [{} for _ in snapshots]
        told: list[Tensor] = [torch.empty(0) for _ in snapshots]
        for seed in self.seeds:
            mine = [at for at, one in enumerate(snapshots) if one.seed == seed]
            for start in range(0, len(mine), AT_ONCE):
                chunk = mine[start : start + AT_ONCE]
                parameters = torch.stack([snapshots[at].parameters for at in chunk])
                for at, row, classes in zip(chunk, *self._of_seed(self.seeds.index(seed), parameters), strict=True):
                    rows[at], told[at] = row, classes
        for at, agreement in enumerate(self._agreement(snapshots, told)):
            rows[at]["val_agreement"] = agreement
        costs = {f"cost_{kind}": seconds / len(snapshots) for kind, seconds in self.costs.items()} if snapshots else {}
        return [row | costs for row in rows]

    def _of_seed(self, at: int, parameters: Tensor) -> tuple[list[Numbers], Tensor]:
        with self._timed("text"), torch.inference_mode():
            names = [list(self.names)]
            text = prompts(self.lab.backbone, self.context, names).features(parameters)
        rows, told = self._of_text(at, text)
        with self._timed("flatness"):
            flat = self._flatness(at, parameters)
        return [row | {key: float(value[m]) for key, value in flat.items()} for m, row in enumerate(rows)], told

    @torch.inference_mode()
    def _of_text(self, at: int, text: Tensor) -> tuple[list[Numbers], Tensor]:
        """The numbers of text features [M, K, E] for the seed at `at`, and as what validation images are told."""
        found: dict[str, Tensor] = {}
        for kind, one in (*self.kinds.items(), ("val_few", self.few[at])):
            with self._timed(kind.rstrip("_0123456789")):
                scores = one.scores(text, self.scale)
            found |= {f"{kind}_{key}": scores[key] for key in (BRIEF if kind.startswith("transfer") else scores)}
        own = self.kinds["val_base"]
        found["drift"] = 1 - (text[:, own.names] * self.zero_shot[own.names]).sum(2).mean(1)
        rows = [{key: float(value[m]) for key, value in found.items()} for m in range(len(text))]
        for row in rows:
            row["test_h"] = harmonic_mean(row["test_base_acc"], row.get("test_new_acc", nan))
        return rows, own.cosines(text).argmax(2)

    def _flatness(self, at: int, parameters: Tensor) -> dict[str, Tensor]:
        """Cross-entropy on the seed's training images, and what it gains where the prompt goes uphill by a radius."""
        episode = self.test[at]
        images, labels = episode.views[0].float(), episode.labels
        table = prompts(self.lab.backbone, self.context, [self.base])

        def loss(where: Tensor) -> Tensor:
            logits = self.scale * torch.einsum("ne,mce->mcn", images, table.features(where))
            return F.cross_entropy(logits, labels.expand(len(where), -1), reduction="none").mean(1)

        start = parameters.detach().clone().requires_grad_()
        here = loss(start)
        (gradient,) = torch.autograd.grad(here.sum(), start)
        norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
        with torch.inference_mode():
            uphill = {f"flatness_{r:g}": loss(parameters + r * gradient / norm) - here.detach() for r in RADII}
        return {"train_ce": here.detach(), "train_gradient": norm.flatten(), **uphill}

    def _agreement(self, snapshots: Sequence[Snapshot], told: Sequence[Tensor]) -> Iterator[float]:
        """For each the share in % of validation images that another seed of its half tells as it does; the mean."""
        half = max(len(self.seeds) // 2, 1)
        groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for at, one in enumerate(snapshots):
            groups[one.number, one.epoch, self.seeds.index(one.seed) // half].append(at)
        for at, one in enumerate(snapshots):
            group = groups[one.number, one.epoch, self.seeds.index(one.seed) // half]
            same = [float((told[at] == told[other]).double().mean()) for other in group if other != at]
            yield 100 * sum(same) / len(same) if same else nan

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.costs[kind] += time.process_time() - began
