"""What commands that run sweeps share: a matrix of them, and what is printed where one ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcsearch.cli.commands.options import show_progress
from gcsearch.cli.render import near, print_finals
from gcsearch.cli.streams import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gcsearch.cli.progress import ProgressCallback
    from gcsearch.config.pipeline import Pipeline
    from gcsearch.driver.matrix import Matrix, MatrixResult
    from gcsearch.sweep.sweep import Sweep


def print_end(sweep: Sweep, export: Path | None = None) -> None:
    """The numbers, and where there is more; with `export` the champion is exported there first."""
    folder = None
    if export:
        with show_progress(quiet=False) as callback:
            callback.stage("export")
            folder = sweep.export(export, force=True)
    print_finals(sweep)
    print(f"\nreport  {_report_of(sweep)}")
    if folder:
        print(f"export  {near(folder)}")
    else:
        print(f"next    {sweep.command('export', '--out', 'best')}")


def _report_of(sweep: Sweep) -> str:
    """Where the report lies, or the command that draws it where that has failed."""
    path = sweep.folder / "report.html"
    return near(path) if path.exists() else sweep.command("report")


def run_matrix(made: Matrix, store: Path | None, *, fresh: bool, quiet: bool, show: bool = True) -> list[MatrixResult]:
    """Run all sweeps of a matrix, printing each as it ends if `show`; stderr names those that failed."""
    from gcsearch.driver import matrix
    from gcsearch.driver.run import is_finished

    def watch(pipeline: Pipeline) -> ProgressCallback:
        over = "" if fresh or not is_finished(pipeline, store) else ", which is finished"
        if over or not quiet:
            announce(made, pipeline, over)
        return show_progress(quiet=quiet, goes_on=not fresh)

    def on_end(ended: MatrixResult) -> None:
        if ended.sweep and show:
            print(f"{ended.name}\n")
            print_finals(ended.sweep)
            print(f"\nreport  {_report_of(ended.sweep)}\n", flush=True)
        if ended.error:
            say(f"{ended.name}: {_explain(ended.error)}")

    ended = matrix.run_matrix(made, store=store, fresh=fresh, watch=watch, on_end=on_end)
    failed = [one for one in ended if one.error]
    if failed:
        names = ", ".join(one.name for one in failed)
        say(f"{len(failed)} of {len(ended)} sweeps failed: {names}; the others are kept")
    return ended


def exit_code(ended: Sequence[MatrixResult]) -> int:
    """That of the first sweep that failed; 0 where none did."""
    return next((one.exit_code for one in ended if one.error), 0)


def announce(made: Matrix, pipeline: Pipeline, more: str = "") -> None:
    """Say which sweep of a matrix begins."""
    number = made.pipelines.index(pipeline) + 1
    say(f"sweep {number} of {len(made.pipelines)}: {pipeline.name}{more}")


def _explain(error: Exception) -> str:
    from gcsearch.errors import GcsearchError

    return str(error) if isinstance(error, GcsearchError) else f"{type(error).__name__}: {error}"
