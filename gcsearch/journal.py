"""The journal of a sweep: one JSON object per line, only ever appended to, and the sweep's single truth.

Kinds of lines, each with `kind` and `time` (UTC) beside its own fields:

    open      a session begins: id of the sweep, number of trials, versions
    proposal  a setting is about to run: number, config, label
    run       the MLflow run of a setting: number, run_id
    record    a setting has ended: record (a `TrialRecord`)
    confirmed a setting of the confirm stage has ended: record
    recheck   a setting of the shortlist has been measured again as in the search: record
    seeds     seeds were added to the confirmation: seeds
    final     the confirm stage is over: records (a list of `TrialRecord`)
    pack      the size of packs, where the pipeline left it open: size
    before    what is known of earlier sweeps: records, skipped (how many did not fit the space)
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
from typing import Any

from gcsearch.errors import InputError, RunError
from gcsearch.files import is_full
from gcsearch.schema import Model, TrialRecord

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

        Nouns of `gcsearch.schema` may stand anywhere in `fields`.
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
        return f"Every line before is safe. {remedy}, then `gcsearch resume {self.path.parent.name}` goes on."

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
                yield start, end, self._parse(f"byte {start}", line)
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
        stages = [event for event in self.events() if event["kind"] in ("final", "extend")]
        stage = stages[-1].get("records", []) if stages else []
        return [TrialRecord.from_dict(record, file=self.path) for record in stage]

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
        *lines, _torn = self.path.read_bytes().split(b"\n")
        return [(number, self._parse(f"line {number}", line)) for number, line in enumerate(lines, start=1)]

    def _parse(self, place: str, line: bytes) -> Event:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "kind" not in event:
            raise InputError(
                "every line of a journal must be a JSON object with a `kind`",
                file=self.path,
                key=place,
                received=line[:80].decode(errors="replace"),
                remedy="The file was damaged: restore it, or delete this line to lose only what it says.",
            )
        return event


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.to_dict()
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")
