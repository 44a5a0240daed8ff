"""Commands on one configuration: export it, use the export, train it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import gcsearch
from gcsearch.cli.commands.options import (
    ClassFile,
    Json,
    Memory,
    Quiet,
    Sets,
    StoreFolder,
    overrides_of,
    seeds_of,
    show_progress,
)
from gcsearch.cli.render import near, print_json, print_table
from gcsearch.cli.streams import say


def export(
    sweep: Annotated[str, typer.Argument(help="Name of a finished sweep.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; needed unless --register is given.")] = None,
    classes: ClassFile = None,
    register: Annotated[bool, typer.Option("--register", help="Also put it into MLflow's registry.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the registered model. [default: the sweep's]")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature for its probabilities on validation images.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Replace an earlier export there.")] = False,
    store: StoreFolder = None,
) -> None:
    """Write the best configuration, its prompts, text features and numbers to a folder, and register it."""
    from gcsearch.driver import exports

    with show_progress(quiet=False) as callback:
        callback.stage("export")
        done = exports.write_export(
            sweep, store, out=out, classes=classes, register=register, model=name, calibrate=calibrate, force=force
        )
    if done.folder:
        print(near(done.folder))
    if done.version:
        print(done.version.describe())


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

    with show_progress(quiet=False) as callback:
        callback.stage("predict")
        opened = classifier.load_export(export)
        names = classifier.read_names(classes) if classes else opened.names
        found = classifier.predict(opened, images, names=names, seed=seed, top=top, progress=callback.progress)
    print_json(found.dump()) if as_json else print_table(found.table())


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
    with show_progress(quiet=quiet) as callback:
        found = exports.explore(export, out, seed=seed, rho=rho, random=random, draw=draw, callback=callback)
    print_json(found.dump()) if as_json else print_table(found.table())
    if out and not as_json:
        print(near(out))


def trial(
    sets: Sets = None,
    dataset: Annotated[str, typer.Option(help="Data set to train on.")] = "shapes-sketch",
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "1,2,3",
    threads: Annotated[int, typer.Option(help="Threads of this process.")] = 1,
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one configuration given by flags: method, hyperparameters, and task.KEY for the task's keys.

    The model is the bundled test bed where task.backbone names no other one.
    """
    from gcsearch.driver.load import trial_of

    file = trial_of(overrides_of(sets), dataset, seeds_of(seeds), threads)
    _train(file, memory, as_json=as_json, quiet=quiet)


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
    from gcsearch.errors import InputError
    from gcsearch.methods.registry import title_and_tags
    from gcsearch.results.comparison import results_table
    from gcsearch.results.documents import TrainedRecord

    try:
        limit = None if memory is None else bytes_of(memory)
    except InputError as error:
        raise error.at(key="--memory") from None
    title, _ = title_and_tags(file.trial)
    with show_progress(quiet=quiet) as callback:
        record = gcsearch.train(source or file, callback, limit)
    if as_json:
        print_json(TrainedRecord.of(record).dump())
    else:
        print_table(results_table([record.model_copy(update={"label": title})], file.task))
    if record.outcome.value != "complete":
        say(f"{record.outcome.value}: {record.reason}")
        sys.exit(1)
