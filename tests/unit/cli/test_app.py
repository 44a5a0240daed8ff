"""The command line as a person or a script meets it: exit codes, streams, words."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gcsearch import __version__, files
from gcsearch.cli.app import app
from gcsearch.sweep import interrupts
from tests.support.calls import call
from tests.support.records import ZEROSHOT, completed
from tests.support.sweeps import a_sweep
from tests.support.trees import TREES


def gcsearch(*words, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gcsearch", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


COMMANDS = [
    "new",
    "run",
    "resume",
    "status",
    "stop",
    "cancel",
    "sync",
    "plan",
    "trial",
    "train",
    "best",
    "compare",
    "export",
    "predict",
    "landscape",
    "report",
    "ui",
    "study",
    "doctor",
]
COMMANDS += ["data list", "data get", "data write", "data check"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert f"Example: gcsearch {command}" in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys, gcsearch.cli.app, gcsearch; "
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'open_clip', 'plotly', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SPACE = """version = 1
method = "gcscoop"
[parameters.rho]
low = 2.0
high = 0.005
log = true
"""

WRONG = {
    "a typo in a key": ("[task]\nshot = 4\n", ("task.shot", "known names", "Did you mean 'shots'")),
    "a wrong value": ("[task]\nshots = 0\n", ("task.shots", "greater than or equal to 1", "got 0")),
    "an unknown data set": ('[task]\ndataset = "shapes-skech"\n', ("task.dataset", "Did you mean 'shapes-sketch'")),
    "an unknown reference": ('[confirm]\nreferences = ["cop"]\n', ("confirm.references.0", "Did you mean 'coop'")),
    "a missing space": ('[search]\nspace = "missing.toml"\n', ("missing.toml", "must exist")),
    "an unknown space": ('[search]\nspace = "gcscop"\n', ("search space", "Did you mean 'gcscoop'")),
    "a truth value for a number": ("[search]\ntrials = true\n", ("search.trials", "valid integer, got True")),
    "neither number nor word": ('[task]\nval_shots = "some"\n', ("task.val_shots: ", "integer, or 'all', got 'some'")),
    "bad TOML": ("[task\n", ("valid TOML", "line")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_ends_with_2_in_words_before_anything_starts(tmp_path, case):
    content, words = WRONG[case]
    (tmp_path / "mine.toml").write_text('version = 1\nname = "mine"\n' + content)
    done = call("run", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert all(word in done.stderr for word in (".toml", *words)), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gcsearch-store").exists()


def test_wrong_search_spaces_end_with_2_as_well(tmp_path):
    (tmp_path / "mine.toml").write_text('version = 1\n[search]\nspace = "bad.toml"\n')
    (tmp_path / "bad.toml").write_text(SPACE)
    done = call("plan", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.toml, parameters.rho: `low < high` must hold, got low=2, high=0.005" in done.stderr
    assert "Swap the two bounds" in done.stderr
    (tmp_path / "bad.toml").write_text('version = 1\nmethod = "sam"\n[parameters.beta1]\nlow = 0.0\nhigh = 1.0\n')
    done = call("plan", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.toml, parameters.beta1: the parameter of sam" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "demoo"], "Did you mean 'demo'"),
        (["run", "demo", "--set", "search.trails=3"], "Did you mean 'trials'"),
        (["run", "demo", "--set", "nonsense"], "--set takes KEY=VALUE"),
        (["run", "demo", "--set", "confirm.seeds=[4, 4]"], "confirm.seeds: seeds must be distinct"),
        (["run", "demo", "--set", "confirm.seeds=[3, 4]"], "with seeds that the search has not used"),
        (["trial", "--seeds", "1,-1"], "input should be greater than or equal to 0"),
        (["best", "../sweeps/demo"], "no sweep of this name"),
        (["train", "missing.toml"], "missing.toml: the file must exist"),
        (["trial", "--set", "method=sma"], "Did you mean 'sam'"),
        (["trial", "--set", "rho=-1"], "gcscoop.rho"),
        (["trial", "--seeds", "1,x"], "seeds are whole numbers"),
        (["best", "missing"], "no sweep of this name"),
        (["compare", "missing"], "no sweep of this name"),
        (["export", "missing"], "an export goes to a folder, or to the registry"),
        (["predict", "missing", "cat.png"], "the folder must be an export"),
        (["landscape", "missing", "--out", "loss.pdf"], "a picture is a .html or a .png file"),
        (["compare", "a", "--json", "--csv"], "one output has one form"),
        (["ui"], "no MLflow store here yet"),
        (["study", "missing", "--storage", "study.log"], "no sweep of this name"),
        (["status", "--store", "s3://bucket/store"], "--store: the store is a folder"),
        (["run", "demo", "--export", "/"], "/, --export: an export goes to a new folder"),
        (["run", "method-comparison", "--export", "best"], "--export: a matrix has a champion for each sweep"),
        (["data", "write", "shapes-foto", "--root", "."], "Did you mean 'shapes-photo'"),
        (["data", "check", "."], "no data set lies below the root"),
        (["data", "check", ".", "--dataset", "OxfordPet"], "Did you mean 'OxfordPets'"),
        (["plan", "demo", "--set", "task.dataset=folder:../x"], "must stay below task.root"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_words_end_with_2(tmp_path, words, message):
    done = call(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_version_is_one_line():
    done = gcsearch("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gcsearch {__version__}\n", "")


# --- Sweeps written by hand


@pytest.fixture
def store(tmp_path):
    """One ordinary sweep, one on class-specific vectors, one that is not finished."""
    searched, confirmed = completed("kgcoop", kg_lambda=2.0), {"stage": "test", "seeds": (4, 5)}
    a_sweep(tmp_path, "kg", [searched], [ZEROSHOT, completed("kgcoop", "champion", kg_lambda=2.0, **confirmed)])
    by_base = {"objective": "val_base_acc", "space": "coop"}
    searched = completed("coop", metrics={"val_base_acc": (90.0, 91.0), "loss": (0.1, 0.1)}, class_specific=True)
    final = {"metrics": {"test_base_acc": (88.0, 89.0), "loss": (0.1, 0.1)}, "class_specific": True, **confirmed}
    a_sweep(tmp_path, "csc", [searched], [ZEROSHOT, completed("coop", "champion", **final)], search=by_base)
    a_sweep(tmp_path, "half", [completed("sam"), completed("sam", number=1, outcome="failed", metrics={})])
    return tmp_path


def test_compare_puts_the_methods_of_all_sweeps_in_one_table(store):
    done = call("compare", "kg", "csc", "--store", store)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip()]
    assert lines == [
        "shapes-sketch, mini, 16 shots: accuracy on test images in %, mean ± sd over seeds 4, 5",
        "searched in base new H",
        lines[2],
        "zero-shot CLIP 81.00 ± 1.41 61.00 ± 1.41 69.00 ± 1.41",
        "KgCoOp kg 81.00 ± 1.41 61.00 ± 1.41 69.00 ± 1.41",
        "CoOp [class-specific] csc 88.50 ± 0.71 - -",
    ]


def test_compare_writes_markdown_json_and_csv(store):
    markdown = call("compare", "kg", "csc", "--store", store, "--markdown").stdout
    assert "| CoOp [class-specific] | csc | **88.50 ± 0.71** | - | - |" in markdown
    assert "| KgCoOp | kg | 81.00 ± 1.41 | **61.00 ± 1.41** | **69.00 ± 1.41** |" in markdown
    assert "|---|---|---:|---:|---:|" in markdown
    (group,) = json.loads(call("compare", "kg", "csc", "--store", store, "--json").stdout)
    assert group["task"]["dataset"] == "shapes-sketch"
    assert [row["name"] for row in group["rows"]] == ["zero-shot CLIP", "KgCoOp", "CoOp"]
    found = group["rows"][1]["h"]
    assert found.pop("interval") == pytest.approx([56.294, 81.706], abs=1e-3)
    assert found == {"mean": 69.0, "deviation": pytest.approx(2**0.5), "per_seed": {"4": 68, "5": 70}}
    rows = list(csv.DictReader(call("compare", "kg", "csc", "--store", store, "--csv").stdout.splitlines()))
    assert [(row["name"], row["searched_in"], row["h_mean"]) for row in rows] == [
        ("zero-shot CLIP", "", "69.0000"),
        ("KgCoOp", "kg", "69.0000"),
        ("CoOp", "csc", ""),
    ]
    assert (rows[2]["tags"], rows[2]["seeds"], rows[2]["dataset"]) == ("class-specific", "4;5", "shapes-sketch")


def test_compare_calls_an_oracle_so_in_every_form(store):
    final = {"stage": "test", "seeds": (4, 5), "rho": 0.2}
    search = {"objective": "test_h", "space": "sam"}
    a_sweep(
        store, "peek", [completed("sam", **final)], [ZEROSHOT, completed("sam", "champion", **final)], search=search
    )

    def shown(*form):
        return call("compare", "kg", "peek", "--store", store, *form).stdout

    assert "SAM [oracle] peek 81.00 ± 1.41" in " ".join(shown().split())
    assert "| SAM [oracle] | peek | 81.00 ± 1.41 |" in shown("--markdown")
    assert r"SAM [oracle] & peek & 81.00 $\pm$ 1.41" in shown("--latex")
    rows = list(csv.DictReader(shown("--csv").splitlines()))
    assert [(row["name"], row["tags"]) for row in rows[1:]] == [("KgCoOp", ""), ("SAM", "oracle")]
    (group,) = json.loads(shown("--json"))
    assert [(row["name"], row["oracle"]) for row in group["rows"][1:]] == [("KgCoOp", False), ("SAM", True)]


def test_on_a_terminal_the_best_of_each_column_is_bold(store):
    shown = call("compare", "kg", "csc", "--store", store, FORCE_COLOR="1", COLUMNS="120").stdout
    assert "\x1b[1m88.50 ± 0.71" in shown
    assert "\x1b[1m69.00 ± 1.41" in shown
    assert "\x1b[1m81.00" not in shown


def test_compare_keeps_tasks_apart_and_shows_other_seeds(store):
    other = {"stage": "test", "seeds": (7, 8)}
    a_sweep(store, "later", [completed("sam")], [completed("sam", "champion", **other)])
    a_sweep(store, "four", [completed("sam")], [completed("sam", "champion", **other)], task={"shots": 4})
    done = call("compare", "kg", "later", "four", "--store", store)
    assert done.returncode == 0, done.stderr
    headings = [line for line in done.stdout.splitlines() if "shots" in line]
    assert [line.partition(":")[0] for line in headings] == [
        "shapes-sketch, mini, 16 shots",
        "shapes-sketch, mini, 4 shots",
    ]
    assert headings[0].endswith("over seeds 4, 5 or 7, 8")
    assert ["SAM", "later", "7,", "8"] in [line.split()[:4] for line in done.stdout.splitlines()]


def test_compare_says_what_has_no_average_and_why(store):
    more = {"stage": "test", "seeds": (4, 5, 9), "metrics": {"test_base_acc": (80.0, 82.0, 84.0)}}
    champion = completed("kgcoop", "champion", kg_lambda=1.0, **more)
    a_sweep(store, "night", [completed("kgcoop")], [ZEROSHOT, champion], task={"dataset": "shapes-night"})
    done = call("compare", "kg", "night", "--store", store)
    assert done.returncode == 0, done.stderr
    (average,) = done.stdout.split("mean over 2 data sets")[1:]
    assert "zero-shot CLIP" in average and "KgCoOp" not in average
    rows = list(csv.DictReader(call("compare", "kg", "night", "--store", store, "--csv").stdout.splitlines()))
    assert [(row["dataset"], row["name"]) for row in rows[4:]] == [("mean of 2 data sets", "zero-shot CLIP")]
    assert done.stderr.splitlines() == [
        "gcsearch: left out of the averages: KgCoOp (not on shapes-night with seeds 4, 5)",
        "gcsearch: left out of the averages: KgCoOp (not on shapes-sketch with seeds 4, 5, 9)",
    ]


@pytest.fixture
def pets(store):
    """A sweep on the field's data set, backbone and shots."""
    task = {"dataset": "OxfordPets", "backbone": "ViT-B-16", "pretrained": "openai"}
    final = completed("kgcoop", "champion", stage="test", seeds=(4, 5), kg_lambda=2.0)
    a_sweep(store, "pets", [completed("kgcoop", kg_lambda=2.0)], [ZEROSHOT, final], task=task)
    return store


def test_compare_puts_published_numbers_beside_ours_or_says_why_not(pets):
    done = call("compare", "pets", "kg", "--published", "--store", pets)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "KgCoOp KgCoOp paper 2023, table 3 KgCoOp 94.65 81.00 ± 1.41 97.76 61.00 ± 1.41 96.18 69.00 ± 1.41" in lines
    assert "ProGrad KgCoOp paper 2023, table 3 - 95.07? - 97.63? - 96.33? -" in lines
    assert "? recalled and not found in a text: provisional" in lines
    why = "another data set (shapes-sketch here, 11 others there) and another backbone (mini here, "
    assert [line for line in lines if line.startswith("Not beside")] == [
        f"Not beside published numbers: the published tables have {why}ViT-B/16 with openai there)."
    ]


def test_published_numbers_stand_in_every_form_of_output(pets):
    markdown = call("compare", "pets", "kg", "--published", "--markdown", "--store", pets).stdout
    assert (
        "| zero-shot CLIP | CoCoOp paper 2022 | zero-shot CLIP | 91.17 | 81.00 ± 1.41 | 97.26 | 61.00 ± 1.41 |"
        in markdown
    )
    assert "\n\nNot beside published numbers: " in markdown
    here, embedded = json.loads(call("compare", "pets", "kg", "--published", "--json", "--store", pets).stdout)
    kgcoop = next(one for one in here["published"]["results"] if one["method"] == "kgcoop")
    assert kgcoop["h"] == {"value": 96.18, "certainty": "computed"}
    assert kgcoop["ours"] == {"name": "KgCoOp", "base": 81.0, "new": 61.0, "h": 69.0}
    assert embedded["published"]["results"] == []
    assert "shapes-sketch here" in embedded["published"]["difference"]
    done = call("compare", "pets", "kg", "--published", "--csv", "--store", pets)
    assert "not beside published numbers: the published tables have another data set" in done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    published = [row for row in rows if row["published_in"]]
    assert [row["dataset"] for row in rows if not row["published_in"]] == ["OxfordPets"] * 2 + ["shapes-sketch"] * 2
    assert len(published) == 10
    assert (published[3]["name"], published[3]["h_mean"], published[3]["recalled"]) == ("CoOp", "95.43", "base;new;h")
    assert "published_in" not in call("compare", "pets", "--csv", "--store", pets).stdout


def test_compare_names_an_unfinished_sweep_and_how_to_finish_it(store):
    done = call("compare", "kg", "half", cwd=store, GCSEARCH_STORE=str(store))
    assert (done.returncode, done.stdout) == (2, "")
    assert "only finished sweeps can be compared, and half is not" in done.stderr
    assert done.stderr.endswith("`gcsearch resume half`.\n")
    assert call("compare", "half", "--store", store).stderr.endswith(f"`gcsearch resume half --store {store}`.\n")


@pytest.mark.parametrize(
    ("line", "verb", "goes_on"),
    [
        ("run demo", "run.run", True),
        ("run demo --fresh", "run.run", False),
        ("compare demo --run", "matrix._SharedRay.ready", True),
        ("extend kg --trials 8", "run.extend", True),
        ("confirm kg --seeds 77", "run.confirm", True),
        ("sync kg", "run.sync", True),
        ("cache build demo", "run.prepare", True),
        ("plan demo", "plan.make", False),
        ("trial", "run.train", False),
        ("export kg --out out", "exports.write_export", False),
        ("cancel kg", "run.cancel", False),
    ],
)
def test_only_a_command_that_goes_on_says_so_when_it_is_interrupted(line, verb, goes_on, store, monkeypatch):
    def interrupted(*_, **__):
        raise interrupts.SignalError(2)

    said = []
    monkeypatch.setattr(f"gcsearch.driver.{verb}", interrupted)
    monkeypatch.setattr("gcsearch.sweep.interrupts.advise", said.append)
    with pytest.raises(interrupts.SignalError):
        call(*line.split(), cwd=store, GCSEARCH_STORE=str(store))
    assert said == ["the same command goes on where it stopped"] * goes_on


def test_tables_live_with_metrics_that_were_not_measured(store):
    done = call("best", "csc", "--store", store)
    assert done.returncode == 0, done.stderr
    assert "90.50 ± 0.71" in done.stdout
    assert "coop [class-specific]" in done.stdout
    assert json.loads(call("best", "csc", "--json", "--store", store).stdout)[0]["objective"]["mean"] == 90.5
    done = call("report", "csc", "--store", store)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("out", "message"), [("", "a report is one file"), ("half.html/sub/report.html", "half.html is a file")]
)
def test_a_report_needs_a_place_for_a_file(store, out, message):
    (store / "half.html").write_text("")
    done = call("report", "half", "--out", store / out, "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_figures_need_a_place_for_a_folder(store):
    (store / "file").write_text("")
    done = call("report", "half", "--figures", store / "file", "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--figures" in done.stderr and "the folder must be one" in done.stderr


def test_data_check_says_what_is_there_and_what_is_missing(tmp_path):
    tree = TREES["OxfordPets by its split"](tmp_path)
    done = call("data", "check", tmp_path, "--verify")
    assert done.returncode == 0, done.stderr
    assert ["OxfordPets", "5", "22", "9", "13", "0", "0"] in [line.split() for line in done.stdout.splitlines()]
    assert "published: 37 classes, train 2944, val 736, test 3669" in done.stdout
    paths = sorted(tree.test)[:2]
    (tmp_path / "oxford_pets" / "images" / paths[0]).unlink()
    (tmp_path / "oxford_pets" / "images" / paths[1]).write_text("no image")
    done = call("data", "check", tmp_path, "--dataset", "OxfordPets", "--verify", "--quiet")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"missing     {paths[0]}\n" in done.stdout
    assert f"unreadable  {paths[1]}: no image but text: 'no image'\n" in done.stdout
    done = call("data", "check", tmp_path, "--dataset", "EuroSAT", "--json", "--quiet")
    (finding,) = json.loads(done.stdout)
    assert (done.returncode, finding["ok"]) == (1, False)
    assert "the folder of the data set must exist" in finding["problem"]


def test_data_write_makes_an_ordinary_data_set(tmp_path):
    done = call("data", "write", "shapes-mosaic", "--root", tmp_path, "--quiet")
    assert done.returncode == 0, done.stderr
    (split,) = tmp_path.glob("*/split_zhou_*.json")
    content = json.loads(split.read_text())
    path, label, name = content["train"][0]
    assert (split.parent / "images" / path).is_file()
    assert (label, isinstance(name, str)) == (0, True)
    assert done.stdout.strip() == str(split.parent)


def test_doctor_finds_this_place_in_order(tmp_path):
    done = call("doctor", "--json", GCSEARCH_STORE=str(tmp_path))
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert findings["torch"]["ok"]
    shown = findings["torchvision operators"]["remedy"].splitlines()
    lines = [line.strip() for line in shown if line.startswith("    ")]
    script = "\n".join([*lines, "print(open_clip.__name__)"] if lines else ["import open_clip"])
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    (tmp_path / "file").write_text("")
    done = call("doctor", GCSEARCH_STORE=str(tmp_path / "file"))
    assert done.returncode == 1
    assert "BAD store" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_failure(tmp_path):
    line = f"{sys.executable} -m gcsearch data list | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_shipped_files_are_found():
    assert "demo" in files.shipped("pipelines")
    assert {"gcscoop", "sam", "coop", "zeroshot"} <= set(files.shipped("search_spaces"))


def test_quiet_says_nothing_however_long_it_takes(capsys, monkeypatch):
    from gcsearch.cli import progress

    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    for quiet, words in ((True, ""), (False, "encoding")):
        with progress.ProgressCallback(quiet=quiet) as callback:
            callback.stage("features", 10)
            callback.progress(5, 10)
            callback.stage("search", 4)
        assert (words in capsys.readouterr().err) if words else capsys.readouterr().err == ""
