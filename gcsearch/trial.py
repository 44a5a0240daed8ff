"""One pack of trials: data in, epoch reports and records out. Knows neither Ray nor MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gcsearch.episodes import Episode, score
from gcsearch.laboratory import Laboratory
from gcsearch.methods import Method, Trained, ZeroShot, build
from gcsearch.population import Member
from gcsearch.prompts import template_features
from gcsearch.schema import EpochReport, OnReports, Outcome, Proposal, TrialRecord
from gcsearch.training import Measured, train


@dataclass(frozen=True)
class Trial:
    """What one setting came to: its record, and per seed what it trained, see `prompts` (nothing for zero-shot)."""

    record: TrialRecord
    parameters: tuple[Tensor, ...] = ()


def run_pack(
    laboratory: Laboratory,
    episodes: Sequence[Episode],
    proposals: Sequence[Proposal],
    *,
    evaluate_every: int = 1,
    on_reports: OnReports = lambda reports: None,
    worker: str = "",
    limit: int | None = None,
) -> list[Trial]:
    """Train every proposed setting on every episode, all at once, and measure it.

    Args:
        episodes: one per seed, of one stage.
        evaluate_every: epochs between two measurements; the last epoch is always measured.
        on_reports: called with the settings measured at an epoch, as soon as all their seeds are.
        worker: noted in the records.
        limit: bytes that this process may take in all; None: a share of what is free.
    """
    began = time.monotonic()
    methods = [build(proposal.config) for proposal in proposals]
    ledger = _Ledger(proposals, len(episodes), on_reports)
    members, owners = [], []
    for index, method in enumerate(methods):
        if isinstance(method, Trained):
            members += [Member(method, episode) for episode in episodes]
            owners += [(index, seed) for seed in range(len(episodes))]
    ended = train(
        laboratory.backbone,
        members,
        evaluate_every,
        lambda measured: ledger.enter({owners[position]: one for position, one in measured.items()}),
        limit,
    )
    ledger.enter(_untrained(laboratory, methods, episodes))
    seconds = time.monotonic() - began
    own = {index: tuple(p for p, (i, _) in zip(ended, owners, strict=True) if i == index) for index, _ in owners}
    return [
        Trial(ledger.record(index, episodes, seconds, worker), own.get(index, ())) for index in range(len(proposals))
    ]


def _untrained(
    laboratory: Laboratory, methods: Sequence[Method], episodes: Sequence[Episode]
) -> dict[tuple[int, int], Measured]:
    """Zero-shot numbers of the methods that do not train, at epoch 0."""
    backbone, template, measured = laboratory.backbone, laboratory.task.template, {}
    for index, method in enumerate(methods):
        if isinstance(method, ZeroShot):
            text = template_features(backbone, template, episodes[0].names, ensemble=method.ensemble).cpu()
            for seed, episode in enumerate(episodes):
                measured[index, seed] = Measured(0, score(episode, text), diverged=False)
    return measured


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
