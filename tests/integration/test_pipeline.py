"""From image files to a champion through every real part: Ray, Optuna, MLflow, the engine, the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

import gcsearch
from gcsearch.config.trials import Outcome
from gcsearch.results.ranking import one_standard_error
from gcsearch.training import loading
from tests.support.calls import call
from tests.support.sweeps import SMOKE


def test_every_setting_has_a_record(sweep):
    assert [record.number for record in sweep.records] == list(range(6))
    assert {record.outcome for record in sweep.records} == {Outcome.COMPLETE}
    assert all(len(record.metrics["val_h"]) == 2 for record in sweep.records)
    assert sweep.records[0].label == "literature-short"


def test_the_search_measured_no_test_image(sweep):
    assert all(record.stage == "search" for record in sweep.records)
    assert not any(key.startswith("test") for record in sweep.records for key in record.metrics)


def test_champion_and_references_are_confirmed_on_test_images(sweep):
    labels = [record.label for record in sweep.finals]
    others = [f"shortlisted t{r.number:04d}" for r in sweep.rechecked if r.number != sweep.champion.number]
    assert labels[:2] == ["zero-shot CLIP", "GCSCoOp, literature-short"]
    assert sorted(labels[2:-1]) == sorted(others) and len(others) == 2
    assert labels[-1] == "champion"
    assert all(record.stage == "test" and record.seeds == (4, 5) for record in sweep.finals)
    assert sweep.finals[-1].number == sweep.champion.number


def test_the_champion_is_chosen_among_the_best_by_new_seeds_and_validation_images(sweep):
    best = {row.record.number for row in sweep.ranking[:3]}
    assert {record.number for record in sweep.rechecked} == best
    assert all(record.stage == "search" and record.seeds == (4, 5) for record in sweep.rechecked)
    assert not any(key.startswith("test") for record in sweep.rechecked for key in record.metrics)
    assert sweep.champion.number == one_standard_error(sweep.rechecked, "val_base_margin").number


@pytest.fixture(scope="module")
def client(store) -> MlflowClient:
    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs_of(client, condition):
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    return client.search_runs([experiment.experiment_id], condition, max_results=100)


def files_of(client, run):
    return {file.path for file in client.list_artifacts(run.info.run_id)}


def test_mlflow_holds_a_parent_and_a_child_per_setting(sweep, client):
    (parent,) = runs_of(client, "tags.`gcsearch.kind` = 'sweep'")
    runs = runs_of(client, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(runs) == 6 + 5
    assert {run.info.status for run in (parent, *runs)} == {"FINISHED"}
    by_id = {run.info.run_id: run for run in runs}
    first = by_id[sweep.records[0].run_id]
    assert float(first.data.params["rho"]) == sweep.records[0].config.hyperparameters["rho"]
    history = client.get_metric_history(first.info.run_id, "val_base_margin")
    assert [point.step for point in history] == [report.epoch for report in sweep.records[0].curve]
    assert {"loss", "cosine", "share_plain", "share_projected", "share_perturbed"} <= set(first.data.metrics)
    assert all(len(run.data.metrics) < 40 for run in runs)
    assert {"pipeline.toml", "space.toml", "report.html", "shortlist.json"} <= files_of(client, parent)


def test_the_sweeps_run_has_the_result_and_the_way_there(sweep, client):
    (parent,) = runs_of(client, "tags.`gcsearch.kind` = 'sweep'")
    champion, metrics = sweep.finals[-1], parent.data.metrics
    assert metrics["h"] == pytest.approx(champion.mean("test_h"))
    assert metrics["base"] == pytest.approx(champion.mean("test_base_acc"))
    assert metrics["h_low"] < metrics["h"] < metrics["h_high"]
    assert metrics["gain_zeroshot"] == pytest.approx(champion.mean("test_h") - sweep.finals[0].mean("test_h"))
    assert metrics["gain_literature-short_low"] <= metrics["gain_literature-short"]
    assert (metrics["trials"], metrics["trials_complete"], metrics["trials_failed"]) == (6, 6, 0)
    assert metrics["seconds"] > 0
    assert float(parent.data.params["rho"]) == champion.config.hyperparameters["rho"]
    course = client.get_metric_history(parent.info.run_id, "best")
    assert [point.step for point in course] == [1, 2, 3, 4, 5, 6]
    assert course[-1].value == sweep.ranking[0].record.mean("val_base_margin")
    told = parent.data.tags["mlflow.note.content"]
    assert told.startswith("Champion, GCSCoOp (") and "reaches H = " in told
    for run_id in (champion.run_id, sweep.champion.run_id):
        assert f"](#/experiments/{parent.info.experiment_id}/runs/{run_id}?workflowType=" in told
    for file in (f"{parent.info.run_id}/artifacts/report.html", f"{champion.run_id}/artifacts/export"):
        assert f"/runs/{file}?workflowType=" in told
    assert parent.data.tags["gcsearch.champion"] == champion.run_id


def test_tags_tell_what_a_configuration_is_in_the_sweep(sweep, client):
    ranked = {run.data.tags["rank"]: run for run in runs_of(client, "tags.`gcsearch.stage` = 'search'")}
    best = [row.record for row in sweep.ranking]
    assert [ranked[str(place)].info.run_id for place in range(1, 7)] == [record.run_id for record in best]
    chosen = runs_of(client, "tags.role = 'champion'")
    assert {run.info.run_id for run in chosen} == {sweep.champion.run_id, sweep.finals[-1].run_id}
    roles = {run.info.run_id: run.data.tags["role"] for run in runs_of(client, "tags.role != ''")}
    assert {roles[record.run_id] for record in sweep.finals[:2]} == {"reference"}
    for record in sweep.rechecked:
        for run in runs_of(client, f"tags.`gcsearch.trial` = '{record.number}'"):
            assert run.data.metrics["recheck"] == pytest.approx(record.mean("val_base_margin"))
            assert run.data.tags["role"] in ("shortlisted", "champion")


def test_the_shortlist_are_models_whose_metrics_name_the_data_set(sweep, client):
    (parent,) = runs_of(client, "tags.`gcsearch.kind` = 'sweep'")
    (dataset,) = parent.inputs.dataset_inputs
    models = client.search_logged_models([parent.info.experiment_id])
    confirmed = {record.run_id: record for record in sweep.finals[2:]}
    assert {model.source_run_id for model in models} == set(confirmed)
    for model in models:
        record = confirmed[model.source_run_id]
        (h,) = [metric for metric in model.metrics if metric.key == "h"]
        assert h.value == pytest.approx(record.mean("test_h"))
        assert (h.dataset_name, h.dataset_digest) == (dataset.dataset.name, dataset.dataset.digest)
        assert float(model.params["rho"]) == record.config.hyperparameters["rho"]
        assert (model.tags["role"], model.status) == (record.role.value, "READY")
        assert len(client.get_metric_history(record.run_id, "h")) == 1


def test_what_decided_is_a_table_on_the_sweeps_run(sweep, client, tmp_path):
    (parent,) = runs_of(client, "tags.`gcsearch.kind` = 'sweep'")
    path = Path(client.download_artifacts(parent.info.run_id, "shortlist.json", str(tmp_path)))
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {row["trial"] for row in rows} == {f"t{record.number:04d}" for record in sweep.rechecked}
    assert [row["trial"] for row in rows if row["chosen"]] == [f"t{sweep.champion.number:04d}"]


def test_train_and_predict_go_on_from_mlflow_alone(sweep, client, tmp_path):
    (champion,) = runs_of(client, "tags.role = 'champion' and tags.`gcsearch.stage` = 'test'")
    there = files_of(client, champion)
    assert {"record.json", "seeds.json", "curves.png", "words.md", "prompts", "export"} <= there
    folder = Path(client.download_artifacts(champion.info.run_id, "export", str(tmp_path)))
    again = gcsearch.train(folder / "config.toml")
    assert again.metrics["test_h"] == pytest.approx(sweep.finals[-1].metrics["test_h"], abs=1e-6)
    assert json.loads((folder / "metrics.json").read_text())["origin"]["run_id"] == champion.info.run_id
    lab = loading.laboratory(sweep.pipeline.task)
    image = lab.dataset.images / lab.dataset.test[0].path
    (found,) = json.loads(call("predict", folder, image, "--json").stdout)["images"]
    assert found["top"][0]["name"] in lab.dataset.classes


def test_best_prints_the_ranking_as_json(sweep, store):
    rows = json.loads(call("best", "smoke", "--json", "--store", store).stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    means = [row["objective"]["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    for row in rows:
        assert set(row["objective"]["per_seed"]) == {"1", "2"}
        assert row["outcome"] == "complete"
        assert row["run_id"]
    assert "gcscoop rho=" in call("best", "smoke", "--store", store).stdout


def test_three_lines_of_python_do_the_same(tmp_path, monkeypatch):
    """The lines that the README shows, on a smaller pipeline."""
    monkeypatch.chdir(tmp_path)
    small = {
        **SMOKE,
        "name": "lines",
        "search": {"space": "zeroshot"},
        "confirm": {"top": 1, "seeds": [4], "references": []},
    }
    sweep = gcsearch.run(gcsearch.Pipeline.from_dict(small))
    sweep.export("best")
    # The champion is zero-shot CLIP: it has text features, but no prompt.
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [
        "card.md",
        "config.toml",
        "metrics.json",
        "text_features.safetensors",
    ]
    assert (tmp_path / "gcsearch-store" / "sweeps" / "lines" / "report.html").exists()
