"""Ray Tune as an executor: it places batches on workers, runs them again where a worker dies, and keeps workers alive.

One Tune trial is one batch.  Nothing is restored from Tune's own files: a sweep goes on from its journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from gcsearch.config.provenance import NODE, process_name
from gcsearch.config.trials import EpochReport, Outcome, TrialRecord
from gcsearch.execution.executor import (
    Batch,
    BatchEnded,
    BatchStarted,
    EpochsReported,
    Evaluate,
    ExecutorEvent,
    TrialsReturned,
    Wave,
    WorkerGone,
    failed,
)
from gcsearch.execution.local_ray import daemons
from gcsearch.execution.placement import Placement
from gcsearch.execution.session import session
from gcsearch.files import cache_place
from gcsearch.methods.registry import register_rule, registered

NODES_SECONDS = 2.0
"""Between two looks at the nodes of the cluster."""

RETRIES = 2
"""How often a batch starts again after its worker died: by Tune or, where it gives up early, by the searcher."""


class TuneExecutor:
    """Runs batches in worker processes of Ray, through Ray Tune.

    An exception in training becomes FAILED records, as does the death of a worker once RETRIES did not help; the other
    trials go on. It runs in the `session` that is open, or in one of its own.

    Args:
        placement: how many workers there are, and what each of them has.
        folder: Tune's working files go to `folder/ray`.
    """

    def __init__(self, placement: Placement, folder: Path) -> None:
        self.placement, self.folder = placement, folder

    def run(self, waves: Iterable[Wave], evaluate: Evaluate) -> None:
        """As `Executor.run`. RunError or RayLost where Ray cannot run them, see `session`."""
        with session(self.placement):
            searcher = BatchSearcher(waves, RETRIES)
            try:
                self._tuner(searcher, evaluate).fit()
            except Exception:
                if searcher.error:  # Tune wraps what a callback raised in text
                    raise searcher.error from None
                raise
            if searcher.error:
                raise searcher.error

    def _tuner(self, searcher: BatchSearcher, evaluate: Evaluate) -> tune.Tuner:
        placement, cache, own_rules = self.placement, cache_place(), registered()

        def trainable(config: dict[str, Any]) -> None:
            os.environ["GCSEARCH_CACHE"] = cache
            for name, (rule, title) in own_rules.items():
                register_rule(name, rule, title=title)
            take_place(placement.threads)
            _run_batch(evaluate, Batch.from_dict(json.loads(config["batch"])))

        return tune.Tuner(
            tune.with_resources(trainable, {"cpu": placement.threads, "gpu": placement.gpus_per_worker}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(searcher, placement.workers),
                num_samples=-1,  # until the searcher has finished
                max_concurrent_trials=placement.workers,
                reuse_actors=True,
                # The config is a batch written out: far too long for the file names that Tune would make of it.
                trial_name_creator=lambda trial: f"pack-{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"pack-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(Path(self.folder, "ray").absolute()),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[_Progress(_Nodes(placement.threads, searcher.on_event))],
                verbose=0,
            ),
        )


# --- In a worker process ----------------------------------------------------------------------------------


def take_place(threads: int) -> None:
    """Keep to the threads that a worker was given, and know the node that it is on."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    os.environ[NODE] = ray.get_runtime_context().get_node_id()[:8]


def _run_batch(evaluate: Evaluate, batch: Batch) -> None:
    """What a worker process does with a batch. Its last report carries a record for every trial."""
    tune.report({"worker": process_name()})

    def report(reports: list[EpochReport]) -> None:
        tune.report({"reports": [one.to_dict() for one in reports]})

    try:
        records = {record.number: record for record in evaluate(batch, report)}
        missing = "evaluate gave no record for it"
    except Exception as error:
        records = {}
        missing = f"{type(error).__name__}: {error}\n{_last_frames(error)}"
    ended = [records.get(trial.number) or failed(trial, missing, batch.stage) for trial in batch.trials]
    tune.report({"records": [record.to_dict() for record in ended]})


def _last_frames(error: Exception, count: int = 3) -> str:
    """The innermost lines of a traceback: enough to find the place, short enough for a record."""
    frames = traceback.extract_tb(error.__traceback__)[-count:]
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)


# --- In the driver ----------------------------------------------------------------------------------------


@dataclass
class _Running:
    """A batch on its way: the worker that has it, what former ones died of, and the records that there are."""

    wave: Wave
    batch: Batch
    worker: str = ""
    deaths: list[str] = field(default_factory=list)
    records: dict[int, TrialRecord] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """For people: `trials t0003, t0004`."""
        names = [f"t{t.number:04d}" if t.number >= 0 else f"reference {-t.number}" for t in self.batch.trials]
        return f"trial{'s' * (len(names) > 1)} {', '.join(names)}"


class BatchSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """Hands batches to Tune as if it were a search algorithm, and what comes back from workers to the wave.

    `error` is what a wave raised: Tune would turn it into text, or swallow it.
    """

    def __init__(self, waves: Iterable[Wave], retries: int = 0) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._waves = iter(waves)
        self._wave: Wave | None = None
        self._retries = retries
        self._waiting: deque[_Running] = deque()
        self._running: dict[str, _Running] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its whole configuration to a file, which is never read

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next batch for a worker; None while the last ones of a wave run; FINISHED at the end."""
        self._raise()
        with self._keeping_errors():
            self._advance()
        if not self._waiting:
            return None if self._running else str(Searcher.FINISHED)
        running = self._running[trial_id] = self._waiting.popleft()
        if not running.deaths:
            self._tell(running, BatchStarted(running.batch))
        return {"batch": json.dumps(running.batch.to_dict())}

    def _advance(self) -> None:
        """Ask for the next wave once the present one has ended, and start no more of one that is to stop."""
        if self._wave and self._wave.stopping():
            self._waiting.clear()
        while not self._waiting and not self._running:
            self._wave = next(self._waves, None)
            if self._wave is None:
                break
            if not self._wave.stopping():
                self._waiting.extend(_Running(self._wave, batch) for batch in self._wave.batches)

    def on_event(self, event: ExecutorEvent) -> None:
        """Tell the present wave."""
        if self._wave:
            with self._keeping_errors():
                self._wave.on_event(event)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on what a worker sent: its name, reports of epochs, or the records of its batch."""
        running = self._running[trial_id]
        running.worker = result.get("worker") or running.worker
        if result.get("reports"):
            self._tell(running, EpochsReported([EpochReport.from_dict(report) for report in result["reports"]]))
        if result.get("records"):
            self._accept(running, [TrialRecord.from_dict(record) for record in result["records"]])

    def on_worker_death(self, trial_id: str, cause: str) -> None:
        """Note why the worker of a batch died, for the reason of its records should no retry help, and say so."""
        running = self._running[trial_id]
        running.deaths.append(cause)
        worker, running.worker = running.worker, ""
        several, tries = len(running.batch.trials) > 1, len(running.deaths)
        again = "run again" if several else "runs again"
        over = f"{'have' if several else 'has'} failed after {tries} tries"
        first = next(iter(cause.strip().splitlines()), "no cause given").rstrip(". :")
        text = f"the worker process {worker or 'of a pack'} ended ({first}); {running.named} "
        with self._keeping_errors():
            running.wave.on_event(WorkerGone(worker, text + (again if tries <= self._retries else over)))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A batch has ended; trials that left no record FAILED.

        Unless its workers have not died as often as they may: Tune gives up at once where a process dies that is just
        being handed its next batch. It then starts again.
        """
        running = self._running.pop(trial_id)
        if error and not running.records and 0 < len(running.deaths) <= self._retries:
            self._waiting.appendleft(running)
            return
        deaths = running.deaths or ["it left no record"]
        reason = f"the worker process ended (tries: {len(deaths)}): {deaths[-1]}"
        with self._keeping_errors():
            missing = [trial for trial in running.batch.trials if trial.number not in running.records]
            self._accept(running, [failed(trial, reason, running.batch.stage) for trial in missing])
            running.wave.on_event(BatchEnded(running.batch))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what Tune would restore from is never read."""

    def _accept(self, running: _Running, records: Sequence[TrialRecord]) -> None:
        """Hand the records on; a trial that has one, and did not fail, keeps that.

        A worker may die between its last word and its end: Tune then has the batch run once more.
        """
        ended = {one.number for one in running.records.values() if one.outcome is not Outcome.FAILED}
        fresh = tuple(record for record in records if record.number not in ended)
        running.records |= {record.number: record for record in fresh}
        if fresh:
            self._tell(running, TrialsReturned(fresh))

    def _tell(self, running: _Running, event: ExecutorEvent) -> None:
        """Tell the batch's wave, and end the run where that raises."""
        with self._keeping_errors():
            running.wave.on_event(event)
        self._raise()

    def _raise(self) -> None:
        if self.error:
            raise self.error

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    """First come, first served; keeps worker processes over the end of a wave, and hears of deaths."""

    def __init__(self, searcher: BatchSearcher, workers: int) -> None:
        super().__init__()
        self._searcher = searcher
        self._workers = workers
        self._kept = False

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        # With reuse_actors Tune keeps no more idle processes than trials already wait for one.  Between two
        # waves none does, and all but one would be started anew: seconds each.  There is no public
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

    def __init__(self, threads: int, on_event: Callable[[ExecutorEvent], None]) -> None:
        self._threads, self._on_event = threads, on_event
        self._there = self._living()
        self._looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as in `BatchSearcher`

    def look(self) -> None:
        """Compare the nodes with those of the last look, every few seconds."""
        if time.monotonic() - self._looked < NODES_SECONDS:
            return
        now = self._living()
        for node in self._there.keys() - now.keys():
            others = ", ".join(sorted(name for name in now.values() if name)) or "the next node that joins"
            text = f"the node {self._there[node] or node[:8]} was lost; what ran there runs again on {others}"
            self._on_event(WorkerGone(f"@{node[:8]}", text))
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
