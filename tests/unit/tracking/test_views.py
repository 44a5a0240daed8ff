"""The view of a sweep in MLflow: what its experiment keeps of it, and where it is opened."""

from __future__ import annotations

import base64
import json
import sqlite3
import zlib
from urllib.parse import parse_qs

import pytest

from gcsearch.errors import InputError
from gcsearch.sweep.store import Store
from gcsearch.tracking import views
from gcsearch.tracking.client import know_sizes, opened
from gcsearch.tracking.sync import MlflowSync
from gcsearch.tracking.tracker import Tracker
from tests.support.records import ZEROSHOT, a_final, ranked_record
from tests.support.sweeps import a_sweep

SPACE = """version = 1
method = "gcscoop"
[parameters.rho]
low = 0.05
high = 2
log = true
[parameters.beta2]
value = 0.9
[parameters.epochs]
low = 3
high = 60
integer = true
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose database is made once."""
    folder = tmp_path_factory.mktemp("store")
    Tracker(Store(folder).mlflow_uri, "mirrors", folder / "artifacts")
    return folder


@pytest.fixture
def sweep(store, request):
    records = [ranked_record(number, (70.0 + number, 72.0 + number), rho=0.1 + number) for number in range(3)]
    tracking = {"experiment": "mirrors"}
    return a_sweep(
        store, request.node.name[:60], records, space=SPACE, search={"objective": "val_h"}, tracking=tracking
    )


def sync(sweep):
    MlflowSync(sweep, sweep.journal, print, print).sync()


def envelope(sweep):
    with opened(sweep.mlflow_uri) as client:
        tags = client.get_experiment_by_name("mirrors").tags
    return json.loads(tags[f"mlflow.sharedViewState.gcsearch-{sweep.id}"])


def settings(sweep):
    """What MLflow's page reads of the view."""
    kind, _, packed = envelope(sweep)["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def rows(sweep):
    """The runs as MLflow's table orders them once the sweep is confirmed, by name."""
    with opened(sweep.mlflow_uri) as client:
        experiment = client.get_experiment_by_name("mirrors").experiment_id
        wanted = settings(sweep)
        order = f"{wanted['orderByKey']} {'ASC' if wanted['orderByAsc'] else 'DESC'}"
        return [run.info.run_name for run in client.search_runs([experiment], wanted["searchFilter"], order_by=[order])]


def confirm(sweep):
    champion = a_final("gcscoop", number=1, rho=1.1, seeds=(4, 5))
    other = a_final("gcscoop", number=2, rho=2.1, seeds=(4, 5), new=70.0, label="shortlisted t0002")
    sweep.journal.append("final", records=[ZEROSHOT, other, champion], threads=1)


def test_while_the_search_goes_on_the_best_so_far_is_first(sweep):
    sync(sweep)
    assert envelope(sweep)["name"] == sweep.name
    found = settings(sweep)
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`objective`", False)
    assert found["searchFilter"] == f"tags.`gcsearch.sweep` = '{sweep.id}'"
    assert [name[:5] for name in rows(sweep)[:3]] == ["t0002", "t0001", "t0000"]


def test_once_it_is_confirmed_the_sweep_and_its_champion_are_first(sweep):
    sync(sweep)
    created = envelope(sweep)["createdAt"]
    confirm(sweep)
    sync(sweep)
    begin = [sweep.id, "confirm-champion", "confirm-shortlisted-t0002", "confirm-zero-shot"]
    assert [name.startswith(first) for name, first in zip(rows(sweep), begin, strict=False)] == [True] * 4
    assert [name[:5] for name in rows(sweep)[4:]] == ["t0002", "t0001", "t0000"]
    assert envelope(sweep)["createdAt"] == created


def test_the_columns_tell_the_story_and_the_chart_has_what_was_searched(sweep):
    sync(sweep)
    found = settings(sweep)
    names = [column.split("`")[1] for column in found["selectedColumns"]]
    assert names[:8] == ["role", "rank", "h", "h_sd", "base", "new", "objective", "objective_sd"]
    assert {"method", "rho", "epochs", "h_low", "h_high", "outcome"} <= set(names)
    assert "beta2" not in names  # every trial has the same
    chart = next(one for one in found["compareRunCharts"] if one["type"] == "PARALLEL")
    assert (chart["selectedParams"], chart["selectedMetrics"]) == (["rho", "epochs"], ["objective"])


def test_writing_it_again_changes_nothing(sweep):
    confirm(sweep)
    sync(sweep)
    before = envelope(sweep)
    (sweep.folder / "synced.json").unlink()
    sync(sweep)
    views.prepare(sweep)
    assert envelope(sweep) == before


def test_the_address_opens_the_view_as_model_training(sweep):
    sync(sweep)
    address = views.prepare(sweep, "http://127.0.0.1:5000")
    page, _, query = address.partition("?")
    assert page.startswith("http://127.0.0.1:5000/#/experiments/") and page.endswith("/runs")
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "viewStateShareKey": [f"gcsearch-{sweep.id}"],
    }


def test_a_sweep_that_mlflow_has_nothing_of_is_named_with_the_remedy(sweep):
    with pytest.raises(InputError, match=r"no runs of this sweep yet, got test_a_.*\n.*gcsearch sync test_a_"):
        views.prepare(sweep)


def test_a_space_file_that_cannot_be_read_leaves_the_view(sweep):
    (sweep.folder / "space.toml").write_text("version = 1\n")
    sync(sweep)
    assert "params.`rho`" in settings(sweep)["selectedColumns"]


def test_a_tag_that_is_no_view_is_replaced(sweep, store):
    sync(sweep)
    with sqlite3.connect(store / "mlflow.db") as database:
        key = f"mlflow.sharedViewState.gcsearch-{sweep.id}"
        database.execute("UPDATE experiment_tags SET value = 'nonsense' WHERE key = ?", (key,))
    views.prepare(sweep)
    assert envelope(sweep)["name"] == sweep.name


def test_the_database_knows_how_large_its_tables_are_unless_somebody_writes_to_it(sweep, store):
    sync(sweep)
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("BEGIN IMMEDIATE")
        know_sizes(f"{sweep.mlflow_uri}?timeout=0.01")
        database.rollback()
        know_sizes(sweep.mlflow_uri)
        assert database.execute("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'latest_metrics'").fetchone()[0] > 0


def test_the_page_gets_its_first_settings_before_any_script():
    page = views.with_settings('<!doctype html><html><head><script src="main.js"></script></head></html>')
    assert page.index("mlflow.workflowType_v1") < page.index("main.js")
    assert views.with_settings("<p>another page") == "<p>another page"
