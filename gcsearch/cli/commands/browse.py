"""Commands that open a sweep in tools of others: MLflow's browser, Optuna's studies and its dashboard."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gcsearch.cli.commands.options import StoreFolder
from gcsearch.cli.streams import say
from gcsearch.sweep import interrupts


def ui(
    sweep: Annotated[
        str | None, typer.Argument(help="Name of a sweep: its runs are shown. [default: all experiments]")
    ] = None,
    store: StoreFolder = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    open_page: Annotated[bool, typer.Option("--open", help="Open the address in a web browser.")] = False,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Show the sweep in optuna-dashboard, as it is at this moment.")
    ] = False,
) -> None:
    """Browse the runs of a sweep with MLflow's own server, on this machine only.

    Prints the address of the sweep's view once it can be opened: its runs, what was confirmed first. Ctrl-C, SIGTERM
    or SIGHUP ends it, with exit code 0.
    """
    if optuna:
        _serve_study(sweep, store, port, open_page=open_page)
    else:
        _serve_runs(sweep, store, port, open_page=open_page)


def _serve_runs(sweep: str | None, store: Path | None, port: int, *, open_page: bool) -> None:
    from gcsearch.config.addresses import is_server
    from gcsearch.errors import InputError
    from gcsearch.sweep.store import Store
    from gcsearch.sweep.sweep import open_sweep
    from gcsearch.tracking import relocation, views
    from gcsearch.tracking.client import know_sizes, ui_command
    from gcsearch.tracking.ui import HOST, check_port

    located = Store.locate(store)
    found = open_sweep(sweep, store) if sweep else None
    uri = found.mlflow_uri if found else located.mlflow_uri
    embedded = uri == located.mlflow_uri
    if embedded and not (located.root / "mlflow.db").exists():
        raise InputError(
            "there is no MLflow store here yet", file=located.root, remedy="Run a sweep first, or name --store."
        )
    if found and is_server(uri):  # somebody else's, which answers already
        _show(views.prepare(found), open_page=open_page)
        return
    check_port(port)
    if embedded:
        relocation.follow(located)
    server = f"http://{HOST}:{port}"
    address = views.prepare(found, server) if found else server
    know_sizes(uri)
    command = ui_command(uri, located.artifacts if embedded else None, port)
    _serve(command, address, port, "MLflow's server", open_page=open_page)


def _serve_study(sweep: str | None, store: Path | None, port: int, *, open_page: bool) -> None:
    from importlib.util import find_spec

    from gcsearch.errors import InputError
    from gcsearch.sweep.sweep import open_sweep
    from gcsearch.tracking.ui import HOST, check_port

    if sweep is None:
        raise InputError("the dashboard shows one sweep", key="SWEEP", remedy="Name it: gcsearch ui NAME --optuna")
    found = open_sweep(sweep, store)
    if find_spec("optuna_dashboard") is None:
        remedy = "Install it: pip install 'gcsearch[dashboard]'"
        raise InputError("optuna-dashboard is not installed", key="--optuna", remedy=remedy)
    check_port(port)
    run = "import sys, optuna_dashboard as one; one.run_server(sys.argv[1], host=sys.argv[2], port=int(sys.argv[3]))"
    with tempfile.TemporaryDirectory(prefix="gcsearch-study-") as folder:
        journal = Path(folder, "study.log")
        found.to_study(journal)
        # The only study of its storage, so the first.
        address = f"http://{HOST}:{port}/dashboard/studies/0"
        command = [sys.executable, "-c", run, str(journal), HOST, str(port)]
        _serve(command, address, port, "optuna-dashboard", open_page=open_page)


def _serve(command: Sequence[str], address: str, port: int, name: str, *, open_page: bool) -> None:
    """Run a server until a signal ends it; its address is shown once it answers."""
    from gcsearch.errors import RunError
    from gcsearch.tracking.ui import serve

    def ready() -> None:
        _show(address, open_page=open_page)
        # A script that sends a command to the background has SIGINT ignored there.
        by_key = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        say(f"Ctrl-C ends {name}" if by_key else f"`kill {os.getpid()}` ends {name}")

    with tempfile.TemporaryFile() as log:  # of advice that does not fit, and of nothing where all is well
        try:
            code = serve(command, log, port, ready)
        except (interrupts.SignalError, KeyboardInterrupt):
            return  # the way to end it
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace"))
    raise RunError(f"{name} ended by itself, with exit code {code}; what it said stands above.")


def _show(address: str, *, open_page: bool) -> None:
    print(address, flush=True)
    if open_page and not webbrowser.open(address):
        say("no web browser could be opened here; open the address by hand")


def study(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep in the store.")],
    storage: Annotated[
        str, typer.Option(help="URL of an Optuna storage, such as sqlite:///study.db, or the file of a journal.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the study. [default: that of the sweep]")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a study of this name that is not this sweep's.")
    ] = False,
    store: StoreFolder = None,
) -> None:
    """Write the search of a sweep as an Optuna study, for Optuna's own tools.

    Trials keep their numbers, with their states, intermediate values and times. Doing it again brings the study up to
    date.
    """
    from gcsearch.config.addresses import shown
    from gcsearch.sweep.sweep import open_sweep

    found = open_sweep(sweep, store)
    written = found.to_study(storage, name, replace=replace)
    states = Counter(trial.state.name.lower() for trial in written.get_trials(deepcopy=False))
    counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet"
    print(f"study {written.study_name} in {shown(storage)}: {states.total()} trials ({counts})")
