"""The command line: flags in, `gcsearch.driver.run` called, words out.

stdout carries results, stderr progress and errors.  Everything heavy is imported inside the commands, so
that `gcsearch --help` answers at once.
"""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from gcsearch.cli import streams
from gcsearch.cli.render import (
    Form,
    near,
    print_averages,
    print_beside,
    print_cache,
    print_csv,
    print_finals,
    print_group,
    print_inventory,
    print_json,
    print_pairs,
    print_plans,
    print_predictions,
    print_ranking,
    print_results,
    print_sharpnesses,
)
from gcsearch.sweep import interrupts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcsearch.cli.progress import ProgressWatcher
    from gcsearch.config.pipeline import Pipeline
    from gcsearch.driver.matrix import Ended, Matrix
    from gcsearch.sweep.sweep import Sweep

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


class _BuildByDefault(typer.core.TyperGroup):
    """`gcsearch cache my.toml` is `gcsearch cache build my.toml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["build", *args])


cache_app = typer.Typer(
    cls=_BuildByDefault,
    help="Encoded images: computed for a pipeline (gcsearch cache my.toml), listed, checked, removed.",
    no_args_is_help=True,
)
app.add_typer(cache_app, name="cache")

Store = Annotated[
    Path | None,
    typer.Option(help="Folder of sweeps and MLflow's data. [default: $GCSEARCH_STORE, else ./gcsearch-store]"),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, dotted, with a TOML value. Repeatable."),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="The small budget of the file's table [quick], under the name NAME-quick.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Memory = Annotated[
    str | None,
    typer.Option(
        help='What this process may take, such as "6 GiB"; works in smaller pieces then. [default: what is free]'
    ),
]
ClassFile = Annotated[
    Path | None,
    typer.Option(help="Text file of further class names, one per line.", metavar="FILE", show_default=False),
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
            _say(f"not all could be printed: {why}; what was computed is kept")
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
        _say(str(error))
        return error.exit_code
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    return 0


def _say(text: str) -> None:
    """Words on stderr, from gcsearch."""
    print(f"gcsearch: {text}", file=sys.stderr)


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
    from gcsearch.cli.progress import ProgressWatcher

    return ProgressWatcher(objective, quiet=quiet)


@app.command(epilog="Example: gcsearch run demo --set search.trials=48")
def run(
    pipeline: Annotated[str, typer.Argument(help="A shipped name (demo) or the path of a TOML file.")],
    sets: Sets = None,
    quick: Quick = False,
    store: Store = None,
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
    from gcsearch.driver import run as pipelines
    from gcsearch.errors import InputError
    from gcsearch.sweep.sweep import check_free

    made = matrix.load(pipeline, _overrides(sets), quick=quick)
    if export and not made.single:
        remedy = "Run it without, then `gcsearch export SWEEP --out FOLDER` for the sweeps that you want."
        raise InputError("a matrix has a champion for each sweep", key="--export", received=str(export), remedy=remedy)
    if not made.single:
        ended = _run_matrix(made, store, fresh=fresh, quiet=quiet)
        if any(one.sweep for one in ended):
            _print_comparison([made.name], store)
            print(f"\nnext    gcsearch compare {made.name}{_elsewhere(store)}")
        sys.exit(_exit_code(ended))
    (chosen,) = made.pipelines
    if export:
        check_free(export, chosen.task, force=True, key="--export")  # before the search, and not after it
    finished = not fresh and pipelines.is_finished(chosen, store)
    with _watch(chosen.search.ranking_metric, quiet=quiet) as watcher:
        sweep = pipelines.run(chosen, store=store, fresh=fresh, watcher=watcher)
    if finished:
        _say(f"the sweep {chosen.name} is finished; --fresh runs it anew")
    _print_end(sweep, store, export)


def _print_end(sweep: Sweep, store: Path | None, export: Path | None = None) -> None:
    """The numbers, and where there is more; with `export` the champion is exported there first."""
    folder = sweep.export(export, force=True) if export else None
    print_finals(sweep)
    print(f"\nreport  {_report_of(sweep, store)}")
    if folder:
        print(f"export  {near(folder)}")
    else:
        print(f"next    gcsearch export {sweep.name} --out best{_elsewhere(store)}")


def _report_of(sweep: Sweep, store: Path | None) -> str:
    """Where the report lies, or the command that draws it where that has failed."""
    path = sweep.folder / "report.html"
    return near(path) if path.exists() else f"gcsearch report {sweep.name}{_elsewhere(store)}"


def _elsewhere(store: Path | None) -> str:
    return f" --store {shlex.quote(str(store))}" if store else ""


def _run_matrix(made: Matrix, store: Path | None, *, fresh: bool, quiet: bool, show: bool = True) -> list[Ended]:
    """Run all sweeps of a matrix, printing each as it ends if `show`; stderr names those that failed."""
    from gcsearch.driver import matrix
    from gcsearch.driver import run as pipelines

    def watch(pipeline: Pipeline) -> ProgressWatcher:
        over = "" if fresh or not pipelines.is_finished(pipeline, store) else ", which is finished"
        if over or not quiet:
            _announce(made, pipeline, over)
        return _watch(pipeline.search.ranking_metric, quiet=quiet)

    def on_end(ended: Ended) -> None:
        if ended.sweep and show:
            print(f"{ended.name}\n")
            print_finals(ended.sweep)
            print(f"\nreport  {_report_of(ended.sweep, store)}\n", flush=True)
        if ended.error:
            _say(f"{ended.name}: {_words(ended.error)}")

    ended = matrix.run_matrix(made, store=store, fresh=fresh, watch=watch, on_end=on_end)
    failed = [one for one in ended if one.error]
    if failed:
        names = ", ".join(one.name for one in failed)
        _say(f"{len(failed)} of {len(ended)} sweeps failed: {names}; the others are kept")
    return ended


def _exit_code(ended: Sequence[Ended]) -> int:
    """That of the first sweep that failed; 0 where none did."""
    return next((one.exit_code for one in ended if one.error), 0)


def _announce(made: Matrix, pipeline: Pipeline, more: str = "") -> None:
    """Say which sweep of a matrix begins."""
    number = made.pipelines.index(pipeline) + 1
    _say(f"sweep {number} of {len(made.pipelines)}: {pipeline.name}{more}")


def _words(error: Exception) -> str:
    from gcsearch.errors import GcsearchError

    return str(error) if isinstance(error, GcsearchError) else f"{type(error).__name__}: {error}"


@app.command(epilog="Example: gcsearch resume demo")
def resume(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep in the store.")],
    store: Store = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a sweep that was stopped, cancelled or killed; needs nothing but the sweep's folder."""
    from gcsearch.driver import run as pipelines
    from gcsearch.driver.session import over
    from gcsearch.sweep.sweep import open_sweep

    found = open_sweep(sweep, store)
    if over(found.journal):
        _say(f"the sweep {sweep} is finished: there is nothing to go on with")
        pipelines.resume(sweep, store=store)  # ends as it did before
        return
    with _watch(found.pipeline.search.ranking_metric, quiet=quiet) as watcher:
        done = pipelines.resume(sweep, store=store, watcher=watcher)
    _print_end(done, store)


@app.command(epilog="Example: gcsearch status demo --json")
def status(
    sweep: Annotated[
        str | None, typer.Argument(help="Name of a sweep, or of a matrix. [default: all in the store]")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """How sweeps stand: running, finished, stopped or dead; how far, how fast, how long still."""
    from gcsearch.sweep import gathering
    from gcsearch.sweep.state import stand
    from gcsearch.sweep.store import Store as Folder

    standings = [stand(one) for one in gathering.journalled(sweep, store)]
    if as_json:
        print_json([one.to_dict() for one in standings])
        return
    for index, one in enumerate(standings):
        print("\n" * (index > 0), end="")
        print_pairs(one.lines())
    if not standings:
        _say(f"no sweep in {Folder.locate(store).root}")


@app.command(epilog="Example: gcsearch stop demo")
def stop(sweep: Annotated[str, typer.Argument(help="Name of a running sweep.")], store: Store = None) -> None:
    """Let a running sweep finish what it has begun and then end; it can go on later. From any host of the store."""
    from gcsearch.sweep.lease import Wish, ask
    from gcsearch.sweep.sweep import open_sweep

    asked = ask(open_sweep(sweep, store).store.lease(sweep), Wish.STOP)
    if asked:
        print(f"asked {asked.holder.process} to stop {sweep}; it ends once the settings that run have ended")
    else:
        _say(f"nobody drives {sweep}: there is nothing to stop")


@app.command(epilog="Example: gcsearch cancel demo")
def cancel(sweep: Annotated[str, typer.Argument(help="Name of a sweep.")], store: Store = None) -> None:
    """End a sweep now and mark it cancelled: `run` refuses to go on with it, `resume` does so all the same."""
    from gcsearch.driver import run as pipelines

    asked = pipelines.cancel(sweep, store=store)
    print(f"asked {asked.holder.process} to end {sweep} now" if asked else f"marked {sweep} as cancelled")


@app.command(epilog="Example: gcsearch sync demo")
def sync(sweep: Annotated[str, typer.Argument(help="Name of a sweep.")], store: Store = None) -> None:
    """Write to MLflow what it lacks of a sweep, for example after its server was away."""
    from gcsearch.driver import run as pipelines

    with _watch(quiet=False) as watcher:
        written = pipelines.sync(sweep, store=store, watcher=watcher)
    print(f"wrote {written} runs; MLflow has all of {sweep}")


@app.command(epilog="Example: gcsearch extend demo --trials 32")
def extend(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep.")],
    trials: Annotated[int, typer.Option(min=1, help="How many settings more.")],
    store: Store = None,
    quiet: Quiet = False,
) -> None:
    """Try more settings in a finished sweep, then choose and confirm again."""
    from gcsearch.driver import run as pipelines
    from gcsearch.sweep.sweep import open_sweep

    with _watch(open_sweep(sweep, store).pipeline.search.ranking_metric, quiet=quiet) as watcher:
        done = pipelines.extend(sweep, trials, store=store, watcher=watcher)
    _print_end(done, store)


@app.command(epilog="Example: gcsearch plan my.toml")
def plan(
    pipeline: Annotated[str, typer.Argument(help="A shipped name or the path of a TOML file.")],
    sets: Sets = None,
    quick: Quick = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Check everything and say what would run, where and for how long. Trains nothing."""
    from gcsearch.driver import matrix

    found = matrix.load(pipeline, _overrides(sets), quick=quick)
    made = matrix.plan(found, store=store)
    if found.single:
        print_json(made[0].to_dict()) if as_json else print_pairs(made[0].lines())
    elif as_json:
        seconds = {
            "seconds": sum(plan.seconds for plan in made),
            "search_seconds": sum(plan.search_seconds for plan in made),
        }
        print_json({"name": found.name, **seconds, "sweeps": [plan.to_dict() for plan in made]})
    else:
        print_plans(made)


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
    """Train one configuration given by flags: method, hyper-parameters, and task.KEY for the task's keys.

    The model is the bundled test bed where task.backbone names no other one.
    """
    from gcsearch.config.trials import TrialFile
    from gcsearch.driver.checks import check_sets, check_setting
    from gcsearch.driver.load import own_template, parse_value, with_absolute_paths
    from gcsearch.methods.registry import build

    given = with_absolute_paths({key: parse_value(value, key) for key, value in _overrides(sets).items()}, Path.cwd())
    task = {key.removeprefix("task."): value for key, value in given.items() if key.startswith("task.")}
    values = {key: value for key, value in given.items() if not key.startswith("task.")}
    config = {"method": values.pop("method", "gcscoop"), "hyperparameters": values}
    task = own_template({"dataset": dataset, **task})
    content = {"seeds": _seeds(seeds), "threads": threads, "task": task, "trial": config}
    file = TrialFile.from_dict(content, file="--set")
    build(file.trial, file="--set")
    check_sets(file.task)
    check_setting(file.task, file.trial)
    _train(file, memory, as_json=as_json, quiet=quiet)


@app.command(epilog="Example: gcsearch train best/config.toml")
def train(
    config: Annotated[Path, typer.Argument(help="An exported config.toml.")],
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one exported configuration again; gives the exported numbers."""
    from gcsearch.driver.load import load_trial

    _train(load_trial(config), memory, config, as_json=as_json, quiet=quiet)


def _train(file: Any, memory: str | None, source: Path | None = None, *, as_json: bool, quiet: bool) -> None:
    from gcsearch.config.pipeline import bytes_of
    from gcsearch.driver import run as pipelines
    from gcsearch.errors import InputError
    from gcsearch.methods.registry import title_and_tags

    try:
        limit = None if memory is None else bytes_of(memory)
    except InputError as error:
        raise error.at(key="--memory") from None
    title, _ = title_and_tags(file.trial)
    with _watch(quiet=quiet) as watcher:
        record = pipelines.train(source or file, watcher, limit)
    if as_json:
        print_json(record.to_dict() | {"curve": []})
    else:
        print_results([record.model_copy(update={"label": title})], file.task)
    if record.outcome.value != "complete":
        _say(f"{record.outcome.value}: {record.reason}")
        sys.exit(1)


@app.command(epilog="Example: gcsearch best demo --json")
def best(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep in the store.")],
    store: Store = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows of the table.")] = 10,
    as_json: Json = False,
) -> None:
    """The ranking of a sweep: configuration, objective with its spread over seeds, outcome."""
    from gcsearch.sweep.sweep import open_sweep

    found = open_sweep(sweep, store)
    if as_json:
        print_json([row.to_dict() for row in found.ranking])
        return
    print_ranking(found, top)


@app.command(epilog="Example: gcsearch confirm demo --seeds 9,10,11")
def confirm(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep in the store.")],
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds that the sweep has not used yet.")],
    store: Store = None,
    quiet: Quiet = False,
) -> None:
    """Add seeds to the confirmation: the shortlist, the choice and the verdict follow from all of them."""
    from gcsearch.driver import run as pipelines

    with _watch(quiet=quiet) as watcher:
        done = pipelines.confirm(sweep, _seeds(seeds), store=store, watcher=watcher)
    _print_end(done, store)


def _seeds(text: str) -> list[int]:
    from gcsearch.errors import InputError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError("seeds are whole numbers with commas between", key="--seeds", received=text) from None


@app.command(epilog="Example: gcsearch compare demo other-sweep --markdown")
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
    store: Store = None,
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
    ended: list[Ended] = []
    if run_first:
        made = [matrix.load(one, _overrides(sets), quick=quick) for one in sweeps]
        ended = [one for some in made for one in _run_matrix(some, store, fresh=False, quiet=quiet, show=False)]
        sweeps = [some.name for some in made]
    if not ended or any(one.sweep for one in ended):
        form: Literal["json", "csv"] | Form = (
            "json" if as_json else "csv" if as_csv else "markdown" if as_markdown else "latex" if as_latex else "text"
        )
        _print_comparison(sweeps, store, form, row=against, published=published)
    sys.exit(_exit_code(ended))


def _print_comparison(
    sweeps: Sequence[str],
    store: Path | None,
    form: Form | Literal["json", "csv"] = "text",
    *,
    row: str | None = None,
    published: bool = False,
) -> None:
    """The table of finished sweeps and matrices, its rows compared with the one called `row`."""
    from gcsearch.results import comparison
    from gcsearch.results.averages import averages
    from gcsearch.results.beside import beside
    from gcsearch.sweep import gathering

    groups = comparison.compare([one for name in sweeps for one in gathering.finished(name, store, _say)])
    groups = comparison.against(groups, row) if row else groups
    means = averages(groups)
    for why in dict.fromkeys(why for table in means for why in table.left_out):
        _say(f"left out of the averages: {why}")
    found = list(map(beside, groups)) if published else None
    if form == "json":
        documents = [group.to_dict() for group in groups]
        if found:
            documents = [d | {"published": one.to_dict()} for d, one in zip(documents, found, strict=True)]
        print_json([*documents, *(table.to_dict() for table in means)])
    elif form == "csv":
        print_csv(groups, found, means)
        for difference in dict.fromkeys(one.difference for one in found or () if one.difference):
            _say(f"not beside published numbers: {difference}")
    else:
        for index, group in enumerate(groups):
            print("\n" * (index > 0), end="")
            print_group(group, groups, form=form)
            if found:
                print_beside(found[index], group, groups, form=form)
        averaged = [table for table in means if table.rows]
        for table in averaged:
            print()
            print_averages(table, averaged, form=form)


@app.command(epilog="Example: gcsearch export demo --out best --register")
def export(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; needed unless --register is given.")] = None,
    classes: ClassFile = None,
    register: Annotated[bool, typer.Option("--register", help="Also put it into MLflow's registry.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the registered model. [default: the sweep's]")] = None,
    force: Annotated[bool, typer.Option(help="Replace an earlier export there.")] = False,
    store: Store = None,
) -> None:
    """Write the best configuration, its prompts, text features and numbers to a folder, and register it."""
    from gcsearch.driver import exports

    done = exports.hand_over(sweep, store, out=out, classes=classes, register=register, model=name, force=force)
    if done.folder:
        print(near(done.folder))
    if done.version:
        print(done.version.describe())


@app.command(epilog="Example: gcsearch predict best cat.png holiday/ --top 3")
def predict(
    export: Annotated[Path, typer.Argument(help="A folder that `gcsearch export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    classes: ClassFile = None,
    seed: Annotated[int | None, typer.Option(help="This seed's prompt. [default: the mean over all seeds]")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show for an image.")] = 1,
    as_json: Json = False,
) -> None:
    """Classify images with an export; needs neither the sweep nor the data set."""
    from gcsearch.export import classifier

    opened = classifier.open_export(export)
    names = classifier.read_names(classes) if classes else opened.names
    found = classifier.predict(opened, images, names=names, seed=seed, top=top)
    print_json(found.dump()) if as_json else print_predictions(found)


@app.command(epilog="Example: gcsearch landscape best --out landscape.html")
def landscape(
    export: Annotated[Path, typer.Argument(help="A folder that `gcsearch export` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Also draw the loss around the prompt: a .html or .png file.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed's prompt. [default: every seed's]")] = None,
    rho: Annotated[float | None, typer.Option(help="Radius of the ball. [default: the method's rho, else 0.1]")] = None,
    random: Annotated[bool, typer.Option("--random", help="A random plane, not the sharpest directions'.")] = False,
    draw: Annotated[int, typer.Option(min=0, help="Seed of what is random.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Loss and sharpness of exported prompts on their training images, and a picture of the loss around them."""
    from gcsearch.driver import exports

    if out:
        exports.check_picture(out)
    with _watch(quiet=quiet) as watcher:
        found = exports.explore(export, out, seed=seed, rho=rho, random=random, draw=draw, watcher=watcher)
    print_json(found.dump()) if as_json else print_sharpnesses(found)
    if out and not as_json:
        print(near(out))


@app.command(epilog="Example: gcsearch report demo --out demo.html")
def report(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep, or of a matrix.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, for a matrix a folder. [default: report.html in the sweep's folder]"),
    ] = None,
    store: Store = None,
) -> None:
    """Draw a sweep: one self-contained HTML file; of a matrix one per sweep that has begun."""
    from gcsearch.sweep import gathering
    from gcsearch.sweep.sweep import open_sweep

    parts = gathering.parts(sweep, store)
    if parts == [sweep]:
        found = open_sweep(sweep, store)
        if out:
            _check_file(out)
        print(near(found.report(out, warn=_say)))
        return
    if out:
        _check_file(out / "report.html")
    for found in gathering.begun(parts, store, _say):
        print(near(found.report(out / f"{found.name}.html" if out else None, warn=_say)), flush=True)


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
    """Browse the runs of a store with MLflow's own server, on this machine only.

    Ctrl-C, SIGTERM and SIGHUP end it, with exit code 0.
    """
    import tempfile

    from gcsearch.errors import InputError, RunError
    from gcsearch.sweep.store import Store as Folder
    from gcsearch.tracking import relocation
    from gcsearch.tracking import ui as serving
    from gcsearch.tracking.tracker import ui_command

    located = Folder.locate(store)
    if not (located.root / "mlflow.db").exists():
        raise InputError(
            "there is no MLflow store here yet", file=located.root, remedy="Run a sweep first, or name --store."
        )
    serving.check_port(port)
    relocation.follow(located)
    print(f"http://{serving.HOST}:{port}", flush=True)
    with tempfile.TemporaryFile() as log:  # of advice that does not fit, and of nothing where all is well
        try:
            code = serving.serve(ui_command(located.mlflow_uri, located.artifacts, port), log)
        except (interrupts.SignalError, KeyboardInterrupt):
            return  # the way to end it
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace"))
    raise RunError(f"MLflow's server ended by itself, with exit code {code}; what it said stands above.")


@app.command(epilog="Example: gcsearch doctor")
def doctor(
    address: Annotated[
        str | None, typer.Option(help="Also look at every node of this Ray cluster. [default: $RAY_ADDRESS]")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is installed, which devices there are, what is wrong and how to mend it."""
    from gcsearch.cli import doctor as doctors

    findings = doctors.examine(address)
    print_json([finding.to_dict() for finding in findings]) if as_json else print_pairs(
        [(f"{'ok ' if f.ok else 'BAD'} {f.what}", f.found + (f"\n{f.remedy}" if f.remedy else "")) for f in findings]
    )
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@data_app.command("list", epilog="Example: gcsearch data list")
def data_list() -> None:
    """The embedded data sets."""
    from gcsearch.data.synthetic import worlds

    print_pairs([(name, f"{len(w.class_names)} classes; {w.description}") for name, w in worlds.WORLDS.items()])


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
    from gcsearch.data.synthetic import worlds

    with _watch(quiet=quiet) as watcher:
        watcher.stage("data")
        folder = worlds.write_dataset(name, root, seed=seed, on_image=watcher.progress)
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
    from gcsearch.data import inspect

    with _watch(quiet=quiet) as watcher:
        findings = []
        for name in inspect.check_names(dataset, root):
            watcher.stage("check")
            findings.append(inspect.examine(root, name, verify=verify, progress=watcher.progress))
    print_json([finding.to_dict() for finding in findings]) if as_json else print_inventory(findings)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@cache_app.command("build", epilog="Example: gcsearch cache my.toml --set task.views=16")
def cache_build(
    pipeline: Annotated[str, typer.Argument(help="A shipped name or the path of a TOML file.")],
    sets: Sets = None,
    quick: Quick = False,
    store: Store = None,
    quiet: Quiet = False,
) -> None:
    """Encode all images that a pipeline reads, and do nothing else. An interrupted run goes on.

    Of a file with a [matrix] those that any of its sweeps reads.
    """
    from gcsearch.driver import matrix
    from gcsearch.files import cache_place

    made = matrix.load(pipeline, _overrides(sets), quick=quick)

    def watch(one: Pipeline) -> ProgressWatcher:
        if not (made.single or quiet):
            _announce(made, one)
        return _watch(quiet=quiet)

    matrix.cache(made, watch, store=store)
    print(f"every image that {pipeline} reads is encoded, in {cache_place()}")


@cache_app.command("ls", epilog="Example: gcsearch cache ls --json")
def cache_ls(as_json: Json = False) -> None:
    """Every entry: data set, transform, images, model, size, age."""
    from gcsearch.training.task_data import shelves

    found = [one for shelf in shelves() for one in (*shelf.entries(), *shelf.leftovers())]
    print_json([one.to_dict() for one in found]) if as_json else print_cache(found)


@cache_app.command("verify", epilog="Example: gcsearch cache verify")
def cache_verify(as_json: Json = False) -> None:
    """Read every byte of every entry and compare its checksum. Ends with 1 where one is broken."""
    from dataclasses import replace

    from gcsearch.training.task_data import shelves

    checked = [replace(one, problem=shelf.check(one)) for shelf in shelves() for one in shelf.entries()]
    print_json([one.to_dict() for one in checked]) if as_json else print_cache(checked)
    sys.exit(1 if any(one.problem for one in checked) else 0)


@cache_app.command("prune", epilog="Example: gcsearch cache prune --older-than 30d --keep my.toml --yes")
def cache_prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Entries older than that, too: 30d, 12h, 45m.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PIPELINE", help="Entries of other models than this pipeline's, too. Repeatable."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete. Without it only what would go is shown.")] = False,
) -> None:
    """Remove broken files, other formats' and what was left unfinished a day ago; and what the flags name."""
    from gcsearch.data import feature_file
    from gcsearch.driver import matrix
    from gcsearch.training.task_data import shelves, weights_of

    age = None if older_than is None else feature_file.seconds_of(older_than)
    kept = [one.task for name in keep or () for one in matrix.load(name).pipelines]
    weights = set(map(weights_of, kept)) if keep else None
    chosen = []
    for shelf in shelves():
        found = [*shelf.entries(), *shelf.leftovers()]
        taken = list(feature_file.superfluous(found, older_than=age, keep_weights=weights, everything=everything))
        for one in taken if yes else ():
            shelf.remove(one)
        chosen += taken
    if chosen:
        print_cache(chosen)
    size = sum(one.bytes for one in chosen) / 2**20
    print(f"{len(chosen)} files, {size:.1f} MiB, {'removed' if yes else 'would go; --yes removes them'}")


if __name__ == "__main__":
    main()
