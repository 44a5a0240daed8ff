"""Saved views of MLflow's browser: the runs of one sweep as a table that tells its story, with its charts.

MLflow keeps a view as a tag of the experiment: an envelope with a name, and in it what its page of runs is set to.  An
address that names the view opens it; whoever opens it changes nothing for others.  Its page shows what is below another
run only after a click, but for a table that is filtered or sorted, which is flat: so a view filters by its sweep.  It
sorts by one key, in the database, where tags count as text: that is what the metric `place` is for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from gcsearch.config import metrics, search_space
from gcsearch.config.addresses import without_secrets
from gcsearch.config.parameters import Fixed
from gcsearch.config.trials import Role, TrialRecord
from gcsearch.errors import InputError
from gcsearch.results.tables.wording import searched
from gcsearch.sweep.store import SPACE_FILE
from gcsearch.sweep.sweep import Sweep
from gcsearch.tracking.client import opened

PLACE = "place"
"""The metric that rows are sorted by once a sweep is confirmed."""

RANKED = 30
"""How many trials of the search are in order: each takes a request, and the first screen shows a dozen."""

_TAG = "mlflow.sharedViewState."
_CHARTS = "gcsearch-charts"
_NAME, _CREATED = "attributes.`Run Name`", "runDateAndNestInfo"  # as the table calls the two columns it always has
_WIDTHS = {_NAME: 230, _CREATED: 126, "tags.`role`": 90, "tags.`rank`": 54, "params.`method`": 90}  # in pixels
_WIDTH = 74  # of any other column: four digits


def key_of_view(sweep: str) -> str:
    """What an address calls the view of the sweep with this id."""
    return f"gcsearch-{sweep}"


def address(server: str, experiment: str, sweep: str) -> str:
    """Where MLflow's browser on `server` shows the runs of the sweep with this id.

    The type of workflow is part of it: without one, the browser shows traces of language models.
    """
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": key_of_view(sweep)})
    return f"{server}/#/experiments/{experiment}/runs?{query}"


def prepare(sweep: Sweep, server: str | None = None) -> str:
    """Where the runs of a sweep are shown: the address of its view on `server`, by default the one that keeps them.

    The view is written where it is not as it is to be now.

    Raises:
        InputError: MLflow has nothing of the sweep.
        RunError: the store does not answer.
    """
    uri, name = sweep.mlflow_uri, sweep.pipeline.tracking.experiment or sweep.pipeline.name
    with opened(uri) as client:
        experiment = client.get_experiment_by_name(name)
        parent = _parent(client, experiment.experiment_id, sweep.id) if experiment else ""
        if experiment is None or not parent:
            remedy = f"Write them: `{sweep.command('sync')}`."
            raise InputError("MLflow has no runs of this sweep yet", key="SWEEP", received=sweep.name, remedy=remedy)
        write(client, experiment.experiment_id, sweep, parent)
    return address(server or without_secrets(uri).rstrip("/"), experiment.experiment_id, sweep.id)


def _parent(client: MlflowClient, experiment: str, sweep: str) -> str:
    """The id of a sweep's own run; empty where there is none."""
    wanted = f"tags.`gcsearch.kind` = 'sweep' AND tags.`gcsearch.sweep` = '{sweep}'"
    found = client.search_runs([experiment], wanted, max_results=1)
    return str(found[0].info.run_id) if found else ""


def write(client: MlflowClient, experiment: str, sweep: Sweep, parent: str) -> bool:
    """Keep the view of a sweep with its experiment, and the places of its runs, as both are now.

    `parent`: the id of the sweep's own run.

    Returns whether anything had to be written.
    """
    key = _TAG + key_of_view(sweep.id)
    rows, packed = places(sweep, parent), _packed(state(sweep))
    order = hashlib.sha256(" ".join(rows).encode()).hexdigest()[:12]
    former = _envelope(client.get_experiment(experiment).tags.get(key))
    if (former.get("state"), former.get("order")) == (packed, order):
        return False
    now = int(1000 * time.time())
    for place, run_id in enumerate(rows):
        client.log_batch(run_id, metrics=[Metric(PLACE, place, now, 0)], synchronous=True)
    # MLflow reads name, times and state; the rest is ours.
    envelope = {"name": sweep.name, "createdAt": former.get("createdAt", now), "updatedAt": now, "state": packed}
    client.set_experiment_tag(experiment, key, json.dumps({**envelope, "order": order}, separators=(",", ":")))
    return True


def _packed(content: Mapping[str, Any]) -> str:
    """The settings as MLflow packs them; of equal ones the same text."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    return f"deflate;{base64.b64encode(zlib.compress(text.encode(), 9)).decode()}"


def _envelope(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def state(sweep: Sweep) -> dict[str, Any]:
    """What MLflow's page of runs is set to.

    Once the sweep is confirmed rows are in the order of `places`, before that by the objective.
    """
    names = _searched(sweep)
    decides, *others = _confirmed(sweep)
    first = [decides, f"{decides}_sd", *others, "objective", "objective_sd"]
    shown = [
        *map(_tag, ("role", "rank")),
        *map(_metric, first),
        *map(_param, dict.fromkeys(("method", *names))),
        *map(_metric, (f"{decides}_low", f"{decides}_high", *(f"{other}_sd" for other in others))),
        _tag("outcome"),
        _metric("seconds"),
    ]
    return {
        "searchFilter": f"tags.`gcsearch.sweep` = '{sweep.id}'",
        "orderByKey": _metric(PLACE if sweep.state.final else "objective"),
        "orderByAsc": bool(sweep.state.final),
        "selectedColumns": shown,
        "columnOrder": [_NAME, _CREATED, *shown],
        "columnWidths": {**dict.fromkeys(shown, _WIDTH), **_WIDTHS},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunSections": [
            {"uuid": _CHARTS, "name": "Search", "display": True, "isReordered": False, "columns": 1}
        ],
        "compareRunCharts": list(_charts(sweep, names)),
        "isAccordionReordered": True,
    }


def _confirmed(sweep: Sweep) -> list[str]:
    """The numbers of a confirmed configuration by name, what decides first."""
    task = sweep.pipeline.task
    decides = metrics.deciding(task)
    others = [one.key for one in metrics.columns(task) if one != decides and one.metric in metrics.METRICS]
    return [decides.key, *others]


def _searched(sweep: Sweep) -> list[str]:
    """The names of what the search varies, in the order of the space's file."""
    try:
        space = search_space.load(sweep.folder / SPACE_FILE)
    except InputError:  # a view is no reason to refuse a file that somebody has changed
        return searched(sweep.searched)
    return [name for name, one in space.dimensions.items() if not isinstance(one, Fixed)]


def _charts(sweep: Sweep, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    numbers = [*names, "objective"]
    yield _chart(
        "PARALLEL",
        "hyperparameters",
        f"Hyperparameters and {sweep.pipeline.search.ranking_metric}",
        selectedParams=numbers[:-1],
        selectedMetrics=numbers[-1:],
        showAllRuns=True,
    )
    decides = metrics.deciding(sweep.pipeline.task)
    yield _chart("BAR", "confirmed", f"{decides.title} on test images", metricKey=decides.key, runsCountToCompare=20)


def _chart(kind: str, name: str, title: str, **settings: Any) -> dict[str, Any]:
    common = {"type": kind, "uuid": f"gcsearch-{name}", "metricSectionId": _CHARTS, "displayName": title}
    return {**common, "deleted": False, "isGenerated": False, "runsCountToCompare": 100, **settings}


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _param(name: str) -> str:
    return f"params.`{name}`"


def _tag(name: str) -> str:
    return f"tags.`{name}`"


def places(sweep: Sweep, parent: str) -> list[str]:
    """The runs of a confirmed sweep in the order of its view, by their ids; none before the confirmation.

    The sweep's own run, the champion on test images, the other confirmed configurations by what decides, then the best
    of the search: what is beyond the first `RANKED` is in no order.
    """
    decides = metrics.deciding(sweep.pipeline.task).metric

    def behind(record: TrialRecord) -> tuple[bool, float]:
        value = record.mean(decides)
        return record.role is not Role.CHAMPION, -value if math.isfinite(value) else math.inf

    if not sweep.finals:
        return []
    rows = [*sorted(sweep.finals, key=behind), *(row.record for row in sweep.ranking[:RANKED])]
    return [parent, *(record.run_id for record in rows if record.run_id)]


# --- What a browser begins with

_SETTINGS = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
_SCRIPT = f"""<script>
for (const [key, value] of Object.entries({json.dumps(_SETTINGS)}))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
</script>"""


def with_settings(page: str) -> str:
    """MLflow's page, in which a browser that was never there begins with runs and without the assistant.

    MLflow's own begins with traces of language models, and on this machine with an assistant that takes a quarter of
    the window.  Both are settings that the browser keeps: whoever chooses otherwise keeps that.
    """
    return page.replace("<head>", f"<head>{_SCRIPT}", 1)
