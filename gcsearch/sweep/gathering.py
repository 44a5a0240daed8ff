"""What a name of the user's stands for: a sweep, or all sweeps of a matrix; their tables and pages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch import files
from gcsearch.config.provenance import environment
from gcsearch.config.trials import Role
from gcsearch.errors import InputError
from gcsearch.sweep.state import how_to_finish
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep, open_sweep, report_data, view_of

if TYPE_CHECKING:
    from gcsearch.results.comparison import Finished
    from gcsearch.results.method_table import Comparison

Say = Callable[[str], None]


def parts(name: str, store: str | Path | None) -> list[str]:
    """The sweeps of the matrix `name`, begun or not; where there is no such matrix, the name itself."""
    return Store.locate(store).matrix(name) or [name]


def journalled(name: str | None, store: str | Path | None) -> list[Sweep]:
    """The sweeps that `name` stands for and that have a journal; without a name all of the store.

    Raises:
        InputError: there is neither a sweep nor a matrix of this name.
    """
    there = Store.locate(store).sweeps()
    names = [one for one in parts(name, store) if one in there or one == name] if name else there
    return [open_sweep(one, store) for one in names]


def begun(names: list[str], store: str | Path | None, say: Say) -> list[Sweep]:
    """Those of the sweeps that have a trial to show; `say` hears of the others."""
    located = Store.locate(store)
    sweeps = [Sweep.named(name, located) for name in names]
    idle = [sweep.name for sweep in sweeps if not sweep.state.records]
    if idle:
        say(f"no trial has ended yet, so left out: {', '.join(idle)}")
    return [sweep for sweep in sweeps if sweep.name not in idle]


def finished(name: str, store: str | Path | None, say: Say) -> list[Finished]:
    """What the sweep `name`, or the finished ones of the matrix `name`, bring to a comparison, for each data set.

    `say` hears why sweeps of a matrix are left out.

    Raises:
        InputError: the champion of the sweep is not confirmed yet, or that of no sweep of the matrix is.
    """
    names = parts(name, store)
    if names == [name]:
        return _finished(name, store)
    found = []
    for one in names:
        try:
            found += _finished(one, store)
        except InputError as error:
            say(f"left out: {str(error).splitlines()[0]}")
    if not found:
        rule = f"only finished sweeps can be compared, and none of the matrix {name} is"
        raise InputError(rule, file=Store.locate(store).root, remedy="Run its pipeline file again; it goes on.")
    return found


def finished_by_dataset(sweep: Sweep) -> list[Finished]:
    """What a finished sweep brings to a comparison on each of its data sets; nothing before its confirmation."""
    from gcsearch.results.comparison import Finished

    champion, whole, oracle = sweep.confirmed, sweep.pipeline.task, sweep.pipeline.search.oracle
    if champion is None:
        return []
    references = [record for record in sweep.finals if record.role is Role.REFERENCE]
    views = [(task, view_of(whole, task)) for task in whole.each]
    return [Finished(sweep.name, task, seen(champion), list(map(seen, references)), oracle) for task, seen in views]


def compare(*sweeps: str, store: str | Path | None = None, against: str = "", published: bool = False) -> Comparison:
    """All methods of finished sweeps, or of matrices, in one table, which a notebook shows and `to_frame` gives.

    What is left out is said in warnings.

    Args:
        sweeps: names of finished sweeps in the store, or of matrices.
        store: the folder of sweeps.
        against: the row that all others are compared with, paired by seed: a title, a method or a sweep's name.
        published: put published numbers of the same data set, model and shots beside.

    Raises:
        InputError: a sweep is not finished, none is named, or there is no such row.
    """
    if not sweeps:
        rule = "a comparison needs finished sweeps"
        raise InputError(
            rule, key="sweeps", received="()", remedy="Name them: `gcsearch status` lists those of the store."
        )
    found = compared(sweeps, store, warnings.warn, against=against, published=published)
    for why in found.left_out:
        warnings.warn(f"left out of the averages: {why}", stacklevel=2)
    return found


def compared(
    names: Iterable[str], store: str | Path | None, say: Say, *, against: str = "", published: bool = False
) -> Comparison:
    """All methods of the finished sweeps and matrices of these names, their rows compared with the one `against`."""
    from gcsearch.results.method_table import Comparison

    sweeps = [one for name in names for one in finished(name, store, say)]
    return Comparison.of(sweeps, against_row=against, published=published)


def _finished(name: str, store: str | Path | None) -> list[Finished]:
    sweep = open_sweep(name, store)
    found = finished_by_dataset(sweep)
    if not found:
        raise InputError(
            f"only finished sweeps can be compared, and {name} is not",
            file=sweep.folder,
            remedy=how_to_finish(sweep),
        )
    return found


def write_report(sweep: Sweep, path: Path, figures: Path | None, say: Say) -> Path:
    """Draw the sweep's report to `path`, and its pictures into the folder `figures`."""
    from gcsearch.results.report.pages.saved import save_pictures
    from gcsearch.results.report.pages.sweep import build_report, report_sections

    data = report_data(sweep)
    sections = report_sections(data, say)
    files.write_whole(path, build_report(data, environment(), warn=say, sections=sections))
    if figures is not None:
        save_pictures(sweep.name, [picture for one in sections for picture in one.pictures], figures, say)
    return path


def write_comparison(
    names: Iterable[str], store: str | Path | None, path: Path, figures: Path | None, say: Say, *, against: str = ""
) -> Path:
    """Draw finished sweeps and those of matrices on one page at `path`, each compared with the row `against`.

    By default that is the champion of the first.

    Raises:
        InputError: one is not finished, or has nothing in common with the others.
    """
    from gcsearch.results.averages import check_comparable
    from gcsearch.results.method_table import Comparison
    from gcsearch.results.report.pages.saved import save_pictures
    from gcsearch.results.report.pages.several import comparison_page, comparison_sections

    brought = [one for name in dict.fromkeys(names) for one in finished(name, store, say)]
    shown = list(dict.fromkeys(one.name for one in brought))
    comparison = Comparison.of(brought, against_row=against or shown[0])
    check_comparable(comparison.groups)
    data = {name: report_data(open_sweep(name, store)) for name in shown}
    sections = comparison_sections(data, comparison, say)
    files.write_whole(path, comparison_page(data, comparison, sections, environment(), warn=say))
    if figures is not None:
        save_pictures(", ".join(shown), [picture for one in sections for picture in one.pictures], figures, say)
    return path
