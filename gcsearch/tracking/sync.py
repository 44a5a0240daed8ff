"""MLflow kept in step with the journal of a sweep, and caught up when it was away."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from gcsearch import files
from gcsearch.config.addresses import is_server, scrubbed, shown
from gcsearch.config.trials import CHAMPION, SHORTLISTED, TrialRecord
from gcsearch.errors import GcsearchError
from gcsearch.files import locked
from gcsearch.sweep.journal import (
    ConfirmationEnded,
    Event,
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

if TYPE_CHECKING:
    from gcsearch.tracking.tracker import Status, Tracker

_POLL = 0.5  # seconds between two looks at the journal
_PATIENCE = 60.0  # the longest pause between two attempts, in seconds
_TOGETHER = 64  # lines of the journal that are held, and written, at once
_HEARTBEAT = 60.0  # seconds between two signs of life on the parent run


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
        self._say, self._mended = say, repaired
        self._tracker: Tracker | None = None
        self._byte = self._line = 0  # up to where MLflow has the journal
        self._beat_at = 0.0
        self._error = ""
        self._closing = threading.Event()
        # Imported here, not in the thread: two threads that import large packages at once get in each other's way.
        from gcsearch.tracking.relocation import follow
        from gcsearch.tracking.tracker import Tracker

        self._connect, self._follow = Tracker, follow
        self._thread = threading.Thread(target=self._work, name="gcsearch-mirror", daemon=True)

    def start(self) -> None:
        """Begin to follow the journal."""
        self._thread.start()

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
            self._follow(store)
        # Two processes that set up one fresh SQLite database at the same time break it.
        with locked(store.root / ".mlflow.lock", wait=True):
            tracker = self._connect(self.uri, chosen.experiment or self.sweep.pipeline.name, artifacts)
        began = self.sweep.state.began
        tracker.start_sweep(
            self.sweep.id,
            pipeline=self.sweep.pipeline,
            files={name: self.sweep.folder / name for name in (PIPELINE_FILE, SPACE_FILE)},
            began=began.timestamp() if began else None,
        )
        self._tracker = tracker
        return tracker

    def _finish(self) -> None:
        """Write all that MLflow lacks and end the parent run; only then is the journal's end noted as written."""
        self._catch_up(note=False)
        self._end()
        self._catch_up(note=False)  # what this has added
        self._note()

    def _note(self) -> None:
        cursor = {"uri": describe_store(self.sweep), "lines": self._line}
        files.write_whole(self.sweep.folder / CURSOR, json.dumps(cursor))

    def _catch_up(self, *, note: bool = True) -> None:
        """Write every line that came since; each may be written again, so an error on the way costs nothing."""
        tracker, first = self._opened(), self._byte == 0
        while (found := self._news())[1] > self._byte:
            places, end, lines = found
            for start in range(0, len(places), _TOGETHER):
                self._write(tracker, places[start : start + _TOGETHER])
            self._byte, self._line = end, self._line + lines
            if note:
                self._note()
        if first and (orphans := tracker.end_orphans()):
            self._mended(f"{orphans} MLflow runs that nobody would complete were closed as KILLED")

    def _news(self) -> tuple[list[int], int, int]:
        """Where the new lines that matter begin, the byte after the last line, and how many lines there are.

        Of several records of one configuration, and of several confirm stages, the last one matters. Places and not
        lines are kept, because a long sweep's journal is larger than what a driver should hold.
        """
        latest: dict[object, int] = {}
        end, lines = self._byte, 0
        for event, start, stop in self.journal.follow(self._byte):
            end, lines = stop, lines + 1
            match event:
                case TrialEnded():
                    latest["record", event.record.number] = start
                case ConfirmationEnded():
                    latest["final"] = start
                case FileWritten():
                    latest["artifact", event.file] = start
        return sorted(latest.values()), end, lines

    def _write(self, tracker: Tracker, places: Sequence[int]) -> None:
        """Write what stands at these places of the journal; what has ended goes together, in the order of the lines."""
        for kind, some in itertools.groupby(map(self.journal.read, places), key=type):
            events = list(some)
            for event in events:
                if isinstance(event, FileWritten) and (path := self.sweep.folder / event.file).exists():
                    tracker.log_artifact(path)  # its owner may have removed others since
            ended = [(record, event.time.timestamp()) for event in events for record in _records(event)]
            if kind is ConfirmationEnded:
                tracker.retire([record for record, _ in ended], (CHAMPION, SHORTLISTED))
            if ended:
                self._log(tracker, ended)

    def _log(self, tracker: Tracker, ended: Sequence[tuple[TrialRecord, float]]) -> None:
        """Write records, and the ids of their runs to the journal."""
        logged, runs = tracker.log_records(ended), self.sweep.state.runs
        for (record, _), run_id in zip(ended, logged, strict=True):
            if runs.get(run_key(record)) != run_id:
                which = {"number": record.number, "stage": record.stage, "label": record.label}
                self.journal.append("run", **which, run_id=run_id)

    def _end(self) -> None:
        """End the parent run as the last session ended; one that left no word was killed."""
        status: dict[SessionEnd | None, Status] = {SessionEnd.FINISHED: "FINISHED", SessionEnd.FAILED: "FAILED"}
        self._opened().end(status.get(self.sweep.state.end, "KILLED"))


def _records(event: Event) -> Iterator[TrialRecord]:
    if isinstance(event, ConfirmationEnded):
        yield from event.records
    elif isinstance(event, RecordEvent):
        yield event.record
