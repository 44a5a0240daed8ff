"""The search on a real Ray, which leaves nothing behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from gcsearch.errors import RunError
from gcsearch.execution import ray_tune
from gcsearch.execution.executor import EpochsReported, TrialsReturned, WorkerGone
from gcsearch.execution.placement import Placement
from gcsearch.execution.ray_tune import TuneExecutor
from gcsearch.execution.session import session
from tests.support.bowl import SETTINGS, Bowl, Trains, run_search, search, wave

# Worker processes do not have this folder on their path: send what is defined here along with the objects.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for all searches of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            object_store_memory=200 * 1024**2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        yield
        ray.shutdown()


class FirstIsLast(Bowl):
    """The first pack of each generation takes longest. Records say how many threads there were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, proposals, report):
        first = proposals[0].number
        (self.folder / f"begun-{first}").touch()
        while first < 6 and len(list(self.folder.glob("begun-*"))) < 2:
            time.sleep(0.05)  # or a quick first worker does it all while the second one still starts
        while first == 0 and not (self.folder / "told-5").exists():
            time.sleep(0.05)
        time.sleep(0.6 if first % 6 == 0 else 0)
        return super().__call__(proposals, report)

    def record(self, proposal):
        threads = f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}"
        return super().record(proposal).model_copy(update={"reason": threads})


def test_two_workers_in_any_order_do_what_one_does_and_say_nothing(local_ray, tmp_path, capfd):
    ended, heard = [], []

    def hear(event):
        if isinstance(event, TrialsReturned):
            for record in event.records:
                ended.append(record.number)
                (tmp_path / f"told-{record.number}").touch()
        elif isinstance(event, EpochsReported):
            heard.append((event.reports[0].number, len(ended)))

    executor = TuneExecutor(Placement(workers=2, threads=1), tmp_path)
    records = run_search(executor, FirstIsLast(tmp_path), on_event=hear)
    own = {"worker": "", "reason": ""}
    assert [r.model_copy(update=own) for r in records] == [r.model_copy(update=own) for r in search()]
    assert ended[:6] == [3, 4, 5, 0, 1, 2]
    assert sorted(number for number, _ in heard) == list(range(22))
    assert all(number not in ended[:before] for number, before in heard)  # while the configuration ran
    assert len({record.worker for record in records}) == 2  # kept from generation to generation
    assert {record.reason for record in records} == {"1 1"}
    assert capfd.readouterr() == ("", "")


class Accidents(Bowl):
    """Number 1 raises, number 2 loses its process once, number 3 always."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, proposals, report):
        (proposal,) = proposals
        tries = self.folder / str(proposal.number)
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if proposal.number == 1:
            raise ValueError("no such thing")
        if proposal.number == 3 or (proposal.number == 2 and tries.read_text() == "x"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(proposals, report)


def test_accidents_cost_no_more_than_what_they_hit(local_ray, tmp_path):
    settings, lost = SETTINGS.model_copy(update={"trials": 5, "pack": 1, "generation": 4}), []

    def hear(event):
        if isinstance(event, WorkerGone):
            lost.append(event.text)

    records = run_search(TuneExecutor(Placement(2, 1), tmp_path), Accidents(tmp_path), settings, on_event=hear)
    assert [record.outcome for record in records] == ["complete", "failed", "complete", "failed", "complete"]
    assert records[1].reason.startswith("ValueError: no such thing\n")
    assert "in __call__" in records[1].reason
    assert records[3].reason.startswith("the worker process ended (tries: 3): The actor ")
    assert [len((tmp_path / str(n)).read_text()) for n in range(5)] == [1, 1, 2, 3, 1]
    assert len(lost) == 4
    assert any(text.endswith("; trial t0002 runs again") for text in lost)


def test_what_ray_would_print_is_logged_while_a_session_is_open(local_ray, capsys, caplog):
    message = {"lines": ["a worker died"], "pid": "raylet", "is_err": False}
    with caplog.at_level(logging.INFO, "gcsearch.execution.session"), session(Placement(1, 1)):
        ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["ray: a worker died"]
    ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    assert "a worker died" in capsys.readouterr().out


def test_a_session_puts_everything_back(local_ray):
    def state():
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        return dict(os.environ), handlers, logging.getLogger("ray").level

    before = state()
    with session(Placement(1, 1)):
        assert state() != before
    assert state() == before
    assert ray.is_initialized()


def a_node(number, *, cpus=1.0, alive=True):
    own = f"{number:08x}" + 24 * "0"
    return {"NodeID": own, "NodeManagerHostname": f"gpu{number}", "Alive": alive, "Resources": {"CPU": cpus}}


def test_a_lost_node_is_named_with_those_that_run_its_trials_again(monkeypatch):
    there, told = [a_node(1, cpus=0.0), a_node(2), a_node(3), a_node(4)], []
    monkeypatch.setattr(ray, "nodes", lambda: there)
    monkeypatch.setattr(ray_tune, "NODES_SECONDS", 0.0)
    nodes = ray_tune._Nodes(1, lambda event: told.append((event.worker, event.text)))
    nodes.look()
    assert told == []
    there[3] = a_node(4, alive=False)
    nodes.look()
    nodes.look()  # said once
    lost = "the node gpu4 (00000004) was lost; what ran there runs again on gpu2 (00000002), gpu3 (00000003)"
    assert told == [("@00000004", lost)]
    del there[1:]
    nodes.look()
    assert told[-1][1].endswith("was lost; what ran there runs again on the next node that joins")
    assert len(told) == 3
    there.append(a_node(5))  # one that joins is no news
    nodes.look()
    assert len(told) == 3


def test_what_a_wave_raises_comes_out_of_a_running_search(local_ray, tmp_path):
    class Full(Exception):
        pass

    def full(event) -> None:
        if isinstance(event, TrialsReturned):
            raise Full("no space left")

    with pytest.raises(Full, match="no space left"):
        run_search(TuneExecutor(Placement(1, 1), tmp_path), Bowl(), on_event=full)


def test_a_worker_that_ray_can_never_place_is_refused(local_ray, tmp_path):
    with pytest.raises(RunError, match="A worker needs 3 CPU, but Ray has 2 in all"):
        TuneExecutor(Placement(1, 3), tmp_path).run([wave([])], Trains(Bowl()))


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
import ray
from gcsearch.execution.executor import Batch, Wave
from gcsearch.execution.placement import Placement
from gcsearch.execution.ray_tune import TuneExecutor
from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import load
from gcsearch.search.proposer import Proposer

class Terminated(BaseException):
    pass

def terminate(number, frame):
    raise Terminated

class Forever:
    def __init__(self, folder):
        self.folder = folder
    def __call__(self, batch, report):
        (self.folder / f"at-work-{batch.trials[0].number}").touch()
        time.sleep(600)

folder = Path(sys.argv[1])
packs = Proposer(load("gcscoop"), SearchConfig()).ask()
wave = Wave([Batch(stage="search", seeds=(1,), trials=tuple(pack)) for pack in packs], lambda event: None)
signal.signal(signal.SIGTERM, terminate)
try:
    TuneExecutor(Placement(2, 1), folder).run([wave], Forever(folder))
except (KeyboardInterrupt, Terminated) as error:
    assert signal.getsignal(signal.SIGTERM) is terminate
    print(type(error).__name__, ray.is_initialized())
"""


def marked_processes(mark: str) -> list[str]:
    """Command lines of the living processes that were started with `mark` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # gone, or not ours
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "group", "name"),
    [
        (signal.SIGINT, True, "KeyboardInterrupt"),
        pytest.param(signal.SIGTERM, False, "Terminated", marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_ends_everything_soon(tmp_path, number, group, name):
    mark = f"GCSEARCH_TEST_MARK={tmp_path}"
    driver = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env=os.environ | dict([mark.split("=", 1)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while len(list(tmp_path.glob("at-work-*"))) < 2:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        assert len(marked_processes(mark)) > 3
        began = time.monotonic()
        # Ctrl-C reaches every process of the terminal's group, `kill` one alone.
        (os.killpg if group else os.kill)(driver.pid, number)
        seen = driver.communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        driver.kill()
        driver.wait()
    assert seen == (f"{name} False\n", "")
    assert driver.returncode == 0
    assert took < 40  # about 2 s on a free machine
    deadline = time.monotonic() + 180
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
