"""Makes the pictures of the README and the docs, each from a real run, into docs/pictures.

    python scripts/pictures.py              # all of them
    python scripts/pictures.py terminal     # the display of a search: some minutes on two CPU cores
    python scripts/pictures.py report       # the head of the demo's report, in a Chromium
    python scripts/pictures.py mlflow       # the demo in MLflow's browser, as `gcsearch ui demo` shows it

Each picture is a function that takes the folder to write to; one more is a line in PICTURES.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

import gcsearch
from gcsearch.cli.live.observer import Observer
from gcsearch.cli.live.snapshot import Snapshot
from gcsearch.cli.live.view import Frame
from gcsearch.config.trials import EpochReport, Proposal, TrialRecord
from gcsearch.errors import Interrupted
from gcsearch.methods.registry import build
from gcsearch.sweep.sweep import Sweep

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PLACE = Path(__file__).parents[1] / "docs" / "pictures"
LARGEST = 150_000  # bytes

# --- The terminal -----------------------------------------------------------------------------------------

_SHOWN = {"search.pruner": "halving", "search.budget.minutes": "30"}


def terminal(folder: Path) -> Path:
    """The display of a search of the demo, of which a good half is done."""
    overrides = [f"--set {key}={value}" for key, value in _SHOWN.items()]
    with tempfile.TemporaryDirectory() as store:
        keeper = _Keeper()
        with contextlib.suppress(Interrupted):  # it stops the search once it has seen enough
            gcsearch.run("demo", store=store, overrides=_SHOWN, callback=keeper)
    if keeper.kept is None:
        raise SystemExit("the search was over before a good moment came: run it on a machine with less beside it")
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True)
    console.print(f"$ gcsearch run demo {' '.join(overrides)}", highlight=False)
    console.print(Frame(keeper.kept))
    # Without the font that rich would have a page fetch: a picture asks nobody for anything.
    form = re.sub(r"@font-face\s*\{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    path = folder / "terminal.svg"
    path.write_text(console.export_svg(title="gcsearch", code_format=form), encoding="utf-8")
    return path


class _Keeper(gcsearch.Callback):
    """Keeps how a search stood when a good half of it was done and all its workers were in the middle of a pack."""

    def __init__(self) -> None:
        self.kept: Snapshot | None = None
        self._observer: Observer | None = None
        self._epochs: dict[int, int] = {}
        self._shares: dict[int, float] = {}

    def begun(self, sweep: Sweep) -> None:
        self._observer = Observer(sweep)

    def proposal(self, proposal: Proposal) -> None:
        self._epochs[proposal.number] = build(proposal.config).epochs
        self._shares[proposal.number] = 0.0

    def record(self, record: TrialRecord) -> None:
        self._shares.pop(record.number, None)

    def reports(self, reports: list[EpochReport]) -> None:
        if self.kept or not self._observer:
            return
        self._shares |= {one.number: one.epoch / max(self._epochs[one.number], 1) for one in reports}
        now = self._observer.as_driver(self._shares)
        busy = now.workers is not None and len(now.running) == now.workers.count
        if now.stage == "search" and now.left and busy and now.done >= now.total / 2 and min(self._shares.values()) > 0:
            # The store is a passing one: the picture has the path that a user's would have.
            self.kept = replace(now, log=Path("gcsearch-store", *now.log.parts[-3:]))
            sweep = self._observer.sweep
            gcsearch.stop(sweep.name, store=sweep.store.root)


# --- The report -------------------------------------------------------------------------------------------

_WIDTH = 1000
_SCALE = 1.5  # pixels of the picture for each of the page
_COLOURS = 64


def report(folder: Path) -> Path:
    """The head of the demo's report: what came out, the results, and whether it was worth it."""
    with tempfile.TemporaryDirectory() as store:
        page = gcsearch.run("demo", store=store).report()
        return picture_of_report(page, folder / "report.png")


def picture_of_report(page: Path, path: Path) -> Path:
    """A report as a browser shows it, down to the end of its second section."""
    with _browser() as browser:
        tab = browser.new_page(viewport={"width": _WIDTH, "height": 1400}, device_scale_factor=_SCALE)
        tab.goto(page.resolve().as_uri())
        tab.locator(".figure:not([data-drawn])").first.wait_for(state="detached")
        box = tab.locator("#part-2").bounding_box()
        if box is None:
            raise SystemExit(f"{page} has no second section")
        height = box["y"] + box["height"] + 14
        png = tab.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": _WIDTH, "height": height})
    return _in_few_colours(png, path)


# --- MLflow -----------------------------------------------------------------------------------------------


def mlflow(folder: Path) -> Path:
    """The demo in MLflow's browser, as the address that `gcsearch ui demo` prints shows it."""
    with tempfile.TemporaryDirectory() as store:
        gcsearch.run("demo", store=store)
        return picture_of_mlflow("demo", Path(store), folder / "mlflow.png")


def picture_of_mlflow(sweep: str, store: Path, path: Path) -> Path:
    """The first screen of a sweep, without a click."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcsearch", "ui", sweep, "--store", str(store), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip() if server.stdout else ""
        with _browser() as browser:
            tab = browser.new_page(viewport={"width": 1400, "height": 800})
            tab.goto(address)
            tab.locator(".ag-row", has_text="champion").first.wait_for(timeout=60_000)
            tab.wait_for_timeout(2000)  # until its columns have their widths
            png = tab.screenshot()
    finally:
        server.terminate()
        server.wait()
    return _in_few_colours(png, path)


@contextlib.contextmanager
def _browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("a picture of a page needs a Chromium on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()


def _in_few_colours(png: bytes, path: Path) -> Path:
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    whole.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


# --- All --------------------------------------------------------------------------------------------------

PICTURES: dict[str, Callable[[Path], Path]] = {"terminal": terminal, "report": report, "mlflow": mlflow}


def main() -> None:
    """Make the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description="Makes the pictures of the README and the docs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Of {', '.join(PICTURES)}. [default: all]")
    parser.add_argument("--out", type=Path, default=PLACE, help="Folder to write to. [default: docs/pictures]")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(PICTURES):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or PICTURES:
        path = PICTURES[name](chosen.out)
        size = path.stat().st_size
        if size > LARGEST:
            raise SystemExit(f"{path} has {size} bytes, more than the {LARGEST} that a picture may have")
        print(f"{path}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
