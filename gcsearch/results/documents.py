"""The JSON that gcsearch prints and writes, as one schema: each `--json`, and an export's `metrics.json`.

All say the same thing the same way: a configuration is a `Measured`, numbers over seeds are `Numbers`.  The documents
are made through these classes, so what is printed is what docs/schema.json says.  A number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, TypeAdapter

from gcsearch.config.base import Model
from gcsearch.config.metrics import Stage
from gcsearch.config.trials import Outcome, Role, TrialConfig, TrialRecord
from gcsearch.methods.registry import title_and_tags
from gcsearch.results.tables.table import Heading, Table
from gcsearch.stats import finite, spread, t_interval

if TYPE_CHECKING:
    from pandas import DataFrame


class Document(Model):
    """Base of all documents: every key is there, those without a value as null."""

    bounded: ClassVar[bool] = False

    def dump(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")


class Numbers(Document):
    """One quantity over seeds: sample deviation (n - 1) and 95 % interval of the mean are null for a single seed."""

    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    per_seed: dict[str, float | None]

    @classmethod
    def of(cls, seeds: Sequence[int], values: Sequence[float]) -> Self:
        """The numbers of `values`, one for each of `seeds`; of nothing where there are no values."""
        mean, deviation, _ = spread(values)
        return cls(
            mean=finite(mean),
            deviation=finite(deviation),
            interval=t_interval(values),
            per_seed={str(seed): finite(value) for seed, value in zip(seeds, values, strict=False)},
        )


class Measured(Document):
    """One configuration and its numbers. `stage` says on which images: validation (`search`) or test (`test`)."""

    name: str
    """The title of the method."""
    tags: tuple[str, ...]
    """What a reader of its numbers must know."""
    config: TrialConfig
    number: int
    label: str
    stage: Stage
    outcome: Outcome
    reason: str
    seeds: tuple[int, ...]
    epochs: int
    seconds: float
    metrics: dict[str, Numbers]
    run_id: str
    """The run in MLflow; empty where there is none."""


def facts(record: TrialRecord) -> dict[str, Any]:
    """What every document says of a record: the fields of `Measured`."""
    title, tags = title_and_tags(record.config)
    kept = ("config", "number", "label", "stage", "outcome", "reason", "seeds", "epochs", "seconds", "run_id")
    return {
        "name": title,
        "tags": tags,
        "metrics": {name: Numbers.of(record.seeds, values) for name, values in record.metrics.items()},
        **{key: getattr(record, key) for key in kept},
    }


class Objective(Numbers):
    """The numbers that a sweep was ranked by, with their metric's name; `oracle` where they are from test images."""

    name: str
    oracle: bool


class Ranked(Measured):
    """A row of `best --json`. `rank` is null for a trial that did not complete or has no objective.

    Of a search by several objectives `objective` is H, and `front` says whether no other configuration is as good in
    all of them and better in one; of a search by one it is null. Of a search on several data sets `worst_regret` says
    how far the configuration is behind the best one where it is worst, in the unit of the objective.
    """

    rank: int | None
    objective: Objective
    front: bool | None = None
    worst_regret: float | None = None


class Compared(Measured):
    """A row of `compare --json`; `name` is the title in tables, `sweeps` those that chose the configuration.

    `oracle` says that they looked at test images to choose it; it is then one of the `tags` too.
    Each column of the table (`base`, `new`, `h`) is a key of its own with its `Numbers`; `best` names those in which no
    row is better.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Numbers]

    sweeps: tuple[str, ...]
    best: tuple[str, ...]
    oracle: bool = False
    against: Against | None = None


class Against(Document):
    """A paired difference: the row minus the configuration `name` over their common seeds, in points of `metric`.

    `low` and `high` are its 95 % interval, `p` is Wilcoxon's, `error` the standard error; null for one seed.
    """

    name: str
    metric: str
    mean: float | None
    error: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None
    verdict: str


class Average(Document):
    """A method over all data sets of a table; each column is a key with its `Numbers`.

    `oracle` and `against` are as in `Compared`; the differences are those of the averages, seed by seed.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Numbers]

    name: str
    oracle: bool = False
    against: Against | None = None


class Averages(Document):
    """A last entry of `compare --json`, where the tasks before it differ in the data set alone.

    `h` is the mean of the data sets' harmonic means, `h_of_means` the harmonic mean of the mean accuracies.
    """

    average_over: tuple[str, ...]
    rows: tuple[Average, ...]


class Group(Document):
    """An entry of `compare --json`: all rows of one task; `published` what others have, with --published."""

    task: dict[str, Any]
    rows: tuple[Compared, ...]
    published: dict[str, Any] | None = None


class Classes(Document):
    """Class names of an export, in the order of the rows of its text features."""

    all: tuple[str, ...]
    """Where all classes were trained; then there is no base and no new one."""
    base: tuple[str, ...]
    new: tuple[str, ...]
    given: tuple[str, ...]

    @property
    def trained(self) -> tuple[str, ...]:
        """Those that images were trained on."""
        return self.all or self.base

    @property
    def known(self) -> tuple[str, ...]:
        """Those of the data set."""
        return (*self.all, *self.base, *self.new)


class Data(Document):
    """What was trained and measured on: digests of paths, labels and contents of the images."""

    dataset: str
    digests: Literal["sizes", "contents"] = "sizes"
    """Of what the digests are; former versions took sizes in place of contents."""
    draws: dict[str, str]
    """Per seed, the few-shot images that it trained on."""
    test: str
    test_images: int


class Frozen(Document):
    """The frozen model. `weights` is the fingerprint that loaded weights must have."""

    backbone: str
    pretrained: str | None
    weights: str
    width: int
    embedding: int
    logit_scale: float


class Chosen(Document):
    """How the configuration was chosen; `oracle` where that looked at test images."""

    sweep: str
    objective: str
    oracle: bool
    trials: int
    row: Ranked


class Origin(Document):
    """Where the numbers come from: MLflow's store and run, versions, git commit."""

    tracking: str
    run_id: str
    environment: dict[str, str]


class Temperature(Document):
    """What the logits of an export are divided by for its probabilities, and what that changed.

    `images` are the validation images of trained classes that it was fitted on; `nll` is their mean negative
    log-likelihood in nats and `ece` their expected calibration error in per cent, `..._before` at temperature 1.
    """

    value: float
    images: int
    nll_before: float
    nll: float
    ece_before: float
    ece: float


class Exported(Document):
    """The `metrics.json` of an export."""

    version: Literal[1]
    digest: str
    """Of what classifies: configuration, prompts, names and weights."""
    champion: Measured
    references: tuple[Measured, ...]
    chosen: Chosen
    verdict: tuple[str, ...] = ()
    """What the numbers allow to say of the champion beside the references, in sentences."""
    leads: tuple[Against, ...] = ()
    """The champion minus each reference, paired by seed; those that have no seed in common are left out."""
    classes: Classes
    data: Data
    model: Frozen
    origin: Origin
    temperature: Temperature | None = None
    """None where none was fitted: probabilities are those of the logits as they are."""


class Guess(Document):
    """A class with its probability, the softmax of the mean logits over the classes in question.

    The logits are divided by the export's temperature first where it has one; `logit` is not.
    """

    name: str
    probability: float
    logit: float


class Classified(Document):
    """An image with its likeliest classes, best first."""

    image: str
    top: tuple[Guess, ...]


class Predictions(Document):
    """What `predict --json` prints. The logits are the mean over `seeds`."""

    export: str
    method: str
    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    images: tuple[Classified, ...]

    def to_frame(self) -> DataFrame:
        """A row for each image and class that was guessed, the likeliest first."""
        from pandas import DataFrame

        rows = [
            {"image": one.image, "place": place, **guess.dump()}
            for one in self.images
            for place, guess in enumerate(one.top, start=1)
        ]
        return DataFrame(rows)

    def table(self) -> Table:
        """The likeliest classes of every image, a row each."""
        seeds = ", ".join(map(str, self.seeds))
        which = f"seed {seeds}" if len(self.seeds) == 1 else f"mean over the logits of seeds {seeds}"
        rows = [
            [one.image if place == 0 else "", guess.name, f"{guess.probability:.4f}"]
            for one in self.images
            for place, guess in enumerate(one.top)
        ]
        headings = [Heading("image", words=True), Heading("class", words=True), Heading("probability")]
        likeliest = frozenset((line, 1) for line, row in enumerate(rows) if row[0])
        return Table(f"{self.method}, {which}, among {len(self.classes)} classes", headings, rows, strong=likeliest)


class Sharp(Document):
    """Loss and sharpness of one seed's prompt."""

    seed: int
    images: int
    loss: float
    gradient_norm: float
    sharpness: float
    """The largest rise of the loss found within `rho`."""
    eigenvalue: float
    """The largest of the Hessian."""


class Sharpnesses(Document):
    """What `landscape --json` prints."""

    export: str
    method: str
    rho: float
    seeds: tuple[Sharp, ...]

    def table(self) -> Table:
        """A row for each seed."""
        title = (
            f"{self.method}: loss on training images, its largest rise within rho = {self.rho:.4g}, and the largest "
            "eigenvalue of its Hessian"
        )
        headings = [Heading("seed", words=True)]
        headings += map(Heading, ("images", "loss", "gradient norm", "sharpness", "eigenvalue"))

        def cells(one: Sharp) -> list[str]:
            numbers = (one.loss, one.gradient_norm, one.sharpness, one.eigenvalue)
            return [str(one.seed), str(one.images), *(f"{number:.5g}" for number in numbers)]

        return Table(title, headings, list(map(cells, self.seeds)))


class StatusEntry(Document):
    """A sweep as `status --json` prints it, see `gcsearch.sweep.state`; null where nothing tells. Times are UTC."""

    sweep: str
    state: str
    stage: str
    done: int
    total: int
    outcomes: dict[str, int]
    objective: str
    best: float | None
    best_number: int | None
    per_minute: float | None
    """Trials a minute of this session."""
    seconds_left: float | None
    """Of the search."""
    workers: tuple[str, ...]
    """The worker processes that have recorded a trial."""
    driver: str | None
    since: str | None
    heartbeat: str | None
    journal_lines: int
    mlflow_lines: int
    why: str


class PlannedSweep(Document):
    """What `plan --json` prints, see `gcsearch.driver.plan`. Seconds are estimates."""

    name: str
    dataset: str
    backbone: str
    method: str
    settings: int
    done: int
    seeds: int
    packs: int
    workers: int
    threads: int
    gpus_per_worker: float
    cluster: str
    trained_classes: int
    images: int
    to_encode: int
    steps_per_setting: int
    step_seconds: float
    start_seconds: float
    encode_seconds: float
    search_seconds: float
    confirm_seconds: float
    peak_bytes: int
    notes: tuple[str, ...]
    seconds: float


class PlannedMatrix(Document):
    """What `plan --json` prints for a file with a [matrix]: its sweeps, and the sums of their seconds."""

    name: str
    seconds: float
    search_seconds: float
    sweeps: tuple[PlannedSweep, ...]


class MachineFinding(Document):
    """One thing that `doctor --json` has looked at."""

    what: str
    ok: bool
    found: str
    remedy: str


class DatasetFinding(Document):
    """A data set as `data check --json` has found it. `problem` says why it could not be read at all."""

    ok: bool
    name: str
    folder: str
    source: str
    classes: int
    images: dict[str, int]
    missing: tuple[str, ...]
    leaks: tuple[str, ...]
    unreadable: tuple[str, ...]
    reasons: dict[str, str]
    problem: str
    notes: tuple[str, ...]


class CacheEntry(Document):
    """A file of the feature cache; null is what it does not say, or says in no way that can be read."""

    dataset: Any
    transform: Any
    model: Any
    weights: Any
    shape: Any
    format: Any
    file: str
    bytes: int
    modified: float
    """Seconds since 1970."""
    problem: str


class TrainedRecord(Document):
    """What `train --json` and `trial --json` print: one configuration, one value of each metric per seed."""

    number: int
    config: TrialConfig
    stage: Stage
    outcome: Outcome
    reason: str
    seeds: tuple[int, ...]
    epochs: int
    metrics: dict[str, tuple[float | None, ...]]
    curve: tuple[()]
    """Former versions left the curve out in this way."""
    seconds: float
    worker: str
    label: str
    role: Role
    run_id: str

    @classmethod
    def of(cls, record: TrialRecord) -> Self:
        metrics = {name: tuple(map(finite, values)) for name, values in record.metrics.items()}
        stated = {key: value for key, value in record.to_dict().items() if key in cls.model_fields}
        return cls(**stated | {"curve": (), "metrics": metrics})


DOCUMENTS: dict[str, Any] = {
    "gcsearch best --json": list[Ranked],
    "gcsearch compare --json": list[Group | Averages],
    "metrics.json": Exported,
    "gcsearch predict --json": Predictions,
    "gcsearch landscape --json": Sharpnesses,
    "gcsearch status --json": list[StatusEntry],
    "gcsearch plan --json": PlannedSweep | PlannedMatrix,
    "gcsearch train --json": TrainedRecord,
    "gcsearch doctor --json": list[MachineFinding],
    "gcsearch data check --json": list[DatasetFinding],
    "gcsearch cache ls --json": list[CacheEntry],
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of all documents; `$defs` holds what they share."""
    adapters = [(name, "serialization", TypeAdapter(kind)) for name, kind in DOCUMENTS.items()]
    found, definitions = TypeAdapter.json_schemas(adapters)  # type: ignore[arg-type]
    parts = [found[name, "serialization"] | {"title": name} for name in DOCUMENTS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": parts, **definitions}


if __name__ == "__main__":
    import json

    print(json.dumps(json_schema(), indent=2))
