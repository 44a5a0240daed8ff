"""Finished sweeps as they are compared: a champion beside its references."""

from __future__ import annotations

from gcsearch.config.task import Task
from gcsearch.results.comparison import Finished
from tests.support.records import a_final

SKETCH = Task()
ZEROSHOT = a_final("zeroshot", 70.0, 71.0, label="zero-shot CLIP")
COOP = a_final("coop", 90.0, 61.0, label="CoOp")


def a_sweep(name, champion, references=(ZEROSHOT, COOP), task=SKETCH):
    return Finished(name, task, champion, references)
