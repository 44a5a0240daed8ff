"""`gcsearch ui` in a browser: what a new user sees of a sweep, without a click and after a few."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from gcsearch.config.trials import EpochReport
from gcsearch.tracking.sync import MlflowSync
from tests.support.browser import is_here
from tests.support.records import ZEROSHOT, a_final, a_record
from tests.support.servers import free_port
from tests.support.sweeps import a_sweep

SPACE = """version = 1
method = "gcscoop"
[parameters.rho]
low = 0.05
high = 2
log = true
[parameters.beta2]
low = 0.5
high = 0.9
"""

NOT_OURS = ("404 (Not Found)", "ResizeObserver loop")  # MLflow asks who is logged in where nobody can be; a warning


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a confirmed sweep whose champion has curves, as MLflow has it."""
    folder = tmp_path_factory.mktemp("store")
    curve = tuple(
        EpochReport(number=1, epoch=e, metrics={"test_h": (60.0 + e, 62.0 + e), "loss": (1 / e, 2 / e)})
        for e in range(1, 9)
    )
    champion = a_final("gcscoop", number=1, rho=0.1, new=78.0, seeds=(4, 5)).model_copy(update={"curve": curve})
    other = a_final("gcscoop", number=2, rho=0.2, new=79.0, label="shortlisted t0002", seeds=(4, 5))
    search = {"space": "space.toml", "objective": "val_h"}
    sweep = a_sweep(folder, "mine", map(a_record, range(4)), [ZEROSHOT, other, champion], space=SPACE, search=search)
    sweep.journal.append("close", why="FINISHED")
    MlflowSync(sweep, sweep.journal, print, print).sync()
    return folder


@contextmanager
def served(*words):
    """`gcsearch ui` with these words, in a process; the address that it prints."""
    command = [sys.executable, "-m", "gcsearch", "ui", *words, "--port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert said.endswith(("ends MLflow's server\n", "ends optuna-dashboard\n"))


@pytest.mark.slow
def test_the_champion_and_its_h_are_seen_without_a_click_and_its_curves_after_two(store, visit):
    with served("mine", "--store", str(store)) as address:
        seen = visit(address)
        page = seen.page
        page.set_default_timeout(60_000)
        champion = page.get_by_role("link", name="confirm-champion-gcscoop")
        champion.wait_for()
        h = page.locator(".ag-row", has_text="champion").locator('[col-id="metrics.`h`"]').first
        h.wait_for()
        assert h.inner_text().startswith("85")
        for shown in (champion, h):
            box = shown.bounding_box()
            assert box["x"] + box["width"] <= 1280 and box["y"] + box["height"] <= 900

        with page.expect_response(lambda answer: "runs/search" in answer.url):
            page.locator('.ag-header-cell[col-id="metrics.`h`"]').click()
        page.wait_for_url(re.compile("orderByKey=metrics.%60h%60"))
        page.locator('.ag-row[row-index="0"]', has_text="shortlisted").first.wait_for()

        champion.click()
        page.get_by_role("tab", name="Model metrics").click()
        page.get_by_placeholder("Search metric charts").fill("test_h")
        page.locator('.js-plotly-plot .scatterlayer path.js-line[d*="L"]').first.wait_for()
    assert [error for error in seen.errors if not any(one in error for one in NOT_OURS)] == []
    assert seen.abroad == []


@pytest.mark.slow
def test_the_dashboard_shows_the_sweep_as_a_study(store, visit):
    pytest.importorskip("optuna_dashboard", reason="needs the extra: pip install 'gcsearch[dashboard]'")
    with served("mine", "--optuna", "--store", str(store)) as address:
        assert is_here(address)
        seen = visit(address)
        seen.page.get_by_text("mine").first.wait_for(timeout=60_000)
        seen.page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(timeout=60_000)
    assert seen.abroad == []


def test_the_dashboard_shows_one_sweep_and_says_what_it_needs(store, monkeypatch):
    from typer.testing import CliRunner

    from gcsearch.cli.app import app
    from gcsearch.errors import InputError

    done = CliRunner().invoke(app, ["ui", "--optuna", "--store", str(store)])
    assert isinstance(done.exception, InputError)
    assert "Name it: gcsearch ui NAME --optuna" in str(done.exception)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["ui", "mine", "--optuna", "--store", str(store)])
    assert "pip install 'gcsearch[dashboard]'" in str(done.exception)
