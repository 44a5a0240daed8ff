"""Runs that have ended, written whole into MLflow's own tables, many in one transaction.

Through its client MLflow takes some forty SQL statements in seven transactions for a run of one configuration.  What
has ended is known as a whole, so here it is five lists of rows, shared by all runs that wait.  Nothing is ever half
written: a run is there with everything that belongs to it, or not at all.

Only for a store that is a database, and only while its tables have just the columns that are written here: whatever
a later MLflow adds or renames, runs then go through its client as before.
"""

from __future__ import annotations

import math
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.entities import LifecycleStage, Metric, SourceType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry
from mlflow.store.tracking.dbmodels import models
from mlflow.utils.uri import append_to_uri_path

_METRIC = {"run_uuid", "key", "value", "timestamp", "step", "is_nan"}
_KNOWN: dict[sqlalchemy.Table, set[str]] = {
    models.SqlRun.__table__: {
        "run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time",
        "end_time", "deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id",
    },
    models.SqlTag.__table__: {"run_uuid", "key", "value"},
    models.SqlParam.__table__: {"run_uuid", "key", "value"},
    models.SqlMetric.__table__: _METRIC,
    models.SqlLatestMetric.__table__: _METRIC,
}  # fmt: skip
"""Columns by table, those that other tables refer to first."""

_LARGEST = sys.float_info.max  # MLflow's way to store what is infinite

Row = dict[str, Any]


@dataclass(frozen=True)
class WholeRun:
    """A run that has ended. Times in milliseconds of Unix time; `texts` are its files by name."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Metric]
    status: str
    began: int
    ended: int
    texts: Mapping[str, str]


class ExperimentTables:
    """The tables of one MLflow experiment."""

    def __init__(self, uri: str, engine: sqlalchemy.Engine, experiment: str, artifacts: str) -> None:
        self._uri, self._engine, self._experiment, self._artifacts = uri, engine, experiment, artifacts

    @classmethod
    def find(cls, uri: str, experiment: str, artifacts: str) -> ExperimentTables | None:
        """Those of the database `uri`; None where they are not as they are known here.

        Args:
            experiment: its id.
            artifacts: where the experiment keeps the files of its runs.
        """
        engine = create_sqlalchemy_engine_with_retry(uri)
        there = sqlalchemy.inspect(engine)
        for table, columns in _KNOWN.items():
            name = table.name
            if not there.has_table(name) or {column["name"] for column in there.get_columns(name)} != columns:
                return None
        return cls(uri, engine, experiment, artifacts)

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of the runs or, where that fails, none; returns their ids.

        Their files come first: a run that is there has them.
        """
        ids = [uuid.uuid4().hex for _ in runs]
        places = [append_to_uri_path(self._artifacts, run_id, "artifacts") for run_id in ids]
        for place, run in zip(places, runs, strict=True):
            self._store(place, run.texts)
        parts = [self._rows(*one) for one in zip(ids, places, runs, strict=True)]
        with self._engine.begin() as connection:
            for table in _KNOWN:
                if rows := [row for part in parts for row in part[table.name]]:
                    connection.execute(sqlalchemy.insert(table), rows)
        return ids

    def _store(self, place: str, texts: Mapping[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                Path(folder, name).write_bytes(text.encode())
            get_artifact_repository(place, tracking_uri=self._uri).log_artifacts(folder)

    def _rows(self, run_id: str, place: str, run: WholeRun) -> dict[str, list[Row]]:
        """What MLflow's client would write, see `mlflow.store.tracking.sqlalchemy_store`."""
        described = {**run.tags, "mlflow.runName": run.name}
        points = [_point(run_id, metric) for metric in run.metrics]
        # Equal ones once, as MLflow does; the last of each name by step, time and value.
        distinct = list({tuple(point.values()): point for point in points}.values())
        latest = {point["key"]: point for point in sorted(distinct, key=_age)}
        return {
            "runs": [
                {
                    "run_uuid": run_id,
                    "name": run.name,
                    "source_type": SourceType.to_string(SourceType.UNKNOWN),
                    "source_name": "",
                    "entry_point_name": "",
                    "user_id": "unknown",
                    "status": run.status,
                    "start_time": run.began,
                    "end_time": run.ended,
                    "deleted_time": None,
                    "source_version": "",
                    "lifecycle_stage": LifecycleStage.ACTIVE,
                    "artifact_uri": place,
                    "experiment_id": int(self._experiment),
                }
            ],
            "tags": [{"run_uuid": run_id, "key": key, "value": text} for key, text in described.items()],
            "params": [{"run_uuid": run_id, "key": key, "value": text} for key, text in run.params.items()],
            "metrics": distinct,
            "latest_metrics": list(latest.values()),
        }


def _point(run_id: str, metric: Metric) -> Row:
    missing = math.isnan(metric.value)
    value = 0.0 if missing else max(-_LARGEST, min(_LARGEST, metric.value))
    return {
        "run_uuid": run_id,
        "key": metric.key,
        "value": value,
        "timestamp": metric.timestamp,
        "step": metric.step,
        "is_nan": missing,
    }


def _age(point: Row) -> tuple[int, int, float]:
    return point["step"], point["timestamp"], point["value"]
