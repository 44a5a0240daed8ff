"""Every method through the whole product: searched, confirmed, exported, trained again, compared."""

from __future__ import annotations

import json
import math
import os

import pytest
import safetensors.torch
from typer.testing import CliRunner

from gcsearch import errors
from gcsearch.cli.app import app
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome
from gcsearch.driver import run
from gcsearch.methods.registry import METHODS

pytestmark = pytest.mark.slow

COMBINED = "kgcoop+gcscoop"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def combined_space(tmp_path_factory):
    """A space for a combination, as a user writes one."""
    path = tmp_path_factory.mktemp("spaces") / "combined.toml"
    path.write_text(
        f'version = 1\nmethod = "{COMBINED}"\n[parameters.kg_lambda]\nlow = 1.0\nhigh = 16.0\n'
        "[parameters.rho]\nlow = 0.01\nhigh = 0.2\nlog = true\n[parameters.epochs]\nvalue = 60\n"
    )
    return str(path)


def small(name, space):
    return Pipeline.from_dict(
        {
            "name": name.replace("+", "-"),
            "evaluate_every": 50,
            "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "seeds": [1], "folds": 2},
            "search": {"space": space, "trials": 2, "pack": 2, "generation": 1},
            "confirm": {"top": 1, "seeds": [4, 5], "references": []},
            "resources": {"memory": "4 GiB"},
        }
    )


@pytest.mark.parametrize("name", [*METHODS, COMBINED])
def test_a_method_runs_is_exported_and_gives_its_numbers_again(name, store, combined_space, tmp_path):
    sweep = run.run(small(name, combined_space if name == COMBINED else name), store=store, executor="local")
    assert {record.outcome for record in sweep.records} == {Outcome.COMPLETE}
    assert len(sweep.records) == (1 if name == "zeroshot" else 2)
    (champion,) = sweep.finals
    assert all(math.isfinite(value) for values in champion.metrics.values() for value in values)
    folder = sweep.export(tmp_path / "best")
    again = run.train(folder)
    for metric, values in champion.metrics.items():
        assert again.metrics[metric] == pytest.approx(values, abs=1e-6), metric
    kept = (folder / "prompt.safetensors").exists()
    assert kept == (name != "zeroshot")
    if kept:
        tensors = safetensors.torch.load_file(folder / "prompt.safetensors")
        assert {key.split(".")[0] for key in tensors} == {"seed_4", "seed_5"}
    assert (folder / "text_features.safetensors").exists() == (name != "cocoop")


def test_class_specific_vectors_are_searched_by_trained_classes_alone_and_exported_for_them(store, tmp_path):
    space = tmp_path / "specific.toml"
    space.write_text(
        'version = 1\nmethod = "coop"\n[parameters.class_specific]\nvalue = true\n'
        "[parameters.epochs]\nlow = 10\nhigh = 20\ninteger = true\n"
    )
    pipeline = small("specific", str(space))
    by_h = pipeline.search.model_copy(update={"objective": "val_h"})
    with pytest.raises(errors.InputError, match=r'no H to search by.*\n.*"val_base_acc"'):
        run.run(pipeline.model_copy(update={"search": by_h}), store=store)
    sweep = run.run(pipeline, store=store, executor="local")
    assert "test_h" not in sweep.finals[0].metrics
    folder = sweep.export(tmp_path / "best")
    assert safetensors.torch.load_file(folder / "text_features.safetensors")["seed_4"].shape[0] == 12
    assert run.train(folder).metrics["test_base_acc"] == sweep.finals[0].metrics["test_base_acc"]


def test_compare_prints_them_all_in_one_table(store):
    sweeps = sorted(os.listdir(store / "sweeps"))
    names = [name for name in sweeps if not name.startswith(".")]
    assert len(names) == len(METHODS) + 2
    done = CliRunner().invoke(app, ["compare", *names, "--store", str(store), "--json"])
    assert done.exit_code == 0, done.output
    (group,) = json.loads(done.stdout)
    titles = {row["name"] for row in group["rows"]}
    assert {METHODS[name].title for name in METHODS} | {"KgCoOp + GCSCoOp"} <= titles
    assert all(len(row["base"]["per_seed"]) == 2 for row in group["rows"])
