"""The composition root: the only module that introduces the stages to one another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch import files, methods, spaces
from gcsearch import where as grounds
from gcsearch.budget import Meter, seconds_of
from gcsearch.configuration import check, load, load_trial
from gcsearch.confirmation import Confirmation, OnRecord
from gcsearch.errors import InputError, Interrupted, RunError, TooManyFailures
from gcsearch.journal import REOPENING, Journal
from gcsearch.lease import Driver, Seen, Wish, ask, driving
from gcsearch.placement import Placement
from gcsearch.provenance import environment, process_name
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
from gcsearch.store import Store, cache_address, cache_folder, cache_place
from gcsearch.sweep import Sweep, open_sweep
from gcsearch.where import Where

if TYPE_CHECKING:
    from gcsearch.laboratory import Laboratory
    from gcsearch.mirror import Mirror
    from gcsearch.worker import PackRunner


class Watcher:
    """What a caller may listen to; every method does nothing here. The command line draws bars with it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage of `total` units begins."""

    def progress(self, done: int, total: int) -> None:
        """The present stage has come to `done` of `total`."""

    def cluster(self, description: str) -> None:
        """A Ray cluster has been joined, with this address and size."""

    def proposal(self, proposal: Proposal) -> None:
        """A setting is about to run."""

    def reports(self, reports: list[EpochReport]) -> None:
        """Running settings have finished epochs."""

    def record(self, record: TrialRecord) -> None:
        """A setting has ended."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that did not stop the work."""

    def mended(self, text: str) -> None:
        """Something that an earlier session left broken was put right."""


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
    located, listener = Store.locate(store), watcher or Watcher()
    with driving(located.lease(pipeline.name), f"the sweep {pipeline.name}", listener.warn) as driver:
        texts = _texts(pipeline)
        if not fresh:
            _check_same(pipeline, located, texts)
            _check_not_cancelled(pipeline.name, located)
            if is_finished(pipeline, store):
                return Sweep(pipeline.name, located, located.sweep(pipeline.name))
        known = Sweep(pipeline.name, located, located.sweep(pipeline.name))
        added = () if fresh else _added_seeds(known)
        _drive(
            driver, pipeline, space, located, lambda: _open_or_begin(pipeline, located, texts, fresh), listener, added
        )
    return Sweep(pipeline.name, located, located.sweep(pipeline.name))


def _drive(
    driver: Driver,
    pipeline: Pipeline,
    space: SearchSpace,
    store: Store,
    begin: Callable[[], Sweep],
    watcher: Watcher,
    added: tuple[int, ...],
) -> None:
    """Make ready what `pipeline` runs on, and take the sweep that `begin` gives through all stages.

    `added` are the seeds of the confirmation beside those of the pipeline.
    """
    where = grounds.find(pipeline)
    seeds = pipeline.confirm.model_copy(update={"seeds": (*pipeline.confirm.seeds, *added)})
    with grounds.joined(where):
        # Before anything is written: what is refused here leaves nothing behind.
        _prepare(pipeline.model_copy(update={"confirm": seeds}), space, store, where, watcher)
        _Session(begin(), pipeline, space, where, watcher, driver).run()


def resume(name: str, *, store: str | Path | None = None, watcher: Watcher | None = None) -> Sweep:
    """Go on with the sweep `name`, from what its folder states alone; one that is over is returned.

    Also a cancelled one: who names it here wants it after all.

    Raises:
        InputError: there is no such sweep, somebody drives it, or what it was begun from does not hold here.
        RunError, TooManyFailures: as `run`.
    """
    found, listener = open_sweep(name, store), watcher or Watcher()
    if over(found.journal):
        return found
    pipeline = found.as_begun
    try:
        space = check(pipeline)
    except InputError as error:
        raise error.at(file=found.folder / "pipeline.toml") from None
    with driving(found.store.lease(name), f"the sweep {name}", listener.warn) as driver:
        begin, added = (lambda: Sweep(name, found.store, found.folder)), _added_seeds(found)
        _drive(driver, pipeline, space, found.store, begin, listener, added)
    return Sweep(name, found.store, found.folder)


def _guarded(sweep: Sweep, driver: Driver) -> Journal:
    """The sweep's journal, which takes no line once another driver has the sweep."""
    return Journal(sweep.journal.path, before=driver.lease.check)


def _reopened(sweep: Sweep, driver: Driver, kind: str, **asked: object) -> Sweep:
    """The finished sweep with a line in its journal that gives it something to do again."""
    _guarded(sweep, driver).append(kind, **asked)
    return Sweep(sweep.name, sweep.store, sweep.folder)


def _added_seeds(sweep: Sweep) -> tuple[int, ...]:
    """The seeds of the confirmation that were asked for since the sweep began."""
    return tuple(seed for event in sweep.journal.events("seeds") for seed in event["seeds"])


def is_finished(pipeline: Pipeline, store: str | Path | None = None) -> bool:
    """Whether the sweep of this name has been through all stages."""
    return over(Journal(Store.locate(store).sweep(pipeline.name) / "journal.jsonl"))


def over(journal: Journal) -> bool:
    """Whether the journal's sweep has been through all stages."""
    return journal.ended() == "FINISHED"


def _check_not_cancelled(name: str, store: Store) -> None:
    """A job that is submitted again must not undo what a person has decided."""
    if Journal(store.sweep(name) / "journal.jsonl").ended() == "CANCELLED":
        raise InputError(
            "a cancelled sweep goes on only where that is asked for",
            file=store.sweep(name),
            key="name",
            received=name,
            remedy=f"It goes on with `gcsearch resume {name}`, or begins anew with --fresh.",
        )


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
    with driving(found.store.lease(name), f"the sweep {name}", listener.warn) as driver:
        _check_extensible(found, space)
        there = len(found.records)
        begin = partial(_reopened, found, driver, "extend", trials=there + trials, there=there)
        _drive(driver, pipeline, space, found.store, begin, listener, _added_seeds(found))
    return Sweep(name, found.store, found.folder)


def _check_extensible(sweep: Sweep, space: SearchSpace) -> None:
    if not over(sweep.journal):
        raise InputError(
            "only a finished sweep can be extended",
            file=sweep.folder,
            remedy=f"Finish it with `gcsearch resume {sweep.name}`.",
        )
    if not space.searched:
        raise InputError("a space with nothing to search has one setting only", file=sweep.folder / "space.toml")


def confirm(
    name: str, seeds: Sequence[int], *, store: str | Path | None = None, watcher: Watcher | None = None
) -> Sweep:
    """Measure the confirmed settings of a finished sweep with more seeds, and choose and judge anew by all of them.

    What was measured before stays and counts.

    Raises:
        InputError: the sweep is not finished, or a seed was used already.
        RunError: a setting could not be measured.
    """
    found, listener = open_sweep(name, store), watcher or Watcher()
    added = tuple(seeds)
    pipeline = found.as_begun
    space = check(pipeline)
    with driving(found.store.lease(name), f"the sweep {name}", listener.warn) as driver:
        _check_added(found, added)
        begin = partial(_reopened, found, driver, "seeds", seeds=list(added))
        _drive(driver, pipeline, space, found.store, begin, listener, (*_added_seeds(found), *added))
    return Sweep(name, found.store, found.folder)


def _check_added(sweep: Sweep, seeds: tuple[int, ...]) -> None:
    if not over(sweep.journal):
        remedy = f"Finish it first: `gcsearch resume {sweep.name}`."
        raise InputError("seeds are added to a finished sweep", file=sweep.folder, remedy=remedy)
    used = {*sweep.pipeline.task.seeds, *(seed for batch in sweep.confirmed_seeds for seed in batch)}
    if used & set(seeds) or len(set(seeds)) != len(seeds) or not seeds or min(seeds) < 0:
        raise InputError(
            "added seeds are distinct and new to the sweep",
            key="--seeds",
            received=list(seeds),
            remedy=f"Used already: {', '.join(map(str, sorted(used)))}.",
        )


def _confirmed(journal: Journal) -> bool:
    """Whether the confirm stage is over, and nothing has been asked for since."""
    kinds = [event["kind"] for _, _, event in journal.since() if event["kind"] in ("final", *REOPENING)]
    return bool(kinds) and kinds[-1] == "final"


def _texts(pipeline: Pipeline) -> dict[str, str]:
    """The two files that say what a sweep was made from."""
    return {
        "space.toml": spaces.find(pipeline.search.space).read_text(encoding="utf-8"),
        "pipeline.toml": files.to_toml(pipeline.to_dict(), f"Sweep {pipeline.name}: the pipeline as it was run."),
    }


def _check_same(pipeline: Pipeline, store: Store, texts: Mapping[str, str]) -> None:
    """InputError where a sweep of this name was begun from other files."""
    folder = store.sweep(pipeline.name)
    if not (folder / "pipeline.toml").exists():
        return
    began = Pipeline.from_dict(files.read_toml(folder / "pipeline.toml"), file=folder / "pipeline.toml")
    if _anywhere(began) != _anywhere(pipeline) or (folder / "space.toml").read_text() != texts["space.toml"]:
        raise InputError(
            "a sweep goes on with the pipeline and space that it began with; these differ",
            file=folder / "pipeline.toml",
            key="name",
            received=pipeline.name,
            remedy="Begin another sweep with `--set name=OTHER`, or anew with --fresh (the old one is kept).",
        )


def _anywhere(pipeline: Pipeline) -> Pipeline:
    """The pipeline without the cluster that it runs on: a sweep may go on elsewhere."""
    return pipeline.model_copy(update={"resources": pipeline.resources.model_copy(update={"address": None})})


def cache(
    pipeline: Pipeline | str | Path, *, overrides: Mapping[str, str] | None = None, watcher: Watcher | None = None
) -> None:
    """Compute the features that the pipeline's search and confirmation read, and do no more.

    Raises:
        InputError: something in the pipeline is wrong, or images are missing or unreadable: all of them are named.
    """
    pipeline = pipeline if isinstance(pipeline, Pipeline) else load(pipeline, overrides)
    space, where = check(pipeline), grounds.find(pipeline)
    with grounds.joined(where):
        _prepare(pipeline, space, Store.locate(), where, watcher or Watcher())


def _prepare(pipeline: Pipeline, space: SearchSpace, store: Store, where: Where, watcher: Watcher) -> None:
    """Check what needs the data and the model, and compute what trials read, so that workers only read it.

    On a cluster its nodes do that, each for itself.
    """
    from gcsearch import laboratory

    if where.cluster:
        watcher.cluster(where.cluster.describe())
        watcher.stage("nodes")
        one_cache = grounds.check_nodes(where, store.root, None if cache_address() else cache_folder())
    watcher.stage("data")
    laboratory.data_root(pipeline.task, watcher.progress)
    lab = laboratory.of(pipeline.task, pipeline.resources.decoders)
    check_loaded(pipeline, space, lab)
    if where.cluster:
        watcher.stage("features")
        shared = one_cache or cache_address() is not None
        grounds.prepare_nodes(where, pipeline, cache_place(), one_cache=shared, progress=watcher.progress)
        return
    # Both stages at once: the user hears at once of all images that cannot be read.
    encode(lab, pipeline.measured, watcher)


def encode(lab: Laboratory, measured: Iterable[tuple[Stage, tuple[int, ...]]], watcher: Watcher) -> None:
    """Compute the cache entries that stages with their seeds read."""
    wanted = [one for stage, seeds in measured for one in lab.wanted(stage, seeds)]
    watcher.stage("digest")
    lab.cache.recognise(wanted, watcher.progress)
    watcher.stage("features")
    lab.cache.get(wanted, watcher.progress)


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
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:  # it may go on at another address
            files.write_whole(folder / name, text)
    return Sweep(pipeline.name, store, folder)


def _free_name(folder: Path) -> Path:
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return other


class _Session:
    """One driver's work on a sweep."""

    def __init__(
        self, sweep: Sweep, pipeline: Pipeline, space: SearchSpace, where: Where, watcher: Watcher, driver: Driver
    ) -> None:
        self.sweep, self.pipeline, self.space, self.where = sweep, pipeline, space, where
        self.watcher, self.driver = watcher, driver
        self.journal = _guarded(sweep, driver)
        self.checkpoints = sweep.folder.absolute() / "packs"

    def run(self) -> None:
        """All stages; those that the journal shows as done are skipped."""
        from gcsearch.raysession import session
        from gcsearch.samplers import total

        if over(self.journal):
            return
        self._mend()
        trials = total(self.pipeline.search.model_copy(update={"trials": self.sweep.trials}), self.space)
        self.journal.append("open", id=self.sweep.id, trials=trials, environment=environment())
        placement = self.where.placement
        mirror = self._mirror()
        why = "KILLED"
        try:
            self._check_wishes()
            if not _confirmed(self.journal):
                with session(placement):
                    self._search(placement)
                    self._confirm(placement)
            self.journal.append("artifact", file=self.sweep.report().name)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            why = "FINISHED"
        except (Interrupted, KeyboardInterrupt) as error:
            asked = "STOPPED" if isinstance(error, Interrupted) else "KILLED"
            why = "CANCELLED" if self.driver.wish is Wish.CANCEL else asked
            raise
        except Exception as error:
            why = "FAILED"
            if isinstance(error, OSError) and files.is_full(error):
                what = f"{self.sweep.folder}: no room is left: {error.strerror or error}."
                raise RunError(f"{what}\n{self.journal.goes_on('Make room on this disk')}") from error
            raise
        finally:
            # Reached by Ctrl-C and SIGTERM too: what is over is written before the process ends.
            self._close(why, mirror)
        judge(self.sweep)

    def _check_wishes(self) -> None:
        """Interrupted, or RunError, where somebody asked for the end or has taken over."""
        self.driver.check()
        if self.driver.stopping():
            raise Interrupted(
                f"The sweep {self.sweep.name} was stopped on request; all that had begun has ended.\n"
                f"`gcsearch resume {self.sweep.name}` goes on."
            )

    def _mend(self) -> None:
        """Put right what the last session left, and say so. All else follows from the journal as it is."""
        former = self.driver.lease.former
        if former:
            self.watcher.mended(f"{former.gone}; this process drives the sweep from now on")
        if torn := self.journal.mend():
            self.watcher.mended(
                f"{self.journal.path.name}: a last line cut off in the middle ({torn} bytes) was removed"
            )
        if unfinished := self.journal.unfinished():
            self.watcher.mended(f"settings that had begun and not ended go on: {', '.join(map(str, unfinished))}")

    def _close(self, why: str, mirror: Mirror) -> None:
        try:
            self.journal.append("close", why=why)
        except RunError as error:
            if why == "FINISHED":
                raise
            if not self.driver.lost:  # then this is what ended the session, and is on its way
                self.watcher.warn(str(error))
        # Who has interrupted a sweep waits, and whoever sent a signal may kill next.
        if trouble := mirror.close(60 if why == "FINISHED" else 15):
            self.watcher.warn(trouble)

    def _mirror(self) -> Mirror:
        from gcsearch.mirror import Mirror

        mirror = Mirror(self.sweep, self.journal, self.watcher.warn, self.watcher.mended)
        mirror.start()
        return mirror

    def _search(self, placement: Placement) -> None:
        from gcsearch import search
        from gcsearch.samplers import total

        task = self.pipeline.task
        settings = self._settings(placement)
        wanted = total(settings, self.space)
        self.watcher.stage("search", wanted)
        known, meter = self.journal.records(), self._meter(settings, placement)
        for record in {record.number: record for record in known}.values():
            meter.note(record)
            self.watcher.record(record)

        def on_proposal(proposal: Proposal, label: str) -> None:
            self.journal.append("proposal", number=proposal.number, config=proposal.config, label=label)
            self.watcher.proposal(proposal)

        def on_record(record: TrialRecord) -> None:
            self.journal.append("record", record=record)
            meter.note(record)
            self.watcher.record(record)

        def on_reports(reports: list[EpochReport]) -> None:
            self.driver.check()
            self.watcher.reports(reports)

        runner = self._runner(self.pipeline.search.stage, task.seeds, placement)
        search.run_search(
            self.space,
            settings,
            placement,
            runner,
            folder=self.sweep.folder,
            known=known,
            before=self._before(),
            on_proposal=on_proposal,
            on_reports=on_reports,
            on_record=on_record,
            on_pack=runner.forget,
            stopping=lambda: self.driver.stopping() or bool(meter.why()),
        )
        self._check_wishes()
        if len(meter.records) < wanted and (why := meter.why()):
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
            chosen = [pack_size(settings, self.space, lab, placement, _limit(self.pipeline, self.where))]
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

        every, limit = self.pipeline.evaluate_every, _limit(self.pipeline, self.where)
        return PackRunner(
            self.pipeline.task,
            stage,
            seeds,
            every,
            cache_place(),
            kept,
            limit,
            share=self.where.share if self.where.cluster else None,
            decoders=self.pipeline.resources.decoders,
            checkpoints=self.checkpoints,
            checkpoint_every=self.pipeline.search.checkpoint_every,
        )

    def _confirm(self, placement: Placement) -> None:
        """Choose among the best of the search and measure the choice beside the references, see `confirmation`.

        Each setting runs by itself, as `gcsearch train` runs it, so that both give the same digits.
        """
        from gcsearch import search

        def measure(stage: Stage, seeds: tuple[int, ...], settings: Sequence[Proposal], keep: OnRecord) -> None:
            runner = self._runner(stage, seeds, placement, self.sweep.kept if stage == "test" else None)

            def on_record(record: TrialRecord) -> None:
                keep(record)
                runner.forget([Proposal(number=record.number, config=record.config)])

            search.run_settings(
                settings, placement, runner, stage=stage, on_record=on_record, stopping=self.driver.stopping
            )
            self._check_wishes()

        finals, _ = Confirmation(
            self.sweep, self.journal, self.pipeline, self.space, measure, self.watcher.stage, self.watcher.record
        ).run()
        self.journal.append("final", records=finals, threads=placement.threads)


def _limit(pipeline: Pipeline, where: Where) -> int | None:
    """Bytes that one worker process may take; on a cluster each worker looks what its node has."""
    import torch

    from gcsearch import memory

    if pipeline.resources.memory != "auto":
        return bytes_of(pipeline.resources.memory)
    if where.cluster:
        return None
    device = torch.device("cuda" if where.placement.gpus_per_worker else "cpu")
    return memory.share_of_free(where.share, device)


def cancel(name: str, *, store: str | Path | None = None) -> Seen | None:
    """End the sweep `name` now; `run` does not go on with it any more, `resume` does.

    Returns the driver that was asked to do so; None where nobody drives the sweep and it is marked at once.

    Raises:
        InputError: there is no such sweep, or it is finished.
    """
    sweep = open_sweep(name, store)
    lease = sweep.store.lease(name)
    if asked := ask(lease, Wish.CANCEL):
        return asked
    if over(sweep.journal):
        raise InputError("a finished sweep cannot be cancelled", file=sweep.folder, received=name)
    with driving(lease, f"the sweep {name}") as driver:
        journal = _guarded(sweep, driver)
        if journal.ended() != "CANCELLED":
            journal.append("close", why="CANCELLED")
    return None


def sync(name: str, *, store: str | Path | None = None, watcher: Watcher | None = None) -> int:
    """Write to MLflow what it lacks of the sweep `name`; returns how many runs were written.

    Raises:
        InputError: there is no such sweep, or it is running: its driver does this itself.
        RunError: MLflow does not answer.
    """
    from gcsearch.mirror import Mirror

    sweep, listener = open_sweep(name, store), watcher or Watcher()
    with driving(sweep.store.lease(name), f"the sweep {name}", listener.warn) as driver:
        return Mirror(sweep, _guarded(sweep, driver), listener.warn, listener.mended).sync()


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
