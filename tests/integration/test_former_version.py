"""What version 0.1.0 wrote is read: its store, its export, its registered model and its cache (see tests/assets)."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from gcsearch import open_sweep
from gcsearch.data.features import FeatureCache
from gcsearch.driver import run
from gcsearch.files import cache_folder
from gcsearch.tracking import relocation
from gcsearch.training import loading
from tests.support.calls import call

ARCHIVE = Path(__file__).parents[1] / "assets" / "former-store.tar.xz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def shown(unpacked) -> dict:
    """What the former version printed of what it had written."""
    return json.loads((unpacked / "shown.json").read_text())


@pytest.fixture(scope="module")
def store(unpacked) -> Path:
    return unpacked / "store"


@pytest.fixture
def copy(store, tmp_path) -> Path:
    """A store to write to."""
    return shutil.copytree(store, tmp_path / "store")


@pytest.fixture(scope="module")
def image(shown, unpacked) -> Path:
    """The image that the former version classified: a file of the embedded data set."""
    sweep = open_sweep("finished", unpacked / "store")
    loading.laboratory(sweep.pipeline.task)  # writes the data set where it is not there yet
    return cache_folder() / shown["predict"]["images"][0]["file"]


def printed(*words, store=None):
    done = call(*words, *(["--store", store] if store else []))
    assert done.returncode == 0, done.stderr
    return done.stdout


def known(said, now):
    """What is said now, of all that was said then; additions are left out. Numbers agree up to rounding."""
    if isinstance(said, dict):
        return {key: known(value, now[key]) for key, value in said.items()}
    if isinstance(said, list):
        assert len(now) == len(said)
        return [known(*pair) for pair in zip(said, now, strict=True)]
    return said if isinstance(said, float) and now == pytest.approx(said, rel=1e-5, abs=1e-5) else now


def kinds_of_runs(store):
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "finished"]
    return [run.data.tags["gcsearch.kind"] for run in client.search_runs([experiment.experiment_id])]


@pytest.mark.parametrize("command", ["status", "best", "compare"])
def test_results_are_shown_as_they_were(command, store, shown):
    now = json.loads(printed(command, "finished", "--json", store=store))
    assert known(shown[command], now) == shown[command]


def test_results_have_their_tables_their_export_and_their_report(store, tmp_path):
    assert "finished" in printed("status", store=store)
    assert all(name in printed("compare", "finished", store=store) for name in ("zero-shot CLIP", "CoOp", "GCSCoOp"))
    assert "gcscoop rho=" in printed("best", "finished", store=store)
    sweep = open_sweep("finished", store)
    page = sweep.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in ("t0003", "zero-shot CLIP", "CoOp"))


def test_an_export_of_now_holds_the_numbers_and_tensors_of_then(store, unpacked, tmp_path):
    now = open_sweep("finished", store).export(tmp_path / "best")
    for name in ("prompt.safetensors", "config.toml"):
        assert (now / name).read_bytes() == (unpacked / "best" / name).read_bytes()
    then, numbers = (json.loads((folder / "metrics.json").read_text()) for folder in (unpacked / "best", now))
    for key in ("champion", "chosen", "references", "leads", "classes", "verdict"):
        assert known(then[key], numbers[key]) == then[key]


def test_a_finished_sweep_is_resumed_without_work(copy):
    journal = copy / "sweeps" / "finished" / "journal.jsonl"
    before = journal.read_bytes()
    sweep = run.resume("finished", store=copy)
    assert journal.read_bytes() == before
    assert sweep.records == open_sweep("finished", copy).records
    assert (len(sweep.records), len(sweep.finals), sweep.champion.number) == (4, 4, 1)


def test_a_killed_sweep_goes_on_to_the_numbers_of_the_other(copy):
    done = run.resume("killed", store=copy, executor="local")
    for made, whole in zip(done.records, open_sweep("finished", copy).records[:3], strict=True):
        assert made.config.hyperparameters == pytest.approx(whole.config.hyperparameters)
        assert made.metrics.keys() == whole.metrics.keys()
        for key, values in made.metrics.items():
            assert values == pytest.approx(whole.metrics[key], rel=1e-4, abs=1e-4), key
    assert done.state.end == "FINISHED"
    assert [record.label for record in done.finals][:2] == ["zero-shot CLIP", "CoOp"]


def test_a_finished_sweep_is_extended_and_keeps_what_it_had(copy):
    before = open_sweep("finished", copy)
    records, finals = before.records, before.finals
    after = run.extend("finished", 1, store=copy, executor="local")
    assert after.records[:4] == records
    assert [record.number for record in after.records] == [0, 1, 2, 3, 4]
    former = {record.number: record.metrics for record in finals}
    kept = [record for record in after.finals if record.number in former]  # the shortlist may be another one now
    assert {-1, -2, 1} <= {record.number for record in kept}
    assert all(record.metrics == former[record.number] for record in kept)
    assert kinds_of_runs(copy).count("sweep") == 1


def test_mlflow_lacks_nothing(copy):
    assert run.sync("finished", store=copy) == 0


def test_mlflow_gets_everything_again_where_it_lost_all(store, tmp_path):
    lost = shutil.ignore_patterns("mlflow.db", "artifacts", "synced.json")
    copy = shutil.copytree(store, tmp_path / "store", ignore=lost)
    assert run.sync("finished", store=copy) == 4 + 4
    assert sorted(kinds_of_runs(copy)).count("sweep") == 1


def test_the_export_classifies_as_it_did(unpacked, shown, image):
    now = json.loads(printed("predict", unpacked / "best", image, "--json"))
    (then,), (made,) = shown["predict"]["images"], now["images"]
    assert made["top"][0]["name"] == then["top"][0]["name"]
    assert made["top"][0]["logit"] == pytest.approx(then["top"][0]["logit"], abs=1e-3)
    assert (now["classes"], now["seeds"]) == (shown["predict"]["classes"], shown["predict"]["seeds"])


def test_the_exported_configuration_trains_to_its_numbers(unpacked):
    made = json.loads(printed("train", unpacked / "best" / "config.toml", "--json"))["metrics"]
    stated = json.loads((unpacked / "best" / "metrics.json").read_text())["champion"]["metrics"]
    for key in ("test_base_acc", "test_new_acc"):
        assert made[key] == pytest.approx(list(stated[key]["per_seed"].values()), abs=0.5)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_the_registered_model_which_imports_the_former_module_classifies_as_it_did(copy, shown, image):
    relocation.follow(open_sweep("finished", copy).store)
    (served,) = copy.rglob("served.py")
    assert "from gcsearch.prediction import" in served.read_text()
    mlflow.set_tracking_uri(f"sqlite:///{copy / 'mlflow.db'}")
    try:
        model = mlflow.pyfunc.load_model("models:/finished@champion")
    finally:
        mlflow.set_tracking_uri(None)
    answer = model.predict(pd.DataFrame({"image": [image.read_bytes()]}))
    (guess,) = shown["predict"]["images"][0]["top"]
    assert list(answer["class"]) == [guess["name"]]
    assert list(answer["logit"]) == pytest.approx([guess["logit"]], abs=1e-3)


def test_the_entry_of_the_cache_is_read_and_not_made_again(store, unpacked, tmp_path, monkeypatch):
    folder = shutil.copytree(unpacked / "features", tmp_path / "features")
    (entry,) = folder.glob("*.arrow")
    data = loading.laboratory(open_sweep("finished", store).pipeline.task)
    kept = replace(data.cache, folder=folder, shared=None)
    every = data.wanted("search", [1, 4, 5])
    wanted = next(one for one in every if entry in kept.missing([one]))
    (made,) = data.cache.get([wanted])
    monkeypatch.setattr(FeatureCache, "_encode", None)  # whoever encodes fails
    (read,) = kept.get([wanted])
    assert list(folder.glob("*.arrow")) == [entry]
    assert read.shape == (1, 24, 64)
    torch.testing.assert_close(read, made, atol=1e-3, rtol=1e-2)
