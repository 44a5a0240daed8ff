"""The table of configurations: what is measured is what the product measures, and stopping costs one unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gcsearch.config.trials import Proposal, TrialConfig
from gcsearch.data.synthetic import worlds
from gcsearch.methods.prompts import Context
from gcsearch.training import loading, task_data
from gcsearch.training.trial import run_pack

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def table(monkeypatch, tmp_path):
    """The script, on two small worlds and with a cache of its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    names = {
        3: ("red star", "blue star", "red fish", "blue fish"),
        6: ("pink key", "blue fish", "green key", "green star"),
    }

    def small(seed):
        names_of = {"title": f"World{seed}", "class_names": names[seed], "description": ""}
        return worlds.World(name=f"world:{seed}", style="photo", train=4, val=4, test=3, **names_of)

    monkeypatch.setattr(worlds, "_generated", small)
    import table

    yield table
    loading.forget()


@pytest.fixture
def plan(table):
    return table.Plan(worlds=("world:3", "world:6"), configurations=2, block=1, seeds=(1, 2), most_epochs=2)


def without_costs(path):
    frame = pd.read_parquet(path)
    return frame.drop(columns=[key for key in frame if key.startswith("cost_") or key == "seconds"])


@pytest.mark.slow
def test_a_fill_that_was_stopped_goes_on_to_the_same_table(table, plan, tmp_path, monkeypatch, capsys):
    table.fill(tmp_path / "whole", plan)
    done = []

    def stopping(one, unit, measure=table.measure):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(unit.world)
        return measure(one, unit)

    with monkeypatch.context() as context:
        context.setattr(table, "measure", stopping)
        with pytest.raises(KeyboardInterrupt):
            table.fill(tmp_path / "resumed", plan)
    assert done == ["world:3", "world:6"], "all worlds first, then the next configurations"
    table.fill(tmp_path / "resumed", plan)
    whole, resumed = table.parts(tmp_path / "whole"), table.parts(tmp_path / "resumed")
    assert [path.name for path in whole] == [path.name for path in resumed] and len(whole) == 4
    for one, other in zip(whole, resumed, strict=True):
        pd.testing.assert_frame_equal(without_costs(one), without_costs(other))

    capsys.readouterr()
    table.pack(tmp_path / "whole", tmp_path / "all.parquet")
    table.status(tmp_path / "whole", plan)
    frame = pd.read_parquet(tmp_path / "all.parquet")
    assert len(frame) == sum(map(len, map(pd.read_parquet, whole)))
    assert set(frame["world"]) == set(plan.worlds) and not frame["diverged"].any()
    assert frame["val_base_acc"].dtype == "float32" and "prompt" not in frame
    assert "| world:3 | 4 |" in capsys.readouterr().out


def test_its_numbers_are_those_of_the_product(table, plan):
    """The search stage of the product gives the same validation numbers, its test stage the same test numbers."""
    frame = table.measure(plan, table.Unit("world:3", 1)).query("last").set_index("seed")
    lab, config = loading.laboratory(plan.task("world:3")), plan.configs()[1]
    searched, tested = ("val_base_acc", "val_base_margin"), ("test_base_acc", "test_new_acc", "test_h")
    for stage, keys in (("search", searched), ("test", tested)):
        (trial,) = run_pack(lab, lab.episodes(stage, plan.seeds), [Proposal(number=1, config=config)])
        for key in keys:
            assert trial.record.metrics[key] == pytest.approx(frame[key].tolist(), rel=1e-4)
    for kept, trained in zip(frame["prompt"], trial.parameters, strict=True):
        assert np.frombuffer(kept, "f2").reshape(4, -1) == pytest.approx(trained.numpy(), abs=1e-3)
    zero = table.measure(plan, table.Unit("world:3", 0)).query(f"number == {table.ZERO_SHOT}").iloc[0]
    proposal = Proposal(number=0, config=TrialConfig(method="zeroshot"))
    (trial,) = run_pack(lab, lab.episodes("test", (1,)), [proposal])
    assert trial.record.metrics["test_h"] == pytest.approx([zero["test_h"]], rel=1e-4)


def test_no_class_of_the_world_is_among_those_that_a_prompt_is_carried_to(table, plan):
    from table_measures import Measures

    task = plan.task("world:3")
    task_data.data_root(task)
    measures = Measures(loading.laboratory(task), Context(), plan.seeds, plan.others("world:3"))
    names = [list(measures.names)[at] for at in measures.kinds["transfer_1"].names]
    assert names == ["pink key", "green key", "green star"]
    assert len(measures.kinds["transfer_1"].labels) == 3 * 4


@pytest.mark.parametrize("method", ["coop", "kgcoop", "prograd", "mixed"])
def test_other_methods_begin_with_the_literature_at_batches_of_32(table, method):
    configs = table.Plan(method).configs()
    assert len(set(map(str, configs.values()))) == 128
    assert configs[0].hyperparameters["batch_size"] == 32 and configs[0].hyperparameters["lr"] == 0.002
    assert {config.hyperparameters["batch_size"] for config in configs.values()} == {32, 128, 4096}


@pytest.mark.slow
def test_methods_that_differ_in_their_hyperparameters_stand_in_one_table(table):
    plan = table.Plan("mixed", ("world:3", "world:6"), 4, 4, (1, 2), most_epochs=2)
    frame = table.measure(plan, table.Unit("world:6", 0))
    ends = frame[frame["last"]].set_index("method")
    assert list(frame["method"].unique()) == ["zeroshot", "gcscoop", "coop", "kgcoop", "prograd"]
    assert ends.loc["kgcoop", "kg_lambda"].tolist() == [8, 8] and ends.loc["coop", "rho"].isna().all()
    assert ends["test_h"].notna().all()


def test_the_configurations_do_not_depend_on_how_many_there_are(table):
    every = table.Plan().configs()
    assert len(every) == 128 and table.Plan(configurations=5).configs() == {n: every[n] for n in range(5)}
    assert every[0].hyperparameters["batch_size"] == 32 and every[1].hyperparameters["batch_size"] == 128
    assert len(set(map(str, every.values()))) == 128


def test_surety_that_is_earned_is_no_error(table):
    import torch
    from table_measures import calibration_error

    sure = torch.tensor([[1.0, 1.0, 0.5, 0.5], [0.9, 0.9, 0.9, 0.9]])
    right = torch.tensor([[True, True, True, False], [True, False, False, False]])
    assert calibration_error(sure, right).tolist() == pytest.approx([0.0, 0.65])
