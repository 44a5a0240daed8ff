"""The journal of a sweep: one JSON object per line, only ever appended to, and the sweep's single truth.

Kinds of lines, each with `kind` and `time` (UTC) beside its own fields:

    open      a session begins: sweep name, digest of the pipeline, versions
    proposal  a setting is about to run: number, config, label
    run       the MLflow run of a setting: number, run_id
    record    a setting has ended: record (a `TrialRecord`)
    confirmed a setting of the confirm stage has ended: record
    final     the confirm stage is over: records (a list of `TrialRecord`)
    pack      the size of packs, where the pipeline left it open: size
    before    what is known of earlier sweeps: records, skipped (how many did not fit the space)
    budget    the search ended before its trials were done: why
    extend    more settings are to be tried: trials (how many in all), there (how many there were)
    close     a session ends: why

A number may have several `record` lines, when a failed setting was tried again: the last one holds.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gcsearch.errors import InputError, RunError
from gcsearch.schema import Model, TrialRecord

Event = dict[str, Any]


class Journal:
    """The file at `path`; it is made by the first `append`. One process at a time may append, from any thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._whole = False  # whether the file is known to end with a complete line
        self._writing = threading.Lock()

    def append(self, kind: str, **fields: Any) -> None:
        """Write one line and force it to disk: once this returns, the line survives a power cut.

        Nouns of `gcsearch.schema` may stand anywhere in `fields`.
        Raises RunError when the line cannot be written; the journal stays readable.
        """
        event = {"kind": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        line = (json.dumps(event, default=_plain, separators=(",", ":")) + "\n").encode()
        with self._writing:
            try:
                self._write(line)
            except OSError as error:
                self._whole = False
                raise RunError(f"{self.path}: the journal cannot be written: {error.strerror or error}.") from error

    def _write(self, line: bytes) -> None:
        fresh = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not self._whole:
                self._cut_torn_line(descriptor)
            if os.write(descriptor, line) != len(line):
                raise OSError("the disk took only a part of the line")
            os.fsync(descriptor)
            self._whole = True
        finally:
            os.close(descriptor)
        if fresh:
            self._sync_folder()

    def _cut_torn_line(self, descriptor: int) -> None:
        """Drop what follows the last line end: a line whose writer was killed halfway."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.ftruncate(descriptor, end)

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

    def _numbered(self) -> list[tuple[int, Event]]:
        if not self.path.exists():
            return []
        *lines, _torn = self.path.read_bytes().split(b"\n")
        return [(number, self._parse(number, line)) for number, line in enumerate(lines, start=1)]

    def _parse(self, number: int, line: bytes) -> Event:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "kind" not in event:
            raise InputError(
                "every line of a journal must be a JSON object with a `kind`",
                file=self.path,
                key=f"line {number}",
                received=line[:80].decode(errors="replace"),
                remedy="The file was damaged: restore it, or delete this line to lose only what it says.",
            )
        return event


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return value.to_dict()
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")
