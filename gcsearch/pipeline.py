"""The composition root: the only module that introduces the stages to one another."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcsearch import files, methods, selection, shapes, spaces
from gcsearch.errors import GcsearchError, InputError, RunError, TooManyFailures, unknown_name
from gcsearch.journal import Journal
from gcsearch.provenance import cores, environment
from gcsearch.schema import (
    EpochReport,
    Outcome,
    Pipeline,
    Proposal,
    Stage,
    Task,
    TrialConfig,
    TrialFile,
    TrialRecord,
)
from gcsearch.spaces import SearchSpace
from gcsearch.store import Store, cache_folder

if TYPE_CHECKING:
    from torch import Tensor

    from gcsearch.backbone import Backbone
    from gcsearch.search import Placement
    from gcsearch.tracking import Status, Tracker
    from gcsearch.training import Episode
    from gcsearch.trial import Laboratory, Trial

CHAMPION = "champion"


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
    _resolve_space(content, path.parent)
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    pipeline = Pipeline.from_dict(content, file=path)
    try:
        check(pipeline)
    except InputError as error:
        raise error.at(file=path) from None
    return pipeline


def _resolve_space(content: dict[str, Any], folder: Path) -> None:
    """A search space named by a path is looked for beside the pipeline's file first."""
    search = content.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    if isinstance(search, dict) and isinstance(space, str) and (folder / space).is_file():
        search["space"] = str((folder / space).absolute())


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


def _reference(name: str, space: SearchSpace, key: str = "confirm.references") -> TrialConfig:
    """The setting that a reference names: a method at its defaults, or a point of the space by its label."""
    for point in space.points:
        if point.label == name:
            return methods.complete(TrialConfig(method=space.method, hyperparameters=point.values))
    if name in methods.METHODS:
        return methods.complete(TrialConfig(method=name))
    known = [*methods.METHODS, *(point.label for point in space.points)]
    raise unknown_name("reference (a method, or a point of the space)", name, known, key=key)


# --- Data and workers -----------------------------------------------------------------------------------


def data_root(task: Task, watcher: Watcher | None = None) -> Path:
    """The folder that holds the task's data set; an embedded one is drawn there on first use."""
    if task.root is not None:
        return Path(task.root).expanduser()
    root = cache_folder() / "data"
    if task.dataset in shapes.WORLDS:
        shapes.write_dataset(task.dataset, root, on_image=watcher.progress if watcher else None)
    return root


def backbone_of(task: Task) -> Backbone:
    """The task's frozen model, on the GPU where there is one; kept for the life of the process."""
    return _backbone(task.backbone, task.pretrained)


@cache
def _backbone(name: str, pretrained: str | None) -> Backbone:
    from gcsearch.backbone import load

    return load(name, pretrained, device="cuda" if gpus() else "cpu")


@cache
def laboratory(task: Task) -> Laboratory:
    """The task with its model and data loaded; kept for the life of the process."""
    from gcsearch import datasets
    from gcsearch.features import FeatureCache
    from gcsearch.trial import Laboratory

    frozen = backbone_of(task)
    dataset = datasets.load(task.dataset, data_root(task))
    return Laboratory(task, frozen, dataset, FeatureCache(cache_folder() / "features", frozen))


@cache
def _episodes(task: Task, stage: Stage, seeds: tuple[int, ...]) -> list[Episode]:
    return laboratory(task).episodes(stage, seeds)


@dataclass(frozen=True)
class PackRunner:
    """What a worker process does with the settings of a pack; small, because it travels to the worker."""

    task: Task
    stage: Stage
    seeds: tuple[int, ...]
    evaluate_every: int
    cache: str
    contexts: str | None = None

    def __call__(self, proposals: list[Proposal], report: Callable[[list[EpochReport]], None]) -> list[TrialRecord]:
        """Train the settings; the context vectors go to the folder `contexts` where one is named."""
        from gcsearch.trial import run_pack

        os.environ["GCSEARCH_CACHE"] = self.cache
        trials = run_pack(
            laboratory(self.task),
            _episodes(self.task, self.stage, self.seeds),
            proposals,
            evaluate_every=self.evaluate_every,
            on_reports=report,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
        if self.contexts:
            for trial in trials:
                _save_contexts(_context_file(self.contexts, trial.record.number), trial)
        return [trial.record for trial in trials]


def _context_file(folder: str | Path, number: int) -> Path:
    return Path(folder) / f"{number}.safetensors"


def _save_contexts(path: Path, trial: Trial) -> None:
    import safetensors.torch

    tensors = {f"seed_{seed}": c for seed, c in zip(trial.record.seeds, trial.contexts, strict=False)}
    files.write_whole(path, safetensors.torch.save(tensors, metadata={"config": trial.record.config.digest}))


# --- A sweep --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk: what it was asked for and what came of it."""

    name: str
    store: Store
    folder: Path

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "journal.jsonl")

    @cached_property
    def id(self) -> str:
        """Name and eight random digits: tells this sweep from a former one of the same name."""
        opened = self.journal.events("open")
        return str(opened[0]["id"]) if opened else f"{self.name}-{secrets.token_hex(4)}"

    @cached_property
    def pipeline(self) -> Pipeline:
        path = self.folder / "pipeline.toml"
        return Pipeline.from_dict(files.read_toml(path), file=path)

    @cached_property
    def space(self) -> SearchSpace:
        return spaces.load(self.folder / "space.toml")

    @cached_property
    def records(self) -> list[TrialRecord]:
        """The search's records by number, the last of each, with their MLflow runs."""
        latest = {record.number: record for record in self.journal.records()}
        runs = self._runs("search")
        return [record.model_copy(update={"run_id": runs.get(number, "")}) for number, record in sorted(latest.items())]

    @cached_property
    def finals(self) -> list[TrialRecord]:
        """The confirmed settings (stage `test`): references first, the champion last. Empty before."""
        runs = self._runs("test")
        return [record.model_copy(update={"run_id": runs.get(record.number, "")}) for record in self.journal.final()]

    def _runs(self, stage: Stage) -> dict[int, str]:
        return {e["number"]: e["run_id"] for e in self.journal.events("run") if e["stage"] == stage}

    @property
    def ranking(self) -> list[selection.Ranked]:
        """All settings of the search, best first."""
        return selection.rank(self.records, self.pipeline.search.objective)

    @property
    def champion(self) -> TrialRecord:
        """The chosen setting's search record. RunError where no trial completed."""
        return selection.champion(self.ranking)

    def export(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the champion to `folder`, see `gcsearch.export`, and return the folder."""
        return export_sweep(self, Path(folder), force=force)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report (one HTML file) to `path`, by default into the sweep's folder."""
        return write_report(self, Path(path) if path else self.folder / "report.html")


def open_sweep(name: str, store: str | Path | None = None) -> Sweep:
    """The sweep `name` of a store. InputError, listing the sweeps there are, when it is missing."""
    located = Store.locate(store)
    return Sweep(name, located, located.existing_sweep(name))


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
    sweep = _open_or_begin(pipeline, located, fresh)
    session = _Session(sweep, pipeline, space, watcher or Watcher())
    session.run()
    return Sweep(sweep.name, located, sweep.folder)


def is_finished(pipeline: Pipeline, store: str | Path | None = None) -> bool:
    """Whether the sweep of this name has been through all stages."""
    return bool(Journal(Store.locate(store).sweep(pipeline.name) / "journal.jsonl").final())


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

        if self.journal.final():
            return
        self.journal.append("open", id=self.sweep.id, environment=environment())
        placement = self._place()
        self._prepare()
        tracker = self._track()
        status: Status = "KILLED"
        try:
            with search.session(placement):
                self._search(tracker, placement)
                self._confirm(tracker, placement)
            tracker.log_artifact(self.sweep.report())
            status = "FINISHED"
        except GcsearchError:
            status = "FAILED"
            raise
        finally:
            # Reached by Ctrl-C and SIGTERM too: what is over is written before the process ends.
            trouble = tracker.close(status)
            if trouble:
                self.watcher.warn(trouble)
            self.journal.append("close", why=status)
        self._judge()

    def _place(self) -> Placement:
        from gcsearch import search

        return search.place(
            self.pipeline.resources, cores=cores(), gpus=gpus(), generation=self.pipeline.search.generation
        )

    def _prepare(self) -> None:
        """Everything that trials read is computed here once, so that workers only read it."""
        task = self.pipeline.task
        self.watcher.stage("data")
        data_root(task, self.watcher)
        lab = laboratory(task)
        self.watcher.stage("features")
        lab.episodes("search", task.seeds, self.watcher.progress)
        lab.episodes("test", self.pipeline.confirm.seeds, self.watcher.progress)

    def _track(self) -> Tracker:
        from gcsearch.tracking import Tracker

        chosen, store = self.pipeline.tracking, self.sweep.store
        store.root.mkdir(parents=True, exist_ok=True)
        tracker = Tracker(
            chosen.uri or store.mlflow_uri,
            chosen.experiment or self.pipeline.name,
            None if chosen.uri else store.artifacts,
            on_run=lambda number, stage, run_id: self.journal.append("run", number=number, stage=stage, run_id=run_id),
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
        return PackRunner(
            self.pipeline.task,
            stage,
            seeds,
            self.pipeline.evaluate_every,
            str(cache_folder()),
            str(contexts) if contexts else None,
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
            self.watcher.record(record)

        runner = self._runner("test", self.pipeline.confirm.seeds, self.sweep.folder / "final")
        for record in search.run_settings(missing, placement, runner, stage="test", on_record=on_record):
            done[record.number, record.config.digest] = record
        finals = [done[p.number, p.config.digest].model_copy(update={"label": label}) for p, label in settings]
        for record in finals:
            tracker.submit(record)
        tracker.flush()
        self.journal.append("final", records=finals, threads=placement.threads)

    def _final_settings(self) -> list[tuple[Proposal, str]]:
        """References, numbered -1, -2, ... because they are no trials of the search, and then the champion."""
        found = Sweep(self.sweep.name, self.sweep.store, self.sweep.folder).champion
        settings = [
            (Proposal(number=-1 - index, config=_reference(name, self.space)), reference_title(name, self.space))
            for index, name in enumerate(self.pipeline.confirm.references)
        ]
        chosen = Proposal(number=found.number, config=methods.complete(found.config))
        return [*settings, (chosen, CHAMPION)]

    def _judge(self) -> None:
        broken = [r for r in self.journal.final() if r.outcome is not Outcome.COMPLETE]
        if broken:
            raise RunError(f"{broken[0].label} could not be confirmed: {broken[0].reason}")
        failed = [r for r in Sweep(self.sweep.name, self.sweep.store, self.sweep.folder).records if _failed(r)]
        if len(failed) > self.pipeline.search.max_failed:
            raise TooManyFailures(
                f"{len(failed)} trials failed, {self.pipeline.search.max_failed} are allowed "
                f"(search.max_failed). All other results are kept. The first reason: {failed[0].reason}"
            )


def _failed(record: TrialRecord) -> bool:
    return record.outcome is Outcome.FAILED


def reference_title(name: str, space: SearchSpace) -> str:
    """What a table calls a reference: the method's title, or the method's title and the point's label."""
    if any(point.label == name for point in space.points):
        return f"{methods.METHODS[space.method].title}, {name}"
    return methods.METHODS[name].title


# --- Results --------------------------------------------------------------------------------------------


def export_sweep(sweep: Sweep, folder: Path, *, force: bool = False) -> Path:
    """Write the confirmed champion of `sweep` to `folder`."""
    from gcsearch import export

    record = _confirmed(sweep)
    trial = TrialFile(
        stage="test",
        seeds=record.seeds,
        threads=sweep.journal.events("final")[-1]["threads"],
        evaluate_every=sweep.pipeline.evaluate_every,
        task=sweep.pipeline.task,
        trial=record.config,
    )
    lab = laboratory(sweep.pipeline.task)
    contexts = _load_contexts(sweep, record)
    names = {
        side: [lab.dataset.classes[i] for i in half] for side, half in zip(("base", "new"), lab.halves, strict=True)
    }
    every = tuple(names["base"] + names["new"])
    return export.write(
        folder,
        trial=trial,
        record=record,
        contexts=contexts,
        features=[_features(lab, context, every) for context in contexts],
        names=names,
        provenance=_provenance(sweep, record, lab),
        force=force,
    )


def _confirmed(sweep: Sweep) -> TrialRecord:
    finals = [record for record in sweep.finals if record.label == CHAMPION]
    if not finals:
        raise InputError(
            "only a finished sweep can be exported",
            file=sweep.folder,
            remedy=f"Finish it: gcsearch run {sweep.folder / 'pipeline.toml'}",
        )
    return finals[0]


def _load_contexts(sweep: Sweep, record: TrialRecord) -> list[Tensor]:
    import safetensors.torch

    tensors = safetensors.torch.load_file(_context_file(sweep.folder / "final", record.number))
    return [tensors[f"seed_{seed}"] for seed in record.seeds if f"seed_{seed}" in tensors]


def _features(lab: Laboratory, context: Tensor, names: tuple[str, ...]) -> Tensor:
    from gcsearch.prompts import context_features, suffix

    return context_features(
        lab.backbone.tower, context[None].to(lab.backbone.tower.device), suffix(lab.backbone, names)
    )[0].cpu()


def _provenance(sweep: Sweep, record: TrialRecord, lab: Laboratory) -> dict[str, Any]:
    return {
        "sweep": sweep.name,
        "chosen_by": next(row for row in sweep.ranking if row.record.number == record.number).to_dict(),
        "trials": len(sweep.records),
        "run_id": record.run_id,
        "weights": lab.backbone.fingerprint,
        "references": [r.to_dict() | {"curve": []} for r in sweep.finals if r.label != CHAMPION],
        "environment": environment(),
    }


def write_report(sweep: Sweep, path: Path) -> Path:
    """Draw the sweep's report to `path`."""
    from gcsearch import report

    html = report.build_report(
        sweep.pipeline,
        sweep.records,
        sweep.finals,
        sweep.champion.number if _any_complete(sweep) else None,
        environment(),
    )
    files.write_whole(path, html)
    return path


def _any_complete(sweep: Sweep) -> bool:
    return any(record.outcome is Outcome.COMPLETE for record in sweep.records)


# --- One configuration, no search -----------------------------------------------------------------------


def load_trial(path: str | Path) -> TrialFile:
    """Read an exported `config.toml`; checked down to the method's hyper-parameters."""
    path = Path(path)
    trial = TrialFile.from_dict(files.read_toml(path), file=path)
    methods.build(trial.trial, file=path)
    return trial


def train(trial: TrialFile | str | Path, watcher: Watcher | None = None) -> TrialRecord:
    """Train and measure one configuration in this process, with the threads that it states."""
    import torch

    from gcsearch.trial import run_pack

    trial = trial if isinstance(trial, TrialFile) else load_trial(trial)
    methods.build(trial.trial)
    watcher = watcher or Watcher()
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)
    try:
        watcher.stage("data")
        data_root(trial.task, watcher)
        lab = laboratory(trial.task)
        watcher.stage("features")
        episodes = lab.episodes(trial.stage, trial.seeds, watcher.progress)
        epochs = int(getattr(methods.build(trial.trial), "epochs", 0))
        watcher.stage("train", epochs or None)
        (done,) = run_pack(
            lab,
            episodes,
            [Proposal(number=0, config=methods.complete(trial.trial))],
            evaluate_every=trial.evaluate_every,
            on_reports=watcher.reports,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
    finally:
        torch.set_num_threads(threads)
    return done.record


# --- Facts about this place -----------------------------------------------------------------------------


def gpus() -> int:
    """CUDA devices that torch sees."""
    import torch

    return torch.cuda.device_count()
