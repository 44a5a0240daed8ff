"""What a running sweep looks like: on a terminal, in a pipe, and to whoever follows it from elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from gcsearch.cli import progress, streams
from gcsearch.cli.live import devices, follow, screen, view
from gcsearch.cli.live import observer as observing
from gcsearch.cli.live.observer import Observer
from gcsearch.cli.live.snapshot import Bar, Pace
from gcsearch.cli.progress import ProgressCallback
from gcsearch.config import search_space
from gcsearch.config.trials import EpochReport, Proposal, TrialConfig
from gcsearch.methods.registry import complete
from gcsearch.sweep.lease import driving
from gcsearch.sweep.sweep import open_sweep
from tests.support.calls import call
from tests.support.records import trial_record
from tests.support.schema import check
from tests.support.sweeps import a_sweep
from tests.support.terminal import Terminal

SEARCH = {"trials": 16, "pack": 4, "pruner": "halving", "budget": {"minutes": 30, "failed": 3}}
OUTCOMES = ["complete", "pruned", "complete", "pruned", "complete", "failed", "pruned", "pruned"]


def config(number):
    values = {"rho": 0.05 + number / 100, "beta1": 0.5, "beta2": 0.75, "lr": 0.0055, "epochs": 80}
    return TrialConfig(method="gcscoop", hyperparameters=values)


def record(number, outcome="complete", seeds=(1, 2, 3), **fields):
    values = (-1.0 - number, -2.0 - number, -3.0 - number, -2.0 - number)[: len(seeds)]
    metrics = {} if outcome == "failed" else {"val_base_margin": values}
    epochs = {"complete": 80, "failed": 0}.get(outcome, 20 if number % 2 else 40)
    known = {"config": config(number), "epochs": epochs, "metrics": metrics, "seconds": 3.0, "worker": "a:1"}
    return trial_record(number, outcome=outcome, seeds=seeds, **known | fields)


@pytest.fixture
def sweep(tmp_path):
    """Eight trials have ended, eight run: two packs on two workers."""
    space = search_space.find("gcscoop").read_text()
    task = {"dataset": "shapes-sketch", "backbone": "mini", "shots": 16, "seeds": [1, 2, 3]}
    made = a_sweep(tmp_path, "demo", space=space, task=task, search=SEARCH, confirm={"top": 3, "seeds": [4, 5, 6]})
    made.journal.append("open", id="demo-0", trials=16, workers={"count": 2, "threads": 1, "gpus": 0.0})
    for number in range(16):
        made.journal.append("proposal", number=number, config=config(number))
    for number, outcome in enumerate(OUTCOMES):
        made.journal.append("record", record=record(number, outcome))
    return made


RUNNING = {8: 0.1, 9: 0.2, 10: 0.3, 11: 0.4, 12: 0.6, 13: 0.6, 14: 0.6, 15: 0.6}


def drawn(shown, width=80, doing="", **console):
    """The lines of a frame on a terminal without colour."""
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None, **console).print(view.Frame(shown, doing))
    return file.getvalue().splitlines()


def timeless(lines):
    """The lines with every time of day, and every rate that follows from it, the same."""
    return [re.sub(r"\d+:\d\d\b", "0:01", line).rstrip() for line in lines]


def test_a_search_is_readable_at_80_columns_and_without_colour(sweep):
    *lines, log = timeless(drawn(Observer(sweep).as_driver(RUNNING)))
    assert lines == [
        "demo  shapes-sketch, mini, 16 shots; gcscoop                           searching",
        "▆" * 12 + "=" * 16 + "×" * 4 + "▂" * 33 + "  8 of 16  0:01",
        "▆ 3 done  = 4 pruned  × 1 failed  ▂ 8 running  · 0 to come",
        "best      t0000  -2.00 ± 1.00 val_base_margin",
        "          gcscoop rho=0.05 beta1=0.5 beta2=0.75 lr=0.0055 epochs=80",
        "rungs     4 of 7 went on at 25 %, 3 of 4 went on at 50 %",
        "running   t0008 to t0011 at 25 %, t0012 to t0015 at 60 %",
        "workers   2 of 2 busy, 1 thread each",
        "left      not known yet",
        "budget    0.0 of 30 minutes, 1 of 3 failed",
        "then      the best 3 again with seeds 4 to 6, then on test images",
        "          beside zero-shot CLIP, CoOp, SAM, GCSCoOp, literature",
    ]
    assert log.startswith("log       ")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("doing", ["", "starting the workers"])
def test_no_line_wraps_and_the_height_is_one_for_all_widths(sweep, width, doing):
    now = Observer(sweep).as_driver(RUNNING)
    lines = drawn(now, width, doing)
    assert len(lines) == 13
    assert max(map(len, lines)) <= min(width, 100)
    assert not any(character < " " for line in lines for character in line)
    if width >= 40:
        assert all(
            word in "\n".join(lines) for word in ("demo", doing or "searching", "3 done", "-2.00 ± 1.00", "2 of 2 busy")
        )


def test_an_encoding_without_blocks_is_drawn_in_ascii(sweep):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    Console(file=file, width=80, force_terminal=True, color_system=None).print(
        view.Frame(Observer(sweep).as_driver(RUNNING))
    )
    file.flush()
    bar, legend = file.buffer.getvalue().decode().splitlines()[1:3]
    assert set(bar.split()[0]) == set("#-x=")
    assert legend.startswith("# 3 done  = 4 pruned  x 1 failed  - 8 running  . 0 to come")


def test_who_follows_sees_what_the_driver_sees_but_the_epochs_of_what_runs(sweep):
    own = Observer(sweep).as_driver(RUNNING)
    with driving(sweep.store.lease("demo"), "the sweep demo"):
        theirs = Observer(sweep).as_follower()
    for fact in ("state", "stage", "outcomes", "total", "workers", "best", "rungs", "confirming", "next", "log"):
        assert getattr(own, fact) == getattr(theirs, fact), fact
    assert [one.numbers for one in own.running] == [one.numbers for one in theirs.running]
    assert [one.share for one in theirs.running] == [None, None]
    assert "shown there alone" in "\n".join(drawn(theirs))
    assert Observer(sweep).as_follower().state == "dead"


def test_a_record_that_is_replaced_and_an_extension_are_counted_anew(sweep):
    observer = Observer(sweep)
    assert observer.as_driver({}).outcomes["failed"] == 1
    sweep.journal.append("record", record=record(5))
    assert "failed" not in observer.as_driver({}).outcomes
    sweep.journal.append("extend", trials=20, there=8)
    sweep.journal.append("open", id="demo-0", trials=20)
    now = observer.as_driver({})
    assert (now.total, now.done, now.workers) == (20, 8, None)
    assert "the journal does not say" in "\n".join(drawn(now))


def test_the_use_of_gpus_stands_beside_the_workers_where_it_can_be_asked_for(sweep, monkeypatch):
    import torch

    sweep.journal.append("open", id="demo-0", trials=16, workers={"count": 4, "threads": 2, "gpus": 0.5})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "utilization", lambda index: 80 + index)
    monkeypatch.setattr(devices, "_last", (-devices._SECONDS, ()))
    observer = Observer(sweep)
    assert view.workers(observer.as_driver(RUNNING)) == "2 of 4 busy, 0.5 GPU each; GPU 0 80 %, GPU 1 81 %"

    def missing(index):
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    monkeypatch.setattr(devices, "_last", (-devices._SECONDS, ()))
    assert view.workers(observer.as_driver(RUNNING)) == "2 of 4 busy, 0.5 GPU each"


def test_the_time_left_follows_from_what_has_ended_and_what_pruned_trials_train(sweep, monkeypatch):
    past = (sweep.state.session.last_record - sweep.state.session.first_proposal).total_seconds()
    with driving(sweep.store.lease("demo"), "the sweep demo"):
        left = Observer(sweep).as_follower().left
    assert 0 <= left <= past, "half of the trials are over: as much time is left as has passed"

    # Of a pack of four that halves at a quarter and at a half of its epochs, each trains half of them on average.
    observer, now = Observer(sweep), 0.0
    monkeypatch.setattr(observing.time, "monotonic", lambda: now)
    assert observer.as_driver(dict.fromkeys(RUNNING, 0.25)).left is None
    now = 10.0
    half_done = observer.as_driver(dict.fromkeys(RUNNING, 0.5)).left
    trained = [0.25, 0.25 + 0.25 / 2, 0.25 + 0.25 / 2 + 0.5 / 4]
    assert half_done == pytest.approx(10 * (trained[2] - trained[1]) / (trained[1] - trained[0]))
    assert Pace(10, 100.0).left(20, 50, 105.0) == 15.0
    assert Pace(10, 100.0).left(10, 50, 105.0) is None


def test_the_confirmation_says_what_it_compares(sweep):
    observer = Observer(sweep)
    for number in range(8, 16):
        sweep.journal.append("record", record=record(number))
    lines = drawn(observer.as_driver({0: 0.5, 2: 0.0}))
    assert lines[0].endswith("measuring the best again")
    assert "compares  val_base_margin, seeds 4 to 6" in lines
    assert "          t0000  runs    t0004  waits" in lines
    for number in (0, 2, 4):
        again = record(number, seeds=(4, 5, 6), config=complete(config(number)))
        sweep.journal.append("recheck", record=again)
    reference = complete(TrialConfig(method="zeroshot"))
    fields = {"config": reference, "stage": "test", "metrics": {"test_h": (70.0, 71.0, 72.0)}, "seeds": (4, 5, 6)}
    sweep.journal.append("confirmed", record=trial_record(-1, **fields))
    lines = drawn(observer.as_driver({-2: 0.5}))
    assert lines[0].endswith("confirming on test images")
    assert "  1 of 7  0:0" in lines[1]
    shown = "\n".join(lines)
    assert re.search(r"zero-shot CLIP +71\.00 ± 1\.00 +t0000, champion +waits", shown)
    assert re.search(r"CoOp +runs", shown)


def test_a_stage_has_a_bar_that_fits():
    bar = Bar("encoding images", 120, 560, 12.0, 33.0, "10 images/s")
    (line,) = drawn(bar)
    assert line.startswith("encoding images  ▆▆▆") and line.endswith("120 of 560  0:12  about 0:33 left  10 images/s")
    assert len(line) <= 80
    assert [len(line) <= 40 for line in drawn(bar, 40)] == [True, True]
    assert drawn(Bar("drawing the report", 0, 0, 4.0)) == ["drawing the report  0:04"]
    assert view.stage_line(bar) == "encoding images: 120 of 560 after 12 seconds, about 33 seconds left, 10 images/s"


@pytest.mark.parametrize("counts", [[1, 0, 0, 999], [3, 4, 1, 8], [0, 0, 0, 0], [1, 1, 1, 1], [10_000, 1, 1, 1]])
def test_a_bar_is_full_and_leaves_out_nothing_that_is_there(counts):
    for cells in (4, 7, 62):
        given = view.shared_out(counts, cells)
        assert sum(given) == (cells if any(counts) else 0)
        assert all((one > 0) == (count > 0) for one, count in zip(given, counts, strict=True))


# --- Where it is drawn ------------------------------------------------------------------------------------


class Tty(io.StringIO):
    """A terminal that keeps what is written to it, from any thread, until it is taken."""

    def __init__(self):
        super().__init__()
        self.lock, self.texts = threading.Lock(), []

    def isatty(self):
        return True

    def fileno(self):
        raise OSError

    def write(self, text):
        with self.lock:
            self.texts.append(text)
        return len(text)

    def taken(self):
        with self.lock:
            text, self.texts = "".join(self.texts), []
        return text

    def shows(self, wanted, terminal):
        """Wait until `wanted` stands on the terminal."""
        deadline = time.monotonic() + 30
        while wanted not in "\n".join(terminal.shown):
            assert time.monotonic() < deadline, f"{wanted} is not shown"
            time.sleep(0.01)
            terminal.feed(self.taken())


def a_terminal(monkeypatch) -> Tty:
    """Makes stderr one. In the test itself: pytest changes stderr between a fixture and its test."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(sys, "stderr", Tty())
    return sys.stderr


def test_frames_are_drawn_in_place_and_what_is_said_stands_above(monkeypatch):
    tty = a_terminal(monkeypatch)
    terminal, frames = Terminal(), iter(["one\ntwo\nthree", "one\nzwei", None])
    terminal.feed("$ gcsearch run\n")
    shown = screen.Screen(lambda: next(frames))
    shown.refresh()
    terminal.feed(tty.taken())
    assert terminal.shown == ["$ gcsearch run", "one", "two", "three", ""]
    shown.refresh()
    shown.above("a worker ended")
    terminal.feed(tty.taken())
    assert terminal.shown == ["$ gcsearch run", "a worker ended", "one", "zwei", ""]
    shown.refresh()
    terminal.feed(tty.taken())
    assert terminal.shown == ["$ gcsearch run", "a worker ended", ""]


def test_a_frame_that_has_not_changed_is_not_written_again(monkeypatch):
    tty = a_terminal(monkeypatch)
    shown = screen.Screen(lambda: "the same")
    shown.refresh()
    assert tty.taken()
    shown.refresh()
    assert tty.taken() == ""


def test_a_terminal_that_becomes_narrower_keeps_nothing_of_the_frame_before(monkeypatch):
    tty = a_terminal(monkeypatch)
    terminal = Terminal(80)
    terminal.feed("$ gcsearch run\n")
    shown = screen.Screen(lambda: "#" * 80 + "\nsecond")
    shown.refresh()
    terminal.feed(tty.taken())
    terminal.resize(30)
    monkeypatch.setattr(screen.os, "get_terminal_size", lambda _: os.terminal_size((30, 24)))
    monkeypatch.setattr(tty, "fileno", lambda: 2)
    shown.refresh()
    terminal.feed(tty.taken())
    assert terminal.shown == ["$ gcsearch run", "#" * 30, "#" * 30, "#" * 20, "second", ""]


def test_a_low_terminal_shows_the_first_lines(monkeypatch):
    tty = a_terminal(monkeypatch)
    monkeypatch.setenv("LINES", "4")
    shown = screen.Screen(lambda: "\n".join("abcdefgh"))
    shown.refresh()
    terminal = Terminal()
    terminal.feed(tty.taken())
    assert terminal.shown == ["a", "b", "c", ""]


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch, term):
    a_terminal(monkeypatch)
    assert screen.can_draw()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not screen.can_draw()


def test_a_run_is_shown_on_a_terminal_from_its_first_stage_to_its_end(sweep, monkeypatch):
    tty = a_terminal(monkeypatch)
    monkeypatch.setattr(screen, "_SECONDS", 0.02)
    monkeypatch.setattr(progress, "_LOOK", 0.02)
    terminal = Terminal()
    with ProgressCallback() as callback:
        callback.stage("features", 560)
        callback.progress(120, 560)
        tty.shows("encoding images  ▆▆▆", terminal)
        callback.begun(sweep)
        callback.stage("search", 16)
        for number in RUNNING:
            callback.proposal(Proposal(number=number, config=config(number)))
        callback.reports([EpochReport(number=8, epoch=40, metrics={})])
        streams.say("a worker ended")
        tty.shows("t0008 to t0011 at 12 %", terminal)
        said = f"gcsearch: what Ray, Optuna and MLflow say goes to {sweep.folder}/log.txt"
        above, _, frame = "".join(terminal.shown).partition("gcsearch: a worker ended")
        assert (above, frame.startswith("demo  shapes-sketch")) == (said, True)
    terminal.feed(tty.taken())
    everything = "".join(terminal.shown)
    assert re.search(r"a worker endedgcsearch: searched 8 configurations in \d seconds?: 3 complete, 4 pr", everything)
    assert not any(line.startswith(("running", "workers", "log")) for line in terminal.shown)


STOPPED = """
import sys, time
from gcsearch.cli import app, streams
from gcsearch.cli.progress import ProgressCallback
from gcsearch.sweep import interrupts

def command():
    interrupts.advise("the same command goes on")
    with ProgressCallback() as callback:
        callback.stage("features", 560)
        for done in range(280, 560):
            callback.progress(done, 560)
            time.sleep(0.05)

app._run_command = command
app.main()
"""


def test_ctrl_c_leaves_the_terminal_clean_and_says_how_to_go_on():
    ours, theirs = pty.openpty()
    script = [sys.executable, "-c", STOPPED]
    known = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.curdir, "NO_COLOR": "1"}
    running = subprocess.Popen(script, stdin=theirs, stdout=theirs, stderr=theirs, env=known, start_new_session=True)
    os.close(theirs)
    shown = ""
    while "about" not in shown:  # a time left: the display stands
        shown += os.read(ours, 10_000).decode()
    running.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end is closed
        while True:
            shown += os.read(ours, 10_000).decode()
    os.close(ours)
    assert running.wait() == 130
    terminal = Terminal()
    terminal.feed(shown)
    assert terminal.shown == ["gcsearch: interrupted by SIGINT; the same command goes on", ""]
    assert not re.search(r"\x1b\[3\dm", shown), "a colour, though NO_COLOR is set"


# --- Elsewhere --------------------------------------------------------------------------------------------


def test_piped_progress_is_plain_lines_at_a_modest_rate_however_many_trials_there_are(tmp_path, capsys, monkeypatch):
    """10 000 trials in a day: a line each ten seconds at first, and then ever more seldom."""
    many = a_sweep(tmp_path, "many", search={"trials": 10_000, "budget": {"no_gain": 9_000}})
    many.journal.append("open", id="many-0", trials=10_000, workers={"count": 2, "threads": 1})
    for number in range(8):
        many.journal.append("proposal", number=number, config=config(number))
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with ProgressCallback() as callback:
        callback.begun(many)
        callback.stage("search", 10_000)
        for number in range(10_000):
            now += 8.64
            callback.record(record(number))
            if number < 5:
                many.journal.append("record", record=record(number))
    lines = capsys.readouterr().err.splitlines()
    assert 50 < len(lines) < 300
    assert not any(character < " " for line in lines for character in line)
    assert all(line.startswith("gcsearch: ") for line in lines)
    assert re.fullmatch(
        r"gcsearch: searching: 3 of 10000 ended, 0 pruned, 0 failed, 0 running after \d seconds?, about .+ left, "
        r"2 of 9000 without a gain; best val_base_margin -2\.00 ± 1\.00 \(t0000: gcscoop rho=0\.05 .* epochs=80\)",
        lines[2],
    )
    assert lines[-1].startswith("gcsearch: searched 5 configurations in 24.0 hours: 5 complete; best ")


def test_a_line_that_cannot_be_made_ends_no_sweep(sweep, capsys):
    with ProgressCallback() as callback:
        callback.begun(sweep)
        callback.stage("search", 16)
        sweep.journal.path.write_text("damaged\n")
        callback.stage("report")
    assert "searched" not in capsys.readouterr().err
    assert "a line of progress is missing" in (sweep.folder / "log.txt").read_text()


@pytest.fixture
def between_looks(monkeypatch):
    """Takes a list: what happens, one after another, between two looks of who follows."""

    def happens(*steps):
        left = iter(steps)
        monkeypatch.setattr(follow, "_pause", lambda: next(left)())

    return happens


@pytest.fixture
def driver(sweep):
    """The sweep has a driver until this is closed."""
    with contextlib.ExitStack() as driver:
        driver.enter_context(driving(sweep.store.lease("demo"), "the sweep demo"))
        yield driver


def test_following_ends_by_itself_and_says_how_the_session_ended(sweep, driver, between_looks):
    def go_on():
        for number in range(8, 16):
            sweep.journal.append("record", record=record(number))
        sweep.journal.append("close", why="STOPPED")

    between_looks(go_on, driver.close)
    done = call("status", "demo", "--follow", "--store", sweep.store.root)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("searching: 8 of 16 ended, 4 pruned, 1 failed, 8 running after ")
    assert lines[1].startswith("measuring the best again: 0 of 3 after ")
    assert lines[2:4] == [
        "sweep   demo: stopped",
        "done    16 of 16 configurations (4 pruned, 1 failed); stage confirm",
    ]
    assert lines[-1] == f"next    gcsearch resume demo --store {sweep.store.root}"
    assert not any(character < " " for line in lines for character in line)


def test_following_in_json_gives_a_document_a_line_at_every_change(sweep, driver, between_looks):
    between_looks(lambda: None, lambda: sweep.journal.append("record", record=record(8)), driver.close)
    done = call("status", "--follow", "--json", "--store", sweep.store.root)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    check(found, "gcsearch status --json")
    assert [(one["state"], one["done"]) for one in found] == [("running", 8), ("running", 9), ("dead", 9)]


def test_what_does_not_run_is_said_and_ends_at_once(sweep):
    done = call("status", "demo", "--follow", "--store", sweep.store.root)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "sweep   demo: dead")
    none = call("status", "--follow", "--store", sweep.store.root)
    assert (none.returncode, "one sweep can be followed at a time" in none.stderr) == (2, True)
    assert "None is running." in none.stderr
    missing = call("status", "dmeo", "--follow", "--store", sweep.store.root)
    assert (missing.returncode, "Sweeps in it: demo." in missing.stderr) == (2, True)


def test_ctrl_c_ends_the_follower_and_not_the_sweep(sweep, driver, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "_pause", interrupted)
    done = call("status", "demo", "--follow", "--store", sweep.store.root)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stderr == "gcsearch: demo is not followed any more; whoever drives it goes on\n"
    assert (sweep.store.lease("demo").exists(), sweep.state.end) == (True, None)


def test_a_sweep_that_is_still_prepared_is_waited_for(tmp_path, between_looks):
    with contextlib.ExitStack() as driver:
        driver.enter_context(driving(tmp_path / "sweeps" / ".demo.lease", "the sweep demo"))

        def end():
            open_sweep("demo", tmp_path).journal.append("close", why="FINISHED")
            driver.close()

        between_looks(lambda: a_sweep(tmp_path, "demo"), end)
        done = call("status", "demo", "--follow", "--store", tmp_path)
    assert "demo is being prepared" in done.stderr
    assert "sweep   demo: finished" in done.stdout.splitlines()
