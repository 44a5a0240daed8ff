"""gcsearch: hyperparameter search for few-shot prompt learning on CLIP.

Three lines take a task to its best configuration::

    import gcsearch
    sweep = gcsearch.run("demo")
    sweep.export("best")

Importing the package is cheap: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcsearch import errors
    from gcsearch.config.pipeline import Pipeline, SearchConfig
    from gcsearch.config.search_space import SearchSpace
    from gcsearch.config.task import Task
    from gcsearch.config.trials import TrialConfig, TrialRecord
    from gcsearch.driver.matrix import run_matrix
    from gcsearch.driver.plan import plan
    from gcsearch.driver.run import cache_features, cancel, confirm, extend, resume, run, stop, sync, train
    from gcsearch.execution.integrations import objective, trainable
    from gcsearch.export.classifier import load_export
    from gcsearch.methods import rules
    from gcsearch.methods.registry import register_rule
    from gcsearch.sweep.callbacks import Callback
    from gcsearch.sweep.gathering import compare
    from gcsearch.sweep.sweep import Sweep, open_sweep

__version__ = "0.2.0"

__all__ = [
    "Callback",
    "Pipeline",
    "SearchConfig",
    "SearchSpace",
    "Sweep",
    "Task",
    "TrialConfig",
    "TrialRecord",
    "__version__",
    "cache_features",
    "cancel",
    "compare",
    "confirm",
    "errors",
    "extend",
    "load_export",
    "objective",
    "open_sweep",
    "plan",
    "register_rule",
    "resume",
    "rules",
    "run",
    "run_matrix",
    "stop",
    "sync",
    "train",
    "trainable",
]

_HOME = {
    "Callback": "sweep.callbacks",
    "Pipeline": "config.pipeline",
    "SearchConfig": "config.pipeline",
    "SearchSpace": "config.search_space",
    "Sweep": "sweep.sweep",
    "Task": "config.task",
    "TrialConfig": "config.trials",
    "TrialRecord": "config.trials",
    "cache_features": "driver.run",
    "cancel": "driver.run",
    "compare": "sweep.gathering",
    "confirm": "driver.run",
    "extend": "driver.run",
    "load_export": "export.classifier",
    "objective": "execution.integrations",
    "open_sweep": "sweep.sweep",
    "plan": "driver.plan",
    "register_rule": "methods.registry",
    "resume": "driver.run",
    "rules": "methods",
    "run": "driver.run",
    "run_matrix": "driver.matrix",
    "stop": "driver.run",
    "sync": "driver.run",
    "train": "driver.run",
    "trainable": "execution.integrations",
}
"""The module of each public name: it is imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("gcsearch.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'gcsearch' has no attribute {name!r}")
    if name == "rules":
        return import_module(f"gcsearch.{_HOME[name]}.rules")
    return getattr(import_module(f"gcsearch.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
