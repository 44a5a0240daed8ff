"""The command line: flags in, `gcsearch.pipeline` called, words out.

stdout carries results, stderr progress and errors.  Everything heavy is imported inside the commands, so
that `gcsearch --help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gcsearch.tables import (
    near,
    print_csv,
    print_finals,
    print_group,
    print_inventory,
    print_json,
    print_pairs,
    print_ranking,
    print_results,
)

if TYPE_CHECKING:
    from gcsearch.comparison import Finished
    from gcsearch.progress import ProgressWatcher

app = typer.Typer(
    help="Hyper-parameter search for few-shot prompt learning on CLIP.",
    epilog="Example: gcsearch run demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets: the embedded ones, and what lies in a folder.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Store = Annotated[
    Path | None,
    typer.Option(help="Folder of sweeps and MLflow's data. [default: $GCSEARCH_STORE, else ./gcsearch-store]"),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, dotted, with a TOML value. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Memory = Annotated[
    str | None,
    typer.Option(
        help='What this process may take, such as "6 GiB"; works in smaller pieces then. [default: what is free]'
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


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
    """Hyper-parameter search for few-shot prompt learning on CLIP."""


def main() -> NoReturn:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong input, 3 too many failed trials, 130/143 interrupted."""
    from gcsearch.errors import GcsearchError

    signal.signal(signal.SIGTERM, _terminate)
    stdout = sys.stdout
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        # Typer replaces stdout and ends with 1 where the reader has gone (`| head`), which is no failure.
        sys.exit(end.code if sys.stdout is stdout else 0)
    except GcsearchError as error:
        print(f"gcsearch: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read us has seen enough (`| head`); what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        print(f"gcsearch: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted(130)
    except _TerminatedError:
        _interrupted(143)
    sys.exit(0)


class _TerminatedError(BaseException):
    """SIGTERM, as an exception that no handler for errors swallows."""


def _terminate(number: int, frame: object) -> NoReturn:
    raise _TerminatedError


def _interrupted(code: int) -> NoReturn:
    print("gcsearch: interrupted; the same command goes on where it stopped", file=sys.stderr)
    sys.exit(code)


def _overrides(sets: list[str] | None) -> dict[str, str]:
    from gcsearch.errors import InputError

    pairs = {}
    for text in sets or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError("--set takes KEY=VALUE", received=text, remedy="For example: --set search.trials=100")
        pairs[key.strip()] = value.strip()
    return pairs


def _watch(objective: str = "", *, quiet: bool) -> ProgressWatcher:
    from gcsearch.progress import ProgressWatcher

    return ProgressWatcher(objective, quiet=quiet)


@app.command(epilog="Example: gcsearch run demo --set search.trials=48")
def run(
    pipeline: Annotated[str, typer.Argument(help="A shipped name (demo) or the path of a TOML file.")],
    sets: Sets = None,
    store: Store = None,
    fresh: Annotated[bool, typer.Option(help="Begin anew; a former sweep of this name is kept as NAME.1.")] = False,
    quiet: Quiet = False,
) -> None:
    """Search, choose, confirm on test images, report. An interrupted sweep goes on."""
    from gcsearch import configuration
    from gcsearch import pipeline as pipelines

    chosen = configuration.load(pipeline, _overrides(sets))
    if not fresh and pipelines.is_finished(chosen, store):
        print(f"gcsearch: the sweep {chosen.name} is finished; --fresh runs it anew", file=sys.stderr)
    with _watch(chosen.search.objective, quiet=quiet) as watcher:
        sweep = pipelines.run(chosen, store=store, fresh=fresh, watcher=watcher)
    print_finals(sweep)
    print(f"\nreport  {near(sweep.folder / 'report.html')}")
    elsewhere = f" --store {shlex.quote(str(store))}" if store else ""
    print(f"next    gcsearch export {sweep.name} --out best{elsewhere}")


@app.command(epilog="Example: gcsearch extend demo --trials 32")
def extend(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep.")],
    trials: Annotated[int, typer.Option(min=1, help="How many settings more.")],
    store: Store = None,
    quiet: Quiet = False,
) -> None:
    """Try more settings in a finished sweep, then choose and confirm again."""
    from gcsearch import pipeline as pipelines
    from gcsearch.sweep import open_sweep

    with _watch(open_sweep(sweep, store).pipeline.search.objective, quiet=quiet) as watcher:
        print_finals(pipelines.extend(sweep, trials, store=store, watcher=watcher))


@app.command(epilog="Example: gcsearch plan my.toml")
def plan(
    pipeline: Annotated[str, typer.Argument(help="A shipped name or the path of a TOML file.")],
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Check everything and say what would run, where and for how long. Trains nothing."""
    from gcsearch import configuration
    from gcsearch import plan as plans

    made = plans.make(configuration.load(pipeline, _overrides(sets)))
    print_json(made.to_dict()) if as_json else print_pairs(made.lines())


@app.command(epilog="Example: gcsearch trial --set method=sam --set rho=0.2 --set epochs=50")
def trial(
    sets: Sets = None,
    dataset: Annotated[str, typer.Option(help="Data set to train on.")] = "shapes-sketch",
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "1,2,3",
    threads: Annotated[int, typer.Option(help="Threads of this process.")] = 1,
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one configuration given by flags: method, hyper-parameters, and task.KEY for the task's keys."""
    from gcsearch.configuration import parse_value
    from gcsearch.errors import InputError
    from gcsearch.methods import build
    from gcsearch.schema import TrialFile

    given = {key: parse_value(value) for key, value in _overrides(sets).items()}
    task = {key.removeprefix("task."): value for key, value in given.items() if key.startswith("task.")}
    values = {key: value for key, value in given.items() if not key.startswith("task.")}
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise InputError("seeds are whole numbers with commas between", key="--seeds", received=seeds) from None
    config = {"method": values.pop("method", "gcscoop"), "hyperparameters": values}
    content = {"seeds": numbers, "threads": threads, "task": {"dataset": dataset, **task}, "trial": config}
    file = TrialFile.from_dict(content, file="--set")
    build(file.trial, file="--set")
    _train(file, memory, as_json=as_json, quiet=quiet)


@app.command(epilog="Example: gcsearch train best/config.toml")
def train(
    config: Annotated[Path, typer.Argument(help="An exported config.toml.")],
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one exported configuration again; gives the exported numbers."""
    from gcsearch.configuration import load_trial

    _train(load_trial(config), memory, as_json=as_json, quiet=quiet)


def _train(file: Any, memory: str | None, *, as_json: bool, quiet: bool) -> None:
    from gcsearch import pipeline as pipelines
    from gcsearch.errors import InputError
    from gcsearch.methods import title_and_tags
    from gcsearch.schema import bytes_of

    try:
        limit = None if memory is None else bytes_of(memory)
    except InputError as error:
        raise error.at(key="--memory") from None
    title, _ = title_and_tags(file.trial)
    with _watch(quiet=quiet) as watcher:
        record = pipelines.train(file, watcher, limit)
    if as_json:
        print_json(record.to_dict() | {"curve": []})
    else:
        print_results([record.model_copy(update={"label": title})])
    if record.outcome.value != "complete":
        print(f"gcsearch: {record.outcome.value}: {record.reason}", file=sys.stderr)
        sys.exit(1)


@app.command(epilog="Example: gcsearch best demo --json")
def best(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep in the store.")],
    store: Store = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows of the table.")] = 10,
    as_json: Json = False,
) -> None:
    """The ranking of a sweep: configuration, objective with its spread over seeds, outcome."""
    from gcsearch.sweep import open_sweep

    found = open_sweep(sweep, store)
    if as_json:
        print_json([row.to_dict() for row in found.ranking])
        return
    print_ranking(found, top)


@app.command(epilog="Example: gcsearch compare demo other-sweep --markdown")
def compare(
    sweeps: Annotated[list[str], typer.Argument(help="Names of finished sweeps in the store.")],
    store: Store = None,
    as_json: Json = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values, one line per row.")] = False,
) -> None:
    """All methods of finished sweeps in one table: base, new, H on test images, a part per task."""
    from gcsearch import comparison
    from gcsearch.errors import InputError

    if as_json + as_markdown + as_csv > 1:
        raise InputError("one output has one form", remedy="Of --json, --markdown and --csv, name one.")
    groups = comparison.compare([_finished(name, store) for name in sweeps])
    if as_json:
        print_json([group.to_dict() for group in groups])
    elif as_csv:
        print_csv(groups)
    else:
        for index, group in enumerate(groups):
            print("\n" * (index > 0), end="")
            print_group(group, groups, markdown=as_markdown)


def _finished(name: str, store: Path | None) -> Finished:
    """What the sweep `name` brings to a comparison. InputError where its champion is not confirmed yet."""
    from gcsearch.comparison import Finished
    from gcsearch.errors import InputError
    from gcsearch.sweep import CHAMPION, open_sweep

    sweep = open_sweep(name, store)
    champions = [record for record in sweep.finals if record.label == CHAMPION]
    if not champions:
        command = ["gcsearch", "run", near(sweep.folder / "pipeline.toml"), "--store", near(sweep.store.root)]
        raise InputError(
            f"only finished sweeps can be compared, and {name} is not",
            file=sweep.folder,
            remedy=f"It goes on where it stopped: {shlex.join(command)}",
        )
    references = [record for record in sweep.finals if record.label != CHAMPION]
    return Finished(name, sweep.pipeline.task, champions[-1], references)


@app.command(epilog="Example: gcsearch export demo --out best")
def export(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    force: Annotated[bool, typer.Option(help="Replace an earlier export there.")] = False,
    store: Store = None,
) -> None:
    """Write the best configuration, its prompts, text features and numbers to a folder."""
    from gcsearch.sweep import open_sweep

    print(near(open_sweep(sweep, store).export(out, force=force)))


@app.command(epilog="Example: gcsearch report demo --out demo.html")
def report(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: report.html in the sweep's folder]")
    ] = None,
    store: Store = None,
) -> None:
    """Draw a sweep: one self-contained HTML file."""
    from gcsearch.sweep import open_sweep

    found = open_sweep(sweep, store)
    if out:
        _check_file(out)
    print(near(found.report(out)))


def _check_file(out: Path) -> None:
    """InputError where `out` cannot be a file: it is a folder, or a file stands where its folder would be."""
    from gcsearch.errors import InputError

    if out.is_dir():
        remedy = f"Name a file in it: --out {out / 'report.html'}"
        raise InputError("a report is one file, and this is a folder", key="--out", received=str(out), remedy=remedy)
    blocking = [parent for parent in out.parents if parent.exists() and not parent.is_dir()]
    if blocking:
        rule = f"the folder of the report must be one, and {blocking[0]} is a file"
        raise InputError(rule, key="--out", received=str(out), remedy="Name another folder.")


@app.command(epilog="Example: gcsearch ui --port 5000")
def ui(
    store: Store = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Browse the runs of a store with MLflow's own server, on this machine only."""
    import subprocess

    from gcsearch.errors import InputError
    from gcsearch.store import Store as Folder
    from gcsearch.tracking import ui_command

    located = Folder.locate(store)
    if not (located.root / "mlflow.db").exists():
        raise InputError(
            "there is no MLflow store here yet", file=located.root, remedy="Run a sweep first, or name --store."
        )
    print(f"http://127.0.0.1:{port}", flush=True)
    try:
        sys.exit(subprocess.call(ui_command(located.mlflow_uri, located.artifacts, port)))  # noqa: S603
    except KeyboardInterrupt:
        sys.exit(0)  # the way to end it


@app.command(epilog="Example: gcsearch doctor")
def doctor(as_json: Json = False) -> None:
    """What is installed, which devices there are, what is wrong and how to mend it."""
    from gcsearch import doctor as doctors

    findings = doctors.examine()
    print_json([finding.to_dict() for finding in findings]) if as_json else print_pairs(
        [(f"{'ok ' if f.ok else 'BAD'} {f.what}", f.found + (f"\n{f.remedy}" if f.remedy else "")) for f in findings]
    )
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@data_app.command("list", epilog="Example: gcsearch data list")
def data_list() -> None:
    """The embedded data sets."""
    from gcsearch import shapes

    print_pairs([(name, f"{len(w.class_names)} classes; {w.description}") for name, w in shapes.WORLDS.items()])


@data_app.command("write", epilog="Example: gcsearch data write shapes-sketch --root ./data")
def data_write(
    name: Annotated[str, typer.Argument(help="Name of an embedded data set, see `gcsearch data list`.")],
    root: Annotated[Path, typer.Option(help="Folder that holds data sets.")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed gives other images. [default: the set's own]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write an embedded data set as PNG files with a split JSON in the CoOp layout."""
    from gcsearch import shapes

    with _watch(quiet=quiet) as watcher:
        watcher.stage("data")
        folder = shapes.write_dataset(name, root, seed=seed, on_image=watcher.progress)
    print(folder)


@data_app.command("check", epilog="Example: gcsearch data check ./data --dataset OxfordPets --verify")
def data_check(
    root: Annotated[Path, typer.Argument(help="Folder that holds data sets.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this one; also folder:NAME, table:FILE. Repeatable.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Open every image.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What of each data set is there: classes, images per list, what is missing. Ends with 1 where something is."""
    from gcsearch import inventory

    with _watch(quiet=quiet) as watcher:
        findings = []
        for name in inventory.check_names(dataset, root):
            watcher.stage("check")
            findings.append(inventory.examine(root, name, verify=verify, progress=watcher.progress))
    print_json([finding.to_dict() for finding in findings]) if as_json else print_inventory(findings)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


if __name__ == "__main__":
    main()
