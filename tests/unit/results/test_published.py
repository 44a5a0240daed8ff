"""The published numbers: that they are consistent, what stands for which task, and that the page shows them."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from gcsearch.config.task import Task
from gcsearch.data.datasets import DATASETS
from gcsearch.errors import InputError
from gcsearch.methods.registry import find
from gcsearch.results import published
from gcsearch.results.beside import beside
from gcsearch.results.comparison import compare
from gcsearch.results.published import AVERAGE, Published
from gcsearch.stats import harmonic_mean
from tests.support.finished import a_sweep
from tests.support.records import a_final

ROOT = Path(__file__).parents[3]
RESULTS = published.load().results
PETS = {"dataset": "OxfordPets", "backbone": "ViT-B-16", "pretrained": "openai", "shots": 16}


@pytest.fixture(params=RESULTS, ids=lambda result: f"{result.protocol}-{result.paper}-{result.method}")
def result(request):
    return request.param


def test_methods_and_data_sets_are_those_of_gcsearch(result):
    assert find(result.method).title == result.title
    assert set(result.numbers) <= {*DATASETS, AVERAGE}


def test_every_printed_h_is_that_of_its_numbers_or_the_note_says_so(result):
    for dataset in result.numbers:
        if result.protocol == "base-to-new" and dataset != AVERAGE:
            base, new, h = (cell.value for cell in result.cells(dataset).values())
            assert abs(harmonic_mean(base, new) - h) < 0.011 or f"{h:.2f}" in result.note


def test_averages_are_those_of_the_rows(result):
    """A slip of the pen in a row or an average would show: all eleven rows give the printed mean to 0.01."""
    rows = [row for dataset, row in result.numbers.items() if dataset != AVERAGE]
    if result.protocol == "base-to-new" and AVERAGE in result.numbers:
        base, new, *h = result.numbers[AVERAGE]
        if len(rows) == 11:
            assert fmean(row[0] for row in rows) == pytest.approx(base, abs=0.011)
            assert fmean(row[1] for row in rows) == pytest.approx(new, abs=0.011)
        if h:
            of_averages = abs(harmonic_mean(base, new) - h[0]) < 0.011
            assert result.average_h == ("of-averages" if of_averages else "average-of-h")
    elif AVERAGE in result.numbers:
        others = [row[0] for dataset, row in result.numbers.items() if dataset not in (AVERAGE, "ImageNet")]
        (printed,) = result.numbers[AVERAGE]
        assert fmean(others) == pytest.approx(printed, abs=0.011) or f"Printed as {printed:.2f}" in result.note


def test_each_number_has_its_certainty():
    (kgcoop,) = [r for r in RESULTS if r.method == "kgcoop" and r.protocol == "base-to-new"]
    certainties = {
        dataset: [cell.certainty for cell in kgcoop.cells(dataset).values()]
        for dataset in ("OxfordPets", "Food101", "FGVCAircraft", "SUN397", AVERAGE)
    }
    assert certainties == {
        "OxfordPets": ["read", "read", "computed"],
        "Food101": ["recalled", "read", "recalled"],
        "FGVCAircraft": ["read", "recalled", "recalled"],
        "SUN397": ["recalled", "recalled", "recalled"],
        AVERAGE: ["read", "read", "read"],
    }


def test_what_is_unknown_is_not_there():
    unknown = {method for one in published.load().unknown for method in one.methods}
    assert {"gcscoop", "subpt", "nfl", "subpt+nfl"} <= unknown
    assert not {"gcscoop", "subpt", "nfl", "subpt+nfl"} & {result.method for result in RESULTS}


@pytest.mark.parametrize("backbone", ["ViT-B-16", "ViT-B-16-quickgelu"])
def test_data_set_backbone_and_shots_find_the_published_results(backbone):
    found = published.match({**PETS, "backbone": backbone}, published.load())
    assert [r.method for r in found.results[:6]] == ["zeroshot", "coop", "cocoop", "coop", "prograd", "kgcoop"]
    assert {r.method for r in found.results[6:]} == {"sam", "fsam", "sagm", "sample"}
    assert found.difference == ""


@pytest.mark.parametrize(
    ("change", "methods", "words"),
    [
        ({"shots": 4}, {"zeroshot"}, "another number of shots (4 here, 16 there)"),
        ({"dataset": "shapes-sketch"}, set(), "another data set (shapes-sketch here, 11 others there)"),
        ({"dataset": AVERAGE}, set(), "another data set (average here"),
        ({"backbone": "ViT-B-32"}, set(), "another backbone (ViT-B-32 with openai here, ViT-B/16 with openai there)"),
        ({"pretrained": "./mine.pt"}, set(), "another backbone (ViT-B-16 with ./mine.pt here"),
        ({"classes": "all"}, set(), "another data set (OxfordPets here, ImageNet there) and another backbone ("),
        (
            {"dataset": "ImageNet", "backbone": "RN50", "classes": "all", "shots": 2},
            set(),
            "the published tables have another number of shots (2 here, 16 there)",
        ),
    ],
)
def test_what_differs_is_said(change, methods, words):
    found = published.match(PETS | change, published.load())
    assert {result.method for result in found.results} == methods
    assert words in found.difference


def test_few_shot_on_all_classes_is_another_protocol():
    (result,) = published.match(
        {**PETS, "dataset": "ImageNet", "backbone": "RN50", "classes": "all"}, published.load()
    )[0]
    assert result.cells("ImageNet") == {"acc": (62.95, "read")}


PETS_TASK = Task(**PETS, template="a photo of a {}, a type of pet.")


def test_each_published_result_stands_beside_each_of_our_rows_of_its_method():
    literature = a_final("kgcoop", label="KgCoOp, literature")
    ensemble = a_final("zeroshot", label="zero-shot CLIP", ensemble=True)
    sweep = a_sweep("pets", a_final("kgcoop", 95.0, 97.0, kg_lambda=2.0), [literature, ensemble], task=PETS_TASK)
    (group,) = compare([sweep])
    found = beside(group)
    lines = [(line.result.method, line.source, line.row.title if line.row else None) for line in found.lines]
    assert lines[:2] == [("zeroshot", "CoCoOp paper 2022", None), ("coop", "CoCoOp paper 2022", None)]
    assert [line for line in lines if line[0] == "kgcoop"] == [
        ("kgcoop", "KgCoOp paper 2023, table 3", "KgCoOp, literature"),
        ("kgcoop", "KgCoOp paper 2023, table 3", "KgCoOp"),
    ]
    assert len(found.once) == len(found.lines) - 1
    champion = next(line for line in found.lines if line.row and line.row.sweeps)
    assert champion.to_dict()["base"] == {"value": 94.65, "certainty": "read"}
    assert champion.to_dict()["ours"] == {"name": "KgCoOp", "base": 96.0, "new": 98.0, "h": 104.0}
    assert (found.difference, found.caution) == ("", "")


def test_an_oracle_stands_beside_published_results_under_its_name():
    sweep = a_sweep("pets", a_final("kgcoop", 95.0, 97.0, kg_lambda=2.0), [], task=PETS_TASK)
    (group,) = compare([replace(sweep, oracle=True)])
    (line,) = [line for line in beside(group).lines if line.row]
    assert line.to_dict()["ours"]["name"] == "KgCoOp [oracle]"


def test_another_template_than_the_fields_is_said():
    (group,) = compare([a_sweep("pets", a_final("kgcoop"), task=Task(**PETS))])
    assert 'saw "a photo of a {}." here and "a photo of a {}, a type of pet." there' in beside(group).caution


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": {"OxfordPets": [90.0]}}, r"numbers\.OxfordPets: a row of base-to-new has 2 or 3 numbers"),
        ({"protocol": "few-shot"}, "a row of few-shot has 1 numbers"),
        ({"numbers": {"OxfordPets": [90.0, 190.0]}}, "less than or equal to 100"),
        ({"recalled": ["EuroSAT"]}, "recalled must be one of the numbers, got EuroSAT"),
        ({"recalled": ["OxfordPets.acc"]}, r"recalled must be one of the numbers, got OxfordPets\.acc"),
        ({"paper": "KgCop"}, "Did you mean 'KgCoOp'"),
        ({"certain": True}, "known names"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(change, message):
    row = {"method": "coop", "protocol": "base-to-new", "backbone": "RN50", "paper": "KgCoOp", "read_in": "a text"}
    row |= {"numbers": {"OxfordPets": [90.0, 91.0]}}
    content = {"version": 1, "papers": {"KgCoOp": {}}, "results": [row]}
    assert Published.from_dict(content).results[0].cells("OxfordPets")["h"] == (90.5, "computed")
    with pytest.raises(InputError, match=message):
        Published.from_dict(content | {"results": [row | change]}, file="published.toml")


def test_the_page_is_what_the_script_makes_of_the_numbers():
    made = runpy.run_path(str(ROOT / "scripts" / "write_results.py"))["page"](published.load())
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == made
    assert "No number of gcsearch's own on real data is on this page" in made
    assert "| OxfordPets | 91.17 / 97.26 / *94.12* | 93.67 / 95.29 / *94.47* |" in made
    assert "94.24? / 96.66? / 95.43?" in made
