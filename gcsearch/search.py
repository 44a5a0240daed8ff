"""Ray Tune and Optuna: who proposes settings, and who runs them where. The only module that knows either.

One Tune trial is one *pack*: settings trained at once in one process.  `PackSearcher` sits between Tune and
an Optuna study in memory.  It proposes in *generations*: all packs of a generation are asked from the same
knowledge, and only when every one of them has ended are the results told, in order of trial number.  So
what is proposed depends on the seed and on the results alone, never on timing or the number of workers.

Nothing is restored from Ray's or Optuna's own files.  A sweep goes on by replay: the same questions are
asked again, and those that the journal answers are not run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import optuna
import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from gcsearch.errors import InputError, RunError
from gcsearch.provenance import process_name
from gcsearch.schema import (
    EpochReport,
    OnReports,
    Outcome,
    Proposal,
    Resources,
    SearchSettings,
    Stage,
    TrialConfig,
    TrialRecord,
)
from gcsearch.spaces import SearchSpace

logger = logging.getLogger(__name__)

Evaluate = Callable[[list[Proposal], OnReports], list[TrialRecord]]
"""Trains the settings of a pack and gives one record for each, calling the function it is handed with the
numbers of finished epochs as often as the driver should hear of them.  It is pickled once per worker
process and lives as long as that: what it loads for one pack may be kept for the next."""

RETRIES = 2
"""How often a pack is run again after its worker process died."""

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
    "ray.tune.tune": logging.CRITICAL,  # "trials did not complete": their records say so, and why
}
"""Loggers that say in normal operation what gcsearch says itself or what is no news."""


@dataclass(frozen=True)
class Placement:
    """How many packs run at a time, and what each worker process may use."""

    workers: int
    threads: int
    gpus_per_worker: float = 0.0


def place(resources: Resources, *, cores: int, gpus: int, generation: int) -> Placement:
    """Fill in what `resources` leaves open for a machine with `cores` and `gpus`.

    Workers: one per pack of a generation (more would only wait), as far as the cores go. Threads: the cores
    shared evenly. GPUs: workers spread evenly, so that each has one GPU or a share 1/k of one.

    Raises InputError for a share of a GPU that does not divide 1, or GPUs where there are none.
    """
    wanted = resources.threads if isinstance(resources.threads, int) else 1
    fitting = min(max(cores // wanted, 1), generation)
    workers = resources.workers if isinstance(resources.workers, int) else fitting
    threads = resources.threads if isinstance(resources.threads, int) else max(cores // workers, 1)
    if resources.gpus_per_worker == "auto":
        share = _gpu_share(math.ceil(workers / gpus)) if gpus else 0.0
    else:
        share = _checked_share(resources.gpus_per_worker, gpus)
    return Placement(workers, threads, share)


def _gpu_share(sharers: int) -> float:
    # Ray counts in steps of 0.0001: rounded down, the shares of one GPU never add up to more than 1.
    return math.floor(1e4 / sharers) / 1e4


def _checked_share(share: float, gpus: int) -> float:
    key = "resources.gpus_per_worker"
    if share > gpus:
        remedy = "Lower it, or write 0 to run on the CPU."
        raise InputError(f"this machine has {gpus} GPUs", key=key, received=share, remedy=remedy)
    if 0 < share < 1:
        if abs(1 / share - round(1 / share)) > 0.01:
            remedy = "Use 0.5, 0.25, 0.2 or the like."
            raise InputError("a share of a GPU must divide 1", key=key, received=share, remedy=remedy)
        return _gpu_share(round(1 / share))
    if share != int(share):
        raise InputError("more than one GPU must be a whole number", key=key, received=share)
    return share


def _tpe(settings: SearchSettings) -> optuna.samplers.BaseSampler:
    # multivariate: rho, beta1 and beta2 are modelled together.  constant_liar: a setting of the same
    # generation that still runs counts as a bad one, so that a generation does not ask one thing many times.
    return optuna.samplers.TPESampler(
        seed=settings.seed,
        n_startup_trials=settings.startup,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
    )


def _random(settings: SearchSettings) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=settings.seed)


SAMPLERS: dict[str, Callable[[SearchSettings], optuna.samplers.BaseSampler]] = {"tpe": _tpe, "random": _random}


def _nothing(*_: Any) -> None:
    """The callback of somebody who does not listen."""


class PackSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """The seat between Tune and an in-memory Optuna study; see the module's docstring.

    Outcomes are told as they are: COMPLETE with the mean of the objective over seeds, PRUNED with the last
    value at its epoch, and DIVERGED, FAILED or an objective that is not finite as FAIL.

    Args:
        space: what is searched. Its points come first; without anything to search there is one trial.
        settings: exactly `settings.trials` settings are proposed, the last generation and pack being smaller.
        known: records of earlier sessions in the order in which they were written. A setting that has one
            is not run again, unless it FAILED.
        on_proposal: called with each setting that is about to run and its label ("" for a sampled one).
        on_reports: called with the epoch reports of running settings.
        on_record: called with each record as its pack ends.

    Raises:
        RunError: a known record is of another setting than the one proposed under its number.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: SearchSettings,
        *,
        known: Iterable[TrialRecord] = (),
        on_proposal: Callable[[Proposal, str], None] = _nothing,
        on_reports: OnReports = _nothing,
        on_record: Callable[[TrialRecord], None] = _nothing,
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.settings = settings
        self.total = settings.trials if space.searched else 1
        self.study = optuna.create_study(direction="maximize", sampler=SAMPLERS[settings.sampler](settings))
        for point in space.points[: self.total]:
            self.study.enqueue_trial(space.internal(point.values))
        self.error: Exception | None = None
        self._history = tuple(known)
        self._on_proposal, self._on_reports, self._on_record = on_proposal, on_reports, on_record
        self._asked: list[_Asked] = []
        self._told = 0
        self._answers: dict[int, TrialRecord] = {}
        self._records: dict[int, TrialRecord] = {}
        self._packs: deque[list[Proposal]] = deque()
        self._running: dict[str, list[Proposal]] = {}
        self._deaths: dict[str, list[str]] = {}
        self._again: list[Proposal] = []

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its whole configuration to a file that is never read. What the callbacks hold on to
        # (a database connection, locks) cannot be pickled.
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_on_")}

    @property
    def records(self) -> list[TrialRecord]:
        """The records so far, those of earlier sessions included, by number."""
        return [self._records[number] for number in sorted(self._records)]

    def advance(self) -> bool:
        """Propose as far as knowledge reaches. True when packs wait or run, False when all is done."""
        while not self._packs and not self._running:
            self._tell_generation()
            if len(self._asked) == self.total and not self._again:
                return False
            if len(self._asked) < self.total:
                self._ask_generation()
            if self._packs or len(self._asked) == self.total:
                self._add_packs(self._again)
                self._again = []
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack for a worker, None while the generation still runs, FINISHED at the end."""
        if self.error:
            raise self.error
        if not self.advance():
            return str(Searcher.FINISHED)
        if not self._packs:
            return None
        self._running[trial_id] = self._packs.popleft()
        return {"pack": json.dumps([proposal.to_dict() for proposal in self._running[trial_id]])}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on what a worker sent: reports of epochs, or the records of its pack."""
        with self._keeping_errors():
            if result.get("reports"):
                self._on_reports([EpochReport.from_dict(report) for report in result["reports"]])
            for record in result.get("records", ()):
                self._accept(TrialRecord.from_dict(record))
        if self.error:
            raise self.error

    def on_worker_death(self, trial_id: str, cause: str) -> None:
        """Note why the worker of a pack died, for the reason of its records should no retry help."""
        self._deaths.setdefault(trial_id, []).append(cause)
        numbers = ", ".join(str(proposal.number) for proposal in self._running[trial_id])
        logger.warning("the worker process of the settings %s ended: %s", numbers, cause)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack has ended; settings that left no record FAILED."""
        pack = self._running.pop(trial_id)
        deaths = self._deaths.pop(trial_id, ["it left no record"])
        with self._keeping_errors():
            for proposal in pack:
                if proposal.number not in self._records:
                    reason = f"the worker process ended (tries: {len(deaths)}): {deaths[-1]}"
                    self._accept(_failed(proposal, reason))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what Tune would restore from is never read."""

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        # Tune turns an exception in its callbacks into text, or swallows it: it is kept to be raised later.
        try:
            yield
        except Exception as error:
            self.error = error

    def _ask_generation(self) -> None:
        """Ask for all settings of the next generation, and queue those that no record answers.

        Only what is missing runs: a pack that an earlier session left half recorded, or that ended where
        there were fewer trials to do, is not repeated as a whole.
        """
        first = len(self._asked)
        numbers = range(first, min(first + self.settings.pack * self.settings.generation, self.total))
        self._asked += [self._ask(number) for number in numbers]
        missing = self._unanswered(numbers)
        for start in numbers[:: self.settings.pack]:
            pack = range(start, start + self.settings.pack)
            self._add_packs([proposal for proposal in missing if proposal.number in pack])

    def _ask(self, number: int) -> _Asked:
        # Every box is asked for in every trial: TPE's joint model keeps only dimensions that all trials have.
        trial = self.study.ask(fixed_distributions=self.space.distributions())
        trial.set_user_attr("number", number)
        points = self.space.points
        values = points[number].values if number < len(points) else self.space.natural(trial.params)
        config = TrialConfig(method=self.space.method, hyperparameters=values)
        label = points[number].label if number < len(points) else ""
        return _Asked(trial, Proposal(number=number, config=config), label)

    def _unanswered(self, numbers: range) -> list[Proposal]:
        """The settings of a generation that must run; what answers the others is noted.

        Once later settings have records, this generation's answers are history: also a FAILED one, for the
        later ones were proposed knowing that. It is run again, but the study is not told the new result, or
        it would now propose other settings than those that have been run since.
        """
        latest = {record.number: record for record in self._history if record.number in numbers}
        history = self._history_before(numbers.stop)
        then = {record.number: record for record in history if record.number in numbers}
        built_upon = len(history) < len(self._history)
        missing = []
        for number in numbers:
            proposal = self._asked[number].proposal
            self._check_same(proposal, latest.get(number))
            answer = then.get(number)
            if built_upon and not answer:
                self._refuse(f"settings after number {number} have records, but it has none")
            if not answer or (answer.outcome is Outcome.FAILED and not built_upon):
                missing.append(proposal)
                continue
            self._answers[number] = answer
            self._records[number] = self._labelled(latest[number])
            if latest[number].outcome is Outcome.FAILED:
                self._again.append(proposal)
        return missing

    def _history_before(self, number: int) -> Sequence[TrialRecord]:
        """The records written before any setting from `number` on had one."""
        for position, record in enumerate(self._history):
            if record.number >= number:
                return self._history[:position]
        return self._history

    def _check_same(self, proposal: Proposal, record: TrialRecord | None) -> None:
        if record and record.config.digest != proposal.config.digest:
            was, now = record.config.to_dict(), proposal.config.to_dict()
            self._refuse(f"number {proposal.number} was {was}, but {now} is proposed now")

    def _refuse(self, what: str) -> NoReturn:
        raise RunError(
            f"The records of this sweep do not follow from its settings: {what}.\n"
            "They were made with another search space, seed, sampler, pack, generation or version of Optuna. "
            "Go back to those, or begin a sweep under another name."
        )

    def _add_packs(self, proposals: Sequence[Proposal]) -> None:
        for start in range(0, len(proposals), self.settings.pack):
            pack = list(proposals[start : start + self.settings.pack])
            for proposal in pack:
                self._records.pop(proposal.number, None)
                self._on_proposal(proposal, self._asked[proposal.number].label)
            self._packs.append(pack)

    def _accept(self, record: TrialRecord) -> None:
        self._records[record.number] = self._labelled(record)
        self._on_record(self._records[record.number])

    def _labelled(self, record: TrialRecord) -> TrialRecord:
        label = self._asked[record.number].label
        return record if record.label == label else record.model_copy(update={"label": label})

    def _tell_generation(self) -> None:
        """Tell the study what has become of every setting asked for, in order of number."""
        for asked in self._asked[self._told :]:
            number = asked.proposal.number
            self._tell(asked.trial, self._answers.get(number) or self._records[number])
        self._told = len(self._asked)

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        value = record.mean(self.settings.objective)
        if record.outcome is Outcome.COMPLETE and math.isfinite(value):
            self.study.tell(trial, value)
        elif record.outcome is Outcome.PRUNED and math.isfinite(value):
            # Told as complete, a value of few epochs would pose as a final one.
            trial.report(value, step=record.epochs)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            reason = record.reason or f"{self.settings.objective} is {value}"
            trial.set_user_attr("reason", f"{record.outcome}: {reason}")
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)


@dataclass(frozen=True)
class _Asked:
    """A setting that the study was asked for."""

    trial: optuna.Trial
    proposal: Proposal
    label: str


def _failed(proposal: Proposal, reason: str, stage: Stage = "search") -> TrialRecord:
    """The record of a setting that came to nothing; its seeds are not known here."""
    return TrialRecord(
        number=proposal.number,
        config=proposal.config,
        stage=stage,
        outcome=Outcome.FAILED,
        reason=reason,
        seeds=(),
        epochs=0,
        worker=process_name(),
    )


def _run_pack(evaluate: Evaluate, threads: int, pack: str) -> None:
    """What a worker process does with a pack. Its last report carries a record for every setting."""
    _limit_threads(threads)
    proposals = [Proposal.from_dict(proposal) for proposal in json.loads(pack)]

    def report(reports: list[EpochReport]) -> None:
        tune.report({"reports": [one.to_dict() for one in reports]})

    try:
        records = {record.number: record for record in evaluate(proposals, report)}
        missing = "evaluate gave no record for it"
    except Exception as error:
        records = {}
        missing = f"{type(error).__name__}: {error}\n{_last_frames(error)}"
    ended = [records.get(p.number) or _failed(p, missing) for p in proposals]
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
        # Tune appends to this file; what it offers as `get_error` looks where it has not been copied to yet.
        *_, last = Path(trial.error_file).read_text(encoding="utf-8").split("Failure # ")
        _, *lines = last.splitlines()
        told = [line for line in lines if line and not line.startswith("\t")]  # tabs: names of Ray's own
        self._searcher.on_worker_death(trial.trial_id, "\n".join(told))


class _Progress(TrialProgressCallback):  # type: ignore[misc]
    """Stands where Tune would put a callback that prints.

    Takes out of each result what the searcher has read, so that Tune does not keep it in memory and on disk.
    """

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
    on_proposal: Callable[[Proposal, str], None] = _nothing,
    on_reports: OnReports = _nothing,
    on_record: Callable[[TrialRecord], None] = _nothing,
) -> list[TrialRecord]:
    """Search `space`: one record for each of `settings.trials` settings, by number.

    `evaluate` runs in worker processes. An exception in it becomes FAILED records, as does the death of its
    process once RETRIES did not help; the others go on. The callbacks run in this process, see
    `PackSearcher`; an exception in one ends the search and comes out of here.

    It runs in the `session` that is open, or in one of its own.

    Args:
        folder: Tune's working files go to `folder/ray`; nothing is ever read back from there.
        known: the records of earlier sessions, in order, see `PackSearcher`.

    Raises:
        RunError: the known records belong to other settings, or see `session`.
    """
    searcher = PackSearcher(
        space, settings, known=known, on_proposal=on_proposal, on_reports=on_reports, on_record=on_record
    )
    if searcher.advance():
        with session(placement):
            _tune(searcher, placement, evaluate, folder)
    return searcher.records


def run_settings(
    proposals: Sequence[Proposal],
    placement: Placement,
    evaluate: Evaluate,
    *,
    stage: Stage,
    on_record: Callable[[TrialRecord], None] = _nothing,
) -> list[TrialRecord]:
    """Run given settings, each by itself, and return their records in the order of `proposals`.

    Where it ran, and beside what, cannot change a digit of a setting that runs by itself; a pack can, in the
    last one. A setting whose evaluation raises, or whose process dies more than RETRIES times, is FAILED.
    It runs in the `session` that is open, or in one of its own.
    """
    if not proposals:
        return []
    with session(placement):
        alone = ray.remote(num_cpus=placement.threads, num_gpus=placement.gpus_per_worker, max_retries=RETRIES)(
            _run_alone
        )
        shared = ray.put(evaluate)
        waiting = {alone.remote(shared, placement.threads, p.to_dict()): p for p in proposals}
        records = {}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            proposal = waiting.pop(done)
            try:
                record = TrialRecord.from_dict(ray.get(done))
            except ray.exceptions.RayError as error:
                record = _failed(proposal, str(error).strip(), stage)
            records[proposal.number] = record
            on_record(record)
    return [records[proposal.number] for proposal in proposals]


def _run_alone(evaluate: Evaluate, threads: int, setting: dict[str, Any]) -> dict[str, Any]:
    """What a worker process does with one setting."""
    _limit_threads(threads)
    (record,) = evaluate([Proposal.from_dict(setting)], _nothing)
    return record.to_dict()


def _limit_threads(threads: int) -> None:
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _tune(searcher: PackSearcher, placement: Placement, evaluate: Evaluate, folder: Path) -> None:
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
            callbacks=[_Progress()],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if searcher.error:  # Tune wraps what a callback raised in text
            raise searcher.error from None
        raise


@contextlib.contextmanager
def session(placement: Placement) -> Iterator[None]:
    """A quiet Ray to run searches in; opening one around several of them saves starting it anew.

    A Ray that runs already (`ray.init` was called, or RAY_ADDRESS names a cluster) is used and left running;
    else a local one is started for `placement` and ended with all its processes, also on SIGINT and SIGTERM.
    These two take effect as ever (KeyboardInterrupt, the caller's handler) when all has been put away.

    Raises:
        RunError: Ray has too few resources for a worker.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(QUIET))
        stack.enter_context(_log_levels(LOG_LEVELS))
        stack.enter_context(_ray_messages_logged())
        stack.enter_context(_interruptible())
        if not ray.is_initialized():
            stack.enter_context(_started_ray(placement))
        _check_capacity(placement)
        yield


@contextlib.contextmanager
def _started_ray(placement: Placement) -> Iterator[None]:
    try:
        with _sigterm_kept():
            if os.environ.get("RAY_ADDRESS"):
                ray.init(log_to_driver=False, logging_level=logging.WARNING)
            else:
                _start_local_ray(placement)
        yield
    finally:
        _ignore_interrupts()  # a second Ctrl-C must not leave processes behind; this takes a second or two
        ray.shutdown()


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
        )


def _check_capacity(placement: Placement) -> None:
    # Tune would wait for ever.
    there = ray.cluster_resources()
    for name, needed in (("CPU", placement.threads), ("GPU", placement.gpus_per_worker)):
        if there.get(name, 0) < needed:
            raise RunError(
                f"A worker needs {needed:g} {name}, but Ray has {there.get(name, 0):g} in all.\n"
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
