"""Placement, for any machines: what is left open is filled in so that nothing is given away twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gcsearch.config.pipeline import Resources
from gcsearch.execution.placement import Machine, spread

MACHINES = st.lists(st.builds(Machine, st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=4)


def room(machines, threads, gpu_share):
    """How many workers the machines hold, put on them one by one as Ray does, in its steps of 0.0001 GPU."""
    count, share = 0, round(gpu_share * 10_000)
    for machine in machines:
        cores, gpus = machine.cores, [10_000] * machine.gpus
        while cores >= threads:
            if share >= 10_000:
                free = [n for n, left in enumerate(gpus) if left == 10_000][: share // 10_000]
                if len(free) < share // 10_000:
                    break
                for n in free:
                    gpus[n] = 0
            elif share:
                fitting = [n for n, left in enumerate(gpus) if left >= share]
                if not fitting:
                    break
                gpus[fitting[0]] -= share
            cores -= threads
            count += 1
    return count


@given(MACHINES, st.integers(1, 20))
def test_what_is_left_open_is_filled_in_with_what_there_is(machines, generation):
    placement = spread(Resources(), machines, generation=generation)
    assert 1 <= placement.workers <= generation
    assert room(machines, placement.threads, placement.gpus_per_worker) >= placement.workers


@given(MACHINES, st.integers(1, 20), st.integers(1, 16))
def test_threads_that_are_given_are_kept_and_workers_fit_beside_them(machines, generation, threads):
    placement = spread(Resources(threads=threads, gpus_per_worker=0), machines, generation=generation)
    assert placement.threads == threads
    assert placement.workers == min(max(room(machines, threads, 0.0), 1), generation)


@given(MACHINES, st.integers(1, 16))
def test_workers_that_are_given_get_no_more_threads_than_fit(machines, workers):
    placement = spread(Resources(workers=workers, gpus_per_worker=0), machines, generation=1)
    assert placement.workers == workers
    assert placement.threads == 1 or room(machines, placement.threads, 0.0) >= workers
    assert room(machines, placement.threads + 1, 0.0) < workers
