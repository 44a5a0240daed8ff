"""What holds before a session of a sweep begins: it is the sweep that was begun, data and model are looked at,
features are encoded.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import Pipeline, Resources, Tracking, bytes_of
from gcsearch.config.search_space import SearchSpace
from gcsearch.data.lists.splits import RepeatWarning
from gcsearch.driver.load import flat
from gcsearch.errors import InputError
from gcsearch.execution import machines
from gcsearch.execution.machines import Machines
from gcsearch.files import cache_address, cache_folder, cache_place
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.journal import SessionEnd
from gcsearch.sweep.store import PIPELINE_FILE, SPACE_FILE, Store
from gcsearch.sweep.sweep import Sweep

if TYPE_CHECKING:
    from gcsearch.sweep.measured import Snapshot
    from gcsearch.training.task_data import Laboratory


def prepare(
    pipeline: Pipeline,
    space: SearchSpace,
    store: Store,
    where: Machines,
    callback: Callback,
    known: Sweep | None = None,
) -> Snapshot:
    """Check what needs the data and the model, and compute what trials read, so that workers only read it.

    On a cluster its nodes do that, each for itself. Returns what is measured, which must be what `known` has measured.
    """
    from gcsearch.sweep import measured
    from gcsearch.training import loading, task_data

    if where.cluster:
        callback.cluster(where.cluster.describe())
        callback.stage("nodes")
        one_cache = machines.check_nodes(where, store.root, None if cache_address() else cache_folder())
    callback.stage("data")
    loading.forget()  # in a notebook the data may be others than at the call before
    task_data.data_root(pipeline.task, callback.progress)
    labs = loading.laboratories(pipeline.task, pipeline.resources.decoders)
    for lab in labs:
        check_loaded(pipeline, space, lab)
        check_data(lab, pipeline.measured, callback)
    data = measured.look(labs, pipeline.measured, callback.progress)
    if known:
        remedy = (
            "Put back what was measured; its folder may be another one. Or begin a new sweep on the data as they are, "
            "under another name (--set name=OTHER)."
        )
        measured.check(known.state.measured, known.folder, data, remedy)
    if where.cluster:
        callback.stage("features")
        shared = one_cache or cache_address() is not None
        machines.prepare_nodes(where, pipeline, cache_place(), one_cache=shared, progress=callback.progress)
        return data
    # Both stages at once: the user hears at once of all images that cannot be read.
    for lab in labs:
        encode(lab, pipeline.measured, callback)
    return data


def encode(lab: Laboratory, measured: Iterable[tuple[Stage, tuple[int, ...]]], callback: Callback) -> None:
    """Compute the cache entries that stages with their seeds read."""
    wanted = [one for stage, seeds in measured for one in lab.wanted(stage, seeds)]
    callback.stage("digest")
    lab.cache.contents(wanted, callback.progress)  # with a bar: `get` finds what it reads remembered
    callback.stage("features")
    lab.cache.get(wanted, callback.progress)


def check_data(lab: Laboratory, measured: Sequence[tuple[Stage, tuple[int, ...]]], callback: Callback) -> None:
    """InputError where test images are known before; a warning where others stand in the data more than once."""
    from gcsearch.training import task_checks

    callback.stage("digest")
    found = task_checks.check_repeats(
        lab, dict.fromkeys(seed for _, seeds in measured for seed in seeds), callback.progress
    )
    if found:
        warnings.warn(found, RepeatWarning, stacklevel=2)


def check_loaded(pipeline: Pipeline, space: SearchSpace, lab: Laboratory) -> None:
    """InputError for what shows only beside the data and the model: lists, sizes, prompts, the memory limit."""
    from gcsearch.training import memory, task_checks

    task_checks.check_names(lab)
    for stage in dict.fromkeys(stage for stage, _ in pipeline.measured):
        lab.check_lists(stage)
    task_checks.check_sizes(lab)
    task_checks.check_template(lab, ensemble="ensemble" in space.parameters)
    try:
        task_checks.check_configurations(lab, space)
    except InputError as error:
        raise error.at(file=search_space.find(pipeline.search.space)) from None
    if pipeline.resources.memory != "auto":
        try:
            memory.budget(bytes_of(pipeline.resources.memory), lab.backbone.tower.device)
        except InputError as error:
            key, received = "resources.memory", pipeline.resources.memory
            raise InputError(error.rule, key=key, received=received, remedy=error.remedy) from None


# --- The sweep that was begun -----------------------------------------------------------------------------


def check_goes_on(pipeline: Pipeline, sweep: Sweep) -> None:
    """InputError where `run` would refuse to go on with the sweep."""
    check_same(pipeline, sweep, origin_texts(pipeline))
    check_not_cancelled(sweep)


def check_not_cancelled(sweep: Sweep) -> None:
    """A job that is submitted again must not undo what a person has decided."""
    if sweep.state.end is SessionEnd.CANCELLED:
        raise InputError(
            "a cancelled sweep goes on only where that is asked for",
            file=sweep.folder,
            key="name",
            received=sweep.name,
            remedy=f"It goes on with `{sweep.command('resume')}`, or begins anew with --fresh.",
        )


def origin_texts(pipeline: Pipeline) -> dict[str, str]:
    """The two files that say what a sweep was made from."""
    comment, content = f"Sweep {pipeline.name}: the pipeline as it was run.", pipeline.to_dict()
    if files.is_file_name(pipeline.search.space):
        comment += f"\nIts search space was {pipeline.search.space}; the copy lies beside this file."
        content["search"]["space"] = SPACE_FILE
    return {
        SPACE_FILE: files.read_text(search_space.find(pipeline.search.space)),
        PIPELINE_FILE: files.to_toml(content, comment),
    }


def check_same(pipeline: Pipeline, sweep: Sweep, texts: Mapping[str, str]) -> None:
    """InputError where the sweep was begun from other files."""
    folder = sweep.folder
    if not (folder / PIPELINE_FILE).exists():
        return
    place = _without_paths if sweep.state.measured else _what_decides_numbers
    before, now = (dict(flat(place(one).to_dict())) for one in (sweep.pipeline, pipeline))
    before |= {f"space: {key}": value for key, value in flat(files.read_toml(folder / SPACE_FILE))}
    now |= {f"space: {key}": value for key, value in flat(files.parse_toml(texts[SPACE_FILE]))}
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        began, wanted = (_listed_values({key: one.get(key) for key in differing}) for one in (before, now))
        anew = "For another sweep: `--set name=OTHER`; for this one anew, the old one kept beside it: `--fresh`."
        raise InputError(
            f"a sweep goes on with the pipeline and space that it began with: {began}",
            file=folder / PIPELINE_FILE,
            received=wanted,
            remedy="\n".join([*_commands(sweep, pipeline, differing), anew]),
        )


def _listed_values(values: Mapping[str, object]) -> str:
    """Keys with their values; of many the first."""
    some = [
        f"{key} = {_cut(json.dumps(value, default=str)) if value is not None else 'not set'}"
        for key, value in values.items()
    ]
    more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
    return ", ".join(some[:_NAMED]) + more


_NAMED = 6


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _commands(sweep: Sweep, pipeline: Pipeline, differing: Sequence[str]) -> list[str]:
    """What gives the sweep what is asked of it more, where nothing else differs: trials, seeds of the confirmation."""
    if not set(differing) <= {"search.trials", "confirm.seeds"}:
        return []
    added = pipeline.search.trials - sweep.trials
    known = {seed for batch in sweep.confirmed_seeds for seed in batch}
    seeds = [str(seed) for seed in pipeline.confirm.seeds if seed not in known]
    commands = []
    if "search.trials" in differing and added > 0:
        commands.append(f"For more trials: `{sweep.command('extend', '--trials', str(added))}`.")
    elif "search.trials" in differing:
        commands.append(f"The sweep has {sweep.trials} trials, and none is taken away.")
    if "confirm.seeds" in differing and seeds:
        commands.append(f"For more seeds: `{sweep.command('confirm', '--seeds', ','.join(seeds))}`.")
    if not sweep.state.finished:
        commands.insert(0, f"Finish it first: `{sweep.command('resume')}`.")
    return commands


def _what_decides_numbers(pipeline: Pipeline) -> Pipeline:
    """The pipeline without what changes no number: a sweep may go on elsewhere, with other room and other failures.

    The threads of a worker stay, because the last digits depend on them. The space is compared by its content.
    """
    search = pipeline.search.model_copy(update={"max_failed": 0, "space": ""})
    resources = Resources(threads=pipeline.resources.threads)
    task = pipeline.task.model_copy(update={"repeats": "refuse"})
    return pipeline.model_copy(update={"task": task, "search": search, "resources": resources, "tracking": Tracking()})


def _without_paths(pipeline: Pipeline) -> Pipeline:
    """As `_anywhere`, without the paths of what the journal has digests of: it may lie somewhere else now."""
    task = pipeline.task
    weights = "" if task.pretrained and files.is_path(task.pretrained) else task.pretrained
    update = {"root": None, "pretrained": weights, "other_names": "" if task.other_names else None}
    return _what_decides_numbers(pipeline.model_copy(update={"task": task.model_copy(update=update)}))
