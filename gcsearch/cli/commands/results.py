"""Commands on what came of sweeps: ranking, comparison, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gcsearch.cli.commands.options import Json, Quick, Quiet, Sets, StoreFolder, overrides_of, show_progress
from gcsearch.cli.commands.running import exit_code, run_matrix
from gcsearch.cli.render import Form, near, print_json, print_table
from gcsearch.cli.streams import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcsearch.driver.matrix import MatrixResult
    from gcsearch.sweep.sweep import Sweep


def best(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep in the store.")],
    store: StoreFolder = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows of the table.")] = 10,
    importances: Annotated[
        bool, typer.Option("--importances", help="Also print which hyperparameters set the best tenth apart.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The ranking of a sweep: configuration, objective with its spread over seeds, outcome."""
    from gcsearch.errors import InputError
    from gcsearch.sweep.sweep import open_sweep, report_data

    if importances and as_json:
        remedy = "Leave one out; `gcsearch report --figures DIR` writes the shares to importances.csv."
        raise InputError("the ranking alone is a JSON document", key="--importances", received="--json", remedy=remedy)
    found = open_sweep(sweep, store)
    if as_json:
        print_json([row.to_dict() for row in found.ranking])
        return
    print_table(found.ranking.table(top, name=found.name))
    if importances:
        from gcsearch.results.report.responses import importance_table  # late: Optuna and numpy take a second

        print()
        print_table(importance_table(report_data(found).tried))


def compare(
    sweeps: Annotated[
        list[str],
        typer.Argument(help="Names of finished sweeps in the store, or of a matrix; with --run of pipelines."),
    ],
    run_first: Annotated[
        bool, typer.Option("--run", help="First run of these pipelines what has not run yet; goes on where it stopped.")
    ] = False,
    quick: Quick = False,
    sets: Sets = None,
    store: StoreFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values, one line per row.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX tables for the package booktabs.")] = False,
    against: Annotated[
        str | None,
        typer.Option(help="Compare every row with this one, paired by seed: a title, a method or a sweep's name."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Put published numbers of the same data set, model and shots beside.")
    ] = False,
) -> None:
    """All methods of finished sweeps in one table: accuracies on test images, a part per task, and their averages.

    With --run everything from nothing in one command. With --against the paired difference to one row, its 95 %
    interval (* where it leaves out zero) and Wilcoxon's p.
    """
    from gcsearch.driver import matrix
    from gcsearch.errors import InputError

    if as_json + as_markdown + as_csv + as_latex > 1:
        raise InputError("one output has one form", remedy="Of --json, --markdown, --csv and --latex, name one.")
    if (quick or sets) and not run_first:
        remedy = "Add --run; finished sweeps are called by their names, those of a quick budget NAME-quick."
        raise InputError("--quick and --set are for what is run", remedy=remedy)
    ended: list[MatrixResult] = []
    if run_first:
        made = [matrix.load(one, overrides_of(sets), quick=quick) for one in sweeps]
        ended = [one for some in made for one in run_matrix(some, store, fresh=False, quiet=quiet, show=False)]
        sweeps = [some.name for some in made]
    if not ended or any(one.sweep for one in ended):
        form: Literal["json", "csv"] | Form = (
            "json" if as_json else "csv" if as_csv else "markdown" if as_markdown else "latex" if as_latex else "text"
        )
        print_comparison(sweeps, store, form, row=against, published=published)
    sys.exit(exit_code(ended))


def print_comparison(
    sweeps: Sequence[str],
    store: Path | None,
    form: Form | Literal["json", "csv"] = "text",
    *,
    row: str | None = None,
    published: bool = False,
) -> None:
    """The table of finished sweeps and matrices, its rows compared with the one called `row`."""
    from gcsearch.sweep import gathering

    found = gathering.compared(sweeps, store, say, against=row or "", published=published)
    for why in found.left_out:
        say(f"left out of the averages: {why}")
    if form == "json":
        print_json(found.documents())
    elif form == "csv":
        print(found.to_csv(), end="")
        for difference in dict.fromkeys(one.difference for one in found.published if one.difference):
            say(f"not beside published numbers: {difference}")
    else:
        for index, table in enumerate(found.tables(formal=form == "latex")):
            print("\n" * (index > 0), end="")
            print_table(table, form)


def report(
    sweeps: Annotated[
        list[str], typer.Argument(help="Name of a sweep, or of a matrix; of several, which are compared on one page.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, for a matrix a folder. [default: report.html in the sweep's folder; of several "
            "comparison.html in the store]"
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write each picture to this folder: its numbers as CSV, PNG and SVG.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Of several: compare every row with this one, by default with the champion of the first."),
    ] = None,
    store: StoreFolder = None,
) -> None:
    """Draw a sweep: one self-contained HTML file; of a matrix one per sweep that has begun.

    Of several finished sweeps one file: what differs between them, their champions and all rows of their tables with
    paired differences, and how their searches went.
    """
    from gcsearch.driver.exports import check_folder, check_report
    from gcsearch.errors import InputError
    from gcsearch.sweep import gathering
    from gcsearch.sweep.store import Store
    from gcsearch.sweep.sweep import open_sweep

    if figures:
        check_folder(figures, key="--figures")
    if len(sweeps) > 1:
        page = out or Store.locate(store).root / "comparison.html"
        check_report(page)
        with show_progress(quiet=False) as callback:
            callback.stage("report")
            drawn = gathering.write_comparison(sweeps, store, page, figures, callback.warn, against=against or "")
        print(near(drawn))
        return
    if against:
        remedy = "Name several; the report of one compares its champion with each reference."
        raise InputError(
            "rows of several sweeps are compared with one", key="--against", received=against, remedy=remedy
        )
    (name,) = sweeps
    parts = gathering.parts(name, store)
    if parts == [name]:
        found = open_sweep(name, store)
        if out:
            check_report(out)
        print(near(_drawn(found, out, figures)))
        return
    if out:
        check_report(out / "report.html")
    for found in gathering.begun(parts, store, say):
        path, folder = out and out / f"{found.name}.html", figures and figures / found.name
        print(near(_drawn(found, path, folder)), flush=True)


def _drawn(sweep: Sweep, out: Path | None, figures: Path | None) -> Path:
    """The report of a sweep, drawn to `out`, and its pictures into the folder `figures`."""
    with show_progress(quiet=False) as callback:
        callback.stage("report")
        return sweep.report(out, figures=figures, warn=callback.warn)
