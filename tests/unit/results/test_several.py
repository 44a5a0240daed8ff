"""Several sweeps on one page: the numbers are those of `gcsearch compare`, and what cannot be compared is refused."""

from __future__ import annotations

import re
import sys

import pytest

from tests.support.calls import call
from tests.support.pages import carried, tables, words_of
from tests.support.records import a_final, completed
from tests.support.sweeps import a_sweep

ZEROSHOT = a_final("zeroshot", 70.0, 71.0, label="zero-shot CLIP", number=-1)


def searched(method, values, **hyperparameters):
    """A trial for each of `values`, which are H on validation images."""
    return [
        completed(
            method, number=n, metrics={"val_h": (value, value + 1)}, seconds=60.0, lr=0.001 * (n + 1), **hyperparameters
        )
        for n, value in enumerate(values)
    ]


def write(store, name, method, new, task=(), seeds=(4, 5), **hyperparameters):
    champion = a_final(method, 80.0, new, number=1, seeds=seeds, lr=0.002, **hyperparameters)
    task = {"dataset": "shapes-sketch", **dict(task)}
    search = {"space": method, "objective": "val_h", "trials": 3}
    records = searched(method, (70.0, 75.0, 72.0), **hyperparameters)
    a_sweep(store, name, records, [ZEROSHOT, champion], task=task, search=search, confirm={"seeds": list(seeds)})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)  # images take a Chromium, and no test here looks at one
    write(tmp_path, "first", "gcscoop", 80.0, rho=0.1)
    write(tmp_path, "second", "sam", 82.0, rho=0.2)
    write(tmp_path, "third", "coop", 77.0)
    return tmp_path


NAMES = ("first", "second", "third")


def page_of(store, *words):
    done = call("report", *words, "--store", store, "--out", store / "page.html")
    assert done.returncode == 0, done.stderr
    return (store / "page.html").read_text(encoding="utf-8")


def test_its_tables_have_the_numbers_of_compare_cell_by_cell(store):
    drawn = tables(page_of(store, *NAMES))
    lines = call("compare", *NAMES, "--against", "first", "--markdown", "--store", store).stdout.splitlines()
    printed = [[cell.strip(" *") for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    assert drawn[-1] == [printed[0], *printed[2:]]
    assert [row[0] for row in drawn[-1][1:]] == ["zero-shot CLIP", "GCSCoOp", "SAM", "CoOp"]
    champions = {row[0]: row for row in drawn[1][1:]}
    for row in printed[2:]:
        if row[1]:
            assert champions[row[1]][3:] == [row[4], row[5]]
    assert champions["second"][1:3] == ["trial 1, SAM (lr 0.002)", "val_h 75.50 ± 0.71"]


def test_it_says_what_differs_what_is_known_and_draws_all_searches_in_one_picture(store):
    write(store, "short", "coop", 76.0, task={"val_shots": 2}, n_ctx=8)
    page = page_of(store, "third", "short")
    differing = {row[0]: row[1:] for row in tables(page)[0][1:]}
    assert differing == {"task.val_shots": ["4", "2"]}
    words = words_of(page)
    assert "The champion of third, CoOp, reaches H\u00a0= 84.00 ± 2.83 over 2 seeds on shapes-sketch." in words
    assert "is 1.00 points of H below it (95 % interval −1.00 to −1.00, 2 paired seeds)." in words
    (picture,) = carried(page)["pictures"]
    assert picture["about"]["name"] == "best-so-far-val-h"
    lines = [trace for trace in picture["figure"]["data"] if trace["mode"] == "lines"]
    assert [line["name"] for line in lines] == ["third", "short"]
    assert len({line["line"]["dash"] for line in lines}) == len({line["line"]["color"] for line in lines}) == 2
    assert [line["y"] for line in lines] == [[70.5, 75.5, 75.5]] * 2


def test_other_seeds_are_said_to_have_none_in_common(store):
    write(store, "others", "coop", 90.0, seeds=(8, 9), n_ctx=8)
    page = page_of(store, "third", "others")
    assert "The champion of others, CoOp, has no seed in common with it, so the two are not compared." in words_of(page)
    assert tables(page)[1][2][-1] == "no common seed"


def test_several_data_sets_have_a_table_each_and_their_averages(store):
    write(store, "night", "gcscoop", 79.0, task={"dataset": "shapes-night"}, rho=0.1)
    page = page_of(store, "first", "night")
    titles = re.findall(r'<h2 id="title-\d+">([^<]*)', words_of(page))
    assert "Mean over 2 data sets" in titles and "Results on shapes-night, mini, 16 shots" in titles
    assert [row[:2] for row in tables(page)[1][1:]] == [["first", "shapes-sketch"], ["night", "shapes-night"]]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"shots": 4}, "task.shots 4 and 16"),
        ({"classes": "all"}, "task.classes all and "),
    ],
)
def test_a_sweep_of_another_protocol_is_refused_with_what_differs(store, task, words):
    write(store, "apart", "coop", 70.0, task=task)
    done = call("report", "first", "second", "apart", "--store", store, "--out", store / "page.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"apart, which has nobody to be compared with: {words}" in done.stderr
    assert "`gcsearch report apart` draws it by itself" in done.stderr
    assert not (store / "page.html").exists()


def test_it_lies_in_the_store_where_no_place_is_named_and_its_pictures_where_one_is(store):
    done = call("report", "first", "second", "first", "--store", store, "--figures", store / "figures")
    assert done.stdout.strip().endswith("comparison.html") and (store / "comparison.html").exists()
    numbers = (store / "figures" / "best-so-far-val-h.csv").read_text().splitlines()
    assert numbers[:2] == ["sweep,trials,trial,best,complete,champion", "first,1,0,70.5,True,False"]
    assert len(numbers) == 1 + 2 * 3


def test_a_sweep_that_is_not_finished_is_refused(store):
    a_sweep(store, "half", searched("coop", (70.0,)))
    done = call("report", "first", "half", "--store", store)
    assert done.returncode == 2
    assert "only finished sweeps can be compared, and half is not" in done.stderr
    done = call("report", "first", "--against", "coop", "--store", store)
    assert done.returncode == 2 and "--against" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_is_drawn_whole_on_any_screen(store, visit, width, scheme):
    page_of(store, *NAMES)
    seen = visit((store / "page.html").as_uri(), width=width, color_scheme=scheme)
    seen.page.locator(".figure[data-drawn]").wait_for()
    assert (seen.errors, seen.abroad, seen.sticking_out()) == ([], [], [])
