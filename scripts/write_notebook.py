"""Run examples/search.ipynb in a folder of its own and keep its outputs in it.

    python scripts/write_notebook.py

Figures are kept twice: as data for JupyterLab and VS Code, and as PNG for pages that show a notebook as it lies there,
drawn by kaleido with the Chromium of the system (`pip install 'gcsearch[figures]'`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "search.ipynb"


def main() -> None:
    """What libraries say on stderr is left out: it names paths of this machine."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}})
        client.execute(env={**os.environ, "PLOTLY_RENDERER": "plotly_mimetype+png"})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it was run
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOK)
    print(f"wrote {NOTEBOOK}, {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
