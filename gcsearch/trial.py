"""One pack of trials: data in, epoch reports and records out. Knows neither Ray nor MLflow."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from gcsearch import datasets
from gcsearch.backbone import Backbone
from gcsearch.datasets import Dataset, Item, Progress
from gcsearch.features import FeatureCache
from gcsearch.methods import Method, Trained, build
from gcsearch.prompts import suffix, template_features
from gcsearch.schema import EpochReport, Outcome, Proposal, Stage, Task, TrialRecord
from gcsearch.training import Episode, Half, Measured, Member, score, train

OnReports = Callable[[list[EpochReport]], None]


@dataclass(frozen=True)
class Laboratory:
    """A task with its frozen model and data, ready to make episodes."""

    task: Task
    backbone: Backbone
    dataset: Dataset
    cache: FeatureCache = field(repr=False)

    @cached_property
    def halves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Base and new labels of the data set."""
        return datasets.halves(self.dataset)

    def episodes(self, stage: Stage, seeds: Sequence[int], progress: Progress | None = None) -> list[Episode]:
        """One episode per seed. The stage `search` reads no test image and no image of a new class."""
        make = self._search_episode if stage == "search" else self._test_episode
        return [make(index, seed, progress) for index, seed in enumerate(seeds)]

    def _search_episode(self, index: int, seed: int, progress: Progress | None) -> Episode:
        base, _ = self.halves
        trained, held = datasets.hold_out(base, index, self.task.folds)
        train_items, val_items = self._draw(seed)
        views, labels = self._views(train_items, trained, base, seed, progress)
        scored = self._fixed(val_items, base, progress)
        return Episode(
            seed=seed,
            stage="search",
            names=tuple(self.dataset.classes[label] for label in base),
            views=views,
            labels=labels,
            base=scored.half(trained, base),
            new=scored.half(held, base),
        )

    def _test_episode(self, index: int, seed: int, progress: Progress | None) -> Episode:
        base, new = self.halves
        train_items, _ = self._draw(seed)
        views, labels = self._views(train_items, base, base, seed, progress)
        every = (*base, *new)
        scored = self._fixed(self.dataset.test, every, progress)
        return Episode(
            seed=seed,
            stage="test",
            names=tuple(self.dataset.classes[label] for label in every),
            views=views,
            labels=labels,
            base=scored.half(base, every),
            new=scored.half(new, every),
        )

    def _draw(self, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """The few-shot draw of a seed: from all classes, first train, then val, with one generator."""
        generator = random.Random(seed)
        shots = datasets.few_shot(self.dataset.train, self.task.shots, generator)
        val_shots = None if self.task.val_shots == "all" else self.task.val_shots
        return shots, datasets.few_shot(self.dataset.val, val_shots, generator)

    def _views(
        self,
        items: Sequence[Item],
        trained: Sequence[int],
        encoded: Sequence[int],
        seed: int,
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor]:
        """Views [V, N, E] and labels [N] of the `trained` classes' images.

        All `encoded` classes go into one cache entry, so that both stages share it.
        """
        kept = [items[i] for i in datasets.of_labels(items, encoded)]
        views = self.cache.views(self.dataset, kept, seed=seed, count=self.task.views, progress=progress)
        positions = datasets.of_labels(kept, trained)
        labels = torch.tensor([trained.index(kept[p].label) for p in positions])
        return (views if len(positions) == len(kept) else views[:, positions]), labels

    def _fixed(self, items: Sequence[Item], labels: Sequence[int], progress: Progress | None) -> _Scored:
        kept = [items[i] for i in datasets.of_labels(items, labels)]
        return _Scored(kept, self.cache.fixed(self.dataset, kept, progress))


@dataclass(frozen=True)
class _Scored:
    """Images under the fixed transform, with their features [N, E]."""

    items: Sequence[Item]
    features: Tensor

    def half(self, side: Sequence[int], every: Sequence[int]) -> Half:
        """Those of the classes `side`; `every` is the order of the episode's name table."""
        positions = datasets.of_labels(self.items, side)
        return Half(
            classes=torch.tensor([every.index(label) for label in side]),
            features=self.features[positions],
            labels=torch.tensor([side.index(self.items[p].label) for p in positions]),
        )


@dataclass(frozen=True)
class Trial:
    """What one setting came to: its record, and per seed the context vectors [n, D] (none for zero-shot)."""

    record: TrialRecord
    contexts: tuple[Tensor, ...] = ()


def run_pack(
    laboratory: Laboratory,
    episodes: Sequence[Episode],
    proposals: Sequence[Proposal],
    *,
    evaluate_every: int = 1,
    on_reports: OnReports = lambda reports: None,
    worker: str = "",
) -> list[Trial]:
    """Train every proposed setting on every episode, all at once, and measure it.

    Args:
        episodes: one per seed, of one stage.
        evaluate_every: epochs between two measurements; the last epoch is always measured.
        on_reports: called with the settings measured at an epoch, as soon as all their seeds are.
        worker: noted in the records.
    """
    began = time.monotonic()
    methods = [build(proposal.config) for proposal in proposals]
    names = suffix(laboratory.backbone, episodes[0].names)
    ledger = _Ledger(proposals, len(episodes), on_reports)
    members, owners = [], []
    for index, method in enumerate(methods):
        if isinstance(method, Trained):
            members += [Member(method, episode) for episode in episodes]
            owners += [(index, seed) for seed in range(len(episodes))]
    contexts = train(
        laboratory.backbone,
        names,
        members,
        evaluate_every,
        lambda measured: ledger.enter({owners[position]: one for position, one in measured.items()}),
    )
    ledger.enter(_untrained(laboratory, methods, episodes))
    seconds = time.monotonic() - began
    own = {index: tuple(c for c, (i, _) in zip(contexts, owners, strict=True) if i == index) for index, _ in owners}
    return [
        Trial(ledger.record(index, episodes, seconds, worker), own.get(index, ())) for index in range(len(proposals))
    ]


def _untrained(
    laboratory: Laboratory, methods: Sequence[Method], episodes: Sequence[Episode]
) -> dict[tuple[int, int], Measured]:
    """Zero-shot numbers of the methods that do not train, at epoch 0."""
    text = template_features(laboratory.backbone, laboratory.task.template, episodes[0].names)
    return {
        (index, seed): Measured(0, score(episode, text), diverged=False)
        for index, method in enumerate(methods)
        if not isinstance(method, Trained)
        for seed, episode in enumerate(episodes)
    }


class _Ledger:
    """Gathers the seeds' numbers into one report per setting and epoch, and reports into records."""

    def __init__(self, proposals: Sequence[Proposal], seeds: int, on_reports: OnReports) -> None:
        self.proposals = proposals
        self.seeds = seeds
        self.on_reports = on_reports
        self.open: dict[tuple[int, int], dict[int, Measured]] = {}
        self.curves: list[list[EpochReport]] = [[] for _ in proposals]
        self.broken: list[dict[int, int]] = [{} for _ in proposals]

    def enter(self, measured: Mapping[tuple[int, int], Measured]) -> None:
        """Note members by (setting, seed); report the settings whose seeds are now all measured."""
        complete = []
        for (index, seed), one in measured.items():
            if one.diverged:
                self.broken[index][seed] = one.epoch
                continue
            seeds = self.open.setdefault((index, one.epoch), {})
            seeds[seed] = one
            if len(seeds) == self.seeds:
                complete.append(self._report(index, one.epoch, self.open.pop((index, one.epoch))))
        if complete:
            self.on_reports(complete)

    def _report(self, index: int, epoch: int, seeds: Mapping[int, Measured]) -> EpochReport:
        metrics = {name: tuple(seeds[seed].metrics[name] for seed in range(self.seeds)) for name in seeds[0].metrics}
        report = EpochReport(number=self.proposals[index].number, epoch=epoch, metrics=metrics)
        self.curves[index].append(report)
        return report

    def record(self, index: int, episodes: Sequence[Episode], seconds: float, worker: str) -> TrialRecord:
        """The setting's record: diverged if any seed did, else complete."""
        curve, broken = tuple(self.curves[index]), self.broken[index]
        reason = "; ".join(
            f"seed {episodes[seed].seed}: a loss or gradient was not finite in epoch {epoch}"
            for seed, epoch in sorted(broken.items())
        )
        return TrialRecord(
            number=self.proposals[index].number,
            config=self.proposals[index].config,
            stage=episodes[0].stage,
            outcome=Outcome.DIVERGED if broken else Outcome.COMPLETE,
            reason=reason,
            seeds=tuple(episode.seed for episode in episodes),
            epochs=curve[-1].epoch if curve else 0,
            metrics=curve[-1].metrics if curve else {},
            curve=curve,
            seconds=seconds,
            worker=worker,
        )
