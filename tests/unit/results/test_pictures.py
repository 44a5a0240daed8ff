"""The pictures of a report by their numbers: worth, survival, time, curves on test images, parallel coordinates."""

from __future__ import annotations

import math

import pytest

from gcsearch.config.metrics import find
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.search_space import load
from gcsearch.config.trials import EpochReport, Outcome, TrialConfig
from gcsearch.results.differences import pooled
from gcsearch.results.report.figures import search
from gcsearch.results.report.figures.course import survival_picture, time_picture
from gcsearch.results.report.figures.parallel import LINES, height, parallel_coordinates
from gcsearch.results.report.numbers.course import survival, time_spent
from gcsearch.results.report.picture import ReportData
from gcsearch.results.report.responses import axis, responses, thinned
from gcsearch.results.report.sections.results import calibration_section, worth_section
from gcsearch.results.report.sections.search import importance_section, parallel_section, slices_section
from gcsearch.results.report.sections.training import test_curves_section as curves_on_test_images
from gcsearch.stats import calibration_error
from tests.support.records import trial_record

PIPELINE = Pipeline(name="pets", search=SearchConfig(objective="val_h"), evaluate_every=2)
POINT = {"rho": 0.1, "beta1": 0.5, "beta2": 0.8, "lr": 0.002, "epochs": 200}


def a_final(label, number, h, method="gcscoop", seeds=(4, 5, 6), **values):
    """A confirmed configuration whose new accuracy falls from 90 to `h` over the epochs."""
    curve = tuple(
        EpochReport(
            number=number,
            epoch=epoch,
            metrics={"test_base_acc": (60.0 + epoch,) * 3, "test_new_acc": (90.0 - (90 - h[0]) * epoch / 6,) * 3},
        )
        for epoch in (2, 4, 6)
    )
    metrics = {"test_base_acc": h, "test_new_acc": h, "test_h": h}
    config = TrialConfig(method=method, hyperparameters=values)
    known = {"stage": "test", "seeds": seeds, "label": label, "metrics": metrics, "curve": curve}
    return trial_record(number, config=config, **known)


FINALS = [
    a_final("zero-shot CLIP", -1, (70.0, 70.0, 70.0), "zeroshot").model_copy(update={"curve": ()}),
    a_final("CoOp", -2, (60.0, 80.0, 70.0), "coop"),
    a_final("GCSCoOp, literature", -3, (84.0, 84.0, 84.0), **POINT),
    a_final("champion", 3, (80.0, 81.0, 82.0), **POINT | {"rho": 0.2}),
]


def searched(count=24):
    """Random configurations, better near rho = 0.5, after the literature's."""
    space = load("gcscoop")
    return [
        trial_record(
            number,
            config=space.config(values),
            seeds=(1, 2),
            metrics={"val_h": (80 - 5 * abs(math.log10(values["rho"] + 0.005) + 0.3),) * 2},
            label="" if number else "literature",
        )
        for number, values in enumerate([POINT, *space.sample(count - 1, 1)])
    ]


def the_picture(section, name=None):
    return next(one for one in section.pictures if name in (None, one.name))


def test_whether_it_is_worth_it_is_told_for_each_reference():
    leads = the_picture(worth_section(PIPELINE, FINALS)).frame.set_index("against")
    assert list(leads.index) == ["zero-shot CLIP", "CoOp", "GCSCoOp, literature"]
    assert list(leads["gain"]) == pytest.approx([11.0, 11.0, -3.0])
    assert list(leads["verdict"]) == ["better", "not distinguishable", "worse"]
    assert all(leads["low"] < leads["gain"]) and all(leads["gain"] < leads["high"])
    assert "nothing has been confirmed" in worth_section(PIPELINE, []).lead
    alone = [FINALS[0].model_copy(update={"seeds": (7, 8, 9)}), FINALS[3]]
    assert "no reference shares a seed" in worth_section(PIPELINE, alone).lead


def test_the_overfitting_picture_has_champion_coop_and_the_literature():
    section = curves_on_test_images(ReportData(PIPELINE, [], FINALS, 3))
    assert [one.name for one in section.pictures] == ["test-curves-base", "test-curves-new"]
    new = the_picture(section, "test-curves-new").frame
    assert list(dict.fromkeys(new["configuration"])) == ["champion", "CoOp", "GCSCoOp, literature"]
    coop = new[new["configuration"] == "CoOp"]
    assert list(coop["epoch"]) == [2, 4, 6]
    assert list(coop["mean"]) == pytest.approx([80.0, 70.0, 60.0])
    assert "after every 2 epochs and the last" in section.pictures[0].caption
    bare = [one.model_copy(update={"curve": ()}) for one in FINALS]
    whole = {one.label: one for one in FINALS}
    read = ReportData(PIPELINE, [], bare, 3, confirmed_with_curves=lambda some: [whole[one.label] for one in some])
    assert the_picture(curves_on_test_images(read), "test-curves-new").frame.equals(new)
    assert "Fewer than two epochs" in curves_on_test_images(ReportData(PIPELINE, [], bare, 3)).lead


def pruned(number, at, epochs=40, outcome=Outcome.PRUNED):
    config = TrialConfig(method="sam", hyperparameters={"epochs": epochs})
    return trial_record(number, config=config, outcome=outcome, epochs=at)


def test_survival_counts_who_came_to_each_rung_and_who_left_there():
    settings = SearchConfig(objective="val_h", pruner="halving", eta=2, rungs=2)
    early = [pruned(n, 10) for n in range(4)]
    late = [pruned(n, 10, epochs=20) for n in range(4, 6)]  # half of its own epochs
    ended = [pruned(n, 40, outcome=Outcome.COMPLETE) for n in range(6, 8)]
    broken = [pruned(8, 3, outcome=Outcome.DIVERGED)]
    found = survival([*early, *late, *ended, *broken], settings)
    assert [(one.share, one.arrived, one.went_on) for one in found] == [
        (0.0, 9, 9), (0.25, 8, 4), (0.5, 4, 2), (1.0, 2, 2),
    ]  # fmt: skip
    bars = {trace.name: list(trace.y) for trace in survival_picture(found).figure.data}
    assert bars == {"went on": [9, 4, 2, 2], "pruned here": [0, 4, 2, 0]}
    assert survival(early, SearchConfig(objective="val_h")) == []


def test_time_is_told_in_the_order_of_the_stages():
    spent = time_spent({"report": 3.0, "search": 120.0, "start": 0.0, "confirmation": 60.0})
    assert [(one.stage, one.seconds) for one in spent] == [
        ("search", 120.0), ("test images", 60.0), ("report and end", 3.0),
    ]  # fmt: skip
    (bars,) = time_picture(spent).figure.data
    assert list(bars.x) == [0.05, 1.0, 2.0] and bars.text[-1] == "2.0 minutes (66 %)"


def test_parallel_coordinates_scale_each_axis_as_it_was_sampled():
    rho = axis("rho", [0.0, 0.01, 0.1, 1.0])
    assert height(rho, 1.0) == 1.0 and height(rho, 0.0) == 0.0
    assert height(rho, 1.0) - height(rho, 0.1) == pytest.approx(height(rho, 0.1) - height(rho, 0.01))
    assert height(axis("position", ["end", "front", "middle"]), "front") == 0.5
    assert height(rho, None) < 0, "below the axis: the configuration has none"


def test_parallel_coordinates_mark_what_was_confirmed_and_say_what_they_leave_out():
    data = ReportData(PIPELINE, searched(), FINALS, 3)
    picture = the_picture(parallel_section(data))
    roles = picture.frame.set_index("trial")["role"]
    assert (roles[3], roles[0]) == ("champion", "literature")
    assert list(picture.frame["val_h"]) == sorted(picture.frame["val_h"], reverse=True)
    assert {trace.name for trace in picture.figure.data} >= {"champion", "literature"}
    assert "Drawn are" not in picture.caption
    many = responses(searched(LINES + 30), "val_h")
    thin = parallel_coordinates(many, {}, find("val_h"))
    assert f"Drawn are {LINES} of {LINES + 30} configurations" in thin.caption
    assert sum(thin.frame["drawn"]) == LINES and all(thin.frame["drawn"][: LINES // 3])
    assert len(thinned(10_000, LINES)) == LINES and max(thinned(10_000, LINES)) == 9_999


def test_a_slice_of_a_long_search_draws_its_best_and_says_so(monkeypatch):
    monkeypatch.setattr(search, "DOTS", 12)
    tried = responses(searched(40), "val_h")
    one = search.slice_of(tried, "rho", 3, find("val_h"))
    assert one.caption.endswith("Drawn are 12 of 40 configurations: the best 4, others at even distances of rank.")
    assert len(one.frame) == 40
    drawn = one.figure.data[0]
    best = sorted(range(40), key=lambda i: -tried.values[i])[:4]
    assert len(drawn.x) in (12, 13) and set(best) | {3} <= set(drawn.customdata)


def test_a_section_tells_what_the_champion_gained_by_or_why_it_cannot():
    records = searched()
    best = max(records, key=lambda record: record.mean("val_h")).number
    data = ReportData(PIPELINE, records, FINALS, best, space=load("gcscoop"))
    section = importance_section(data)
    shares = the_picture(section, "contributions").frame.set_index("hyperparameter")["contribution"]
    assert shares[:-1].sum() == pytest.approx(shares["together"], abs=1e-9)
    gain = records[best].mean("val_h") - records[0].mean("val_h")
    assert f"measured: {gain:+.2f} in the search" in section.lead
    line = the_picture(slices_section(data), "slice-rho").frame
    assert len(line[line["trial"].isna()]) > 30 and line[line["trial"].notna()]["low"].isna().all()
    pruned_first = [records[0].model_copy(update={"outcome": Outcome.PRUNED}), *records[1:]]
    for other, why in (
        (ReportData(PIPELINE, pruned_first, FINALS, best, space=load("gcscoop")), "to its end in the search (pruned)"),
        (ReportData(PIPELINE, records, FINALS, best), "The search space is not known"),
        (ReportData(PIPELINE, records, FINALS, 0, space=load("gcscoop")), "is the configuration of the literature"),
        (ReportData(PIPELINE, records[1:], FINALS, best, space=load("gcscoop")), "did not try a configuration of the"),
    ):
        assert why in importance_section(other).lead
        assert [one.name for one in importance_section(other).pictures] == ["importances"]


def test_the_reliability_diagram_has_the_bins_of_champion_literature_and_zero_shot():
    """Planted: half of the images told with 0.9, all right, the others with 0.5, of which a quarter is right."""
    bins = tuple(tuple(row.get(place, 0.0) for place in range(15)) for row in (
        {7: 40.0, 13: 40.0}, {7: 10.0, 13: 40.0}, {7: 20.0, 13: 36.0},
    ))  # fmt: skip
    assert calibration_error(bins) == pytest.approx(100 * (10 + 4) / 80)
    known = {"test_base_ece": (17.0, 18.0), "test_base_nll": (0.5, 0.7)}
    finals = [one.model_copy(update={"reliability": {"base": bins}, "metrics": one.metrics | known}) for one in FINALS]
    section = calibration_section(finals)
    names = ["champion", "GCSCoOp, literature", "zero-shot CLIP"]
    assert [row[0] for row in section.table.cells] == names
    assert section.table.cells[0][1:] == ["17.50 ± 0.71", "0.60 ± 0.14"]
    frame = the_picture(section, "reliability-base").frame
    mine = frame[frame["configuration"] == "champion"]
    assert list(mine["confidence"]) == [0.5, 0.9] and list(mine["accuracy"]) == [0.25, 1.0]
    assert list(mine["images"]) == [40, 40]
    assert "was not measured" in calibration_section(FINALS).lead
    assert "has not been confirmed" in calibration_section([]).lead


def test_bins_of_seeds_that_were_added_later_are_summed():
    bins = ((2.0,) * 15, (1.0,) * 15, (1.5,) * 15)
    first = FINALS[3].model_copy(update={"reliability": {"base": bins}})
    parts = [first, first.model_copy(update={"seeds": (7, 8, 9)})]
    assert pooled(parts).reliability == {"base": ((4.0,) * 15, (2.0,) * 15, (3.0,) * 15)}
    assert pooled([parts[0], FINALS[3].model_copy(update={"seeds": (7, 8, 9)})]).reliability == {}
