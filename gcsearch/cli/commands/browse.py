"""Commands that hand a sweep to tools of others: MLflow's browser, Optuna's studies and its dashboard."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from gcsearch.cli.commands.options import StoreFolder


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
