"""What a sweep writes to MLflow: one parent run per sweep, one child run per trial.

Only one process writes a sweep, with client objects and never MLflow's global state; `gcsearch.tracking.sync` decides
when.  Every run is looked up by its tags before it is created, so whatever is written again, after a kill or out
of a journal that was written long ago, meets the same runs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlflow.entities import Metric, Param, Run

from gcsearch.config.addresses import is_server
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.provenance import environment
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.files import write_whole
from gcsearch.tracking import relocation
from gcsearch.tracking.client import connect, ensure_experiment, runs_of, speaking_of
from gcsearch.tracking.description import (
    PARAM_LENGTH,
    RECORD_FILE,
    TAG_LENGTH,
    curve_metrics,
    cut,
    cut_all,
    dataset_input,
    key_of,
    key_of_run,
    now,
    pipeline_params,
    record_digest,
    record_params,
    record_tags,
    record_text,
    run_name,
    sweep_tags,
    target_inputs,
)

if TYPE_CHECKING:
    from gcsearch.tracking.bulk import ExperimentTables, WholeRun

Status = Literal["FINISHED", "FAILED", "KILLED"]

_PARAMS_PER_BATCH, _ENTRIES_PER_BATCH = 100, 1000

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

    `start_sweep` opens the parent run, `log_records` and `log_record` write configurations, `end` ends the parent.
    Writing what is there already changes nothing; `written` counts the runs that were not.
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
        self.client = connect(uri)
        with speaking_of(uri):
            self.experiment_id = ensure_experiment(self.client, experiment, artifacts)
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
        with speaking_of(self.uri):
            runs = runs_of(self.client, [self.experiment_id], name)
            self._claim(*runs)
            parents = [run for run in runs if run.data.tags.get("gcsearch.kind") == "sweep"]
            described = sweep_tags(name, pipeline, about) | dict(tags or {})
            if parents:
                self.parent = parents[-1].info.run_id
                self.client.update_run(self.parent, status="RUNNING")
                for key, text in described.items():
                    self.client.set_tag(self.parent, key, cut(text, TAG_LENGTH))
            else:
                self.parent = self._create(name, described, began or time.time())
                self._batches(self.parent, pipeline_params(pipeline), [])
                self.client.log_inputs(self.parent, [dataset_input(pipeline), *target_inputs(pipeline)])
            self._sweep, self._selection = name, described["gcsearch.selection"]
            trials = [run for run in runs if run.data.tags.get("gcsearch.kind") == "trial"]
            self._children = {key_of_run(run): _Child.of(run) for run in trials}
            self._put(self.parent, "environment.json", json.dumps(about, indent=2))
            for file, content in (files or {}).items():
                self._put(self.parent, file, content)
        return self.parent

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Copy the file `path` to the parent run, under `name` (may contain folders) or its own name."""
        with speaking_of(self.uri):
            self._put(self.parent, name or path.name, path)

    def beat(self) -> None:
        """Show on the parent run that its driver lives."""
        with speaking_of(self.uri):
            self.client.set_tag(self.parent, "gcsearch.heartbeat", now())

    def end_orphans(self) -> int:
        """Close as KILLED the child runs that a killed driver left half written and nobody wrote since.

        Returns how many there were.
        """
        orphans = [key for key, child in self._children.items() if child.status == "RUNNING"]
        with speaking_of(self.uri):
            for key in orphans:
                run_id = self._children.pop(key).run_id
                self.client.set_tag(run_id, "gcsearch.reason", "orphaned: the driver ended while writing")
                self.client.set_terminated(run_id, "KILLED")
        return len(orphans)

    def end(self, status: Status = "FINISHED") -> None:
        """End the parent run with `status`, and what is left open below it."""
        self.end_orphans()
        with speaking_of(self.uri):
            self.client.set_terminated(self.parent, status)

    # The child runs

    def log_records(self, records: Sequence[tuple[TrialRecord, float]]) -> list[str]:
        """Write each as `log_record` does, with when it ended (seconds of Unix time); returns their run ids.

        Where the store is a database those that it has nothing of come in one transaction, see
        `gcsearch.tracking.bulk`.
        """
        keyed = [(key_of(one[0]), one) for one in records]
        new = {key: one for key, one in keyed if self._tables and key not in self._children}
        if self._tables and new:
            runs = [self._whole_run(*one) for one in new.values()]
            with speaking_of(self.uri):
                ids = self._tables.write(runs)
            for key, run_id, run in zip(new, ids, runs, strict=True):
                self._children[key] = _Child(run_id, run.tags["gcsearch.record"], run.status, run.began)
            self.written += len(new)
        return [self._children[key].run_id if key in new else self.log_record(*one) for key, one in keyed]

    def _find_tables(self) -> ExperimentTables | None:
        from gcsearch.tracking.bulk import (
            ExperimentTables,
        )

        location = self.client.get_experiment(self.experiment_id).artifact_location
        location = self._artifacts.as_uri() if self._artifacts else location
        return ExperimentTables.find(self.uri, self.experiment_id, location)

    def _whole_run(self, record: TrialRecord, ended: float) -> WholeRun:
        from gcsearch.tracking.bulk import WholeRun

        began = int(1000 * (ended - record.seconds))
        return WholeRun(
            name=run_name(record),
            tags=cut_all(self._tags(record), TAG_LENGTH),
            params=cut_all(record_params(record), PARAM_LENGTH),
            metrics=curve_metrics(record, began),
            status=_STATUS[record.outcome],
            began=began,
            ended=int(1000 * ended),
            texts={RECORD_FILE: record_text(record)},
        )

    def log_record(self, record: TrialRecord, ended: float | None = None) -> str:
        """Write `record` as a child run of the sweep; returns its run id.

        A record that is already there is left alone; one that was cut off while writing is completed; one
        whose configuration was measured anew replaces the old run (which MLflow can restore).

        Args:
            ended: when the configuration ended, in seconds of Unix time; now, if not given.
        """
        key = key_of(record)
        digest = record_digest(record)
        child = self._children.get(key)
        if child and child.record == digest and child.status in ("FINISHED", "FAILED"):
            return child.run_id
        ended = ended or time.time()
        with speaking_of(self.uri):
            if child and child.record != digest:
                self.client.delete_run(child.run_id)
                child = None
            if child is None:
                began = int(1000 * (ended - record.seconds))
                run_id = self._create(run_name(record), self._tags(record), began / 1000)
                child = _Child(run_id, digest, "RUNNING", began)
            self._batches(child.run_id, record_params(record), curve_metrics(record, child.began))
            self._put(child.run_id, RECORD_FILE, record_text(record))
            self.client.set_terminated(child.run_id, _STATUS[record.outcome], int(1000 * ended))
        self._children[key] = replace(child, status=_STATUS[record.outcome])
        self.written += 1
        return child.run_id

    def retire(self, finals: Sequence[TrialRecord], labels: Sequence[str]) -> None:
        """Delete the runs of an earlier confirmation whose configurations are no longer called so in `finals`.

        Args:
            labels: how the labels begin that a confirmation gives. MLflow can restore the runs.
        """
        kept = set(map(key_of, finals))
        for key in [key for key in self._children if key not in kept and key[2].startswith(tuple(labels))]:
            with speaking_of(self.uri):
                self.client.delete_run(self._children.pop(key).run_id)

    def _tags(self, record: TrialRecord) -> dict[str, str]:
        return record_tags(record, self._sweep, self.parent, self._selection)

    def _create(self, name: str, tags: Mapping[str, str], began: float) -> str:
        run = self.client.create_run(self.experiment_id, int(1000 * began), cut_all(tags, TAG_LENGTH), name)
        self._claim(run)
        return str(run.info.run_id)

    def _batches(self, run_id: str, params: Mapping[str, object], metrics: Sequence[Metric]) -> None:
        """Write everything in as few requests as the store's limits allow; most often one."""
        entries = [Param(key, value) for key, value in cut_all(params, PARAM_LENGTH).items()]
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
