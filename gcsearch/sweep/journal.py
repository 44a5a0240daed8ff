"""The journal of a sweep: one JSON object per line, only ever appended to, and the sweep's single truth.

Kinds of lines, each with `kind` and `time` (UTC) beside its own fields:

    open      a session begins: id of the sweep, number of trials, versions
    data      what is measured: weights, other_names, sets (digests by data set, see `gcsearch.sweep.measured`)
    proposal  a setting is about to run: number, config, label
    run       the MLflow run of a setting: number, run_id
    record    a setting has ended: record (a `TrialRecord`)
    confirmed a setting of the confirm stage has ended: record
    recheck   a setting of the shortlist has been measured again as in the search: record
    seeds     seeds were added to the confirmation: seeds
    final     the confirm stage is over: records (a list of `TrialRecord`)
    pack      the size of packs, where the pipeline left it open: size
    before    what is known of earlier sweeps: records, skipped (how many did not fit the space)
    lost      a worker process (host:pid@node), or a node with all of its (@node), is gone: who
    budget    the search ended before its trials were done: why
    extend    more settings are to be tried: trials (how many in all), there (how many there were)
    artifact  a file of the sweep's folder that belongs to its results: file
    close     a session ends: why (FINISHED, FAILED, KILLED, STOPPED, CANCELLED)

A number may have several `record` lines, when a failed setting was tried again: the last one holds.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from gcsearch.config.base import Model
from gcsearch.config.metrics import Stage
from gcsearch.config.trials import TrialConfig, TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.files import is_full
from gcsearch.sweep.store import Store

Event = dict[str, Any]

REOPENING = ("extend", "seeds")
"""Kinds of lines after which a finished sweep has something to do again."""


RunKey = tuple[int, str, str]


def run_key(event: Event) -> RunKey:
    """Which record a line about an MLflow run is of: number, stage, label.

    Where the objective is an oracle the search measures in the stage `test` too, and only the label tells its record
    from the confirmed one.
    """
    return int(event["number"]), str(event["stage"]), str(event.get("label", ""))


def run_of(record: TrialRecord) -> dict[str, Any]:
    """What a line about the record's MLflow run says of the record."""
    return {"number": record.number, "stage": record.stage, "label": record.label}


def _without_curve(record: Any) -> Any:
    return record | {"curve": []} if isinstance(record, dict) else record


def _a_moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time must have a zone")
    return text


_Record = Annotated[TrialRecord, BeforeValidator(_without_curve)]  # curves are large, and checked where they are read


class _Line(Model):
    """What every line has."""

    model_config = ConfigDict(frozen=True, extra="allow")
    bounded: ClassVar[bool] = False

    time: Annotated[str, AfterValidator(_a_moment)]


class _Open(_Line):
    id: str
    trials: int | None = None


class _Proposal(_Line):
    number: int
    config: TrialConfig


class _Run(_Line):
    number: int
    stage: Stage
    run_id: str


class _Ended(_Line):
    record: _Record


class _Seeds(_Line):
    seeds: tuple[int, ...]


class _Final(_Line):
    records: tuple[_Record, ...]
    threads: int


class _Pack(_Line):
    size: Annotated[int, Field(ge=1)]


class _Before(_Line):
    records: tuple[_Record, ...]


class _Extend(_Line):
    trials: int
    there: int


class _Artifact(_Line):
    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]


class _Close(_Line):
    why: str


class _Lost(_Line):
    who: str


class _List(Model):
    images: int
    digest: str


class _Measured(Model):
    classes: str
    lists: dict[str, _List]
    contents: dict[str, str]


class _Data(_Line):
    weights: str
    other_names: str
    sets: dict[str, _Measured]


_KINDS: dict[str, type[_Line]] = {
    "open": _Open,
    "proposal": _Proposal,
    "run": _Run,
    **dict.fromkeys(("record", "confirmed", "recheck"), _Ended),
    "seeds": _Seeds,
    "final": _Final,
    "pack": _Pack,
    "before": _Before,
    "data": _Data,
    "lost": _Lost,
    "budget": _Close,
    "extend": _Extend,
    "artifact": _Artifact,
    "close": _Close,
}
"""The fields of a line by its kind. A kind that is not among them is a later gcsearch's, and nobody's here."""


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
        event = {"kind": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        line = (json.dumps(event, default=_plain, separators=(",", ":")) + "\n").encode()
        with self._writing:
            self._before()
            try:
                self._write(line)
            except OSError as error:
                self._whole = False
                raise self._unwritable(error) from error

    def _write(self, line: bytes) -> None:
        fresh = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not self._whole:
                self._cut_torn_line(descriptor)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "the disk took only a part of the line")
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

    def mend(self) -> int:
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

    def events(self, kind: str | None = None) -> list[Event]:
        """All lines, or those of one kind, in order. A torn last line is left out.

        Raises InputError, naming file and line, when any other line cannot be read.
        """
        events = [event for _, event in self._numbered()]
        return [event for event in events if kind is None or event["kind"] == kind]

    def since(self, start: int = 0) -> Iterator[tuple[int, int, Event]]:
        """The complete lines from byte `start` on, one at a time: first byte, byte after the end, event.

        For who follows a journal that grows, or must not hold all of it in memory.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end = start + len(line)
                yield start, end, self._parse(line, start)
                start = end

    def records(self, kind: str = "record") -> list[TrialRecord]:
        """Every record in the order in which it was written; of equal numbers the last one holds."""
        return [
            TrialRecord.from_dict(event["record"], file=f"{self.path}, line {line}")
            for line, event in self._numbered()
            if event["kind"] == kind
        ]

    def final(self) -> list[TrialRecord]:
        """The records of the last confirm stage; empty when there was none, or none since an extension."""
        stages = [(line, event) for line, event in self._numbered() if event["kind"] in ("final", "extend")]
        line, stage = stages[-1] if stages else (0, {})
        return [TrialRecord.from_dict(one, file=f"{self.path}, line {line}") for one in stage.get("records", [])]

    def ended(self) -> str:
        """Why the last session ended; empty where it has not, was killed, or what it did was extended since."""
        last = ""
        for _, _, event in self.since():
            if event["kind"] in ("open", "close", *REOPENING):
                last = str(event.get("why", ""))
        return last

    def unfinished(self) -> list[int]:
        """The numbers of the settings that have begun and have no record."""
        begun: set[int] = set()
        for _, _, event in self.since():
            if event["kind"] == "proposal":
                begun.add(event["number"])
            elif event["kind"] == "record":
                begun.discard(event["record"]["number"])
        return sorted(begun)

    def _numbered(self) -> list[tuple[int, Event]]:
        if not self.path.exists():
            return []
        return [(number, event) for number, (_, _, event) in enumerate(self.since(), start=1)]

    def _parse(self, line: bytes, start: int) -> Event:
        """The event of the line that begins at byte `start`; its fields are those of its kind."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
            rule = "every line of a journal must be a JSON object with a `kind`"
            raise self._damaged(start, InputError(rule, received=line[:80].decode(errors="replace").rstrip()))
        if event["kind"] in _KINDS:
            try:
                _KINDS[event["kind"]].from_dict(event)
            except InputError as error:
                raise self._damaged(start, error) from None
        return event

    def _damaged(self, start: int, error: InputError) -> InputError:
        with self.path.open("rb") as file:
            number = file.read(start).count(b"\n") + 1
        remedy = "The file was damaged: restore it, or delete this line to lose only what it says."
        place = f"{self.path}, line {number}"
        return InputError(error.rule, file=place, key=error.key, received=error.received, remedy=remedy)


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.to_dict()
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")
