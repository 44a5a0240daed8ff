"""A Ray to run in: started or joined, quiet, and put away whatever happens."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import ray

from gcsearch.errors import GcsearchError, RunError
from gcsearch.execution.cluster import Cluster, find, token_mode
from gcsearch.execution.local_ray import daemons, scratch
from gcsearch.execution.placement import Placement
from gcsearch.sweep import interrupts

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
    else a local one is started for `placement` and ended with all its processes and files, also on a signal.
    Signals take effect as ever (KeyboardInterrupt, the caller's handler) when all has been put away.

    Raises:
        InputError: the cluster of RAY_ADDRESS cannot be joined, see `cluster.find`.
        RunError: Ray has too few resources for a worker. RayLost: Ray died, see `daemons`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(QUIET))
        stack.enter_context(_log_levels(LOG_LEVELS))
        stack.enter_context(_ray_replaced())
        stack.enter_context(interrupts.handled())
        stack.enter_context(interrupts.kept(signal.SIGUSR1))  # Tune takes it
        if not ray.is_initialized():
            stack.enter_context(_started_ray(placement, cluster or find()))
        daemons.check()
        _check_capacity(placement)
        yield


@contextlib.contextmanager
def _started_ray(placement: Placement, cluster: Cluster | None) -> Iterator[None]:
    with token_mode() if cluster else contextlib.nullcontext(), contextlib.ExitStack() as stack:
        # What Ray has begun it must end, and a second Ctrl-C must not leave processes behind: signals wait.
        stack.callback(_shut_down, datetime.now())
        with interrupts.held(), interrupts.kept_in_c():
            try:
                _join(cluster) if cluster else _start_local_ray(placement)
            except (GcsearchError, OSError):
                raise
            except Exception as error:  # of many kinds, as when one of its processes is killed meanwhile
                why = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise RunError(f"Ray did not start: {why}\nThe same command tries it again.") from error
            stack.enter_context(_looked_after(ray._private.worker._global_node))
        yield


@contextlib.contextmanager
def _looked_after(node: Any) -> Iterator[None]:
    """The processes of the Ray that this process uses through `node`; of one that it has started the folder, too."""
    folder = Path(node.get_session_dir_path())
    if not node.is_head():
        found = daemons.joined(str(folder), node.raylet_socket_name)
        address = "" if any(one.name == "gcs_server" for one in found) else node.gcs_address
        with daemons.watched(found, address=address):
            yield
        return
    daemons.mark(folder)
    daemons.sweep_up(folder.parent)
    processes = {name: started[0].process for name, started in node.all_processes.items()}
    with daemons.watched(daemons.started(processes), folder):
        yield


def _shut_down(began: datetime) -> None:
    """End Ray, which was begun at `began`, with no garbage collected meanwhile.

    A collection in another thread, that of the mirror, may free a reference of Ray's while the core worker is gone and
    Ray's Python side does not know it yet. Ray then ends the whole process, without a word and past every `finally`.
    """
    node = ray._private.worker._global_node
    own = node is not None and node.is_head()
    with interrupts.held(), interrupts.kept_in_c():
        gc.collect()
        enabled = gc.isenabled()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            if enabled:
                gc.enable()
            if own:
                daemons.remove(Path(node.get_session_dir_path()))
            elif node is None:
                daemons.end_children()
                daemons.remove_begun(scratch.folder() / "ray", began)


def _join(cluster: Cluster) -> None:
    # What the packages of this process are to the workers is for `preflight` to say: no runtime environment.
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)


def _start_local_ray(placement: Placement) -> None:
    scratch.check()
    # Nobody else can reach the local instance: a token would only leave a file in the user's home.
    with _environment({"RAY_AUTH_MODE": "disabled"}):
        ray.init(
            address="local",
            num_cpus=placement.workers * placement.threads,
            num_gpus=None if placement.gpus_per_worker else 0,
            object_store_memory=scratch.OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
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


@contextlib.contextmanager
def _ray_replaced() -> Iterator[None]:
    """Two things that Ray does by itself and here must not.

    It prints what its daemons report, on stdout, which is for results: that is logged instead. And `ray.init` makes
    SIGTERM exit from within, which leaves the processes behind that were started by then.
    """

    def log(data: dict[str, Any], *_: Any, **__: Any) -> None:
        logger.info("ray: %s", "\n".join(data["lines"]))

    def leave(handler: Any) -> None:
        pass

    replaced = [
        (ray._private.worker, "print_to_stdstream", log),
        (ray._private.utils, "set_sigterm_handler", leave),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced if hasattr(module, name)]
    for module, name, function in replaced:
        if hasattr(module, name):
            setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
