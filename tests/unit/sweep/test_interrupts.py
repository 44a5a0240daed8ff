"""Signals end what runs, once and in order; and a Ray whose processes die is not waited for."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from gcsearch.driver.session import Session
from gcsearch.execution.local_ray import daemons
from gcsearch.sweep import interrupts
from gcsearch.sweep.lease import this_process
from gcsearch.sweep.state import SweepState


@pytest.fixture
def heard():
    """Signals that reach the handler of whoever calls gcsearch."""
    numbers, before = [], {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    for number in interrupts.SIGNALS:
        signal.signal(number, lambda number, frame: numbers.append(number))
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_ends_the_block_and_then_does_what_it_did_before(number, heard):
    with pytest.raises(KeyboardInterrupt), interrupts.handled(), interrupts.handled():
        try:
            os.kill(os.getpid(), number)
        finally:
            assert heard == []
    assert heard == [number]


def test_a_second_signal_changes_nothing_while_the_first_is_obeyed(heard):
    ended = []
    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)
    assert (ended, heard) == ([True], [signal.SIGINT])


def test_a_signal_waits_for_the_end_of_what_must_not_be_cut_off(heard):
    ended = []
    with pytest.raises(KeyboardInterrupt), interrupts.handled(), interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(True)
    assert (ended, heard) == ([True], [signal.SIGTERM])


def test_a_block_that_hangs_can_be_interrupted_again(heard, monkeypatch):
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    with pytest.raises(KeyboardInterrupt), interrupts.handled(), interrupts.held():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")


def test_what_was_ignored_stays_ignored_but_for_an_interrupt_in_the_background(heard):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a script's background
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with interrupts.handled():
        os.kill(os.getpid(), signal.SIGHUP)
    for end in (interrupts.wake, lambda: os.kill(os.getpid(), signal.SIGINT)):
        with pytest.raises(KeyboardInterrupt), interrupts.handled():
            end()
            time.sleep(1)
    assert heard == []


def test_a_handler_that_a_library_takes_away_in_c_comes_back(heard):
    library = ctypes.CDLL(None)
    with pytest.raises(KeyboardInterrupt), interrupts.handled(), interrupts.kept_in_c():
        library.signal(int(signal.SIGTERM), None)  # SIG_DFL, as Ray's core worker does when it ends
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert heard == [signal.SIGTERM]


def test_a_signal_waits_for_the_end_of_an_import_and_of_a_finalizer(heard, tmp_path, monkeypatch):
    # Cut off there, torch ends the process from C, and Python only prints what was raised.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow_module.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.1)\nwhole = True\n"
    )

    class Ends:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            ended.append(True)

    ended = []
    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        import slow_module

        ended.append(slow_module.whole)
        time.sleep(5)
    with pytest.raises(KeyboardInterrupt), interrupts.handled():
        Ends()
        time.sleep(5)
    assert (ended, heard) == ([True, True], [signal.SIGTERM, signal.SIGHUP])


CATCHES = """
import os, signal, sys, time
from gcsearch.sweep import interrupts
class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
interrupts.catch()
interrupts.advise("the same command goes on")
try:
    Ends()
    time.sleep(5)
except interrupts.SignalError as error:
    os.kill(os.getpid(), signal.SIGINT)  # while the first is being obeyed
    code = interrupts.farewell(error.number)
os.kill(os.getpid(), signal.SIGHUP)
sys.exit(code)
"""


def test_a_command_that_is_on_its_way_out_is_not_ended_by_further_signals():
    environment = {**os.environ, "PYTHONPATH": os.curdir}
    done = subprocess.run([sys.executable, "-c", CATCHES], capture_output=True, text=True, env=environment, check=False)
    said = "gcsearch: interrupted by SIGTERM; the same command goes on\n"
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, said)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_command_that_is_interrupted_before_all_of_it_is_imported_says_so(number, tmp_path):
    # In the place of a module that is imported and not used on the way.
    (tmp_path / "shellingham.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\n")
    done = subprocess.run(
        [sys.executable, "-m", "gcsearch", "data", "list"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.curdir}"},
        check=False,
    )
    assert done.returncode == 128 + number
    assert done.stderr == f"gcsearch: interrupted by {number.name}\n"


def test_what_a_ray_that_did_not_start_has_begun_is_removed(tmp_path):
    began = datetime.now()
    later = f"{began + timedelta(seconds=1):%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    names = [f"session_{later}", f"session_{later}0", f"session_2026-01-01_00-00-00_000000_{os.getpid()}"]
    for name in names:
        (tmp_path / name / "logs").mkdir(parents=True)
    daemons.remove_begun(tmp_path, began)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@contextlib.contextmanager
def dies_of(words):
    with pytest.raises(daemons.RayLost, match=words), interrupts.handled(), daemons.explaining_lost_ray("Again"):
        yield


@contextlib.contextmanager
def fake_ray(folder):
    processes = {name: subprocess.Popen(["sleep", "60"]) for name in ("raylet", "gcs_server", "monitor")}
    try:
        with (
            interrupts.handled(),
            daemons.explaining_lost_ray("Resume it"),
            daemons.watched(daemons.started(processes), folder),
        ):
            yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


@pytest.mark.parametrize(("name", "words"), [("raylet", "Ray's raylet"), ("gcs_server", "Ray's control store")])
def test_a_process_that_ray_needs_and_that_is_killed_ends_the_block_in_words(name, words, tmp_path):
    with (
        pytest.raises(daemons.RayLost) as raised,
        daemons.explaining_lost_ray("Begin again"),
        fake_ray(tmp_path) as processes,
    ):
        processes[name].kill()
        time.sleep(30)
    assert str(raised.value).startswith(words)
    assert "SIGKILL; the system does that when memory runs out.\nResume it." in str(raised.value)
    daemons.check()  # said once


@contextlib.contextmanager
def stands_for(name, folder, word):
    """A process that bears a daemon's name and the word by which it is told."""
    (folder / name).symlink_to(sys.executable)
    command = [folder / name, "-c", "import time; print(flush=True); time.sleep(60)", word]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()  # until it bears the name
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_raylet_of_a_ray_that_runs_already_is_noticed_too(tmp_path):
    with stands_for("raylet", tmp_path, "--raylet_socket_name=/ray/sockets/raylet") as raylet:
        (found,) = daemons.joined("/nowhere", "/ray/sockets/raylet")
        with dies_of("has ended"), daemons.watched([found]):
            raylet.kill()
            raylet.wait()
            time.sleep(30)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("raylet", "--raylet_socket_name=/ray/session_1/sockets/raylet.1"),
        ("gcs_server", "--log_dir=/ray/session_12/logs"),
    ],
)
def test_the_daemons_of_another_node_or_session_are_not_those_of_this_one(name, word, tmp_path):
    with stands_for(name, tmp_path, word):
        assert daemons.joined("/ray/session_1", "/ray/session_1/sockets/raylet") == []


def test_a_control_store_elsewhere_that_stops_listening_is_noticed(monkeypatch):
    monkeypatch.setattr(daemons, "_PAUSE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as store:
        address = f"127.0.0.1:{store.getsockname()[1]}"
        with dies_of(f"at {address} does not answer"), daemons.watched([], address=address):
            time.sleep(0.5)
            daemons.check()
            store.close()
            time.sleep(30)


def test_what_fails_beside_a_dead_ray_fails_because_of_it(tmp_path):
    with pytest.raises(daemons.RayLost), fake_ray(tmp_path) as processes:
        processes["raylet"].terminate()
        processes["raylet"].wait()
        daemons.check()


def test_a_signal_to_the_whole_group_is_no_loss_of_ray(heard, tmp_path):
    with pytest.raises(KeyboardInterrupt), fake_ray(tmp_path) as processes:
        processes["raylet"].terminate()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert heard == [signal.SIGTERM]


HANGS = """
import subprocess, sys, time
from pathlib import Path
from gcsearch.execution.local_ray import daemons
from gcsearch.sweep import interrupts
daemons.PATIENCE = 0.2
process = subprocess.Popen(["sleep", "60"])
ray = daemons.started({"gcs_server": process})
with interrupts.handled(), daemons.report_at_exit(print), daemons.watched(ray, Path(sys.argv[1])):
    with interrupts.held():
        process.kill()
        time.sleep(60)
"""


def test_a_driver_that_hangs_in_a_dead_ray_says_its_last_words_from_another_thread(tmp_path):
    (tmp_path / "session_1").mkdir()
    words = [sys.executable, "-u", "-c", HANGS, str(tmp_path / "session_1")]
    environment = {**os.environ, "PYTHONPATH": os.curdir}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("Ray's control store was ended by SIGKILL")
    assert not (tmp_path / "session_1").exists()


def test_what_a_killed_driver_left_is_removed_and_nothing_else(tmp_path):
    gone = this_process().model_copy(update={"began": "1"}).to_dict()
    for name, mark in {"gone": gone, "alive": this_process().to_dict(), "foreign": None}.items():
        folder = tmp_path / f"session_{name}"
        (folder / "logs").mkdir(parents=True)
        if mark:
            (folder / "gcsearch.json").write_text(json.dumps(mark))
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_gone")
    daemons.sweep_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["session_alive", "session_foreign"]


def test_who_goes_on_removes_the_ray_of_a_killed_driver_also_where_none_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = tmp_path / "ray" / "session_gone"
    folder.mkdir(parents=True)
    (folder / "gcsearch.json").write_text(json.dumps(this_process().model_copy(update={"began": "1"}).to_dict()))
    driver = SimpleNamespace(lease=SimpleNamespace(former=None))
    journal, sweep = SimpleNamespace(repair=lambda: 0), SimpleNamespace(state=SweepState())
    Session._repair(SimpleNamespace(driver=driver, journal=journal, sweep=sweep))
    assert not (tmp_path / "ray").exists()


def test_every_handler_of_a_signal_is_set_by_what_the_table_names():
    package = Path(interrupts.__file__).parents[1]
    setting = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if "signal.signal(" in path.read_text(encoding="utf-8")
    }
    assert setting == {"sweep.interrupts", "data.image_loader"}
    assert "data.image_loader.serve" in interrupts.__doc__


def test_a_handler_that_a_library_replaces_in_a_block_is_back_after_it():
    before = signal.getsignal(signal.SIGUSR1)
    with interrupts.kept(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) == before
