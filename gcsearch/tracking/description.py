"""What MLflow is told of a sweep and of a trial: names, tags, parameters, inputs, metrics."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import EpochReport, TrialRecord
from gcsearch.methods.registry import METHODS, title_and_tags

RECORD_FILE = "record.json"
PARAM_LENGTH, TAG_LENGTH, _DIGEST_LENGTH = 6000, 8000, 36

_SHORT = {"rho": "rho", "beta1": "b1_", "beta2": "b2_"}  # first in the name of a run


def run_name(record: TrialRecord) -> str:
    """A short name that people can read: `t0007-gcscoop-rho0.10-b1_0.50-b2_0.80`, `t0007-kgcoop-kg_lambda8.00`.

    Records of the stage `test` begin with their label instead of the number: `confirm-champion-gcscoop-...`.
    Named are the method's own hyperparameters, at most three; without any, learning rate and epochs.
    """
    if record.stage == "test":
        first = f"confirm-{re.sub(r'[^A-Za-z0-9]+', '-', record.label).strip('-') or record.number}"
    else:
        first = f"t{record.number:04d}"
    given = record.config.hyperparameters
    common = METHODS["coop"].hyperparameters
    own = sorted((key for key in given if key not in common), key=lambda key: key not in _SHORT)
    named = own[:3] or [key for key in given if key in ("lr", "epochs")]
    parts = [f"{_SHORT.get(key, key)}{cut(_short(given[key]), 20)}" for key in named]
    return "-".join([first, record.config.method, *parts])


def key_of(record: TrialRecord) -> tuple[str, ...]:
    """What tells a child run of a sweep from the others, as `key_of_run` reads it."""
    return str(record.number), record.stage, record.label, record.config.digest


def key_of_run(run: Run) -> tuple[str, ...]:
    tags = run.data.tags
    return tuple(tags.get(f"gcsearch.{name}", "") for name in ("trial", "stage", "label", "config"))


def record_text(record: TrialRecord) -> str:
    """What stands in the file of a child run, for `read_records`."""
    return json.dumps(_content(record), indent=1)


def _content(record: TrialRecord) -> dict[str, Any]:
    """The record as it is stored: `run_id` belongs to the store, not to the record."""
    return {key: value for key, value in record.to_dict().items() if key != "run_id"}


def record_digest(record: TrialRecord) -> str:
    return hashlib.sha256(json.dumps(_content(record), sort_keys=True).encode()).hexdigest()[:12]


def sweep_tags(name: str, pipeline: Pipeline, about: Mapping[str, str]) -> dict[str, str]:
    task = pipeline.task
    tags = {
        "gcsearch.kind": "sweep",
        "gcsearch.sweep": name,
        "gcsearch.objective": ",".join(pipeline.search.objectives),
        "gcsearch.selection": "oracle" if pipeline.search.oracle else "clean",
        "gcsearch.dataset": task.title,
        "gcsearch.backbone": task.backbone,
        "gcsearch.heartbeat": now(),
        "mlflow.source.name": "gcsearch",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": (
            f"Sweep **{name}**: search space `{pipeline.search.space}` on `{task.title}` "
            f"with `{task.backbone}`, {task.shots} shots{' of all classes' if task.classes == 'all' else ''}, "
            f"seeds {', '.join(map(str, task.seeds))}; "
            f"{''.join(f'measured on `{name}`; ' for name in task.targets)}"
            f"chosen by {pipeline.search.chosen_by}. Each child run is one configuration."
        ),
    }
    tags |= {f"gcsearch.version.{key}": text for key, text in about.items() if not key.startswith("git.")}
    if "git.commit" in about:
        tags["mlflow.source.git.commit"] = about["git.commit"]
        tags["gcsearch.git.dirty"] = about.get("git.dirty", "unknown")
    return tags


def pipeline_params(pipeline: Pipeline) -> dict[str, object]:
    """What a sweep keeps for life (parameters cannot be changed later, so not the number of trials)."""
    search = pipeline.search.to_dict()
    kept = {f"search.{key}": search[key] for key in ("space", "sampler", "seed")}
    kept["search.objective"] = ",".join(pipeline.search.objectives)
    return {f"task.{key}": value for key, value in pipeline.task.to_dict().items()} | kept


def record_params(record: TrialRecord) -> dict[str, object]:
    return {"method": record.config.method, **record.config.hyperparameters}


def dataset_input(pipeline: Pipeline) -> DatasetInput:
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


def target_inputs(pipeline: Pipeline) -> list[DatasetInput]:
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


def curve_metrics(record: TrialRecord, began: int) -> list[Metric]:
    """Every point of the curve: the mean over seeds under its plain name, each seed under `name/seed_S`.

    Times are spread over the configuration's duration from `began` on (milliseconds), so that writing the same record
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


def cut_all(values: Mapping[str, object], length: int) -> dict[str, str]:
    return {key: cut(str(value), length) for key, value in values.items()}


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def record_tags(record: TrialRecord, sweep: str, parent: str, selection: str) -> dict[str, str]:
    """The tags of a child run, which its search and `key_of_run` read."""
    tags = {
        "gcsearch.kind": "trial",
        "mlflow.parentRunId": parent,
        "gcsearch.sweep": sweep,
        "gcsearch.trial": str(record.number),
        "gcsearch.stage": record.stage,
        "gcsearch.selection": selection,
        "gcsearch.outcome": record.outcome.value,
        "gcsearch.reason": record.reason,
        "gcsearch.config": record.config.digest,
        "gcsearch.record": record_digest(record),
        "gcsearch.seeds": ",".join(map(str, record.seeds)),
        "gcsearch.worker": record.worker,
        "gcsearch.label": record.label,
        "gcsearch.method.tags": ",".join(title_and_tags(record.config)[1]),
    }
    return {key: text for key, text in tags.items() if text}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
