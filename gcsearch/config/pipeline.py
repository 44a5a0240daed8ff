"""A pipeline: task, search, resources, tracking, confirmation, as a user writes them in a TOML file."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from gcsearch.config.base import Count, CountOrZero, Model, SamplerSeed, Seeds, Text, Threads
from gcsearch.config.metrics import Objective, ObjectiveOfSeveral, Stage, is_oracle
from gcsearch.config.task import Task
from gcsearch.errors import InputError


class Budget(Model):
    """When a search ends before its trials are done; whatever of it is spent first counts."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    minutes: Annotated[float, Field(gt=0)] | None = None
    """Of all sessions together; what runs then is finished, and the best are confirmed."""
    device_seconds: Annotated[float, Field(gt=0)] | None = None
    """Seconds of worker processes, times the GPUs that each has, or the cores where it has none."""
    failed: Count | None = None
    """Configurations that failed."""
    no_gain: Count | None = None
    """Configurations in a row without a better one."""


class SearchConfig(Model):
    """How configurations are proposed."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    space: Text = "gcscoop"
    """The search space: the name of one that ships with gcsearch, mostly that of its method, or the path of a file."""
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random", "grid"] = "tpe"
    """What proposes the configurations: one of Optuna's samplers."""
    cap: dict[str, float | dict[str, float]] = {}
    """Upper bounds on parameters of the space, by name, and for single methods by method and name, see
    `SearchSpace.capped`: so methods whose spaces differ get one budget."""
    grid: dict[str, Count] = {}
    """How many values a parameter has with the sampler "grid", by its name; three where it is not named."""
    objective: Objective | Annotated[tuple[ObjectiveOfSeveral, ...], Field(min_length=2)] = "val_base_margin"
    """What is maximised, on validation images. One, or several of which none may get worse for another's sake: then the
    search is after their front."""

    trials: Count = 32
    """How many configurations are tried."""
    seed: SamplerSeed = 0
    """What the sampler draws with."""
    pack: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = 4
    """Configurations that are trained at once in one process; "auto": as many as the machine trains best."""
    generation: Count = 2
    """Packs that are proposed from the same knowledge and told together, in order: so a sweep repeats exactly,
    whichever worker finishes first."""
    startup: CountOrZero = 10
    """Configurations that are drawn before the sampler learns from what came of them."""
    pruner: Literal["none", "halving", "hyperband", "asha", "median"] = "none"
    """How configurations that do badly leave early, see `gcsearch.search.pruning`."""
    eta: Annotated[int, Field(ge=2, le=1000)] = 2
    """One in `eta` goes on at a rung of the pruner."""
    rungs: Annotated[int, Field(ge=1, le=20)] = 2
    """At how many epochs the pruner looks."""
    first_rung: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Where it looks first, as a share of a configuration's epochs."""
    checkpoint_every: Count = 10
    """Epochs of a pack that are lost at most when its process is killed."""
    budget: Budget = Budget()
    warm_start: tuple[Text, ...] = ()
    """Earlier sweeps of the same task; what came of them is known before the first proposal."""
    max_failed: CountOrZero = 0
    """Where more configurations fail, the finished sweep ends with exit code 3."""

    @property
    def size(self) -> int:
        """The size of packs; where the pipeline leaves it open it must have been filled in."""
        if isinstance(self.pack, str):
            raise TypeError("the size of packs is still open")
        return self.pack

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the search maximises, also where it is one."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    @property
    def ranking_metric(self) -> str:
        """The one number that configurations are ranked by: the objective; of several, H, which weighs both sides."""
        if isinstance(self.objective, str):
            return self.objective
        return "test_h" if self.oracle else "val_h"

    @property
    def oracle(self) -> bool:
        """Whether the choice looks at test images, see `is_oracle`."""
        return any(map(is_oracle, self.objectives))

    @property
    def criterion(self) -> str:
        """What chooses, in words: the objective; of several, the best H of their front."""
        if isinstance(self.objective, str):
            return self.objective
        return f"{self.ranking_metric} on the front of {' and '.join(self.objectives)}"

    @property
    def chosen_by(self) -> str:
        """The criterion for people, who must never take an oracle for anything else."""
        return f"{self.criterion} (oracle: it looks at test images)" if self.oracle else self.criterion

    @property
    def stage(self) -> Stage:
        """What the configurations of the search are trained and measured on."""
        return "test" if self.oracle else "search"


SearchSettings = SearchConfig
"""The former name."""

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(size: str) -> int:
    """Bytes of a size such as "6 GiB" or "800MB". InputError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]i?B|B)\s*", size)
    number = float(found[1]) * _UNITS.get(found[2], 0) if found else 0.0
    if not 1 <= number < 2**60:
        raise InputError(
            "a memory size is a number with a unit, from 1 B to less than 2^60 B",
            received=repr(size),
            remedy='For example "6 GiB"; units: B, kB, MB, GB, KiB, MiB, GiB.',
        )
    return int(number)


def _memory(size: str) -> str:
    if size != "auto":
        bytes_of(size)
    return size


def cluster_address(address: str) -> str:
    """`address` when a sweep can run on the Ray cluster it names. InputError, saying why, when not."""
    found = re.fullmatch(r"[^:/\s@]+:(\d+)|\[[0-9a-fA-F:]+\]:(\d+)", address)
    if address in ("auto", "local") or (found and 0 < int(found[1] or found[2]) < 65536):
        return address
    rule, remedy = (
        "an address of a Ray cluster is host:port of its head",
        "Write for example `10.0.0.5:6379`, or `auto`.",
    )
    if address.startswith("ray://"):
        rule = "a sweep joins its cluster from one of its nodes: Ray Tune does not run over a Ray Client connection"
        remedy = (
            "Run it on the head with `auto`, or hand it in: ray job submit --address http://HEAD:8265 -- gcsearch run"
        )
    elif address.startswith(("http://", "https://")):
        rule = "this is the address of a job server, which takes whole jobs"
        remedy = f"Hand the command in: ray job submit --address {address} -- gcsearch run"
    raise InputError(rule, received=repr(address), remedy=remedy)


class Resources(Model):
    """What a worker process may use; what is `auto` is filled in for the machine by `placement.place`."""

    address: Annotated[str, AfterValidator(cluster_address)] | None = None
    """A Ray cluster to run on: `auto` (that of this machine), or host:port of its head. RAY_ADDRESS comes first;
    `local`, or neither: a Ray of its own on this machine."""

    workers: Annotated[int, Field(ge=1, le=10**4)] | Literal["auto"] = "auto"
    threads: Threads | Literal["auto"] = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    memory: Annotated[str, AfterValidator(_memory)] = "auto"
    """What one worker process may take, such as "6 GiB": the engine then works in smaller pieces."""
    decoders: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = "auto"
    """Processes that open image files ahead of the encoder; 0: a thread of this process."""


class Tracking(Model):
    """Where MLflow keeps the runs. No `uri`: SQLite and an artifact folder inside the store."""

    uri: Text | None = Field(default=None, repr=False)  # it may hold a password
    experiment: Text | None = None


class Confirm(Model):
    """How the sweep's answer is chosen and tested, see `gcsearch.driver.confirm`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    top: Count = 5
    """The best `top` configurations of the search are measured again with `seeds`, and the simplest within one standard
    error of their best is the champion; with 1 the first of the search is."""
    seeds: Seeds = (4, 5, 6, 7, 8)
    """The shortlist and the `references` are then trained with them on all classes of the protocol, and measured on
    test images. They are others than those of the search."""
    references: tuple[str, ...] = ("zeroshot", "coop", "sam", "literature")
    """What stands beside the champion: methods at their published configurations, and points of the space by label."""


def _one_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            "a name is made of letters, digits, dots, dashes and underscores, and begins with a letter or digit",
            received=repr(name),
            remedy="It becomes the name of a folder: write for example `pets-16shots`.",
        )
    if len(name) > 200:  # 255 bytes fit a file's name, and files beside the folder have longer ones
        rule, remedy = "a name has at most 200 characters", "It becomes the name of a folder: write a shorter one."
        raise InputError(rule, received=f"{name[:40]}... with {len(name)}", remedy=remedy)
    return name


class Pipeline(Model):
    """One job: a task, a search on it, and what to do with the result. The content of a pipeline file."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    version: Literal[1] = 1
    name: Annotated[str, AfterValidator(_one_name)]
    """That of the sweep and of its folder."""
    task: Task = Task()
    search: SearchConfig = SearchConfig()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    evaluate_every: Count = 1
    """Epochs from one measurement on validation images to the next."""

    @property
    def measured(self) -> tuple[tuple[Stage, tuple[int, ...]], ...]:
        """The stages that the sweep goes through, with the seeds of each: search, recheck where there is one, test."""
        again = ((self.search.stage, self.confirm.seeds),) if self.confirm.top > 1 else ()
        return ((self.search.stage, self.task.seeds), *again, ("test", self.confirm.seeds))
