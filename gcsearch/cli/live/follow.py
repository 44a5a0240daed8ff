"""`gcsearch status SWEEP --follow`: a sweep that another process drives, shown until its session ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gcsearch.cli.live import view
from gcsearch.cli.live.observer import Observer
from gcsearch.cli.live.screen import Screen, can_draw
from gcsearch.cli.live.snapshot import Snapshot
from gcsearch.cli.render import print_pairs
from gcsearch.cli.streams import say
from gcsearch.errors import InputError
from gcsearch.sweep import gathering, interrupts
from gcsearch.sweep.lease import living
from gcsearch.sweep.state import read_status
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep, open_sweep

_LOOK = 1.0  # seconds between two looks
_MOVES = ("heartbeat", "per_minute", "seconds_left", "mlflow_lines")  # what changes although nothing has happened


def follow(name: str | None, store: str | Path | None, *, as_json: bool = False) -> None:
    """Show a running sweep until its session ends, and then how it ended. Ctrl-C ends this and not the sweep.

    On a terminal that is the display of `run`; elsewhere plain lines, or with `as_json` a `StatusEntry` a line each
    time that something has changed.

    Raises:
        InputError: there is no such sweep; without a name, not exactly one is running.
    """
    located = Store.locate(store)
    chosen = _chosen(name, located)
    draws = not as_json and sys.stdout.isatty() and can_draw()
    try:
        _wait_for_journal(chosen, located)
        sweep = open_sweep(chosen, store)
        _documents(sweep) if as_json else _draw(sweep) if draws else _lines(sweep)
    except (interrupts.SignalError, KeyboardInterrupt):
        say(f"{chosen} is not followed any more; whoever drives it goes on")
        return
    if not as_json:
        print_pairs(_ended(sweep))


def _chosen(name: str | None, store: Store) -> str:
    """The sweep that is meant: without a name, or with that of a matrix, the one that runs."""
    names = gathering.parts(name, store.root) if name else store.sweeps()
    if names == [name]:
        return names[0]
    running = [one for one in names if living(store.lease(one))]
    if len(running) != 1:
        raise InputError(
            "one sweep can be followed at a time",
            key="SWEEP",
            received=name or "no name",
            remedy=f"Running: {', '.join(running)}. Name one of them." if running else "None is running.",
        )
    return running[0]


def _wait_for_journal(name: str, store: Store) -> None:
    """Wait while a driver prepares a sweep that has no journal yet: its data are looked at, its images encoded."""
    if name in store.sweeps() or not living(store.lease(name)):
        return
    say(f"{name} is being prepared: its driver reads the data and encodes the images")
    while name not in store.sweeps() and living(store.lease(name)):
        _pause()


def _pause() -> None:
    time.sleep(_LOOK)


def _looks(sweep: Sweep) -> Iterator[Snapshot]:
    """The sweep a moment after another, while somebody drives it."""
    observer = Observer(sweep)
    while (now := observer.as_follower()).state in ("running", "stopping"):
        yield now
        _pause()


def _draw(sweep: Sweep) -> None:
    shown: list[Snapshot] = []
    with Screen(lambda: view.Frame(shown[-1]) if shown else None):
        for now in _looks(sweep):
            shown[:] = [now]


def _lines(sweep: Sweep) -> None:
    """A line at once where the stage is another, else where something has ended, at the pace of a piped run's."""
    last: tuple[float, Snapshot] | None = None
    for now in _looks(sweep):
        if last is None or _is_due(*last, now):
            print(view.sweep_line(now), flush=True)
            last = time.monotonic(), now


def _is_due(at: float, before: Snapshot, now: Snapshot) -> bool:
    """Whether a line is due where the last one was said `at` a time."""
    if (now.stage, now.state) != (before.stage, before.state):
        return True
    moved = (now.done, now.confirming) != (before.done, before.confirming)
    return moved and view.is_due(now.elapsed, time.monotonic() - at)


def _documents(sweep: Sweep) -> None:
    """A document a line: at the start, at each change, at the end."""
    last = None
    for _ in _looks(sweep):
        found = read_status(sweep).to_dict()
        facts = {key: value for key, value in found.items() if key not in _MOVES}
        if facts != last:
            print(json.dumps(found, allow_nan=False), flush=True)
            last = facts
    print(json.dumps(read_status(sweep).to_dict(), allow_nan=False), flush=True)


def _ended(sweep: Sweep) -> list[tuple[str, str]]:
    """How the sweep stands now that nobody drives it, and what goes on with it."""
    status = read_status(sweep)
    if status.state == "finished":
        return [*status.lines(), ("next", sweep.command("best"))]
    return [*status.lines(), ("next", sweep.command("resume"))]
