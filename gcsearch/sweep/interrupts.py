"""Signals in one place: how SIGINT, SIGTERM and SIGHUP end what a process does, and when they have to wait.

    who                             signals         what a signal does                        set by
    a command, from its first line  INT TERM HUP    raises SignalError                        catch
    a driver, in a block            INT TERM HUP    raises KeyboardInterrupt; at the block's  handled
                                                    end what it did before
    a driver, in Ray's C code       TERM            what it did before, whatever Ray sets     kept_in_c
    a driver, in Ray Tune           USR1            what it did before, whatever Tune sets    kept
    a command that ends             INT TERM HUP    nothing                                   farewell
    the keeper of MLflow's server   INT TERM HUP    nothing; its children do not inherit it   outlived
    a process that opens images     INT             nothing: its parent closes its socket     data.image_loader.serve

Ray bears no exception but KeyboardInterrupt inside its own calls, so that is what a signal raises while a sweep runs;
what the caller's own handler, or the default one, does comes when everything has been put away.
"""

from __future__ import annotations

import _thread
import _weakrefset
import contextlib
import ctypes
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PATIENCE = 20.0
"""Seconds in which a second signal changes nothing: the first one is being obeyed. A later one interrupts again."""


_LONGEST = 10.0
"""Seconds that a signal waits at most for the end of an import: a scheduler kills half a minute after SIGTERM."""


class _State:
    """What this process knows of signals; only its main thread, where handlers run, changes it."""

    depth = 0  # blocks of `handled` that are open
    held = 0  # blocks of `held` that are open
    waiting = False  # an interrupt has come while one was
    first: int | None = None  # the signal that ends the outermost block
    at = 0.0  # when it came, or the last one that was obeyed
    woken = False  # `wake` was called, and its signal has not come yet
    below = 0  # frames below the outermost block in which an exception would be lost, see `_bears`
    since = 0.0  # when an interrupt came that waits for a frame which bears it; 0 where none does
    caught = 0.0  # when `catch` raised last
    number = 0  # the signal that it raised, or is to raise
    ignored: frozenset[int] = frozenset()  # signals that were ignored before the block
    advice = ""  # what to do after an interruption


_state = _State()


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _state.woken and number == signal.SIGINT:
        _state.woken = False
        _interrupt(frame)
        return
    if number in _state.ignored:
        return
    now = time.monotonic()
    if _state.first is not None and now - _state.at < PATIENCE:
        return
    _state.first, _state.at = _state.first or number, now
    _interrupt(frame)


def _interrupt(frame: FrameType | None) -> None:
    if _state.held and not _state.waiting:
        _state.waiting = True
        return
    now = time.monotonic()
    _state.since = _state.since or now
    if not _bears(frame) and now - _state.since < _LONGEST:
        _state.woken = True
        _again(signal.SIGINT, lambda: _state.woken)
        return
    _state.since = 0.0
    raise KeyboardInterrupt


def _bears(frame: FrameType | None) -> bool:
    """Whether what runs in `frame` can be ended by an exception."""
    return _frail(frame) <= _state.below


def _frail(frame: FrameType | None) -> int:
    """Frames at and below `frame` in which an exception is lost or does harm.

    A module that is cut off in the middle of its import may end the process from C (torch), never come to an end
    (numpy), or swallow what was raised; and Python itself only prints what finalizers and weak references raise.
    """
    count = 0
    while frame is not None:
        code = frame.f_code
        count += code.co_filename.startswith("<frozen importlib") or code.co_name == "__del__"
        count += code.co_filename in (weakref.__file__, _weakrefset.__file__)
        frame = frame.f_back
    return count


def _again(number: int, wanted: Callable[[], bool]) -> None:
    """Send the signal `number` to the main thread in a moment, if it is still `wanted`."""
    main = threading.main_thread().ident or 0

    def send() -> None:
        time.sleep(0.005)
        if wanted():
            signal.pthread_kill(main, number)

    _thread.start_new_thread(send, ())  # Thread.start takes a lock that the main thread may hold at this moment


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """A signal raises KeyboardInterrupt in the block, and does what it did before once the block has ended.

    One that was ignored before, as SIGHUP under `nohup`, stays so; but for SIGINT. Blocks may stand in each
    other: the outermost one counts. Outside the main thread, where no handler can be set, nothing is done.
    """
    if not _in_main():
        yield
        return
    if _state.depth:
        _state.depth += 1
        try:
            yield
        finally:
            _state.depth -= 1
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _state.depth, _state.first, _state.waiting, _state.woken = 1, None, False, False
    below, _state.below, _state.since = _state.below, _frail(sys._getframe()), 0.0
    # A script that sends a sweep to the background has SIGINT ignored there; whoever sends one all the same means it.
    ignored = {number for number, handler in before.items() if handler is signal.SIG_IGN}
    _state.ignored = frozenset(ignored - {signal.SIGINT})
    try:
        for number in SIGNALS:
            signal.signal(number, _on_signal)
        yield
    finally:
        _state.depth, _state.below, _state.woken = 0, below, False
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if (came := received()) is not None:
            signal.raise_signal(came)


def received() -> int | None:
    """The signal that has come in the outermost block of `handled`, or in the one that ended last."""
    return _state.first


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A signal waits for the end of the block, for PATIENCE seconds at most: then the next one interrupts it."""
    if not _in_main() or not _state.depth:
        yield
        return
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
        if not _state.held and _state.waiting:
            _state.waiting = False
            raise KeyboardInterrupt


def wake() -> None:
    """End what the main thread does in a block of `handled` with KeyboardInterrupt. May be called from any thread."""
    if _state.depth:
        _state.woken = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextlib.contextmanager
def kept_in_c(number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Keep the process's handler of a signal while a library in C may put another in its place.

    Ray's core worker sets SIGTERM when it starts, and sets it back to the system's default when it ends: that kills
    the process, and Python never hears of it.  Python can set handlers in the main thread only, which is inside
    Ray at that moment, so another one looks every two milliseconds and puts back what was there.
    """
    if not _in_main():
        yield
        return
    python, library = signal.getsignal(number), ctypes.CDLL(None)
    size = 512  # more than any system's struct sigaction
    mine, present = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    library.sigaction(int(number), None, mine)
    over = threading.Event()

    def put_back() -> None:
        library.sigaction(int(number), None, present)
        if present.raw != mine.raw:
            library.sigaction(int(number), mine, None)

    def watch() -> None:
        while not over.wait(0.002):
            put_back()

    watching = threading.Thread(target=watch, name="gcsearch-signals", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        signal.signal(number, python)  # Ray sets one of Python's, too
        put_back()


@contextlib.contextmanager
def kept(number: signal.Signals) -> Iterator[None]:
    """Give a signal back the handler that it has now, once the block has ended."""
    if not _in_main():
        yield
        return
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, handler)


def outlived() -> None:
    """Let signals do nothing to this process from now on. Other than SIG_IGN, a child does not inherit this."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)


class SignalError(BaseException):
    """A signal, as an exception that no handler for errors swallows."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def catch() -> None:
    """Raise SignalError where a signal comes from now on; signals that are ignored stay so.

    For PATIENCE seconds further ones change nothing: the first is being obeyed.
    """
    _state.below, _state.since, _state.caught = _frail(sys._getframe()), 0.0, 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if _state.caught and now - _state.caught < PATIENCE:
            return
        if not _state.since:
            _state.since, _state.number = now, number
        if not _bears(frame) and now - _state.since < _LONGEST:
            _again(number, lambda: True)
            return
        _state.since, _state.caught = 0.0, now
        raise SignalError(_state.number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)


def obey() -> None:
    """Raise the SignalError of `catch` that waits for the end of an import."""
    if _state.since:
        _state.since, _state.caught = 0.0, time.monotonic()
        raise SignalError(_state.number)


def advise(text: str) -> None:
    """Have `farewell` say what goes on after an interruption. Whoever knows better says it later."""
    _state.advice = text


def farewell(number: int) -> int:
    """Say on stderr that a signal has ended this process; its exit code. No further one hinders that."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    advice = f"; {_state.advice}" if _state.advice else ""
    sys.stderr.write(f"gcsearch: interrupted by {signal.Signals(number).name}{advice}\n")
    return 128 + number
