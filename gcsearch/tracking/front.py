"""MLflow's server as `gcsearch ui` starts it: its browser begins with runs, and without the assistant's panel.

MLflow starts it by the name of its entry point, see `--app-name` of `mlflow server`.
"""

from __future__ import annotations

from pathlib import Path

import mlflow.server
from mlflow.server.fastapi_app import app
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from gcsearch.tracking.views import with_settings

__all__ = ["app"]


def _page(request: Request) -> HTMLResponse:
    index = Path(mlflow.server.__file__).parent / mlflow.server.REL_STATIC_DIR / "index.html"
    return HTMLResponse(with_settings(index.read_text(encoding="utf-8")), headers={"Cache-Control": "no-cache"})


app.router.routes.insert(0, Route("/", _page))
