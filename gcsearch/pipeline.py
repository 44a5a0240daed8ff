"""The composition root: the only module that introduces the stages to one another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch import files, methods, spaces
from gcsearch.budget import Meter, seconds_of
from gcsearch.configuration import check, load, load_trial, references
from gcsearch.errors import InputError, RunError, TooManyFailures
from gcsearch.journal import Journal
from gcsearch.placement import Placement, place
from gcsearch.provenance import cores, environment, process_name
from gcsearch.schema import (
    EpochReport,
    Outcome,
    Pipeline,
    Proposal,
    SearchSettings,
    Stage,
    TrialFile,
    TrialRecord,
    bytes_of,
)
from gcsearch.spaces import SearchSpace
from gcsearch.store import Store, cache_folder, locked
from gcsearch.sweep import CHAMPION, Sweep, open_sweep

if TYPE_CHECKING:
    from gcsearch.laboratory import Laboratory
    from gcsearch.tracking import Status, Tracker
    from gcsearch.worker import PackRunner


class Watcher:
    """What a caller may listen to; every method does nothing here. The command line draws bars with it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage of `total` units begins."""

    def progress(self, done: int, total: int) -> None:
        """The present stage has come to `done` of `total`."""

    def proposal(self, proposal: Proposal) -> None:
        """A setting is about to run."""

    def reports(self, reports: list[EpochReport]) -> None:
        """Running settings have finished epochs."""

    def record(self, record: TrialRecord) -> None:
        """A setting has ended."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that did not stop the work."""


# --- Running ------------------------------------------------------------------------------------------


def run(
    pipeline: Pipeline | str | Path,
    *,
    store: str | Path | None = None,
    overrides: Mapping[str, str] | None = None,
    fresh: bool = False,
    watcher: Watcher | None = None,
) -> Sweep:
    """Search, choose, confirm, report. A sweep that was interrupted goes on; one that is over is returned.

    Args:
        pipeline: a shipped name, a path, or a `Pipeline`.
        store: folder of sweeps and the embedded MLflow store, see `gcsearch.store`.
        overrides: dotted keys with TOML values, as `--set` gives them.
        fresh: begin anew; the former sweep of this name is kept beside it as NAME.1, NAME.2, ...
        watcher: told of progress.

    Raises:
        InputError: something in the pipeline is wrong, or a sweep of this name was made from another one.
        RunError: no trial completed. TooManyFailures: more failed than `search.max_failed`; results are kept.
    """
    pipeline = pipeline if isinstance(pipeline, Pipeline) else load(pipeline, overrides)
    space = check(pipeline)
    located = Store.locate(store)
    with locked(located.root / "sweeps" / f".{pipeline.name}.lock", wait=False, what=f"the sweep {pipeline.name}"):
        listener = watcher or Watcher()
        texts = _texts(pipeline)
        if not fresh:
            _check_same(pipeline, located, texts)
        if fresh or not is_finished(pipeline, store):
            # Before anything is written: what is refused here leaves nothing behind.
            _prepare(pipeline, space, listener)
        sweep = _open_or_begin(pipeline, located, texts, fresh)
        _Session(sweep, pipeline, space, listener).run()
    return Sweep(sweep.name, located, sweep.folder)


def is_finished(pipeline: Pipeline, store: str | Path | None = None) -> bool:
    """Whether the sweep of this name has been through all stages."""
    return _over(Journal(Store.locate(store).sweep(pipeline.name) / "journal.jsonl"))


def _over(journal: Journal) -> bool:
    turns = [event for event in journal.events() if event["kind"] in ("open", "extend", "close")]
    return bool(turns) and turns[-1].get("why") == "FINISHED"


def extend(name: str, trials: int, *, store: str | Path | None = None, watcher: Watcher | None = None) -> Sweep:
    """Try `trials` more settings in the finished sweep `name`, then choose and confirm again.

    They are proposed from all that the sweep knows. What was confirmed already is not confirmed again. A killed
    extension goes on as any sweep does.

    Raises:
        InputError: there is no such sweep, it is not finished, or what it was begun from does not hold here.
        RunError, TooManyFailures: as `run`.
    """
    found, listener = open_sweep(name, store), watcher or Watcher()
    pipeline = found.as_begun
    space = check(pipeline)
    with locked(found.store.root / "sweeps" / f".{name}.lock", wait=False, what=f"the sweep {name}"):
        _check_extensible(found, space)
        _prepare(pipeline, space, listener)
        there = len(found.records)
        found.journal.append("extend", trials=there + trials, there=there)
        _Session(Sweep(name, found.store, found.folder), pipeline, space, listener).run()
    return Sweep(name, found.store, found.folder)


def _check_extensible(sweep: Sweep, space: SearchSpace) -> None:
    if not _over(sweep.journal):
        raise InputError(
            "only a finished sweep can be extended",
            file=sweep.folder,
            remedy="Finish it with the command that began it.",
        )
    if not space.searched:
        raise InputError("a space with nothing to search has one setting only", file=sweep.folder / "space.toml")


def _texts(pipeline: Pipeline) -> dict[str, str]:
    """The two files that say what a sweep was made from."""
    return {
        "space.toml": spaces.find(pipeline.search.space).read_text(encoding="utf-8"),
        "pipeline.toml": files.to_toml(pipeline.to_dict(), f"Sweep {pipeline.name}: the pipeline as it was run."),
    }


def _check_same(pipeline: Pipeline, store: Store, texts: Mapping[str, str]) -> None:
    """InputError where a sweep of this name was begun from other files."""
    folder = store.sweep(pipeline.name)
    if (folder / "pipeline.toml").exists() and any((folder / name).read_text() != text for name, text in texts.items()):
        raise InputError(
            "a sweep goes on with the pipeline and space that it began with; these differ",
            file=folder / "pipeline.toml",
            key="name",
            received=pipeline.name,
            remedy="Begin another sweep with `--set name=OTHER`, or anew with --fresh (the old one is kept).",
        )


def _prepare(pipeline: Pipeline, space: SearchSpace, watcher: Watcher) -> None:
    """Check what needs the data and the model, and compute what trials read, so that workers only read it."""
    from gcsearch import laboratory

    watcher.stage("data")
    laboratory.data_root(pipeline.task, watcher.progress)
    lab = laboratory.of(pipeline.task)
    check_loaded(pipeline, space, lab)
    watcher.stage("features")
    lab.episodes("search", pipeline.task.seeds, watcher.progress)
    lab.episodes("test", pipeline.confirm.seeds, watcher.progress)


def check_loaded(pipeline: Pipeline, space: SearchSpace, lab: Laboratory) -> None:
    """InputError for what shows only beside the data and the model: sizes, prompts, the memory limit."""
    from gcsearch import memory

    lab.check_sizes()
    try:
        lab.check_settings(space)
    except InputError as error:
        raise error.at(file=spaces.find(pipeline.search.space)) from None
    if pipeline.resources.memory != "auto":
        try:
            memory.budget(bytes_of(pipeline.resources.memory), lab.backbone.tower.device)
        except InputError as error:
            key, received = "resources.memory", pipeline.resources.memory
            raise InputError(error.rule, key=key, received=received, remedy=error.remedy) from None


def _open_or_begin(pipeline: Pipeline, store: Store, texts: Mapping[str, str], fresh: bool) -> Sweep:
    folder = store.sweep(pipeline.name)
    if folder.exists() and fresh:
        folder.rename(_free_name(folder))
    if not (folder / "pipeline.toml").exists():
        for name, text in texts.items():
            files.write_whole(folder / name, text)
    return Sweep(pipeline.name, store, folder)


def _free_name(folder: Path) -> Path:
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return other


class _Session:
    """One driver's work on a sweep."""

    def __init__(self, sweep: Sweep, pipeline: Pipeline, space: SearchSpace, watcher: Watcher) -> None:
        self.sweep, self.pipeline, self.space, self.watcher = sweep, pipeline, space, watcher
        self.journal = sweep.journal
        self.checkpoints = sweep.folder.absolute() / "packs"

    def run(self) -> None:
        """All stages; those that the journal shows as done are skipped."""
        from gcsearch.raysession import session

        if _over(self.journal):
            return
        self.journal.append("open", id=self.sweep.id, environment=environment())
        placement = self._place()
        tracker = self._track()
        status: Status = "KILLED"
        try:
            if not self.journal.final():
                with session(placement):
                    self._search(tracker, placement)
                    self._confirm(tracker, placement)
            tracker.log_artifact(self.sweep.report())
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            # Reached by Ctrl-C and SIGTERM too: what is over is written before the process ends.
            trouble = tracker.close(status)
            if trouble:
                self.watcher.warn(trouble)
            self.journal.append("close", why=status)
        judge(self.sweep)

    def _place(self) -> Placement:
        from gcsearch import laboratory

        return place(
            self.pipeline.resources, cores=cores(), gpus=laboratory.gpus(), generation=self.pipeline.search.generation
        )

    def _track(self) -> Tracker:
        from gcsearch.tracking import Tracker

        chosen, store = self.pipeline.tracking, self.sweep.store
        store.root.mkdir(parents=True, exist_ok=True)
        # Two processes that set up one fresh SQLite database at the same time break it.
        with locked(store.root / ".mlflow.lock", wait=True):
            tracker = Tracker(
                chosen.uri or store.mlflow_uri,
                chosen.experiment or self.pipeline.name,
                None if chosen.uri else store.artifacts,
                on_run=lambda number, stage, run_id: self.journal.append(
                    "run", number=number, stage=stage, run_id=run_id
                ),
            )
        tracker.start_sweep(
            self.sweep.id,
            pipeline=self.pipeline,
            files={name: self.sweep.folder / name for name in ("pipeline.toml", "space.toml")},
        )
        return tracker

    def _search(self, tracker: Tracker, placement: Placement) -> None:
        from gcsearch import search
        from gcsearch.samplers import total

        task = self.pipeline.task
        settings = self._settings(placement)
        self.watcher.stage("search", total(settings, self.space))
        known, meter = self.journal.records(), self._meter(settings, placement)
        for record in {record.number: record for record in known}.values():
            meter.note(record)
            self.watcher.record(record)
            tracker.submit(record)

        def on_proposal(proposal: Proposal, label: str) -> None:
            self.journal.append("proposal", number=proposal.number, config=proposal.config, label=label)
            self.watcher.proposal(proposal)

        def on_record(record: TrialRecord) -> None:
            self.journal.append("record", record=record)
            meter.note(record)
            tracker.submit(record)
            self.watcher.record(record)

        runner = self._runner("search", task.seeds, placement)
        search.run_search(
            self.space,
            settings,
            placement,
            runner,
            folder=self.sweep.folder,
            known=known,
            before=self._before(),
            on_proposal=on_proposal,
            on_reports=self.watcher.reports,
            on_record=on_record,
            stopping=lambda: bool(meter.why()),
            on_pack=runner.forget,
        )
        if len(meter.records) < total(settings, self.space) and (why := meter.why()):
            self.journal.append("budget", why=why)
            self.watcher.warn(f"the search ends with {len(meter.records)} settings: {why}")

    def _before(self) -> list[TrialRecord]:
        """The records of earlier sweeps; the journal keeps them, and those sweeps are not needed any more."""
        if not self.pipeline.search.warm_start:
            return []
        kept = self.journal.events("before")
        if not kept:
            from gcsearch.warmstart import gather

            fit, skipped = gather(self.pipeline, self.space, self.sweep.store)
            self.journal.append("before", records=fit, skipped=skipped)
            self.watcher.warn(f"the search starts from {len(fit)} earlier settings; {skipped} did not fit its space")
            return fit
        return [TrialRecord.from_dict(record, file=self.journal.path) for record in kept[0]["records"]]

    def _settings(self, placement: Placement) -> SearchSettings:
        """The search's settings with what the pipeline leaves open; the journal keeps it, for whoever goes on."""
        settings = self.pipeline.search.model_copy(update={"trials": self.sweep.trials})
        if settings.pack != "auto":
            return settings
        chosen = [int(event["size"]) for event in self.journal.events("pack")]
        if not chosen:
            from gcsearch import laboratory
            from gcsearch.sizing import pack_size

            lab = laboratory.of(self.pipeline.task)
            chosen = [pack_size(settings, self.space, lab, placement, _limit(self.pipeline, placement))]
            self.journal.append("pack", size=chosen[0])
        return settings.model_copy(update={"pack": chosen[0]})

    def _meter(self, settings: SearchSettings, placement: Placement) -> Meter:
        """Measures from where the sweep began, or was extended last."""
        events = self.journal.events()
        turns = [index for index, event in enumerate(events) if event["kind"] == "extend"]
        first = events[turns[-1]]["there"] if turns else 0
        devices = placement.gpus_per_worker or float(placement.threads)
        return Meter(settings, devices, first, seconds_of(events[turns[-1] if turns else 0 :]))

    def _runner(
        self, stage: Stage, seeds: tuple[int, ...], placement: Placement, kept: Path | None = None
    ) -> PackRunner:
        from gcsearch.worker import PackRunner

        every, limit = self.pipeline.evaluate_every, _limit(self.pipeline, placement)
        return PackRunner(
            self.pipeline.task,
            stage,
            seeds,
            every,
            str(cache_folder()),
            kept,
            limit,
            checkpoints=self.checkpoints,
            checkpoint_every=self.pipeline.search.checkpoint_every,
        )

    def _confirm(self, tracker: Tracker, placement: Placement) -> None:
        """Retrain the champion and the references on all base classes; measure them on test images.

        Each runs by itself, as `gcsearch train` runs it, so that both give the same digits.
        """
        from gcsearch import search

        settings = self._final_settings()
        self.watcher.stage("confirm", len(settings))
        # Numbers of the confirm stage that an earlier session came to; the champion may be another one now.
        done = {(r.number, r.config.digest): r for r in self.journal.records("confirmed") if not _failed(r)}
        missing = [p for p, _ in settings if (p.number, p.config.digest) not in done]
        for proposal, _ in settings:
            if proposal not in missing:
                self.watcher.record(done[proposal.number, proposal.config.digest])

        def on_record(record: TrialRecord) -> None:
            self.journal.append("confirmed", record=record)
            runner.forget([Proposal(number=record.number, config=record.config)])
            self.watcher.record(record)

        runner = self._runner("test", self.pipeline.confirm.seeds, placement, self.sweep.kept)
        for record in search.run_settings(missing, placement, runner, stage="test", on_record=on_record):
            done[record.number, record.config.digest] = record
        finals = [done[p.number, p.config.digest].model_copy(update={"label": label}) for p, label in settings]
        for record in finals:
            tracker.submit(record)
        tracker.flush()
        self.journal.append("final", records=finals, threads=placement.threads)

    def _final_settings(self) -> list[tuple[Proposal, str]]:
        """References, numbered -1, -2, ... because they are no trials of the search, and then the champion."""
        settings = [
            (Proposal(number=-1 - index, config=config), title)
            for index, (config, title) in enumerate(references(self.pipeline, self.space))
        ]
        found = self.sweep.champion
        chosen = Proposal(number=found.number, config=methods.complete(found.config))
        return [*settings, (chosen, CHAMPION)]


def _limit(pipeline: Pipeline, placement: Placement) -> int:
    """Bytes that one worker process may take."""
    import torch

    from gcsearch import memory

    if pipeline.resources.memory != "auto":
        return bytes_of(pipeline.resources.memory)
    share = min(placement.gpus_per_worker, 1.0) or 1 / placement.workers
    device = torch.device("cuda" if placement.gpus_per_worker else "cpu")
    return int(memory.free_bytes(device) * memory.SHARE_OF_FREE * share)


def judge(sweep: Sweep) -> None:
    """Raise what a finished sweep has to be blamed for; its results are kept all the same.

    Raises:
        RunError: the champion or a reference could not be confirmed.
        TooManyFailures: more trials failed than `search.max_failed`.
    """
    broken = [record for record in sweep.finals if record.outcome is not Outcome.COMPLETE]
    if broken:
        raise RunError(f"{broken[0].label} could not be confirmed: {broken[0].reason}")
    failed, allowed = [record for record in sweep.records if _failed(record)], sweep.pipeline.search.max_failed
    if len(failed) > allowed:
        raise TooManyFailures(
            f"{len(failed)} of {len(sweep.records)} trials failed, {allowed} are allowed (search.max_failed). "
            f"All other results are kept. The first reason: {failed[0].reason}"
        )


def _failed(record: TrialRecord) -> bool:
    return record.outcome is Outcome.FAILED


# --- One configuration, no search -----------------------------------------------------------------------


def train(trial: TrialFile | str | Path, watcher: Watcher | None = None, limit: int | None = None) -> TrialRecord:
    """Train and measure one configuration in this process, with the threads that it states.

    `limit` is what this process may take, in bytes; None: what is free.
    """
    import torch

    from gcsearch import laboratory
    from gcsearch.trial import run_pack

    trial = trial if isinstance(trial, TrialFile) else load_trial(trial)
    method, watcher = methods.build(trial.trial), watcher or Watcher()
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)
    try:
        watcher.stage("data")
        laboratory.data_root(trial.task, watcher.progress)
        lab = laboratory.of(trial.task)
        watcher.stage("features")
        episodes = lab.episodes(trial.stage, trial.seeds, watcher.progress)
        watcher.stage("train", getattr(method, "epochs", None))
        (done,) = run_pack(
            lab,
            episodes,
            [Proposal(number=0, config=methods.complete(trial.trial))],
            evaluate_every=trial.evaluate_every,
            on_reports=watcher.reports,
            worker=process_name(),
            limit=limit,
        )
    finally:
        torch.set_num_threads(threads)
    return done.record
