"""The feature cache: images encoded once, kept as float16 in Arrow files, read by memory map.

An entry's key hashes all that its numbers depend on (weights, preparation, each file's path and content, views,
seed), so a stale entry is never found. Images are opened ahead of the encoder by processes of their own. Parts
are kept as they come, at boundaries that are always the same: what was interrupted goes on and ends in the same
bytes. One process makes an entry; others that want it wait for it.

Shapes: N images, V views, E embedding size, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcsearch.clip import preprocess
from gcsearch.clip.model import Backbone
from gcsearch.clip.preprocess import Draw
from gcsearch.config.provenance import cores
from gcsearch.data import digests, feature_file, image_files, image_loader
from gcsearch.data.datasets import Dataset, Progress
from gcsearch.data.feature_file import BrokenEntryWarning, CacheStorage, Partial
from gcsearch.data.image_loader import Job
from gcsearch.data.lists.splits import Item
from gcsearch.errors import InputError
from gcsearch.files import locked, write_whole

PART = 256  # rows written at a time
ON_PROCESSOR = 32  # rows encoded at a time there: more takes memory and no less time
JOB = 32  # rows given to a process at a time
AHEAD = 2 * PART // JOB  # jobs done and not yet encoded
READ_TO_LOOK = 4096  # files that are read to find out whether an entry is there
NEARLY_BLACK = 20  # of 255: twelve of sixteen bits come to 15, and scaling to a little more
POLL = 0.1  # seconds between two looks at an entry that another process makes


@dataclass(frozen=True)
class FeatureRequest:
    """Features that somebody wants: of `items` under the fixed transform, or `views` of each, drawn from `seed`."""

    dataset: Dataset
    items: Sequence[Item]
    seed: int | None = None
    views: int = 1

    @property
    def transform(self) -> str:
        return "centre" if self.seed is None else "random_view"

    @property
    def rows(self) -> int:
        return len(self.items) * self.views

    def draw(self, row: int) -> Draw | None:
        return None if self.seed is None else (self.seed, row % self.views)

    def job(self, rows: range, preparation: preprocess.Preparation, exif: bool) -> Job:
        """The images of some rows; row r is view r mod V of image r div V."""
        names = tuple(self.items[row // self.views].path for row in rows)
        return Job(str(self.dataset.images), names, tuple(map(self.draw, rows)), preparation, exif)


@dataclass(frozen=True)
class _Entry:
    """Something wanted, and the file that holds it."""

    wanted: FeatureRequest
    path: Path
    stated: dict[str, Any]

    @property
    def partial(self) -> Partial:
        row = 2 * self.stated["shape"][2]
        return Partial(self.path, self.stated["key"], part=PART * row, total=self.wanted.rows * row)


class _UnreadableError(Exception):
    """Images of a part could not be opened: why, by path."""

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__(failed)
        self.failed = failed


@dataclass(frozen=True)
class FeatureCache:
    """Encoded images of one backbone below one folder.

    `decoders`: processes that open images, see `image_loader.processes`. `shared`: where entries are looked for before
    they are made, and put afterwards, beside the folder. `exif`: images are turned as their EXIF orientation says.
    """

    folder: Path
    backbone: Backbone
    decoders: int | str = "auto"
    shared: CacheStorage | None = None
    exif: bool = False

    def fixed(self, dataset: Dataset, items: Sequence[Item], progress: Progress | None = None) -> Tensor:
        """Features [N, E] of `items` under the fixed transform, float16, read-only."""
        return self.get([FeatureRequest(dataset, items)], progress)[0][0]

    def get(self, wanted: Sequence[FeatureRequest], progress: Progress | None = None) -> list[Tensor]:
        """Features [V, N, E] of each, float16, read-only, on the pages of the files; what is missing is computed.

        Raises:
            InputError: images are missing or unreadable; all of them are found before this is said.
            RunError: a process that opens images died.
        """
        every = self._entries({id(one): one for one in wanted})
        found = {which: self._find(entry) for which, entry in every.items()}
        absent = {entry.path: entry for which, entry in every.items() if found[which] is None}
        self._make(list(absent.values()), progress or (lambda done, total: None))
        for which, entry in every.items():
            if found[which] is None:
                found[which] = self._find(entry)
            if found[which] is None:
                raise OSError(f"{entry.path} was written but does not verify; is the disk sound?")
        return [_tensor(found[id(one)]) for one in wanted]

    # --- What is there

    def missing(self, wanted: Sequence[FeatureRequest]) -> dict[Path, tuple[FeatureRequest, int]]:
        """What is wanted by entry, each once, and how many of its rows are still to be encoded. Encodes nothing.

        Files that are not remembered are read where they are few. Where they are many, nothing of them can be in this
        folder, and finding out whether another machine has encoded them would take as long as a run does for it.
        """
        found: dict[Path, tuple[FeatureRequest, int]] = {}
        for one in wanted:
            names = [item.path for item in one.items]
            if digests.unknown(one.dataset.images, names, self.memory) > READ_TO_LOOK:
                entry = self._entry(one, names, np.zeros((len(names), digests.BYTES), np.uint8))
                found[entry.path] = (one, one.rows)
                continue
            (entry,) = self._entries({id(one): one}).values()
            if entry.path not in found:
                found[entry.path] = (one, self._rows_missing(entry))
        return found

    def _rows_missing(self, entry: _Entry) -> int:
        if self._is_there(entry) or (self.shared and self.shared.has(entry.path)):
            return 0
        return entry.wanted.rows - entry.partial.bytes_there() // (2 * self.backbone.embedding_size)

    def seconds(self, wanted: FeatureRequest) -> float:
        """How long a row of what is wanted takes to be opened and encoded here: measured on its first images."""
        job = wanted.job(range(min(wanted.rows, ON_PROCESSOR)), self.backbone.preparation, self.exif)
        began = time.perf_counter()
        pixels = image_loader.prepare(job).pixels
        opening = (time.perf_counter() - began) / len(pixels)
        self._encode(pixels[:1])  # the first call takes longer
        began = time.perf_counter()
        self._encode(pixels)
        encoding = (time.perf_counter() - began) / len(pixels)
        if self.backbone.tower.device.type == "cuda":
            return max(
                encoding, opening / max(image_loader.processes(self.decoders, wanted.rows, cores(), gpu=True), 1)
            )
        return encoding + opening / cores()  # the encoder has all cores, and shares them with what opens images

    def contents(
        self, wanted: Sequence[FeatureRequest], progress: Progress | None = None
    ) -> list[tuple[np.ndarray, dict[str, str]]]:
        """For each of what is wanted, digests of what its files contain, and why files cannot be read.

        The files of a folder are looked at together, each once, and those that are new are read; see
        `digests.of_files`.
        """
        rows: dict[Path, dict[str, int]] = {}
        for one in wanted:
            known = rows.setdefault(one.dataset.images, {})
            for item in one.items:
                known.setdefault(item.path, len(known))
        found = {folder: digests.of_files(folder, list(known), self.memory, progress) for folder, known in rows.items()}
        contents = []
        for one in wanted:
            known, (every, failed) = rows[one.dataset.images], found[one.dataset.images]
            names = [item.path for item in one.items]
            positions = np.array([known[name] for name in names], dtype=np.int64)
            contents.append((every[positions], {name: failed[name] for name in names if name in failed}))
        return contents

    @property
    def memory(self) -> Path:
        """Where digests of files are remembered."""
        return self.folder / "digests"

    def _entries(self, wanted: dict[int, FeatureRequest]) -> dict[int, _Entry]:
        """The entries by identity of what is wanted. InputError, naming all, where files cannot be read."""
        made: dict[int, _Entry] = {}
        failed: dict[str, str] = {}
        contents = self.contents(list(wanted.values()))
        for (which, one), (found, missing) in zip(wanted.items(), contents, strict=True):
            failed |= {str(one.dataset.images / name): reason for name, reason in missing.items()}
            made[which] = self._entry(one, [item.path for item in one.items], found)
        if failed:
            raise self._refusal(failed, sum(len(one.items) for one in wanted.values()))
        return made

    def _entry(self, wanted: FeatureRequest, names: Sequence[str], contents: np.ndarray) -> _Entry:
        """All that the numbers depend on goes into the key; the rest of what is stated is for people."""
        files = hashlib.blake2b("\n".join(names).encode(), digest_size=20)
        files.update(contents.tobytes())
        depends = {
            "format": feature_file.FORMAT,
            "weights": self.backbone.fingerprint,
            "preparation": asdict(self.backbone.preparation),
            "draws": [wanted.transform, wanted.seed, wanted.views],
            "files": files.hexdigest(),
            **({"exif": True} if self.exif else {}),  # left out otherwise: entries of before there was a choice stay
        }
        key = hashlib.blake2b(json.dumps(depends, sort_keys=True).encode(), digest_size=20).hexdigest()
        stated = {
            "key": key,
            "shape": [len(wanted.items), wanted.views, self.backbone.embedding_size],
            "dataset": wanted.dataset.name,
            "transform": wanted.transform,
            "weights": self.backbone.fingerprint,
        }
        path = self.folder / feature_file.file_of(wanted.dataset.name, wanted.transform, key)
        return _Entry(wanted, path, stated)

    def _find(self, entry: _Entry) -> np.ndarray | None:
        return feature_file.read(entry.path, entry.stated)

    # --- What is made

    def _make(self, absent: Sequence[_Entry], progress: Progress) -> None:
        """Compute, or copy from the shared place, what is not there; wait for what another process computes."""
        image_files.pixel_limit()  # a wrong one is to be refused here, and not in a process that opens images
        total, before = sum(entry.wanted.rows for entry in absent), 0
        for entry in absent:

            def show(rows: int, before: int = before) -> None:
                progress(before + rows, total)

            with self._alone(entry, show):
                if not self._is_there(entry) and not self._fetched(entry):
                    try:
                        self._compute(entry, show)
                    except _UnreadableError as error:
                        raise self._search_unreadable(absent, error.failed) from None
                    self._offer(entry)
            before += entry.wanted.rows
            progress(before, total)

    def _is_there(self, entry: _Entry) -> bool:
        """Whether another process has made the entry meanwhile. What is broken has been named already."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BrokenEntryWarning)
            return self._find(entry) is not None

    @contextmanager
    def _alone(self, entry: _Entry, show: Callable[[int], None]) -> Iterator[None]:
        """Hold the entry's lock; while another process has it, show how far that one is."""
        lock = self.folder / ".locks" / entry.path.stem
        row = 2 * entry.stated["shape"][2]
        most = 0  # what another process has done must not seem undone while its parts become the entry
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(lock, wait=False))
                    break
                except BlockingIOError:
                    most = max(most, entry.partial.bytes_there() // row)
                    show(most)
                    time.sleep(POLL)
            yield

    def _compute(self, entry: _Entry, show: Callable[[int], None]) -> None:
        wanted, partial = entry.wanted, entry.partial
        done = min(partial.resume() * PART, wanted.rows)
        show(done)
        gpu = self.backbone.tower.device.type == "cuda"
        jobs = [wanted.job(rows, self.backbone.preparation, self.exif) for rows in _slices(range(done, wanted.rows))]
        decoders = min(image_loader.processes(self.decoders, wanted.rows - done, cores(), gpu=gpu), len(jobs))
        pixels: list[np.ndarray] = []
        black: list[str] = []
        for job, result in zip(jobs, image_loader.prepared(jobs, decoders, AHEAD), strict=True):
            if result.unreadable:
                folder = wanted.dataset.images
                raise _UnreadableError({str(folder / name): why for name, why in result.unreadable.items()})
            pixels.append(result.pixels)
            black += [job.names[row] for row in np.flatnonzero(result.pixels.max(axis=(1, 2, 3)) < NEARLY_BLACK)]
            gathered = sum(map(len, pixels))
            if gathered in (PART, wanted.rows - done):
                partial.append(self._encode(np.concatenate(pixels)))
                done, pixels = done + gathered, []
                show(done)
        partial.finish(entry.stated, self.backbone.embedding_size)
        _warn_of_black(wanted, black)

    def _encode(self, pixels: np.ndarray) -> np.ndarray:
        """[N, S, S, 3] bytes to features [N, E], float16."""
        device = self.backbone.tower.device
        size = len(pixels) if device.type == "cuda" else ON_PROCESSOR
        mean, std = (torch.tensor(values, device=device) for values in (self.backbone.mean, self.backbone.std))
        encoded = []
        for part in torch.from_numpy(pixels).split(size):
            values = part.to(device).permute(0, 3, 1, 2).float() / 255
            values = (values - mean[:, None, None]) / std[:, None, None]
            encoded.append(self.backbone.encode_images(values).half())
        return torch.cat(encoded).cpu().numpy()

    # --- What cannot be read

    def _search_unreadable(self, absent: Sequence[_Entry], failed: dict[str, str]) -> InputError:
        """Open every image that is still to be encoded: the user is to hear of all unreadable ones, not of `failed`."""
        paths = sorted({entry.wanted.dataset.images / item.path for entry in absent for item in entry.wanted.items})
        look = partial(image_loader.fault, preparation=self.backbone.preparation, exif=self.exif)
        with ThreadPoolExecutor() as threads:  # decoding frees the interpreter
            others = {str(path): why for path, why in zip(paths, threads.map(look, paths), strict=True) if why}
        return self._refusal(others | failed, len(paths))

    def _refusal(self, failed: dict[str, str], total: int) -> InputError:
        listed = self.folder / "unreadable.txt"
        write_whole(listed, "".join(f"{path}\t{reason}\n" for path, reason in sorted(failed.items())))
        return InputError(
            f"every image must be readable; {len(failed)} of {total} are not (all of them in {listed})",
            received=image_loader.named([f"{path} ({reason})" for path, reason in sorted(failed.items())]),
            remedy="Replace these files, or take them out of the split; `gcsearch data check ROOT --verify` "
            "opens those of every list.",
        )

    # --- The shared place

    def _fetched(self, entry: _Entry) -> bool:
        """Whether the shared place had the entry, whole; it lies in the folder then."""
        if self.shared is None:
            return False
        try:
            there = self.shared.fetch(entry.path)
        except OSError as error:
            self._warn_once(f"{entry.path.name} could not be read from it and is computed here", error)
            return False
        return there and self._find(entry) is not None

    def _offer(self, entry: _Entry) -> None:
        if self.shared is None:
            return
        try:
            self.shared.offer(entry.path)
        except OSError as error:
            self._warn_once(f"{entry.path.name} could not be put there and is on this machine alone", error)

    def _warn_once(self, what: str, error: OSError) -> None:
        place = self.shared.place if self.shared else ""
        warnings.warn(f"shared cache {place}: {what} ({error})", UserWarning, stacklevel=2)


def _warn_of_black(wanted: FeatureRequest, black: Sequence[str]) -> None:
    """Say it where most of the images are nearly black: what is learned of them is mostly noise."""
    if 2 * len(black) > wanted.rows:
        # The same text for each list and kind of view, so that it is said once.
        text = f"most images of {wanted.dataset.name} are nearly black"
        remedy = "grey images of 16 bits count by their whole range: scale those that use a part of it"
        warnings.warn(f"{text}; {remedy}", UserWarning, stacklevel=2)


def _slices(rows: range) -> Iterator[range]:
    """Jobs of some rows, none of which reaches over the end of a part."""
    for part in range(rows.start, rows.stop, PART):
        stop = min(part + PART, rows.stop)
        yield from (range(start, min(start + JOB, stop)) for start in range(part, stop, JOB))


def _tensor(rows: np.ndarray | None) -> Tensor:
    """[N, V, E] as a tensor [V, N, E] on the same memory."""
    with warnings.catch_warnings():
        # The pages are read-only and stay so: features are never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows).transpose(0, 1)
