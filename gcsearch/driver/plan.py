"""What a pipeline would do: checked to the last key, estimated, nothing trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import SearchSpace
from gcsearch.driver import checks, session
from gcsearch.driver.load import given
from gcsearch.driver.prepare import check_goes_on, check_loaded
from gcsearch.errors import InputError
from gcsearch.execution.machines import check_here, find_machines
from gcsearch.execution.placement import Placement
from gcsearch.methods import registry
from gcsearch.results.documents import PlannedSweep
from gcsearch.search import pruning
from gcsearch.sweep.state import duration
from gcsearch.sweep.store import Store, check_cache, explaining_cache_errors
from gcsearch.sweep.sweep import Sweep
from gcsearch.training.sizing import SAMPLE, Cost, measure, measure_mixed, pack_size, trained_names, typical

if TYPE_CHECKING:
    from gcsearch.data.features import FeatureRequest
    from gcsearch.training.task_data import Laboratory

START_SECONDS = 20.0
"""Of what neither encodes nor trains: to import, to start Ray and its workers, to end with the report. An estimate."""


class Plan(PlannedSweep):
    """The plan in numbers. Seconds are estimates, good to a factor of about two where nothing else computes.

    `to_encode`: of the images, those that are not in the cache; of the views of an image each counts. `done`: of the
    configurations, those that a sweep of this name in the store has. `notes`: what else to know before the run.
    `seconds`: from the command to its end.
    """

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        share = f", {self.gpus_per_worker:g} GPU each" if self.gpus_per_worker else ""
        on = f", on the cluster {self.cluster}" if self.cluster else ""
        done = f", {self.done} of them done" if self.done else ""
        workers = f"{self.workers} worker process{'' if self.workers == 1 else 'es'}"
        return [
            ("sweep", f"{self.name}: {self.method} on {self.dataset} with {self.backbone}"),
            ("configurations", f"{self.settings} x {self.seeds} seeds, in {self.packs} packs{done}"),
            ("data", f"{self._images()}, {self.trained_classes} classes trained"),
            ("where", f"{workers}, {self.threads} threads each{share}{on}"),
            ("length", f"{self.steps_per_setting} steps per configuration of middling length"),
            ("time", self._time()),
            ("memory", f"about {self.peak_bytes / 2**20:.0f} MiB per worker beside torch"),
            *(("note", note) for note in self.notes),
        ]

    def _images(self) -> str:
        if not self.to_encode:
            return f"all {self.images} images are in the cache"
        there = self.images - self.to_encode
        return f"{self.to_encode} images to encode once" + (f", {there} are in the cache" if there else "")

    def _time(self) -> str:
        parts = [
            f"{duration(seconds)} {what}"
            for seconds, what in (
                (self.encode_seconds, "to encode"),
                (self.search_seconds, "to search"),
                (self.confirm_seconds, "to confirm"),
            )
            if seconds >= 0.5
        ]
        return f"about {duration(self.seconds)}" + (f": {', '.join(parts)}; the rest to start and end" if parts else "")


def plan(
    pipeline: Pipeline | str | Path,
    *,
    store: str | Path | None = None,
    overrides: Mapping[str, str] | None = None,
    quick: bool = False,
) -> Plan:
    """What `run` would do with the same arguments: checked to the last key, estimated, nothing trained.

    Raises:
        InputError: whatever `run` would refuse.
    """
    return make(given(pipeline, overrides, quick=quick), store=store)


def make(chosen: Pipeline, *, store: str | Path | None = None, counted: set[Path] | None = None) -> Plan:
    """Check `chosen` and estimate it. InputError for whatever a run would refuse.

    Time and memory are those of a few steps of one pack on random features, times the steps of a configuration
    with the mean of the sampled epochs; and of some images, opened and encoded.

    Args:
        store: where a sweep of this name may have begun.
        counted: entries of the cache that an earlier sweep of the same command encodes; those of this one are added.
    """
    from gcsearch.data import features
    from gcsearch.search.samplers import total
    from gcsearch.training import loading, task_checks

    space = checks.check(chosen)
    where = find_machines(chosen)
    check_here(where)
    placement = where.placement
    Store.locate(store).check_writable()
    with explaining_cache_errors():
        loading.forget()
        labs = loading.laboratories(chosen.task)
        for lab in labs:
            check_loaded(chosen, space, lab)
        seeds = dict.fromkeys(seed for _, some in chosen.measured for seed in some)
        repeats = [task_checks.check_repeats(lab, seeds, most=features.READ_TO_LOOK) for lab in labs]
    settings = total(chosen.search, space)
    done, finished, notes = _begun(chosen, space, store)
    size = (
        chosen.search.pack
        if isinstance(chosen.search.pack, int)
        else pack_size(chosen.search, space, labs, placement.threads)
    )
    kinds, epochs = typical(space)
    in_pack = min(size, settings) * len(chosen.task.seeds)
    costs = [measure_mixed(one, kinds, trained_names(one), in_pack, placement.threads) for one in labs]
    steps = [_steps(one, kinds, trained_names(one)) for one in labs]
    pack_seconds = (
        epochs
        * pruning.trained(chosen.search)
        * sum(_epoch(chosen, one, "search", step, cost) for one, step, cost in zip(labs, steps, costs, strict=True))
    )
    images, to_encode, encode_seconds = _encoding(chosen, labs, set() if counted is None else counted)
    if to_encode and not where.cluster:
        check_cache()
    seconds = {
        "start_seconds": START_SECONDS,
        "encode_seconds": encode_seconds,
        "search_seconds": min(
            _rounds(chosen, settings - done, size, placement) * pack_seconds,
            60 * (chosen.search.budget.minutes or math.inf),
        ),
        "confirm_seconds": _confirming(chosen, space, labs, placement),
    }
    if finished:
        seconds = dict.fromkeys(seconds, 0.0)
    return Plan(
        name=chosen.name,
        dataset=chosen.task.title,
        backbone=chosen.task.backbone,
        method=", ".join(registry.find(method).title for method in space.every_method),
        settings=settings,
        done=min(done, settings),
        seeds=len(chosen.task.seeds),
        packs=math.ceil(settings / size),
        workers=placement.workers,
        threads=placement.threads,
        gpus_per_worker=placement.gpus_per_worker,
        cluster=where.cluster.describe() if where.cluster else "",
        trained_classes=sum(len(trained_names(one)) for one in labs),
        images=images,
        to_encode=to_encode,
        steps_per_setting=round(epochs * sum(steps)),
        step_seconds=fmean([cost.seconds for cost in costs], weights=steps),
        **seconds,
        seconds=sum(seconds.values()),
        peak_bytes=max(cost.bytes for cost in costs),
        notes=(
            *notes,
            *filter(None, repeats),
            *_ends_by_the_clock(chosen),
            *checks.cap_remarks(chosen, space),
            *checks.test_bed_remarks(chosen.task),
        ),
    )


def _ends_by_the_clock(chosen: Pipeline) -> list[str]:
    minutes = chosen.search.budget.minutes
    return [f"the search ends after {minutes:g} minutes, however many configurations it has tried"] if minutes else []


def _begun(chosen: Pipeline, space: SearchSpace, store: str | Path | None) -> tuple[int, bool, list[str]]:
    """Of a sweep of this name in the store: how many configurations it has, whether it is over, what to know of it."""
    located = Store.locate(store)
    sweep = Sweep.named(chosen.name, located)
    if not sweep.journal.path.exists():
        if chosen.search.warm_start:
            session.gather(chosen, space, located)
        return 0, False, []
    try:
        check_goes_on(chosen, sweep)
    except InputError as error:
        return 0, False, [f"a run is refused: {error}"]
    done, finished = len(sweep.state.records), sweep.state.finished
    return done, finished, [f"the sweep {chosen.name} is finished; --fresh runs it anew"] if finished else []


# --- Seconds ----------------------------------------------------------------------------------------------


def _steps(lab: Laboratory, kinds: Sequence[registry.Method], names: Sequence[str]) -> float:
    """Optimiser steps of an epoch on one data set that trains so many classes, the mean over methods."""
    trained = len(names) * lab.task.shots
    return fmean(max(1, trained // method.schedule.batch_size) for method in kinds)


def _epoch(chosen: Pipeline, lab: Laboratory, stage: Stage, steps: float, cost: Cost) -> float:
    """Seconds of an epoch of a pack: its steps, and its part of a measurement.

    What is measured has more names than what is trained, and features of all of them are computed.
    """
    trained = len(trained_names(lab)) if stage == "search" else len(lab.halves[0])
    scored = len(lab.halves[0]) + (len(lab.halves[1]) if stage == "test" else 0)
    scored += sum(len(target.classes) for target in (lab.targets if stage == "test" else ()))
    images = sum(one.rows for one in lab.wanted(stage, chosen.task.seeds[:1])[1:])
    measuring = cost.measuring * scored / trained + cost.per_image * images
    return steps * cost.seconds + measuring / chosen.evaluate_every


def _rounds(chosen: Pipeline, settings: int, size: int, placement: Placement) -> int:
    """How many packs one worker trains: a generation begins once all packs of the one before have ended."""
    generation = chosen.search.generation
    whole, rest = divmod(math.ceil(max(settings, 0) / size), generation)
    return whole * math.ceil(generation / placement.workers) + math.ceil(rest / placement.workers)


def _confirming(chosen: Pipeline, space: SearchSpace, labs: Sequence[Laboratory], placement: Placement) -> float:
    """Seconds of the recheck and of the test: every configuration alone, as many at a time as there are workers.

    Long schedules mostly win, so that the shortlist is taken to be as long as the longer half of the space.
    """
    kinds, _ = typical(space)
    lengths = sorted(registry.build(space.config(values)).total_epochs for values in space.sample(SAMPLE, seed=0))
    epochs = fmean(lengths[len(lengths) // 2 :])
    known: dict[str, list[Cost]] = {}

    def alone(method: registry.Method, stage: Stage, length: float) -> float:
        if not method.trains:
            return 0.0
        members = len(chosen.confirm.seeds)
        if method.name not in known:
            known[method.name] = [measure(lab, method, _base_names(lab), members, placement.threads) for lab in labs]
        return length * sum(
            _epoch(chosen, lab, stage, _steps(lab, [method], _base_names(lab)), cost)
            for lab, cost in zip(labs, known[method.name], strict=True)
        )

    top = min(chosen.confirm.top, chosen.search.trials) if space.searched else 1
    references = [registry.build(config) for config, _ in checks.references(chosen, space)]
    shortlist = {stage: fmean(alone(kind, stage, epochs) for kind in kinds) for stage in ("search", "test")}
    again = 0.0 if top == 1 or chosen.search.oracle else _parallel([shortlist["search"]] * top, placement)
    tested = [*(alone(one, "test", one.total_epochs) for one in references), *[shortlist["test"]] * top]
    return again + _parallel(tested, placement)


def _base_names(lab: Laboratory) -> list[str]:
    return [lab.dataset.classes[label] for label in lab.halves[0]]


def _parallel(seconds: Iterable[float], placement: Placement) -> float:
    """How long tasks take that are handed out in their order to whoever is free."""
    busy = [0.0] * placement.workers
    for one in seconds:
        busy[busy.index(min(busy))] += one
    return max(busy)


def _encoding(chosen: Pipeline, labs: Sequence[Laboratory], counted: set[Path]) -> tuple[int, int, float]:
    """Images that the sweep reads, those that are not in the cache, and the seconds of encoding these."""
    images, absent, seconds = 0, 0, 0.0
    for lab in labs:
        wanted = [one for stage, seeds in chosen.measured for one in lab.wanted(stage, seeds)]
        lacking: list[tuple[FeatureRequest, int]] = []
        for path, (one, missing) in lab.cache.missing(wanted).items():
            if path not in counted:
                counted.add(path)
                images += one.rows
                lacking += [(one, missing)] if missing else []
        absent += sum(missing for _, missing in lacking)
        if lacking:
            largest, _ = max(lacking, key=lambda pair: pair[1])
            seconds += lab.cache.seconds(largest) * sum(missing for _, missing in lacking)
    return images, absent, seconds
