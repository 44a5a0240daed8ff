"""What a pipeline would do: checked to the last key, estimated, nothing trained."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gcsearch import configuration, datasets, methods
from gcsearch.pipeline import check_loaded
from gcsearch.schema import Pipeline, TrialConfig
from gcsearch.where import find

if TYPE_CHECKING:
    from gcsearch.laboratory import Laboratory
    from gcsearch.population import Member
    from gcsearch.spaces import SearchSpace

STEPS = 3
SAMPLE = 256


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


def duration(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{math.ceil(seconds)} seconds"


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
    lab = laboratory.of(chosen.task)
    check_loaded(chosen, space, lab)
    dataset, (base, _) = lab.dataset, lab.halves
    trained, _ = datasets.hold_out(base, 0, chosen.task.folds)
    settings = total(chosen.search, space)
    packs = math.ceil(settings / chosen.search.pack)
    method, epochs = _typical(space)
    iterations = max(1, len(trained) * chosen.task.shots // getattr(method, "batch_size", 1))
    in_pack = min(chosen.search.pack, settings) * len(chosen.task.seeds)
    names = [dataset.classes[i] for i in trained]
    seconds, peak = _measure(lab, method, names, in_pack, placement.threads)
    rounds = math.ceil(packs / placement.workers)
    shots = len(base) * chosen.task.shots * chosen.task.views
    seeds = {*chosen.task.seeds, *chosen.confirm.seeds}
    tests = {one.name: one.test for one in (dataset, *lab.targets)}
    return Plan(
        name=chosen.name,
        dataset=chosen.task.dataset,
        backbone=chosen.task.backbone,
        method=methods.find(space.method).title,
        settings=settings,
        seeds=len(chosen.task.seeds),
        packs=packs,
        workers=placement.workers,
        threads=placement.threads,
        gpus_per_worker=placement.gpus_per_worker,
        cluster=where.cluster.describe() if where.cluster else "",
        trained_classes=len(trained),
        images=shots * len(seeds) + len(dataset.val) + sum(map(len, tests.values())),
        steps_per_setting=round(epochs * iterations),
        step_seconds=seconds,
        search_seconds=rounds * epochs * iterations * seconds,
        peak_bytes=peak,
    )


def _typical(space: SearchSpace) -> tuple[methods.Method, float]:
    """A method of the space's kind, and the mean epochs of settings drawn at random, SubPT's probe included."""
    drawn = space.sample(SAMPLE, seed=0)
    built = [methods.build(TrialConfig(method=space.method, hyperparameters=values)) for values in drawn]
    return built[0], fmean(getattr(method, "epochs", 0) + getattr(method, "probe_epochs", 0) for method in built)


def _measure(
    lab: Laboratory, method: methods.Method, names: list[str], members: int, threads: int
) -> tuple[float, int]:
    """Seconds of one step of a pack and the bytes that its tensors take, measured on random features."""
    import torch

    from gcsearch.population import Population

    if not isinstance(method, methods.Trained):
        return 0.0, 0
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        member = _random_member(method, tuple(names), lab)
        population = Population(lab.backbone, [member] * members, project=False)
        population.train_epoch()
        began = time.perf_counter()
        for _ in range(STEPS):
            population.train_epoch()
        seconds = (time.perf_counter() - began) / STEPS
    finally:
        torch.set_num_threads(before)
    return seconds, population.bytes


def _random_member(method: methods.Trained, names: tuple[str, ...], lab: Laboratory) -> Member:
    """A member whose every epoch is one step on random features."""
    import torch

    from gcsearch.episodes import Episode, Half
    from gcsearch.population import Member

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, method.batch_size, lab.backbone.embedding_size, generator=generator)
    labels = torch.randint(len(names), (method.batch_size,), generator=generator)
    half = Half(torch.arange(len(names)), images[0], labels)
    images = images / images.norm(dim=-1, keepdim=True)
    return Member(method, Episode(0, "search", names, images, labels, half, half, others=lab.others))
