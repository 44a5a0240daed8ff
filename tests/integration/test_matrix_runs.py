"""A matrix for real: one command from nothing to the table, whatever ends it on the way; numbers as of each alone."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from gcsearch import open_sweep
from gcsearch.driver import matrix, run
from tests.support.processes import command, journal_has, left_behind, start

pytestmark = pytest.mark.slow

CONTENT = """
version = 1
name = "two"
[matrix]
"task.dataset" = ["shapes-sketch", "shapes-neon"]
"search.space" = ["sam", "coop"]
[task]
shots = 4
views = 2
folds = 2
[search]
trials = 40
[confirm]
references = ["zeroshot"]
[resources]
workers = 1
threads = 1
[quick]
"task.seeds" = [1]
"search.trials" = 3
"search.pack" = 2
"search.cap" = { epochs = 2 }
"confirm.top" = 2
"confirm.seeds" = [4, 5]
"""
NAMES = [f"two-quick-{dataset}-{space}" for dataset in ("shapes-sketch", "shapes-neon") for space in ("sam", "coop")]
PATIENCE = 600


def compared(file, store):
    """The table of the one command, and what it said on stderr."""
    words = command("compare", file, "--run", "--quick", store=store)
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def interrupt(file, store, log, number, sweep, code):
    """Send a signal to the command once `sweep` has a record, and wait for its end."""
    with log.open("w") as out:
        process = start(command("compare", file, "--run", "--quick", store=store), out)
        journal_has(store / "sweeps" / sweep / "journal.jsonl", "record", seconds=PATIENCE)
        process.send_signal(number)
        assert process.wait(PATIENCE) == code, log.read_text()
    return process.pid


def numbers(sweep):
    records = [*sweep.records, *sweep.rechecked, *sweep.finals]
    return [(r.number, r.config, r.seeds, r.metrics, r.label) for r in records]


def workers(sweep):
    """The processes that trained for the sweep, as its records name them."""
    return {record.worker for record in (*sweep.records, *sweep.rechecked, *sweep.finals)}


def test_one_command_gives_the_same_table_and_numbers_killed_on_the_way_or_not_and_each_sweep_alone(tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(CONTENT)
    table, said = compared(file, tmp_path / "whole")
    titles = re.findall(r"^ *(zero-shot CLIP|SAM|CoOp) ", table, re.MULTILINE)
    assert titles == ["zero-shot CLIP", "SAM", "CoOp"] * 3, "two data sets and their average"
    assert "sweep 4 of 4: two-quick-shapes-neon-coop\n" in said
    whole = {name: open_sweep(name, tmp_path / "whole") for name in NAMES}
    assert [len(workers(sweep)) for sweep in whole.values()] == [1] * 4, "search and confirmation share a process"

    ended = interrupt(file, tmp_path / "again", tmp_path / "first", signal.SIGTERM, NAMES[0], 143)
    assert left_behind(ended, seconds=180) == []
    interrupt(file, tmp_path / "again", tmp_path / "second", signal.SIGKILL, NAMES[2], -signal.SIGKILL)
    again, said = compared(file, tmp_path / "again")
    assert again == table
    assert f"{NAMES[1]}, which is finished" in said
    for name, sweep in whole.items():
        assert numbers(open_sweep(name, tmp_path / "again")) == numbers(sweep)

    (alone,) = (one for one in matrix.load(file, quick=True).pipelines if one.name == NAMES[2])
    assert numbers(run.run(alone, store=tmp_path / "alone")) == numbers(whole[NAMES[2]])
