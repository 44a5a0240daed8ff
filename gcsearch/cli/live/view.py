"""How a running sweep looks: a frame of lines for a terminal, none of which wraps, and single lines elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gcsearch.cli.live.snapshot import AtRung, Bar, Confirming, Measured, Running, Snapshot
from gcsearch.cli.render import near
from gcsearch.config.trials import Outcome
from gcsearch.results.tables.wording import counted, duration
from gcsearch.search.budget import Spent
from gcsearch.stats import plus_minus

TITLES = {
    "download": "downloading, MiB",
    "unpack": "unpacking",
    "data": "loading data and model",
    "write": "writing the data set",
    "check": "opening images",
    "nodes": "looking at the nodes",
    "digest": "reading image files",
    "features": "encoding images",
    "start": "starting the workers",
    "search": "searching",
    "recheck": "measuring the best again",
    "confirm": "confirming on test images",
    "report": "drawing the report",
    "export": "exporting the champion",
    "sync": "writing to MLflow",
    "train": "training",
    "predict": "classifying images",
    "sharpness": "measuring sharpness",
    "surface": "computing surfaces",
    "over": "ending",
}
"""Stages in words."""

SECONDS = 10.0
"""Between two plain lines, at least."""

_WIDEST = 100  # columns: a longer line is no easier to read
_WIDE = 60  # columns, below which a line has only what counts most
_LABEL = 10  # columns of what stands before a line


class _Part(NamedTuple):
    """A part of the bar of a search: how it is called, drawn (in ASCII in brackets), coloured, and how much it is."""

    name: str
    mark: str
    plain: str
    style: str
    amount: float


def _parts(now: Snapshot) -> list[_Part]:
    """The parts of the search's bar, from left to right; only those that are always there, or not nothing."""
    outcomes, running = now.outcomes, now.trials_running
    waiting = max(now.total - now.done - running, 0)
    every = [
        _Part("done", "▆", "#", "green", outcomes.get(Outcome.COMPLETE, 0)),
        _Part("pruned", "=", "=", "yellow", outcomes.get(Outcome.PRUNED, 0)),
        _Part("diverged", "~", "~", "magenta", outcomes.get(Outcome.DIVERGED, 0)),
        _Part("failed", "×", "x", "red", outcomes.get(Outcome.FAILED, 0)),
        _Part("running", "▂", "-", "cyan", running),
        _Part("to come", "·", ".", "dim", waiting),
    ]
    return [part for part in every if part.amount or part.name != "diverged"]


class Frame:
    """The lines of a sweep, or of a stage, as rich renders them: each is cut where the terminal ends."""

    def __init__(self, shown: Snapshot | Bar, doing: str = "") -> None:
        """`doing`: what is done now, where the snapshot does not say."""
        self.shown, self.doing = shown, doing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, _WIDEST)
        draw = _Pen(width, plain=options.ascii_only)
        lines = draw.sweep(self.shown, self.doing) if isinstance(self.shown, Snapshot) else draw.stage(self.shown)
        for line in lines:
            line.truncate(width, overflow="ellipsis")
            yield line


class _Pen:
    """Draws lines of a width; `plain`: in ASCII alone."""

    def __init__(self, width: int, *, plain: bool) -> None:
        self.width, self.plain = width, plain

    def stage(self, bar: Bar) -> Iterator[Text]:
        """A stage: its title, its bar, and how far it is, on one line; on a narrow terminal on two."""
        far = f"{bar.done:.0f} of {bar.total:.0f}" if bar.total else ""
        left = f"about {clock(bar.left)} left" if bar.left is not None else ""
        words = "  ".join(filter(None, (far, clock(bar.elapsed), left, bar.note)))
        title = Text(f"{bar.title}  ")
        if not bar.total:
            yield title.append(words)
            return
        room = self.width - title.cell_len - cell_len(words) - 2
        if room >= 10:
            yield title.append_text(self.bar(min(room, 40), bar.done, bar.total)).append(f"  {words}")
        else:
            yield title.append(words)
            yield self.bar(self.width, bar.done, bar.total)

    def bar(self, width: int, done: float, total: float) -> Text:
        marks = ("#", ".") if self.plain else ("▆", "·")
        cells = int(width * min(done / total, 1.0)) if total else 0
        return Text.assemble((marks[0] * cells, "cyan"), (marks[1] * (width - cells), "dim"))

    def sweep(self, now: Snapshot, doing: str) -> Iterator[Text]:
        """A sweep: its bar, the best so far, what runs where, what is used up, and what comes."""
        searching = now.stage == "search"
        yield self._head(now, doing)
        if searching or not now.confirming:
            yield from self._progress(now)
        else:
            yield self._counted(now.confirming.done, now.confirming.total, now.elapsed)
        yield from self._best(now)
        if searching:
            yield from self._searching(now)
        elif now.confirming:
            yield from self._compared(now.confirming)
        yield self.line("workers", workers(now))
        yield self.line("left", _left(now))
        if searching:
            if now.budget:
                yield self.line("budget", ", ".join(map(_spent, now.budget)))
            best = f"the best {now.next.top} again" if now.next.top > 1 else "the best"
            yield self.line("then", f"{best} with seeds {seeds_in_words(now.next.seeds)}, then on test images")
            if now.next.references:
                yield self.line("", f"beside {', '.join(now.next.references)}")
        if now.driver:
            yield self.line("driver", f"{now.driver}; epochs of what runs are shown there alone")
        yield self.line("log", near(now.log))

    def line(self, label: str, text: str | Text) -> Text:
        """A label and what it says."""
        return Text.assemble((f"{label:<{_LABEL if self.width >= _WIDE else _LABEL - 1}}", "dim"), text)

    def _head(self, now: Snapshot, doing: str) -> Text:
        state = doing or heading(now)
        title = Text.assemble((now.sweep, "bold"), f"  {now.title}")
        title.truncate(max(self.width - cell_len(state) - 2, len(now.sweep)), overflow="ellipsis")
        return title.append(" " * max(self.width - title.cell_len - cell_len(state), 2)).append(state, "bold cyan")

    def _counted(self, done: int, total: int, elapsed: float) -> Text:
        words = f"  {done} of {total}  {clock(elapsed)}"
        return self.bar(max(self.width - len(words), 0), done, total).append(words)

    def _progress(self, now: Snapshot) -> Iterator[Text]:
        """The bar of the search in parts, and how many each is."""
        parts, words = _parts(now), f"  {now.done} of {now.total}  {clock(now.elapsed)}"
        width = max(self.width - len(words), 0)
        bar = Text()
        for part, cells in zip(parts, shared_out([part.amount for part in parts], width), strict=True):
            bar.append(self._mark(part) * cells, part.style)
        yield bar.append(words)
        if self.width >= _WIDE:
            yield Text("  ").join(
                Text.assemble((self._mark(part), part.style), f" {part.amount:.0f} {part.name}") for part in parts
            )
        else:
            yield Text(" ").join(Text(f"{part.amount:.0f} {part.name}", part.style) for part in parts)

    def _mark(self, part: _Part) -> str:
        return part.plain if self.plain else part.mark

    def _best(self, now: Snapshot) -> Iterator[Text]:
        best = now.best
        if not best:
            yield self.line("best", "none yet")
            yield Text()
            return
        oracle = ", oracle: it looks at test images" if best.oracle else ""
        value = Text.assemble(f"t{best.number:04d}  ", (plus_minus(best.value), "bold"), f" {best.metric}{oracle}")
        yield self.line("best", value)
        yield self.line("", best.configuration)

    def _searching(self, now: Snapshot) -> Iterator[Text]:
        if now.rungs:
            yield self.line("rungs", ", ".join(map(_rung, now.rungs)))
        yield self.line("running", _running(now.running) or "nothing")

    def _compared(self, confirming: Confirming) -> Iterator[Text]:
        """What is compared, in two columns where there is room for them."""
        every = list(map(_compared, confirming.compared))
        half = ceil(len(every) / 2)
        columns = [_column(every[:half]), _column(every[half:])]
        if _LABEL + sum(max(map(cell_len, map(str, column)), default=0) for column in columns) + 4 > self.width:
            columns = [_column(every)]
        yield self.line("compares", f"{confirming.metric}, seeds {seeds_in_words(confirming.seeds)}")
        for row in itertools.zip_longest(*columns, fillvalue=Text()):
            line = self.line("", Text("    ").join(row))
            line.rstrip()
            yield line


def _compared(one: Measured) -> tuple[str, Text]:
    """A configuration of the confirmation, and its number or why it has none."""
    if one.value:
        return one.name, Text(plus_minus(one.value), "bold")
    return one.name, Text("runs", "cyan") if one.runs else Text("waits", "dim")


def _column(cells: Sequence[tuple[str, Text]]) -> list[Text]:
    """Names and what is said of them, one under the other and all equally long."""
    names = max((cell_len(name) for name, _ in cells), default=0)
    values = max((value.cell_len for _, value in cells), default=0)
    lines = [Text.assemble(f"{name:<{names}}  ", value) for name, value in cells]
    for line in lines:
        line.pad_right(names + 2 + values - line.cell_len)
    return lines


def seeds_in_words(seeds: Sequence[int]) -> str:
    """`4 to 8`, `4, 5, 9`."""
    in_a_row = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if in_a_row else ", ".join(map(str, seeds))


def shared_out(counts: Sequence[float], cells: int) -> list[int]:
    """So many cells for counts, in proportion: all of them, and at least one for whatever is not nothing."""
    total = sum(counts)
    if not total or cells < len(counts):
        return [0] * len(counts)
    given = [max(int(cells * count / total), int(count > 0)) for count in counts]
    while (missing := cells - sum(given)) != 0:
        # The largest lag, or lead, is mended first; of equal ones the left one's.
        lags = [cells * count / total - cell for count, cell in zip(counts, given, strict=True)]
        pick = max(range(len(given)), key=lambda i: lags[i] if missing > 0 else (given[i] > 1, -lags[i]))
        given[pick] += 1 if missing > 0 else -1
    return given


def clock(seconds: float | None) -> str:
    """`1:12`, `2:05:00`."""
    whole = ceil(seconds or 0)
    minutes, hours = whole // 60, whole // 3600
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def heading(now: Snapshot) -> str:
    """What is done now, or how the last session ended."""
    if now.state == "running":
        return TITLES[now.stage]
    return "stopping: what runs is finished" if now.state == "stopping" else now.state


def workers(now: Snapshot) -> str:
    """How many workers are busy, what each has, and how busy the GPUs are."""
    room, used = now.workers, ", ".join(now.devices)
    if room is None:
        return "the journal does not say"
    share = f"{room.gpus:g} GPU" if room.gpus else counted(room.threads, "thread")
    known = now.epochs or now.stage == "search"
    busy = f"{min(len(now.running), room.count)} of {room.count} busy" if known else counted(room.count, "worker")
    return f"{busy}, {share} each" + (f"; {used}" if used else "")


def _running(running: Sequence[Running]) -> str:
    """`t0032 to t0035 at 45 %`."""
    words = []
    for one in running:
        first, last = (f"t{number:04d}" for number in (one.numbers[0], one.numbers[-1]))
        names = first if first == last else f"{first} to {last}"
        words.append(names + (f" at {100 * one.share:.0f} %" if one.share is not None else ""))
    return ", ".join(words)


def _left(now: Snapshot) -> str:
    if now.confirming and now.confirming.done == now.confirming.total:
        return "the report, and what MLflow lacks"
    return f"about {clock(now.left)}" if now.left is not None else "not known yet"


def _rung(rung: AtRung) -> str:
    """`6 of 12 went on at 25 %`."""
    went = f"{rung.went} of {rung.came} went on" if rung.came else "none yet"
    return f"{went} at {100 * rung.share:.0f} %"


def _spent(one: Spent) -> str:
    """`3.2 of 30 minutes`."""
    used = f"{one.used:.1f}" if one.what in ("minutes", "device-seconds") else f"{one.used:.0f}"
    return f"{used} of {one.limit:g} {one.what}"


# --- Single lines -----------------------------------------------------------------------------------------


def is_due(elapsed: float, since: float) -> bool:
    """Whether a plain line is due, `since` seconds after the last: after ten, later after a tenth of all `elapsed`."""
    return since >= min(max(SECONDS, 0.1 * elapsed), 600.0)


def stage_line(bar: Bar) -> str:
    """How far a stage is: `encoding images: 120 of 560 after 20 seconds, about 70 seconds left, 85 images/s`."""
    parts = [f"{bar.done:.0f} of {bar.total:.0f}" if bar.total else "", f"after {duration(bar.elapsed)}"]
    words = " ".join(filter(None, parts))
    left = f"about {duration(bar.left)} left" if bar.left is not None else ""
    return f"{bar.title}: " + ", ".join(filter(None, (words, left, bar.note)))


def stage_done(bar: Bar) -> str:
    """What a stage took."""
    took = duration(bar.elapsed)
    return f"{bar.title}: {bar.total:.0f} in {took}" if bar.total else f"{bar.title} took {took}"


def sweep_line(now: Snapshot) -> str:
    """How far a sweep is, in one line."""
    if now.stage != "search" and now.confirming:
        words = [f"{now.confirming.done} of {now.confirming.total}"]
    else:
        others = (f"{part.amount:.0f} {part.name}" for part in _parts(now) if part.name not in ("done", "to come"))
        words = [f"{now.done} of {now.total} ended", *others]
    words[-1] += f" after {duration(now.elapsed)}"
    if now.left is not None:
        words.append(f"about {duration(now.left)} left")
    words += [_spent(one) for one in now.budget] if now.stage == "search" else []
    return f"{heading(now)}: {', '.join(words)}; best {best_words(now)}"


def sweep_done(stage: str, now: Snapshot, seconds: float) -> str:
    """What came of a stage of a sweep, and what it took."""
    took = duration(seconds)
    if stage == "search":
        ended = ", ".join(f"{count} {outcome.value}" for outcome, count in now.outcomes.items())
        return f"searched {counted(now.done, 'configuration')} in {took}: {ended}; best {best_words(now)}"
    again = "measured the best again" if stage == "recheck" else "confirmed on test images"
    return f"{again} in {took}"


def best_words(now: Snapshot) -> str:
    """The best so far, with its spread and its configuration."""
    if not now.best:
        return "none yet"
    oracle = ", oracle" if now.best.oracle else ""
    best = now.best
    return f"{best.metric} {plus_minus(best.value)} (t{best.number:04d}{oracle}: {best.configuration})"
