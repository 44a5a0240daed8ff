"""Tables and words to stdout: what the command line prints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gcsearch.data.feature_file import CachedFile
    from gcsearch.data.inspect import Finding
    from gcsearch.driver.plan import Plan
    from gcsearch.results.tables.table import Table
    from gcsearch.sweep.sweep import Sweep

Form = Literal["text", "markdown", "latex"]


def near(path: Path) -> str:
    """A path relative to the working folder where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def print_json(document: Any) -> None:
    """One JSON document."""
    print(json.dumps(document, indent=2, allow_nan=False))


def print_pairs(pairs: list[tuple[str, str]]) -> None:
    """Two columns; a text of several lines goes on under its own."""
    width = max(len(left) for left, _ in pairs)
    for left, right in pairs:
        lines = right.splitlines() or [""]
        print(f"{left:<{width}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':<{width}}  {line}")


def print_table(table: Table, form: Form = "text") -> None:
    """A table in a form, with its notes; of one without rows only the notes."""
    if form == "latex" and table.rows:
        from gcsearch.results.tables import latex

        print(latex.table(table))  # with the notes
        return
    if form == "markdown" and table.rows:
        from gcsearch.results.tables.markup import markdown

        print(markdown(table))
    elif table.rows:
        _print_text(table)
    for note in table.notes:
        print("\n" * (form == "markdown" and bool(table.rows)) + ("% " if form == "latex" else "") + note)


def _print_text(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width; a row must not be cut
    if table.title:
        print(table.title)
    cells, drawn = table.cells, RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(table.headings):
        # Numbers are never cut; a configuration may go on in the next line.
        widest = max(len(text) for text in (heading.title, *(row[index] for row in cells)))
        drawn.add_column(
            heading.title,
            justify="left" if heading.words else "right",
            no_wrap=not heading.wraps,
            min_width=None if heading.wraps else widest,
            overflow="fold",
        )
    for line, row in enumerate(cells):
        bold = [line in table.marked or (line, index) in table.strong for index in range(len(row))]
        # Text, because in a plain string rich takes brackets, as around tags, for markup.
        drawn.add_row(*(Text(cell, style="bold" if b else "") for b, cell in zip(bold, row, strict=True)))
    # Rather than lose a column, a row goes beyond the edge of a narrow terminal.
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), drawn).minimum)
    console.print(drawn)


def _named(titles: list[str], rows: list[list[str]], title: str = "", bad: frozenset[int] = frozenset()) -> Table:
    """A table whose first column holds names and whose others hold numbers; `bad` rows stand out."""
    from gcsearch.results.tables.table import Heading, Table

    headings = [Heading(text, words=index == 0) for index, text in enumerate(titles)]
    return Table(title, headings, rows, marked=bad)


def print_finals(sweep: Sweep) -> None:
    """The confirmed configurations of a sweep, and which one was chosen by what."""
    from gcsearch.results.comparison import commas, results_table
    from gcsearch.results.report.findings import headline
    from gcsearch.results.tables.wording import described
    from gcsearch.stats import plus_minus, spread

    task, search, champion = sweep.pipeline.task, sweep.pipeline.search, sweep.champion
    seeds = commas(seed for batch in sweep.confirmed_seeds for seed in batch)
    title = f"{task.title}, {task.backbone}, {task.shots} shots{', all classes' if task.classes == 'all' else ''}"
    title += f": accuracy on test images in %, mean ± sd over seeds {seeds}"
    print_table(results_table(sweep.finals, task, title, epochs=bool(search.cap)))
    print(f"champion  {described(champion.config)}")
    value = plus_minus(spread(champion.metrics.get(search.ranking_metric, ())))
    print(f"chosen by {search.chosen_by} {value} among {len(sweep.searched)} configurations")
    again = {record.number: record for record in sweep.rechecked}
    if champion.number in again:
        value = plus_minus(spread(again[champion.number].metrics.get(search.ranking_metric, ())))
        print(f"          and again among the best {len(again)}: {value} with the seeds above")
    verdict = headline(sweep.pipeline, sweep.searched, sweep.finals, champion.number)
    print("verdict   " + "\n          ".join(verdict))


def print_plans(plans: list[Plan]) -> None:
    """What the sweeps of a matrix would do, a row each, and how long all of them take one after another."""
    from gcsearch.sweep.state import duration

    rows = [
        [
            plan.name,
            f"{plan.settings} x {plan.seeds} seeds",
            str(plan.trained_classes),
            str(plan.images),
            str(plan.to_encode),
            duration(plan.seconds),
            f"{plan.peak_bytes / 2**20:.0f} MiB",
        ]
        for plan in plans
    ]
    titles = ["sweep", "configurations", "classes trained", "images", "to encode", "time", "memory"]
    print_table(_named(titles, rows))
    print(f"{len(plans)} sweeps, about {duration(sum(plan.seconds for plan in plans))} one after another")
    for plan in plans:
        for note in plan.notes:
            print(f"{plan.name}: {note}")


def print_inventory(findings: list[Finding]) -> None:
    """What `gcsearch data check` found: a row per data set, then in words what is wrong or worth knowing."""
    columns = ["", "classes", "train", "val", "test", "missing", "unreadable"]
    rows = [
        [finding.name, "-", "-", "-", "-", "-", "-"]
        if finding.problem
        else [finding.name]
        + [str(n) for n in (finding.classes, *finding.images.values(), len(finding.missing), len(finding.unreadable))]
        for finding in findings
    ]
    bad = frozenset(line for line, finding in enumerate(findings) if not finding.ok)
    print_table(_named(columns, rows, bad=bad))
    for finding in findings:
        lines = [finding.problem] if finding.problem else []
        lines += [f"missing     {path}" for path in finding.missing]
        lines += [f"unreadable  {path}: {reason}" for path, reason in finding.reasons.items()]
        lines += [f"leak        {pair}" for pair in finding.leaks]
        lines += finding.notes
        if lines:
            print_pairs([(finding.name, "\n".join(lines))])


def print_cache(found: list[CachedFile]) -> None:
    """Entries of the feature cache, a row each, and in words what is wrong with them."""
    columns = ["", "transform", "images", "views", "model", "MiB", "days"]
    for place in dict.fromkeys(one.place for one in found):
        here = [one for one in found if one.place == place]
        print_table(_named(columns, [_cells(one) for one in here], place))
    if any(one.problem for one in found):
        print_pairs([(one.name, one.problem) for one in found if one.problem])
    if not found:
        print("the cache is empty")


def _cells(one: CachedFile) -> list[str]:
    images, views = map(str, one.stated["shape"][:2]) if one.stated else ("-", "-")
    words = [one.name, one.stated.get("transform", "-"), images, views, one.stated.get("weights", "-")]
    return [*words, f"{one.bytes / 2**20:.1f}", f"{(time.time() - one.modified) / 86400:.1f}"]
