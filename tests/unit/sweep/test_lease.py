"""One driver per sweep, whatever becomes of the others: real files, real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gcsearch.errors import InputError, Interrupted, RunError
from gcsearch.sweep import lease
from gcsearch.sweep.lease import STALE, Lease, Request, ask, driving, look, request_path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweeps" / ".demo.lease"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(lease, "_POLL", 0.02)
    monkeypatch.setattr(lease, "BEAT", 0.05)


def take(path) -> Lease:
    return Lease.take(path, "the sweep demo")


def left_by(path, age=0.0, **process):
    """Write the lease of somebody else, whose last beat was `age` seconds ago."""
    former = take(path)
    holder = former.holder.to_dict()
    former.release()
    holder["process"] |= process
    path.write_text(json.dumps(holder))
    os.utime(path, (time.time() - age, time.time() - age))


def files(path):
    return sorted(file.name for file in path.parent.iterdir())


def test_a_lease_is_held_by_one_and_given_back(path):
    first = take(path)
    with pytest.raises(
        InputError, match=rf"driven by one process at a time, got .*:{os.getpid()}, which drives it since"
    ):
        take(path)
    first.release()
    assert files(path) == []
    second = take(path)
    assert second.former is None
    second.release()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(path):
    code = (
        f"from gcsearch.sweep.lease import *\nlease = Lease.take(Path({str(path)!r}), 'x')\n"
        "print(lease, flush=True)\ntime.sleep(99)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        driver.stdout.readline()
        with pytest.raises(InputError, match=f"got .*:{driver.pid}, which"):
            take(path)
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    mine = take(path)
    assert mine.former.holder.process.pid == driver.pid
    assert mine.former.gone == f"the process {mine.former.holder.process} is gone"
    mine.release()
    assert files(path) == []


def test_another_process_that_got_the_same_number_is_not_taken_for_the_driver(path):
    left_by(path, began="1")
    take(path).release()


def test_a_driver_on_another_host_that_is_not_heard_of_for_long_is_replaced_at_once(path):
    left_by(path, STALE + 10, host="node7", machine="another", pid=1)
    said = []
    mine = Lease.take(path, "the sweep demo", said.append)
    assert mine.former.gone.startswith("the process node7:1 has not been heard of for 7")
    assert said == []
    mine.release()


def test_a_driver_on_another_host_is_watched_until_it_counts_as_gone(path, monkeypatch):
    monkeypatch.setattr(lease, "STALE", 5.0)
    said, began = [], time.monotonic()
    left_by(path, host="node7", machine="another", pid=1)
    mine = Lease.take(path, "the sweep demo", said.append)
    assert time.monotonic() - began > 4
    assert mine.former.holder.process.host == "node7"
    assert said == ["waiting for a sign of life of node7:1, which held the sweep demo last"]
    mine.release()


def test_a_driver_on_another_host_that_beats_is_left_alone(path):
    left_by(path, host="node7", machine="another", pid=1)
    stopped = threading.Event()

    def beat():
        while not stopped.wait(0.05):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    began = time.monotonic()
    with pytest.raises(InputError, match=r"got node7:1, which drives it since"):
        take(path)
    stopped.set()
    heart.join()
    assert time.monotonic() - began < STALE / 2
    assert look(path).holder.process.host == "node7"


def test_the_clock_is_that_of_the_file_system(path, monkeypatch):
    left_by(path, host="node7", machine="another")
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert look(path).age < STALE


def test_of_many_that_take_over_at_once_one_does(path):
    for _ in range(10):
        left_by(path, STALE + 10, host="node7", machine="another")
        start = threading.Barrier(16)

        def try_it(_, start=start):
            start.wait()
            try:
                return take(path)
            except InputError:
                return None

        with ThreadPoolExecutor(16) as pool:
            (winner,) = [one for one in pool.map(try_it, range(16)) if one]
        assert look(path).holder == winner.holder
        winner.release()
        assert files(path) == []


def test_a_guard_that_a_killed_successor_left_is_removed(path):
    left_by(path, STALE + 10, host="node7", machine="another")
    guard = path.with_suffix(".guard")
    guard.touch()
    with pytest.raises(InputError, match="driven by one process"):
        take(path)
    os.utime(guard, (1, 1))
    take(path).release()
    assert files(path) == []


def test_a_driver_beats(path):
    with driving(path, "the sweep demo"):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 60
        while look(path).age > STALE and time.monotonic() < deadline:
            time.sleep(0.02)
        assert look(path).age < STALE
    assert files(path) == []


def test_a_driver_that_was_replaced_is_interrupted(path):
    winners = []

    def replace():
        path.unlink()
        winners.append(take(path))

    peer = threading.Timer(0.2, replace)
    with pytest.raises(RunError, match="Another driver has taken over the sweep demo"), driving(path, "the sweep demo"):
        peer.start()
        time.sleep(60)
    peer.join()
    winners[0].check()  # the loser left the winner's file alone
    winners[0].release()


def test_a_lease_that_was_lost_forbids_to_write_and_is_not_given_back(path):
    first = take(path)
    first.check()
    path.unlink()
    second = take(path)
    with pytest.raises(RunError, match="Another driver has taken over"):
        first.check()
    first.release()
    second.check()
    second.release()


def test_a_stop_is_heard_and_interrupts_nothing(path):
    with driving(path, "the sweep demo") as driver:
        assert not driver.stopping()
        assert ask(path, Request.STOP).holder == driver.lease.holder
        deadline = time.monotonic() + 60
        while not driver.stopping() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert driver.stopping()
        driver.check()
    assert files(path) == []


def test_a_cancel_ends_what_the_driver_waits_for(path):
    began = time.monotonic()
    with (
        pytest.raises(Interrupted, match="the sweep demo was cancelled") as caught,
        driving(path, "the sweep demo") as driver,
    ):
        ask(path, Request.CANCEL)
        time.sleep(60)
    assert time.monotonic() - began < 30
    assert (caught.value.exit_code, driver.request) == (130, Request.CANCEL)
    assert files(path) == []


def test_a_cancel_is_heard_in_the_background_of_a_script_where_sigint_is_ignored(path):
    code = (
        "import time\nfrom pathlib import Path\nfrom gcsearch.sweep.lease import Request, ask, driving\n"
        f"path = Path({str(path)!r})\n"
        "with driving(path, 'the sweep demo'):\n    ask(path, Request.CANCEL)\n    time.sleep(60)\n"
    )
    words = ["sh", "-c", '"$@" & wait $!', "sh", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    assert "Interrupted: the sweep demo was cancelled" in done.stderr
    assert files(path) == []


def test_a_driver_outside_the_main_thread_ends_where_it_looks(path):
    ended = []

    def drive():
        try:
            with driving(path, "the sweep demo") as driver:
                while True:
                    driver.check()
                    time.sleep(0.02)
        except Interrupted as error:
            ended.append(error)

    thread = threading.Thread(target=drive)
    thread.start()
    while not (path.exists() and ask(path, Request.CANCEL)):
        time.sleep(0.02)
    thread.join(60)
    assert len(ended) == 1


def test_what_was_asked_of_a_former_driver_does_not_reach_the_next(path):
    former = take(path)
    ask(path, Request.CANCEL)
    assert former.request() is Request.CANCEL
    path.unlink()
    assert request_path(path).exists()
    mine = take(path)
    assert mine.request() is None
    mine.release()
    assert ask(path, Request.STOP) is None
    assert files(path) == []


def test_a_lease_that_says_nothing_is_named(path):
    take(path).release()
    path.write_text("{")
    with pytest.raises(InputError, match=r"\.demo\.lease: .*who holds it"):
        take(path)
