"""One configuration for several data sets: averages, regrets, and that each data set's part is an ordinary sweep."""

from __future__ import annotations

import json
import math

import pytest

from gcsearch.config.metrics import metric_on
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.task import Task
from gcsearch.config.trials import EpochReport, Outcome, Proposal, TrialConfig, TrialFile
from gcsearch.data.datasets import template_of
from gcsearch.driver import run
from gcsearch.driver.checks import check
from gcsearch.driver.exports import explore
from gcsearch.driver.load import own_template
from gcsearch.errors import InputError
from gcsearch.execution.executor import Batch
from gcsearch.execution.worker import PackRunner
from gcsearch.export.classifier import load_export
from gcsearch.results.multi_dataset import as_dataset, gathered, worst_regrets
from gcsearch.results.report.pages.sweep import build_report
from gcsearch.results.report.picture import ReportData
from gcsearch.stats import harmonic_mean
from gcsearch.sweep.gathering import finished_by_dataset
from gcsearch.sweep.sweep import load_parameters
from gcsearch.training.loop import Checkpoint
from tests.support.calls import call
from tests.support.records import trial_record

SETS = ("shapes-sketch", "shapes-night")


def record(number=0, *, outcome=Outcome.COMPLETE, reason="", epochs=(1, 2), **metrics):
    curve = tuple(EpochReport(number=number, epoch=epoch, metrics=metrics) for epoch in epochs)
    known = {"reason": reason, "epochs": 2, "metrics": metrics, "curve": curve, "seconds": 1.5}
    return trial_record(number, outcome=outcome, **known)


def accuracies(base, new):
    return {"val_base_acc": base, "val_new_acc": new, "val_h": tuple(map(harmonic_mean, base, new))}


ONE, OTHER = record(**accuracies((80.0, 90.0), (60.0, 70.0))), record(**accuracies((60.0, 50.0), (90.0, 40.0)))


# --- Averages


def test_metrics_are_means_over_the_data_sets_with_both_conventions_of_h():
    both = gathered({"a": ONE, "b": OTHER})
    assert both.metrics["val_base_acc"] == (70.0, 70.0)
    assert both.metrics["val_new_acc"] == (75.0, 55.0)
    means = [(harmonic_mean(80, 60) + harmonic_mean(60, 90)) / 2, (harmonic_mean(90, 70) + harmonic_mean(50, 40)) / 2]
    assert both.metrics["val_h"] == pytest.approx(means)
    assert both.metrics["val_h_of_means"] == pytest.approx((harmonic_mean(70, 75), harmonic_mean(70, 55)))
    assert both.metrics["val_h_b"] == OTHER.metrics["val_h"]
    assert both.seconds == 3.0


def test_what_is_gathered_is_seen_again_from_each_data_set():
    both = gathered({"a": ONE, "b": OTHER})
    for name, own in (("a", ONE), ("b", OTHER)):
        seen = as_dataset(both, name, ["a", "b"])
        assert seen.metrics == own.metrics
        assert seen.curve == own.curve


def test_names_that_end_alike_are_told_apart():
    parts = {"birds": ONE, "my_birds": OTHER}
    both = gathered(parts)
    assert as_dataset(both, "birds", [*parts]).metrics == ONE.metrics
    assert as_dataset(both, "my_birds", [*parts]).metrics == OTHER.metrics


@pytest.mark.parametrize("name", ["h", "acc", "means", "base_acc"])
def test_a_data_set_that_is_called_as_a_metric_ends_is_seen_as_it_is(name):
    both = gathered({name: ONE, "b": OTHER})
    assert as_dataset(both, name, [name, "b"]).metrics == ONE.metrics
    assert as_dataset(both, "b", [name, "b"]).metrics == OTHER.metrics


def test_a_setting_that_diverged_on_one_data_set_has_diverged():
    broken = record(outcome=Outcome.DIVERGED, reason="seed 2: not finite", epochs=(1,))
    both = gathered({"a": ONE, "b": broken})
    assert both.outcome is Outcome.DIVERGED
    assert both.reason == "b: seed 2: not finite"
    assert "val_h" not in both.metrics
    assert [report.epoch for report in both.curve] == [1]


def test_the_worst_regret_is_the_longest_way_behind_the_best_of_a_data_set():
    values = {0: (90.0, 50.0), 1: (80.0, 70.0), 2: (85.0, 69.0)}
    records = [
        record(number, **{metric_on("val_h", name): (h - 1, h + 1) for name, h in zip("ab", row, strict=True)})
        for number, row in values.items()
    ]
    assert worst_regrets(records, "val_h", ["a", "b"]) == {0: 20.0, 1: 10.0, 2: 5.0}
    assert worst_regrets(records[:1], "val_h", ["a", "b"]) == {0: 0.0}
    assert worst_regrets([record(outcome=Outcome.FAILED)], "val_h", ["a", "b"]) == {}
    assert worst_regrets([record(val_h_a=(math.nan, 1.0), val_h_b=(1.0, 1.0))], "val_h", ["a", "b"]) == {}


# --- A sweep

CONTENT = {
    "name": "both",
    "evaluate_every": 2,
    "task": {
        "dataset": SETS[0],
        "also": [SETS[1]],
        "shots": 2,
        "val_shots": 2,
        "views": 1,
        "folds": 2,
        "seeds": [1, 2],
    },
    "search": {"space": "gcscoop-smoke", "sampler": "random", "trials": 3, "pack": 3, "generation": 1},
    "confirm": {"top": 2, "seeds": [3], "references": ["zeroshot"]},
    "resources": {"workers": 1, "threads": 1},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def sweep(store):
    return run.run(Pipeline.from_dict(CONTENT), store=store, executor="local")


def test_on_each_data_set_a_setting_has_exactly_the_numbers_of_an_ordinary_sweep():
    whole = Task.from_dict(CONTENT["task"])
    rules = {"coop": {}, "gcscoop": {"rho": 0.1}}
    settings = [
        Proposal(number=n, config=TrialConfig(method=m, hyperparameters={**v, "epochs": 4}))
        for n, (m, v) in enumerate(rules.items())
    ]

    def measured(task):
        return PackRunner(task, 2)(
            Batch(stage="search", seeds=task.seeds, trials=tuple(settings)), lambda reports: None
        )

    for task in whole.each:
        seen = [as_dataset(one, task.dataset, SETS) for one in measured(whole)]
        assert [one.metrics for one in seen] == [one.metrics for one in measured(task)]
        assert [one.curve for one in seen] == [one.curve for one in measured(task)]


class Killed(BaseException):
    """Ends a pack as a kill would: nothing catches it."""


@pytest.mark.parametrize(("dies_after", "trained_again"), [(3, [SETS[0]] + [SETS[1]] * 4), (6, [SETS[1]] * 2)])
def test_a_killed_pack_goes_on_where_it_was(tmp_path, monkeypatch, dies_after, trained_again):
    task = Task.from_dict(CONTENT["task"])
    trial = Proposal(number=0, config=TrialConfig(method="gcscoop", hyperparameters={"rho": 0.1, "epochs": 4}))
    batch = Batch(stage="search", seeds=task.seeds, trials=(trial,))
    runner = PackRunner(task, 2, checkpoints=tmp_path, checkpoint_every=1)
    epochs, keep = [], Checkpoint.keep

    def dying(checkpoint, *rest):
        keep(checkpoint, *rest)
        epochs.append(checkpoint.path.parent.name)
        if len(epochs) == dies_after:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "keep", dying)
        with pytest.raises(Killed):
            runner(batch, lambda reports: None)
        epochs.clear()
        dies_after = math.inf
        (resumed,) = runner(batch, lambda reports: None)
    assert epochs == trained_again
    runner.forget(batch)
    (undisturbed,) = runner(batch, lambda reports: None)
    own = {"seconds": 0.0}
    assert resumed.model_copy(update=own) == undisturbed.model_copy(update=own)


def test_the_mean_over_the_data_sets_chooses_and_each_has_its_numbers(sweep):
    (top, *_) = sweep.ranking
    for one in sweep.records:
        parts = [one.mean(metric_on("val_base_margin", name)) for name in SETS]
        assert one.mean("val_base_margin") == pytest.approx(sum(parts) / 2)
    assert top.record.mean("val_base_margin") == max(one.mean("val_base_margin") for one in sweep.records)
    assert top.worst_regret == sweep.worst_regrets[top.record.number]
    assert {one.task.dataset for one in finished_by_dataset(sweep)} == set(SETS)


def test_an_export_of_each_data_set_gives_its_numbers_again(sweep, tmp_path):
    out = sweep.export(tmp_path / "best")
    assert sorted(path.name for path in out.iterdir()) == sorted(SETS)
    for one in finished_by_dataset(sweep):
        task, champion = one.task, one.champion
        again = run.train(out / task.dataset)
        assert again.metrics == champion.metrics
        kept = json.loads((out / task.dataset / "metrics.json").read_text())
        assert kept["data"]["dataset"] == task.dataset
        assert kept["chosen"]["objective"].endswith("(mean over shapes-sketch, shapes-night)")
        assert "(mean over shapes-sketch, shapes-night), " in (out / task.dataset / "card.md").read_text()
        assert len(load_parameters(sweep.kept / task.dataset, champion)) == len(champion.seeds)


@pytest.mark.parametrize("use", [run.train, load_export, explore], ids=["train", "predict", "landscape"])
def test_of_several_exports_one_has_to_be_named(sweep, tmp_path, use):
    out = sweep.export(tmp_path / "best")
    inside = f"Name one of those in it: {out / SETS[1]}, {out / SETS[0]}."
    with pytest.raises(InputError, match=rf"(?s)the folder must be an export, .*\n{inside}"):
        use(out)


def test_where_one_data_set_cannot_be_exported_none_is(sweep, tmp_path):
    taken = tmp_path / "best" / SETS[1]
    taken.mkdir(parents=True)
    (taken / "mine.txt").write_text("something else")
    with pytest.raises(InputError, match=r"--out: an export goes to a new folder"):
        sweep.export(tmp_path / "best", force=True)
    assert [path.name for path in (tmp_path / "best").iterdir()] == [SETS[1]]
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


def test_tables_show_every_data_set(sweep, store):
    best = call("best", "both", "--store", store)
    assert "worst regret" in best.stdout
    rows = json.loads(call("best", "both", "--store", store, "--json").stdout)
    assert rows[0]["worst_regret"] == sweep.ranking[0].worst_regret
    table = call("compare", "both", "--store", store).stdout
    assert all(f"{name}, mini" in table for name in SETS)
    assert "H of means" in table
    refused = call("export", "both", "--store", store, "--register")
    assert refused.returncode == 2
    assert "--register: a registered model classifies one data set" in refused.stderr


def test_the_report_says_the_worst_regret_of_every_setting():
    records = [
        gathered({name: record(number, val_h=(value, value)) for name, value in zip(SETS, values, strict=True)})
        for number, values in enumerate([(90.0, 50.0), (80.0, 62.5)])
    ]
    task = Task(dataset=SETS[0], also=SETS[1:])
    several = Pipeline.from_dict({"name": "both", "task": task.to_dict(), "search": {"objective": "val_h"}})
    page = build_report(ReportData(several, records, [], 1))
    assert ">worst regret<" in page and ">12.50<" in page and ">10.00<" in page
    alone = several.model_copy(update={"task": Task(dataset=SETS[0])})
    assert "worst regret" not in build_report(ReportData(alone, records, [], 1))


def test_mlflow_hears_that_every_data_set_is_trained_on():
    from gcsearch.tracking.content.sweeps import target_inputs

    task = Task(dataset=SETS[0], also=SETS[1:])
    found = target_inputs(Pipeline(name="both", task=task))
    assert [(one.dataset.name, one.tags[0].value) for one in found] == [(SETS[1], "train")]
    away = Pipeline(name="away", task=Task(dataset=SETS[0], targets=SETS[1:]))
    assert [one.tags[0].value for one in target_inputs(away)] == ["test"]


# --- What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"also": ["shapes-nihgt"]}}, r"(?s)task\.also\.0: .*Did you mean 'shapes-night'"),
        ({"task": {"also": [SETS[0]]}}, r"task\.also: the further data sets must be others"),
        ({"task": {"also": [SETS[1], SETS[1]]}}, r"task\.also: data sets must be distinct"),
        ({"task": {"targets": ["shapes-neon"]}}, r"task\.targets: a prompt is carried to targets from one data set"),
        ({"task": {"also": ["EuroSAT"]}}, r"task\.root: a data set that is not embedded"),
        ({"search": {"pruner": "halving"}}, r"search\.pruner: who leaves early is decided by the mean over"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    content = {**CONTENT, **{key: {**CONTENT[key], **values} for key, values in changes.items()}}
    with pytest.raises(InputError, match=message):
        check(Pipeline.from_dict(content))


def test_an_unknown_further_data_set_is_named_by_its_own_key():
    with pytest.raises(InputError) as caught:
        own_template({"dataset": SETS[0], "also": [SETS[1], "shapes-nite"], "template": "own"})
    assert caught.value.key == "task.also.1"


def test_own_templates_are_those_of_each_data_set():
    task = Task.from_dict(own_template({"dataset": "OxfordPets", "also": ["EuroSAT"], "template": "own"}))
    assert [one.template for one in task.each] == [template_of("OxfordPets"), template_of("EuroSAT")]
    assert task.each[0].template != task.each[1].template
    assert {one.template for one in Task(dataset=SETS[0], also=SETS[1:], template="art of a {}.").each} == {
        "art of a {}."
    }
    with pytest.raises(InputError, match=r"task\.also_templates: each data set of `also` needs one template"):
        Pipeline.from_dict({"name": "x", "task": {"also": ["shapes-neon"], "also_templates": ["a {}.", "b {}."]}})


def test_a_single_setting_is_trained_on_one_data_set():
    task = Task(dataset=SETS[0], also=SETS[1:])
    with pytest.raises(InputError, match=r"task\.also: one configuration is trained on one data set at a time"):
        TrialFile.from_dict({"task": task.to_dict(), "trial": {"method": "coop"}})
