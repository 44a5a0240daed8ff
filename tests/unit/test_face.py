"""`import gcsearch`: its names are there for a person, an editor and a type checker, and cost nothing unused."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import gcsearch

NAMES = {
    "run", "resume", "extend", "confirm", "stop", "cancel", "sync", "plan", "train", "cache_features", "run_matrix",
    "open_sweep", "compare", "load_export", "trainable", "objective", "register_rule", "rules",
    "Sweep", "Pipeline", "Task", "SearchConfig", "SearchSpace", "TrialConfig", "TrialRecord", "Callback", "errors",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(dir(gcsearch)) == set(gcsearch.__all__) == NAMES | {"__version__"}
    for name in NAMES:
        found = getattr(gcsearch, name)
        assert inspect.ismodule(found) or found.__name__ == name
        assert found.__doc__


def test_a_type_checker_is_told_where_each_name_is():
    tree = ast.parse(Path(gcsearch.__file__).read_text())
    (told,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in told.body for alias in node.names}
    assert imported == {
        name: "gcsearch" if name == "errors" else f"gcsearch.{gcsearch._HOME[name]}" for name in sorted(NAMES)
    }


def test_looking_at_the_names_imports_no_library():
    code = "import gcsearch, json, sys; print(json.dumps([dir(gcsearch), list(sys.modules)]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = json.loads(done.stdout)
    assert set(names) > NAMES
    assert not {"torch", "ray", "optuna", "mlflow", "pydantic"} & set(modules)


def test_former_names_still_lead_to_the_same_classes():
    from gcsearch.config.pipeline import SearchSettings
    from gcsearch.sweep.callbacks import Watcher

    assert (SearchSettings, Watcher) == (gcsearch.SearchConfig, gcsearch.Callback)
