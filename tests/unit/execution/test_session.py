"""Ray is begun for a search and put away with all that belongs to it."""

from __future__ import annotations

import gc
import subprocess
import weakref

import pytest
import ray

from gcsearch.errors import RunError
from gcsearch.execution.placement import Placement
from gcsearch.execution.session import session


def test_no_garbage_is_collected_while_ray_ends(monkeypatch):
    """A reference of Ray's that another thread's collection frees then would end the process without a word."""
    seen, shutdown = [], ray.shutdown
    monkeypatch.setattr(ray, "shutdown", lambda: (seen.append((gc.isenabled(), reference())), shutdown()))

    class Knot:
        pass

    with session(Placement(1, 1)):
        knot = Knot()
        knot.itself, knot.value = knot, ray.put(1)
        reference = weakref.ref(knot)
        del knot
    assert seen == [(False, None)]
    assert gc.isenabled()
    assert not ray.is_initialized()


def test_a_ray_that_does_not_start_is_an_error_in_words_and_leaves_no_process(monkeypatch, tmp_path):
    (tmp_path / "gcs_server").symlink_to("/bin/sleep")
    started = []

    def init(**_):
        started.append(subprocess.Popen([tmp_path / "gcs_server", "60"]))
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    words = r"Ray did not start: The current node timed out during startup\.\n"
    with pytest.raises(RunError, match=words), session(Placement(1, 1)):
        pass
    assert started[0].wait(10) == -9
