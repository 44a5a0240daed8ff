"""The export of a sweep that was run: what it holds, and that it gives the same numbers again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from gcsearch.config.pipeline import Pipeline
from gcsearch.errors import InputError
from gcsearch.training import loading
from tests.support.calls import call
from tests.support.sweeps import SMOKE


def test_train_gives_the_exported_numbers_in_a_new_process(sweep, exported):
    done = subprocess.run(
        [sys.executable, "-m", "gcsearch", "train", str(exported / "config.toml"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    again = json.loads(done.stdout)["metrics"]
    stated = json.loads((exported / "metrics.json").read_text())["champion"]["metrics"]
    for key in ("test_base_acc", "test_new_acc", "test_h"):
        assert again[key] == pytest.approx(list(stated[key]["per_seed"].values()), abs=1e-6)
    assert stated["test_h"]["per_seed"] == dict(zip("45", sweep.finals[-1].metrics["test_h"], strict=True))


def test_the_export_holds_prompts_and_features_that_agree(sweep, exported):
    from gcsearch.stats import accuracy

    prompts = safetensors.torch.load_file(exported / "prompt.safetensors")
    features = safetensors.torch.load_file(exported / "text_features.safetensors")
    assert set(features) == {"seed_4", "seed_5", "mean"}
    assert set(prompts) == {"seed_4.ctx", "seed_5.ctx"}
    assert prompts["seed_4.ctx"].shape == (4, 64)
    task = Pipeline.from_dict(SMOKE).task
    (episode,) = loading.laboratory(task).episodes("test", [4])
    text = features["seed_4"]
    torch.testing.assert_close(text.norm(dim=1), torch.ones(len(episode.names)))
    base = accuracy(episode.base.features, text[: len(episode.base.classes)], episode.base.labels)
    assert base == pytest.approx(sweep.finals[-1].metrics["test_base_acc"][0])


def test_an_export_says_what_its_numbers_allow_to_say(exported):
    numbers = json.loads((exported / "metrics.json").read_text())
    assert [lead["name"] for lead in numbers["leads"]] == [row["label"] for row in numbers["references"]]
    assert {(lead["n"], lead["metric"]) for lead in numbers["leads"]} == {(2, "test_h")}
    assert "zero-shot CLIP" in numbers["verdict"][1]
    assert all(sentence in (exported / "card.md").read_text() for sentence in numbers["verdict"])


def test_the_command_fits_a_temperature_where_it_is_asked_to(sweep, tmp_path):
    done = call("export", sweep.name, "--out", tmp_path / "best", "--calibrate", "--store", sweep.store.root)
    assert done.returncode == 0, done.stderr
    fit = json.loads((tmp_path / "best" / "metrics.json").read_text())["temperature"]
    assert fit["value"] > 0 and fit["nll"] <= fit["nll_before"]
    assert f"the temperature {fit['value']:.4g}" in (tmp_path / "best" / "card.md").read_text()


def test_an_export_never_writes_over_something_else(sweep, exported, tmp_path):
    with pytest.raises(InputError, match="an earlier export already"):
        sweep.export(exported)
    assert sweep.export(exported, force=True) == exported
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds something else"):
        sweep.export(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
