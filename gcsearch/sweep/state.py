"""What the lines of a journal together make of a sweep, read once and followed as the journal grows; and its status."""

from __future__ import annotations

import gc
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from gcsearch.config.addresses import shown
from gcsearch.config.metrics import is_oracle
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.results.ranking import rank
from gcsearch.results.tables.wording import duration as duration
from gcsearch.stats import number
from gcsearch.sweep.journal import (
    BudgetSpent,
    ConfirmationEnded,
    DataMeasured,
    EarlierRecords,
    Event,
    FileWritten,
    Journal,
    Line,
    PackSized,
    RunKey,
    RunLogged,
    SeedsAdded,
    SessionClosed,
    SessionEnd,
    SessionOpened,
    SweepExtended,
    TrialConfirmed,
    TrialEnded,
    TrialProposed,
    TrialRechecked,
    WorkerLost,
    Workers,
)
from gcsearch.sweep.lease import LeaseState, living, look, request_path
from gcsearch.sweep.store import Store

# --- Replay --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SessionProgress:
    """What the last session has done so far. `workers`: the processes that sent it records and are not lost.

    `room`: what it has of workers; None in journals of early versions.
    """

    trials: int | None = None
    room: Workers | None = None
    records: int = 0
    first_proposal: datetime | None = None
    last_record: datetime | None = None
    workers: frozenset[str] = frozenset()

    def after(self, event: Event) -> SessionProgress:
        """The progress once `event` is there, too."""
        match event:
            case SessionOpened():
                return SessionProgress(trials=event.trials, room=event.workers)
            case TrialProposed() if self.first_proposal is None:
                return replace(self, first_proposal=event.time)
            case TrialEnded():
                workers = self.workers if event.record.worker in self.workers else self.workers | {event.record.worker}
                return replace(self, records=self.records + 1, last_record=event.time, workers=workers)
            case WorkerLost(who=who):
                gone = {one for one in self.workers if one == who or (who.startswith("@") and one.endswith(who))}
                return replace(self, workers=self.workers - gone)
        return self

    def per_minute(self, now: datetime | None) -> float | None:
        """Trials a minute from the first proposal to `now`, or to the last record."""
        if self.first_proposal is None or self.last_record is None:
            return None
        seconds = ((now or self.last_record) - self.first_proposal).total_seconds()
        return 60 * self.records / seconds if seconds > 0 else None


@dataclass(frozen=True)
class SweepState:
    """A sweep as its journal tells it. Nothing changes it: more lines make another one, see `replay`.

    Records are without their curves; `places` says where in the journal the whole ones stand.
    """

    lines: int = 0
    size: int = 0
    """How many bytes these lines have together."""
    id: str = ""
    """Of the sweep; empty before its first session."""
    began: datetime | None = None
    trials: int | None = None
    """How many trials the sweep was extended to; None where it was not."""
    kept_by_extension: int = 0
    """How many trials there were when it was extended last."""
    records: Mapping[int, TrialRecord] = field(default_factory=dict)
    """Of the search, the last of each number, in the order of their first ones."""
    places: Mapping[int, int] = field(default_factory=dict)
    """The first byte of the line of each of `records`."""
    running: frozenset[int] = frozenset()
    """Trials that were proposed and have no record since."""
    runs: Mapping[RunKey, str] = field(default_factory=dict)
    """Ids of MLflow runs."""
    rechecked: tuple[TrialRecord, ...] = ()
    confirmed_places: tuple[int, ...] = ()
    """The first byte of each line `confirmed`."""
    tested: tuple[TrialRecord, ...] = ()
    """What the confirmation has measured on test images, each configuration with each batch of seeds."""
    seeds: tuple[tuple[int, ...], ...] = ()
    """Batches of seeds that were added to the confirmation."""
    budget: str = ""
    """Why a budget ended the search before its trials were done; empty where none did, and since an extension."""
    final: ConfirmationEnded | None = None
    """The last confirm stage; None before it, and since an extension."""
    confirmed: bool = False
    """Whether the confirm stage is over: no trial of it failed, and nothing was asked for since."""
    searched: bool = False
    """Whether the search is over, early or not."""
    pack: int | None = None
    before: EarlierRecords | None = None
    measured: DataMeasured | None = None
    """All lines `data` together, what was written first kept; None in journals of early versions."""
    end: SessionEnd | None = None
    """How the last session ended; None where none did, one was killed or runs, or the sweep was reopened since."""
    session: SessionProgress = SessionProgress()
    spent: float = 0.0
    """Seconds of earlier sessions since the sweep began, or was extended last."""
    opened: datetime | None = None
    """When the last of these sessions began."""
    last: datetime | None = None
    """When the last line was written."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of all sessions by what they went to: start, search, recheck, confirmation, report."""

    @property
    def finished(self) -> bool:
        """Whether the sweep has been through all stages."""
        return self.end is SessionEnd.FINISHED

    @property
    def seconds(self) -> float:
        """Seconds that the sessions took, each from its first line to its last; of an extended sweep since then."""
        return self.spent + _between(self.opened, self.last)

    @classmethod
    def replay(cls, lines: Iterable[Line], before: SweepState | None = None) -> SweepState:
        """The state after these lines; `before` is the state that they follow."""
        state = before or cls()
        session, last, count, size = state.session, state.last, state.lines, state.size
        # Nearly all lines are of these kinds, and no copy of a large state is made for each.
        records, places, runs, running = dict(state.records), dict(state.places), dict(state.runs), set(state.running)
        seconds = dict(state.stage_seconds)
        for event, start, end in lines:
            if last and (stage := _stage_of(event, session, searched=state.searched, confirmed=state.confirmed)):
                seconds[stage] = seconds.get(stage, 0.0) + _between(last, event.time)
            session = session.after(event)
            match event:
                case TrialProposed():
                    running.add(event.number)
                case TrialEnded():
                    records[event.record.number], places[event.record.number] = event.record, start
                    running.discard(event.record.number)
                case RunLogged():
                    runs[event.key] = event.run_id
                case TrialConfirmed():
                    places_ = (*state.confirmed_places, start)
                    state = replace(
                        state, searched=True, confirmed_places=places_, tested=(*state.tested, event.record)
                    )
                case _:
                    state = state._after(event, last)
            last, count, size = event.time, count + 1, end
        return replace(
            state, lines=count, size=size, session=session, last=last,
            records=records, places=places, runs=runs, running=frozenset(running), stage_seconds=seconds,
        )  # fmt: skip

    def _after(self, event: Event, last: datetime | None) -> SweepState:
        """The state once a line of one of the rare kinds is there, too; `last` is the time of the line before it."""
        match event:
            case SessionOpened():
                spent = self.spent + _between(self.opened, last)
                began = self.began or event.time
                return replace(self, id=self.id or event.id, began=began, opened=event.time, spent=spent, end=None)
            case SessionClosed():
                return replace(self, end=event.why)
            case SweepExtended():
                return replace(
                    self, trials=event.trials, kept_by_extension=event.there, spent=0.0, budget="", opened=None,
                    final=None, confirmed=False, searched=False, end=None,
                )  # fmt: skip
            case SeedsAdded():
                return replace(self, seeds=(*self.seeds, event.seeds), confirmed=False, end=None)
            case BudgetSpent():
                return replace(self, searched=True, budget=event.why)
            case TrialConfirmed():
                return replace(self, searched=True, tested=(*self.tested, event.record))
            case TrialRechecked():
                return replace(self, searched=True, rechecked=(*self.rechecked, event.record))
            case ConfirmationEnded():
                whole = all(record.outcome is not Outcome.FAILED for record in event.records)
                return replace(self, final=event, confirmed=whole)
            case PackSized() if self.pack is None:
                return replace(self, pack=event.size)
            case EarlierRecords() if self.before is None:
                return replace(self, before=event)
            case DataMeasured():
                return replace(self, measured=_together(self.measured, event))
        return self


_STAGES: dict[type[Event], str] = {
    TrialEnded: "search",
    TrialRechecked: "recheck",
    TrialConfirmed: "confirmation",
    ConfirmationEnded: "confirmation",
    FileWritten: "report",
}


def _stage_of(event: Event, session: SessionProgress, *, searched: bool, confirmed: bool) -> str:
    """What the time before a line went to; "" for the time between two sessions."""
    if isinstance(event, SessionOpened | SweepExtended | SeedsAdded):
        return ""
    stage = "report" if confirmed else "confirmation" if searched else "search" if session.first_proposal else "start"
    return _STAGES.get(type(event), stage)


def _between(first: datetime | None, last: datetime | None) -> float:
    return (last - first).total_seconds() if first and last else 0.0


def _together(before: DataMeasured | None, now: DataMeasured) -> DataMeasured:
    """Two lines `data` as one: of each data set what the earlier one says, and what the later one adds."""
    if before is None:
        return now
    sets = dict(before.sets)
    for name, images in now.sets.items():
        known = sets.get(name, images)
        sets[name] = known.model_copy(update={"contents": images.contents | known.contents})
    return before.model_copy(update={"sets": sets})


class StateReader:
    """The state of a journal that grows, or is replaced: each look reads only what came since the last."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._state, self._file = SweepState(), 0
        self._looking = threading.Lock()

    def look(self) -> SweepState:
        """The state after all complete lines. InputError where a line cannot be read."""
        with self._looking:
            try:
                found = self.journal.path.stat()
            except FileNotFoundError:
                self._state = SweepState() if self._state.size else self._state
                return self._state
            if found.st_ino != self._file or found.st_size < self._state.size:  # the sweep was begun anew
                self._state, self._file = SweepState(), found.st_ino
            if found.st_size > self._state.size:
                with _without_collector():
                    self._state = SweepState.replay(self.journal.follow(self._state.size), self._state)
            return self._state


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector rests: all that is read is kept, and it would go over it again and again.

    In the main thread alone: no other may switch it on while Ray is put away, see `execution.session`.
    """
    was = gc.isenabled() and threading.current_thread() is threading.main_thread()
    if was:
        gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# --- Status --------------------------------------------------------------------------------------------


class KeptSweep(Protocol):
    """What a status is read from: a `gcsearch.sweep.sweep.Sweep`, which is made of what stands in this module."""

    @property
    def name(self) -> str: ...
    @property
    def store(self) -> Store: ...
    @property
    def folder(self) -> Path: ...
    @property
    def pipeline(self) -> Pipeline: ...
    @property
    def state(self) -> SweepState: ...


_WORDS = {
    SessionEnd.FINISHED: "finished",
    SessionEnd.FAILED: "failed",
    SessionEnd.STOPPED: "stopped",
    SessionEnd.CANCELLED: "cancelled",
    SessionEnd.KILLED: "interrupted",
    None: "dead",
}


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment.

    `state`: running, stopping (it was asked to), finished, stopped, interrupted (by Ctrl-C or SIGTERM),
    cancelled, failed, or dead: its driver ended without a word. All but running and stopping can go on.
    `per_minute` counts this session's configurations over its search's time; `seconds_left` is what that makes of
    the configurations that are left, both None where nothing tells. Times are UTC.
    """

    sweep: str
    state: str
    stage: str
    done: int
    total: int
    outcomes: dict[str, int]
    objective: str
    best: float | None
    best_number: int | None
    per_minute: float | None
    seconds_left: float | None
    workers: list[str]
    driver: str | None
    since: str | None
    heartbeat: str | None
    journal_lines: int
    mlflow_lines: int
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What `gcsearch status --json` prints."""
        from gcsearch.results.documents import StatusEntry

        return StatusEntry(**asdict(self)).dump()

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        oracle = ", oracle: it looks at test images" if is_oracle(self.objective) else ""
        best = "none yet"
        if self.best is not None:
            best = f"{self.objective} {number(self.best)} (t{self.best_number:04d}{oracle})"
        rows = [
            ("sweep", f"{self.sweep}: {self.state}{f', {self.why}' if self.why else ''}"),
            ("done", f"{self.done} of {self.total} configurations{self._outcomes()}; stage {self.stage}"),
            ("best", best),
        ]
        if self.per_minute:
            processes = "process" if len(self.workers) == 1 else "processes"
            rows.append(
                ("rate", f"{self.per_minute:.1f} trials a minute, recorded by {len(self.workers)} worker {processes}")
            )
        if self.seconds_left:
            rows.append(("left", f"about {duration(self.seconds_left)} of search; confirmation beside"))
        if self.driver:
            rows.append(("driver", f"{self.driver} since {self.since}, last heard of {self.heartbeat}"))
        return [*rows, ("MLflow", lag(self.journal_lines, self.mlflow_lines))]

    def _outcomes(self) -> str:
        other = [f"{count} {name}" for name, count in self.outcomes.items() if name != Outcome.COMPLETE]
        return f" ({', '.join(other)})" if other else ""


def read_status(sweep: KeptSweep) -> SweepStatus:
    """How far `sweep` is now. Opens no connection; reads the journal and the lease."""
    lease, search, state = sweep.store.lease(sweep.name), sweep.pipeline.search, sweep.state
    seen = look(lease)
    driven = seen is not None and not seen.gone
    done = len(state.records)
    total = max(state.session.trials or search.trials, done)
    left = 0 if state.searched else total - done
    rate = state.session.per_minute(datetime.now(UTC) if driven else None)
    objective = search.ranking_metric
    first = next(iter(rank(state.records.values(), objective, search.objectives)), None)
    best = first.record if first and first.rank else None
    return SweepStatus(
        sweep=sweep.name,
        state=state_word(seen, state.end, asked=request_path(lease).exists()),
        stage="over" if state.confirmed else "confirm" if done and not left else "search",
        done=done,
        total=total,
        outcomes=dict(Counter(record.outcome.value for record in state.records.values())),
        objective=objective,
        best=best.mean(objective) if best else None,
        best_number=best.number if best else None,
        per_minute=rate,
        seconds_left=60 * left / rate if rate and driven else None,
        workers=sorted(state.session.workers),
        driver=str(seen.holder.process) if seen else None,
        since=seen.holder.since if seen else None,
        heartbeat=seen.beat.isoformat(timespec="seconds") if seen else None,
        journal_lines=state.lines,
        mlflow_lines=lines_synced(sweep),
        why=seen.gone if seen else "",
    )


def state_word(seen: LeaseState | None, end: SessionEnd | None, *, asked: bool) -> str:
    """The state of the sweep in a word."""
    if seen is None or seen.gone:
        return _WORDS[end]
    return "stopping" if asked else "running"


CURSOR = "synced.json"
EMBEDDED = "embedded"


def lines_synced(sweep: KeptSweep) -> int:
    """How many lines of the sweep's journal its MLflow store has; none where they went to another store."""
    try:
        cursor = json.loads((sweep.folder / CURSOR).read_bytes())
        place, own = cursor["uri"], describe_store(sweep)
        former = own == EMBEDDED and place.startswith("sqlite:///")  # the path stood there once
        return int(cursor["lines"]) if place == own or former else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0


def lag(lines: int, synced: int) -> str:
    """What MLflow has of a journal of so many lines, in words that every message uses."""
    behind = lines - synced
    if behind <= 0:
        return "is in step with the journal"
    return f"lacks the journal's last {behind} lines" if behind > 1 else "lacks the journal's last line"


def describe_store(sweep: KeptSweep) -> str:
    """The store of the sweep's runs as its cursor names it: without a password, and the same once it was moved."""
    return shown(sweep.pipeline.tracking.uri) if sweep.pipeline.tracking.uri else EMBEDDED


def how_to_finish(sweep: KeptSweep) -> str:
    """What to do about a sweep that is wanted finished and is not: wait while a driver works on it, or go on."""
    if found := living(sweep.store.lease(sweep.name)):
        watch, stop = (sweep.store.command(verb, sweep.name) for verb in ("status", "stop"))
        return f"{found.holder.process} works on it: wait for its end (`{watch}`), or `{stop}`."
    return f"Finish it with `{sweep.store.command('resume', sweep.name)}`."
