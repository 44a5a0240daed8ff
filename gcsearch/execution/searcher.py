"""The seat between Ray Tune and the proposer: packs handed to workers, and what comes back from them.

One Tune trial is one *pack*: trials of ours that are trained at once in one process.  Nothing is restored from files of
Ray's; what is proposed is for `gcsearch.search.proposer` to say.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ray.tune.search import Searcher

from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import SearchSettings
from gcsearch.config.provenance import process_name
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import EpochReport, OnReports, Outcome, Proposal, TrialRecord
from gcsearch.search.proposer import Proposer

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
    """Hands the packs of a proposer to Tune, and what workers send to the proposer and to whoever listens.

    Args:
        space, settings, before: see `Proposer`.
        known: records of earlier sessions in the order in which they were written, see `Proposer.replay`.
        on_proposal: called with each trial as its pack is handed to a worker, and its label ("" for a sampled one).
        on_reports: called with the epoch reports of running trials.
        on_record: called with each record as its pack ends.
        stopping: asked before a pack begins; once it says True none does, and what runs comes to its end.
        on_pack: called with the trials of a pack once all of them have their records.
        retries: how often a pack begins again whose worker process died.
        on_lost: called with the worker process that died ("" where it was not heard of yet) and a sentence about it.

    Raises:
        RunError: a known record is of another configuration than the one proposed under its number.
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
        self.proposer = Proposer(space, settings, before=before)
        self.proposer.replay(known)
        self.error: Exception | None = None
        self._stage = settings.stage
        self._on_proposal, self._on_reports, self._on_record, self._on_pack = (
            on_proposal, on_reports, on_record, on_pack,
        )  # fmt: skip
        self._on_lost = on_lost
        self._on_suggest = stopping
        self._retries = retries
        self._ended: dict[int, TrialRecord] = {}
        self._packs: deque[list[Proposal]] = deque()
        self._running: dict[str, list[Proposal]] = {}
        self._deaths: dict[int, list[str]] = {}  # causes, by the first number of a pack
        self._workers: dict[str, str] = {}  # names of worker processes, by the pack that they have

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its whole configuration to a file that is never read. What the callbacks hold on to
        # (a database connection, locks) cannot be pickled.
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_on_")}

    @property
    def records(self) -> list[TrialRecord]:
        """The records so far, those of earlier sessions included, by number."""
        return self.proposer.records

    def advance(self) -> bool:
        """Propose as far as knowledge reaches. True when packs wait or run, False when all is done."""
        if not self._packs and not self._running:
            self._packs.extend(self.proposer.ask())
        return bool(self._packs or self._running)

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
                    self._on_proposal(proposal, self.proposer.label(proposal.number))
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
        first, lost = pack[0].number, all(one.number not in self._ended for one in pack)
        if error and lost and 0 < len(self._deaths.get(first, ())) <= self._retries:
            self._packs.appendleft(pack)
            return
        deaths = self._deaths.pop(first, ["it left no record"])
        with self._keeping_errors():
            for proposal in pack:
                if proposal.number not in self._ended:
                    reason = f"the worker process ended (tries: {len(deaths)}): {deaths[-1]}"
                    self._accept(failed(proposal, reason, self._stage))
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

    def _accept(self, record: TrialRecord) -> None:
        """Keep the record and hand it on; a trial that has one, and did not fail, keeps that.

        A worker may die between its last word and its end: Tune then has the pack run once more.
        """
        ended = self._ended.get(record.number)
        if ended and ended.outcome is not Outcome.FAILED:
            return
        self._ended[record.number] = self.proposer.tell(record)
        self._on_record(self._ended[record.number])


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
