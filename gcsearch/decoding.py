"""Images opened and prepared in processes of their own, some way ahead of the encoder.

The processes are plain children that run `serve` on one end of a socket pair. They import neither torch nor the
caller's main module, so they start in a moment from any script, notebook or Ray worker; and they end with the
parent, however it ends, because the socket then closes.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np

from gcsearch.errors import RunError
from gcsearch.images import Job, Prepared, prepare

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
    call = f"import sys; sys.path[:] = {sys.path!r}; from gcsearch.decoding import serve; serve({end.fileno()})"
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
