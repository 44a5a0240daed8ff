"""Every protocol through the command line, from image files to the exported numbers, on small embedded sets."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import safetensors.torch
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.config.trials import TrialConfig
from gcsearch.methods.registry import complete
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import open_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = """
version = 1
name = "small"
evaluate_every = 9
{matrix}
[task]
dataset = "shapes-sketch"
{task}
shots = 1
views = 1
seeds = [1]
[search]
space = "gcscoop-smoke"
objective = "{objective}"
trials = 2
pack = 2
generation = 1
[confirm]
top = 1
seeds = [4]
references = ["zeroshot"]
[resources]
workers = 1
threads = 1
"""
EVERY = '"task.targets" = [[], ["shapes-mosaic", "shapes-sketch"]]\n"task.shots" = [1, 99]'
FEW, AWAY = "small-none-1", "small-shapes-mosaic-shapes-sketch-1"


def run(file):
    """`gcsearch run`, in a process of its own."""
    words = [sys.executable, "-m", "gcsearch", "run", str(file), "--store", str(file.parent / "store"), "--quiet"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def here(*words):
    """Another command, in this process."""
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def protocols(tmp_path_factory):
    """Few-shot and transfer as one matrix, half of which asks for more images than there are."""
    file = tmp_path_factory.mktemp("protocols") / "small.toml"
    file.write_text(SMALL.format(matrix=f"[matrix]\n{EVERY}", task='classes = "all"', objective="val_acc"))
    return file, run(file)


def test_what_is_refused_leaves_the_rest_of_the_matrix_its_results(protocols):
    file, done = protocols
    assert done.returncode == 2, done.stderr
    assert "small-none-99: task.shots: no class of shapes-sketch has so many images" in done.stderr
    assert (
        "2 of 4 sweeps failed: small-none-99, small-shapes-mosaic-shapes-sketch-99; the others are kept" in done.stderr
    )
    assert "shapes-sketch, mini, 1 shots, all classes: accuracy on test images" in done.stdout
    store = Store(file.parent / "store")
    assert [record.stage for name in (FEW, AWAY) for record in open_sweep(name, store.root).finals] == ["test"] * 4
    journals = {name: (store.sweep(name) / "journal.jsonl").read_text() for name in (FEW, AWAY)}
    again = run(file)
    assert again.returncode == 2
    assert f"{AWAY}, which is finished" in again.stderr
    assert {name: (store.sweep(name) / "journal.jsonl").read_text() for name in (FEW, AWAY)} == journals


def test_few_shot_and_transfer_measure_what_they_say(protocols):
    root = protocols[0].parent / "store"
    few, away = open_sweep(FEW, root), open_sweep(AWAY, root)
    for sweep in (few, away):  # no target, no test image and no half in the search
        found = {key for r in sweep.records for key in r.metrics if key.startswith(("val", "test"))}
        assert found == {"val_acc", "val_margin"}
    assert [r.metrics["val_acc"] for r in few.records] == [r.metrics["val_acc"] for r in away.records]
    for alone, record in zip(few.finals, away.finals, strict=True):
        found = record.metrics
        assert found["test_acc"] == alone.metrics["test_acc"] == found["test_acc_shapes-sketch"]
        assert found["test_acc_targets"] == found["test_acc_shapes-mosaic"]
        assert not any("base" in key or key == "test_h" for key in found)
    rows = list(csv.DictReader(here("compare", "small", "--store", root, "--csv").splitlines()))
    # Both sweeps have the same champion; its source accuracy stands in the table of each.
    champion = float(rows[-1]["acc_mean"])
    assert champion == pytest.approx(away.finals[-1].metrics["test_acc"][0], abs=1e-3)
    assert [row["targets_mean"] != "" for row in rows] == [False, False, True, True]
    assert len(here("report", "small", "--store", root).split()) == 2
    assert "mean accuracy on the targets" in (root / "sweeps" / AWAY / "report.html").read_text()


def test_a_transferred_champion_is_exported_and_trained_again_with_its_targets(protocols, tmp_path):
    root = protocols[0].parent / "store"
    here("export", AWAY, "--out", tmp_path / "best", "--store", root)
    stated = json.loads((tmp_path / "best" / "metrics.json").read_text())["champion"]["metrics"]
    again = json.loads(here("train", tmp_path / "best" / "config.toml", "--json", "--quiet"))["metrics"]
    keys = ["test_acc", "test_acc_shapes-mosaic", "test_acc_shapes-sketch", "test_acc_targets"]
    assert [again[key] for key in keys] == [list(stated[key]["per_seed"].values()) for key in keys]
    with safetensors.safe_open(tmp_path / "best" / "text_features.safetensors", "pt") as file:
        names = json.loads(file.metadata()["names"])
        assert list(names) == ["all"]
        assert len(file.get_tensor("seed_4")) == len(names["all"]) == 24
    table = here("train", tmp_path / "best" / "config.toml", "--quiet")
    assert "mean of targets" in table


def test_base_to_new_with_nothing_held_out_chooses_by_base_accuracy(tmp_path):
    file = tmp_path / "habit.toml"
    file.write_text(SMALL.format(matrix="", task="folds = 1", objective="val_base_acc"))
    done = run(file)
    assert done.returncode == 0, done.stderr
    assert "chosen by val_base_acc" in done.stdout
    sweep = open_sweep("small", tmp_path / "store")
    found = {key for r in sweep.records for key in r.metrics if key.startswith(("val", "test"))}
    assert found == {"val_base_acc", "val_base_margin"}
    assert {"test_base_acc", "test_new_acc", "test_h"} <= set(sweep.finals[-1].metrics)
    lines = here("compare", "small", "--store", tmp_path / "store", "--markdown").splitlines()
    assert lines[2] == "|  | searched in | base | new | H |"


def test_a_flag_is_enough_for_one_setting_under_another_protocol():
    sets = ['task.targets=["shapes-mosaic"]', "task.classes=all", "task.shots=1", "task.views=1", "method=zeroshot"]
    words = [part for one in sets for part in ("--set", one)]
    found = json.loads(here("trial", *words, "--seeds", "1", "--json", "--quiet"))
    assert found["config"] == complete(TrialConfig(method="zeroshot")).to_dict()
    assert list(found["metrics"]) == ["test_acc", "test_ece", "test_nll", "test_acc_shapes-mosaic", "test_acc_targets"]
