"""One small sweep that is run once, whichever processes test it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gcsearch import open_sweep
from gcsearch.config.pipeline import Pipeline
from gcsearch.driver import run
from gcsearch.files import locked
from gcsearch.sweep.sweep import Sweep
from tests.support.sweeps import SMOKE


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """A store with the finished sweep `smoke`. To be read only: other processes read it at the same time."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    with locked(shared / ".once", wait=True):
        run.run(Pipeline.from_dict(SMOKE), store=shared)  # a finished one is returned
    return shared


@pytest.fixture(scope="session")
def sweep(store) -> Sweep:
    return open_sweep("smoke", store)


@pytest.fixture
def copy(store, tmp_path) -> Path:
    """A copy of the store, for whoever drives the sweep or writes to it."""
    return shutil.copytree(store, tmp_path / "copy")


@pytest.fixture(scope="session")
def exported(sweep, tmp_path_factory) -> Path:
    """An export of the sweep's champion."""
    return sweep.export(tmp_path_factory.mktemp("export") / "best")
