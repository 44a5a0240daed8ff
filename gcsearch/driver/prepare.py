"""What a sweep needs before its first trial: data and model looked at, features encoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gcsearch.config import search_space
from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import Pipeline, bytes_of
from gcsearch.config.search_space import SearchSpace
from gcsearch.data.lists.splits import RepeatWarning
from gcsearch.errors import InputError
from gcsearch.execution import cluster
from gcsearch.execution.cluster import Where
from gcsearch.files import cache_address, cache_folder, cache_place
from gcsearch.sweep.callbacks import Watcher
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep

if TYPE_CHECKING:
    from gcsearch.sweep.measured import Snapshot
    from gcsearch.training.task_data import Laboratory


def prepare(
    pipeline: Pipeline,
    space: SearchSpace,
    store: Store,
    where: Where,
    watcher: Watcher,
    known: Sweep | None = None,
) -> Snapshot:
    """Check what needs the data and the model, and compute what trials read, so that workers only read it.

    On a cluster its nodes do that, each for itself. Returns what is measured, which must be what `known` has measured.
    """
    from gcsearch.sweep import measured
    from gcsearch.training import task_data

    if where.cluster:
        watcher.cluster(where.cluster.describe())
        watcher.stage("nodes")
        one_cache = cluster.check_nodes(where, store.root, None if cache_address() else cache_folder())
    watcher.stage("data")
    task_data.forget()  # in a notebook the data may be others than at the call before
    task_data.data_root(pipeline.task, watcher.progress)
    labs = [task_data.of(task, pipeline.resources.decoders) for task in pipeline.task.each]
    for lab in labs:
        check_loaded(pipeline, space, lab)
        check_data(lab, pipeline.measured, watcher)
    data = measured.look(labs, pipeline.measured, watcher.progress)
    if known:
        remedy = (
            "Put back what was measured; its folder may be another one. Or begin a new sweep on the data as they are, "
            "under another name (--set name=OTHER)."
        )
        measured.check(known.journal, known.folder, data, remedy)
    if where.cluster:
        watcher.stage("features")
        shared = one_cache or cache_address() is not None
        cluster.prepare_nodes(where, pipeline, cache_place(), one_cache=shared, progress=watcher.progress)
        return data
    # Both stages at once: the user hears at once of all images that cannot be read.
    for lab in labs:
        encode(lab, pipeline.measured, watcher)
    return data


def encode(lab: Laboratory, measured: Iterable[tuple[Stage, tuple[int, ...]]], watcher: Watcher) -> None:
    """Compute the cache entries that stages with their seeds read."""
    wanted = [one for stage, seeds in measured for one in lab.wanted(stage, seeds)]
    watcher.stage("digest")
    lab.cache.contents(wanted, watcher.progress)  # with a bar: `get` finds what it reads remembered
    watcher.stage("features")
    lab.cache.get(wanted, watcher.progress)


def check_data(lab: Laboratory, measured: Sequence[tuple[Stage, tuple[int, ...]]], watcher: Watcher) -> None:
    """InputError where test images are known before; a warning where others stand in the data more than once."""
    watcher.stage("digest")
    found = lab.check_repeats(dict.fromkeys(seed for _, seeds in measured for seed in seeds), watcher.progress)
    if found:
        warnings.warn(found, RepeatWarning, stacklevel=2)


def check_loaded(pipeline: Pipeline, space: SearchSpace, lab: Laboratory) -> None:
    """InputError for what shows only beside the data and the model: lists, sizes, prompts, the memory limit."""
    from gcsearch.training import memory

    lab.check_names()
    for stage in dict.fromkeys(stage for stage, _ in pipeline.measured):
        lab.check_lists(stage)
    lab.check_sizes()
    lab.check_template(ensemble="ensemble" in space.parameters)
    try:
        lab.check_settings(space)
    except InputError as error:
        raise error.at(file=search_space.find(pipeline.search.space)) from None
    if pipeline.resources.memory != "auto":
        try:
            memory.budget(bytes_of(pipeline.resources.memory), lab.backbone.tower.device)
        except InputError as error:
            key, received = "resources.memory", pipeline.resources.memory
            raise InputError(error.rule, key=key, received=received, remedy=error.remedy) from None
