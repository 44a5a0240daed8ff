"""The report and the terminal say the same, cell by cell.

The page's tables are those of `best`, of the end of a run and of `compare`; so are the verdict and the importances.
"""

from __future__ import annotations

import re

import pytest

from gcsearch.cli import render
from gcsearch.sweep.sweep import open_sweep
from tests.support.calls import call
from tests.support.pages import carried, tables, words_of
from tests.support.records import a_final, trial_record
from tests.support.sweeps import a_sweep

COUNT = 14


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A finished sweep with a trial that failed, numbers of all digits, and a shortlist that was measured again."""
    folder = tmp_path_factory.mktemp("store")
    records = []
    for n in range(COUNT):
        h = 70 + 10 * (1 / 7) * n % 9 + (5 if n % 3 else 0)
        metrics = {"val_base_acc": (h + 1 / 3, h + 2), "val_new_acc": (h - 2 / 3, h - 1), "val_h": (h, h + 1 / 9)}
        values = {"rho": 0.01 * 2 ** (n % 6), "beta1": "off" if n % 4 == 0 else 0.05 * n, "lr": 0.001 * (1 + n % 3)}
        records.append(trial_record(n, "gcscoop", metrics=metrics, **values))
    records.append(
        trial_record(COUNT, "gcscoop", outcome="failed", reason="out of memory", rho=1.5, beta1=0.1, lr=0.001)
    )
    best = max(records[:COUNT], key=lambda record: record.mean("val_h"))
    finals = [
        a_final("zeroshot", 70.0, 71.0, label="zero-shot CLIP", number=-1),
        a_final("coop", 90.0, 61.0, label="CoOp", number=-2),
        a_final("gcscoop", 88.0, 72.0, label="shortlisted t0004", number=4, rho=0.16),
        a_final("gcscoop", 89.0 + 1 / 3, 73.0, number=best.number, rho=0.08),
    ]
    search = {"space": "gcscoop", "objective": "val_h", "trials": COUNT + 1}
    a_sweep(folder, "one", records, finals, search=search, confirm={"seeds": [4, 5]})
    return folder


@pytest.fixture(scope="module")
def page(store):
    return open_sweep("one", store).report(store / "page.html").read_text(encoding="utf-8")


def columns(text):
    """Rows of a table of the terminal: cells stand at least two blanks apart."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip() and "─" not in line]


def rows_of(table, *names):
    """The cells of some columns below their headings."""
    places = [table[0].index(name) for name in names]
    return [[row[place] for place in places] for row in table[1:]]


def numbers_in(cell):
    return [float(one) for one in re.findall(r"[+-]?\d+\.\d\d", cell)]


def test_all_trials_have_the_ranks_and_numbers_of_best(store, page):
    trials = next(table for table in tables(page) if table[0][0] == "rank")
    _, titles, *printed = columns(call("best", "one", "--top", 100, "--store", store).stdout)
    assert len(printed) == COUNT + 1
    drawn = rows_of(trials, "rank", "trial", "val_h", "outcome")
    for line, (rank, trial, h, outcome) in zip(printed, drawn, strict=True):
        known = dict(zip(titles, line, strict=False))
        assert (known["rank"], known["trial"], known["val_h"]) == (rank or "-", f"t{int(trial):04d}", h or "-")
        assert known["outcome"] == outcome.split()[0]
        values = dict(part.split("=") for part in known["configuration"].split() if "=" in part)
        (cells,) = (row for row in rows_of(trials, "trial", "rho", "beta1", "lr") if row[0] == trial)
        assert cells[1:] == [values["rho"], values["beta1"], values["lr"]]


def test_the_results_are_those_at_the_end_of_a_run_and_of_compare(store, page, capsys):
    results = tables(page)[0]
    drawn = rows_of(results, "configuration", "base", "new", "H")
    render.print_finals(open_sweep("one", store))
    printed = columns(capsys.readouterr().out)
    assert [row for row in printed if row[0] in {line[0] for line in drawn}][: len(drawn)] == drawn
    compared = call("compare", "one", "--against", "one", "--markdown", "--store", store).stdout.splitlines()
    lines = [[cell.strip(" *") for cell in line.strip("|").split(" | ")] for line in compared if line.startswith("| ")]
    (title,) = (place for place, one in enumerate(lines[0]) if one.startswith("H beside"))
    numbers = {line[0]: line[2:5] for line in lines}
    for name, *cells in drawn:
        if not name.startswith("shortlisted"):
            assert numbers["GCSCoOp" if name == "champion" else name] == cells
    # `compare` has row minus champion, the page champion minus row: the same numbers with the other sign.
    ahead = {row[0]: row[-1] for row in results[1:]}
    for line in lines[1:]:
        if line[title]:
            theirs, ours = (numbers_in(one) for one in (line[title], ahead[line[0]]))
            assert [-value for value in (theirs[0], theirs[2], theirs[1])] == ours


def test_the_verdict_is_word_for_word_the_printed_one(store, page, capsys):
    render.print_finals(open_sweep("one", store))
    _, _, said = capsys.readouterr().out.partition("verdict")
    short = re.search(r'<section class="headline".*?</section>', words_of(page), re.DOTALL)[0]
    sentences = [one.replace("\u00a0", " ").replace("−", "-") for one in re.findall(r"<p>(.*?)</p>", short)]
    assert [line.strip() for line in said.strip().splitlines()] == [one.replace("&lt;", "<") for one in sentences]


def test_importances_are_those_that_best_prints(store, page):
    (numbers,) = (one["about"]["csv"] for one in carried(page)["pictures"] if one["about"]["name"] == "importances")
    shares = [line.split(",") for line in numbers.splitlines()[1:]]
    printed = columns(call("best", "one", "--importances", "--store", store).stdout)[-len(shares) :]
    assert printed == [[name, f"{100 * float(share):.0f} %"] for name, share in shares]
    assert len(shares) == 3
    done = call("best", "one", "--importances", "--json", "--store", store)
    assert done.returncode == 2 and "--importances" in done.stderr
