"""The long ways: to the registry and back, with a model of real size, with more seeds, with an oracle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from mlflow import MlflowClient
from PIL import Image

import gcsearch
from gcsearch import open_sweep
from gcsearch.config.pipeline import Pipeline
from gcsearch.data import datasets
from gcsearch.data.lists import draws
from gcsearch.driver import run as pipelines
from gcsearch.training import loading
from tests.support.models import random_model
from tests.support.processes import command
from tests.support.sweeps import SMOKE

CLASSIFY = """
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
data = pd.DataFrame({"image": [open(path, "rb").read() for path in sys.argv[3:]]})
whole = model.predict(data)
few = model.predict(data, params={"classes": ["owl", "red car"], "seed": 5})
print(json.dumps({"whole": whole.to_dict("list"), "few": few.to_dict("list")}))
"""


@pytest.mark.slow
def test_train_predict_registry_and_features_agree_in_new_processes_without_the_sweep(sweep, store, tmp_path):
    kept, best = tmp_path / "store", tmp_path / "best"
    shutil.copytree(store, kept)
    (tmp_path / "names.txt").write_text("owl\nred car\n")

    def run(*words, **environment):
        done = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    export = command("export", "smoke", "--out", best, "--classes", "names.txt", "--register", store=kept)
    assert "models:/smoke@champion is version 1\n" in run(*export)
    again = command("export", "smoke", "--classes", "names.txt", "--register", store=kept)
    assert run(*again) == "models:/smoke@champion is version 1, as before\n"
    shutil.rmtree(kept / "sweeps")

    facts = json.loads((best / "metrics.json").read_text())
    stated = {key: list(one["per_seed"].values()) for key, one in facts["champion"]["metrics"].items()}
    again = json.loads(run(sys.executable, "-m", "gcsearch", "train", best / "config.toml", "--json"))["metrics"]
    for key in ("test_base_acc", "test_new_acc", "test_h"):
        assert again[key] == pytest.approx(stated[key], abs=1e-6)

    lab = loading.laboratory(sweep.pipeline.task)
    items = [item for item in lab.dataset.test if item.label in lab.halves[0]]
    images = [lab.dataset.images / item.path for item in items]
    (tmp_path / "base.txt").write_text("\n".join(facts["classes"]["base"]))
    predict = [sys.executable, "-m", "gcsearch", "predict", best, "--json"]
    found = json.loads(run(*predict, *images, "--classes", "base.txt", "--seed", 5))
    right = [
        one["top"][0]["name"] == lab.dataset.classes[i.label] for one, i in zip(found["images"], items, strict=True)
    ]
    assert 100 * sum(right) / len(right) == pytest.approx(stated["test_base_acc"][1])

    few = images[:: len(images) // 9]
    shown = [one["top"][0] for one in json.loads(run(*predict, *few))["images"]]
    script = [sys.executable, "-c", CLASSIFY, f"sqlite:///{kept / 'mlflow.db'}", "models:/smoke@champion"]
    # Where MLflow may open no pickle the model loads all the same: it is code and tensors.
    served = json.loads(run(*script, *few, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"))
    assert served["whole"]["class"] == [one["name"] for one in shown]
    assert served["whole"]["logit"] == pytest.approx([one["logit"] for one in shown], abs=1e-5)
    given = json.loads(run(*predict, *few, "--classes", "names.txt", "--seed", 5))["images"]
    assert served["few"]["class"] == [one["top"][0]["name"] for one in given]

    with safetensors.safe_open(best / "text_features.safetensors", "pt") as file:
        names, scale = json.loads(file.metadata()["names"]), float(file.metadata()["logit_scale"])
        mean, fifth = file.get_tensor("mean"), file.get_tensor("seed_5")
    assert names == {side: part for side, part in facts["classes"].items() if part}
    assert names["given"] == ["owl", "red car"]
    encoded = lab.cache.fixed(lab.dataset, items)[:: len(images) // 9].float()
    trained = [*names["base"], *names["new"]]
    top = (scale * encoded @ mean[: len(trained)].T).max(dim=1)
    assert [trained[i] for i in top.indices] == [one["name"] for one in shown]
    assert top.values.tolist() == pytest.approx([one["logit"] for one in shown], abs=1e-4)
    chosen = (encoded @ fifth[len(trained) :].T).argmax(dim=1)
    assert [names["given"][i] for i in chosen] == [one["top"][0]["name"] for one in given]


BREEDS = """
abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle bengal birman bombay boxer british_shorthair
chihuahua egyptian_mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees havanese japanese_chin
keeshond leonberger maine_coon miniature_pinscher newfoundland persian pomeranian pug ragdoll russian_blue saint_bernard
samoyed scottish_terrier shiba_inu siamese sphynx staffordshire_bull_terrier wheaten_terrier yorkshire_terrier
"""


def write_pets(root):
    """Oxford Pets as CoOp-style repositories have it: 37 breeds, a JPEG of each in every list of the split."""
    folder, generator = root / "oxford_pets", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    split = {"train": [], "val": [], "test": []}
    for label, breed in enumerate(BREEDS.split()):
        for number, part in enumerate(split, start=1):
            pixels = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{breed}_{number}.jpg")
            split[part].append([f"{breed}_{number}.jpg", label, breed])
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(split))


@pytest.mark.slow
def test_a_local_vit_b_32_on_oxford_pets_runs_to_the_export_and_train_gives_the_same(tmp_path, monkeypatch):
    """Random weights: the numbers mean nothing, but every part is the one that real weights go through."""
    write_pets(tmp_path / "data")
    safetensors.torch.save_file(random_model("ViT-B-32").state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "space.toml").write_text(
        'version = 1\nmethod = "gcscoop"\n[parameters.epochs]\nvalue = 2\n[parameters.rho]\nlow = 0.05\nhigh = 0.2\n'
    )
    (tmp_path / "local.toml").write_text(
        """
        [task]
        dataset = "OxfordPets"
        backbone = "ViT-B-32"
        pretrained = "weights.safetensors"
        template = "a photo of a {}, a type of pet."
        root = "data"
        shots = 1
        val_shots = 1
        views = 1
        folds = 2
        seeds = [1]
        [search]
        space = "space.toml"
        trials = 1
        pack = 1
        generation = 1
        [confirm]
        top = 1
        seeds = [4]
        references = ["zeroshot"]
        """
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    package = Path(gcsearch.__file__).parent.parent
    store = ["--store", str(tmp_path / "store")]
    for words in (
        ["run", "local.toml", "--export", "best", *store],
        ["train", "best/config.toml", "--json", "--quiet"],
    ):
        command = [sys.executable, "-m", "gcsearch", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(package)})
        assert done.returncode == 0, done.stderr
    again, stated = json.loads(done.stdout), json.loads((tmp_path / "best" / "metrics.json").read_text())["champion"]
    assert again["config"] == stated["config"]
    for key in ("test_base_acc", "test_new_acc", "test_h"):
        assert again["metrics"][key] == pytest.approx(list(stated["metrics"][key]["per_seed"].values()), abs=1e-6)
    features = safetensors.torch.load_file(tmp_path / "best" / "text_features.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in features.items()} == {
        "seed_4": (37, 512),
        "mean": (37, 512),
    }
    config = tomllib.loads((tmp_path / "best" / "config.toml").read_text())
    assert config["task"]["pretrained"] == str(tmp_path / "weights.safetensors")
    pets = datasets.load("OxfordPets", Path(config["task"]["root"]))
    assert ([len(half) for half in draws.halves(pets)], pets.classes) == ([19, 18], tuple(BREEDS.split()))


@pytest.mark.slow
def test_seeds_can_be_added_to_a_finished_sweep(tmp_path):
    settings = {**SMOKE, "name": "more", "search": {**SMOKE["search"], "trials": 2}}
    settings["confirm"] = {"top": 2, "seeds": [4], "references": ["zeroshot"]}
    before = pipelines.run(Pipeline.from_dict(settings), store=tmp_path, executor="local")
    finals, records = before.finals, before.records
    done = subprocess.run(command("confirm", "more", "--seeds", "9", store=tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mean ± sd over seeds 4, 9" in done.stdout
    assert "verdict" in done.stdout
    after = open_sweep("more", tmp_path)
    for old in finals:
        (new,) = [one for one in after.finals if one.number == old.number]
        assert new.seeds == (4, 9)
        assert {key: values[:1] for key, values in new.metrics.items()} == old.metrics
    assert after.records == records
    assert len(safetensors.torch.load_file(after.export(tmp_path / "best") / "prompt.safetensors")) == 2
    again = subprocess.run(command("confirm", "more", "--seeds", "9", store=tmp_path), capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (2, "")
    assert "new to the sweep" in again.stderr


@pytest.mark.slow
def test_an_oracle_is_called_so_wherever_it_shows(tmp_path):
    search = {**SMOKE["search"], "objective": "test_h", "trials": 2}
    settings = {**SMOKE, "name": "oracle", "search": search, "confirm": {"top": 2, "seeds": [4], "references": []}}
    found = pipelines.run(Pipeline.from_dict(settings), store=tmp_path, executor="local")
    assert {record.stage for record in found.records} == {"test"}
    words = "test_h (oracle: it looks at test images)"
    assert words in (found.folder / "report.html").read_text()
    assert words in subprocess.run(command("best", "oracle", store=tmp_path), capture_output=True, text=True).stdout
    assert all(row.to_dict()["objective"]["oracle"] for row in found.ranking)
    numbers = json.loads((found.export(tmp_path / "best") / "metrics.json").read_text())
    assert numbers["chosen"]["oracle"] is True
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.`gcsearch.kind` = 'sweep'")
    assert [run.data.tags["gcsearch.selection"] for run in runs] == ["oracle"]
    assert all(client.get_run(record.run_id) for record in (*found.records, *found.finals))
    assert client.get_run(found.records[0].run_id).data.tags["gcsearch.selection"] == "oracle"
    status = subprocess.run(command("status", "oracle", store=tmp_path), capture_output=True, text=True).stdout
    assert "oracle: it looks at test images)" in status
