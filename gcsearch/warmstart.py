"""What a search may know before its first proposal: records of earlier sweeps of the same task."""

from __future__ import annotations

from gcsearch import earlier
from gcsearch.errors import InputError
from gcsearch.schema import CHAMPION, SHORTLISTED, Pipeline, TrialRecord
from gcsearch.spaces import SearchSpace
from gcsearch.store import Store
from gcsearch.sweep import Sweep


def gather(pipeline: Pipeline, space: SearchSpace, store: Store) -> tuple[list[TrialRecord], int]:
    """The records of the sweeps that `search.warm_start` names, and how many of theirs do not fit the space.

    Read from the journals of the store, and from MLflow, by its id, where a sweep is only there. Curves are left
    out, which nobody needs.

    Raises:
        InputError: a sweep is in neither, or its journal is one of another task.
    """
    found: list[TrialRecord] = []
    for index, name in enumerate(pipeline.search.warm_start):
        found += _records(name, pipeline, store, f"search.warm_start.{index}")
    fit = earlier.fitting(space, found, pipeline.search.objectives)
    return [record.model_copy(update={"curve": ()}) for record in fit], len(found) - len(fit)


def _records(name: str, pipeline: Pipeline, store: Store, key: str) -> list[TrialRecord]:
    if (store.sweep(name) / "journal.jsonl").exists():
        sweep = Sweep(name, store, store.sweep(name))
        if sweep.pipeline.task != pipeline.task:
            raise InputError(
                "a search starts warm from sweeps of the same task only: other data, other numbers",
                key=key,
                received=name,
                remedy=f"Compare [task] with that of {store.sweep(name) / 'pipeline.toml'}, or leave it out.",
            )
        return sweep.records
    from gcsearch import moved
    from gcsearch.tracking import read_records

    if not pipeline.tracking.uri:
        moved.follow(store)
    try:
        if not pipeline.tracking.uri and not (store.root / "mlflow.db").exists():
            store.existing_sweep(name)  # none is: to look into MLflow would make its database
        own = Sweep(pipeline.name, store, store.sweep(pipeline.name))
        uri = own.mlflow_uri if own.address.exists() else pipeline.tracking.uri or store.mlflow_uri
        every = read_records(uri, name)
    except InputError as error:
        raise InputError(error.rule, key=key, received=name, remedy=error.remedy) from None
    # Not by the stage: an oracle searches in that of the confirmation.
    confirmed = (CHAMPION, SHORTLISTED)
    return [record for record in every if record.number >= 0 and not record.label.startswith(confirmed)]
