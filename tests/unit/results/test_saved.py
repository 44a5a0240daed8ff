"""Pictures as files: their numbers in any case, images where a Chromium can draw them."""

from __future__ import annotations

import re
import shutil
import sys

import kaleido
import pandas as pd
import plotly.graph_objects as go
import pytest
from kaleido.errors import ChromeNotFoundError

from gcsearch.results.report.pages.saved import save_pictures
from gcsearch.results.report.picture import Picture


def a_picture(name, data=None, draw=None):
    frame = pd.DataFrame({"trial": [0, 1], "label": ["=1+1", "a <b>"], "value": [0.1, 80.123456789]})

    def drawn(numbers):
        return go.Figure(go.Scatter(x=numbers["trial"], y=numbers["value"]), layout={"height": 200})

    return Picture(name, "A & B", "What to read.", data or (lambda: frame), draw or drawn)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_images(monkeypatch):
    """As if kaleido were not installed."""
    monkeypatch.setitem(sys.modules, "kaleido", None)


def test_numbers_are_written_with_all_digits_and_no_formula_also_where_kaleido_is_missing(no_images, tmp_path):
    said: list[str] = []
    index = save_pictures("pets", [a_picture("one"), a_picture("two")], tmp_path / "new" / "here", said.append)
    assert files_in(index.parent) == ["index.html", "one.csv", "two.csv"]
    assert (index.parent / "one.csv").read_text() == "trial,label,value\n0,'=1+1,0.1\n1,a <b>,80.123456789\n"
    page = index.read_text()
    assert re.findall(r'(?:href|src)="([^"]*)"', page) == ["one.csv", "two.csv"]
    assert "A &amp; B" in page and "What to read." in page
    assert said == [
        "the pictures are there as CSV only: images need kaleido. Install it with `pip install 'gcsearch[figures]'`"
    ]


def test_without_a_chromium_the_numbers_are_there_and_the_remedy_is_said(tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise ChromeNotFoundError("Browser not found.")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", nowhere)
    said: list[str] = []
    save_pictures("pets", [a_picture("one")], tmp_path, said.append)
    assert files_in(tmp_path) == ["index.html", "one.csv"]
    assert "none on PATH. Install one (`apt-get install chromium`), or name its program in" in said[0]


def test_a_picture_that_cannot_be_drawn_costs_only_itself(no_images, tmp_path):
    def broken(_):
        raise KeyError("val_h")

    said: list[str] = []
    save_pictures("pets", [a_picture("one", draw=broken), a_picture("two")], tmp_path, said.append)
    assert files_in(tmp_path) == ["index.html", "two.csv"]
    assert said[0] == "the picture one could not be drawn: KeyError: 'val_h'"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="images need a Chromium on PATH")
def test_images_are_drawn_with_what_is_on_this_machine(tmp_path, monkeypatch):
    seen = {}
    drawn = kaleido.write_fig_from_object_sync
    monkeypatch.setattr(
        kaleido,
        "write_fig_from_object_sync",
        lambda figures, kopts: drawn(figures, kopts=seen.setdefault("kopts", kopts)),
    )
    said: list[str] = []
    index = save_pictures("pets", [a_picture("one"), a_picture("two")], tmp_path, said.append)
    assert said == []
    assert files_in(tmp_path) == [
        "index.html",
        *(f"{name}.{end}" for name in ("one", "two") for end in ("csv", "png", "svg")),
    ]
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "one.svg").read_text()
    linked = set(re.findall(r'(?:href|src)="([^"]*)"', index.read_text()))
    assert linked == set(files_in(tmp_path)) - {"index.html"}
    assert seen["kopts"]["mathjax"] is False and seen["kopts"]["proxy_server"].startswith("127.0.0.1:")
