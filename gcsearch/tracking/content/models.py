"""The confirmed prompts as MLflow's own models, which its pages of models list with what was measured of them.

A LoggedModel has parameters and a role, belongs to the run on test images, and its metrics name the data set that they
were measured on.  It has no files: those are on the run; what can be served is made by `gcsearch.tracking.registry`.
"""

from __future__ import annotations

import math

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.tracking import MlflowClient

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import TrialRecord
from gcsearch.tracking.content.limits import PARAM_LENGTH, cut_all
from gcsearch.tracking.content.sweeps import dataset_input
from gcsearch.tracking.content.trials import config_params, confirmed_metrics, time_of

_TYPE = "gcsearch-prompt"


def model_of(client: MlflowClient, experiment: str, run_id: str) -> LoggedModel | None:
    """The model that a run has logged, if there is one."""
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'", max_results=1)
    return next(iter(found), None)


def log_model(
    client: MlflowClient, experiment: str, run_id: str, record: TrialRecord, pipeline: Pipeline, sweep: str, began: int
) -> None:
    """Log the model of a confirmed configuration on its run, once; one that was left pending is completed.

    `began`: when the run began, in milliseconds of Unix time.
    """
    model = model_of(client, experiment, run_id)
    if model is None:
        name = f"{record.config.method}-t{record.number:04d}"
        tags = {"gcsearch.sweep": sweep, "role": record.role.value}
        params = cut_all(config_params(record.config), PARAM_LENGTH)
        model = client.create_logged_model(experiment, name, run_id, tags, params, _TYPE)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, record.epochs)])
    if model.status == LoggedModelStatus.PENDING:
        dataset = dataset_input(pipeline).dataset
        where = {"dataset_name": dataset.name, "dataset_digest": dataset.digest, "run_id": run_id}
        values = confirmed_metrics(record, pipeline)
        # At the time that they have on the run, so that they are no further points there.
        metrics = [
            Metric(key, value, time_of(record, began, record.epochs), record.epochs, model_id=model.model_id, **where)
            for key, value in values.items()
            if math.isfinite(value)
        ]
        client.log_batch(run_id, metrics=metrics, synchronous=True)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def delete_model(client: MlflowClient, experiment: str, run_id: str) -> None:
    """Delete the model of a run that is deleted."""
    if model := model_of(client, experiment, run_id):
        client.delete_logged_model(model.model_id)
