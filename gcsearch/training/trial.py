"""One pack of trials: data in, epoch reports and records out. Knows neither Ray nor MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from gcsearch.config.trials import EpochReport, OnReports, Outcome, Proposal, Rung, TrialRecord
from gcsearch.methods.registry import Method, build
from gcsearch.search import pruning
from gcsearch.stats import Bins, summed
from gcsearch.training.episodes import Episode, score
from gcsearch.training.loop import Checkpoint, Measurement, Rungs, Training, TrainingState
from gcsearch.training.population import Member
from gcsearch.training.task_data import Laboratory


@dataclass(frozen=True)
class Trial:
    """What one configuration came to: its record, and what it trained for each seed (zero-shot trains nothing)."""

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
    checkpoint: Checkpoint | None = None,
) -> list[Trial]:
    """Train every proposed configuration on every episode, all at once, and measure it.

    At the rungs that the configurations carry, the worse part leaves, each configuration with all its seeds: PRUNED.

    Args:
        episodes: one per seed, of one stage.
        evaluate_every: epochs between two measurements; the last epoch is always measured.
        on_reports: called with the configurations measured at an epoch, as soon as all their seeds are.
        worker: noted in the records.
        limit: bytes that this process may take in all; None: a share of what is free.
        checkpoint: kept while the pack trains, and gone on from where there is one. Whoever has the records
            removes it.
    """
    methods = [build(proposal.config) for proposal in proposals]
    ledger = _Ledger(proposals, len(episodes), on_reports)
    members, owners = [], []
    for index, method in enumerate(methods):
        if method.trains:
            members += [Member(method, episode) for episode in episodes]
            owners += [(index, seed) for seed in range(len(episodes))]
    training = Training(
        laboratory.backbone,
        members,
        lambda measured: ledger.enter({owners[position]: one for position, one in measured.items()}),
        evaluate_every=evaluate_every,
        rungs=_rungs(proposals, members, owners, ledger),
        limit=limit,
    )
    if checkpoint is None:
        ended = training.run()
    else:
        notes, start = checkpoint.load() or (None, TrainingState())
        if notes:
            ledger.restore(notes)
        ended = training.run(start, lambda: checkpoint.keep(training, ledger.state))
    ledger.enter(_untrained(laboratory, methods, episodes))
    own = {index: tuple(p for p, (i, _) in zip(ended, owners, strict=True) if i == index) for index, _ in owners}
    seconds = ledger.seconds
    return [
        Trial(ledger.record(index, episodes, seconds, worker), own.get(index, ())) for index in range(len(proposals))
    ]


def _rungs(
    proposals: Sequence[Proposal], members: Sequence[Member], owners: Sequence[tuple[int, int]], ledger: _Ledger
) -> Rungs:
    """The rungs of a pack for its members; each member's owner is its configuration's index and its seed's."""
    rungs = pruning.agreed(proposals)
    epochs = [[pruning.epoch_of(rung, member.method.epochs) for member in members] for rung in rungs]

    def leaving(rung: int) -> list[int]:
        at = {index: epoch for (index, _), epoch in zip(owners, epochs[rung], strict=True)}
        left = ledger.leave(rungs[rung], at)
        return [position for position, (index, _) in enumerate(owners) if index in left]

    return Rungs(epochs, leaving)


def _untrained(
    laboratory: Laboratory, methods: Sequence[Method], episodes: Sequence[Episode]
) -> dict[tuple[int, int], Measurement]:
    """Zero-shot numbers of the methods that do not train, at epoch 0."""
    backbone, template, measured = laboratory.backbone, laboratory.task.template, {}
    for index, method in enumerate(methods):
        if method.template:
            text = method.template.features(backbone, template, episodes[0].names)
            for seed, episode in enumerate(episodes):
                scored = score(episode, text, backbone.tower.logit_scale)
                measured[index, seed] = Measurement(0, scored.metrics, diverged=False, bins=scored.bins)
    return measured


class _Ledger:
    """Gathers the seeds' numbers into one report per configuration and epoch, and reports into records."""

    def __init__(self, proposals: Sequence[Proposal], seeds: int, on_reports: OnReports) -> None:
        self.proposals = proposals
        self.seeds = seeds
        self.on_reports = on_reports
        self.open: dict[tuple[int, int], dict[int, Measurement]] = {}
        self.curves: list[list[EpochReport]] = [[] for _ in proposals]
        self.bins: list[dict[str, Bins]] = [{} for _ in proposals]  # of the last report, over all seeds
        self.broken: list[dict[int, int]] = [{} for _ in proposals]
        self.left: dict[int, str] = {}
        self.began = time.monotonic()
        self.spent = 0.0  # seconds, before this process went on

    @property
    def seconds(self) -> float:
        """Spent on the pack so far."""
        return self.spent + time.monotonic() - self.began

    def enter(self, measured: Mapping[tuple[int, int], Measurement]) -> None:
        """Note members by (configuration, seed); report the configurations whose seeds are now all measured."""
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

    def _report(self, index: int, epoch: int, seeds: Mapping[int, Measurement]) -> EpochReport:
        metrics = {name: tuple(seeds[seed].metrics[name] for seed in range(self.seeds)) for name in seeds[0].metrics}
        report = EpochReport(number=self.proposals[index].number, epoch=epoch, metrics=metrics)
        self.curves[index].append(report)
        self.bins[index] = {side: summed([seeds[seed].bins[side] for seed in seeds]) for side in seeds[0].bins}
        return report

    def leave(self, rung: Rung, epochs: Mapping[int, int]) -> set[int]:
        """The configurations that have left when all have come to a rung, which each does at its own of `epochs`.

        One of whose seeds diverged before never came there, and is gone too.
        """
        values = {
            index: report.mean(rung.metric)
            for index, epoch in epochs.items()
            if index not in self.left
            for report in self.curves[index]
            if report.epoch == epoch
        }
        survives = pruning.survives(rung, values)
        for index in sorted(set(epochs) - survives - set(self.left)):
            among = f"{len(survives)} of {len(values) + len(rung.peers)}"
            value = f"{rung.metric} {values[index]:.2f}" if index in values else "diverged"
            self.left[index] = f"left at epoch {epochs[index]} with {value}: {among} went on"
        return set(self.left)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the numbers so far, as JSON values."""
        waiting = [[index, seed, asdict(one)] for (index, _), seeds in self.open.items() for seed, one in seeds.items()]
        return {
            "curves": [[report.to_dict() for report in curve] for curve in self.curves],
            "bins": self.bins,
            "open": waiting,
            "broken": [list(broken.items()) for broken in self.broken],
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.curves = [[EpochReport.from_dict(report) for report in curve] for curve in state["curves"]]
        self.bins = state.get("bins", self.bins)
        self.broken = [dict(broken) for broken in state["broken"]]
        for index, seed, one in state["open"]:
            self.open.setdefault((index, one["epoch"]), {})[seed] = Measurement(**one)
        if any(self.curves):
            self.on_reports([curve[-1] for curve in self.curves if curve])
        self.spent = float(state["seconds"])

    def record(self, index: int, episodes: Sequence[Episode], seconds: float, worker: str) -> TrialRecord:
        """The configuration's record: diverged if any seed did, pruned if it had to leave early, else complete."""
        curve, broken = tuple(self.curves[index]), self.broken[index]
        reason = "; ".join(
            f"seed {episodes[seed].seed}: a loss or gradient was not finite in epoch {epoch}"
            for seed, epoch in sorted(broken.items())
        )
        epochs = curve[-1].epoch if curve else 0
        # Who had no epoch left when it had to leave has run to its end.
        pruned = index in self.left and epochs < build(self.proposals[index].config).epochs
        outcome = Outcome.DIVERGED if broken else Outcome.PRUNED if pruned else Outcome.COMPLETE
        return TrialRecord(
            number=self.proposals[index].number,
            config=self.proposals[index].config,
            stage=episodes[0].stage,
            outcome=outcome,
            reason=self.left[index] if outcome is Outcome.PRUNED else reason,
            seeds=tuple(episode.seed for episode in episodes),
            epochs=epochs,
            metrics=curve[-1].metrics if curve else {},
            curve=curve,
            reliability=self.bins[index],
            seconds=seconds,
            worker=worker,
        )
