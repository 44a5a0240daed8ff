"""What cannot work is refused by a plan and by a run before anything is trained, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.driver import plan as plans
from gcsearch.driver import run as pipelines
from gcsearch.errors import InputError
from gcsearch.training import loading, task_checks
from tests.support.calls import call
from tests.support.sweeps import SMOKE


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_trial(tmp_path):
    space = tmp_path / "mine.toml"
    space.write_text(
        'version = 1\nmethod = "coop"\n[parameters.ctx_init]\nvalue = "a photo of one single"\n'
        "[parameters.lr]\nlow = 0.001\nhigh = 0.01\n"
    )
    wrong = Pipeline.from_dict(
        {**SMOKE, "name": "wrong", "search": {"space": str(space)}, "confirm": {"references": []}}
    )
    with pytest.raises(InputError, match=r"(?s)mine.toml, ctx_init: .*5 tokens.*Set n_ctx=5"):
        pipelines.run(wrong, store=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": 999}, "task.shots: no class of shapes-sketch has so many images; the largest has 20, got 999"),
        ({"val_shots": 999}, "task.val_shots: no class"),
        ({"folds": 7}, "task.folds: every fold needs two of the 12 base classes, got 7"),
    ],
)
def test_sizes_that_the_data_set_does_not_have_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        task_checks.check_sizes(
            loading.laboratory(Pipeline.from_dict({**SMOKE, "task": {**SMOKE["task"], **change}}).task)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resources": {"memory": "1 MiB"}}, r"resources\.memory: .*leave room beside the \d+ MiB.*got 1 MiB"),
        (
            {"space": "[parameters.n_ctx]\nlow = 1\nhigh = 16\ninteger = true"},
            r"space\.toml, parameters\.n_ctx: .*Set n_ctx=4 or",
        ),
        (
            {"space": "[parameters.epochs]\nlow = 5\nhigh = 9\ninteger = true\n[parameters.probe_epochs]\n"
             "low = 4\nhigh = 9\ninteger = true\n[parameters.rank]\nvalue = 2", "method": "subpt"},
            r"space\.toml, subpt\.probe_epochs: probe_epochs must not exceed epochs",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_plan_and_run_and_leaves_nothing_behind(change, message, tmp_path):
    settings = {**SMOKE, "confirm": {"top": 1, "seeds": [4], "references": []}}
    if "space" in change:
        space = tmp_path / "space.toml"
        space.write_text(f'version = 1\nmethod = "{change.get("method", "coop")}"\n{change["space"]}\n')
        settings["search"] = {**SMOKE["search"], "space": str(space)}
    else:
        settings |= change
    with pytest.raises(InputError, match=f"(?s){message}"):
        plans.make(Pipeline.from_dict(settings))
    with pytest.raises(InputError, match=f"(?s){message}"):
        pipelines.run(Pipeline.from_dict(settings), store=tmp_path / "store")
    assert not (tmp_path / "store" / "sweeps" / "smoke").exists()


@pytest.mark.parametrize("space", files.shipped("search_spaces"))
def test_every_space_can_be_planned(space):
    chosen = {**SMOKE, "search": {**SMOKE["search"], "space": space}, "confirm": {"references": ["literature"]}}
    made = plans.make(Pipeline.from_dict(chosen))
    assert (made.step_seconds > 0) == (space != "zeroshot")


def test_a_plan_trains_nothing(tmp_path):
    plan = json.loads(call("plan", "demo", "--json", cwd=tmp_path).stdout)
    assert plan["settings"] >= 24
    assert plan["seeds"] == 3
    assert plan["step_seconds"] > 0
    assert list(tmp_path.iterdir()) == []
