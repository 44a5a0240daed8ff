"""MLflow kept in step with the journal of a sweep, and caught up when it was away."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gcsearch import files
from gcsearch.config.addresses import is_server, scrubbed, shown
from gcsearch.config.trials import CHAMPION, SHORTLISTED, Outcome, TrialRecord
from gcsearch.errors import GcsearchError
from gcsearch.files import locked
from gcsearch.sweep.journal import (
    ConfirmationEnded,
    FileWritten,
    Journal,
    RecordEvent,
    SessionEnd,
    TrialEnded,
    run_key,
)
from gcsearch.sweep.state import CURSOR, describe_store, lag, lines_synced
from gcsearch.sweep.store import PIPELINE_FILE, SPACE_FILE
from gcsearch.sweep.sweep import Sweep
from gcsearch.tracking import views
from gcsearch.tracking.content.story import Links, description
from gcsearch.tracking.content.sweeps import (
    SHORTLIST_FILE,
    champion_params,
    counts,
    marks,
    results,
    shortlist_table,
    words_of,
)
from gcsearch.tracking.content.trials import TABLES_TAG, tables_tag
from gcsearch.tracking.relocation import follow
from gcsearch.tracking.tracker import NOTE, Status, Tracker

_POLL = 0.5  # seconds between two looks at the journal
_PATIENCE = 60.0  # the longest pause between two attempts, in seconds
_TOGETHER = 64  # trials whose runs are told to the journal at once
_HEARTBEAT = 60.0  # seconds between two signs of life on the parent run
_TELLING = 5.0  # seconds between two looks at ranking and outcomes; more where a look takes more than a twentieth
_LARGEST = 2**26  # bytes of prompts on one run; what is larger stays in the sweep's folder


class _News(NamedTuple):
    """What the journal has gained: where the lines that matter begin, the byte after the last, how many there are.

    `ended`: of every trial that ended its number, its objective (None where it has none that counts), and when.
    """

    places: list[int]
    end: int
    lines: int
    ended: list[tuple[int, float | None, float]]


class MlflowSync:
    """Writes what a sweep's journal says to MLflow.

    `start` begins the thread and `close` ends it after a last attempt; `sync` does all at once in the caller's
    thread.  MLflow's run ids come back as lines of the journal.

    Args:
        journal: the sweep's, held by its driver.
        say: told when the store stops answering and when it is back; called from the thread.
        repaired: told what was left half written by an earlier session; called from the thread.
    """

    def __init__(
        self, sweep: Sweep, journal: Journal, say: Callable[[str], None], repaired: Callable[[str], None]
    ) -> None:
        self.sweep, self.journal = sweep, journal
        self.uri = sweep.mlflow_uri
        self._say, self._report_repair = say, repaired
        self._tracker: Tracker | None = None
        self._byte = self._line = 0  # up to where MLflow has the journal
        self._beat_at = self._tell_at = 0.0
        self._told: tuple[object, ...] = ()
        self._files: dict[str, str] = {}  # results in MLflow: name, and the run that has it
        self._numbers: set[int] = set()  # trials that have ended, and the best so far after each
        self._course: list[tuple[int, float, float]] = []
        self._error = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gcsearch-mirror", daemon=True)

    def start(self) -> None:
        """Begin to follow the journal."""
        self._thread.start()

    def wait(self, lines: int, timeout: float = 30.0) -> None:
        """Wait until MLflow has so many lines of the journal; not where it is away, and not for ever."""
        deadline = time.monotonic() + timeout
        while self._line < lines and not self._error and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.05)

    def close(self, timeout: float = 60.0) -> str:
        """Make a last attempt, for at most `timeout` seconds, and end the parent run as the journal was closed.

        Returns an empty string, or a sentence that says what MLflow lacks and how it gets it.
        """
        self._closing.set()
        self._thread.join(timeout)
        if not self._error and not self._thread.is_alive():
            return ""
        return (
            f"MLflow at {shown(self.uri)} {lag(self.sweep.state.lines, lines_synced(self.sweep))}: "
            f"{self._error or 'it is too slow to wait for'}\n"
            f"Nothing is lost: `{self.sweep.command('sync')}` writes it later."
        )

    def sync(self) -> int:
        """Write all that MLflow lacks and end the parent run; returns how many runs were written.

        Raises:
            RunError: the store does not answer.
        """
        self._finish()
        return self._opened().written

    def _work(self) -> None:
        failures = 0
        while True:
            closing = self._closing.wait(min(2.0 ** (failures - 1), _PATIENCE) if failures else _POLL)
            error = self._attempt(closing)
            if bool(error) != bool(self._error) and not closing:
                self._announce(error)
            self._error = error
            failures = failures + 1 if error else 0
            if closing:
                return

    def _attempt(self, closing: bool) -> str:
        """Bring MLflow up to the journal's present end. Returns the error, or nothing."""
        try:
            self.journal.check()  # who has lost the sweep to another driver writes nothing
            if closing:
                self._finish()
                return ""
            self._catch_up()
            if time.monotonic() >= self._beat_at:
                self._beat_at = time.monotonic() + _HEARTBEAT
                self._opened().beat()
        except Exception as error:  # whatever a store, a driver or a full disk may raise: the sweep goes on
            # What was under way may have happened all the same: the runs are looked up anew before the next try.
            self._tracker = None
            told = str(error) if isinstance(error, GcsearchError) else f"{type(error).__name__}: {error}"
            return scrubbed(told, self.uri)
        return ""

    def _announce(self, error: str) -> None:
        name = shown(self.uri)
        if error:
            self._say(f"{error}\nThe sweep goes on; MLflow gets what it lacks once it answers.")
        else:
            self._say(f"MLflow at {name} answers again and has all runs.")

    def _opened(self) -> Tracker:
        """The connection, made when it is first needed; the parent run is RUNNING from then on."""
        if self._tracker:
            return self._tracker
        chosen, store = self.sweep.pipeline.tracking, self.sweep.store
        store.root.mkdir(parents=True, exist_ok=True)
        # A server has a place of its own for files; a database has none, and MLflow would take the working folder.
        artifacts = None if is_server(self.uri) else store.artifacts
        if self.uri == store.mlflow_uri:
            follow(store)
        # Two processes that set up one fresh SQLite database at the same time break it.
        with locked(store.root / ".mlflow.lock", wait=True):
            tracker = Tracker(self.uri, chosen.experiment or self.sweep.pipeline.name, artifacts)
        began = self.sweep.state.began
        tracker.start_sweep(
            self.sweep.id,
            pipeline=self.sweep.pipeline,
            files={name: self.sweep.folder / name for name in (PIPELINE_FILE, SPACE_FILE)},
            began=began.timestamp() if began else None,
        )
        self._tracker = tracker
        if not self.sweep.state.final:  # of a confirmed sweep each run has a place, and is perhaps not there yet
            self._arrange()
        return tracker

    def _arrange(self) -> None:
        """Keep the view that shows the sweep's runs in MLflow's browser."""
        tracker = self._opened()
        views.write(tracker.client, tracker.experiment_id, self.sweep, tracker.parent)

    def _finish(self) -> None:
        """Write all that MLflow lacks and end the parent run; only then is the journal's end noted as written."""
        self._catch_up(note=False)
        self._tell(at_once=True)
        self._arrange()
        self._end()
        self._catch_up(note=False)  # what this has added
        self._note()

    def _note(self) -> None:
        cursor = {"uri": describe_store(self.sweep), "lines": self._line}
        files.write_whole(self.sweep.folder / CURSOR, json.dumps(cursor))

    def _catch_up(self, *, note: bool = True) -> None:
        """Write every line that came since; each may be written again, so an error on the way costs nothing."""
        tracker, first = self._opened(), self._byte == 0
        while (news := self._news()).end > self._byte:
            course = self._course_after(news)
            tracker.log_course("best", course)
            for start in range(0, len(news.places), _TOGETHER):
                self._write(tracker, news.places[start : start + _TOGETHER], [*self._course, *course])
            self._course += course
            self._numbers |= {number for number, *_ in news.ended}
            self._byte, self._line = news.end, self._line + news.lines
            if note:
                self._note()
        if first and (orphans := tracker.end_orphans()):
            self._report_repair(f"{orphans} MLflow runs that nobody would complete were closed as KILLED")
        self._tell(at_once=False)

    def _news(self) -> _News:
        """What came since the last look.

        Of several records of one configuration, and of several confirm stages, the last one matters. Places and not
        lines are kept, because a long sweep's journal is larger than what a driver should hold.
        """
        latest: dict[object, int] = {}
        ended: list[tuple[int, float | None, float]] = []
        end, lines = self._byte, 0
        for event, start, stop in self.journal.follow(self._byte):
            end, lines = stop, lines + 1
            match event:
                case TrialEnded():
                    latest["record", event.record.number] = start
                    ended.append((event.record.number, self._worth(event.record), event.time.timestamp()))
                case ConfirmationEnded():
                    latest["final"] = start
                case FileWritten():
                    latest["artifact", event.file] = start
        return _News(sorted(latest.values()), end, lines, ended)

    def _worth(self, record: TrialRecord) -> float | None:
        value = record.mean(self.sweep.pipeline.search.ranking_metric)
        return value if record.outcome is Outcome.COMPLETE and math.isfinite(value) else None

    def _course_after(self, news: _News) -> list[tuple[int, float, float]]:
        """The course of the search over the news: trials that have ended, the best objective so far, and when."""
        numbers, best = set(self._numbers), self._course[-1][1] if self._course else -math.inf
        points = []
        for number, value, at in news.ended:
            numbers.add(number)
            best = best if value is None else max(best, value)
            if best > -math.inf:
                points.append((len(numbers), best, at))
        return points

    def _write(self, tracker: Tracker, places: Sequence[int], course: Sequence[tuple[int, float, float]]) -> None:
        """Write what stands at these places of the journal, and the ids of the runs to the journal."""
        logged: list[tuple[TrialRecord, str]] = []
        for event in map(self.journal.read, places):
            match event:
                case FileWritten():
                    self._hand_over(tracker, event.file)
                case ConfirmationEnded():
                    tracker.retire(event.records, (CHAMPION, SHORTLISTED))
                    at = event.time.timestamp()
                    finals = [(one, tracker.log_record(one, at, self._kept(one))) for one in event.records]
                    self._journal_runs([*logged, *finals])  # the results refer to them
                    self._conclude(tracker, at, course)
                case RecordEvent():
                    logged.append((event.record, tracker.log_record(event.record, event.time.timestamp())))
        self._journal_runs(logged)

    def _journal_runs(self, logged: Sequence[tuple[TrialRecord, str]]) -> None:
        known = self.sweep.state.runs
        lines = [
            {"number": record.number, "stage": record.stage, "label": record.label, "run_id": run_id}
            for record, run_id in logged
            if known.get(run_key(record)) != run_id
        ]
        if lines:
            self.journal.append_all("run", lines)

    def _kept(self, record: TrialRecord) -> dict[str, Path]:
        """What a confirmed configuration trained, as artifacts of its run."""
        found = {}
        for seed in record.seeds:
            for path in sorted(self.sweep.kept.rglob(f"{record.number}.seed_{seed}.safetensors")):
                place = path.parent.relative_to(self.sweep.kept) / f"seed_{seed}.safetensors"
                found[f"prompts/{place.as_posix()}"] = path
        return found if sum(path.stat().st_size for path in found.values()) <= _LARGEST else {}

    def _conclude(self, tracker: Tracker, at: float, course: Sequence[tuple[int, float, float]]) -> None:
        """Write what the confirmation came to; of a sweep that is extended since, it is not the last word."""
        sweep, runs = self.sweep, self.sweep.state.runs
        if sweep.confirmed is None:
            return
        if not sweep.pipeline.search.oracle:
            tracker.log_recheck(sweep.rechecked, at)
        if tracker.name_champion(champion_params(sweep)):
            self._files = {}
        if tracker.lacks("best"):
            tracker.log_course("best", course)
        tracker.log_results(results(sweep), at)
        tracker.log_files(tracker.parent, {SHORTLIST_FILE: shortlist_table(sweep)})
        tracker.tag(
            {
                "gcsearch.champion": runs.get(run_key(sweep.confirmed), ""),
                "gcsearch.champion.search": runs.get(run_key(sweep.champion), ""),
                TABLES_TAG: tables_tag(SHORTLIST_FILE),
            }
        )

    def _hand_over(self, tracker: Tracker, name: str) -> None:
        """Copy a file of the sweep's folder to its run, and an export with its nearest words to those confirmed."""
        path, runs = self.sweep.folder / name, self.sweep.state.runs
        if not path.exists():  # its owner may have removed it since
            return
        if path.is_file():
            tracker.log_artifact(path)
            self._files[name] = tracker.parent
            return
        for record in self.sweep.finals:
            if run_id := runs.get(run_key(record)):
                tracker.log_files(run_id, words_of(self.sweep, record))
        champion = self.sweep.confirmed
        if champion and (run_id := runs.get(run_key(champion))):
            every = [one for one in sorted(path.rglob("*")) if one.is_file()]
            tracker.log_files(run_id, {f"{name}/{one.relative_to(path).as_posix()}": one for one in every})
            self._files[name] = run_id

    def _tell(self, *, at_once: bool) -> None:
        """Keep what changes as the sweep goes on: ranks and roles, numbers of trials, stage and description."""
        state, tracker = self.sweep.state, self._opened()
        stage = "search"
        if state.searched or state.final or len(state.records) >= self.sweep.trials:
            stage = "over" if state.confirmed else "confirm"
        told = (stage, state.final.time if state.final else None, dict(self._files), len(state.records))
        changed = not self._told or told[:3] != self._told[:3]
        if told == self._told or not (at_once or changed or time.monotonic() >= self._tell_at):
            return
        began = time.monotonic()
        tracker.mark(marks(self.sweep))
        if self._course:
            tracker.log_results(counts(self.sweep), self._course[-1][2], len(state.records))
        links = Links(tracker.experiment_id, tracker.parent, self._files)
        tracker.tag({NOTE: description(self.sweep, links), "gcsearch.stage": stage})
        self._told = told
        self._tell_at = time.monotonic() + max(_TELLING, 20 * (time.monotonic() - began))

    def _end(self) -> None:
        """End the parent run as the last session ended; one that left no word was killed."""
        status: dict[SessionEnd | None, Status] = {SessionEnd.FINISHED: "FINISHED", SessionEnd.FAILED: "FAILED"}
        self._opened().end(status.get(self.sweep.state.end, "KILLED"))
