"""Commands on sweeps: plan, run, go on, add to, end, and how they stand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import gcsearch
from gcsearch.cli.commands.options import (
    Json,
    Quick,
    Quiet,
    Sets,
    StoreFolder,
    overrides_of,
    seeds_of,
    show_progress,
)
from gcsearch.cli.commands.results import print_comparison
from gcsearch.cli.commands.running import exit_code, print_end, run_matrix
from gcsearch.cli.render import print_json, print_pairs, print_plans
from gcsearch.cli.streams import say


def run(
    pipeline: Annotated[str, typer.Argument(help="A shipped name (demo) or the path of a TOML file.")],
    sets: Sets = None,
    quick: Quick = False,
    store: StoreFolder = None,
    fresh: Annotated[bool, typer.Option(help="Begin anew; a former sweep of this name is kept as NAME.1.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Also export the champion to this folder; an earlier export there is replaced.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Search, choose, confirm on test images, report. An interrupted sweep goes on.

    A file with a [matrix] is several sweeps, run one after another; one that fails does not keep the others back. It
    ends with the table that `gcsearch compare` prints.
    """
    from gcsearch.driver import matrix
    from gcsearch.driver.run import is_finished
    from gcsearch.errors import InputError
    from gcsearch.sweep.store import Store
    from gcsearch.sweep.sweep import check_free

    made = matrix.load(pipeline, overrides_of(sets), quick=quick)
    if export and not made.single:
        remedy = "Run it without, then `gcsearch export SWEEP --out FOLDER` for the sweeps that you want."
        raise InputError("a matrix has a champion for each sweep", key="--export", received=str(export), remedy=remedy)
    if not made.single:
        ended = run_matrix(made, store, fresh=fresh, quiet=quiet)
        if any(one.sweep for one in ended):
            print_comparison([made.name], store)
            print(f"\nnext    {Store.locate(store).command('compare', made.name)}")
        sys.exit(exit_code(ended))
    (chosen,) = made.pipelines
    if export:
        check_free(export, chosen.task, force=True, key="--export")  # before the search, and not after it
    finished = not fresh and is_finished(chosen, store)
    with show_progress(quiet=quiet, goes_on=not fresh) as callback:
        sweep = gcsearch.run(chosen, store=store, fresh=fresh, callback=callback)
    if finished:
        say(f"the sweep {chosen.name} is finished; --fresh runs it anew")
    print_end(sweep, export)


def resume(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep in the store.")],
    store: StoreFolder = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a sweep that was stopped, cancelled or killed; needs nothing but the sweep's folder."""
    from gcsearch.sweep.sweep import open_sweep

    found = open_sweep(sweep, store)
    if found.state.finished:
        say(f"the sweep {sweep} is finished: there is nothing to go on with")
        gcsearch.resume(sweep, store=store)  # ends as it did before
        return
    with show_progress(quiet=quiet, goes_on=True) as callback:
        done = gcsearch.resume(sweep, store=store, callback=callback)
    print_end(done)


def status(
    sweep: Annotated[
        str | None, typer.Argument(help="Name of a sweep, or of a matrix. [default: all in the store]")
    ] = None,
    store: StoreFolder = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show a running sweep until its session ends."),
    ] = False,
    as_json: Json = False,
) -> None:
    """How sweeps stand: running, finished, stopped or dead; how far, how fast, how long still.

    With --follow the display of a running sweep, without a name of the only one that runs; with --json a document a
    line at every change.
    """
    if follow:
        from gcsearch.cli.live.follow import follow as shown

        shown(sweep, store, as_json=as_json)
        return
    from gcsearch.sweep import gathering
    from gcsearch.sweep.state import read_status
    from gcsearch.sweep.store import Store

    statuses = [read_status(one) for one in gathering.journalled(sweep, store)]
    if as_json:
        print_json([one.to_dict() for one in statuses])
        return
    for index, one in enumerate(statuses):
        print("\n" * (index > 0), end="")
        print_pairs(one.lines())
    if not statuses:
        say(f"no sweep in {Store.locate(store).root}")


def stop(sweep: Annotated[str, typer.Argument(help="Name of a running sweep.")], store: StoreFolder = None) -> None:
    """Let a running sweep finish what it has begun and then end; it can go on later. From any host of the store."""
    if asked := gcsearch.stop(sweep, store=store):
        print(f"asked {asked.holder.process} to stop {sweep}; it ends once the configurations that run have ended")
    else:
        say(f"nobody drives {sweep}: there is nothing to stop")


def cancel(sweep: Annotated[str, typer.Argument(help="Name of a sweep.")], store: StoreFolder = None) -> None:
    """End a sweep now and mark it cancelled: `run` refuses to go on with it, `resume` does so all the same."""
    asked = gcsearch.cancel(sweep, store=store)
    print(f"asked {asked.holder.process} to end {sweep} now" if asked else f"marked {sweep} as cancelled")


def sync(sweep: Annotated[str, typer.Argument(help="Name of a sweep.")], store: StoreFolder = None) -> None:
    """Write to MLflow what it lacks of a sweep, for example after its server was away."""
    with show_progress(quiet=False, goes_on=True) as callback:
        callback.stage("sync")
        written = gcsearch.sync(sweep, store=store, callback=callback)
    print(f"wrote {written} runs; MLflow has all of {sweep}")


def extend(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep.")],
    trials: Annotated[int, typer.Option(min=1, help="How many configurations more.")],
    store: StoreFolder = None,
    quiet: Quiet = False,
) -> None:
    """Try more configurations in a finished sweep, then choose and confirm again."""
    with show_progress(quiet=quiet, goes_on=True) as callback:
        done = gcsearch.extend(sweep, trials, store=store, callback=callback)
    print_end(done)


def confirm(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep in the store.")],
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds that the sweep has not used yet.")],
    store: StoreFolder = None,
    quiet: Quiet = False,
) -> None:
    """Add seeds to the confirmation: the shortlist, the choice and the verdict follow from all of them."""
    with show_progress(quiet=quiet, goes_on=True) as callback:
        done = gcsearch.confirm(sweep, seeds_of(seeds), store=store, callback=callback)
    print_end(done)


def plan(
    pipeline: Annotated[str, typer.Argument(help="A shipped name or the path of a TOML file.")],
    sets: Sets = None,
    quick: Quick = False,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Check everything and say what would run, where and for how long. Trains nothing."""
    from gcsearch.driver import matrix

    found = matrix.load(pipeline, overrides_of(sets), quick=quick)
    made = matrix.plan(found, store=store)
    if found.single:
        print_json(made[0].dump()) if as_json else print_pairs(made[0].lines())
    elif as_json:
        print_json(matrix.planned(found, made).dump())
    else:
        print_plans(made)
