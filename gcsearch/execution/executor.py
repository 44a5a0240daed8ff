"""Running settings on Ray: a search by Tune, pack by pack, and given settings one by one."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import SearchSettings
from gcsearch.config.provenance import NODE, process_name
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import EpochReport, OnReports, Proposal, TrialRecord
from gcsearch.execution.local_ray import daemons
from gcsearch.execution.placement import Placement
from gcsearch.execution.searcher import OnLost, PackSearcher, failed, never, nothing, say_lost
from gcsearch.execution.session import session

Evaluate = Callable[[list[Proposal], OnReports], list[TrialRecord]]
"""Trains the settings of a pack and gives one record for each, calling the function it is handed with the
numbers of finished epochs as often as the driver should hear of them.  It is pickled once per worker
process and lives as long as that: what it loads for one pack may be kept for the next."""

NODES_SECONDS = 2.0
"""Between two looks at the nodes of the cluster."""

RETRIES = 2
"""How often a pack is run again after its worker process died: by Tune or, where it gives up early, by the searcher."""


def _run_pack(evaluate: Evaluate, threads: int, pack: str) -> None:
    """What a worker process does with a pack. Its last report carries a record for every setting."""
    _take_place(threads)
    tune.report({"worker": process_name()})
    proposals = [Proposal.from_dict(proposal) for proposal in json.loads(pack)]

    def report(reports: list[EpochReport]) -> None:
        tune.report({"reports": [one.to_dict() for one in reports]})

    try:
        records = {record.number: record for record in evaluate(proposals, report)}
        missing = "evaluate gave no record for it"
    except Exception as error:
        records = {}
        missing = f"{type(error).__name__}: {error}\n{_last_frames(error)}"
    ended = [records.get(p.number) or failed(p, missing) for p in proposals]
    tune.report({"records": [record.to_dict() for record in ended]})


def _last_frames(error: Exception, count: int = 3) -> str:
    """The innermost lines of a traceback: enough to find the place, short enough for a record."""
    frames = traceback.extract_tb(error.__traceback__)[-count:]
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    """First come, first served; keeps worker processes over the end of a generation, and hears of deaths."""

    def __init__(self, searcher: PackSearcher, workers: int) -> None:
        super().__init__()
        self._searcher = searcher
        self._workers = workers
        self._kept = False

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        # With reuse_actors Tune keeps no more idle processes than trials already wait for one.  Between two
        # generations none does, and all but one would be started anew: seconds each.  There is no public
        # way to say otherwise; without this cache the search is slower, not wrong.
        cache = getattr(tune_controller, "_actor_cache", None)
        if cache is not None and not self._kept:
            cache.increase_max(trial.placement_group_factory, by=self._workers)
            self._kept = True

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        daemons.check()
        # Tune appends to this file; what it offers as `get_error` looks where it has not been copied to yet.
        *_, last = Path(trial.error_file).read_text(encoding="utf-8").split("Failure # ")
        _, *lines = last.splitlines()
        told = [line for line in lines if line and not line.startswith("\t")]  # tabs: names of Ray's own
        self._searcher.on_worker_death(trial.trial_id, "\n".join(told))


class _Nodes:
    """The nodes of the cluster; says which is lost, and where what ran there runs again."""

    def __init__(self, threads: int, on_lost: OnLost) -> None:
        self._threads, self._on_lost = threads, on_lost
        self._there = self._living()
        self._looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as in `PackSearcher`: Tune pickles its callbacks, and reads them nowhere

    def look(self) -> None:
        """Compare the nodes with those of the last look, every few seconds."""
        if time.monotonic() - self._looked < NODES_SECONDS:
            return
        now = self._living()
        for node in self._there.keys() - now.keys():
            others = ", ".join(sorted(name for name in now.values() if name)) or "the next node that joins"
            name = self._there[node] or node[:8]
            self._on_lost(f"@{node[:8]}", f"the node {name} was lost; what ran there runs again on {others}")
        self._there, self._looked = now, time.monotonic()

    def _living(self) -> dict[str, str]:
        """Host and node by id; no name where the node has no room for a worker."""
        return {
            node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
            if node["Resources"].get("CPU", 0) >= self._threads
            else ""
            for node in ray.nodes()
            if node["Alive"]
        }


class _Progress(TrialProgressCallback):  # type: ignore[misc]
    """Stands where Tune would put a callback that prints.

    Takes out of each result what the searcher has read, so that Tune does not keep it in memory and on disk.
    """

    def __init__(self, nodes: _Nodes) -> None:
        super().__init__()
        self._nodes = nodes

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        self._nodes.look()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        result.pop("reports", None)
        result.pop("records", None)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        pass

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        pass


def run_search(
    space: SearchSpace,
    settings: SearchSettings,
    placement: Placement,
    evaluate: Evaluate,
    *,
    folder: Path,
    known: Iterable[TrialRecord] = (),
    before: Iterable[TrialRecord] = (),
    on_proposal: Callable[[Proposal, str], None] = nothing,
    on_reports: OnReports = nothing,
    on_record: Callable[[TrialRecord], None] = nothing,
    stopping: Callable[[], bool] = never,
    on_pack: Callable[[Sequence[Proposal]], None] = nothing,
    on_lost: OnLost = say_lost,
) -> list[TrialRecord]:
    """Search `space`: one record for each of `settings.trials` settings, by number.

    `evaluate` runs in worker processes. An exception in it becomes FAILED records, as does the death of its
    process once RETRIES did not help; the others go on. The callbacks run in this process, see
    `PackSearcher`; an exception in one ends the search and comes out of here.

    It runs in the `session` that is open, or in one of its own.

    Args:
        folder: Tune's working files go to `folder/ray`; nothing is ever read back from there.
        known: the records of earlier sessions, in order, see `PackSearcher`.
        before: the records of earlier sweeps, see `PackSearcher`.
        on_lost: told of worker processes and nodes that are gone, see `OnLost`.

    Raises:
        RunError: the known records belong to other settings, or see `session`.
    """
    searcher = PackSearcher(
        space,
        settings,
        known=known,
        before=before,
        on_proposal=on_proposal,
        on_reports=on_reports,
        on_record=on_record,
        stopping=stopping,
        on_pack=on_pack,
        retries=RETRIES,
        on_lost=on_lost,
    )
    if searcher.advance():
        with session(placement):
            _tune(searcher, placement, evaluate, folder, _Nodes(placement.threads, on_lost))
    return searcher.records


def run_settings(
    proposals: Sequence[Proposal],
    placement: Placement,
    evaluate: Evaluate,
    *,
    stage: Stage,
    on_record: Callable[[TrialRecord], None] = nothing,
    stopping: Callable[[], bool] = never,
    on_lost: OnLost = say_lost,
) -> list[TrialRecord]:
    """Run given settings, each by itself, and return their records in the order of `proposals`.

    Where it ran, and beside what, cannot change a digit of a setting that runs by itself; a pack can, in the
    last one. A setting whose evaluation raises, or whose process dies more than RETRIES times, is FAILED.
    Once `stopping` says True none is begun, what runs comes to its end, and the others have no record.
    It runs in the `session` that is open, or in one of its own.
    """
    if not proposals:
        return []
    with session(placement):
        alone = ray.remote(num_cpus=placement.threads, num_gpus=placement.gpus_per_worker, max_retries=RETRIES)(
            _run_alone
        )
        shared = ray.put(evaluate)
        queue, records = deque(proposals), {}
        running: dict[ray.ObjectRef, Proposal] = {}
        nodes = _Nodes(placement.threads, on_lost)
        while queue or running:
            while queue and len(running) < placement.workers and not stopping():
                proposal = queue.popleft()
                running[alone.remote(shared, placement.threads, proposal.to_dict())] = proposal
            if not running:
                break
            ended, _ = ray.wait(list(running), num_returns=1, timeout=NODES_SECONDS)
            nodes.look()
            if not ended:
                continue
            (done,) = ended
            proposal = running.pop(done)
            try:
                record = TrialRecord.from_dict(ray.get(done))
            except ray.exceptions.RayError as error:
                daemons.check()
                record = failed(proposal, str(error).strip(), stage)
            records[proposal.number] = record
            on_record(record)
    return [records[proposal.number] for proposal in proposals if proposal.number in records]


def _run_alone(evaluate: Evaluate, threads: int, setting: dict[str, Any]) -> dict[str, Any]:
    """What a worker process does with one setting."""
    _take_place(threads)
    (record,) = evaluate([Proposal.from_dict(setting)], nothing)
    return record.to_dict()


def _take_place(threads: int) -> None:
    """Keep to the threads that a worker was given, and know the node that it is on."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    os.environ[NODE] = ray.get_runtime_context().get_node_id()[:8]


def _tune(searcher: PackSearcher, placement: Placement, evaluate: Evaluate, folder: Path, nodes: _Nodes) -> None:
    threads = placement.threads

    def pack(config: dict[str, Any]) -> None:
        _run_pack(evaluate, threads, config["pack"])

    tuner = tune.Tuner(
        tune.with_resources(pack, {"cpu": threads, "gpu": placement.gpus_per_worker}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_Scheduler(searcher, placement.workers),
            num_samples=-1,  # until the searcher has finished
            max_concurrent_trials=placement.workers,
            reuse_actors=True,
            # The config is a pack written out: far too long for the file names that Tune would make of it.
            trial_name_creator=lambda trial: f"pack-{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"pack-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(Path(folder, "ray").absolute()),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[_Progress(nodes)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if searcher.error:  # Tune wraps what a callback raised in text
            raise searcher.error from None
        raise
