"""The engine for those who have a `ray.tune.Tuner` or an `optuna.Study` of their own.

Neither library is needed for the other one.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcsearch.config.metrics import STAGES, Stage
from gcsearch.config.search_space import SearchSpace, load
from gcsearch.config.task import Task
from gcsearch.config.trials import EpochReport, Outcome, Proposal, TrialConfig
from gcsearch.errors import InputError, RunError, unknown_name
from gcsearch.execution.executor import Batch
from gcsearch.files import cache_place
from gcsearch.methods import registry

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


def trainable(
    task: Task,
    space: SearchSpace | str | None = None,
    *,
    stage: Stage = "search",
    evaluate_every: int = 1,
    checkpoint_every: int | None = None,
) -> Callable[[dict[str, Any]], None]:
    """A function that `ray.tune.Tuner` can run, with any search algorithm and callback.

    And with any scheduler that lets a trial keep its config. A checkpoint goes on with the config that it is of: with
    population-based training, which changes configs on the way, a trial whose config was changed begins anew.

    At every evaluation it reports `epoch` and the mean over the task's seeds of every metric that the task has, such as
    `val_base_margin`. A trial whose numbers are not finite any more ends in an error.

    Args:
        task: what is trained and measured.
        space: decodes what a search algorithm proposes from `space.distributions()`, so that its relations (`at_most`,
            `off`) hold. Without one, a config is `method` and that method's hyperparameters.
        stage: "search" scores on validation images, "test" on test images.
        evaluate_every: epochs between two reports; the last epoch is always measured.
        checkpoint_every: epochs between two checkpoints, from which Tune goes on where a trial was interrupted.
    """
    _check(task, stage, evaluate_every)
    decode, cache = _decoder(space), cache_place()

    def train(config: dict[str, Any]) -> None:
        from ray import tune

        from gcsearch.execution.worker import PackRunner

        os.environ["GCSEARCH_CACHE"] = cache
        with tempfile.TemporaryDirectory(prefix="gcsearch-") as folder:
            if former := tune.get_checkpoint():
                former.to_directory(folder)
            every = checkpoint_every or 1
            runner = PackRunner(
                task, evaluate_every, checkpoints=Path(folder) if checkpoint_every else None, checkpoint_every=every
            )
            reported, written = 0, _last_written(folder)

            def report(reports: list[EpochReport]) -> None:
                nonlocal reported, written
                before, written = written, _last_written(folder)
                found = tune.Checkpoint.from_directory(folder) if written > before else None
                for one in reports:
                    means = {name: one.mean(name) for name in one.metrics}
                    tune.report({"epoch": one.epoch, **means}, checkpoint=found)
                reported += len(reports)

            (record,) = runner(_batch(task, stage, decode(config)), report)
        if record.outcome is not Outcome.COMPLETE:
            raise RunError(record.reason)
        if not reported:  # of several data sets the mean is known at the end
            tune.report({"epoch": record.epochs, **{name: record.mean(name) for name in record.metrics}})

    return train


def _last_written(folder: str) -> int:
    """When a checkpoint below the folder was written last."""
    return max((file.stat().st_mtime_ns for file in Path(folder).rglob("*.safetensors")), default=0)


def _batch(task: Task, stage: Stage, config: TrialConfig) -> Batch:
    return Batch(stage=stage, seeds=task.seeds, trials=(Proposal(number=0, config=config),))


def objective(
    task: Task,
    space: SearchSpace | str,
    metric: str | Sequence[str] = "val_base_margin",
    *,
    stage: Stage = "search",
    evaluate_every: int = 1,
) -> Callable[[optuna.Trial], float | tuple[float, ...]]:
    """A function for `study.optimize` of a study that maximises: the mean of `metric` over the task's seeds.

    It reports the metric at every evaluation, with the epoch as the step, and leaves where the study's pruner says so.
    With several metrics, for a study with as many directions, nothing is pruned. A trial whose numbers are not finite
    any more gives NaN, which Optuna counts as failed. The values that were run are the trial's attribute `values`.

    Args:
        task: what is trained and measured.
        space: what is searched: a shipped name, a path or a `SearchSpace`.
        metric: one that the task measures, see docs/protocols.md.
        stage, evaluate_every: as in `trainable`.
    """
    from gcsearch.execution.worker import PackRunner

    found = load(space) if isinstance(space, str) else space
    names = (metric,) if isinstance(metric, str) else tuple(metric)
    if not names:
        raise InputError("a study needs a metric", key="metric", received="()", remedy="Name one that the task has.")
    _check(task, stage, evaluate_every)
    runner = PackRunner(task, evaluate_every)

    def run(trial: optuna.Trial) -> float | tuple[float, ...]:
        import optuna

        _check_directions(trial.study, len(names))
        internal = {name: _suggest(trial, name, one) for name, one in found.distributions().items()}
        config = registry.complete(found.config(found.natural(internal)))
        trial.set_user_attr("values", config.values)

        def report(reports: list[EpochReport]) -> None:
            for one in reports:
                for name in names:
                    if name not in one.metrics:
                        raise unknown_name("metric", name, one.metrics, key="metric")
                if isinstance(metric, str):
                    trial.report(one.mean(metric), step=one.epoch)
                    if trial.should_prune():
                        raise optuna.TrialPruned

        (record,) = runner(_batch(task, stage, config), report)
        values = tuple(record.mean(n) if record.outcome is Outcome.COMPLETE else math.nan for n in names)
        return values[0] if isinstance(metric, str) else values

    return run


def _check(task: Task, stage: Stage, evaluate_every: int) -> None:
    """InputError for what would only be noticed once a trial trains."""
    if not isinstance(task, Task):
        raise InputError("the task must be a gcsearch.Task", key="task", received=type(task).__name__)
    if stage not in STAGES:
        raise unknown_name("stage", stage, STAGES, key="stage")
    if evaluate_every < 1:
        rule = "the epochs between two evaluations must be 1 or more"
        raise InputError(rule, key="evaluate_every", received=evaluate_every)


def _check_directions(study: optuna.Study, metrics: int) -> None:
    """InputError where the study would minimise what grows, or counts other objectives."""
    directions = [direction.name.lower() for direction in study.directions]
    if directions != ["maximize"] * metrics:
        few = 'direction="maximize"' if metrics == 1 else f'directions=["maximize"] * {metrics}'
        raise InputError(
            "the study must maximise every metric, and nothing else",
            key="study",
            received=", ".join(directions),
            remedy=f"Make it with optuna.create_study({few}).",
        )


def _decoder(space: SearchSpace | str | None) -> Callable[[Mapping[str, Any]], TrialConfig]:
    """Gives the configuration that a Tune config stands for."""
    if space is None:
        return lambda config: registry.complete(
            TrialConfig(method=config["method"], hyperparameters={k: v for k, v in config.items() if k != "method"})
        )
    found = load(space) if isinstance(space, str) else space
    return lambda config: registry.complete(found.config(found.natural(config)))


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"a space has no {type(distribution).__name__}")
    low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
    suggest = trial.suggest_float if isinstance(distribution, FloatDistribution) else trial.suggest_int
    return suggest(name, low, high, step=step, log=log)
