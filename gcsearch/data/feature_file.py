"""Entries of the feature cache as files: written part by part, verified on opening, shared through any file system.

An entry is one Arrow file NAME.arrow: one column of float16 rows of E numbers, and in the metadata what the rows
are, their shape [N, V, E] and a CRC-32 of all their bytes. While it is made there are NAME.rows, the rows so
far, and NAME.sums, a line for each part of them; both are gone when it is whole.

Shapes: N images, V views, E embedding size.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from gcsearch.errors import InputError
from gcsearch.files import whole

FORMAT = 2
SUFFIX = ".arrow"
ABANDONED = 24 * 3600.0  # seconds after which parts that nobody adds to count as left over
_FAILURES = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError)


class BrokenEntryWarning(UserWarning):
    """A file of the cache was not what its name says; it is made anew and was not read."""


# --- One entry -----------------------------------------------------------------------------------------


def write(path: Path, stated: Mapping[str, Any], rows: np.ndarray) -> None:
    """Write `rows` [N V, E], float16, as a whole entry: a reader sees all of it or nothing."""
    flat = rows.reshape(-1)
    said = {"format": FORMAT, **stated, "crc32": _checksum(flat)}
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), rows.shape[1])
    table = pa.table({"feature": column}).replace_schema_metadata({"gcsearch": json.dumps(said, sort_keys=True)})
    with whole(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read(path: Path, stated: Mapping[str, Any]) -> np.ndarray | None:
    """The rows [N, V, E] of an entry, float16, on the pages of the file itself; None where there is none.

    A file that is damaged, or says of itself other things than `stated`, is named in a warning and not read.
    """
    try:
        found, flat = _load(pa.memory_map(str(path)))
        problem = _mismatch(found, stated) or _damage(found, flat)
    except FileNotFoundError:
        return None
    except _FAILURES as error:
        problem = f"it is no whole Arrow file of gcsearch ({_line(error)})"
    if problem:
        warnings.warn(f"{path} is not read and made anew: {problem}", BrokenEntryWarning, stacklevel=2)
        return None
    return flat.reshape(found["shape"])


def _load(source: pa.NativeFile) -> tuple[dict[str, Any], np.ndarray]:
    """What an entry says of itself, and its numbers without copying them."""
    table = pa.ipc.open_file(source).read_all()
    stated = json.loads((table.schema.metadata or {})[b"gcsearch"])
    chunks = table["feature"].chunks
    flat = chunks[0].flatten().to_numpy() if chunks else np.zeros(0, np.float16)
    return stated, flat


def _mismatch(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if found.get("format") != FORMAT:
        return f"its format is {found.get('format')}, not {FORMAT}"
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    return f"it is another entry: {', '.join(differing)} differ" if differing else ""


def _damage(stated: Mapping[str, Any], flat: np.ndarray) -> str:
    if flat.dtype != np.float16 or flat.size != math.prod(stated["shape"]):
        return "it does not hold the numbers that it says"
    return "" if _checksum(flat) == stated["crc32"] else "its checksum is wrong"


def _checksum(numbers: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


# --- An entry in the making ----------------------------------------------------------------------------


class Partial:
    """The parts of an entry that there are so far. One process at a time may use it."""

    def __init__(self, path: Path, key: str, *, part: int, total: int) -> None:
        """For the entry `path` of `total` bytes in parts of `part` bytes, the last one shorter."""
        self.path, self.key, self.part, self.total = path, key, part, total
        self.rows, self.sums = path.with_suffix(".rows"), path.with_suffix(".sums")

    def resume(self) -> int:
        """The number of whole parts that are there; what stands behind them, or is of another entry, is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.sums.read_text(encoding="ascii", errors="replace").splitlines() if self.sums.exists() else []
        good = 0
        with self.rows.open("a+b") as file:
            file.seek(0)
            for line in lines[1:] if lines[:1] == [self.key] else ():
                if f"{zlib.crc32(file.read(self._size(good))):08x}" != line or not self._size(good):
                    break
                good += 1
            file.truncate(min(good * self.part, self.total))
        self.sums.write_text("".join(f"{line}\n" for line in (self.key, *lines[1 : good + 1])), encoding="ascii")
        return good

    def append(self, rows: np.ndarray) -> None:
        """Add the next part. It counts once its checksum stands in the other file."""
        with self.rows.open("ab") as file:
            file.write(np.ascontiguousarray(rows).data)
        with self.sums.open("a", encoding="ascii") as file:
            file.write(f"{_checksum(rows):08x}\n")

    def finish(self, stated: Mapping[str, Any], embedding: int) -> None:
        """Make the entry of all parts, and remove them."""
        rows = np.memmap(self.rows, np.float16, "r") if self.total else np.zeros(0, np.float16)
        write(self.path, stated, rows.reshape(-1, embedding))
        del rows
        self.discard()

    def discard(self) -> None:
        """Remove the parts."""
        self.sums.unlink(missing_ok=True)
        self.rows.unlink(missing_ok=True)

    def bytes_there(self) -> int:
        """How far whoever makes the entry has come; 0 where nobody has begun."""
        try:
            return self.rows.stat().st_size
        except OSError:
            return 0

    def _size(self, index: int) -> int:
        return max(min(self.part, self.total - index * self.part), 0)


# --- Folders of entries --------------------------------------------------------------------------------


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache. `stated` is empty where it says nothing that can be read, `problem` tells why."""

    place: str
    name: str
    bytes: int
    modified: float
    """Seconds since 1970."""
    stated: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def rows(self) -> int:
        return math.prod(self.stated["shape"][:2]) if "shape" in self.stated else 0

    def to_dict(self) -> dict[str, Any]:
        known = {key: self.stated.get(key) for key in ("dataset", "transform", "model", "weights", "shape", "format")}
        return {
            **known,
            "file": f"{self.place}/{self.name}",
            "bytes": self.bytes,
            "modified": self.modified,
            "problem": self.problem,
        }


class CacheStorage:
    """A folder of entries on any file system that pyarrow opens: this disk, NFS, S3, Google's and Azure's stores."""

    def __init__(self, system: pafs.FileSystem, base: str, place: str) -> None:
        self.system, self.base, self.place = system, base.rstrip("/"), place.rstrip("/")

    @classmethod
    def of_folder(cls, folder: Path) -> CacheStorage:
        """A folder of this machine."""
        return cls(pafs.LocalFileSystem(), str(folder), str(folder))

    @classmethod
    def of_uri(cls, uri: str) -> CacheStorage:
        """The place behind an address such as `s3://bucket/folder`. InputError where pyarrow cannot open it."""
        try:
            system, base = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(
                "a shared cache must have an address that pyarrow opens",
                key="GCSEARCH_CACHE",
                received=f"{uri} ({_line(error)})",
                remedy="For example s3://bucket/folder, gs://bucket/folder, file:///shared/folder, or a plain folder.",
            ) from None
        return cls(system, base, uri)

    def fetch(self, path: Path) -> bool:
        """Copy the entry of this name to `path`, whole or not at all; False where there is none."""
        source = f"{self.base}/{path.name}"
        if self.system.get_file_info(source).type != pafs.FileType.File:
            return False
        with self.system.open_input_stream(source) as stream, whole(path) as file:
            shutil.copyfileobj(stream, file, 2**22)
        return True

    def has(self, path: Path) -> bool:
        """Whether the entry of this name is here; not where the place does not answer."""
        with suppress(OSError):
            return bool(self.system.get_file_info(f"{self.base}/{path.name}").type == pafs.FileType.File)
        return False

    def offer(self, path: Path) -> None:
        """Copy an entry here, so that others see it whole or not at all."""
        self.system.create_dir(self.base, recursive=True)
        aside = f"{self.base}/{path.name}.{uuid.uuid4().hex}"
        with path.open("rb") as file, self.system.open_output_stream(aside) as stream:
            shutil.copyfileobj(file, stream, 2**22)
        self.system.move(aside, f"{self.base}/{path.name}")

    def entries(self) -> list[CachedFile]:
        """All entries and what they say of themselves, by name. Reads no rows."""
        infos = self.system.get_file_info(pafs.FileSelector(self.base, allow_not_found=True))
        return [self._look(info) for info in sorted(infos, key=lambda info: info.base_name) if _is_entry(info)]

    def _look(self, info: pafs.FileInfo) -> CachedFile:
        found = CachedFile(self.place, info.base_name, info.size or 0, info.mtime_ns / 1e9)
        try:
            with self.system.open_input_file(info.path) as source:
                stated = json.loads((pa.ipc.open_file(source).schema.metadata or {})[b"gcsearch"])
            problem = _mismatch(stated, {})
        except _FAILURES:
            stated, problem = {}, "it is no Arrow file of gcsearch"
        return CachedFile(found.place, found.name, found.bytes, found.modified, stated, problem)

    def check(self, found: CachedFile) -> str:
        """What is wrong with an entry, every byte read; empty where nothing is."""
        try:
            with self.system.open_input_file(f"{self.base}/{found.name}") as source:
                stated, flat = _load(source)
                return _mismatch(stated, {}) or _damage(stated, flat)
        except _FAILURES as error:
            return f"it is no whole Arrow file of gcsearch ({_line(error)})"

    def leftovers(self) -> list[CachedFile]:
        """Files of entries in the making, and of copies that never ended, that nobody has touched for a day."""
        infos = self.system.get_file_info(pafs.FileSelector(self.base, allow_not_found=True))
        left = [
            CachedFile(self.place, info.base_name, info.size or 0, info.mtime_ns / 1e9, problem="left over unfinished")
            for info in infos
            if info.is_file and not _is_entry(info) and _is_leftover(info.base_name)
        ]
        return [found for found in left if found.modified < time.time() - ABANDONED]

    def remove(self, found: CachedFile) -> None:
        """Delete a file. Whoever has it mapped reads on."""
        self.system.delete_file(f"{self.base}/{found.name}")


def _is_entry(info: pafs.FileInfo) -> bool:
    return bool(info.is_file and info.base_name.endswith(SUFFIX) and not info.base_name.startswith("."))


def _is_leftover(name: str) -> bool:
    return name.endswith((".rows", ".sums")) or f"{SUFFIX}." in name


def superfluous(
    found: Sequence[CachedFile], *, older_than: float | None, keep_weights: set[str] | None, everything: bool
) -> Iterator[CachedFile]:
    """What `prune_cache` (driver.matrix) takes of `found`, each with the reason as its `problem`.

    Args:
        older_than: seconds; entries written before that.
        keep_weights: fingerprints of models; entries of all others.
        everything: all of them. Broken files and other formats go in any case.
    """
    for one in found:
        if one.problem:
            yield one
        elif everything:
            yield replace(one, problem="named by --all")
        elif older_than is not None and one.modified < time.time() - older_than:
            yield replace(one, problem="old")
        elif keep_weights is not None and one.stated.get("weights") not in keep_weights:
            yield replace(one, problem="of another model")


def seconds_of(age: str) -> float:
    """Seconds of an age such as "30d", "12h" or "45m". InputError for anything else."""
    number, unit = age[:-1].strip(), age[-1:]
    if unit not in _UNITS or not number.replace(".", "", 1).isdecimal():
        rule, remedy = "an age is a number and a unit", "For example 30d, 12h or 45m."
        raise InputError(rule, key="--older-than", received=repr(age), remedy=remedy)
    return float(number) * _UNITS[unit]


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0}


def file_of(dataset: str, transform: str, key: str) -> str:
    """The name of an entry's file."""
    return f"{dataset}-{transform}-{key[:20]}{SUFFIX}"
