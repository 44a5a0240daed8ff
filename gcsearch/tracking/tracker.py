"""What a sweep writes to MLflow: one parent run per sweep, one child run per trial.

Only one process writes a sweep, with client objects and never MLflow's global state; `gcsearch.tracking.sync` decides
when, `gcsearch.tracking.content` what.  Every run is looked up by its tags before it is created, so whatever is written
again, after a kill or out of a journal that was written long ago, meets the same runs.

All goes through MLflow's client. That costs 20 to 55 ms of the driver's processor for a trial, a hundred times what the
bare rows take (`benchmarks/recording.py`), and keeps up: the fastest search measured so far ends three trials a second.
Rows written by hand would be bound to one version of MLflow's tables.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mlflow.entities import Metric, Param, Run, RunTag

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.provenance import environment
from gcsearch.config.trials import Outcome, Role, TrialRecord
from gcsearch.files import write_whole
from gcsearch.tracking import relocation
from gcsearch.tracking.client import connect, ensure_experiment, runs_of, speaking_of
from gcsearch.tracking.content import models, sweeps, trials
from gcsearch.tracking.content.limits import (
    ENTRIES_PER_BATCH,
    PARAM_LENGTH,
    PARAMS_PER_BATCH,
    TAG_LENGTH,
    TAGS_PER_BATCH,
    cut_all,
)
from gcsearch.tracking.content.pictures import CURVES_FILE, curves_picture
from gcsearch.tracking.content.trials import Key, Naming, differing, key_of, key_of_run

Status = Literal["FINISHED", "FAILED", "KILLED"]
Content = Path | str | bytes
"""A file, or what is to stand in one."""

NOTE = "mlflow.note.content"
_MODELS = (Role.CHAMPION, Role.SHORTLISTED)
"""What is a model of MLflow's too."""

_STATUS: dict[Outcome, Status] = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.PRUNED: "FINISHED",
    Outcome.DIVERGED: "FAILED",
    Outcome.FAILED: "FAILED",
}


@dataclass(frozen=True)
class _Child:
    """What is known of a child run. Without its metrics: MLflow reads all that a run has, and that of thousands is too
    much to keep.
    """

    run_id: str
    record: str  # digest of the record in it
    status: str
    began: int  # in milliseconds of Unix time
    parent: str
    marks: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> _Child:
        tags, info = run.data.tags, run.info
        marks = {key: tags[key] for key in ("role", "rank") if key in tags}
        parent = tags.get("mlflow.parentRunId", "")
        return cls(info.run_id, tags.get("gcsearch.record", ""), info.status, info.start_time, parent, marks)


@dataclass
class _Parent:
    """What the sweep's own run has, so that nothing is written that is there."""

    run_id: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> _Parent:
        data = run.data
        return cls(run.info.run_id, dict(data.params), dict(data.tags), dict(data.metrics))


@dataclass(frozen=True)
class _Begun:
    """What the sweep's run begins with, also where it has to be made anew."""

    name: str
    pipeline: Pipeline
    tags: Mapping[str, str]
    began: float
    files: Mapping[str, Content]


class Tracker:
    """Writes one sweep to MLflow, each call at once and in the caller's thread.

    `start_sweep` opens the parent run, `log_record` writes a trial, `end` ends the parent. Writing what is there
    already changes nothing; `written` counts the runs that were not.
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
        self.written = 0
        self._parent = _Parent()
        self._begun = _Begun("", Pipeline(name="none"), {}, 0.0, {})
        self._children: dict[Key, _Child] = {}

    @property
    def parent(self) -> str:
        """The id of the sweep's own run."""
        return self._parent.run_id

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
        described = sweeps.sweep_tags(name, pipeline, about) | dict(tags or {})
        kept = {"environment.json": json.dumps(about, indent=2), **(files or {})}
        self._begun = _Begun(name, pipeline, described, began or time.time(), kept)
        with speaking_of(self.uri):
            runs = runs_of(self.client, [self.experiment_id], name)
            self._claim(*runs)
            parents = [run for run in runs if run.data.tags.get("gcsearch.kind") == "sweep"]
            found = [run for run in runs if run.data.tags.get("gcsearch.kind") == "trial"]
            self._children = {key_of_run(run): _Child.of(run) for run in found}
            if parents:
                self._parent = _Parent.of(parents[-1])
                self.client.update_run(self.parent, status="RUNNING")
                self.tag(described)
            else:
                self._open()
            self._adopt()
            self._put(self.parent, kept)
        return self.parent

    def _open(self) -> None:
        """Make the parent run."""
        begun = self._begun
        self._parent = _Parent(self._create(begun.name, begun.tags, begun.began), tags=dict(begun.tags))
        self._batches(self.parent, sweeps.pipeline_params(begun.pipeline))
        inputs = [sweeps.dataset_input(begun.pipeline), *sweeps.target_inputs(begun.pipeline)]
        self.client.log_inputs(self.parent, inputs)

    def _adopt(self) -> None:
        """Let all trials belong to the parent run as it is now."""
        for key, child in self._children.items():
            if child.parent != self.parent:
                self.client.set_tag(child.run_id, "mlflow.parentRunId", self.parent)
                self._children[key] = replace(child, parent=self.parent)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Copy the file `path` to the parent run, under `name` (may contain folders) or its own name."""
        self.log_files(self.parent, {name or path.name: path})

    def log_files(self, run_id: str, contents: Mapping[str, Content]) -> None:
        """Store files, or texts, as artifacts of a run by name, which may contain folders."""
        with speaking_of(self.uri):
            self._put(run_id, contents)

    def beat(self) -> None:
        """Show on the parent run that its driver lives."""
        with speaking_of(self.uri):
            self.client.set_tag(self.parent, "gcsearch.heartbeat", sweeps.now())

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set the tags of the parent run that are not so already."""
        changed = differing(cut_all(tags, TAG_LENGTH), self._parent.tags)
        if changed:
            with speaking_of(self.uri):
                self._batches(self.parent, tags=changed)
            self._parent.tags |= changed

    def log_results(self, values: Mapping[str, float], at: float, step: int = 0) -> None:
        """Set the metrics of the parent run that are not so already; `at` in seconds of Unix time."""
        changed = {key: value for key, value in values.items() if self._parent.metrics.get(key) != value}
        self._log(self.parent, [Metric(key, value, int(1000 * at), step) for key, value in changed.items()])
        self._parent.metrics |= changed

    def log_course(self, key: str, points: Sequence[tuple[int, float, float]]) -> None:
        """Write a metric of the parent run that MLflow draws: step, value, and when (seconds of Unix time)."""
        self._log(self.parent, [Metric(key, value, int(1000 * at), step) for step, value, at in points])
        if points:
            self._parent.metrics[key] = points[-1][1]

    def lacks(self, key: str) -> bool:
        """Whether the parent run has no metric of this name, as one that was made anew."""
        return key not in self._parent.metrics

    def _log(self, run_id: str, metrics: Sequence[Metric]) -> None:
        if metrics:
            with speaking_of(self.uri):
                self._batches(run_id, metrics=metrics)

    def name_champion(self, params: Mapping[str, object]) -> bool:
        """Give the parent run the champion's configuration as its parameters; whether it had to be made anew for that.

        MLflow changes no parameter: where a sweep that was extended has another champion, a new run takes the place of
        the former one, which MLflow can restore.
        """
        wanted = cut_all(params, PARAM_LENGTH)
        former = {key: text for key, text in self._parent.params.items() if "." not in key}
        renewed = any(wanted.get(key) != text for key, text in former.items())
        with speaking_of(self.uri):
            if renewed:
                self.client.delete_run(self.parent)
                self._open()
                self._adopt()
                self._put(self.parent, self._begun.files)
            missing = differing(wanted, self._parent.params)
            self._batches(self.parent, missing)
            self._parent.params |= missing
        return renewed

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

    def log_record(
        self, record: TrialRecord, ended: float | None = None, files: Mapping[str, Content] | None = None
    ) -> str:
        """Write `record` as a child run of the sweep; returns its run id.

        A record that is already there is left alone; one that was cut off while writing is completed; one
        whose configuration was measured anew replaces the old run (which MLflow can restore).

        Args:
            ended: when the configuration ended, in seconds of Unix time; now, if not given.
            files: further artifacts, by name.
        """
        key = key_of(record)
        digest = trials.record_digest(record)
        child = self._children.get(key)
        if child and child.record == digest and child.status in ("FINISHED", "FAILED"):
            return child.run_id
        ended = ended or time.time()
        with speaking_of(self.uri):
            if child and child.record != digest:
                self._delete(child)
                child = None
            if child is None:
                child = self._begin(record, digest, int(1000 * (ended - record.seconds)))
            self._fill(child, record, files or {})
            self.client.set_terminated(child.run_id, _STATUS[record.outcome], int(1000 * ended))
        self._children[key] = replace(child, status=_STATUS[record.outcome])
        self.written += 1
        return child.run_id

    def _begin(self, record: TrialRecord, digest: str, began: int) -> _Child:
        begun = self._begun
        tags = trials.trial_tags(record, begun.name, self.parent, begun.tags["gcsearch.selection"])
        run_id = self._create(trials.run_name(record), tags, began / 1000)
        return _Child(run_id, digest, "RUNNING", began, self.parent, {"role": record.role.value})

    def _fill(self, child: _Child, record: TrialRecord, files: Mapping[str, Content]) -> None:
        """Write all of a child run but its end; the file of its record last."""
        pipeline = self._begun.pipeline
        params = trials.config_params(record.config) | trials.task_params(pipeline)
        self._batches(child.run_id, params, Naming(pipeline).metrics(record, child.began))
        drawn = None if record.role is Role.SEARCHED else curves_picture(record)
        pictures = {CURVES_FILE: drawn} if drawn else {}
        if record.role in _MODELS and record.outcome is Outcome.COMPLETE:
            models.log_model(
                self.client, self.experiment_id, child.run_id, record, pipeline, self._begun.name, child.began
            )
        self._put(child.run_id, {**files, **pictures, **dict(trials.texts(record))})

    def log_recheck(self, records: Sequence[TrialRecord], at: float) -> None:
        """Write on all runs of these trials what they came to when they were measured again, at `at`."""
        numbers = {str(record.number): record for record in records}
        for key, child in self._children.items():
            if record := numbers.get(key[0]):
                self._log(child.run_id, Naming(self._begun.pipeline).recheck(record, int(1000 * at)))

    def mark(self, marks: Mapping[Key, Mapping[str, str]]) -> None:
        """Set the tags of trials that are not so already, and remove those that are to be empty."""
        for key, wanted in marks.items():
            child = self._children.get(key)
            if child is None or not (changed := differing(wanted, {"rank": "", **child.marks})):
                continue
            with speaking_of(self.uri):
                for name, text in changed.items():
                    if text:
                        self.client.set_tag(child.run_id, name, text)
                    else:
                        self.client.delete_tag(child.run_id, name)
            self._children[key] = replace(child, marks={**child.marks, **changed})

    def retire(self, finals: Sequence[TrialRecord], labels: Sequence[str]) -> None:
        """Delete the runs of an earlier confirmation whose configurations are no longer called so in `finals`.

        Args:
            labels: how the labels begin that a confirmation gives. MLflow can restore the runs.
        """
        kept = set(map(key_of, finals))
        for key in [key for key in self._children if key not in kept and key[2].startswith(tuple(labels))]:
            with speaking_of(self.uri):
                self._delete(self._children.pop(key))

    def _delete(self, child: _Child) -> None:
        if child.marks.get("role") in _MODELS:
            models.delete_model(self.client, self.experiment_id, child.run_id)
        self.client.delete_run(child.run_id)

    def _create(self, name: str, tags: Mapping[str, str], began: float) -> str:
        run = self.client.create_run(self.experiment_id, int(1000 * began), cut_all(tags, TAG_LENGTH), name)
        self._claim(run)
        return str(run.info.run_id)

    def _batches(
        self,
        run_id: str,
        params: Mapping[str, object] | None = None,
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write everything in as few requests as the store's limits allow; most often one."""
        entries = [Param(key, value) for key, value in cut_all(params or {}, PARAM_LENGTH).items()]
        labels = [RunTag(key, value) for key, value in cut_all(tags or {}, TAG_LENGTH).items()]
        points = list(metrics)
        while entries or points or labels:
            some, entries = entries[:PARAMS_PER_BATCH], entries[PARAMS_PER_BATCH:]
            few, labels = labels[:TAGS_PER_BATCH], labels[TAGS_PER_BATCH:]
            room = ENTRIES_PER_BATCH - len(some) - len(few)
            self.client.log_batch(run_id, params=some, metrics=points[:room], tags=few, synchronous=True)
            points = points[room:]

    def _put(self, run_id: str, contents: Mapping[str, Content]) -> None:
        """Store artifacts of a run in their order, by name, which may contain folders."""
        if self._artifacts:  # whatever another process, which reaches the store through another path, has claimed
            for name, content in contents.items():
                write_whole(self._artifacts / run_id / "artifacts" / name, _bytes_of(content))
            return
        for name, content in contents.items():
            folder, _, file = name.rpartition("/")
            with tempfile.TemporaryDirectory() as temporary:
                source = Path(temporary, file)
                source.write_bytes(_bytes_of(content))
                self.client.log_artifact(run_id, str(source), folder or None)


def _bytes_of(content: Content) -> bytes:
    match content:
        case Path():
            return content.read_bytes()
        case str():
            return content.encode()
    return content
