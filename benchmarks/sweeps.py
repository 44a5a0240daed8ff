"""What the benchmarks of the search share: pipelines of ours and a stock set-up of Tune, timed alike."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.task import Task
from gcsearch.config.trials import Proposal, TrialRecord
from gcsearch.driver import run
from gcsearch.execution.executor import Batch
from gcsearch.execution.placement import Placement
from gcsearch.execution.session import session
from gcsearch.execution.worker import PackRunner
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.state import lines_synced
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep

WORKERS = 2


@dataclass
class Timed(Callback):
    """Times of a search, from its start to its last record: wall clock and the driver's own processor time.

    The processor time goes on until MLflow has everything too, for which the last of `total` records waits.
    """

    sweep: Sweep | None = None
    total: int = 0
    began: tuple[float, float] = (0.0, 0.0)
    ended: tuple[float, float] = (0.0, 0.0)
    seen: list[TrialRecord] = field(default_factory=list)

    def stage(self, name: str, total: int | None = None) -> None:
        if name == "search":
            self.began = self.ended = (time.perf_counter(), time.process_time())

    def record(self, record: TrialRecord) -> None:
        if record.stage == "search":
            self.seen.append(record)
            wall = time.perf_counter()
            if self.sweep and len(self.seen) == self.total:
                self._wait_for_mlflow(self.sweep)
            self.ended = (wall, time.process_time())

    def _wait_for_mlflow(self, sweep: Sweep) -> None:
        lines = sweep.state.lines
        while lines_synced(sweep) < lines:
            time.sleep(0.05)

    @property
    def wall(self) -> float:
        return self.ended[0] - self.began[0]

    @property
    def driver(self) -> float:
        return self.ended[1] - self.began[1]


def ours(name: str, folder: Path, task: dict[str, Any], space: str, search: dict[str, Any]) -> Timed:
    """One whole sweep of ours: journal, MLflow and all. Confirms one reference that trains nothing."""
    timed = Timed(sweep=Sweep(name, Store(folder), Store(folder).sweep(name)), total=search["trials"])
    run.run(
        Pipeline.from_dict(
            {
                "name": name,
                "evaluate_every": 5,
                "task": task,
                "search": {"space": space, **search},
                "confirm": {"top": 1, "seeds": [4], "references": ["zeroshot"]},
                "resources": {"workers": WORKERS, "threads": 1},
            }
        ),
        store=folder,
        callback=timed,
    )
    return timed


def stock(folder: Path, task: Task, space: SearchSpace, trials: int, *, reuse: bool) -> Timed:
    """Ray's own OptunaSearch and MLflowLoggerCallback: one configuration a trial; a process for each unless `reuse`.

    A trial trains all seeds of its configuration at once, with our engine: what is compared is the set-up.
    """
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    runner, cache = PackRunner(task, 5), os.environ["GCSEARCH_CACHE"]

    def trainable(config: dict[str, Any]) -> None:
        import torch

        os.environ["GCSEARCH_CACHE"] = cache
        torch.set_num_threads(1)
        trial = Proposal(number=0, config=space.config(space.natural(config)))
        (record,) = runner(Batch(stage="search", seeds=task.seeds, trials=(trial,)), lambda reports: None)
        tune.report({"val_h": record.mean("val_h")})

    timed = Timed()
    with session(Placement(WORKERS, 1)):
        timed.stage("search")
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(space.distributions(), metric="val_h", mode="max"),
                num_samples=trials,
                max_concurrent_trials=WORKERS,
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(
                name="stock",
                storage_path=str(folder / "ray"),
                callbacks=[MLflowLoggerCallback(f"sqlite:///{folder / 'stock.db'}", experiment_name="stock")],
                verbose=0,
            ),
        ).fit()
        timed.ended = (time.perf_counter(), time.process_time())
        if results.num_errors:
            raise RuntimeError(f"{results.num_errors} of the stock set-up's trials failed: {results.errors[0]}")
    return timed
