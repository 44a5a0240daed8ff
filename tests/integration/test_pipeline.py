"""From image files to a champion through every real part: Ray, Optuna, MLflow, the engine, the command line."""

from __future__ import annotations

import json

from mlflow import MlflowClient

import gcsearch
from gcsearch.config.trials import Outcome
from gcsearch.results.ranking import one_standard_error
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


def test_mlflow_holds_a_parent_and_a_child_per_setting(sweep, store):
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if run.data.tags.get("gcsearch.kind") == "sweep"]
    assert len(parents) == 1
    assert len(runs) == 1 + 6 + 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_id = {run.info.run_id: run for run in runs}
    first = by_id[sweep.records[0].run_id]
    assert first.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert float(first.data.params["rho"]) == sweep.records[0].config.hyperparameters["rho"]
    history = client.get_metric_history(first.info.run_id, "val_h")
    assert [point.step for point in history] == [report.epoch for report in sweep.records[0].curve]
    assert "val_h/seed_1" in first.data.metrics
    assert {"loss", "cosine", "share_plain", "share_projected", "share_perturbed"} <= set(first.data.metrics)
    artifacts = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {"pipeline.toml", "space.toml", "report.html"} <= artifacts


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
