"""A trial's run: its name, parameters, tags, metrics and tables.

A run holds what one filters, sorts and draws by: the mean over seeds of every metric, the deviation of those that are
compared, and a thinned curve of what the search looks at.  Each seed's numbers and the whole curve are in its files: as
metrics they were 98 in 100 bytes of MLflow's database, and browsers suffer from runs of hundreds of metrics.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Metric, Run

from gcsearch.config.metrics import METRICS, columns, deciding
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import EpochReport, Role, TrialConfig, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods import registry
from gcsearch.methods.registry import METHODS, title_and_tags
from gcsearch.results.documents import confirmed_numbers
from gcsearch.stats import finite, spread
from gcsearch.tracking.content.limits import cut

RECORD_FILE, SEEDS_FILE = "record.json", "seeds.json"
TABLES_TAG = "mlflow.loggedArtifacts"  # which files MLflow's browser shows as tables

MOST_KEYS = 39
"""Metrics of a trial's run: of a search on many data sets the last ones of single data sets are in its files alone."""

_POINTS = {True: 20, False: 100}
"""Of the curve of a metric: how many of a trial of the search, and of one that is confirmed."""

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


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"
    return str(value)


# --- What tells a run from the others


Key = tuple[str, ...]


def key_of(record: TrialRecord) -> Key:
    """What tells a trial's run of a sweep from the others, as `key_of_run` reads it."""
    return str(record.number), record.stage, record.label, record.config.digest


def key_of_run(run: Run) -> Key:
    tags = run.data.tags
    return tuple(tags.get(f"gcsearch.{name}", "") for name in ("trial", "stage", "label", "config"))


def record_text(record: TrialRecord) -> str:
    """What stands in the file of a trial's run, for `read_records`."""
    return json.dumps(_content(record), separators=(",", ":"))


def _content(record: TrialRecord) -> dict[str, Any]:
    """The record as it is stored: `run_id` belongs to the store, not to the record.

    `reliability` is newer than the others. Where it is empty it is left out, so that a run that a former version wrote
    keeps its digest and is not written anew.
    """
    absent = {"run_id"} if record.reliability else {"run_id", "reliability"}
    return {key: value for key, value in record.to_dict().items() if key not in absent}


def record_digest(record: TrialRecord) -> str:
    return hashlib.sha256(json.dumps(_content(record), sort_keys=True).encode()).hexdigest()[:12]


# --- Parameters and tags


def config_params(config: TrialConfig) -> dict[str, object]:
    """The method and all of its hyperparameters, also those that the search leaves alone."""
    with suppress(InputError):  # of an earlier gcsearch, which allowed what is refused now
        config = registry.complete(config)
    return dict(config.values)


def task_params(pipeline: Pipeline) -> dict[str, object]:
    """What the trials of several sweeps are told apart by."""
    task = pipeline.task
    named = {"dataset": task.title, "backbone": task.backbone, "shots": task.shots}
    return {**{f"task.{key}": value for key, value in named.items()}, "search.space": pipeline.search.space}


def trial_tags(record: TrialRecord, sweep: str, parent: str, selection: str) -> dict[str, str]:
    """The tags of a trial's run as it is made; `role` and `rank` may change later."""
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
        "outcome": record.outcome.value,
        "role": record.role.value,
    }
    if record.metrics:
        tags[TABLES_TAG] = tables_tag(SEEDS_FILE)
    return {key: text for key, text in tags.items() if text}


# --- Metrics


@dataclass(frozen=True)
class Naming:
    """How the metrics of a sweep are called beside their own names."""

    pipeline: Pipeline

    def metrics(self, record: TrialRecord, began: int) -> list[Metric]:
        """The metrics of a trial's run, no key twice; times are spread over the trial from `began` on (milliseconds).

        So writing the same record again changes nothing.
        """
        found = {key: [(record.epochs, value)] for key, value in self._last(record).items() if math.isfinite(value)}
        for key in self._drawn(record):
            if key in found and (points := thinned(record.curve, key, _POINTS[record.role is Role.SEARCHED])):
                found[key] = points
        kept = list(found)[:MOST_KEYS]
        return [Metric(key, value, time_of(record, began, epoch), epoch) for key in kept for epoch, value in found[key]]

    def _last(self, record: TrialRecord) -> dict[str, float]:
        """The numbers of the last epoch by key, what matters most first."""
        known = {key: spread(values) for key, values in record.metrics.items() if values}
        found: dict[str, float] = {}
        objective = self.pipeline.search.ranking_metric
        if record.role is Role.SEARCHED:
            if objective in known:
                found |= {"objective": known[objective].mean, "objective_sd": known[objective].deviation}
        else:
            found |= confirmed_metrics(record, self.pipeline)
        found["seconds"] = record.seconds
        for key in sorted(known, key=lambda key: key not in METRICS):
            found[key] = known[key].mean
            if key in METRICS and record.stage == "search":
                found[f"{key}_sd"] = known[key].deviation
        return found

    def _drawn(self, record: TrialRecord) -> Sequence[str]:
        """The metrics whose curve is kept: what the search looks at, and all of what is confirmed."""
        return [*self.pipeline.search.objectives, "loss"] if record.role is Role.SEARCHED else list(record.metrics)

    def recheck(self, record: TrialRecord, at: int) -> list[Metric]:
        """What a trial of the shortlist came to with the seeds of the confirmation."""
        values = spread(record.metrics.get(self.pipeline.search.ranking_metric, ()))
        named = {"recheck": values.mean, "recheck_sd": values.deviation}
        return [Metric(key, value, at, record.epochs) for key, value in named.items() if math.isfinite(value)]


def time_of(record: TrialRecord, began: int, epoch: int) -> int:
    """When a trial that began then, in milliseconds of Unix time, had come to an epoch."""
    return int(began + 1000 * record.seconds * epoch / max(record.epochs, 1))


def confirmed_metrics(record: TrialRecord, pipeline: Pipeline) -> dict[str, float]:
    """What tables show of a confirmed record: `base`, `new`, `h`, or what the protocol has in their place.

    Mean and deviation over seeds, and of the one that decides the 95 % interval of the mean.
    """
    task = pipeline.task
    whole = [column for column in columns(task) if column.metric in METRICS]  # not of single data sets of many
    return confirmed_numbers(record, whole, deciding(task))


def thinned(curve: Sequence[EpochReport], key: str, most: int) -> list[tuple[int, float]]:
    """Epoch and mean over seeds at no more than `most` epochs, evenly spread, the last one among them."""
    points = [(report.epoch, report.mean(key)) for report in curve if report.metrics.get(key)]
    finite_ones = [(epoch, value) for epoch, value in points if math.isfinite(value)]
    if len(finite_ones) <= most:
        return finite_ones
    last = len(finite_ones) - 1
    places = sorted({round(index * last / (most - 1)) for index in range(most)})
    return [finite_ones[place] for place in places]


# --- Tables


def seeds_table(record: TrialRecord) -> str:
    """The numbers of the last epoch, a row for each metric and a column for each seed, as MLflow shows tables."""
    rows = [
        [key, finite(summary.mean), finite(summary.deviation), *map(finite, values)]
        for key, values in record.metrics.items()
        if values
        for summary in [spread(values)]
    ]
    return table(["metric", "mean", "sd", *(f"seed {seed}" for seed in record.seeds)], rows)


def tables_tag(name: str) -> str:
    """What the tag `TABLES_TAG` says where the file `name` is a table."""
    return json.dumps([{"path": name, "type": "table"}])


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in the form of MLflow's `log_table`, its numbers to be read: they are exact in `record.json`."""
    cells = [[float(f"{cell:.6g}") if isinstance(cell, float) else cell for cell in row] for row in rows]
    return json.dumps({"columns": list(headings), "data": cells})


def texts(record: TrialRecord) -> Iterator[tuple[str, str]]:
    """The files of every trial's run, name and content; the record last: where it is, all is."""
    if record.metrics:
        yield SEEDS_FILE, seeds_table(record)
    yield RECORD_FILE, record_text(record)


def differing(wanted: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """What of `wanted` is not `known` so."""
    return {key: text for key, text in wanted.items() if known.get(key) != text}
