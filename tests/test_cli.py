"""The command line as a person or a script meets it: exit codes, streams, words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gcsearch import files
from gcsearch.cli import app


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


COMMANDS = ["run", "plan", "trial", "train", "best", "export", "report", "ui", "doctor", "data list", "data write"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert f"Example: gcsearch {command}" in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys, gcsearch.cli, gcsearch; "
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
    "bad TOML": ("[task\n", ("valid TOML", "line")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_ends_with_2_in_words_before_anything_starts(tmp_path, case):
    content, words = WRONG[case]
    (tmp_path / "mine.toml").write_text('version = 1\nname = "mine"\n' + content)
    began = time.monotonic()
    done = gcsearch("run", "mine.toml", cwd=tmp_path)
    seconds = time.monotonic() - began
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert all(word in done.stderr for word in (".toml", *words)), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gcsearch-store").exists()
    assert seconds < 6  # 3 s on a machine that does nothing else


def test_wrong_search_spaces_end_with_2_as_well(tmp_path):
    (tmp_path / "mine.toml").write_text('version = 1\n[search]\nspace = "bad.toml"\n')
    (tmp_path / "bad.toml").write_text(SPACE)
    done = gcsearch("plan", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.toml, parameters.rho: `low < high` must hold, got low=2, high=0.005" in done.stderr
    assert "Swap the two bounds" in done.stderr
    (tmp_path / "bad.toml").write_text('version = 1\nmethod = "sam"\n[parameters.beta1]\nlow = 0.0\nhigh = 1.0\n')
    done = gcsearch("plan", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.toml, parameters.beta1: the parameter of sam" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "demoo"], "Did you mean 'demo'"),
        (["run", "demo", "--set", "search.trails=3"], "Did you mean 'trials'"),
        (["run", "demo", "--set", "nonsense"], "--set takes KEY=VALUE"),
        (["run", "demo", "--set", "confirm.seeds=[4, 4]"], "confirm.seeds: seeds must be distinct"),
        (["trial", "--seeds", "1,-1"], "seeds must be distinct and not negative"),
        (["best", "../sweeps/demo"], "no sweep of this name"),
        (["train", "missing.toml"], "missing.toml: the file must exist"),
        (["trial", "--set", "method=sma"], "Did you mean 'sam'"),
        (["trial", "--set", "rho=-1"], "gcscoop.rho"),
        (["trial", "--seeds", "1,x"], "seeds are whole numbers"),
        (["best", "missing"], "no sweep of this name"),
        (["ui"], "no MLflow store here yet"),
        (["data", "write", "shapes-foto", "--root", "."], "Did you mean 'shapes-photo'"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_words_end_with_2(tmp_path, words, message):
    done = gcsearch(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_data_write_makes_an_ordinary_data_set(tmp_path):
    done = gcsearch("data", "write", "shapes-mosaic", "--root", tmp_path, "--quiet")
    assert done.returncode == 0, done.stderr
    (split,) = tmp_path.glob("*/split_zhou_*.json")
    content = json.loads(split.read_text())
    path, label, name = content["train"][0]
    assert (split.parent / "images" / path).is_file()
    assert (label, isinstance(name, str)) == (0, True)
    assert done.stdout.strip() == str(split.parent)


def test_doctor_finds_this_place_in_order(tmp_path):
    done = gcsearch("doctor", "--json", GCSEARCH_STORE=str(tmp_path))
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert findings["torch"]["ok"]
    assert "torchvision operators" in findings
    (tmp_path / "file").write_text("")
    done = gcsearch("doctor", GCSEARCH_STORE=str(tmp_path / "file"))
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
