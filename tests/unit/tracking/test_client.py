"""The client of an MLflow store: what importing it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["client", "registry", "content.trials"])
def test_whatever_imports_mlflow_first_its_telemetry_stays_off(module, tmp_path):
    code = (
        f"import gcsearch.tracking.{module}, mlflow\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "print(get_telemetry_client())"
    )
    # MLflow also leaves its telemetry off below pytest and in continuous integration.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MLFLOW", "CI"))}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")},
    )
    assert shown.stdout == "None\n"
    assert not list(tmp_path.rglob("telemetry*"))
