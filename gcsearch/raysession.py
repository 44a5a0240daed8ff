"""A Ray to run in: started or joined, quiet, and put away whatever happens."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from gcsearch.cluster import Cluster, find, token_mode
from gcsearch.errors import RunError
from gcsearch.placement import Placement

logger = logging.getLogger(__name__)

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune's handler would only ask for a second one
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a worker that died is reported in its records
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshot is never read: the journal is
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output prints a table at any verbosity
}
"""Environment of Ray and Tune while a search runs."""

LOG_LEVELS = {
    "ray": logging.WARNING,  # "started a local instance", "wrote the latest version of all result files"
    "ray.tune.analysis.experiment_analysis": logging.ERROR,  # misses result files that nobody asked for
    "ray.tune.utils.util": logging.ERROR,  # "may be a performance bottleneck": the journal waits for a busy disk
    "ray.tune.execution.experiment_state": logging.CRITICAL,  # a full disk, which the journal says in words
    "ray.tune.tune": logging.CRITICAL,  # "trials did not complete": their records say so, and why
}
"""Loggers that say in normal operation what gcsearch says itself or what is no news."""


@contextlib.contextmanager
def session(placement: Placement, cluster: Cluster | None = None) -> Iterator[None]:
    """A quiet Ray to run searches in; opening one around several of them saves starting it anew.

    A Ray that runs already (`ray.init` was called, `cluster` or RAY_ADDRESS names one) is used and left running;
    else a local one is started for `placement` and ended with all its processes, also on SIGINT and SIGTERM.
    These two take effect as ever (KeyboardInterrupt, the caller's handler) when all has been put away.

    Raises:
        InputError: the cluster of RAY_ADDRESS cannot be joined, see `cluster.find`.
        RunError: Ray has too few resources for a worker.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(QUIET))
        stack.enter_context(_log_levels(LOG_LEVELS))
        stack.enter_context(_ray_messages_logged())
        stack.enter_context(_interruptible())
        if not ray.is_initialized():
            stack.enter_context(_started_ray(placement, cluster or find()))
        _check_capacity(placement)
        yield


@contextlib.contextmanager
def _started_ray(placement: Placement, cluster: Cluster | None) -> Iterator[None]:
    with token_mode() if cluster else contextlib.nullcontext():
        try:
            with _sigterm_kept():
                _join(cluster) if cluster else _start_local_ray(placement)
            yield
        finally:
            _ignore_interrupts()  # a second Ctrl-C must not leave processes behind; this takes a second or two
            _shut_down()


def _shut_down() -> None:
    """End Ray, with no garbage collected meanwhile.

    A collection in another thread, that of the mirror, may free a reference of Ray's while the core worker is gone and
    Ray's Python side does not know it yet. Ray then ends the whole process, without a word and past every `finally`.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if enabled:
            gc.enable()


def _join(cluster: Cluster) -> None:
    # What the packages of this process are to the workers is for `preflight` to say: no runtime environment.
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)


def _start_local_ray(placement: Placement) -> None:
    # Nobody else can reach the local instance: a token would only leave a file in the user's home.
    with _environment({"RAY_AUTH_MODE": "disabled"}):
        ray.init(
            address="local",
            num_cpus=placement.workers * placement.threads,
            num_gpus=None if placement.gpus_per_worker else 0,
            object_store_memory=200 * 1024**2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            # Processes that run settings one by one stay while Tune has its own: the next sweep of a matrix needs them
            # again, and starting one takes seconds.
            _system_config={"num_workers_soft_limit": 2 * placement.workers},
        )


def _check_capacity(placement: Placement) -> None:
    # Tune would wait for ever.
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = {"CPU": placement.threads, "GPU": placement.gpus_per_worker}
    if any(all(node.get(name, 0) >= count for name, count in needed.items()) for node in nodes):
        return
    for name, count in needed.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if most < count:
            there = f"Ray has {most:g} in all" if len(nodes) == 1 else f"no node of the cluster has more than {most:g}"
            raise RunError(
                f"A worker needs {count:g} {name}, but {there}.\nLower resources.threads or resources.gpus_per_worker."
            )
    raise RunError(
        f"A worker needs {needed['CPU']:g} CPU and {needed['GPU']:g} GPU of one node, and no node has both.\n"
        "Lower resources.threads or resources.gpus_per_worker."
    )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of the block; what the user has set stays as it is."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _log_levels(levels: Mapping[str, int]) -> Iterator[None]:
    """Levels of loggers for the time of the block."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end the block as KeyboardInterrupt, then do what they did before the block.

    KeyboardInterrupt is the only exception that Ray lets a signal handler raise inside its own calls: any
    other comes out as a SystemError that Tune takes for a failure.  So a handler of the caller's, or the
    default one, is run once everything has been put away.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (*INTERRUPTS, signal.SIGUSR1)}
    try:
        for number in INTERRUPTS:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():  # Tune has taken SIGUSR1
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """`ray.init` makes SIGTERM exit the process from within: both are put right."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as exit_:
        signal.signal(signal.SIGTERM, handler)
        if exit_.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    signal.signal(signal.SIGTERM, handler)


def _ignore_interrupts() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _ray_messages_logged() -> Iterator[None]:
    """Ray prints what its daemons report, on stdout, which is for results: it is logged instead."""
    module, name = ray._private.worker, "print_to_stdstream"
    printing = getattr(module, name, None)

    def log(data: dict[str, Any], *_: Any, **__: Any) -> None:
        logger.info("ray: %s", "\n".join(data["lines"]))

    if printing:
        setattr(module, name, log)
    try:
        yield
    finally:
        if printing:
            setattr(module, name, printing)
