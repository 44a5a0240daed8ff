"""A stand-in for training: what the tests of the search share."""

import itertools
import math
import os
import sys
from collections.abc import Callable

import ray

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import load
from gcsearch.config.trials import EpochReport, Outcome, Proposal, TrialRecord
from gcsearch.execution.executor import Batch, Executor, TrialsReturned, Wave
from gcsearch.search import pruning
from gcsearch.search.proposer import Proposer

SPACE = load("gcscoop")
SETTINGS = SearchConfig(objective="val_h", trials=22, pack=3, generation=2, startup=5, seed=1)

# Worker processes do not have this folder on their path: send what is defined here along with the objects.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Bowl:
    """A stand-in objective: a smooth function of the configuration, slightly different for each of two seeds."""

    def __call__(self, proposals: list[Proposal], report: Callable) -> list[TrialRecord]:
        records = []
        for proposal in proposals:
            report([EpochReport(number=proposal.number, epoch=1, metrics={"loss": (1.0, 1.0)})])
            records.append(self.record(proposal))
        return records

    def record(self, proposal: Proposal) -> TrialRecord:
        value = self.value(**proposal.config.hyperparameters)
        return TrialRecord(
            number=proposal.number,
            config=proposal.config,
            stage="search",
            outcome=self.outcome(proposal),
            seeds=(1, 2),
            epochs=proposal.config.hyperparameters["epochs"],
            metrics={"val_h": (value - 1, value + 1)},
            worker=str(os.getpid()),
        )

    def value(self, rho, beta1, beta2, lr, epochs) -> float:
        lower = -0.1 if beta1 == "off" else beta1
        bowl = (math.log10(rho + 0.01) + 1) ** 2 + (math.log10(lr) + 2.5) ** 2 + (lower - 0.3) ** 2
        return 80 - 5 * bowl - (beta2 - 0.7) ** 2 - abs(math.log(epochs / 60))

    def outcome(self, proposal: Proposal) -> Outcome:
        return Outcome.COMPLETE


class Curved(Bowl):
    """Configurations with a curve that rises to their value, at their own pace; who has to leave at a rung leaves."""

    def __call__(self, proposals, report):
        whole = {proposal.number: self.record(proposal) for proposal in proposals}
        left: dict[int, TrialRecord] = {}
        for rung in pruning.agreed(proposals):
            values = {}
            for number, record in whole.items():
                at = pruning.epoch_of(rung, record.epochs)
                value = record.mean("val_h") - 2 * math.sin(7 * record.mean("val_h")) * (1 - rung.share)
                reports = (*record.curve, EpochReport(number=number, epoch=at, metrics={"val_h": (value, value)}))
                whole[number] = record.model_copy(update={"curve": reports})
                values |= {number: value} if number not in left else {}
            for number in values.keys() - pruning.survives(rung, values):
                *_, last = whole[number].curve
                changes = {"outcome": Outcome.PRUNED, "epochs": last.epoch, "metrics": last.metrics}
                left[number] = whole[number].model_copy(update=changes)
        return [left.get(number, record) for number, record in whole.items()]


def drive(proposer: Proposer, evaluate=None, *, backwards=False, on_proposal=lambda proposal, label: None):
    """The records of a search whose packs end in the order that they began in, or backwards."""
    evaluate = evaluate or Bowl()
    while packs := proposer.ask():
        for proposal in itertools.chain(*packs):
            on_proposal(proposal, proposer.label(proposal.number))
        for pack in packs[:: -1 if backwards else 1]:
            for record in evaluate(pack, lambda reports: None):
                proposer.tell(record)
    return proposer.records


def search(settings=SETTINGS, space=SPACE, evaluate=None, known=(), before=(), **options) -> list[TrialRecord]:
    proposer = Proposer(space, settings, before=before)
    proposer.replay(known)
    return drive(proposer, evaluate, **options)


class Trains:
    """What an executor is handed, from what trains the trials of a pack."""

    def __init__(self, evaluate) -> None:
        self.evaluate = evaluate

    def __call__(self, batch: Batch, report: Callable) -> list[TrialRecord]:
        return self.evaluate(list(batch.trials), report)


def wave(packs, on_event=lambda event: None, stopping=lambda: False) -> Wave:
    return Wave([Batch(stage="search", seeds=(1, 2), trials=tuple(pack)) for pack in packs], on_event, stopping)


def run_search(
    executor: Executor, evaluate, settings=SETTINGS, known=(), on_event=lambda event: None, stopping=lambda: False
) -> list[TrialRecord]:
    """A whole search on an executor."""
    proposer = Proposer(SPACE, settings)
    proposer.replay(known)

    def hear(event) -> None:
        if isinstance(event, TrialsReturned):
            for record in event.records:
                proposer.tell(record)
        on_event(event)

    def waves():
        while not stopping() and (packs := proposer.ask()):
            yield wave(packs, hear, stopping)

    executor.run(waves(), Trains(evaluate))
    return proposer.records


def configs(records: list[TrialRecord]) -> list[str]:
    return [record.config.digest for record in records]
