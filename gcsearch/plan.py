"""What a pipeline would do: checked to the last key, estimated, nothing trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gcsearch import configuration, methods
from gcsearch.pipeline import check_loaded
from gcsearch.schema import Pipeline
from gcsearch.sizing import measure_mixed, pack_size, trained_names, typical
from gcsearch.standing import duration
from gcsearch.where import find

if TYPE_CHECKING:
    from gcsearch.laboratory import Laboratory


@dataclass(frozen=True)
class Plan:
    """The plan in numbers. Seconds are estimates, good to a factor of about two."""

    name: str
    dataset: str
    backbone: str
    method: str
    settings: int
    seeds: int
    packs: int
    workers: int
    threads: int
    gpus_per_worker: float
    cluster: str
    trained_classes: int
    images: int
    steps_per_setting: int
    step_seconds: float
    search_seconds: float
    peak_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        share = f", {self.gpus_per_worker:g} GPU each" if self.gpus_per_worker else ""
        on = f", on the cluster {self.cluster}" if self.cluster else ""
        return [
            ("sweep", f"{self.name}: {self.method} on {self.dataset} with {self.backbone}"),
            ("settings", f"{self.settings} x {self.seeds} seeds, in {self.packs} packs"),
            ("data", f"{self.images} images to encode once, {self.trained_classes} classes trained"),
            ("where", f"{self.workers} worker processes, {self.threads} threads each{share}{on}"),
            ("length", f"{self.steps_per_setting} steps per setting of middling length"),
            (
                "time",
                f"about {duration(self.search_seconds)} of training in the search; start and confirmation beside",
            ),
            ("memory", f"about {self.peak_bytes / 2**20:.0f} MiB per worker beside torch"),
        ]


def make(chosen: Pipeline) -> Plan:
    """Check `chosen` and estimate it. InputError for whatever a run would refuse.

    Time and memory are those of a few steps of one pack on random features, times the steps of a setting
    with the mean of the sampled epochs.
    """
    from gcsearch import laboratory
    from gcsearch.samplers import total

    space = configuration.check(chosen)
    where = find(chosen)
    placement = where.placement
    labs = [laboratory.of(task) for task in chosen.task.each]
    for lab in labs:
        check_loaded(chosen, space, lab)
    settings = total(chosen.search, space)
    size = (
        chosen.search.pack if isinstance(chosen.search.pack, int) else pack_size(chosen.search, space, labs, placement)
    )
    packs = math.ceil(settings / size)
    kinds, epochs = typical(space)
    in_pack = min(size, settings) * len(chosen.task.seeds)
    costs = [measure_mixed(one, kinds, trained_names(one), in_pack, placement.threads) for one in labs]
    rounds = math.ceil(packs / placement.workers)
    steps = [_steps(one, kinds) for one in labs]
    seconds = fmean([cost.seconds for cost in costs], weights=steps)
    return Plan(
        name=chosen.name,
        dataset=chosen.task.title,
        backbone=chosen.task.backbone,
        method=", ".join(methods.find(method).title for method in space.every_method),
        settings=settings,
        seeds=len(chosen.task.seeds),
        packs=packs,
        workers=placement.workers,
        threads=placement.threads,
        gpus_per_worker=placement.gpus_per_worker,
        cluster=where.cluster.describe() if where.cluster else "",
        trained_classes=sum(len(trained_names(one)) for one in labs),
        images=sum(_images(one, chosen) for one in labs),
        steps_per_setting=round(epochs * sum(steps)),
        step_seconds=seconds,
        search_seconds=rounds * epochs * sum(steps) * seconds,
        peak_bytes=max(cost.bytes for cost in costs),
    )


def _steps(lab: Laboratory, kinds: Sequence[methods.Method]) -> float:
    """Optimiser steps of an epoch on one data set, the mean over methods."""
    trained = len(trained_names(lab)) * lab.task.shots
    return fmean(max(1, trained // getattr(method, "batch_size", 1)) for method in kinds)


def _images(lab: Laboratory, chosen: Pipeline) -> int:
    """Images of one data set, and of its targets, that are encoded once."""
    seeds = {*chosen.task.seeds, *chosen.confirm.seeds}
    shots = len(lab.halves[0]) * lab.task.shots * lab.task.views
    tests = {one.name: one.test for one in (lab.dataset, *lab.targets)}
    return shots * len(seeds) + len(lab.dataset.val) + sum(map(len, tests.values()))
