"""Images from files to tensors: in this process, or in decoding processes beside it."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from gcsearch.clip.preprocess import Draw, Preparation, random_view
from gcsearch.data import image_files
from gcsearch.data.image_files import UnreadableImage
from gcsearch.errors import RunError


def fixed(image: Image.Image, preparation: Preparation) -> Image.Image:
    """The fixed transform. UnreadableImage where an image is so thin that scaling it would fill the memory."""
    scaled = preparation.scaled(*image.size)
    image_files.check_pixels(*scaled, f"an image of {image.width} x {image.height} that would be scaled to ")
    return preparation.fixed(image)


def fault(source: str | Path | bytes, preparation: Preparation | None = None, *, exif: bool = False) -> str:
    """Why an image cannot be read, or prepared so; empty where it can."""
    try:
        image = image_files.read(source, exif=exif)
        if preparation is not None:
            fixed(image, preparation)
    except UnreadableImage as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Job:
    """Images to prepare one after another, each with the view that is drawn of it, None for the fixed transform.

    An image's views stand side by side: it is decoded once for all of them. `exif`: see `image_files.read`.
    """

    folder: str
    names: tuple[str, ...]
    draws: tuple[Draw | None, ...]
    preparation: Preparation
    exif: bool = False


@dataclass(frozen=True)
class Prepared:
    """Pixels [rows, S, S, 3] of a job, bytes; and why files could not be read, by name (their rows are zero)."""

    pixels: np.ndarray
    unreadable: dict[str, str]


def prepare(job: Job) -> Prepared:
    """Do a job."""
    size = job.preparation.size
    pixels = np.zeros((len(job.names), size, size, 3), np.uint8)
    unreadable: dict[str, str] = {}
    opened, image = "", None
    with image_files.own_limit():
        for row, (name, draw) in enumerate(zip(job.names, job.draws, strict=True)):
            try:
                if name != opened:
                    opened, image = name, None
                    image = image_files.read(Path(job.folder, name), exif=job.exif)
                if image is not None:
                    pixels[row] = np.asarray(_view(image, name, draw, job.preparation))
            except UnreadableImage as error:
                unreadable[name] = str(error)
    return Prepared(pixels, unreadable)


def _view(image: Image.Image, name: str, draw: Draw | None, preparation: Preparation) -> Image.Image:
    if draw is None:
        return fixed(image, preparation)
    # Each view has a generator of its own, so that its crop depends on nothing but itself.
    generator = np.random.default_rng([*draw, zlib.crc32(name.encode())])
    return random_view(image, preparation.size, generator)


def named(paths: Sequence[str], most: int = 20) -> str:
    """Paths for a message: all of a few, the first of many."""
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")


INLINE = 1024
"""Rows up to which no process is started by itself: that takes as long as opening a hundred photographs."""


def processes(wanted: int | str, rows: int, cores: int, *, gpu: bool) -> int:
    """How many processes open the images of `rows` rows; 0: a thread of this one does.

    "auto": none for a small job; beside a GPU all cores but one, at most 16; beside an encoder that computes on
    these cores itself one in eight, as a photograph costs it some ten times what opening it does.
    """
    if wanted != "auto":
        return int(wanted)
    if rows <= INLINE:
        return 0
    return min(max(cores - 1, 1), 16) if gpu else max(cores // 8, 1)


def prepared(jobs: Iterable[Job], decoders: int, ahead: int) -> Iterator[Prepared]:
    """The jobs' results in order, at most `ahead` jobs begun and not yet taken.

    Raises:
        RunError: a process died.
    """
    with ExitStack() as stack:
        pipes = [Pipe() for _ in range(decoders)]
        for ours, _ in pipes:
            stack.enter_context(ours)
        # One thread per process waits for it: what is done is taken off the socket at once. Without a process
        # one thread prepares the images itself; most of that frees the interpreter.
        threads = stack.enter_context(ThreadPoolExecutor(max(decoders, 1), thread_name_prefix="decoder"))
        # Entered last and so ended first: threads that wait for a process then wait no longer.
        idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for ours, theirs in pipes:
            idle.put(_Decoder(stack.enter_context(_started(theirs)), ours))
        waiting: deque[Future[Prepared]] = deque()
        stack.callback(lambda: [future.cancel() for future in waiting])
        for job in jobs:
            waiting.append(threads.submit(_ask, idle, job) if decoders else threads.submit(prepare, job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Decoder:
    """A process and our end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process, self.connection = process, connection

    def do(self, job: Job) -> Prepared:
        try:
            self.connection.send(job)
            shape, unreadable = self.connection.recv()
            pixels = np.frombuffer(self.connection.recv_bytes(), np.uint8).reshape(shape)
        except (EOFError, OSError):
            code = self.process.wait()
            raise RunError(
                f"a process that opens images ended by itself (exit code {code}; -9 is the system's answer to too "
                f"little memory) between {job.names[0]} and {job.names[-1]} of {job.folder}. What is encoded is "
                "kept and the same command goes on; fewer processes: resources.decoders, 0 for none"
            ) from None
        return Prepared(pixels, unreadable)


def _ask(idle: queue.SimpleQueue[_Decoder], job: Job) -> Prepared:
    decoder = idle.get()
    try:
        return decoder.do(job)
    finally:
        idle.put(decoder)


@contextmanager
def _started(end: Connection) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves at this end of a socket pair, which is its own from then on."""
    # The child finds this very package, wherever the parent found it; -P keeps other folders out.
    call = (
        f"import sys; sys.path[:] = {sys.path!r}; from gcsearch.data.image_loader import serve; serve({end.fileno()})"
    )
    # What Pillow would warn of it would warn of once per process, on the user's terminal.
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-W", "ignore", "-c", call], pass_fds=[end.fileno()], stdin=subprocess.DEVNULL
    )
    end.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def serve(descriptor: int) -> None:
    """What a process does: jobs in, pixels out, until the parent is gone."""
    # Ctrl-C is the parent's to handle: it closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        while True:
            done = prepare(connection.recv())
            connection.send((done.pixels.shape, done.unreadable))
            connection.send_bytes(done.pixels.data.cast("B"))
    except (EOFError, OSError):
        return
