"""Commands on what this machine has: data sets, encoded images, packages and devices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gcsearch.cli.commands.options import Json, Quick, Quiet, Sets, StoreFolder, overrides_of, show_progress
from gcsearch.cli.commands.running import announce
from gcsearch.cli.render import near, print_cache, print_inventory, print_json, print_pairs, print_table
from gcsearch.cli.streams import say

if TYPE_CHECKING:
    from gcsearch.cli.progress import ProgressCallback
    from gcsearch.config.pipeline import Pipeline

data_app = typer.Typer(help="Data sets: the embedded ones, and what lies in a folder.", no_args_is_help=True)


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


@data_app.command("list", epilog="Example: gcsearch data list")
def data_list() -> None:
    """The embedded data sets."""
    from gcsearch.data.synthetic import worlds
    from gcsearch.data.synthetic.generated import FEWEST, MOST

    named = [(name, f"{len(w.class_names)} classes; {w.description}") for name, w in worlds.WORLDS.items()]
    drawn = f"one for each seed, as world:7: {FEWEST} to {MOST} classes; style, objects, likeness and noise differ"
    print_pairs([*named, (worlds.GENERATED, drawn)])


@data_app.command("write", epilog="Example: gcsearch data write shapes-sketch --root ./data")
def data_write(
    name: Annotated[str, typer.Argument(help="An embedded data set, see `gcsearch data list`; also world:SEED.")],
    root: Annotated[Path, typer.Option(help="Folder that holds data sets.")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed gives other images. [default: the set's own]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write an embedded data set as PNG files with a split JSON in the CoOp layout."""
    from gcsearch.data.synthetic import worlds

    with show_progress(quiet=quiet) as callback:
        callback.stage("data")
        folder = worlds.write_dataset(name, root, seed=seed, on_image=callback.progress)
    print(folder)


@data_app.command("get", epilog="Example: gcsearch data get OxfordPets --root ./data")
def data_get(
    name: Annotated[str | None, typer.Argument(help="Name of a public data set. [default: list them]")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds data sets.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a public data set through torchvision's loader, and check it; of others say what to put where.

    It appears whole or not at all. Without a name all of them are listed. Ends with 1 where the data set is not there
    or not whole in the end.
    """
    from gcsearch.data import fetch, inspect
    from gcsearch.errors import InputError
    from gcsearch.files import absolute
    from gcsearch.results.documents import DatasetFinding

    if name is None:
        _list_public()
        return
    if root is None:
        raise InputError("the folder that holds data sets is needed", key="--root", remedy="Add `--root ./data`.")
    name, root = fetch.find(name), absolute(root, key="--root")
    with show_progress(quiet=quiet) as watcher:
        if fetch.is_there(name, root):
            say(f"{name} is in {root} already")
        elif not fetch.SOURCES[name].loader:
            say(f"{name} cannot be fetched by torchvision")
            print_pairs([(name, "\n".join(fetch.by_hand(name, root)))])
            sys.exit(1)
        else:
            fetch.fetch(name, root, stage=watcher.stage, progress=watcher.progress)
        watcher.stage("check")
        finding = inspect.examine(root, name, verify=True, progress=watcher.progress)
    print_json(DatasetFinding(**finding.to_dict()).dump()) if as_json else print_inventory([finding])
    if not as_json:
        print(near(Path(finding.folder)))
    # Copies among the images of a public data set are its own, and are told: it is whole all the same.
    sys.exit(1 if finding.problem or finding.missing or finding.unreadable else 0)


def _list_public() -> None:
    from gcsearch.data.fetch import SOURCES
    from gcsearch.results.tables.table import Heading, Table

    rows = [[name, "torchvision" if source.loader else "by hand", source.page] for name, source in SOURCES.items()]
    print_table(Table("", [Heading(text, words=True) for text in ("", "fetched by", "official page")], rows))
    print("gcsearch data get NAME --root DIR fetches one, or says what to put where")


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
    from gcsearch.results.documents import DatasetFinding

    with show_progress(quiet=quiet) as callback:
        findings = []
        for name in inspect.check_names(dataset, root):
            callback.stage("check")
            findings.append(inspect.examine(root, name, verify=verify, progress=callback.progress))
    documents = [DatasetFinding(**finding.to_dict()).dump() for finding in findings]
    print_json(documents) if as_json else print_inventory(findings)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@cache_app.command("build", epilog="Example: gcsearch cache my.toml --set task.views=16")
def cache_build(
    pipeline: Annotated[str, typer.Argument(help="A shipped name or the path of a TOML file.")],
    sets: Sets = None,
    quick: Quick = False,
    store: StoreFolder = None,
    quiet: Quiet = False,
) -> None:
    """Encode all images that a pipeline reads, and do nothing else. An interrupted run goes on.

    Of a file with a [matrix] those that any of its sweeps reads.
    """
    from gcsearch.driver import matrix
    from gcsearch.files import cache_place

    made = matrix.load(pipeline, overrides_of(sets), quick=quick)

    def watch(one: Pipeline) -> ProgressCallback:
        if not (made.single or quiet):
            announce(made, one)
        return show_progress(quiet=quiet, goes_on=True)

    matrix.cache(made, watch, store=store)
    print(f"every image that {pipeline} reads is encoded, in {cache_place()}")


@cache_app.command("ls", epilog="Example: gcsearch cache ls --json")
def cache_ls(as_json: Json = False) -> None:
    """Every entry: data set, transform, images, model, size, age."""
    from gcsearch.results.documents import CacheEntry
    from gcsearch.training.loading import cache_storages

    found = [one for storage in cache_storages() for one in (*storage.entries(), *storage.leftovers())]
    print_json([CacheEntry(**one.to_dict()).dump() for one in found]) if as_json else print_cache(found)


@cache_app.command("verify", epilog="Example: gcsearch cache verify")
def cache_verify(as_json: Json = False) -> None:
    """Read every byte of every entry and compare its checksum. Ends with 1 where one is broken."""
    from dataclasses import replace

    from gcsearch.results.documents import CacheEntry
    from gcsearch.training.loading import cache_storages

    checked = [replace(one, problem=storage.check(one)) for storage in cache_storages() for one in storage.entries()]
    print_json([CacheEntry(**one.to_dict()).dump() for one in checked]) if as_json else print_cache(checked)
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
    from gcsearch.driver import matrix

    chosen = matrix.prune_cache(keep or (), older_than=older_than, everything=everything, remove=yes)
    if chosen:
        print_cache(chosen)
    size = sum(one.bytes for one in chosen) / 2**20
    print(f"{len(chosen)} files, {size:.1f} MiB, {'removed' if yes else 'would go; --yes removes them'}")


def doctor(
    address: Annotated[
        str | None, typer.Option(help="Also look at every node of this Ray cluster. [default: $RAY_ADDRESS]")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is installed, which devices there are, what is wrong and how to mend it."""
    from gcsearch.cli.doctor import examine

    findings = examine(address)
    print_json([finding.to_dict() for finding in findings]) if as_json else print_pairs(
        [(f"{'ok ' if f.ok else 'BAD'} {f.what}", f.found + (f"\n{f.remedy}" if f.remedy else "")) for f in findings]
    )
    sys.exit(0 if all(finding.ok for finding in findings) else 1)
