"""The command line: its commands, its entry, and what becomes of errors.

stdout carries results, stderr progress and errors.  Everything heavy is imported inside the commands, so
that `gcsearch --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from gcsearch.cli import streams
from gcsearch.cli.commands import browse, data, export, new, results, sweeps
from gcsearch.cli.streams import say
from gcsearch.sweep import interrupts

app = typer.Typer(
    help="Hyperparameter search for few-shot prompt learning on CLIP.",
    epilog="Example: gcsearch run demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: dict[Callable[..., None], str] = {
    new.new: "gcsearch new my.toml --data ./photos --model ViT-B-16 --pretrained openai",
    sweeps.run: "gcsearch run demo --set search.trials=48",
    sweeps.resume: "gcsearch resume demo",
    sweeps.status: "gcsearch status demo --json",
    sweeps.stop: "gcsearch stop demo",
    sweeps.cancel: "gcsearch cancel demo",
    sweeps.sync: "gcsearch sync demo",
    sweeps.extend: "gcsearch extend demo --trials 32",
    sweeps.plan: "gcsearch plan my.toml",
    export.trial: "gcsearch trial --set method=sam --set rho=0.2 --set epochs=50",
    export.train: "gcsearch train best/config.toml",
    results.best: "gcsearch best demo --json",
    sweeps.confirm: "gcsearch confirm demo --seeds 9,10,11",
    results.compare: "gcsearch compare demo other-sweep --markdown",
    export.export: "gcsearch export demo --out best --register",
    export.predict: "gcsearch predict best cat.png holiday/ --top 3",
    export.landscape: "gcsearch landscape best --out landscape.html",
    results.report: "gcsearch report demo --out demo.html",
    browse.ui: "gcsearch ui demo --open",
    browse.study: "gcsearch study demo --storage sqlite:///study.db",
    data.doctor: "gcsearch doctor",
}
"""The commands in the order of `gcsearch --help`, each with the example that its own help ends with."""

for _command, _example in _COMMANDS.items():
    app.command(epilog=f"Example: {_example}")(_command)
app.add_typer(data.data_app, name="data")
app.add_typer(data.cache_app, name="cache")


def _show_version(asked: bool) -> None:
    if asked:
        from gcsearch import __version__

        print(f"gcsearch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hyperparameter search for few-shot prompt learning on CLIP."""


def main() -> NoReturn:
    """Entry point.

    Exit codes: 0 done, 1 failed, 2 wrong input, 3 too many failed trials, 129/130/143 interrupted by SIGHUP, SIGINT,
    SIGTERM.
    """
    interrupts.catch()
    try:
        streams.steady()
        streams.one_line_warnings()
        code = _run_command()
        if why := streams.trouble():
            say(f"not all could be printed: {why}; what was computed is kept")
            code = code or 1
    except KeyboardInterrupt:
        code = interrupts.farewell(signal.SIGINT)
    except interrupts.SignalError as error:
        code = interrupts.farewell(error.number)
    sys.exit(code)


def _run_command() -> int | str:
    """Run what the command line asks for; its exit code."""
    from gcsearch.errors import GcsearchError

    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code or 0
    except GcsearchError as error:
        say(str(error))
        return error.exit_code
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    return 0


if __name__ == "__main__":
    main()
