"""The journal of a sweep: one JSON object per line, only ever appended to, and the sweep's single truth.

Each line has `kind` and `time` (UTC) beside the fields of its kind, see the classes below. A number may have several
lines `record`, when a trial that failed was tried again: the last one holds. `gcsearch.sweep.state` says what all
lines together make of a sweep.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from gcsearch.config.base import Model
from gcsearch.config.metrics import Stage
from gcsearch.config.trials import StudyState, TrialConfig, TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.files import is_full
from gcsearch.sweep.store import Store

# --- Events ---------------------------------------------------------------------------------------------


class Event(Model):
    """What every line has. A line whose kind a later gcsearch added is nothing more than this."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    bounded: ClassVar[bool] = False

    kind: str
    time: AwareDatetime

    @classmethod
    def word(cls) -> str:
        """What `kind` is in the lines of this class."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])


class Workers(Model):
    """How many worker processes a session has, and what each of them may use."""

    count: int
    threads: int
    gpus: float = 0.0


class SessionOpened(Event):
    """A session begins. `id`: of the sweep. `trials`: how many it is to have in all."""

    kind: Literal["open"]
    id: str
    trials: int | None = None
    workers: Workers | None = None


class ListDigest(Model):
    """A list of a data set: how many images, and a digest of their names and labels."""

    images: int
    digest: str


class DataSetDigests(Model):
    """Digests of class names, of lists, and of what was read of them, by `train/SEED`, `val/SEED` and `test`."""

    classes: str
    lists: dict[str, ListDigest]
    contents: dict[str, str]


class DataMeasured(Event):
    """What is measured, see `gcsearch.sweep.measured`: the model, the file of other names, data sets by name."""

    kind: Literal["data"]
    weights: str
    other_names: str
    sets: dict[str, DataSetDigests]


class TrialProposed(Event):
    """A trial is about to run. `label`: where it comes from, "" for a sampled one."""

    kind: Literal["proposal"]
    number: int
    config: TrialConfig
    label: str = ""


RunKey = tuple[int, str, str]


class RunLogged(Event):
    """A record has an MLflow run.

    Number, stage and label say which: where the objective is an oracle the search measures in the stage `test` too,
    and only the label tells its record from the confirmed one.
    """

    kind: Literal["run"]
    number: int
    stage: Stage
    label: str = ""
    run_id: str

    @property
    def key(self) -> RunKey:
        """Equal to `run_key` of the record that the run is of."""
        return self.number, self.stage, self.label


def run_key(record: TrialRecord) -> RunKey:
    """What tells the record's MLflow run from those of all other records of its sweep."""
    return record.number, record.stage, record.label


class RecordEvent(Event):
    """The common part of the lines that hold a record."""

    record: TrialRecord


class TrialEnded(RecordEvent):
    """A trial of the search has ended."""

    kind: Literal["record"]


class TrialRechecked(RecordEvent):
    """A trial of the shortlist has been measured again as in the search, with seeds of the confirmation."""

    kind: Literal["recheck"]


class TrialConfirmed(RecordEvent):
    """A configuration has been measured on test images."""

    kind: Literal["confirmed"]


class ConfirmationEnded(Event):
    """The confirm stage is over: references, shortlist, champion, each over all seeds. `threads`: of a worker."""

    kind: Literal["final"]
    records: tuple[TrialRecord, ...]
    threads: int


class SeedsAdded(Event):
    """Seeds were added to the confirmation of a finished sweep."""

    kind: Literal["seeds"]
    seeds: tuple[int, ...]


class SweepExtended(Event):
    """A finished sweep is to try more: `trials` in all. `there`: how many there were."""

    kind: Literal["extend"]
    trials: int
    there: int


class PackSized(Event):
    """The size of packs, where the pipeline left it open."""

    kind: Literal["pack"]
    size: Annotated[int, Field(ge=1)]


class EarlierRecords(Event):
    """What is known of earlier sweeps. `skipped`: how many of their records did not fit the search space."""

    kind: Literal["before"]
    records: tuple[TrialRecord, ...]
    skipped: int = 0


class StudyKept(Event):
    """What the search's study was before a generation was asked for; whoever goes on begins with the last of them."""

    kind: Literal["study"]
    state: StudyState


class WorkerLost(Event):
    """A worker process (host:pid@node) is gone, or a node with all of its (@node)."""

    kind: Literal["lost"]
    who: str


class BudgetSpent(Event):
    """The search ended before its trials were done."""

    kind: Literal["budget"]
    why: str


class FileWritten(Event):
    """A file of the sweep's folder belongs to its results."""

    kind: Literal["artifact"]
    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]


class SessionEnd(StrEnum):
    """How a session ended. One that was killed outright has written no line `close`, and so has no end."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    """By Ctrl-C or SIGTERM."""
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"

    @classmethod
    def _missing_(cls, value: object) -> SessionEnd:
        return cls.FAILED  # the word of a later gcsearch, for an end that is none of the others


class SessionClosed(Event):
    """A session ends."""

    kind: Literal["close"]
    why: SessionEnd


AnyEvent = (
    SessionOpened | DataMeasured | TrialProposed | RunLogged | TrialEnded | TrialRechecked | TrialConfirmed
    | ConfirmationEnded | SeedsAdded | SweepExtended | PackSized | EarlierRecords | StudyKept | WorkerLost | BudgetSpent
    | FileWritten | SessionClosed
)  # fmt: skip
_KINDS: dict[str, type[Event]] = {cls.word(): cls for cls in get_args(AnyEvent)}
_READER: TypeAdapter[Event] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="kind")])

E = TypeVar("E", bound=Event)


class Line(NamedTuple):
    """An event and where it stands in its file: its first byte, and the byte after its end."""

    event: Event
    start: int
    end: int


# --- The file -------------------------------------------------------------------------------------------


class Journal:
    """The file at `path`; it is made by the first `append`. One process at a time may append, from any thread.

    `before` is called ahead of every line that is written, and may forbid it by what it raises.
    """

    def __init__(self, path: str | Path, before: Callable[[], None] | None = None) -> None:
        self.path = Path(path)
        self._before = before or (lambda: None)
        self._whole = False  # whether the file is known to end with a complete line
        self._writing = threading.Lock()

    def check(self) -> None:
        """Raise what forbids to write, if anything does."""
        self._before()

    def append(self, kind: str, **fields: Any) -> None:
        """Write one line and force it to disk: once this returns, the line survives a power cut.

        Nouns of `gcsearch.config.pipeline` may stand anywhere in `fields`.
        Raises RunError when the line cannot be written, naming the remedy; the journal stays readable.
        """
        self.append_all(kind, [fields])

    def append_all(self, kind: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Write a line for each of `events` as `append` does, all at once: no end of this process comes between two."""
        head = {"kind": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        lines = [json.dumps({**head, **fields}, default=_plain, separators=(",", ":")) + "\n" for fields in events]
        with self._writing:
            self._before()
            try:
                self._write("".join(lines).encode())
            except OSError as error:
                self._whole = False
                raise self._unwritable(error) from error

    def _write(self, lines: bytes) -> None:
        fresh = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not self._whole:
                self._cut_torn_line(descriptor)
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if os.write(descriptor, lines) != len(lines):
                os.ftruncate(descriptor, end)
                raise OSError(errno.ENOSPC, "the disk took only a part of what was written")
            os.fsync(descriptor)
            self._whole = True
        finally:
            os.close(descriptor)
        if fresh:
            self._sync_folder()

    def _unwritable(self, error: OSError) -> RunError:
        remedy = "Make room on this disk" if is_full(error) else "Mend that"
        return RunError(
            f"{self.path}: the journal cannot be written: {error.strerror or error}.\n{self.goes_on(remedy)}"
        )

    def goes_on(self, remedy: str) -> str:
        """What to do after an error that `remedy` mends."""
        folder = self.path.parent
        command = Store(folder.parents[1]).command("resume", folder.name)
        return f"Every line before is safe. {remedy}, then `{command}` goes on."

    def repair(self) -> int:
        """Cut off a torn last line, which a writer killed halfway left; returns how many bytes it had."""
        with self._writing:
            self._before()
            if not self.path.exists():
                return 0
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                return self._cut_torn_line(descriptor)
            finally:
                os.close(descriptor)

    def _cut_torn_line(self, descriptor: int) -> int:
        """Drop what follows the last line end."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        return len(content) - end

    def _sync_folder(self) -> None:
        """A new file is on disk only once its folder is."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def follow(self, start: int = 0) -> Iterator[Line]:
        """The complete lines from byte `start` on, one at a time, their records without curves.

        Curves are most of a journal, and only a few are ever looked at: `read` gives a line as it was written.
        Raises InputError, naming file and line, when a line cannot be read; a torn last one is left out.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end = start + len(line)
                yield Line(self._parse(line, start), start, end)
                start = end

    def read(self, start: int) -> Event:
        """The event of the line that begins at byte `start`, all of it."""
        with self.path.open("rb") as file:
            file.seek(start)
            return self._parse_whole(file.readline(), start)

    def events(self, kind: type[E]) -> list[E]:
        """All events of one kind in order, all of each."""
        places = [line.start for line in self.follow() if isinstance(line.event, kind)]
        return [event for event in map(self.read, places) if isinstance(event, kind)]

    def records(self, kind: type[RecordEvent] = TrialEnded) -> list[TrialRecord]:
        """Every record of one kind of line, with its curve, in order; of equal numbers the last one holds."""
        return [event.record for event in self.events(kind)]

    def _parse(self, line: bytes, start: int) -> Event:
        try:
            return _READER.validate_json(_without_curves(line))
        except ValidationError:  # of a later kind, written by another program, or damaged
            return self._parse_whole(line, start)

    def _parse_whole(self, line: bytes, start: int) -> Event:
        """The event of the line that begins at byte `start`; its fields are those of its kind."""
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
            rule = "every line of a journal must be a JSON object with a `kind`"
            raise self._damaged(start, InputError(rule, received=line[:80].decode(errors="replace").rstrip()))
        try:
            return _KINDS.get(content["kind"], Event).from_dict(content)
        except InputError as error:
            raise self._damaged(start, error) from None

    def _damaged(self, start: int, error: InputError) -> InputError:
        with self.path.open("rb") as file:
            number = file.read(start).count(b"\n") + 1
        remedy = "The file was damaged: restore it, or delete this line to lose only what it says."
        place = f"{self.path}, line {number}"
        return InputError(error.rule, file=place, key=error.key, received=error.received, remedy=remedy)


def _without_curves(line: bytes) -> bytes:
    """The line with every curve left empty, as far as it stands there as `append` writes it.

    In JSON the opening bytes cannot stand inside a text, whose quotes are escaped, and the closing ones end no report
    but the last.
    """
    parts, done = [], 0
    while (begin := line.find(b'"curve":[{', done)) >= 0 and (end := line.find(b"}}]", begin)) >= 0:
        parts.append(line[done : begin + len(b'"curve":[')])
        done = end + len(b"}}")
    return b"".join((*parts, line[done:]))


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.to_dict()
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")
