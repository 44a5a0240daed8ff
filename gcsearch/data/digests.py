"""What image files contain, as digests, remembered by path, size and times: unchanged files are read once.

The digest of an image that may have more than 8 bits is not that of its bytes alone: an earlier version cut such
values off where they are scaled now, and what it encoded is not to be found again.

A file that was changed in the last moments is digested and not remembered: it could change again within the
same tick of the clock and keep its size.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcsearch.data import image_files
from gcsearch.data.image_loader import fault
from gcsearch.files import whole

BYTES = 16  # of a digest
RECENT = 2_000_000_000  # nanoseconds, above the coarsest clock of file systems in use
_COLUMNS = ("size", "modified", "changed")
_DIGEST = "digest-2"  # this column's name; `digest` was that of the earlier version


def of_files(
    root: Path, names: Sequence[str], memory: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, dict[str, str]]:
    """BLAKE2b digests of the files `names` below `root`, [N, 16] bytes, and why files cannot be read, by name.

    `memory` is the folder that remembers; `progress` is told of files read. A file that cannot be read has zeros.
    """
    times, failed = _times(root, names)
    file = _file(root, memory)
    known, known_times, known_digests = _recall(file)
    positions = np.array([known.get(name, -1) for name in names], dtype=np.int64)
    digests = np.zeros((len(names), BYTES), np.uint8)
    if known:
        same = (positions >= 0) & (known_times[positions] == times).all(axis=1)
        digests[same] = known_digests[positions[same]]
    else:
        same = np.zeros(len(names), bool)
    fresh = [row for row in np.flatnonzero(~same).tolist() if names[row] not in failed]
    if fresh:
        began = time.time_ns()
        failed |= _digest(root, names, fresh, digests, progress)
        settled = [r for r in fresh if names[r] not in failed and max(times[r, 1:]) < began - RECENT]
        # Once more: a file that changed while it was read is not remembered under its former times.
        again, _ = _times(root, [names[r] for r in settled])
        kept = [r for r, now in zip(settled, again, strict=True) if (now == times[r]).all()]
        # A cache that can only be read, or a full disk, costs reading the files again and stops nothing.
        with suppress(OSError):
            _remember(file, known, known_times, known_digests, [names[r] for r in kept], times[kept], digests[kept])
    return digests, failed


def unknown(root: Path, names: Sequence[str], memory: Path) -> int:
    """How many of these files would have to be read, because they are not remembered as they are."""
    times, _ = _times(root, names)
    known, known_times, _ = _recall(_file(root, memory))
    return sum(
        name not in known or (known_times[known[name]] != own).any() for name, own in zip(names, times, strict=True)
    )


def _file(root: Path, memory: Path) -> Path:
    """Where the digests of files below `root` are remembered."""
    return memory / f"{hashlib.blake2b(str(root.absolute()).encode(), digest_size=10).hexdigest()}.arrow"


class TooMuchToReadError(Exception):
    """More files would have to be read than allowed."""


def same_content(
    folders: Sequence[tuple[Path, Sequence[str]]],
    memory: Path,
    progress: Callable[[int, int], None] | None = None,
    most: float = math.inf,
) -> list[np.ndarray]:
    """Which files have the same content, however they are called: for each folder a number per name, [N].

    Files of one number are alike, links among them; -1 is a file that no other is like, or that is no image.
    Sizes are compared first, and only files with a size in common are read.

    Raises:
        TooMuchToReadError: these are more than `most` files beside what is remembered.
    """
    sizes = [_times(root, names)[0][:, 0] for root, names in folders]
    values, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *sizes]), return_counts=True)
    shared = values[(counts > 1) & (values > 0)]
    rows = [np.flatnonzero(np.isin(size, shared)) for size in sizes]
    chosen = [(root, [names[row] for row in some.tolist()]) for (root, names), some in zip(folders, rows, strict=True)]
    total = sum(len(names) for _, names in chosen)
    if total > most and sum(unknown(root, names, memory) for root, names in chosen) > most:
        raise TooMuchToReadError
    found, readable = [], []
    for root, names in chosen:
        digest, failed = of_files(root, names, memory, progress)
        found.append(digest)
        readable.append(np.array([name not in failed for name in names], dtype=bool))
    together = np.concatenate([np.zeros((0, BYTES), np.uint8), *found])
    _, numbers, counts = np.unique(together.view(f"V{BYTES}").ravel(), return_inverse=True, return_counts=True)
    numbers = np.where((counts[numbers] > 1) & np.concatenate([np.zeros(0, bool), *readable]), numbers, -1)
    paths = [Path(root, name) for root, names in chosen for name in names]
    repeated, first = np.unique(numbers, return_index=True)
    with ThreadPoolExecutor() as threads:  # what a failed download left is no image, and named as such later on
        intact = [not why for why in threads.map(fault, [paths[row] for row in first.tolist()])]
    numbers = np.where(np.isin(numbers, repeated[np.array(intact, dtype=bool)]), numbers, -1)
    groups = [np.full(len(size), -1, dtype=np.int64) for size in sizes]
    for group, some, mine in zip(
        groups, rows, np.split(numbers, np.cumsum([len(one) for one in rows])[:-1]), strict=True
    ):
        group[some] = mine
    return groups


def _times(root: Path, names: Sequence[str]) -> tuple[np.ndarray, dict[str, str]]:
    """Size, time of modification and of change of each file, [N, 3]."""
    failed: dict[str, str] = {}
    rows = []
    prefix = os.fspath(root)
    for name in names:
        try:
            found = os.stat(f"{prefix}/{name}")  # noqa: PTH116  (a Path for each would take longer than the call)
            rows.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            if not stat.S_ISREG(found.st_mode):
                failed[name] = "no file"  # reading a pipe would never end
        except OSError as error:
            failed[name] = error.strerror or str(error)
            rows.append((0, 0, 0))
    return np.array(rows, dtype=np.int64).reshape(-1, 3), failed


def _digest(
    root: Path,
    names: Sequence[str],
    rows: Sequence[int],
    digests: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Read the files of `rows` and put their digests in; several at a time, since hashing frees the interpreter."""

    def one(row: int) -> tuple[str, str] | None:
        try:
            with Path(root, names[row]).open("rb") as file:
                deep = image_files.may_be_deep(file)
                found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=BYTES))
            if deep:
                found.update(b"scaled")
        except OSError as error:
            return names[row], error.strerror or str(error)
        digests[row] = np.frombuffer(found.digest(), np.uint8)
        return None

    failed: dict[str, str] = {}
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(rows), 1024):
            part = rows[start : start + 1024]
            failed |= dict(filter(None, threads.map(one, part)))
            if progress:
                progress(start + len(part), len(rows))
    return failed


def _recall(file: Path) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """Positions by name, times [N, 3] and digests [N, 16]; nothing where the file is absent or broken."""
    try:
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
            names = table["name"].to_pylist()
            times = np.stack([table[column].to_numpy() for column in _COLUMNS], axis=1)
            digests = np.frombuffer(b"".join(table[_DIGEST].to_pylist()), np.uint8).reshape(-1, BYTES)
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
        return {}, np.zeros((0, 3), np.int64), np.zeros((0, BYTES), np.uint8)
    return {name: position for position, name in enumerate(names)}, times, digests


def _remember(
    file: Path,
    known: dict[str, int],
    known_times: np.ndarray,
    known_digests: np.ndarray,
    names: Sequence[str],
    times: np.ndarray,
    digests: np.ndarray,
) -> None:
    """Write old and new. Of two processes that do so at once, one is forgotten, which costs reading files again."""
    renewed = set(names)
    old = {name: position for name, position in known.items() if name not in renewed}
    places = list(old.values())
    all_times = np.concatenate([known_times[places], times])
    all_digests = np.concatenate([known_digests[places], digests])
    columns = {"name": pa.array([*old, *names], pa.string())}
    columns |= {column: pa.array(all_times[:, index]) for index, column in enumerate(_COLUMNS)}
    columns[_DIGEST] = pa.array([row.tobytes() for row in all_digests], pa.binary(BYTES))
    table = pa.table(columns)
    with whole(file) as target, pa.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table)
