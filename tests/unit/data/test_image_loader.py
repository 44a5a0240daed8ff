"""Processes that open images: the same pixels as without them, a clear word when one dies, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gcsearch.clip.preprocess import Preparation
from gcsearch.data import image_loader
from gcsearch.data.image_loader import Job
from gcsearch.errors import RunError
from tests.support.images import noise

ROOT = Path(__file__).parents[3]


@pytest.fixture
def jobs(tmp_path):
    for index in range(12):
        noise(40, 30, seed=index).save(tmp_path / f"{index}.png")
    (tmp_path / "5.png").write_bytes(b"broken")
    return [Job(str(tmp_path), (f"{index}.png",) * 2, (None, (1, index)), Preparation(16)) for index in range(12)]


def children(of):
    """Process ids of the decoders whose parent is `of`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"gcsearch.data.image_loader" in (entry / "cmdline").read_bytes():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found += [int(entry.name)] if parent == of else []
        except (OSError, IndexError):
            continue
    return found


def test_processes_give_the_same_pixels_in_the_same_order_and_end(jobs):
    alone = list(image_loader.prepared(jobs, 0, ahead=4))
    beside = list(image_loader.prepared(jobs, 2, ahead=4))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(alone, beside, strict=True))
    assert [a.unreadable for a in alone] == [b.unreadable for b in beside]
    assert list(alone[5].unreadable) == ["5.png"]
    assert children(os.getpid()) == []


def test_no_more_is_prepared_ahead_than_is_allowed(jobs):
    begun = []

    def counted():
        for job in jobs:
            begun.append(job)
            yield job

    results = image_loader.prepared(counted(), 1, ahead=3)
    next(results)
    assert len(begun) == 4
    results.close()
    assert children(os.getpid()) == []


def test_a_process_that_dies_is_a_clear_error(jobs):
    results = image_loader.prepared(jobs * 200, 1, ahead=2)
    next(results)
    (child,) = children(os.getpid())
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RunError, match=r"opens images ended by itself \(exit code -9.*resources.decoders"):
        list(results)
    assert children(os.getpid()) == []


def test_processes_end_with_a_parent_that_was_killed_and_need_no_main_guard(jobs, tmp_path):
    # A script without a guard, which spawned workers of multiprocessing would run once more.
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\nfrom gcsearch.data import image_loader as decoding\n"
        "from gcsearch.data.image_loader import Job\nfrom gcsearch.clip.preprocess import Preparation\n"
        f"job = Job({str(tmp_path)!r}, ('1.png',), (None,), Preparation(16))\n"
        "results = decoding.prepared([job] * 9, 2, ahead=2)\nnext(results)\nprint('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout.readline() == b"ready\n"
        left = children(parent.pid)
        assert len(left) == 2
        parent.kill()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() and not _is_zombie(child) for child in left):
        assert time.monotonic() < until
        time.sleep(0.05)


def _is_zombie(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("wanted", "rows", "cores", "gpu", "expected"),
    [
        ("auto", 500, 16, True, 0),
        ("auto", 5000, 16, True, 15),
        ("auto", 5000, 64, True, 16),
        ("auto", 5000, 2, False, 1),
        ("auto", 5000, 64, False, 8),
        (3, 500, 2, False, 3),
        (0, 5000, 16, True, 0),
    ],
)
def test_how_many_processes(wanted, rows, cores, gpu, expected):
    assert image_loader.processes(wanted, rows, cores, gpu=gpu) == expected
