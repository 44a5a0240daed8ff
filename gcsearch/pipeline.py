"""The composition root: the only module that introduces the stages to one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcsearch import files, methods, shapes, spaces
from gcsearch.errors import InputError, RunError, TooManyFailures, unknown_name
from gcsearch.journal import Journal
from gcsearch.provenance import cores, environment, process_name
from gcsearch.schema import (
    EpochReport,
    Outcome,
    Pipeline,
    Proposal,
    Stage,
    TrialConfig,
    TrialFile,
    TrialRecord,
)
from gcsearch.spaces import SearchSpace
from gcsearch.store import Store, cache_folder, locked
from gcsearch.sweep import CHAMPION, Sweep

if TYPE_CHECKING:
    from gcsearch.laboratory import Laboratory
    from gcsearch.search import Placement
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


# --- Reading and checking -------------------------------------------------------------------------------


def load(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> Pipeline:
    """Read a pipeline: a shipped name or a path. `overrides` are dotted keys with TOML values.

    Raises InputError with file, key, rule, value and remedy for whatever is wrong in it or in its space.
    """
    path = files.find("pipelines", name_or_path, kind="pipeline")
    content = files.read_toml(path)
    content.setdefault("name", path.stem)
    _resolve_paths(content, path.parent)
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    pipeline = Pipeline.from_dict(content, file=path)
    try:
        check(pipeline)
    except InputError as error:
        raise error.at(file=path) from None
    return pipeline


def _resolve_paths(content: dict[str, Any], folder: Path) -> None:
    """Relative paths in a pipeline's file, of its data and its search space, start at the file's folder."""
    for table, key in (("search", "space"), ("task", "root")):
        values = content.get(table)
        value = values.get(key) if isinstance(values, dict) else None
        if isinstance(values, dict) and isinstance(value, str) and (folder / value).exists():
            values[key] = str((folder / value).absolute())


def _override(content: dict[str, Any], key: str, value: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise InputError("a dotted key must lead through tables", file="--set", key=key)
    content[last] = parse_value(value)


def parse_value(text: str) -> Any:
    """A value from the command line: TOML where it is TOML (0.1, true, [1, 2]), else the text itself."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check(pipeline: Pipeline) -> SearchSpace:
    """Check what a pipeline names: data set, backbone, space against its method, references.

    Reads small files only; nothing is loaded or started. Returns the search space.
    """
    from gcsearch.datasets import DATASETS

    if pipeline.task.dataset not in DATASETS:
        raise unknown_name("data set", pipeline.task.dataset, DATASETS, key="task.dataset")
    if pipeline.task.root is None and pipeline.task.dataset not in shapes.WORLDS:
        raise InputError(
            "a data set that is not embedded needs the folder that holds it",
            key="task.root",
            remedy='Add `root = "/path/to/data"` to [task].',
        )
    space = spaces.load(pipeline.search.space)
    _check_space(space, spaces.find(pipeline.search.space))
    for index, reference in enumerate(pipeline.confirm.references):
        _reference(reference, space, f"confirm.references.{index}")
    return space


def _check_space(space: SearchSpace, file: Path) -> None:
    """Every parameter must be one of its method's, and both ends of every range a value it takes."""
    if space.method not in methods.METHODS:
        raise unknown_name("method", space.method, methods.METHODS, file=file, key="method")
    for name, parameter in space.parameters.items():
        if name not in methods.METHODS[space.method].model_fields:
            known = methods.METHODS[space.method].model_fields
            raise unknown_name(f"parameter of {space.method}", name, known, file=file, key=f"parameters.{name}")
        for value in spaces.extremes(parameter):
            hyperparameters = {name: value}
            try:
                methods.build(TrialConfig(method=space.method, hyperparameters=hyperparameters))
            except InputError as error:
                key = f"parameters.{name}"
                raise InputError(
                    error.rule, file=file, key=key, received=error.received, remedy="Narrow the range."
                ) from None


def _reference(name: str, space: SearchSpace, key: str = "confirm.references") -> tuple[TrialConfig, str]:
    """The setting that a reference names, and its title in tables.

    A point of the space by its label ("GCSCoOp, literature"), or a method at its defaults ("CoOp").
    """
    for point in space.points:
        if point.label == name:
            config = TrialConfig(method=space.method, hyperparameters=point.values)
            return methods.complete(config), f"{methods.METHODS[space.method].title}, {name}"
    if name in methods.METHODS:
        return methods.complete(TrialConfig(method=name)), methods.METHODS[name].title
    known = [*methods.METHODS, *(point.label for point in space.points)]
    raise unknown_name("reference (a method, or a point of the space)", name, known, key=key)


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
        sweep = _open_or_begin(pipeline, located, fresh)
        _Session(sweep, pipeline, space, watcher or Watcher()).run()
    return Sweep(sweep.name, located, sweep.folder)


def is_finished(pipeline: Pipeline, store: str | Path | None = None) -> bool:
    """Whether the sweep of this name has been through all stages."""
    return _over(Journal(Store.locate(store).sweep(pipeline.name) / "journal.jsonl"))


def _over(journal: Journal) -> bool:
    closed = journal.events("close")
    return bool(closed) and closed[-1]["why"] == "FINISHED"


def _open_or_begin(pipeline: Pipeline, store: Store, fresh: bool) -> Sweep:
    folder = store.sweep(pipeline.name)
    if folder.exists() and fresh:
        folder.rename(_free_name(folder))
    text = files.to_toml(pipeline.to_dict(), f"Sweep {pipeline.name}: the pipeline as it was run.")
    space = spaces.find(pipeline.search.space).read_text(encoding="utf-8")
    if (folder / "pipeline.toml").exists():
        former = (folder / "pipeline.toml").read_text(), (folder / "space.toml").read_text()
        if former != (text, space):
            raise InputError(
                "a sweep goes on with the pipeline and space that it began with; these differ",
                file=folder / "pipeline.toml",
                key="name",
                received=pipeline.name,
                remedy="Begin another sweep with `--set name=OTHER`, or anew with --fresh (the old one is kept).",
            )
    else:
        files.write_whole(folder / "space.toml", space)
        files.write_whole(folder / "pipeline.toml", text)
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

    def run(self) -> None:
        """All stages; those that the journal shows as done are skipped."""
        from gcsearch import search

        if _over(self.journal):
            return
        self.journal.append("open", id=self.sweep.id, environment=environment())
        placement = self._place()
        self._prepare()
        tracker = self._track()
        status: Status = "KILLED"
        try:
            if not self.journal.final():
                with search.session(placement):
                    self._search(tracker, placement)
                    self._confirm(tracker, placement)
            tracker.log_artifact(self.sweep.report())
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
        from gcsearch import laboratory, search

        return search.place(
            self.pipeline.resources, cores=cores(), gpus=laboratory.gpus(), generation=self.pipeline.search.generation
        )

    def _prepare(self) -> None:
        """Everything that trials read is computed here once, so that workers only read it."""
        from gcsearch import laboratory

        task = self.pipeline.task
        self.watcher.stage("data")
        laboratory.data_root(task, self.watcher.progress)
        lab = laboratory.of(task)
        lab.check_sizes()
        self._check_prompts(lab)
        self.watcher.stage("features")
        lab.episodes("search", task.seeds, self.watcher.progress)
        lab.episodes("test", self.pipeline.confirm.seeds, self.watcher.progress)

    def _check_prompts(self, lab: Laboratory) -> None:
        """Every prompt that the space can propose must fit the model: found here, not in the first worker."""
        values = [*(point.values for point in self.space.points), *self.space.sample(32, seed=0)]
        built = [methods.build(TrialConfig(method=self.space.method, hyperparameters=v)) for v in values]
        for n_ctx, words in {(m.n_ctx, m.ctx_init) for m in built if isinstance(m, methods.Trained)}:
            try:
                lab.check_prompt(n_ctx, words)
            except InputError as error:
                raise error.at(file=spaces.find(self.pipeline.search.space)) from None

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

        task = self.pipeline.task
        self.watcher.stage("search", self.pipeline.search.trials if self.space.searched else 1)
        known = self.journal.records()
        for record in {record.number: record for record in known}.values():
            self.watcher.record(record)
            tracker.submit(record)

        def on_proposal(proposal: Proposal, label: str) -> None:
            self.journal.append("proposal", number=proposal.number, config=proposal.config, label=label)
            self.watcher.proposal(proposal)

        def on_record(record: TrialRecord) -> None:
            self.journal.append("record", record=record)
            tracker.submit(record)
            self.watcher.record(record)

        search.run_search(
            self.space,
            self.pipeline.search,
            placement,
            self._runner("search", task.seeds),
            folder=self.sweep.folder,
            known=known,
            on_proposal=on_proposal,
            on_reports=self.watcher.reports,
            on_record=on_record,
        )

    def _runner(self, stage: Stage, seeds: tuple[int, ...], contexts: Path | None = None) -> PackRunner:
        from gcsearch.worker import PackRunner

        every = self.pipeline.evaluate_every
        return PackRunner(self.pipeline.task, stage, seeds, every, str(cache_folder()), contexts)

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
            self.watcher.record(record)

        runner = self._runner("test", self.pipeline.confirm.seeds, self.sweep.contexts)
        for record in search.run_settings(missing, placement, runner, stage="test", on_record=on_record):
            done[record.number, record.config.digest] = record
        finals = [done[p.number, p.config.digest].model_copy(update={"label": label}) for p, label in settings]
        for record in finals:
            tracker.submit(record)
        tracker.flush()
        self.journal.append("final", records=finals, threads=placement.threads)

    def _final_settings(self) -> list[tuple[Proposal, str]]:
        """References, numbered -1, -2, ... because they are no trials of the search, and then the champion."""
        settings = []
        for index, name in enumerate(self.pipeline.confirm.references):
            config, title = _reference(name, self.space)
            settings.append((Proposal(number=-1 - index, config=config), title))
        found = self.sweep.champion
        chosen = Proposal(number=found.number, config=methods.complete(found.config))
        return [*settings, (chosen, CHAMPION)]


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


def load_trial(path: str | Path) -> TrialFile:
    """Read an exported `config.toml`; checked down to the method's hyper-parameters."""
    path = Path(path) / "config.toml" if Path(path).is_dir() else Path(path)
    trial = TrialFile.from_dict(files.read_toml(path), file=path)
    methods.build(trial.trial, file=path)
    return trial


def train(trial: TrialFile | str | Path, watcher: Watcher | None = None) -> TrialRecord:
    """Train and measure one configuration in this process, with the threads that it states."""
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
        )
    finally:
        torch.set_num_threads(threads)
    return done.record
