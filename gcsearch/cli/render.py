"""Results in words and tables, to stdout: what the command line prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gcsearch.config.metrics import Column
    from gcsearch.config.task import Task
    from gcsearch.config.trials import TrialRecord
    from gcsearch.data.feature_file import Found
    from gcsearch.data.inspect import Finding
    from gcsearch.driver.plan import Plan
    from gcsearch.results.averages import AverageRow, AverageTable
    from gcsearch.results.beside import Beside, Line
    from gcsearch.results.comparison import ComparedRow, TaskGroup
    from gcsearch.results.documents import Predictions, Sharpnesses
    from gcsearch.results.ranking import RankedTrial
    from gcsearch.sweep.sweep import Sweep


_WORDS = ("configuration", "searched in", "seeds", "published in", "beside", "class")  # columns that are no numbers


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


def _table(title: str, columns: list[str], rows: list[list[str]], strong: Callable[[int, int], bool]) -> None:
    """Print a table; `strong` says which cells, by row and column, are bold."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width; a row must not be cut
    if title:
        print(title)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        # Numbers are never cut; a configuration may go on in the next line.
        table.add_column(
            column,
            justify="left" if index == 0 or column in _WORDS else "right",
            no_wrap=column != "configuration",
            min_width=None if column == "configuration" else max(len(row[index]) for row in [*rows, columns]),
            overflow="fold",
        )
    for line, row in enumerate(rows):
        # Text, because in a plain string rich takes brackets, as around tags, for markup.
        table.add_row(*(Text(cell, style="bold" if strong(line, i) else "") for i, cell in enumerate(row)))
    # Rather than lose a column, a row goes beyond the edge of a narrow terminal.
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), table).minimum)
    console.print(table)


def _plus_minus(values: tuple[float, ...]) -> str:
    from gcsearch.stats import plus_minus, spread

    return plus_minus(spread(values))


def print_results(records: list[TrialRecord], task: Task, title: str = "", *, epochs: bool = False) -> None:
    """What the protocol of `task` measures of records of one stage, a row each, with how long it ran if `epochs`."""
    from gcsearch.config.metrics import columns
    from gcsearch.config.trials import Role
    from gcsearch.results.comparison import tagged

    shown = columns(task, records[0].stage if records else "test")
    rows = [[tagged(record), *(_plus_minus(record.metrics.get(c.metric, ())) for c in shown)] for record in records]
    titles = ["", *(column.title for column in shown)]
    if epochs:
        titles.append("epochs")
        rows = [[*row, str(record.epochs or "-")] for row, record in zip(rows, records, strict=True)]
    _table(title, titles, rows, lambda line, _: records[line].role is Role.CHAMPION)


def print_finals(sweep: Sweep) -> None:
    """The confirmed settings of a sweep, and which one was chosen by what."""
    from gcsearch.results.comparison import described

    task, seeds = sweep.pipeline.task, [seed for batch in sweep.confirmed_seeds for seed in batch]
    print_results(
        sweep.finals,
        task,
        f"{task.title}, {task.backbone}, {task.shots} shots{', all classes' if task.classes == 'all' else ''}: "
        "accuracy on test images in %, "
        f"mean ± sd over seeds {', '.join(map(str, seeds))}",
        epochs=bool(sweep.pipeline.search.cap),
    )
    print(f"champion  {described(sweep.champion.config)}")
    search = sweep.pipeline.search
    value = _plus_minus(sweep.champion.metrics.get(search.ranking_metric, ()))
    print(f"chosen by {search.chosen_by} {value} among {len(sweep.records)} settings")
    again = {record.number: record for record in sweep.rechecked}
    if sweep.champion.number in again:
        value = _plus_minus(again[sweep.champion.number].metrics.get(search.ranking_metric, ()))
        print(f"          and again among the best {len(again)}: {value} with the seeds above")
    print("verdict   " + "\n          ".join(_verdict(sweep)))


def _verdict(sweep: Sweep) -> list[str]:
    """What the confirmed numbers allow to say, a sentence each."""
    from gcsearch.results.report.findings import headline

    return headline(sweep.pipeline, sweep.records, sweep.finals, sweep.champion.number)


def print_ranking(sweep: Sweep, top: int) -> None:
    """The best `top` settings of a sweep."""
    from gcsearch.config.metrics import columns
    from gcsearch.results.comparison import described
    from gcsearch.stats import number

    ranking, search = sweep.ranking, sweep.pipeline.search
    accuracies = [column.metric for column in columns(sweep.pipeline.task, search.stage)]
    beside = accuracies if search.ranking_metric not in accuracies else []  # a margin alone says little
    shown = list(dict.fromkeys((search.ranking_metric, *search.objectives, *beside)))
    several = bool(sweep.pipeline.task.also)

    def regret(row: RankedTrial) -> list[str]:
        return ["-" if row.worst_regret is None else number(row.worst_regret)] if several else []

    rows = [
        [
            str(row.rank or "-") + (" *" if row.front else ""),
            f"t{row.record.number:04d}",
            *(_plus_minus(row.record.metrics.get(name, ())) for name in shown),
            *regret(row),
            row.record.outcome.value,
            described(row.record.config) + (f"  ({row.record.label})" if row.record.label else ""),
        ]
        for row in ranking[:top]
    ]
    title = f"{sweep.name}: {len(ranking)} settings by {search.chosen_by}, mean ± sd over seeds"
    title += "; * on the front" if len(search.objectives) > 1 else ""
    headings = ["rank", "trial", *shown, *(["worst regret"] if several else []), "outcome", "configuration"]
    _table(title, headings, rows, lambda line, _: line == 0)


def print_group(group: TaskGroup, groups: list[TaskGroup], *, form: Form = "text") -> None:
    """One part of a comparison. Where rows differ in their seeds, each shows its own."""
    from gcsearch.results.comparison import heading

    seeds = " or ".join(_commas(some) for some in group.seeds)
    named = heading(group, groups, _title(str(group.task["dataset"]), form))
    title = f"{named}: accuracy on test images in %, mean ± sd over seeds {seeds}"
    words = ["", "searched in", "seeds"] if len(group.seeds) > 1 else ["", "searched in"]
    rows = [
        [row.name, ", ".join(row.sweeps), _commas(row.record.seeds)][: len(words)]
        + [_plus_minus(row.per_seed(column.key)) for column in group.columns]
        for row in group.rows
    ]
    label = _label([heading(one, groups) for one in groups], groups.index(group)) if form == "latex" else ""
    _draw_compared(title, words, group.columns, rows, group.rows, form, label)


def _title(dataset: str, form: Form) -> str:
    """The data set's name in a table: its key, in LaTeX its proper name."""
    if form != "latex":
        return dataset
    from gcsearch.data.datasets import title_of  # late: it brings numpy, which a comparison alone does not need

    return title_of(dataset)


def _label(headings: Sequence[str], index: int, *words: str) -> str:
    """The label of the table at `index`, which no other of these tables has."""
    from gcsearch.results import latex

    labels = [latex.label(*words, one) for one in headings]
    twice = labels.count(labels[index]) > 1
    return f"{labels[index]}-{index + 1}" if twice else labels[index]


def _draw_compared(
    title: str,
    words: list[str],
    columns: Sequence[Column],
    cells: list[list[str]],
    rows: Sequence[ComparedRow | AverageRow],
    form: Form,
    label: str,
) -> None:
    """Draw `rows` from their `cells`, the best of each column bold, behind it the differences where rows have any."""
    keys = [*words, *(column.key for column in columns)]
    titles = [*words, *(_title(column.title, form) for column in columns)]
    notes: list[str] = []
    other = next((row.against for row in rows if row.against), None)
    if other:
        titles += [f"{other.column.title} beside {other.name}", "p"]
        cells = [[*line, *_beside_another(row)] for line, row in zip(cells, rows, strict=True)]
        keys += ["", ""]
        notes = [
            f"* The 95 % interval of the difference to {other.name}, paired by seed, leaves out zero. "
            "p is that of Wilcoxon's signed-rank test and does not decide the star."
        ]
        if form != "latex":
            title += "; * the 95 % interval of the difference leaves out zero"
    _draw(form, title, titles, cells, lambda line, i: keys[i] in rows[line].best, label=label, notes=notes)


def _beside_another(row: ComparedRow | AverageRow) -> list[str]:
    """The paired difference with its 95 % interval, marked where that leaves out zero, and Wilcoxon's p."""
    import math

    from gcsearch.stats import number, p_value

    if row.against is None:
        return ["", ""]
    lead = row.against.lead
    if lead is None:
        return ["no common seed", ""]
    if math.isnan(lead.low):
        return [f"{number(lead.mean, signed=True)} (one seed)", ""]
    mean, low, high = (number(value, signed=True) for value in (lead.mean, lead.low, lead.high))
    return [f"{mean} [{low}, {high}]{'*' if lead.distinguishable else ''}", p_value(lead.p)]


def print_averages(table: AverageTable, others: Sequence[AverageTable] = (), *, form: Form = "text") -> None:
    """Each method over all data sets. Where the methods differ in their seeds, each shows its own.

    `others` are all tables of averages that are printed together, this one among them.
    """
    names = ", ".join(_title(name, form) for name in table.datasets)
    title = f"{'Mean' if form == 'latex' else 'mean'} over {len(table.datasets)} data sets ({names}), "
    title += "mean ± sd over seeds"
    words = ["", "seeds"] if len({row.seeds for row in table.rows}) > 1 else [""]
    rows = [
        [row.name, _commas(row.seeds)][: len(words)] + [_plus_minus(row.values.get(c.key, ())) for c in table.columns]
        for row in table.rows
    ]
    every = list(others) or [table]
    headings = [f"{len(one.datasets)} data sets {one.task['backbone']} {one.task['shots']} shots" for one in every]
    label = _label(headings, every.index(table), "mean over") if form == "latex" else ""
    _draw_compared(title, words, table.columns, rows, table.rows, form, label)


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
    titles = ["sweep", "settings", "classes trained", "images", "to encode", "time", "memory"]
    _table("", titles, rows, lambda *_: False)
    print(f"{len(plans)} sweeps, about {duration(sum(plan.seconds for plan in plans))} one after another")
    for plan in plans:
        for note in plan.notes:
            print(f"{plan.name}: {note}")


def print_beside(found: Beside, group: TaskGroup, groups: list[TaskGroup], *, form: Form = "text") -> None:
    """Published numbers and ours in pairs of columns; a question mark behind what is only recalled."""
    from gcsearch.results.comparison import heading

    columns = ["", "published in", "beside"]
    for column in found.columns:
        columns += ["H" if column == "h" else column, "ours"]
    rows = []
    for line in found.lines:
        cells = [line.result.title, line.source, line.row.name if line.row else "-"]
        for column in found.columns:
            value, certainty = line.cells[column]
            cells += [f"{value:.2f}" + "?" * (certainty == "recalled"), _plus_minus(line.ours(column))]
        rows.append(cells)
    recalled = any(cell.certainty == "recalled" for line in found.lines for cell in line.cells.values())
    words = ["? recalled and not found in a text: provisional"] if recalled else []
    words += [f"Mind: {found.caution}."] if found.caution else []
    words += [f"Not beside published numbers: {found.difference}."] if found.difference else []
    print()
    if rows and form == "latex":
        label = _label([heading(one, groups) for one in groups], groups.index(group), "published")
        title = f"Published accuracy in %, and ours: {heading(group, groups, _title(str(group.task['dataset']), form))}"
        _draw(form, title, columns, rows, lambda line, column: False, label=label, notes=words)
        return
    if rows:
        _draw(form, "published accuracy in %, and ours", columns, rows, lambda line, column: False)
    for sentence in words:
        print("\n" * (form == "markdown" and bool(rows)) + ("% " if form == "latex" else "") + sentence)


def _commas(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


def _print_markdown(title: str, columns: list[str], rows: list[list[str]], strong: Callable[[int, int], bool]) -> None:
    print(f"{_markdown(title)}\n")
    print("| " + " | ".join(map(_markdown, columns)) + " |")
    print("|" + "|".join("---" if index == 0 or name in _WORDS else "---:" for index, name in enumerate(columns)) + "|")
    for line, row in enumerate(rows):
        safe = [_markdown(cell) for cell in row]
        print("| " + " | ".join(f"**{cell}**" if strong(line, i) else cell for i, cell in enumerate(safe)) + " |")


def _markdown(text: str) -> str:
    """Text that ends no cell, begins no HTML and no code; a star that closes an interval is a mark."""
    escaped = "".join("\\" + sign if sign in "|`*" else sign for sign in " ".join(text.split()))
    return escaped.replace("<", "&lt;").removesuffix("]\\*") + ("]*" if escaped.endswith("]\\*") else "")


Form = Literal["text", "markdown", "latex"]


def _draw(
    form: Form,
    title: str,
    columns: list[str],
    rows: list[list[str]],
    strong: Callable[[int, int], bool],
    *,
    label: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Print a table in a form; `label` and `notes` are those of a LaTeX table, which is read far from its command."""
    if form == "text":
        _table(title, columns, rows, strong)
    elif form == "markdown":
        _print_markdown(title, columns, rows, strong)
    else:
        from gcsearch.results import latex

        words = {index for index, name in enumerate(columns) if not index or name in _WORDS}
        print(latex.table(title, columns, rows, strong=strong, words=words.__contains__, label=label, notes=notes))


def print_csv(
    groups: list[TaskGroup], published: list[Beside] | None = None, means: Sequence[AverageTable] = ()
) -> None:
    """One line per row, with its task; an empty field where there is no number.

    With `published`, one per group, their lines follow those of the group; two further columns say where a number
    was published and which of its numbers are only recalled. The averages `means` come last, each a line like those of
    a data set called "mean of 7 data sets".
    """
    import csv

    keys = list(dict.fromkeys(key for group in groups for key in group.task))
    averaged = [table for table in means if table.rows]
    shown = [*(group.columns for group in groups), *(table.columns for table in averaged)]
    columns = list(dict.fromkeys(column.key for some in shown for column in some))
    numbers = [f"{column}_{part}" for column in columns for part in ("mean", "sd")]
    compared = any(row.against for group in groups for row in group.rows)
    beside = [f"against_{part}" for part in ("name", "metric", "mean", "low", "high", "p")] if compared else []
    further = [] if published is None else ["published_in", "recalled"]
    header = [*keys, "name", "tags", "searched_in", "seeds", "outcome", "configuration", *numbers, *beside, *further]
    # Of a published result the header lacks what no row of ours has.
    writer = csv.DictWriter(sys.stdout, header, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for index, group in enumerate(groups):
        writer.writerows(_inert(_row_fields(group, row)) for row in group.rows)
        published_lines = published[index].once if published else ()
        writer.writerows(_inert(_published_fields(group, line)) for line in published_lines)
    for table in averaged:
        writer.writerows(_inert(_average_fields(table, row)) for row in table.rows)


def _inert(fields: Mapping[str, object]) -> dict[str, str]:
    """Fields that no spreadsheet takes for a formula: words that begin like one get an apostrophe in front."""
    texts = {name: str(value) for name, value in fields.items()}
    return {name: f"'{text}" if _is_formula(text) else text for name, text in texts.items()}


def _is_formula(text: str) -> bool:
    if not text.lstrip().startswith(("=", "+", "-", "@")) and not text.startswith(("\t", "\r")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _row_fields(group: TaskGroup, row: ComparedRow) -> dict[str, str]:
    """A row as fields of the CSV."""
    return {
        **{key: _cell(value) for key, value in group.task.items()},
        "name": row.title,
        "tags": ";".join(row.tags),
        "searched_in": ";".join(row.sweeps),
        "seeds": ";".join(map(str, row.record.seeds)),
        "outcome": row.record.outcome.value,
        "configuration": row.record.config.describe(),
        **_mean_and_sd({column.key: row.per_seed(column.key) for column in row.columns}),
        **_against_fields(row),
    }


def _average_fields(table: AverageTable, row: AverageRow) -> dict[str, str]:
    """An average as fields of the CSV: of the task and the setting what is the same on every data set."""
    first, *others = row.records
    same = all(one.config == first.config for one in others)
    return {
        **{key: _cell(value) for key, value in table.task.items()},
        "dataset": f"mean of {len(table.datasets)} data sets",
        "name": row.title,
        "tags": ";".join(row.tags),
        "searched_in": ";".join(row.sweeps),
        "seeds": ";".join(map(str, row.seeds)),
        "outcome": first.outcome.value,
        "configuration": first.config.describe() if same else "",
        **_mean_and_sd(row.values),
        **_against_fields(row),
    }


def _against_fields(row: ComparedRow | AverageRow) -> dict[str, str]:
    import math

    if row.against is None or row.against.lead is None:
        return {}
    lead = row.against.lead
    numbers = {"mean": lead.mean, "low": lead.low, "high": lead.high, "p": lead.p}
    return {
        "against_name": row.against.name,
        "against_metric": row.against.column.metric,
        **{f"against_{part}": f"{number:.4f}" for part, number in numbers.items() if not math.isnan(number)},
    }


def _published_fields(group: TaskGroup, line: Line) -> dict[str, object]:
    """A published result as fields of the CSV: of the task only what fits."""
    return {
        "dataset": group.task["dataset"],
        "backbone": line.result.backbone,
        "shots": line.result.shots or "",
        "name": line.result.title,
        **{f"{column}_mean": f"{cell.value:.2f}" for column, cell in line.cells.items()},
        "published_in": line.source,
        "recalled": ";".join(column for column, cell in line.cells.items() if cell.certainty == "recalled"),
    }


def _cell(value: object) -> str:
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


def _mean_and_sd(values: Mapping[str, tuple[float, ...]]) -> dict[str, str]:
    import math

    from gcsearch.stats import spread

    pairs = {column: spread(one)[:2] for column, one in values.items()}
    parts = {
        f"{column}_{part}": value
        for column, pair in pairs.items()
        for part, value in zip(("mean", "sd"), pair, strict=True)
    }
    return {name: f"{value:.4f}" for name, value in parts.items() if not math.isnan(value)}


def print_predictions(found: Predictions) -> None:
    """The likeliest classes of every image, a row each."""
    rows = [
        [one.image if place == 0 else "", guess.name, f"{guess.probability:.4f}"]
        for one in found.images
        for place, guess in enumerate(one.top)
    ]
    which = (
        f"seed {found.seeds[0]}" if len(found.seeds) == 1 else f"mean over the logits of seeds {_commas(found.seeds)}"
    )
    _table(
        f"{found.method}, {which}, among {len(found.classes)} classes",
        ["image", "class", "probability"],
        rows,
        lambda line, column: column == 1 and bool(rows[line][0]),
    )


def print_sharpnesses(found: Sharpnesses) -> None:
    """Loss and sharpness, a row per seed."""
    numbers = ("loss", "gradient_norm", "sharpness", "eigenvalue")
    rows = [[str(one.seed), str(one.images), *(f"{getattr(one, name):.5g}" for name in numbers)] for one in found.seeds]
    _table(
        f"{found.method}: loss on training images, its largest rise within rho = {found.rho:.4g}, and the largest "
        "eigenvalue of its Hessian",
        ["seed", "images", "loss", "gradient norm", "sharpness", "eigenvalue"],
        rows,
        lambda line, column: False,
    )


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
    _table("", columns, rows, lambda line, _: not findings[line].ok)
    for finding in findings:
        lines = [finding.problem] if finding.problem else []
        lines += [f"missing     {path}" for path in finding.missing]
        lines += [f"unreadable  {path}: {reason}" for path, reason in finding.reasons.items()]
        lines += [f"leak        {pair}" for pair in finding.leaks]
        lines += finding.notes
        if lines:
            print_pairs([(finding.name, "\n".join(lines))])


def print_cache(found: list[Found]) -> None:
    """Entries of the feature cache, a row each, and in words what is wrong with them."""
    columns = ["", "transform", "images", "views", "model", "MiB", "days"]
    for place in dict.fromkeys(one.place for one in found):
        here = [one for one in found if one.place == place]
        _table(place, columns, [_cells(one) for one in here], lambda *_: False)
    if any(one.problem for one in found):
        print_pairs([(one.name, one.problem) for one in found if one.problem])
    if not found:
        print("the cache is empty")


def _cells(one: Found) -> list[str]:
    images, views = map(str, one.stated["shape"][:2]) if one.stated else ("-", "-")
    words = [one.name, one.stated.get("transform", "-"), images, views, one.stated.get("weights", "-")]
    return [*words, f"{one.bytes / 2**20:.1f}", f"{(time.time() - one.modified) / 86400:.1f}"]
