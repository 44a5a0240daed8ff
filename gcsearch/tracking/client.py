"""An MLflow store: a client that answers, its errors in our words, and what a sweep's runs hold.

Beside this package nothing imports mlflow.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from gcsearch.config.addresses import check_uri, is_server, scrubbed, shown, without_secrets
from gcsearch.config.trials import TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.tracking.content.limits import cut
from gcsearch.tracking.content.trials import RECORD_FILE

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # pages of what comes out as an exception too

# MLflow's own tables use a loader that SQLAlchemy announces to remove; not ours to mend.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")


_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""What MLflow's browser knows an experiment of training by, as opposed to one of traces of language models.

That of MLflow 3.17 does not look at it: it goes by `?workflowType=machine_learning` in its address, or by what its
reader chose last.
"""


def connect(uri: str) -> MlflowClient:
    """A client for `uri`, once it is of a usable kind and, if a server, answers."""
    check_uri(uri)
    if is_server(uri):
        _probe(uri)
    with speaking_of(uri):
        return MlflowClient(uri)


@contextmanager
def opened(uri: str) -> Iterator[MlflowClient]:
    """A client for the store `uri`; what MLflow raises in the block becomes a RunError that names the store.

    InputError where the store is of a kind that cannot be used.
    """
    client = connect(uri)
    with speaking_of(uri):
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
def speaking_of(uri: str) -> Iterator[None]:
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
    return f"{type(error).__name__}: {cut(lines[0], 300)}" if lines else type(error).__name__


def ensure_experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    """The id of the experiment `name`, made or restored where it is not there, and told to be one of training."""
    found = client.get_experiment_by_name(name)
    if found is None:
        if artifacts is not None:
            artifacts.mkdir(parents=True, exist_ok=True)
        made = client.create_experiment(name, artifacts.absolute().as_uri() if artifacts else None, _KIND)
        return str(made)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key in _KIND.keys() - found.tags.keys():  # whoever has chosen another kind keeps it
        client.set_experiment_tag(found.experiment_id, key, _KIND[key])
    return str(found.experiment_id)


def _pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def runs_of(client: MlflowClient, experiments: Sequence[str], sweep: str) -> list[Run]:
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


def read_records(uri: str, sweep: str) -> list[TrialRecord]:
    """The records of `sweep` as MLflow holds them, in order of stage and number, each with its `run_id`.

    Runs still being written and orphans are left out.

    Raises:
        InputError: no such sweep; the message lists those there are.
        RunError: the store does not answer, or the file of a finished run is gone.
    """
    client = connect(uri)
    records = []
    with speaking_of(uri), tempfile.TemporaryDirectory() as folder:
        experiments = [experiment.experiment_id for experiment in _pages(client.search_experiments)]
        runs = runs_of(client, experiments, sweep)
        if not runs:
            raise _no_such_sweep(client, experiments, uri, sweep)
        for run in runs:
            if run.data.tags.get("gcsearch.kind") == "trial" and run.info.status in ("FINISHED", "FAILED"):
                target = Path(folder, run.info.run_id)
                target.mkdir()
                file = Path(client.download_artifacts(run.info.run_id, RECORD_FILE, str(target)))
                record = TrialRecord.from_dict(json.loads(file.read_text()), file=f"{RECORD_FILE} of run {target.name}")
                records.append(record.model_copy(update={"run_id": run.info.run_id}))
    return sorted(records, key=lambda record: (record.stage, record.number, record.label))


def know_sizes(uri: str) -> None:
    """Let SQLite look at its tables, so that MLflow's searches take their time by the number of runs, not its square.

    Without statistics SQLite goes through all runs' metrics once for each run to sort them: 5 s of 10 000 runs where it
    takes a quarter of one.  PostgreSQL keeps its own. A database that another process is writing to stays as it is.
    """
    if not uri.startswith("sqlite"):
        return
    engine = sqlalchemy.create_engine(uri)
    try:
        with suppress(sqlalchemy.exc.OperationalError), engine.begin() as connection:
            connection.execute(sqlalchemy.text("ANALYZE"))
    finally:
        engine.dispose()


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
    if any(point.name == "gcsearch" for point in entry_points(group="mlflow.app")):
        command += ["--app-name", "gcsearch"]  # gcsearch.tracking.front; not there before this version is installed
    quiet = ["--uvicorn-opts", "--log-level warning --no-access-log"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *quiet]
