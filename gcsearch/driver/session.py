"""The composition root: one driver's work on a sweep, repaired, searched, confirmed, reported, ended in its journal.

The only module that introduces the stages to one another.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch import files
from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import Pipeline, SearchConfig, bytes_of
from gcsearch.config.provenance import environment
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, Proposal, Role, StudyState, TrialRecord
from gcsearch.driver import exports
from gcsearch.driver.confirm import Confirmation, OnRecord
from gcsearch.errors import InputError, Interrupted, RunError, TooManyFailures
from gcsearch.execution.executor import (
    Batch,
    BatchEnded,
    BatchStarted,
    EpochsReported,
    Executor,
    ExecutorEvent,
    TrialsReturned,
    Wave,
    WorkerGone,
)
from gcsearch.execution.local_ray import daemons, scratch
from gcsearch.execution.machines import Machines
from gcsearch.search import warm_start
from gcsearch.search.budget import Meter
from gcsearch.search.proposer import Proposer
from gcsearch.sweep import interrupts, measured
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.journal import Journal, SessionEnd, StudyKept, TrialEnded, Workers
from gcsearch.sweep.lease import Driver, Request
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep

if TYPE_CHECKING:
    from gcsearch.execution.worker import PackRunner
    from gcsearch.sweep.measured import Snapshot
    from gcsearch.tracking.sync import MlflowSync


def guarded(sweep: Sweep, driver: Driver) -> Journal:
    """The sweep's journal, which takes no line once another driver has the sweep."""
    return Journal(sweep.journal.path, before=driver.lease.check)


class Session:
    """One driver's work on a sweep."""

    def __init__(
        self,
        sweep: Sweep,
        pipeline: Pipeline,
        space: SearchSpace,
        where: Machines,
        callback: Callback,
        driver: Driver,
        executor: Executor,
        data: Snapshot | None = None,
    ) -> None:
        """`data`: what the sweep measures, as it lies there now; the journal keeps digests of it."""
        self.sweep, self.pipeline, self.space, self.where = sweep, pipeline, space, where
        self.callback, self.driver, self.executor, self.data = callback, driver, executor, data
        self.journal = guarded(sweep, driver)
        self.checkpoints = sweep.folder.absolute() / "packs"

    def run(self) -> None:
        """All stages; those that the journal shows as done are skipped."""
        from gcsearch.search.samplers import total

        if self.sweep.state.finished:
            return
        self._repair()
        trials = total(self.pipeline.search.model_copy(update={"trials": self.sweep.trials}), self.space)
        mlflow_sync: MlflowSync | None = None
        why = SessionEnd.KILLED
        goes_on = f"`{self.sweep.command('resume')}` goes on where it stopped"
        try:
            with interrupts.held():  # whatever has the line `open` gets its line `close`
                self.journal.append(
                    "open", id=self.sweep.id, trials=trials, workers=_workers(self.where), environment=environment()
                )
                if self.data:
                    measured.record(self.journal, self.sweep.state.measured, self.sweep.folder, self.data)
                mlflow_sync = self._start_mlflow_sync()
            self._check_request()
            with (
                daemons.explaining_lost_ray(goes_on),
                daemons.report_at_exit(partial(self._abandon, mlflow_sync, goes_on)),
            ):
                if not self.sweep.state.confirmed:
                    self.executor.run(self._waves(), self.runner)
                self._report()
                self._keep_export(mlflow_sync)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            self._check_confirmed()
            why = SessionEnd.FINISHED
        except (Interrupted, KeyboardInterrupt) as error:
            asked = SessionEnd.STOPPED if isinstance(error, Interrupted) else SessionEnd.KILLED
            why = SessionEnd.CANCELLED if self.driver.request is Request.CANCEL else asked
            interrupts.advise(goes_on)
            raise
        except Exception as error:
            why = SessionEnd.FAILED
            if isinstance(error, OSError) and files.is_full(error):
                place, remedy = self.sweep.folder, "Make room on this disk"
                if error.filename and Path(os.fsdecode(error.filename)).is_relative_to(scratch.folder()):
                    place, remedy = scratch.folder(), f"Make room there, or name another folder ({scratch.variable()})"
                what = f"{place}: no room is left: {error.strerror or error}."
                raise RunError(f"{what}\n{self.journal.goes_on(remedy)}") from error
            raise
        finally:
            # Reached by signals too: what is over is written before the process ends, and no second one hinders that.
            with interrupts.held():
                self._close(why, mlflow_sync)
        judge(self.sweep, self.pipeline.search.max_failed)

    def _report(self) -> None:
        """Write the report."""
        self.callback.stage("report")
        self._spared("the report", lambda: self.sweep.report(warn=self.callback.warn), "report")

    def _keep_export(self, mlflow_sync: MlflowSync) -> None:
        """Keep an export of the champion, from which MLflow gets it too."""
        champion = self.sweep.confirmed
        if champion is None or champion.outcome is not Outcome.COMPLETE:
            return
        self.callback.stage("export")
        mlflow_sync.wait(self.sweep.state.lines)  # an export names its run
        self._spared("the export for MLflow", lambda: exports.keep(self.sweep), "export", "--out", "best")

    def _spared(self, what: str, write: Callable[[], Path], verb: str, *options: str) -> None:
        """Write a result that is made of what was measured. A fault in that is said, and costs nothing else."""
        try:
            path = write()
        except (MemoryError, OSError):
            raise
        except Exception as error:  # whatever the drawing dies of
            first = next(iter(str(error).splitlines()), "")
            why = f"{type(error).__name__}: {first}" if first else type(error).__name__
            again = self.sweep.command(verb, *options)
            self.callback.warn(f"{what} could not be written ({why}); `{again}` tries it again")
        else:
            self.journal.append("artifact", file=path.name)

    def _check_confirmed(self) -> None:
        """RunError where a configuration failed in the confirm stage: whoever goes on measures it again."""
        if failed := next(filter(_failed, self.sweep.finals), None):
            raise RunError(
                f"{failed.label} could not be confirmed: {failed.reason}\n"
                f"All other results are kept. `{self.sweep.command('resume')}` tries it again."
            )

    def _check_request(self) -> None:
        """Interrupted, or RunError, where somebody asked for the end or has taken over."""
        self.driver.check()
        if self.driver.stopping():
            raise Interrupted(
                f"The sweep {self.sweep.name} was stopped on request; all that had begun has ended.\n"
                f"`{self.sweep.command('resume')}` goes on."
            )

    def _repair(self) -> None:
        """Put right what the last session left, and say so. All else follows from the journal as it is."""
        former = self.driver.lease.former
        if former:
            self.callback.repaired(f"{former.gone}; this process drives the sweep from now on")
        daemons.sweep_up(scratch.folder() / "ray")  # also where no Ray is started any more
        if torn := self.journal.repair():
            self.callback.repaired(
                f"{self.journal.path.name}: a last line cut off in the middle ({torn} bytes) was removed"
            )
        if running := sorted(self.sweep.state.running):
            self.callback.repaired(f"configurations that had begun and not ended go on: {', '.join(map(str, running))}")

    def _close(self, why: SessionEnd, mlflow_sync: MlflowSync | None) -> None:
        try:
            self.journal.append("close", why=why)
        except RunError as error:
            if why is SessionEnd.FINISHED:
                raise
            if not self.driver.lost:  # then this is what ended the session, and is on its way
                self.callback.warn(str(error))
        if why is SessionEnd.FINISHED:
            self.callback.stage("sync")
        # Who has interrupted a sweep waits, and whoever sent a signal may kill next.
        if mlflow_sync and (trouble := mlflow_sync.close(60 if why is SessionEnd.FINISHED else 15)):
            self.callback.warn(trouble)

    def _abandon(self, mlflow_sync: MlflowSync, goes_on: str, why: str) -> None:
        """End the session from another thread, because this one's hangs in a Ray that is dead."""
        self._close(SessionEnd.FAILED, mlflow_sync)
        self.callback.warn(f"{why}\n{goes_on}.")
        self.driver.end()

    def _start_mlflow_sync(self) -> MlflowSync:
        from gcsearch.tracking.sync import MlflowSync

        mlflow_sync = MlflowSync(self.sweep, self.journal, self.callback.warn, self.callback.repaired)
        mlflow_sync.start()
        return mlflow_sync

    def _waves(self) -> Iterator[Wave]:
        """What the sweep runs; what comes of a wave decides what the next one is."""
        for wave in itertools.chain(self._search(), self._confirm()):
            yield wave
            self._check_request()

    def _search(self) -> Iterator[Wave]:
        """The generations of the search, until its trials or its budget are spent."""
        search = self._search_config()
        proposer = Proposer(self.space, search, before=self._before())
        self.callback.stage("search", proposer.total)
        (known, states), meter = self._history(search), self._meter(search)
        proposer.replay(known, states)
        for record in {record.number: record for record in known}.values():
            meter.note(record)
            self.callback.record(record)
        known_spent = spent = self.sweep.state.budget

        def stopping() -> bool:
            nonlocal spent  # a budget that was spent stays so, though a trial that still runs may be a gain
            spent = spent or meter.why()
            return bool(spent) or self.driver.stopping()

        def on_event(event: ExecutorEvent) -> None:
            match event:
                case BatchStarted(batch):
                    for trial in batch.trials:
                        label = proposer.label(trial.number)
                        self.journal.append("proposal", number=trial.number, config=trial.config, label=label)
                        self.callback.proposal(trial)
                case TrialsReturned(returned):
                    records = [proposer.tell(record) for record in returned]
                    self.journal.append_all("record", [{"record": record} for record in records])
                    for record in records:
                        meter.note(record)
                        self.callback.record(record)
                case _:
                    self._on_event(event)

        stage, seeds = search.stage, self.pipeline.task.seeds
        while not stopping():
            packs = proposer.ask()
            if state := proposer.state():
                self.journal.append("study", state=state)
            if not packs:
                break
            yield Wave([self._batch(stage, seeds, pack) for pack in packs], on_event, stopping)
        self._check_request()
        if spent and not known_spent and len(meter.records) < proposer.total:
            self.journal.append("budget", why=spent)
            self.callback.warn(f"the search ends with {len(meter.records)} configurations: {spent}")

    def _history(self, search: SearchConfig) -> tuple[list[TrialRecord], list[StudyState]]:
        """What earlier sessions wrote of the search: its records, in order, and what was kept of its study.

        Only at a rung is a trial compared with another's curve; without rungs they are left out, which are most of it.
        """
        events = [line.event for line in self.journal.follow()]
        states = [event.state for event in events if isinstance(event, StudyKept)]
        if search.pruner != "none":
            return self.journal.records(), states
        return [event.record for event in events if isinstance(event, TrialEnded)], states

    def _batch(self, stage: Stage, seeds: tuple[int, ...], trials: Sequence[Proposal], *, keep: bool = False) -> Batch:
        data = measured.expected(self.data, stage, seeds) if self.data else ""
        return Batch(stage=stage, seeds=seeds, trials=tuple(trials), keep=keep, data=data)

    def _on_event(self, event: ExecutorEvent) -> None:
        """What is the same in every stage."""
        match event:
            case EpochsReported(reports):
                self.driver.check()
                self.callback.reports(reports)
            case BatchEnded(batch):
                self.runner.forget(batch)
            case WorkerGone(worker, text):
                if worker:  # `status` counts it no more
                    self.journal.append("lost", who=worker)
                self.callback.warn(text)

    def _before(self) -> list[TrialRecord]:
        """The records of earlier sweeps; the journal keeps them, and those sweeps are not needed any more."""
        if not self.pipeline.search.warm_start:
            return []
        kept = self.sweep.state.before
        if not kept:
            fit, skipped = gather(self.pipeline, self.space, self.sweep.store)
            self.journal.append("before", records=fit, skipped=skipped)
            self.callback.warn(
                f"the search starts from {len(fit)} earlier configurations; {skipped} did not fit its space"
            )
            return fit
        return list(kept.records)

    def _search_config(self) -> SearchConfig:
        """The search's settings with what the pipeline leaves open; the journal keeps it, for whoever goes on."""
        search = self.pipeline.search.model_copy(update={"trials": self.sweep.trials})
        if search.pack != "auto":
            return search
        size = self.sweep.state.pack
        if size is None:
            from gcsearch.training import loading
            from gcsearch.training.sizing import pack_size

            labs = loading.laboratories(self.pipeline.task)
            limit = _limit(self.pipeline, self.where)
            size = pack_size(search, self.space, labs, self.where.placement.threads, limit)
            self.journal.append("pack", size=size)
        return search.model_copy(update={"pack": size})

    def _meter(self, search: SearchConfig) -> Meter:
        """Measures from where the sweep began, or was extended last."""
        placement, state = self.where.placement, self.sweep.state
        devices = placement.gpus_per_worker or float(placement.threads)
        return Meter(search, devices, state.kept_by_extension, state.seconds)

    @cached_property
    def runner(self) -> PackRunner:
        """What every worker does with its batches."""
        from gcsearch.execution.worker import PackRunner

        return PackRunner(
            self.pipeline.task,
            self.pipeline.evaluate_every,
            self.sweep.kept,
            _limit(self.pipeline, self.where),
            share=self.where.share if self.where.cluster else None,
            decoders=self.pipeline.resources.decoders,
            checkpoints=self.checkpoints,
            checkpoint_every=self.pipeline.search.checkpoint_every,
        )

    def _confirm(self) -> Iterator[Wave]:
        """Choose among the best of the search and measure the choice beside the references, see `confirm`.

        Each trial runs by itself, as `gcsearch train` runs it, so that both give the same digits.
        """

        def wave(stage: Stage, seeds: tuple[int, ...], trials: Sequence[Proposal], keep: OnRecord) -> Wave:
            def on_event(event: ExecutorEvent) -> None:
                match event:
                    case BatchStarted(batch):
                        for trial in batch.trials:
                            self.callback.proposal(trial)
                    case TrialsReturned(records):
                        for record in records:
                            keep(record)
                    case _:
                        self._on_event(event)

            batches = [self._batch(stage, seeds, [trial], keep=stage == "test") for trial in trials]
            return Wave(batches, on_event, self.driver.stopping)

        finals, _ = yield from Confirmation(
            self.sweep, self.journal, self.pipeline, self.space, wave, self.callback.stage, self.callback.record
        ).run()
        self.journal.append("final", records=finals, threads=self.where.placement.threads)


def _workers(where: Machines) -> Workers:
    """The session's workers as its journal says them."""
    placement = where.placement
    return Workers(count=placement.workers, threads=placement.threads, gpus=placement.gpus_per_worker)


def _limit(pipeline: Pipeline, where: Machines) -> int | None:
    """Bytes that one worker process may take; on a cluster each worker looks what its node has."""
    import torch

    from gcsearch.training import memory

    if pipeline.resources.memory != "auto":
        return bytes_of(pipeline.resources.memory)
    if where.cluster:
        return None
    device = torch.device("cuda" if where.placement.gpus_per_worker else "cpu")
    return memory.share_of_free(where.share, device)


def judge(sweep: Sweep, allowed: int) -> None:
    """Raise what a finished sweep has to be blamed for; its results are kept all the same.

    Raises:
        RunError: the champion or a reference could not be confirmed.
        TooManyFailures: more trials failed than the `allowed` of `search.max_failed`.
    """
    broken = [record for record in sweep.finals if record.outcome is not Outcome.COMPLETE]
    if broken:
        raise RunError(f"{broken[0].label} could not be confirmed: {broken[0].reason}")
    failed = list(filter(_failed, sweep.searched))
    if len(failed) > allowed:
        raise TooManyFailures(
            f"{len(failed)} of {len(sweep.searched)} trials failed, {allowed} are allowed (search.max_failed). "
            f"All other results are kept. The first reason: {failed[0].reason}"
        )


def _failed(record: TrialRecord) -> bool:
    return record.outcome is Outcome.FAILED


# --- Warm start ------------------------------------------------------------------------------------------


def gather(pipeline: Pipeline, space: SearchSpace, store: Store) -> tuple[list[TrialRecord], int]:
    """The records of the sweeps that `search.warm_start` names, and how many of theirs do not fit the space.

    Read from the journals of the store, and from MLflow, by its id, where a sweep is only there. Curves are left
    out, which nobody needs.

    Raises:
        InputError: a sweep is in neither, or its journal is one of another task.
    """
    found: list[TrialRecord] = []
    for index, name in enumerate(pipeline.search.warm_start):
        found += _records(name, pipeline, store, f"search.warm_start.{index}")
    fit = warm_start.fitting(space, found, pipeline.search.objectives)
    return [record.model_copy(update={"curve": ()}) for record in fit], len(found) - len(fit)


def _records(name: str, pipeline: Pipeline, store: Store, key: str) -> list[TrialRecord]:
    if (store.sweep(name) / "journal.jsonl").exists():
        sweep = Sweep.named(name, store)
        if sweep.pipeline.task != pipeline.task:
            raise InputError(
                "a search starts warm from sweeps of the same task only: other data, other numbers",
                key=key,
                received=name,
                remedy=f"Compare [task] with that of {store.sweep(name) / 'pipeline.toml'}, or leave it out.",
            )
        return sweep.searched
    from gcsearch.tracking import relocation
    from gcsearch.tracking.client import read_records

    if not pipeline.tracking.uri:
        relocation.follow(store)
    try:
        if not pipeline.tracking.uri and not (store.root / "mlflow.db").exists():
            store.existing_sweep(name)  # none is: to look into MLflow would make its database
        own = Sweep.named(pipeline.name, store)
        uri = own.mlflow_uri if own.address.exists() else pipeline.tracking.uri or store.mlflow_uri
        every = read_records(uri, name)
    except InputError as error:
        raise InputError(error.rule, key=key, received=name, remedy=error.remedy) from None
    return [record for record in every if record.role is Role.SEARCHED]  # an oracle's stages do not tell them apart
