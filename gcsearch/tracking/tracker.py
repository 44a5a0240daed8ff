"""MLflow, in and out: one parent run per sweep, one child run per setting.

Beside this module only `gcsearch.tracking.bulk` and the model registry import mlflow.

Only one process writes a sweep, with client objects and never MLflow's global state; `gcsearch.tracking.sync` decides
when.  Every run is looked up by its tags before it is created, so whatever is written again, after a kill or out
of a journal that was written long ago, meets the same runs.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
)
from mlflow.tracking import MlflowClient

from gcsearch.config.addresses import check_uri, is_server, scrubbed, shown, without_secrets
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.provenance import environment
from gcsearch.config.trials import EpochReport, Outcome, TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.files import write_whole
from gcsearch.methods.registry import Trained, title_and_tags
from gcsearch.tracking import relocation

if TYPE_CHECKING:
    from gcsearch.tracking.bulk import Tables, WholeRun

# MLflow reads these when it is imported or starts a server. Nothing is sent anywhere, nothing is printed
# to stdout, a dead server fails after seconds instead of minutes; whoever sets one himself is obeyed.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # pages of what comes out as an exception too

# MLflow's own tables use a loader that SQLAlchemy announces to remove; not ours to mend.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")

Status = Literal["FINISHED", "FAILED", "KILLED"]

_RECORD = "record.json"
_PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 6000, 8000, 36
_PARAMS_PER_BATCH, _ENTRIES_PER_BATCH = 100, 1000

_SHORT = {"rho": "rho", "beta1": "b1_", "beta2": "b2_"}  # first in the name of a run

_STATUS: dict[Outcome, Status] = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.PRUNED: "FINISHED",
    Outcome.DIVERGED: "FAILED",
    Outcome.FAILED: "FAILED",
}


@dataclass(frozen=True)
class _Child:
    """What the tracker needs to know of a child run; a whole `Run` for each of thousands is too much to keep."""

    run_id: str
    record: str  # digest of the record in it
    status: str
    began: int  # in milliseconds of Unix time

    @classmethod
    def of(cls, run: Run) -> _Child:
        return cls(run.info.run_id, run.data.tags.get("gcsearch.record", ""), run.info.status, run.info.start_time)


class Tracker:
    """Writes one sweep to MLflow, each call at once and in the caller's thread.

    `start_sweep` opens the parent run, `log_records` and `log_record` write settings, `end` ends the parent.  Writing
    what is there already changes nothing; `written` counts the runs that were not.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        """Open the store, making database and experiment where they are missing.

        Args:
            uri: a database (`sqlite:///...`, `postgresql://...`) or a server (`http://...`).
            experiment: name of the MLflow experiment.
            artifacts: the store's folder for the files of runs; None leaves them to the server. An experiment that
                has a bucket, or a folder that somebody has chosen, keeps it.

        Raises:
            InputError: the URI is of a kind that cannot be used.
            RunError: the store does not answer.
        """
        self.uri = uri
        self.client = _connect(uri)
        with _speaking_of(uri):
            self.experiment_id = _experiment(self.client, experiment, artifacts)
            self._artifacts = self._own(artifacts)
            self._tables = None if is_server(uri) else self._find_tables()
        self.parent = ""
        self.written = 0
        self._sweep = ""
        self._children: dict[tuple[str, ...], _Child] = {}

    def _own(self, artifacts: Path | None) -> Path | None:
        """The folder `artifacts` where the files of the experiment's runs belong into it, else None."""
        location = self.client.get_experiment(self.experiment_id).artifact_location
        return artifacts.absolute() if artifacts and relocation.is_of_a_store(location, artifacts.absolute()) else None

    def _claim(self, *runs: Run) -> None:
        """See to it that the runs' files are looked for, and written, in the store as it lies now."""
        if self._artifacts:
            relocation.claim(self.uri, self._artifacts, {run.info.run_id: run.info.artifact_uri for run in runs})

    # The parent run

    def start_sweep(
        self,
        name: str,
        pipeline: Pipeline,
        files: Mapping[str, Path | str] | None = None,
        tags: Mapping[str, str] | None = None,
        began: float | None = None,
    ) -> str:
        """Begin or continue the parent run of the sweep `name`; returns its run id.

        Args:
            files: artifact name to a file, or to the text itself: pipeline.toml, space.toml.
            tags: further tags of the parent run.
            began: when the sweep began, in seconds of Unix time; now, if not given.

        Raises:
            RunError: the store does not answer.
        """
        about = environment()
        with _speaking_of(self.uri):
            runs = _search(self.client, [self.experiment_id], name)
            self._claim(*runs)
            parents = [run for run in runs if run.data.tags.get("gcsearch.kind") == "sweep"]
            described = _sweep_tags(name, pipeline, about) | dict(tags or {})
            if parents:
                self.parent = parents[-1].info.run_id
                self.client.update_run(self.parent, status="RUNNING")
                for key, text in described.items():
                    self.client.set_tag(self.parent, key, _cut(text, _TAG_LENGTH))
            else:
                self.parent = self._create(name, described, began or time.time())
                self._batches(self.parent, _pipeline_params(pipeline), [])
                self.client.log_inputs(self.parent, [_dataset_input(pipeline), *_target_inputs(pipeline)])
            self._sweep, self._selection = name, described["gcsearch.selection"]
            trials = [run for run in runs if run.data.tags.get("gcsearch.kind") == "trial"]
            self._children = {_key_of(run): _Child.of(run) for run in trials}
            self._put(self.parent, "environment.json", json.dumps(about, indent=2))
            for file, content in (files or {}).items():
                self._put(self.parent, file, content)
        return self.parent

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Copy the file `path` to the parent run, under `name` (may contain folders) or its own name."""
        with _speaking_of(self.uri):
            self._put(self.parent, name or path.name, path)

    def beat(self) -> None:
        """Show on the parent run that its driver lives."""
        with _speaking_of(self.uri):
            self.client.set_tag(self.parent, "gcsearch.heartbeat", _now())

    def end_orphans(self) -> int:
        """Close as KILLED the child runs that a killed driver left half written and nobody wrote since.

        Returns how many there were.
        """
        orphans = [key for key, child in self._children.items() if child.status == "RUNNING"]
        with _speaking_of(self.uri):
            for key in orphans:
                run_id = self._children.pop(key).run_id
                self.client.set_tag(run_id, "gcsearch.reason", "orphaned: the driver ended while writing")
                self.client.set_terminated(run_id, "KILLED")
        return len(orphans)

    def end(self, status: Status = "FINISHED") -> None:
        """End the parent run with `status`, and what is left open below it."""
        self.end_orphans()
        with _speaking_of(self.uri):
            self.client.set_terminated(self.parent, status)

    # The child runs

    def log_records(self, records: Sequence[tuple[TrialRecord, float]]) -> list[str]:
        """Write each as `log_record` does, with when it ended (seconds of Unix time); returns their run ids.

        Where the store is a database those that it has nothing of come in one transaction, see
        `gcsearch.tracking.bulk`.
        """
        keyed = [(_key(one[0]), one) for one in records]
        new = {key: one for key, one in keyed if self._tables and key not in self._children}
        if self._tables and new:
            runs = [self._whole_run(*one) for one in new.values()]
            with _speaking_of(self.uri):
                ids = self._tables.write(runs)
            for key, run_id, run in zip(new, ids, runs, strict=True):
                self._children[key] = _Child(run_id, run.tags["gcsearch.record"], run.status, run.began)
            self.written += len(new)
        return [self._children[key].run_id if key in new else self.log_record(*one) for key, one in keyed]

    def _find_tables(self) -> Tables | None:
        from gcsearch.tracking.bulk import Tables  # brings SQLAlchemy, of which a server's client needs nothing

        location = self.client.get_experiment(self.experiment_id).artifact_location
        location = self._artifacts.as_uri() if self._artifacts else location
        return Tables.find(self.uri, self.experiment_id, location)

    def _whole_run(self, record: TrialRecord, ended: float) -> WholeRun:
        from gcsearch.tracking.bulk import WholeRun

        began = int(1000 * (ended - record.seconds))
        return WholeRun(
            name=run_name(record),
            tags=_cut_all(self._record_tags(record), _TAG_LENGTH),
            params=_cut_all(_record_params(record), _PARAM_LENGTH),
            metrics=_metrics(record, began),
            status=_STATUS[record.outcome],
            began=began,
            ended=int(1000 * ended),
            texts={_RECORD: _text(record)},
        )

    def log_record(self, record: TrialRecord, ended: float | None = None) -> str:
        """Write `record` as a child run of the sweep; returns its run id.

        A record that is already there is left alone; one that was cut off while writing is completed; one
        whose setting was measured anew replaces the old run (which MLflow can restore).

        Args:
            ended: when the setting ended, in seconds of Unix time; now, if not given.
        """
        key = _key(record)
        digest = _digest(record)
        child = self._children.get(key)
        if child and child.record == digest and child.status in ("FINISHED", "FAILED"):
            return child.run_id
        ended = ended or time.time()
        with _speaking_of(self.uri):
            if child and child.record != digest:
                self.client.delete_run(child.run_id)
                child = None
            if child is None:
                began = int(1000 * (ended - record.seconds))
                run_id = self._create(run_name(record), self._record_tags(record), began / 1000)
                child = _Child(run_id, digest, "RUNNING", began)
            self._batches(child.run_id, _record_params(record), _metrics(record, child.began))
            self._put(child.run_id, _RECORD, _text(record))
            self.client.set_terminated(child.run_id, _STATUS[record.outcome], int(1000 * ended))
        self._children[key] = replace(child, status=_STATUS[record.outcome])
        self.written += 1
        return child.run_id

    def retire(self, finals: Sequence[TrialRecord], labels: Sequence[str]) -> None:
        """Delete the runs of an earlier confirmation whose settings are no longer called so in `finals`.

        Args:
            labels: how the labels begin that a confirmation gives. MLflow can restore the runs.
        """
        kept = set(map(_key, finals))
        for key in [key for key in self._children if key not in kept and key[2].startswith(tuple(labels))]:
            with _speaking_of(self.uri):
                self.client.delete_run(self._children.pop(key).run_id)

    def _record_tags(self, record: TrialRecord) -> dict[str, str]:
        tags = {
            "gcsearch.kind": "trial",
            "mlflow.parentRunId": self.parent,
            "gcsearch.sweep": self._sweep,
            "gcsearch.trial": str(record.number),
            "gcsearch.stage": record.stage,
            "gcsearch.selection": self._selection,
            "gcsearch.outcome": record.outcome.value,
            "gcsearch.reason": record.reason,
            "gcsearch.config": record.config.digest,
            "gcsearch.record": _digest(record),
            "gcsearch.seeds": ",".join(map(str, record.seeds)),
            "gcsearch.worker": record.worker,
            "gcsearch.label": record.label,
            "gcsearch.method.tags": ",".join(title_and_tags(record.config)[1]),
        }
        return {key: text for key, text in tags.items() if text}

    def _create(self, name: str, tags: Mapping[str, str], began: float) -> str:
        run = self.client.create_run(self.experiment_id, int(1000 * began), _cut_all(tags, _TAG_LENGTH), name)
        self._claim(run)
        return str(run.info.run_id)

    def _batches(self, run_id: str, params: Mapping[str, object], metrics: Sequence[Metric]) -> None:
        """Write everything in as few requests as the store's limits allow; most often one."""
        entries = [Param(key, value) for key, value in _cut_all(params, _PARAM_LENGTH).items()]
        points = list(metrics)
        while entries or points:
            some, entries = entries[:_PARAMS_PER_BATCH], entries[_PARAMS_PER_BATCH:]
            room = _ENTRIES_PER_BATCH - len(some)
            self.client.log_batch(run_id, params=some, metrics=points[:room], synchronous=True)
            points = points[room:]

    def _put(self, run_id: str, name: str, content: Path | str) -> None:
        """Store a file, or text, as the artifact `name` (may contain folders) of a run."""
        if self._artifacts:  # whatever another process, which reaches the store through another path, has claimed
            write_whole(
                self._artifacts / run_id / "artifacts" / name,
                content.read_bytes() if isinstance(content, Path) else content,
            )
            return
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary, file)
            source.write_bytes(content.read_bytes() if isinstance(content, Path) else content.encode())
            self.client.log_artifact(run_id, str(source), folder or None)


def run_name(record: TrialRecord) -> str:
    """A short name that people can read: `t0007-gcscoop-rho0.10-b1_0.50-b2_0.80`, `t0007-kgcoop-kg_lambda8.00`.

    Records of the stage `test` begin with their label instead of the number: `confirm-champion-gcscoop-...`.
    Named are the method's own hyper-parameters, at most three; without any, learning rate and epochs.
    """
    if record.stage == "test":
        first = f"confirm-{re.sub(r'[^A-Za-z0-9]+', '-', record.label).strip('-') or record.number}"
    else:
        first = f"t{record.number:04d}"
    given = record.config.hyperparameters
    own = sorted((key for key in given if key not in Trained.model_fields), key=lambda key: key not in _SHORT)
    named = own[:3] or [key for key in given if key in ("lr", "epochs")]
    parts = [f"{_SHORT.get(key, key)}{_cut(_short(given[key]), 20)}" for key in named]
    return "-".join([first, record.config.method, *parts])


def read_records(uri: str, sweep: str) -> list[TrialRecord]:
    """The records of `sweep` as MLflow holds them, in order of stage and number, each with its `run_id`.

    Runs still being written and orphans are left out.

    Raises:
        InputError: no such sweep; the message lists those there are.
        RunError: the store does not answer, or the file of a finished run is gone.
    """
    client = _connect(uri)
    records = []
    with _speaking_of(uri), tempfile.TemporaryDirectory() as folder:
        experiments = [experiment.experiment_id for experiment in _pages(client.search_experiments)]
        runs = _search(client, experiments, sweep)
        if not runs:
            raise _no_such_sweep(client, experiments, uri, sweep)
        for run in runs:
            if run.data.tags.get("gcsearch.kind") == "trial" and run.info.status in ("FINISHED", "FAILED"):
                target = Path(folder, run.info.run_id)
                target.mkdir()
                file = Path(client.download_artifacts(run.info.run_id, _RECORD, str(target)))
                record = TrialRecord.from_dict(json.loads(file.read_text()), file=f"{_RECORD} of run {target.name}")
                records.append(record.model_copy(update={"run_id": run.info.run_id}))
    return sorted(records, key=lambda record: (record.stage, record.number, record.label))


def ui_command(uri: str, artifacts: Path | None, port: int) -> list[str]:
    """The command line that serves MLflow's own browser over the store `uri` on this machine only.

    Run it with the environment of this process: it carries the switches that keep the server to one process
    and silent towards the outside.

    Raises:
        InputError: `uri` is a server already.
    """
    if is_server(uri):
        raise InputError(
            "a browser is served over a database, and the runs are on a server",
            key="tracking.uri",
            received=shown(uri),
            remedy="Open that address in a web browser.",
        )
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--registry-store-uri", uri]
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts.absolute().as_uri()]
    quiet = ["--uvicorn-opts", "--log-level warning --no-access-log"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *quiet]


def _connect(uri: str) -> MlflowClient:
    """A client for `uri`, once it is of a usable kind and, if a server, answers."""
    check_uri(uri)
    if is_server(uri):
        _probe(uri)
    with _speaking_of(uri):
        return MlflowClient(uri)


@contextmanager
def opened(uri: str) -> Iterator[MlflowClient]:
    """A client for the store `uri`; what MLflow raises in the block becomes a RunError that names the store.

    InputError where the store is of a kind that cannot be used.
    """
    client = _connect(uri)
    with _speaking_of(uri):
        yield client


def error_code(error: Exception) -> str:
    """MLflow's word for what went wrong, such as RESOURCE_DOES_NOT_EXIST; empty for errors that are not MLflow's."""
    return str(getattr(error, "error_code", ""))


def _probe(uri: str) -> None:
    """Fail within seconds where no server listens, before the client's own patient retries."""
    try:
        # Without the login, which urllib does not know.
        address = without_secrets(uri).partition("?")[0].rstrip("/")
        urllib.request.urlopen(f"{address}/health", timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # something answers; whether it lets us in is for the client to find out
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = scrubbed(_sentence(error), uri)
        raise RunError(f"The MLflow server at {shown(uri)} does not answer: {why}") from error


@contextmanager
def _speaking_of(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its transport raise into a RunError that names the store."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        raise RunError(f"The MLflow store {shown(uri)} refused: {scrubbed(_sentence(error), uri)}") from error


def _sentence(error: Exception) -> str:
    """Kind and first line of an error: enough to know what happened, short enough for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {_cut(lines[0], 300)}" if lines else type(error).__name__


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        if artifacts is not None:
            artifacts.mkdir(parents=True, exist_ok=True)
        return str(client.create_experiment(name, artifacts.absolute().as_uri() if artifacts else None))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def _search(client: MlflowClient, experiments: Sequence[str], sweep: str) -> list[Run]:
    """Every run of a sweep, the parent included, oldest first."""
    if not experiments or not re.fullmatch(r"[A-Za-z0-9._-]+", sweep):
        return []
    return list(
        _pages(
            client.search_runs,
            experiment_ids=list(experiments),
            filter_string=f"tags.`gcsearch.sweep` = '{sweep}'",
            max_results=1000,
            order_by=["attributes.start_time ASC"],
        )
    )


def _no_such_sweep(client: MlflowClient, experiments: Sequence[str], uri: str, sweep: str) -> InputError:
    parents = _pages(
        client.search_runs, experiment_ids=list(experiments), filter_string="tags.`gcsearch.kind` = 'sweep'"
    )
    there = sorted({run.data.tags["gcsearch.sweep"] for run in parents}) if experiments else []
    return InputError(
        "there is no sweep of this name in the MLflow store",
        file=shown(uri),
        received=sweep,
        remedy=f"Sweeps in it: {', '.join(there) or 'none'}.",
    )


def _key_of(run: Run) -> tuple[str, ...]:
    tags = run.data.tags
    return tuple(tags.get(f"gcsearch.{name}", "") for name in ("trial", "stage", "label", "config"))


def _key(record: TrialRecord) -> tuple[str, ...]:
    """What tells a child run of a sweep from the others, as `_key_of` reads it."""
    return str(record.number), record.stage, record.label, record.config.digest


def _text(record: TrialRecord) -> str:
    """What stands in the file of a child run, for `read_records`."""
    return json.dumps(_content(record), indent=1)


def _content(record: TrialRecord) -> dict[str, Any]:
    """The record as it is stored: `run_id` belongs to the store, not to the record."""
    return {key: value for key, value in record.to_dict().items() if key != "run_id"}


def _digest(record: TrialRecord) -> str:
    return hashlib.sha256(json.dumps(_content(record), sort_keys=True).encode()).hexdigest()[:12]


def _sweep_tags(name: str, pipeline: Pipeline, about: Mapping[str, str]) -> dict[str, str]:
    task = pipeline.task
    tags = {
        "gcsearch.kind": "sweep",
        "gcsearch.sweep": name,
        "gcsearch.objective": ",".join(pipeline.search.objectives),
        "gcsearch.selection": "oracle" if pipeline.search.oracle else "clean",
        "gcsearch.dataset": task.title,
        "gcsearch.backbone": task.backbone,
        "gcsearch.heartbeat": _now(),
        "mlflow.source.name": "gcsearch",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": (
            f"Sweep **{name}**: search space `{pipeline.search.space}` on `{task.title}` "
            f"with `{task.backbone}`, {task.shots} shots{' of all classes' if task.classes == 'all' else ''}, "
            f"seeds {', '.join(map(str, task.seeds))}; "
            f"{''.join(f'measured on `{name}`; ' for name in task.targets)}"
            f"chosen by {pipeline.search.chosen_by}. Each child run is one setting."
        ),
    }
    tags |= {f"gcsearch.version.{key}": text for key, text in about.items() if not key.startswith("git.")}
    if "git.commit" in about:
        tags["mlflow.source.git.commit"] = about["git.commit"]
        tags["gcsearch.git.dirty"] = about.get("git.dirty", "unknown")
    return tags


def _pipeline_params(pipeline: Pipeline) -> dict[str, object]:
    """What a sweep keeps for life (parameters cannot be changed later, so not the number of trials)."""
    search = pipeline.search.to_dict()
    kept = {f"search.{key}": search[key] for key in ("space", "sampler", "seed")}
    kept["search.objective"] = ",".join(pipeline.search.objectives)
    return {f"task.{key}": value for key, value in pipeline.task.to_dict().items()} | kept


def _record_params(record: TrialRecord) -> dict[str, object]:
    return {"method": record.config.method, **record.config.hyperparameters}


def _dataset_input(pipeline: Pipeline) -> DatasetInput:
    """The data set as MLflow knows one; its digest covers every key that decides which images are drawn."""
    task = pipeline.task
    drawn = task.to_dict() | {"confirm_seeds": list(pipeline.confirm.seeds)}
    dataset = Dataset(
        name=task.dataset,
        digest=hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH],
        source_type="gcsearch",
        source=json.dumps({"dataset": task.dataset, "root": task.root}),
        profile=json.dumps(
            {"shots": task.shots, "val_shots": task.val_shots, "folds": task.folds, "classes": task.classes}
        ),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])


def _target_inputs(pipeline: Pipeline) -> list[DatasetInput]:
    """The further data sets: those that are trained on too, and those that are measured only."""
    sources = [
        (name, json.dumps({"dataset": name, "root": pipeline.task.root}))
        for name in (*pipeline.task.also, *pipeline.task.targets)
        if name != pipeline.task.dataset
    ]
    return [
        DatasetInput(
            Dataset(
                name=name,
                digest=hashlib.sha256(source.encode()).hexdigest()[:_DIGEST_LENGTH],
                source_type="gcsearch",
                source=source,
            ),
            [InputTag("mlflow.data.context", "train" if name in pipeline.task.also else "test")],
        )
        for name, source in sources
    ]


def _metrics(record: TrialRecord, began: int) -> list[Metric]:
    """Every point of the curve: the mean over seeds under its plain name, each seed under `name/seed_S`.

    Times are spread over the setting's duration from `began` on (milliseconds), so that writing the same record
    again changes nothing.
    """
    last = EpochReport(number=record.number, epoch=record.epochs, metrics=record.metrics)
    curve = record.curve or ((last,) if record.metrics else ())
    metrics = []
    for index, report in enumerate(curve, start=1):
        at = int(began + 1000 * record.seconds * index / len(curve))
        for name, values in report.metrics.items():
            if not values:
                continue
            metrics.append(Metric(name, sum(values) / len(values), at, report.epoch))
            for seed, value in zip(record.seeds, values, strict=True):
                metrics.append(Metric(f"{name}/seed_{seed}", value, at, report.epoch))
    return metrics


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"
    return str(value)


def _cut_all(values: Mapping[str, object], length: int) -> dict[str, str]:
    return {key: _cut(str(value), length) for key, value in values.items()}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
