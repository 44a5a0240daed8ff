"""The seat between Ray Tune and Optuna: settings asked for, packed, and told as what they came to.

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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import optuna
from ray.tune.search import Searcher

from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import SearchSettings
from gcsearch.config.provenance import process_name
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import EpochReport, OnReports, Outcome, Proposal, Rung, TrialRecord
from gcsearch.errors import RunError
from gcsearch.methods import registry
from gcsearch.search import pruning, warm_start
from gcsearch.search.samplers import grid, make, total

logger = logging.getLogger(__name__)


def nothing(*_: Any) -> None:
    """The callback of somebody who does not listen."""


OnLost = Callable[[str, str], None]
"""Told of a worker process (`host:pid@node`), or of all of a node (`@node`), that is gone, and a sentence about it."""


def say_lost(who: str, text: str) -> None:
    """For a search that nobody listens to."""
    logger.warning(text)


def first_line(text: str) -> str:
    """The first line of what may be a page, without a full stop."""
    return next(iter(text.strip().splitlines()), "no cause given").rstrip(". :")


def never() -> bool:
    """Answers whether to stop."""
    return False


class PackSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """The seat between Tune and an in-memory Optuna study; see the module's docstring.

    Outcomes are told as they are: COMPLETE with the mean of the objective over seeds, PRUNED with the last
    value at its epoch, and DIVERGED, FAILED or an objective that is not finite as FAIL.

    Args:
        space: what is searched. Its points come first; without anything to search there is one trial.
        settings: exactly `samplers.total` settings are proposed, the last generation and pack being smaller.
        known: records of earlier sessions in the order in which they were written. A setting that has one
            is not run again, unless it FAILED.
        before: records of earlier sweeps, known before the first proposal; those without a place in the space are left
            out. They count as what they were, and have no number here.
        on_proposal: called with each setting as its pack is handed to a worker, and its label ("" for a sampled one).
        on_reports: called with the epoch reports of running settings.
        on_record: called with each record as its pack ends.
        stopping: asked before a pack begins; once it says True none does, and what runs comes to its end.
        on_pack: called with the settings of a pack once all of them have their records.
        retries: how often a pack begins again whose worker process died.
        on_lost: called with the worker process that died ("" where it was not heard of yet) and a sentence about it.

    Raises:
        RunError: a known record is of another setting than the one proposed under its number.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: SearchSettings,
        *,
        known: Iterable[TrialRecord] = (),
        before: Iterable[TrialRecord] = (),
        on_proposal: Callable[[Proposal, str], None] = nothing,
        on_reports: OnReports = nothing,
        on_record: Callable[[TrialRecord], None] = nothing,
        stopping: Callable[[], bool] = never,
        on_pack: Callable[[Sequence[Proposal]], None] = nothing,
        retries: int = 0,
        on_lost: OnLost = say_lost,
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.settings = settings
        self.total = total(settings, space)
        self.study = optuna.create_study(directions=["maximize"] * len(settings.objectives), sampler=make(settings))
        for record in before:
            self._add_earlier(record)
        for point in space.points[: self.total]:
            self.study.enqueue_trial(space.internal(point.values))
        if settings.sampler == "grid":
            for place in grid(settings, space)[: self.total - len(space.points)]:
                self.study.enqueue_trial(place)
        self.error: Exception | None = None
        self._history = tuple(known)
        self._on_proposal, self._on_reports, self._on_record, self._on_pack = (
            on_proposal, on_reports, on_record, on_pack,
        )  # fmt: skip
        self._on_lost = on_lost
        self._on_suggest = stopping
        self._retries = retries
        self._asked: list[_Asked] = []
        self._told = 0
        self._standing: list[TrialRecord] = []
        self._answers: dict[int, TrialRecord] = {}
        self._records: dict[int, TrialRecord] = {}
        self._packs: deque[list[Proposal]] = deque()
        self._running: dict[str, list[Proposal]] = {}
        self._deaths: dict[int, list[str]] = {}  # causes, by the first number of a pack
        self._workers: dict[str, str] = {}  # names of worker processes, by the pack that they have
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
        """The next pack for a worker, None while a generation runs, FINISHED at the end and once it is to stop."""
        if self.error:
            raise self.error
        if self._on_suggest() or not self.advance():
            return str(Searcher.FINISHED)
        if not self._packs:
            return None
        pack = self._running[trial_id] = self._packs.popleft()
        if pack[0].number not in self._deaths:  # a pack that begins again has been announced
            with self._keeping_errors():
                for proposal in pack:
                    self._on_proposal(proposal, self._asked[proposal.number].label)
        if self.error:
            raise self.error
        return {"pack": json.dumps([proposal.to_dict() for proposal in pack])}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on what a worker sent: reports of epochs, or the records of its pack."""
        with self._keeping_errors():
            self._workers[trial_id] = result.get("worker") or self._workers.get(trial_id, "")
            if result.get("reports"):
                self._on_reports([EpochReport.from_dict(report) for report in result["reports"]])
            for record in result.get("records", ()):
                self._accept(TrialRecord.from_dict(record))
        if self.error:
            raise self.error

    def on_worker_death(self, trial_id: str, cause: str) -> None:
        """Note why the worker of a pack died, for the reason of its records should no retry help, and say so."""
        pack = self._running[trial_id]
        deaths = self._deaths.setdefault(pack[0].number, [])
        deaths.append(cause)
        numbers, plural = ", ".join(f"t{proposal.number:04d}" for proposal in pack), "s" if len(pack) > 1 else ""
        worker = self._workers.pop(trial_id, "")
        goes_on = "runs again" if len(deaths) <= self._retries else f"has failed after {len(deaths)} tries"
        goes_on = goes_on if not plural else goes_on.replace("runs", "run").replace("has", "have")
        with self._keeping_errors():
            text = f"the worker process {worker or 'of a pack'} ended ({first_line(cause)}); "
            self._on_lost(worker, f"{text}trial{plural} {numbers} {goes_on}")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack has ended; settings that left no record FAILED.

        Unless the worker has not died as often as it may: Tune gives up at once where a process dies that is just
        being handed its next pack. It then begins again.
        """
        pack = self._running.pop(trial_id)
        first, lost = pack[0].number, all(one.number not in self._records for one in pack)
        if error and lost and 0 < len(self._deaths.get(first, ())) <= self._retries:
            self._packs.appendleft(pack)
            return
        deaths = self._deaths.pop(first, ["it left no record"])
        with self._keeping_errors():
            for proposal in pack:
                if proposal.number not in self._records:
                    reason = f"the worker process ended (tries: {len(deaths)}): {deaths[-1]}"
                    self._accept(failed(proposal, reason, self.settings.stage))
            self._on_pack(pack)

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
        numbers = range(first, min(first + self.settings.size * self.settings.generation, self.total))
        self._asked += [self._ask(number) for number in numbers]
        missing = self._unanswered(numbers)
        for start in numbers[:: self.settings.size]:
            pack = range(start, start + self.settings.size)
            self._add_packs([proposal for proposal in missing if proposal.number in pack])

    def _ask(self, number: int) -> _Asked:
        # Every box is asked for in every trial: TPE's joint model keeps only dimensions that all trials have.
        trial = self.study.ask(fixed_distributions=self.space.distributions())
        trial.set_user_attr("number", number)
        points = self.space.points
        values = points[number].values if number < len(points) else self.space.natural(trial.params)
        config = self.space.config(values)
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
        for start in range(0, len(proposals), self.settings.size):
            pack = self._with_rungs(proposals[start : start + self.settings.size])
            for proposal in pack:
                self._records.pop(proposal.number, None)
            self._packs.append(pack)

    def _with_rungs(self, pack: Sequence[Proposal]) -> list[Proposal]:
        """The settings of a pack with their rungs, and what others had there.

        Others of the same pack have records where an earlier session was interrupted between two of them.
        """
        first = pack[0].number // self.settings.size * self.settings.size
        numbers = set(range(first, first + self.settings.size)) - {proposal.number for proposal in pack}
        rivals = [self._records[number] for number in sorted(numbers & self._records.keys())]
        if self.settings.pruner in pruning.ACROSS:
            rivals = [*self._standing, *rivals]
        rungs = pruning.rungs(self.settings, first // self.settings.size)
        if rivals:
            rungs = tuple(_with_rivals(rung, rivals) for rung in rungs)
        return [proposal.model_copy(update={"rungs": rungs}) for proposal in pack]

    def _accept(self, record: TrialRecord) -> None:
        """Keep the record and hand it on; a setting that has one, and did not fail, keeps that.

        A worker may die between its last word and its end: Tune then has the pack run once more.
        """
        known = self._records.get(record.number)
        if known and known.outcome is not Outcome.FAILED:
            return
        self._records[record.number] = self._labelled(record)
        self._on_record(self._records[record.number])

    def _labelled(self, record: TrialRecord) -> TrialRecord:
        label = self._asked[record.number].label
        return record if record.label == label else record.model_copy(update={"label": label})

    def _add_earlier(self, record: TrialRecord) -> None:
        """Let the study know a record of an earlier sweep, as far as its setting has a place in the space."""
        place, values = warm_start.place(self.space, record), self._values(record)
        if place is None or not all(map(math.isfinite, values)):
            return
        boxes = self.space.distributions()
        if record.outcome is Outcome.COMPLETE:
            self.study.add_trial(optuna.trial.create_trial(params=place, distributions=boxes, values=values))
        elif record.outcome is Outcome.PRUNED and len(values) == 1:
            percent = pruning.percent_done(self.settings, record.epochs, _epochs(record))
            pruned, curve = optuna.trial.TrialState.PRUNED, {percent: values[0]}
            self.study.add_trial(
                optuna.trial.create_trial(state=pruned, params=place, distributions=boxes, intermediate_values=curve)
            )

    def _values(self, record: TrialRecord) -> list[float]:
        return [record.mean(objective) for objective in self.settings.objectives]

    def _tell_generation(self) -> None:
        """Tell the study what has become of every setting asked for, in order of number."""
        for asked in self._asked[self._told :]:
            number = asked.proposal.number
            record = self._answers.get(number) or self._records[number]
            self._tell(asked.trial, record)
            self._standing.append(record)
        self._told = len(self._asked)

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        values = self._values(record)
        finite = all(map(math.isfinite, values))
        if record.outcome is Outcome.COMPLETE and finite:
            self.study.tell(trial, values)
        elif record.outcome is Outcome.PRUNED and finite:
            # Told as complete, a value of few epochs would pose as a final one.  TPE ranks those that left by how
            # far they came: of their own schedules, or a long one that left early would outrank a short one that
            # left late.
            (value,) = values  # of several objectives none leaves early
            trial.report(value, step=pruning.percent_done(self.settings, record.epochs, _epochs(record)))
            trial.set_user_attr("epochs", record.epochs)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            told = zip(self.settings.objectives, values, strict=True)
            reason = record.reason or ", ".join(f"{objective} is {value}" for objective, value in told)
            trial.set_user_attr("reason", f"{record.outcome}: {reason}")
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)


@dataclass(frozen=True)
class _Asked:
    """A setting that the study was asked for."""

    trial: optuna.Trial
    proposal: Proposal
    label: str


def _with_rivals(rung: Rung, records: Iterable[TrialRecord]) -> Rung:
    values = [pruning.value_at(rung, record, _epochs(record)) for record in records]
    return rung.model_copy(update={"rivals": tuple(value for value in values if value is not None)})


def _epochs(record: TrialRecord) -> int:
    """How many epochs the setting of a record has in all; at least the one that its record is of."""
    return getattr(registry.build(record.config), "epochs", 0) or max(record.epochs, 1)


def failed(proposal: Proposal, reason: str, stage: Stage = "search") -> TrialRecord:
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
