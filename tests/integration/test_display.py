"""A real run as its user sees it: on a terminal of 80 columns, by one who follows it, and in a file."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import termios
import time

import pytest

from gcsearch import files
from tests.support.processes import command
from tests.support.sweeps import SMOKE, long_space
from tests.support.terminal import Terminal


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a run wrote to its terminal, read by read, and what a follower printed meanwhile as JSON; the store."""
    folder = tmp_path_factory.mktemp("seen")
    search = {**SMOKE["search"], "space": long_space(folder, 400), "pruner": "halving"}
    (folder / "my.toml").write_text(files.to_toml({"version": 1, **SMOKE, "search": search}))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    known |= {"TERM": "xterm-256color", "NO_COLOR": "1"}
    words = command("run", folder / "my.toml", store=folder)
    run = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=known, start_new_session=True)
    os.close(theirs)
    follower, shown = None, []
    with contextlib.suppress(OSError):  # the other end is closed
        while text := os.read(ours, 100_000).decode():
            shown.append(text)
            if follower is None and (folder / "sweeps/smoke/journal.jsonl").exists():
                words = command("status", "smoke", "--follow", "--json", store=folder)
                follower = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(ours)
    assert run.wait() == 0
    out, err = follower.communicate(timeout=60)
    return shown, (follower.returncode, out, err), folder


@pytest.mark.slow
def test_a_run_is_readable_on_a_terminal_of_80_columns_without_colour_and_leaves_it_clean(seen):
    terminal, frames = Terminal(80), []
    for text in seen[0]:
        terminal.feed(text)  # which bears no control sequence but those that move and clear
        assert all(len(row) <= 80 for row in terminal.shown)
        if any(row.startswith("smoke  shapes-sketch, mini, 4 shots") for row in terminal.shown):
            frames.append("\n".join(terminal.shown))
    searching = [frame for frame in frames if "searching" in frame and " at 25 %" in frame]
    assert searching
    assert any(re.search(r"best +t000\d +-\d+\.\d\d ± \d+\.\d\d val_base_margin", frame) for frame in searching)
    assert any(re.search(r"running +t0000 to t0001 at \d+ %", frame) for frame in searching)
    assert any(re.search(r"left +about 0:\d\d", frame) for frame in searching)
    assert any("compares  test_h, seeds 4, 5" in frame for frame in frames)
    assert "\x1b[3" not in "".join(seen[0]), "NO_COLOR was set"
    last = "\n".join(terminal.shown)
    assert "champion  gcscoop" in last
    assert not re.search(r"^(workers|running|log) ", last, re.MULTILINE)


@pytest.mark.slow
def test_who_follows_ends_with_the_run_and_has_seen_it_grow(seen):
    code, out, err = seen[1]
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, err, found[-1]["state"]) == (0, "", "finished")
    assert {one["state"] for one in found[:-1]} == {"running"}
    assert [one["done"] for one in found] == sorted(one["done"] for one in found)
    assert len({one["done"] for one in found}) > 2


@pytest.mark.slow
def test_in_a_file_there_is_no_control_character(seen):
    folder = seen[2]
    with (folder / "said.txt").open("w") as said:
        words = command("extend", "smoke", "--trials", "4", store=folder)
        known = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
        began = time.monotonic()
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=said, env=known, check=True, timeout=300)
    lines = (folder / "said.txt").read_text().splitlines()
    assert not any(character < " " for line in lines for character in line)
    assert 3 < len(lines) < 10 + (time.monotonic() - began) / 5
    assert any(line.startswith("gcsearch: searched 10 configurations in ") for line in lines)
    log = (folder / "sweeps/smoke/log.txt").read_text()
    assert log.count("begins\n") == 2, "one session each of run and extend"
