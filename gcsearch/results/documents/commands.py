"""Documents of the other commands: `status`, `plan`, `train`, `trial`, `doctor`, `data check`, `cache ls`."""

from __future__ import annotations

from typing import Any, Self

from gcsearch.config.metrics import Stage
from gcsearch.config.trials import Outcome, Role, TrialConfig, TrialRecord
from gcsearch.results.documents.results import Document
from gcsearch.stats import finite


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
