"""Running trials: what is run, what is heard of it, and the executor that runs it in this process.

A *batch* is trained at once, in one process.  A *wave* is batches that may run at the same time; the next wave is asked
for when every batch of the one before has ended, so that what comes of a wave decides what the next one is.  A search
(a wave is a generation) and a confirmation (a wave is a stage, a batch one trial) go the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Protocol, get_args

from gcsearch.config.base import Model
from gcsearch.config.metrics import Stage
from gcsearch.config.provenance import process_name
from gcsearch.config.trials import EpochReport, OnReports, Outcome, Proposal, TrialRecord
from gcsearch.errors import unknown_name


class Batch(Model):
    """Trials to train on the data of a stage with these seeds.

    `keep`: what they train is kept, too. `data`: the digest of what must be read, see `sweep.measured`; empty: whatever
    is there.
    """

    bounded: ClassVar[bool] = False

    stage: Stage
    seeds: tuple[int, ...]
    trials: tuple[Proposal, ...]
    keep: bool = False
    data: str = ""


@dataclass(frozen=True)
class BatchStarted:
    """A batch has been handed to a worker. It is said once, also where its worker dies and it starts again."""

    batch: Batch


@dataclass(frozen=True)
class EpochsReported:
    """Running trials have finished epochs."""

    reports: list[EpochReport]


@dataclass(frozen=True)
class TrialsReturned:
    """Trials of a batch have their records: all that a worker returned together.

    They are kept together, too: were a batch parted by the end of this process, what is left of it would train in
    other company, and its numbers would differ in their last digits.
    """

    records: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class BatchEnded:
    """Every trial of a batch has its record."""

    batch: Batch


@dataclass(frozen=True)
class WorkerGone:
    """A worker process (`host:pid@node`; "" where it was not heard of yet), or all of a node (`@node`), is gone."""

    worker: str
    text: str


ExecutorEvent = BatchStarted | EpochsReported | TrialsReturned | BatchEnded | WorkerGone

Evaluate = Callable[[Batch, OnReports], list[TrialRecord]]
"""Trains the trials of a batch and gives one record for each, calling the function it is handed with the numbers of
finished epochs.  It may be pickled once per worker process and lives as long as that: what it loads for one batch may
be kept for the next."""


@dataclass(frozen=True)
class Wave:
    """Batches that may run at the same time.

    `on_event` is called in this process. `stopping` is asked before a batch starts: once it says True none does, and
    what runs comes to its end.
    """

    batches: Sequence[Batch]
    on_event: Callable[[ExecutorEvent], None]
    stopping: Callable[[], bool] = lambda: False


class Executor(Protocol):
    """Where batches run."""

    def run(self, waves: Iterable[Wave], evaluate: Evaluate) -> None:
        """Run every wave, one after another. What `waves` or a function of a wave raises ends it and comes out."""


class LocalExecutor:
    """Runs everything in this process, one batch after another: for notebooks, debuggers and tests.

    An exception in training comes out with its own traceback.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def run(self, waves: Iterable[Wave], evaluate: Evaluate) -> None:
        with _torch_threads(self.threads):
            for wave in waves:
                for batch in wave.batches:
                    if wave.stopping():
                        break
                    wave.on_event(BatchStarted(batch))
                    records = evaluate(batch, partial(_report, wave))
                    wave.on_event(TrialsReturned(tuple(records)))
                    wave.on_event(BatchEnded(batch))


def _report(wave: Wave, reports: list[EpochReport]) -> None:
    wave.on_event(EpochsReported(reports))


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """As many threads as a worker process has: the last digits of numbers depend on them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


ExecutorName = Literal["ray", "local"]
"""`ray`: worker processes on this machine or on a cluster, by Ray Tune. `local`: this process, see `LocalExecutor`."""


def check_executor(name: str) -> None:
    """InputError for a name that no executor has."""
    if name not in get_args(ExecutorName):
        raise unknown_name("executor", name, get_args(ExecutorName), key="executor")


def failed(proposal: Proposal, reason: str, stage: Stage) -> TrialRecord:
    """The record of a trial that came to nothing; its seeds are not known here."""
    return TrialRecord(
        number=proposal.number,
        config=proposal.config,
        stage=stage,
        outcome=Outcome.FAILED,
        reason=reason,
        seeds=(),
        epochs=0,
        worker=process_name(),
    )
