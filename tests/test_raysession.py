"""Ray is begun for a search and put away with all that belongs to it."""

from __future__ import annotations

import gc
import weakref

import ray

from gcsearch.placement import Placement
from gcsearch.raysession import session


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
