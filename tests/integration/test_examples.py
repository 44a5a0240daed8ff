"""What is in examples/ runs as it stands, with nothing but public names."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import gcsearch
from gcsearch.methods import registry

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "search.ipynb"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_and_uses_public_names_alone(script):
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported]
    assert "gcsearch" in names and not [name for name in names if name.startswith("gcsearch.")]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
def test_a_script_runs(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        registry.find.cache_clear()
    (folder,) = (tmp_path / "gcsearch-store" / "sweeps").iterdir()
    sweep = gcsearch.open_sweep(folder.name)
    assert sweep.state.finished and len(sweep.searched) == 8
    assert sweep.confirmed and sweep.confirmed.label == "champion"
    assert len(capsys.readouterr().out.splitlines()) > 4


@pytest.mark.slow
def test_a_rule_of_ones_own_trains_in_rays_workers_too(tmp_path):
    text = (EXAMPLES / "own_rule.py").read_text(encoding="utf-8")
    for long, short in {'"trials": 8': '"trials": 4', "value = 100": "value = 5", ', "coop", "sam"': ""}.items():
        assert long in text
        text = text.replace(long, short)
    (tmp_path / "own_rule.py").write_text(text.replace('executor="local"', 'executor="ray"'))
    done = subprocess.run([sys.executable, "own_rule.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = gcsearch.open_sweep("own-rule", tmp_path / "gcsearch-store").searched
    assert [(one.config.method, one.outcome.value) for one in records] == [("signs", "complete")] * 4


@pytest.mark.slow
def test_the_notebook_runs_and_its_outputs_are_of_the_kinds_that_are_kept(tmp_path):
    kept = nbformat.read(NOTEBOOK, as_version=4)
    ran = nbformat.read(NOTEBOOK, as_version=4)
    environment = {**os.environ, "PLOTLY_RENDERER": "plotly_mimetype"}
    client = NotebookClient(ran, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    for before, after in zip(kept.cells, ran.cells, strict=True):
        assert _kinds(before) == _kinds(after), before.source


def test_the_notebook_keeps_small_outputs_and_no_path_of_a_machine():
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.execution_count for cell in kept.cells if cell.cell_type == "code")
    assert not [output for cell in kept.cells for output in cell.get("outputs", ()) if output.output_type == "error"]
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not [place for place in ("/tmp/", "/home/", "/root/", "site-packages") if place in text]


def _kinds(cell) -> list[str]:
    """What a cell put out, beside words on stderr, which libraries choose."""
    found = [output for output in cell.get("outputs", ()) if output.get("name") != "stderr"]
    shown = [sorted(set(output.get("data", {})) - {"image/png"}) for output in found]
    return [f"{output.output_type} {' '.join(kinds)}" for output, kinds in zip(found, shown, strict=True)]
