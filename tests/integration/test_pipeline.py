"""From image files to an export through every real part: Ray, Optuna, MLflow, the engine, the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient
from PIL import Image

import gcsearch
from gcsearch import files, open_sweep
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome
from gcsearch.data import datasets
from gcsearch.data.lists import draws
from gcsearch.driver import plan as plans
from gcsearch.driver import run as pipelines
from gcsearch.driver.session import judge
from gcsearch.errors import InputError, RunError, TooManyFailures
from gcsearch.execution import searcher
from gcsearch.results.ranking import one_standard_error
from gcsearch.sweep.lease import driving
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.training import task_data

SMOKE = {
    "name": "smoke",
    "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "seeds": [1, 2], "folds": 2},
    "search": {"space": "gcscoop-smoke", "trials": 6, "pack": 2, "generation": 2, "startup": 3},
    "confirm": {"top": 3, "seeds": [4, 5], "references": ["zeroshot", "literature-short"]},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def sweep(store):
    return pipelines.run(Pipeline.from_dict(SMOKE), store=store)


@pytest.fixture(scope="module")
def exported(sweep, tmp_path_factory) -> Path:
    return sweep.export(tmp_path_factory.mktemp("export") / "best")


def command(*words, store):
    return [sys.executable, "-m", "gcsearch", *map(str, words), "--store", str(store)]


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


def test_two_runs_give_the_same_ranking_and_the_same_numbers(sweep, tmp_path):
    again = pipelines.run(Pipeline.from_dict(SMOKE), store=tmp_path)

    def numbers(one):
        return [(r.record.config, r.record.metrics, r.record.curve) for r in one.ranking], [
            record.metrics for record in one.finals
        ]

    assert numbers(again) == numbers(sweep)


def test_a_finished_sweep_is_returned_and_not_run_again(sweep, store):
    lines = (sweep.folder / "journal.jsonl").read_text()
    again = pipelines.run(Pipeline.from_dict(SMOKE), store=store)
    assert again.records == sweep.records
    assert (sweep.folder / "journal.jsonl").read_text() == lines


def test_another_pipeline_under_the_same_name_is_refused(sweep, store):
    other = Pipeline.from_dict({**SMOKE, "search": {**SMOKE["search"], "seed": 9}})
    with pytest.raises(InputError, match="goes on with the pipeline and space that it began with"):
        pipelines.run(other, store=store)


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
    done = subprocess.run(command("best", "smoke", "--json", store=store), capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    means = [row["objective"]["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    for row in rows:
        assert set(row["objective"]["per_seed"]) == {"1", "2"}
        assert row["outcome"] == "complete"
        assert row["run_id"]
    table = subprocess.run(command("best", "smoke", store=store), capture_output=True, text=True, check=True)
    assert "gcscoop rho=" in table.stdout


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
    (episode,) = task_data.of(task).episodes("test", [4])
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


def test_an_export_never_writes_over_something_else(sweep, exported, tmp_path):
    with pytest.raises(InputError, match="an earlier export already"):
        sweep.export(exported)
    assert sweep.export(exported, force=True) == exported
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds something else"):
        sweep.export(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_fresh_keeps_the_former_sweep(sweep, store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    small = {**SMOKE, "search": {"space": "zeroshot"}, "confirm": {"top": 1, "seeds": [4], "references": []}}
    pipelines.run(Pipeline.from_dict(small), store=copy, fresh=True)
    assert (copy / "sweeps" / "smoke.1" / "journal.jsonl").read_text() == (sweep.folder / "journal.jsonl").read_text()
    assert len(open_sweep("smoke", copy).records) == 1


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


def test_a_sweep_is_run_by_one_process_at_a_time(sweep, store):
    lease = Store.locate(store).lease("smoke")
    with driving(lease, "the sweep smoke"):
        for begin in (
            lambda: pipelines.run(Pipeline.from_dict(SMOKE), store=store),
            lambda: pipelines.sync("smoke", store=store),
        ):
            with pytest.raises(
                InputError, match=f"the sweep smoke is driven by one process at a time, got .*:{os.getpid()}"
            ):
                begin()
    assert not lease.exists()
    assert pipelines.run(Pipeline.from_dict(SMOKE), store=store).records == sweep.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": 999}, "task.shots: no class of shapes-sketch has so many images; the largest has 20, got 999"),
        ({"val_shots": 999}, "task.val_shots: no class"),
        ({"folds": 7}, "task.folds: every fold needs two of the 12 base classes, got 7"),
    ],
)
def test_sizes_that_the_data_set_does_not_have_are_refused(sweep, change, message):
    with pytest.raises(InputError, match=message):
        task_data.of(Pipeline.from_dict({**SMOKE, "task": {**SMOKE["task"], **change}}).task).check_sizes()


def test_more_failures_than_allowed_end_with_3_and_keep_the_results(sweep, tmp_path):
    copy = Sweep("smoke", Store(tmp_path), tmp_path / "sweeps" / "smoke")
    shutil.copytree(sweep.folder, copy.folder)
    judge(copy, 0)
    failed = sweep.records[3].model_copy(update={"outcome": Outcome.FAILED, "reason": "out of memory"})
    copy.journal.append("record", record=failed)
    with pytest.raises(TooManyFailures, match=r"1 of 6 trials failed, 0 are allowed.*out of memory") as caught:
        judge(Sweep("smoke", copy.store, copy.folder), 0)
    assert caught.value.exit_code == 3
    with pytest.raises(TooManyFailures):  # nor is it a success when the same job is handed in again
        pipelines.run(Pipeline.from_dict(SMOKE), store=tmp_path)
    for words in (["run", copy.folder / "pipeline.toml"], ["resume", "smoke"]):
        done = subprocess.run(command(*words, store=tmp_path), capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
    allowed = {**SMOKE, "search": {**SMOKE["search"], "max_failed": 1}}
    assert pipelines.run(Pipeline.from_dict(allowed), store=tmp_path).champion
    final = [*sweep.finals[:-1], sweep.finals[-1].model_copy(update={"outcome": Outcome.DIVERGED, "reason": "nan"})]
    copy.journal.append("final", records=final, threads=1)
    with pytest.raises(RunError, match="champion could not be confirmed: nan"):
        judge(Sweep("smoke", copy.store, copy.folder), 1)
    with pytest.raises(InputError, match="only a confirmed champion can be exported, and this one diverged: nan"):
        Sweep("smoke", copy.store, copy.folder).export(tmp_path / "out")


def test_a_setting_that_failed_in_the_confirmation_is_measured_again_by_whoever_goes_on(sweep, tmp_path, monkeypatch):
    from gcsearch.execution import executor

    copy = Sweep("smoke", Store(tmp_path), tmp_path / "sweeps" / "smoke")
    shutil.copytree(sweep.folder, copy.folder)
    lines = copy.journal.path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f'"kind":"{kind}"' in line for kind in ("confirmed", "final", "close"))]
    copy.journal.path.write_text("".join(kept))
    run = executor.run_settings

    def short_of_memory(proposals, placement, evaluate, *, stage, on_record, **others):
        last = proposals[-1:] if stage == "test" else []
        run([one for one in proposals if one not in last], placement, evaluate, stage=stage, on_record=on_record)
        for proposal in last:
            on_record(searcher.failed(proposal, "out of memory", stage))

    with monkeypatch.context() as patch:
        patch.setattr(executor, "run_settings", short_of_memory)
        with pytest.raises(RunError, match=r"champion could not be confirmed: out of memory\n.*gcsearch resume smoke"):
            pipelines.run(Pipeline.from_dict(SMOKE), store=tmp_path)
    assert copy.journal.ended() == "FAILED"
    with pytest.raises(InputError, match=r"this one failed: out of memory.\n`gcsearch resume smoke`"):
        Sweep("smoke", copy.store, copy.folder).export(tmp_path / "out")
    elsewhere = {**SMOKE, "resources": {"memory": "16 GiB"}, "tracking": {"experiment": "other"}}
    done = pipelines.run(Pipeline.from_dict(elsewhere), store=tmp_path)
    assert [(r.label, r.metrics) for r in done.finals] == [(r.label, r.metrics) for r in sweep.finals]
    assert len(done.journal.events("confirmed")) == len(sweep.journal.events("confirmed")) + 1
    assert (done.journal.ended(), done.pipeline.resources.memory) == ("FINISHED", "16 GiB")


def start(words, log):
    return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def long_space(folder, epochs):
    """A search space whose settings take a while; its path."""
    path = folder / "long.toml"
    short = (Path(gcsearch.__file__).parent.parent / "search_spaces" / "gcscoop-smoke.toml").read_text()
    long = short.replace("low = 2\nhigh = 6\ninteger = true", f"value = {epochs}").replace(
        "epochs = 4", f"epochs = {epochs}"
    )
    assert long.count(str(epochs)) >= 2
    path.write_text(long)
    return str(path)


def journal_has(path, kind, count=1, seconds=500):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().count(f'"kind":"{kind}"') >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {kind} in {path} after {seconds} s")


def left_behind(session, seconds):
    """Processes of the session `session`, or of a Ray that it started, which do not end in `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def processes_of(session):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except (OSError, ValueError, IndexError):
            continue
    return found


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(sweep, tmp_path, number, code):
    path = tmp_path / "smoke.toml"
    path.write_text((sweep.folder / "pipeline.toml").read_text())
    store = tmp_path / "store"
    with (tmp_path / "log").open("w") as log:
        process = start(command("run", path, store=store), log)
        journal_has(store / "sweeps" / "smoke" / "journal.jsonl", "record", 2)
        process.send_signal(number)
        assert process.wait(300) == code, (tmp_path / "log").read_text()
    assert left_behind(process.pid, seconds=180) == []
    before = len(open_sweep("smoke", store).records)
    assert before >= 2
    done = pipelines.run(path, store=store)
    assert [r.metrics for r in done.records] == [r.metrics for r in sweep.records]
    assert [r.metrics for r in done.finals] == [r.metrics for r in sweep.finals]
    ended = [event["record"]["number"] for event in done.journal.events("record")]
    assert sorted(ended) == list(range(6))  # nothing that had ended ran again
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=100)
    assert len(runs) == 1 + 6 + 5
    assert {run.info.status for run in runs} == {"FINISHED"}


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
    done = subprocess.run(
        [sys.executable, "-m", "gcsearch", "plan", "demo", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    plan = json.loads(done.stdout)
    assert plan["settings"] >= 24
    assert plan["seeds"] == 3
    assert plan["step_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


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

    lab = task_data.of(sweep.pipeline.task)
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
    from tests.unit.clip.test_model import random_model

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


# --- Choosing


@pytest.mark.slow
def test_seeds_can_be_added_to_a_finished_sweep(tmp_path):
    settings = {**SMOKE, "name": "more", "search": {**SMOKE["search"], "trials": 2}}
    settings["confirm"] = {"top": 2, "seeds": [4], "references": ["zeroshot"]}
    before = pipelines.run(Pipeline.from_dict(settings), store=tmp_path)
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
    found = pipelines.run(Pipeline.from_dict(settings), store=tmp_path)
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
