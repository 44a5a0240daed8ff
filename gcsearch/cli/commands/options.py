"""What several commands share: options, and the reading of their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gcsearch.cli.progress import ProgressCallback

StoreFolder = Annotated[
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


def overrides_of(sets: list[str] | None) -> dict[str, str]:
    from gcsearch.errors import InputError

    pairs = {}
    for text in sets or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError("--set takes KEY=VALUE", received=text, remedy="For example: --set search.trials=100")
        pairs[key.strip()] = value.strip()
    return pairs


def seeds_of(text: str) -> list[int]:
    from gcsearch.errors import InputError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError("seeds are whole numbers with commas between", key="--seeds", received=text) from None


def show_progress(*, quiet: bool, goes_on: bool = False) -> ProgressCallback:
    """What shows the progress of a command. `goes_on`: after an interruption the same command goes on."""
    from gcsearch.cli.progress import ProgressCallback
    from gcsearch.sweep import interrupts

    if goes_on:
        interrupts.advise("the same command goes on where it stopped")
    return ProgressCallback(quiet=quiet)
