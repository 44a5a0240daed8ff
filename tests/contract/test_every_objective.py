"""Every objective of every protocol can be ranked, printed, reported, compared and exported: one table of metrics."""

from __future__ import annotations

import csv
import io
import re
from typing import get_args

import pytest

from gcsearch import files
from gcsearch.cli import render
from gcsearch.config.metrics import COSINE, METRICS, Objective, ObjectiveOfSeveral, columns, find, measured, objectives
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.task import Task
from gcsearch.config.trials import Outcome, Role, TrialConfig, TrialRecord
from gcsearch.driver import checks
from gcsearch.methods.registry import complete
from gcsearch.results import comparison, multi_dataset
from gcsearch.results.method_table import Comparison
from gcsearch.sweep.gathering import finished_by_dataset
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.pages import figures
from tests.support.records import trial_record

PROTOCOLS = {
    "base": {"folds": 2},
    "base-one-fold": {"folds": 1},
    "base-targets": {"folds": 2, "targets": ["shapes-neon"]},
    "base-several-data-sets": {"folds": 2, "also": ["shapes-neon"]},
    "all": {"classes": "all"},
    "all-targets": {"classes": "all", "targets": ["shapes-neon", "shapes-sketch"]},
    "all-several-data-sets": {"classes": "all", "also": ["shapes-neon"]},
}
SEVERAL = (["val_base_acc", "val_new_acc"], ["val_h", "val_base_margin"], ["test_base_acc", "test_new_acc", "test_h"])


def cases():
    for name, content in PROTOCOLS.items():
        task = Task.from_dict(content)
        for one in objectives(task):
            yield pytest.param(task, one.key, id=f"{name}-{one.key}")
        if task.classes == "base" and task.folds > 1:
            for some in SEVERAL:
                yield pytest.param(task, some, id=f"{name}-{'+'.join(some)}")


def numbers(task, stage, seeds, value) -> dict[str, tuple[float, ...]]:
    """What a trial on one data set measures in a stage, as its protocol says."""
    found = {}
    for metric in measured(stage, task.classes, held_out=task.folds > 1):
        own = value / 10 - 9 if metric.unit is COSINE else -value if metric.side == "new" else value
        found[metric.key] = tuple((0 if metric.unit is COSINE else 70) + own / 10 + seed / 7 for seed in seeds)
    if stage == "test" and task.targets:
        for name in (*task.targets, "targets"):
            found[f"test_acc_{name}"] = tuple(50 + value / 9 + seed / 3 for seed in seeds)
    return found


def a_record(task, stage, number, seeds=(1, 2), **changes) -> TrialRecord:
    rho = 0.01 * 1.4 ** max(number, 0)
    config = complete(TrialConfig(method="gcscoop", hyperparameters={"rho": rho, "beta1": 0.04 * max(number, 0)}))
    parts = {}
    for n, one in enumerate(task.each):
        metrics = numbers(one, stage, seeds, 7.0 * (number % 5) + n)
        usual = {"config": config, "stage": stage, "seeds": seeds, "epochs": 3, "metrics": metrics}
        parts[one.dataset] = trial_record(number, **usual | changes)
    return multi_dataset.gathered(parts) if task.also else next(iter(parts.values()))


def finished(folder, task, objective) -> Sweep:
    """A sweep on disk that is over, of configurations of which some tie and some did not end well."""
    content = {"name": "one", "task": task.to_dict(), "search": {"objective": objective, "space": "gcscoop"}}
    pipeline = Pipeline.from_dict(content | {"confirm": {"top": 2, "seeds": [4, 5, 6]}})
    checks.check(pipeline)
    sweep = Sweep("one", Store(folder), folder / "sweeps" / "one")
    files.write_whole(sweep.folder / "pipeline.toml", files.to_toml(pipeline.to_dict()))
    stage, seeds = pipeline.search.stage, (4, 5, 6)
    lost = {11: Outcome.DIVERGED, 12: Outcome.FAILED, 13: Outcome.PRUNED}
    sweep.journal.append("open", id="one-0", trials=14)
    for number in range(14):
        metrics = {"metrics": {}} if number in (11, 12) else {}
        ended = {"outcome": lost[number], "reason": "as it happens"} | metrics if number in lost else {}
        sweep.journal.append("record", record=a_record(task, stage, number, **ended))
    zeroshot = complete(TrialConfig(method="zeroshot"))
    chosen, other = (row.record.number for row in sweep.ranking[:2])
    finals = [
        a_record(task, "test", -1, seeds, config=zeroshot, label="zero-shot CLIP", role=Role.REFERENCE),
        a_record(task, "test", -2, seeds, label="SAM", role=Role.REFERENCE),
        a_record(task, "test", other, seeds, label=f"shortlisted t{other:04d}", role=Role.SHORTLISTED),
        a_record(task, "test", chosen, seeds, config=zeroshot, label="champion", role=Role.CHAMPION),
    ]
    sweep.journal.append("final", records=finals, threads=1)
    sweep.journal.append("close", why="FINISHED")
    return Sweep("one", Store(folder), sweep.folder)


def rows_of(page: str) -> list[list[str]]:
    """The table of all trials as text, row by row."""
    body = re.search(r'<table class="sortable">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)[1]
    return [
        [re.sub(r"<[^>]*>", "", cell).replace("−", "-") for cell in re.split(r"<td[^>]*>", row)[1:]]
        for row in body.split("</tr>")[:-1]
    ]


def titles(page: str) -> set[str]:
    """Of all axes of the page's pictures."""
    layouts = [figure["layout"] for figure in figures(page)]
    return {layout[axis].get("title", {}).get("text", "") for layout in layouts for axis in ("xaxis", "yaxis")}


@pytest.mark.parametrize(("task", "objective"), list(cases()))
def test_every_objective_ends_with_a_ranking_a_verdict_a_report_and_a_comparison(task, objective, tmp_path, capsys):
    sweep = finished(tmp_path, task, objective)
    metric = find(sweep.pipeline.search.ranking_metric)
    render.print_table(sweep.ranking.table(20, name=sweep.name))
    ranking = capsys.readouterr().out
    assert f"configurations by {sweep.pipeline.search.criterion}" in ranking
    render.print_finals(sweep)
    assert "The champion" in capsys.readouterr().out

    lacking: list[str] = []
    page = sweep.report(warn=lacking.append).read_text()
    assert lacking == []
    words = page[page.index("<body>") :]
    assert f"Shown is {metric.legend}." in words
    assert metric.axis in titles(page)
    assert not any(title.startswith(metric.key) and metric.unit.sign not in title for title in titles(page))

    shown = [line.split() for line in ranking.splitlines() if re.search(r" t00\d\d ", line)]
    there = rows_of(page)
    assert [int(row[1]) for row in there] == [row.record.number for row in sweep.ranking]
    for line, row in zip(shown, there, strict=True):
        assert row[0] == " ".join(line[: line.index(f"t{int(row[1]):04d}")]).replace("-", ""), "the same rank"
        mean = next((cell for cell in row if "±" in cell), "")
        assert mean in " ".join(line), "the same digits"

    groups = comparison.compare(finished_by_dataset(sweep))
    assert len(groups) == len(task.each)
    for form in get_args(render.Form):
        render.print_table(groups[0].table(groups, formal=form == "latex"), form)
    whole = Comparison(tuple(groups), ())
    found = list(csv.DictReader(io.StringIO(whole.to_csv())))
    keys = [column.key for column in columns(task.each[0])]
    assert all(row[f"{key}_mean"] for row in found for key in keys)

    frame = sweep.to_frame()
    first = frame[(frame.role == "searched") & (frame.trial == sweep.ranking[0].record.number)]
    assert first[first.metric == metric.key].value.mean() == pytest.approx(sweep.ranking[0].values.mean)
    assert set(frame.role) >= {"searched", "champion"}
    compared = whole.to_frame()
    means = compared.groupby(["dataset", "name", "tags", "configuration", "metric"], sort=False).value.mean()
    assert [f"{mean:.4f}" for mean in means[means.index.get_level_values("metric") == keys[0]]] == [
        row[f"{keys[0]}_mean"] for row in found
    ]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_ends_with_an_export(name, tmp_path):
    task = Task.from_dict(PROTOCOLS[name] | {"shots": 1, "views": 1})
    sweep = finished(tmp_path, task, objectives(task)[-1].key)
    out = sweep.export(tmp_path / "best")
    cards = list(out.rglob("card.md"))
    assert len(cards) == len(task.each)
    assert f"by {objectives(task)[-1].key}" in cards[0].read_text()


def test_the_table_has_what_a_search_may_maximise_and_nothing_twice():
    assert {one.key for one in METRICS.values() if one.alone} == set(get_args(Objective))
    several = {name for part in get_args(ObjectiveOfSeveral) for name in get_args(part)}
    assert several <= set(METRICS)
    calibration = {f"test_{side}{what}" for side in ("base_", "new_", "") for what in ("ece", "nll")}
    assert {one.key for one in METRICS.values() if one.column == ""} == {"val_base_margin", "val_margin"} | calibration
    assert all(one.key.startswith("test_") == (one.stage == "test") for one in METRICS.values())


def test_a_metric_on_one_data_set_is_found_by_the_longest_name_that_fits():
    assert find("test_acc_shapes-neon").title == "accuracy on shapes-neon"
    assert find("val_base_margin_shapes-neon").unit is COSINE
    assert find("test_acc_targets").column == "targets"
    with pytest.raises(KeyError):
        find("loss")
