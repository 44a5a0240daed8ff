"""A sweep on disk: what it was asked for, what came of it, and what can be made of that."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.config.addresses import has_secrets, without_secrets
from gcsearch.config.base import plain_name
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.task import Task
from gcsearch.config.trials import Outcome, Role, TrialRecord
from gcsearch.errors import InputError
from gcsearch.results import ranking
from gcsearch.results.differences import joined_curve, pooled
from gcsearch.results.multi_dataset import as_dataset
from gcsearch.results.tables.table import record_entry, to_frame
from gcsearch.sweep.journal import Journal, RecordEvent, TrialProposed, run_key
from gcsearch.sweep.lease import living
from gcsearch.sweep.state import StateReader, SweepState, how_to_finish
from gcsearch.sweep.store import PIPELINE_FILE, SPACE_FILE, Store

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from gcsearch.results.report.picture import Picture, ReportData
    from gcsearch.results.report.study import EndedTrial, ProposedTrial, Storage, Study, StudySource

ADDRESS = "tracking-uri"

T = TypeVar("T")


def open_form(pipeline: Pipeline) -> Pipeline:
    """The pipeline as others may read it: its address without password and the like."""
    tracking = pipeline.tracking
    if tracking.uri is None or not has_secrets(tracking.uri):
        return pipeline
    uri = without_secrets(tracking.uri)
    return pipeline.model_copy(update={"tracking": tracking.model_copy(update={"uri": uri})})


def parameters_folder(folder: Path, whole: Task, task: Task) -> Path:
    """Where in `folder` the files of `task` lie, which is `whole` or the part of it on one data set."""
    return folder / plain_name(task.dataset) if whole.also else folder


def save_parameters(folder: Path, record: TrialRecord, parameters: Sequence[Tensor]) -> None:
    """Keep what a confirmed configuration trained below `folder`; nothing for one that trains nothing."""
    for seed, one in zip(record.seeds, parameters, strict=False):
        files.write_tensors(_parameter_file(folder, record, seed), {"prompt": one}, {"config": record.config.digest})


def load_parameters(folder: Path, record: TrialRecord) -> list[Tensor]:
    """What `save_parameters` kept, in the order of the record's seeds."""
    paths = [_parameter_file(folder, record, seed) for seed in record.seeds]
    return [_trained(path) for path in paths if path.exists()]


def _trained(path: Path) -> Tensor:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)["prompt"]
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        rule = f"the file must hold what a confirmed configuration trained: {error}"
        remedy = "It was damaged: restore it. The sweep's numbers are in its journal and as they were."
        raise InputError(rule, file=path, remedy=remedy) from None


def _parameter_file(folder: Path, record: TrialRecord, seed: int) -> Path:
    # A file for each seed: seeds that are added later leave the others as they are.
    return folder / f"{record.number}.seed_{seed}.safetensors"


class _by_state(Generic[T]):  # noqa: N801 - used as `property` is
    """A property of a sweep that is computed anew only once its journal has grown."""

    def __init__(self, compute: Callable[[Sweep], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, sweep: Sweep, owner: type[Sweep]) -> T:
        state = sweep.state
        known: tuple[SweepState, T] | None = vars(sweep).get(self._compute.__name__)
        if known is None or known[0] is not state:
            known = vars(sweep)[self._compute.__name__] = state, self._compute(sweep)
        return known[1]

    def __set__(self, sweep: Sweep, value: T) -> None:
        raise AttributeError("what a sweep's journal says is not set")


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk: what it was asked for and what came of it."""

    name: str
    store: Store
    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        # What was read of its files is read anew by whoever unpickles it: a process of joblib, for example.
        return {"name": self.name, "store": self.store, "folder": self.folder}

    @classmethod
    def named(cls, name: str, store: Store) -> Sweep:
        """The sweep `name` of a store, begun or not."""
        return cls(name, store, store.sweep(name))

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "journal.jsonl")

    def command(self, verb: str, *options: str) -> str:
        """The command that does `verb` to this sweep, see `Store.command`."""
        return self.store.command(verb, self.name, *options)

    @cached_property
    def _reader(self) -> StateReader:
        return StateReader(self.journal)

    @property
    def state(self) -> SweepState:
        """What the journal says now."""
        return self._reader.look()

    @property
    def id(self) -> str:
        """Name and eight random digits: tells this sweep from a former one of the same name."""
        return self.state.id or self._new_id

    @cached_property
    def _new_id(self) -> str:
        return f"{self.name}-{secrets.token_hex(4)}"

    @cached_property
    def _written(self) -> Pipeline:
        """The content of the sweep's pipeline.toml, in which earlier versions kept secrets."""
        path = self.folder / PIPELINE_FILE
        pipeline = Pipeline.from_dict(files.read_toml(path), file=path)
        return self._on_kept_space(pipeline) if files.is_file_name(pipeline.search.space) else pipeline

    @cached_property
    def pipeline(self) -> Pipeline:
        """What the sweep was asked for, without the secrets of its address: those are in `mlflow_uri` only."""
        return open_form(self._written)

    @property
    def as_begun(self) -> Pipeline:
        """The pipeline on the space that the sweep began with, wherever the space's own file may be now."""
        return self._on_kept_space(self.pipeline)

    def _on_kept_space(self, pipeline: Pipeline) -> Pipeline:
        search = pipeline.search.model_copy(update={"space": str(self.folder / SPACE_FILE)})
        return pipeline.model_copy(update={"search": search})

    @property
    def trials(self) -> int:
        """How many configurations the sweep is to try: those of its pipeline, or as many as it was extended to."""
        return self.state.trials or self.pipeline.search.trials

    @property
    def kept(self) -> Path:
        """The folder of what the confirmed configurations trained."""
        return self.folder / "final"

    @_by_state
    def records(self) -> list[TrialRecord]:
        """The search's records by number, the last of each, with their curves and MLflow runs."""
        return self.with_curves(self.searched)

    @_by_state
    def searched(self) -> list[TrialRecord]:
        """As `records`, without curves: those of a long sweep take more memory and time than all else of it."""
        state = self.state
        return _with_runs([record for _, record in sorted(state.records.items())], state)

    def with_curves(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Records of the search, each with the curve that the journal has of it."""
        places = self.state.places
        events = [self.journal.read(places[record.number]) for record in records]
        curves = [event.record.curve for event in events if isinstance(event, RecordEvent)]
        return [one.model_copy(update={"curve": curve}) for one, curve in zip(records, curves, strict=True)]

    def confirmed_with_curves(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Records of the confirmation, each with its curve: the epochs that were measured with all of its seeds."""
        events = [self.journal.read(place) for place in self.state.confirmed_places]
        parts = [event.record for event in events if isinstance(event, RecordEvent)]
        return [
            one.model_copy(update={"curve": joined_curve([p for p in parts if _is_part(p, one)])}) for one in records
        ]

    @_by_state
    def finals(self) -> list[TrialRecord]:
        """The confirmed configurations (stage `test`), without curves: references first, the champion last."""
        state = self.state
        return _with_runs(state.final.records if state.final else (), state)

    @cached_property
    def space(self) -> SearchSpace | None:
        """The search space that the sweep began with, capped; None where its file is not there or not right."""
        try:
            return search_space.load(self.folder / SPACE_FILE).capped(self.pipeline.search.cap)
        except InputError:
            return None

    @_by_state
    def ranking(self) -> ranking.Ranking:
        """All configurations of the search, best first, without curves."""
        return ranking.ranking(self.pipeline, self.searched)

    def to_frame(self) -> DataFrame:
        """All numbers of the sweep as a DataFrame in long form, those of the search and of the confirmation.

        A line for each record, metric and seed: `stage`, `role`, `trial`, `label`, `outcome`, `method`,
        `params_NAME`..., `metric`, `seed`, `value`.
        """
        return to_frame(map(record_entry, (*self.searched, *self.finals)))

    def _repr_html_(self) -> str:
        return self.ranking._repr_html_()

    @property
    def worst_regrets(self) -> dict[int, float]:
        """Of a search on several data sets: how far each completed configuration is behind the best there, where it is
        worst.

        By number; empty for a search on one data set.
        """
        return {row.record.number: row.worst_regret for row in self.ranking if row.worst_regret is not None}

    @property
    def confirmed_seeds(self) -> list[tuple[int, ...]]:
        """The seeds of the confirmation in the batches in which they were asked for."""
        return [self.pipeline.confirm.seeds, *self.state.seeds]

    @_by_state
    def rechecked(self) -> list[TrialRecord]:
        """The shortlist as measured again with the seeds of the confirmation, the seeds of all batches together.

        Where the objective is an oracle these are the confirmed records themselves, see `gcsearch.driver.confirm`.
        """
        if self.pipeline.search.oracle:
            again = [one for one in self.finals if one.role is not Role.REFERENCE and one.outcome is Outcome.COMPLETE]
            return sorted(again, key=lambda record: record.number) if len(again) > 1 else []
        parts: dict[int, dict[tuple[int, ...], TrialRecord]] = {}
        chosen = {record.number: record.config for record in self.finals if record.role is not Role.REFERENCE}
        for record in self.state.rechecked:
            if chosen.get(record.number) == record.config and record.outcome is Outcome.COMPLETE:
                parts.setdefault(record.number, {})[record.seeds] = record
        return [pooled(batches.values()) for _, batches in sorted(parts.items())]

    @property
    def champion(self) -> TrialRecord:
        """The search record of the configuration that was chosen; of the first in the ranking before the confirmation.

        RunError where no trial completed.
        """
        confirmed = self.confirmed
        chosen = next((record for record in self.searched if confirmed and record.number == confirmed.number), None)
        return chosen or ranking.champion(self.ranking)

    @property
    def confirmed(self) -> TrialRecord | None:
        """The champion's record on test images; None before the confirmation."""
        return next((record for record in self.finals if record.role is Role.CHAMPION), None)

    @property
    def mlflow_uri(self) -> str:
        """The MLflow store that keeps the sweep's runs."""
        if self.address.exists():
            return files.read_text(self.address).strip()
        return self._written.tracking.uri or self.store.mlflow_uri

    @property
    def address(self) -> Path:
        """The file of the address with its secrets, which only its owner can read. There where it has some."""
        return self.folder / ADDRESS

    def keep_address(self, uri: str | None) -> None:
        """Keep `uri` so that who goes on finds its secrets; without any, those of the same address stay."""
        if uri and has_secrets(uri):
            files.write_whole(self.address, uri + "\n", mode=0o600)
        elif self.address.exists() and uri != without_secrets(files.read_text(self.address).strip()):
            self.address.unlink()

    def hide_address(self) -> None:
        """Take the secrets of its address out of a pipeline.toml that an earlier version wrote."""
        if self._written != self.pipeline:
            self.keep_address(self._written.tracking.uri)
            content = files.read_toml(self.folder / PIPELINE_FILE)
            content["tracking"]["uri"] = self.pipeline.tracking.uri
            files.write_whole(self.folder / PIPELINE_FILE, files.to_toml(content))

    def export(
        self, folder: str | Path, *, classes: Sequence[str] = (), calibrate: bool = False, force: bool = False
    ) -> Path:
        """Write the champion to `folder`, see `gcsearch.export.bundle`, and return the folder.

        `classes`: further names to make text features of. `calibrate`: fit a temperature on validation images.
        """
        return export_sweep(self, files.absolute(folder, key="--out"), given=classes, calibrate=calibrate, force=force)

    @property
    def pictures(self) -> list[Picture]:
        """The report's pictures: each has a `name`, a `caption`, its data as `frame` and a plotly `figure`."""
        from gcsearch.results.report.pages.sweep import report_pictures

        return report_pictures(report_data(self))

    def report(
        self,
        path: str | Path | None = None,
        *,
        figures: str | Path | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> Path:
        """Write the report (one HTML file) to `path`, by default into the sweep's folder.

        `figures` is a folder for its pictures as CSV, PNG and SVG; `warn` is told of what could not be drawn.
        """
        from gcsearch.sweep.gathering import write_report

        path = Path(path) if path else self.folder / "report.html"
        return write_report(self, path, Path(figures) if figures else None, warn)

    def to_study(self, storage: Storage | None = None, name: str | None = None, *, replace: bool = False) -> Study:
        """The search as an Optuna study, for Optuna's own tools; in memory, or written to a storage of Optuna's.

        Trials keep their numbers and have their true states, intermediate values and times; what else is known of them
        is in their attributes, see docs/python.md. A study that was written before is brought up to date.

        Args:
            storage: a URL such as `sqlite:///study.db`, the file of a journal of Optuna's, or an object of it.
            name: of the study, by default the sweep's.
            replace: also a study of this name that is not this sweep's.
        """
        from gcsearch.results.report import study

        return study.write(_study_source(self), storage, name or self.name, replace=replace)


def _study_source(sweep: Sweep) -> StudySource:
    """What the study of the sweep is made of, as its journal is now."""
    from gcsearch.results.report.study import StudySource

    state = sweep.state
    return StudySource(sweep.id, state.lines, report_data(sweep), _study_trials(sweep, state))


def _study_trials(sweep: Sweep, state: SweepState) -> Iterator[EndedTrial | ProposedTrial]:
    """The trials of the search by number, those that were proposed and have no record included."""
    from gcsearch.results.report.study import EndedTrial, ProposedTrial

    driven = bool(state.running and living(sweep.store.lease(sweep.name)))
    asked = {one.number: one for one in sweep.journal.events(TrialProposed)} if state.running else {}
    for number in sorted(state.records.keys() | state.running):
        if number in state.records:
            event = sweep.journal.read(state.places[number])
            if isinstance(event, RecordEvent):
                yield EndedTrial(event.record, event.time)
        else:
            one = asked[number]
            yield ProposedTrial(number, one.config, one.time, one.label, trains=driven)


def _is_part(part: TrialRecord, whole: TrialRecord) -> bool:
    """Whether a record of some seeds is of the same configuration, and ended well."""
    return (part.number, part.config, part.outcome) == (whole.number, whole.config, Outcome.COMPLETE)


def _with_runs(records: Sequence[TrialRecord], state: SweepState) -> list[TrialRecord]:
    """The records with the ids of their MLflow runs, as far as there are any."""
    return [one.model_copy(update={"run_id": state.runs.get(run_key(one), "")}) for one in records]


def open_sweep(name: str, store: str | Path | None = None) -> Sweep:
    """The sweep `name` of a store. InputError, listing the sweeps there are, when it is missing."""
    located = Store.locate(store)
    located.existing_sweep(name)
    return Sweep.named(name, located)


def check_free(folder: Path, whole: Task, *, force: bool, key: str = "--out") -> None:
    """InputError where the exports of a sweep may not be written to `folder`: of several data sets all or none."""
    from gcsearch.export import bundle

    for task in whole.each:
        bundle.check_free(parameters_folder(folder, whole, task), force=force, key=key)


def export_sweep(
    sweep: Sweep, folder: Path, *, given: Sequence[str] = (), calibrate: bool = False, force: bool = False
) -> Path:
    """Write the confirmed champion of `sweep` to `folder`, with text features of the `given` names too."""
    from gcsearch.config.addresses import shown
    from gcsearch.export import bundle
    from gcsearch.sweep import measured
    from gcsearch.training import loading

    record, final = sweep.confirmed, sweep.state.final
    if record is None or final is None:
        raise InputError(
            "only a finished sweep can be exported",
            file=sweep.folder,
            remedy=how_to_finish(sweep),
        )
    if record.outcome is not Outcome.COMPLETE:
        raise InputError(
            f"only a confirmed champion can be exported, and this one {record.outcome.value}: {record.reason}",
            file=sweep.folder,
            remedy=f"`{sweep.command('resume')}` measures again what failed; where that does not help, try more: "
            f"`{sweep.command('extend', '--trials', '8')}`.",
        )
    whole = sweep.pipeline.task
    references = [other for other in sweep.finals if other.role is not Role.CHAMPION]
    row = next(row for row in sweep.ranking if row.record.number == record.number)
    # The number beside it is the mean, which no data set has by itself.
    over = ", ".join(part.dataset for part in whole.each)
    criterion = f"{sweep.pipeline.search.criterion} (mean over {over})" if whole.also else ""

    known = sweep.state.measured

    def champion(task: Task) -> bundle.Champion:
        seen = view_of(whole, task)
        return bundle.Champion(
            sweep=sweep.name,
            pipeline=sweep.pipeline.model_copy(update={"task": task}),
            threads=final.threads,
            record=seen(record),
            parameters=load_parameters(parameters_folder(sweep.kept, whole, task), record),
            references=[seen(other) for other in references],
            chosen=row.document(),
            trials=len(sweep.state.records),
            tracking=shown(sweep.mlflow_uri),
            criterion=criterion,
            draws=measured.draws_of(known, loading.laboratory(task).dataset, record.seeds),
            **_findings(sweep, task, seen),
        )

    check_free(folder, whole, force=force)
    for task in whole.each:
        measured.check_model(known, sweep.folder, loading.laboratory(task))
    for task in whole.each:
        place, lab = parameters_folder(folder, whole, task), loading.laboratory(task)
        bundle.write(place, champion(task), lab, given=given, calibrate=calibrate, force=force)
    return folder.resolve()


def _findings(sweep: Sweep, task: Task, seen: Callable[[TrialRecord], TrialRecord]) -> dict[str, Any]:
    """What the confirmed numbers on one data set say of the champion: sentences, and differences to the references."""
    from gcsearch.results.documents import Against
    from gcsearch.results.report import findings

    finals = [seen(record) for record in sweep.finals]
    pipeline = sweep.pipeline.model_copy(update={"task": task})
    metric = findings.deciding(finals, task)
    rows = findings.confirmed_rows(finals, task)
    return {
        "verdict": findings.headline(pipeline, sweep.searched, finals, sweep.champion.number),
        "leads": [Against(name=row.name, metric=metric, **row.lead.to_dict()) for row in rows if row.lead],
    }


def view_of(whole: Task, task: Task) -> Callable[[TrialRecord], TrialRecord]:
    """What a record of the task `whole` is on the data set of `task`."""
    if not whole.also:
        return lambda record: record
    names = [part.dataset for part in whole.each]
    return lambda record: as_dataset(record, task.dataset, names)


def report_data(sweep: Sweep) -> ReportData:
    """All that the sweep's report is made of."""
    from gcsearch.results.report.picture import ReportData

    return ReportData(
        sweep.pipeline,
        sweep.searched,
        sweep.finals,
        sweep.champion.number if any(row.rank for row in sweep.ranking) else None,
        rechecked=sweep.rechecked,
        with_curves=sweep.with_curves,
        confirmed_with_curves=sweep.confirmed_with_curves,
        space=sweep.space,
        stage_seconds=sweep.state.stage_seconds,
    )
