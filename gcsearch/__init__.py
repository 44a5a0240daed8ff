"""gcsearch: hyper-parameter search for few-shot prompt learning on CLIP.

Three lines take a task to its best configuration::

    import gcsearch
    sweep = gcsearch.run("demo")
    sweep.export("best")

Importing the package is cheap: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "run": "gcsearch.driver.run",
    "run_matrix": "gcsearch.driver.matrix",
    "open_sweep": "gcsearch.sweep.sweep",
    "train": "gcsearch.driver.run",
    "Pipeline": "gcsearch.config.pipeline",
    "Task": "gcsearch.config.task",
    "TrialConfig": "gcsearch.config.trials",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gcsearch' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
