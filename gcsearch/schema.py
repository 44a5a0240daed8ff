"""The nouns that cross stages: validated, frozen, and the same on disk as in memory.

Each is a pydantic model that refuses unknown keys, so that a typing error in a file is found before the
first trial.  `to_dict`/`from_dict` give plain JSON values.  Accuracies are in per cent throughout.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, ErrorDetails

from gcsearch.config.metrics import Objective, ObjectiveOfSeveral, is_oracle
from gcsearch.config.metrics import Stage as Stage
from gcsearch.errors import InputError, unknown_name

Value = bool | int | float | str
"""What a hyper-parameter can be."""

Precision = Literal["float32", "bfloat16", "float16"]


MOST = 2**63 - 1
"""The largest integer that TOML, databases and torch agree on."""


def _strict_numbers(schema: Any, *, bounded: bool) -> Any:
    """The schema with every number and truth value in it strict; lists for tuples and texts for enums still pass.

    `bounded`: numbers are finite, and integers have 64 bits, also where a field says nothing of its range.
    """
    if isinstance(schema, list):
        return [_strict_numbers(part, bounded=bounded) for part in schema]
    if not isinstance(schema, dict):
        return schema
    walked = {
        key: part if key == "metadata" else _strict_numbers(part, bounded=bounded) for key, part in schema.items()
    }
    match walked.get("type"):
        case "int":
            return ({"ge": -MOST, "le": MOST} if bounded else {}) | walked | {"strict": True}
        case "float":
            return walked | {"strict": True} | ({"allow_inf_nan": False} if bounded else {})
        case "bool":
            return walked | {"strict": True}
    return walked


class Model(BaseModel):
    """Base of all nouns: frozen, unknown keys refused, `true` is no number and 3.0 no integer (3 is a float).

    Numbers are bounded, see `_strict_numbers`. `bounded = False` is for what is measured, where NaN can come out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bounded: ClassVar[bool] = True

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _strict_numbers(handler(source), bounded=cls.bounded)
        return schema

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; unset optional keys are left out (TOML has no null)."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, file: str | Path | None = None) -> Self:
        """Validate `data`; the first violation becomes an InputError naming file, key, rule and value."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _first_violation(cls, error, file) from None


def _first_violation(cls: type[BaseModel], error: ValidationError, file: str | Path | None) -> InputError:
    # A misspelt key is also a missing one: the spelling is what the user can mend.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = _plain_location(cls, first)
    key = ".".join(location) or None
    wrapped = first.get("ctx", {}).get("error")
    if isinstance(wrapped, InputError):
        return wrapped.at(file=file, key=key)
    if first["type"] == "extra_forbidden":
        return unknown_name("key", location[-1], _known_keys(cls, location[:-1]), file=file, key=key)
    if first["type"] == "missing":
        return InputError("this key is required", file=file, key=key, remedy=f"Add `{location[-1]} = ...`.")
    # A value that may be of several kinds breaks a rule of each.
    rules = [one["msg"] for one in error.errors() if _plain_location(cls, one) == location]
    rule = ", or ".join([rules[0], *(other.removeprefix("Input should be ") for other in rules[1:])])
    for theirs, ours in _KINDS_IN_TOML.items():
        rule = re.sub(theirs, ours, rule)
    return InputError(
        rule[0].lower() + rule[1:],
        file=file,
        key=key,
        received=_shown(first["input"]),
        remedy=f"Change the value of `{key}`.",
    )


_KINDS_IN_TOML = {
    r"a valid (tuple|list)": "a list",
    r"a valid dictionary( or instance of \w+)?": "a table",
    r"a valid boolean": "true or false",
    r"[Tt]uple should": "list should",
    r" after validation": "",
}
"""What pydantic calls the kinds of values, and what they are called in a file."""


def _shown(value: object) -> str:
    """A refused value in a message."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists
        return f"a {type(value).__name__} that is too large to print"


def _plain_location(cls: type[BaseModel], error: ErrorDetails) -> list[str]:
    """Where the error is, as the user wrote it: without the names that pydantic gives to the kinds of a union."""
    annotation: Any = cls
    location = []
    for part in error["loc"]:
        kinds = _kinds(annotation)
        if len(kinds) > 1:
            annotation = next((kind for kind in kinds if getattr(kind, "__name__", "") == part), None)
            continue
        location.append(str(part))
        annotation = _inside(kinds[0], str(part))
    return location


def _kinds(annotation: Any) -> list[Any]:
    """The members of a union beside None; of anything else, it alone."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for kind in get_args(annotation) if kind is not NoneType]
    return [annotation]


def _inside(annotation: Any, part: str) -> Any:
    """What stands below the key or index `part` of a value of this kind; None where that is not known."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if part in annotation.model_fields:
            return annotation.model_fields[part].annotation
        return Value if annotation.model_config.get("extra") == "allow" else None
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return get_args(annotation)[0] if get_origin(annotation) in (tuple, list) else None


def _known_keys(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = cls.model_fields[part].annotation if part in cls.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            cls = annotation
    return list(cls.model_fields)


Count = Annotated[int, Field(ge=1, le=10**6)]
"""How many of something. What is above a million is a slip, and would take the machine's memory before it is told."""

CountOrZero = Annotated[int, Field(ge=0, le=10**6)]
"""As `Count`, and 0 too."""

Epochs = Annotated[int, Field(ge=1, le=10**5)]

Threads = Annotated[int, Field(ge=1, le=10**4)]
"""Of one process. What the machine's cores make of it is for `placement.check_threads`."""

Text = Annotated[str, Field(min_length=1)]
"""A name or a path: an empty one means nothing."""

Seed = Annotated[int, Field(ge=0, le=MOST)]
"""Of what is drawn by Python and torch."""

SamplerSeed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""Of Optuna's samplers, which draw by numpy's RandomState."""


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise InputError("seeds must be distinct", received=list(seeds), remedy="Remove the repeated one.")
    return seeds


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000), AfterValidator(_distinct)]
"""One number per repetition: fixes few-shot draw, views, batches and random start."""


def plain_name(dataset: str) -> str:
    """The name of a data set as files and metrics are called by it: `folder:my birds` is `folder-my-birds`."""
    return re.sub(r"[^\w.-]+", "-", dataset)


def _distinct_names(datasets: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if len(set(map(plain_name, datasets))) != len(datasets):
        what = "targets" if info.field_name == "targets" else "data sets"
        raise InputError(f"{what} must be distinct", received=list(datasets), remedy="Remove the repeated one.")
    return datasets


def _val_shots(known: dict[str, Any]) -> int:
    return min(int(known.get("shots", 4)), 4)


def _folds(known: dict[str, Any]) -> int:
    return 1 if known.get("classes") == "all" else 3


class Task(Model):
    """What is trained on: data set, frozen model and few-shot protocol.

    `also`: further data sets, on each of which a setting has prompts of its own: a search for one setting that suits
    them all, see `gcsearch.joint`. `classes`: "base" trains the first half of the classes and measures the second as
    new ones, "all" trains all. `targets`: data sets that the prompt is measured on in the stage `test`, with all their
    classes and test images.
    `views` augmented views of each training image are encoded once; epoch e uses view (e-1) mod views.
    `val_shots` validation images per class score the search (`"all"`: every one that the data set has); unset, the
    published min(shots, 4). `folds`: in the search stage the seed at index i trains on the base classes without fold
    i mod `folds`, which plays "new"; 1 holds nothing out, and nothing else goes with all classes. `precision` is that
    of the frozen text tower; what is trained is float32 always. `template` is that of zero-shot CLIP and of losses
    that refer to it; in a pipeline's file "own" stands for the data set's.
    `also_templates`: those of the data sets of `also`, in order, where they differ from `template`; "own" there fills
    them in. `exif`: images are turned as their EXIF orientation says; the reference code does not.
    `other_names`: a text file with one name per line for NFL, in place of the embedded list. `repeats`:
    "refuse" a data set whose test images are also in its other lists, told by content, or "keep" them, with a warning.
    """

    dataset: Text = "shapes-sketch"
    root: Text | None = None
    backbone: Text = "mini"
    pretrained: Text | None = None
    template: str = "a photo of a {}."
    also: Annotated[tuple[str, ...], AfterValidator(_distinct_names)] = ()
    classes: Literal["base", "all"] = "base"
    targets: Annotated[tuple[str, ...], AfterValidator(_distinct_names)] = ()
    shots: Count = 16
    val_shots: Count | Literal["all"] = Field(default_factory=_val_shots)
    folds: Count = Field(default_factory=_folds)
    views: Annotated[int, Field(ge=1, le=10**4)] = 8
    seeds: Seeds = (1, 2, 3)
    precision: Precision = "float32"
    exif: bool = False
    other_names: Text | None = None
    repeats: Literal["refuse", "keep"] = "refuse"
    also_templates: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[Task, ...]:
        """The tasks of one data set each that this one is made of; itself where there is but one."""
        if not self.also:
            return (self,)
        templates = (self.template, *(self.also_templates or [self.template] * len(self.also)))
        return tuple(
            self.model_copy(update={"dataset": name, "template": template, "also": (), "also_templates": ()})
            for name, template in zip((self.dataset, *self.also), templates, strict=True)
        )

    @property
    def title(self) -> str:
        """The data sets for people: `shapes-night + shapes-neon`."""
        return " + ".join(task.dataset for task in self.each)

    @field_validator("also")
    @classmethod
    def _not_the_first(cls, also: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        first = info.data.get("dataset", "")
        if plain_name(first) in map(plain_name, also):
            remedy = "Leave it out: `dataset` is one of them already."
            raise InputError("the further data sets must be others than `dataset`", received=first, remedy=remedy)
        return also

    @field_validator("targets")
    @classmethod
    def _targets_of_one_source(cls, targets: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if targets and info.data.get("also"):
            rule, remedy = "a prompt is carried to targets from one data set", "Leave `also` out, or `targets`."
            raise InputError(rule, received=list(targets), remedy=remedy)
        return targets

    @field_validator("template")
    @classmethod
    def _one_slot(cls, template: str) -> str:
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise InputError(
                "a template must contain {} exactly once, and no other braces",
                received=template,
                remedy='Write for example "a photo of a {}.".',
            )
        return template

    @field_validator("also_templates")
    @classmethod
    def _one_for_each(cls, templates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if templates and len(templates) != len(info.data.get("also", ())):
            rule, remedy = "each data set of `also` needs one template", "Leave it out where `template` suits them all."
            raise InputError(rule, received=list(templates), remedy=remedy)
        return tuple(map(cls._one_slot, templates))

    @field_validator("folds")
    @classmethod
    def _nothing_held_out_of_all_classes(cls, folds: int, info: ValidationInfo) -> int:
        if folds > 1 and info.data.get("classes") == "all":
            raise InputError(
                "where all classes are trained, none is held out",
                received=folds,
                remedy='Leave `folds` out, or set `folds = 1`; folds go with `classes = "base"`.',
            )
        return folds


def written(value: Value) -> str:
    """A hyper-parameter's value for people: four digits that count."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class TrialConfig(Model):
    """One setting of one method: all that its numbers depend on beside the task.

    `hyperparameters` carries natural names only (rho, beta1, ...); `gcsearch.methods` knows which ones a
    method has and checks them.
    """

    bounded: ClassVar[bool] = False  # the method knows better, and names its own key

    method: str
    hyperparameters: dict[str, Value] = {}

    @property
    def values(self) -> dict[str, Value]:
        """All that is chosen: the hyper-parameters, and the method under the name `method`."""
        return {"method": self.method, **self.hyperparameters}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the setting, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """For people: `gcscoop rho=0.1 beta1=0.5 beta2=0.8`."""
        values = (f"{name}={written(value)}" for name, value in self.hyperparameters.items())
        return " ".join((self.method, *values))


class Rung(Model):
    """A place on the way of a setting from which only the better part goes on, see `gcsearch.halving`.

    It lies at `share` of a setting's own epochs. `keep` is the share of those that came there which goes on, by
    `metric`; `rivals` are the values of those that came there in other packs.
    """

    bounded: ClassVar[bool] = False

    share: Annotated[float, Field(gt=0, lt=1)]
    keep: Annotated[float, Field(gt=0, le=1)]
    metric: str
    rivals: tuple[float, ...] = ()


class Proposal(Model):
    """A numbered setting that waits to be tried in a sweep; all of a pack have the same `rungs`."""

    bounded: ClassVar[bool] = False

    number: int
    config: TrialConfig
    rungs: tuple[Rung, ...] = ()


class EpochReport(Model):
    """The numbers of one setting after one epoch: for each metric one value per seed.

    Those of `gcsearch.config.metrics` that the task's protocol has, and with targets `test_acc_TARGET` of each;
    `loss` (mean over the epoch's steps); for rules with a second gradient `cosine` (mean cosine between the plain and
    the perturbed gradient); for GCSAM `share_plain`, `share_projected`, `share_perturbed` (share of the epoch's steps
    in each branch).
    """

    bounded: ClassVar[bool] = False

    number: int
    epoch: int
    metrics: dict[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN where the metric was not measured."""
        values = self.metrics.get(metric, ())
        return fmean(values) if values else float("nan")


OnReports = Callable[[list[EpochReport]], None]
"""Hears of the settings that have finished an epoch."""


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"


CHAMPION = "champion"
"""The label of the confirmed champion's record."""

SHORTLISTED = "shortlisted"
"""How the labels of the other settings of the shortlist begin."""


class Role(StrEnum):
    """What a record is in its sweep: a trial of the search, or one of the settings that are confirmed."""

    SEARCHED = "searched"
    REFERENCE = "reference"
    SHORTLISTED = "shortlisted"
    CHAMPION = "champion"


def _role(known: dict[str, Any]) -> Role:
    """The role of a record whose file does not state it, as an earlier gcsearch wrote them."""
    label = known.get("label", "")
    if label == CHAMPION:
        return Role.CHAMPION
    if known.get("number", 0) < 0:
        return Role.REFERENCE
    return Role.SHORTLISTED if label.startswith(f"{SHORTLISTED} t") else Role.SEARCHED


class TrialRecord(Model):
    """A finished trial. `metrics` holds the last epoch's numbers, one value per seed, in order of `seeds`."""

    bounded: ClassVar[bool] = False

    number: int
    config: TrialConfig
    stage: Stage
    outcome: Outcome
    reason: str = ""
    seeds: tuple[int, ...]
    epochs: int
    metrics: dict[str, tuple[float, ...]] = {}
    curve: tuple[EpochReport, ...] = ()
    seconds: float = 0.0
    worker: str = ""
    label: str = ""
    role: Role = Field(default_factory=_role)
    run_id: str = ""

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN where the metric was never measured."""
        values = self.metrics.get(metric, ())
        return fmean(values) if values else float("nan")


class Budget(Model):
    """When a search ends before its trials are done; whatever of it is spent first counts.

    `minutes` of all sessions together; `device_seconds`: seconds of worker processes, times the GPUs that each
    has, or the cores where it has none; `failed` settings; `no_gain`: settings in a row without a better one.
    """

    minutes: Annotated[float, Field(gt=0)] | None = None
    device_seconds: Annotated[float, Field(gt=0)] | None = None
    failed: Count | None = None
    no_gain: Count | None = None


class SearchSettings(Model):
    """How settings are proposed.

    `pack` settings are trained at once in one process; "auto": as many as the machine trains best. `generation`
    packs are proposed from the same knowledge and told together, in order: so a sweep repeats exactly, whichever
    worker finishes first.

    `cap`: upper bounds on parameters of the space, by name, and for single methods by method and name, see
    `spaces.SearchSpace.capped`: so methods whose spaces differ get one budget.
    `grid`: how many values a parameter has with the sampler "grid", by its name; three where it is not named.
    `pruner`: how settings that do badly leave early, see `gcsearch.halving`, at `rungs` rungs of which each keeps
    one in `eta`, the first at the share `first_rung` of a setting's epochs. `checkpoint_every`: epochs of a pack
    that are lost at most when its process is killed.
    """

    space: Text = "gcscoop"
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random", "grid"] = "tpe"
    cap: dict[str, float | dict[str, float]] = {}
    grid: dict[str, Count] = {}
    objective: Objective | Annotated[tuple[ObjectiveOfSeveral, ...], Field(min_length=2)] = "val_base_margin"
    """One, or several of which none may get worse for another's sake: then the search is after their front."""

    trials: Count = 32
    seed: SamplerSeed = 0
    pack: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = 4
    generation: Count = 2
    startup: CountOrZero = 10
    pruner: Literal["none", "halving", "hyperband", "asha", "median"] = "none"
    eta: Annotated[int, Field(ge=2, le=1000)] = 2
    rungs: Annotated[int, Field(ge=1, le=20)] = 2
    first_rung: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoint_every: Count = 10
    budget: Budget = Budget()
    warm_start: tuple[Text, ...] = ()
    """Earlier sweeps of the same task; what came of them is known before the first proposal."""
    max_failed: CountOrZero = 0
    """Where more settings fail, the finished sweep ends with exit code 3."""

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
        """The one number that settings are ranked by: the objective; of several, H, which weighs both sides."""
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
        """What the settings of the search are trained and measured on."""
        return "test" if self.oracle else "search"


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
    """How the sweep's answer is chosen and tested, see `gcsearch.confirmation`.

    The best `top` settings of the search are measured again with `seeds`, and the simplest within one standard
    error of their best is the champion; with 1 the first of the search is.  They and the `references` are then
    trained on all classes of the protocol with `seeds` and measured on test images.
    """

    top: Count = 5
    seeds: Seeds = (4, 5, 6, 7, 8)
    references: tuple[str, ...] = ("zeroshot", "coop", "sam", "literature")


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

    version: Literal[1] = 1
    name: Annotated[str, AfterValidator(_one_name)]
    task: Task = Task()
    search: SearchSettings = SearchSettings()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    evaluate_every: Count = 1

    @property
    def measured(self) -> tuple[tuple[Stage, tuple[int, ...]], ...]:
        """The stages that the sweep goes through, with the seeds of each: search, recheck where there is one, test."""
        again = ((self.search.stage, self.confirm.seeds),) if self.confirm.top > 1 else ()
        return ((self.search.stage, self.task.seeds), *again, ("test", self.confirm.seeds))


class TrialFile(Model):
    """One setting with everything that its numbers depend on: the content of an exported `config.toml`.

    `threads` is part of it because rounding, and so the last digits, depends on it.
    """

    version: Literal[1] = 1
    stage: Stage = "test"
    seeds: Seeds = (1, 2, 3)
    threads: Threads = 1
    evaluate_every: Count = 1
    task: Task = Task()
    trial: TrialConfig

    @field_validator("task")
    @classmethod
    def _one_data_set(cls, task: Task) -> Task:
        if task.also:
            raise InputError(
                "one setting is trained on one data set at a time",
                key="task.also",
                received=list(task.also),
                remedy="Leave it out, and train on each with a file of its own, as `gcsearch export` writes them.",
            )
        return task
