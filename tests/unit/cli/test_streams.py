"""Whatever becomes of stdout and stderr, a command ends as it would have, in words."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from gcsearch.cli import progress
from gcsearch.cli.render import print_table
from gcsearch.results.tables.table import Heading, Table

PRINTS = "from gcsearch.cli import streams; streams.steady(); print('76.7 ± 0.4 … große Küche 猫 \\udc80'); "


def shell(line, **environment):
    return subprocess.run(
        ["bash", "-c", line.replace("gcsearch", f"{sys.executable} -m gcsearch")],
        capture_output=True,
        timeout=100,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", "76.7 +/- 0.4 ... gro?e K?che ? ?"),
        ("ascii:strict", "76.7 +/- 0.4 ... gro?e K?che ? ?"),
        ("latin-1", "76.7 ± 0.4 ... große Küche ? ?"),
        ("cp1252", "76.7 ± 0.4 … große Küche ? ?"),
        ("utf-8", "76.7 ± 0.4 … große Küche 猫 ?"),
    ],
)
def test_what_an_encoding_does_not_have_is_replaced(encoding, text):
    code = PRINTS + "import sys; print('±', file=sys.stderr)"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.curdir}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    codec = encoding.partition(":")[0]
    assert done.stdout.decode(codec) == text + "\n"
    assert done.stderr.decode(codec).strip() in ("±", "+/-")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("gcsearch data list >&-", 0),
        ("gcsearch data list 2>&-", 0),
        ("gcsearch data list <&- >&- 2>&-", 0),
        ("gcsearch data list 2>/dev/full", 0),
        ("gcsearch best nothing --store /nowhere 2>&-", 2),
        ("gcsearch best nothing --store /nowhere 2>/dev/full", 2),
        ("gcsearch --no-such-flag 2>/dev/full", 2),
        ("set -o pipefail; gcsearch data list | true", 0),
        ("set -o pipefail; gcsearch data check /nowhere --dataset folder:x | true", 2),  # what it found, not the pipe
    ],
)
def test_a_stream_that_takes_nothing_changes_no_exit_code(line, code):
    done = shell(line)
    assert (done.returncode, b"Traceback" in done.stderr, b"Exception" in done.stderr) == (code, False, False)


def test_results_that_a_full_device_does_not_take_are_a_failure_in_one_line():
    done = shell("gcsearch data list >/dev/full")
    assert done.returncode == 1
    assert done.stderr == (b"gcsearch: not all could be printed: No space left on device; what was computed is kept\n")


def test_a_closed_stdout_is_no_place_for_the_next_file(tmp_path):
    code = f"{PRINTS} file = open({str(tmp_path / 'journal')!r}, 'w'); print(file.fileno(), file=file)"
    line = f'exec {sys.executable} -c "{code}" >&- 2>&- <&-'
    assert (
        subprocess.run(["bash", "-c", line], env={**os.environ, "PYTHONPATH": os.curdir}, check=False).returncode == 0
    )
    assert int((tmp_path / "journal").read_text()) > 2


@pytest.mark.parametrize("columns", ["0", "20", "80"])
def test_no_terminal_is_too_narrow_for_a_number(columns, monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", columns)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        headings = [Heading("", words=True), *map(Heading, ("base", "new", "H"))]
        print_table(Table("", headings, [["zero-shot CLIP", 76.67, 70.83, 73.63]]))
        monkeypatch.undo()
        terminal.flush()
        shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert all(number in shown for number in ("76.67", "70.83", "73.63"))


def test_quiet_hides_progress_and_no_warning(capsys):
    with progress.ProgressCallback(quiet=True) as callback:
        callback.stage("search", 4)
        callback.cluster("127.0.0.1:6379")
        callback.repaired("a line")
        callback.warn("MLflow at http://[::1]:9 does not answer")
    assert capsys.readouterr().err == "gcsearch: MLflow at http://[::1]:9 does not answer\n"


WARNS = """
import logging, sys, warnings
from gcsearch import errors
from gcsearch.cli import streams
streams.one_line_warnings()
for _ in range(2):
    warnings.warn_explicit("Palette images\\n  are odd", UserWarning, "/x/site-packages/PIL/Image.py", 3)
    warnings.warn_explicit("overflow in exp", RuntimeWarning, "/x/site-packages/numpy/core.py", 3)
    warnings.warn_explicit("will go", FutureWarning, "/x/site-packages/optuna/core.py", 3)
    warnings.warn_explicit("pets: drawn anew", UserWarning, errors.__file__, 3)
logger = logging.getLogger("ray")
logger.addHandler(logging.StreamHandler())
logger.propagate = False
logging.getLogger("ray._private.services").warning("the object store uses /tmp\\nbecause ...")
logging.getLogger("ray.tune").info("started")
logging.getLogger("gcsearch.execution.ray_tune").warning("a worker died")
"""


def test_a_warning_is_one_line_and_said_once():
    environment = {**os.environ, "PYTHONPATH": os.curdir}
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.splitlines() == [
        "gcsearch: PIL warns: Palette images are odd",
        "gcsearch: numpy warns: overflow in exp",
        "gcsearch: pets: drawn anew",
        "gcsearch: ray: the object store uses /tmp",
        "gcsearch: a worker died",
    ]


def test_a_split_that_is_drawn_anew_is_named_without_a_path_of_ours(tmp_path):
    from tests.support.trees import put

    for name in ("red", "blue"):
        for index in range(20):
            put(tmp_path / "mine" / name / f"{index}.png")
    done = shell(f"gcsearch data check {tmp_path} --dataset folder:mine --json")
    assert json.loads(done.stdout)
    assert b".py:" not in done.stderr


LOGS = """
import contextlib, logging, os, sys, threading, warnings
from pathlib import Path
from gcsearch import errors
from gcsearch.cli import streams
streams.steady()
streams.one_line_warnings()
with streams.logged(Path(sys.argv[1])):
    warnings.warn_explicit("overflow in exp", RuntimeWarning, "/x/site-packages/numpy/core.py", 3)
    warnings.warn_explicit("pets: drawn anew", UserWarning, errors.__file__, 3)
    logging.getLogger("optuna.study").warning("a trial was\\nfixed")
    logging.getLogger("mlflow.store").error("the database is locked")
    logging.getLogger("gcsearch.execution.session").info("ray: spilling")
    print("an experiment was made")
    with contextlib.suppress(OSError):
        os.write(2, b"[2026-11-29] E core_worker.cc:3: a line of C++\\n")
    thread = threading.Thread(target=lambda: 1 / 0, name="mirror")
    thread.start()
    thread.join()
    streams.say("worker 3 ended")
print("the results")
sys.stderr.write("the end\\n")
"""


def test_while_a_log_is_kept_it_has_what_libraries_say_and_the_terminal_what_a_user_must_know(tmp_path):
    log = tmp_path / "log.txt"
    environment = {**os.environ, "PYTHONPATH": os.curdir}
    for _ in range(2):
        words = [sys.executable, "-c", LOGS, log]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == "the results\n"
        assert done.stderr.splitlines() == [
            "gcsearch: pets: drawn anew",
            "gcsearch: mlflow: the database is locked",
            "gcsearch: the thread mirror ended: ZeroDivisionError: division by zero",
            "gcsearch: worker 3 ended",
            "the end",
        ]
    lines = log.read_text().splitlines()
    assert sum(line.endswith("begins") for line in lines) == 2, "the second session must not overwrite the first"
    timed = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    for text in (
        "WARNING numpy: overflow in exp",
        "WARNING gcsearch: pets: drawn anew",
        "WARNING optuna.study: a trial was",
        "ERROR mlflow.store: the database is locked",
        "INFO gcsearch.execution.session: ray: spilling",
        "INFO gcsearch: worker 3 ended",
    ):
        assert sum(bool(re.fullmatch(timed + re.escape(text), line)) for line in lines) == 2, text
    assert {"an experiment was made", "[2026-11-29] E core_worker.cc:3: a line of C++"} <= set(lines)
    assert "ZeroDivisionError: division by zero" in lines


def test_a_log_on_a_full_disk_hinders_nothing(tmp_path):
    words = [sys.executable, "-c", LOGS, "/dev/full"]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.curdir}, check=True
    )
    assert (done.stdout, "worker 3 ended" in done.stderr, "Traceback" in done.stderr) == ("the results\n", True, False)
