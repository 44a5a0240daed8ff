"""Reports: the numbers behind every picture, what the sentences claim, and that the file stands alone."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from gcsearch.config.metrics import find as find_metric
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.task import Task
from gcsearch.config.trials import EpochReport, Outcome, TrialConfig, TrialRecord
from gcsearch.methods.registry import find
from gcsearch.results import ranking
from gcsearch.results.report import findings
from gcsearch.results.report.figures.search import DOTS, course_of_search
from gcsearch.results.report.pages.sweep import build_report, report_pictures
from gcsearch.results.report.picture import ReportData
from gcsearch.results.report.responses import (
    REACH,
    Responses,
    axis,
    contour_pairs,
    importances,
    responses,
    surface,
)
from gcsearch.results.report.theme import DARK
from gcsearch.results.tables.wording import describe, searched
from tests.support.pages import carried, figures, packed_in
from tests.support.pages import words_of as own
from tests.support.records import trial_record

PIPELINE = Pipeline(name="pets", search=SearchConfig(objective="val_h"))
NAN = math.nan


def a_record(number=0, h=80.0, *, method="gcscoop", outcome=Outcome.COMPLETE, epochs=4, **changes) -> TrialRecord:
    """A searched configuration whose val_h ends at `h` on seed 1 and two points higher on seed 2."""
    usual = {"gcscoop": {"rho": 0.1, "beta1": 0.5, "beta2": 0.8}, "zeroshot": {}}
    hyperparameters = usual.get(method, {"lr": 0.002}) | changes.pop("hyperparameters", {})
    curve = tuple(
        EpochReport(number=number, epoch=epoch, metrics=metrics(h - (epochs - epoch), method))
        for epoch in range(1, epochs + 1)
    )
    values = {"outcome": outcome, "epochs": epochs, "metrics": curve[-1].metrics if curve else {}, "curve": curve}
    return trial_record(number, config=TrialConfig(method=method, hyperparameters=hyperparameters), **values | changes)


def metrics(h: float, method: str) -> dict[str, tuple[float, float]]:
    both = {"val_h": (h, h + 2), "val_base_acc": (h + 1, h + 3), "val_new_acc": (h - 1, h + 1)}
    shares = {"share_plain": (0.1, 0.3), "share_projected": (0.5, 0.5), "share_perturbed": (0.4, 0.2)}
    return both | (shares | {"cosine": (0.6, 0.7)} if method == "gcscoop" else {})


def a_final(
    label: str, h: tuple[float, ...], number=-1, seeds=(4, 5, 6), method="gcscoop", **hyperparameters
) -> TrialRecord:
    known = {"stage": "test", "seeds": seeds[: len(h)], "label": label}
    accuracies = {"test_base_acc": h, "test_new_acc": h, "test_h": h}
    config = TrialConfig(method=method, hyperparameters=hyperparameters)
    return trial_record(number, config=config, metrics=accuracies, **known)


def lost(number=0, outcome=Outcome.FAILED) -> TrialRecord:
    return a_record(number, epochs=0, outcome=outcome, reason="CUDA error <out of memory>\ntraceback")


def a_sweep(count=14) -> list[TrialRecord]:
    """Best at rho 0.1; some at rho 0, some with beta1 off, one diverged and one failed at the end."""
    records = [
        a_record(
            number,
            h=80 - abs(math.log10(rho or 0.003) + 1) * 5 + 0.1 * number,
            hyperparameters={"rho": rho, "beta1": "off" if number % 3 == 0 else 0.05 * number},
            label="literature" if number == 3 else "",
        )
        for number, rho in zip(range(count), [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0] * count, strict=False)
    ]
    return [*records, lost(count, Outcome.DIVERGED), lost(count + 1)]


FINALS = [
    a_final("zero-shot CLIP", (70.0, 70.0, 70.0)),
    a_final("GCSCoOp, literature", (79.5, 81.0, 80.2), rho=0.1),
    a_final("champion", (80.0, 81.0, 82.0), number=10, rho=0.12),
]


# --- Results and sentences


def test_the_table_has_means_deviations_and_paired_leads():
    rows = findings.confirmed_rows([FINALS[2], *FINALS[:2]])
    assert [row.name for row in rows] == ["zero-shot CLIP", "GCSCoOp, literature", "champion"]
    assert (rows[2].values["h"], rows[2].lead) == ((81.0, 1.0, 3), None)
    assert rows[0].lead.mean == pytest.approx(11.0)
    assert rows[0].lead.n == 3


def test_the_headline_claims_what_the_interval_allows():
    sentences = findings.headline(PIPELINE, a_sweep(), FINALS, 10)
    assert "reaches H = 81.00 ± 1.00 on test images" in sentences[0]
    assert "3 seeds" in sentences[0]
    assert (
        sentences[1] == "That is 11.00 points above zero-shot CLIP "
        "(95 % interval +8.52 to +13.48, 3 paired seeds, Wilcoxon p = 0.250)."
    )
    assert sentences[2].startswith("It is not distinguishable from GCSCoOp, literature: +0.77 points of H")
    assert len(sentences) == 3


def test_the_headline_admits_defeat_and_a_single_seed():
    better = a_final("SAM", (99.0, 99.0, 99.0))
    assert "not in front: SAM is higher" in findings.headline(PIPELINE, a_sweep(), [*FINALS, better], 10)[-1]
    one = [a_final("zero-shot CLIP", (70.0,)), a_final("champion", (80.0,), rho=0.1)]
    assert "+10.00 points of H on one seed, which says little" in findings.headline(PIPELINE, a_sweep(), one, 10)[1]
    same = [a_final("SAM, literature", (80.0, 81.0), rho=0.1), a_final("champion", (80.0, 81.0), rho=0.1)]
    assert "same configuration as SAM, literature" in findings.headline(PIPELINE, a_sweep(), same, 10)[1]


def test_the_headline_before_the_confirmation_and_without_any_success():
    first, second = findings.headline(PIPELINE, [a_record(3, 80.0)], [], 3)
    assert "trial 3" in first and "val_h = 81.00 ± 1.41 over 2 seeds" in first
    assert "too high" in second
    (sentence,) = findings.headline(PIPELINE, [lost(0), lost(1), lost(2, Outcome.DIVERGED)], [], None)
    assert sentence == (
        "No configuration has completed (1 diverged, 2 failed), so there is nothing to choose. "
        "The first reason given: CUDA error <out of memory>"
    )


def base_only(record: TrialRecord) -> TrialRecord:
    """The record as of class-specific vectors: nothing on new classes."""
    kept = {key: values for key, values in record.metrics.items() if "base" in key or key == "loss"}
    curve = tuple(
        one.model_copy(update={"metrics": {"val_base_acc": one.metrics["val_base_acc"]}}) for one in record.curve
    )
    values = record.config.hyperparameters | {"class_specific": True}
    config = TrialConfig(method=record.config.method, hyperparameters=values)
    return record.model_copy(update={"metrics": kept, "curve": curve, "config": config})


def test_a_champion_without_new_classes_is_compared_by_base_accuracy():
    champion = base_only(a_final("champion", (80.0, 81.0, 82.0), number=3, method="coop", lr=0.01))
    literature = base_only(a_final("CoOp, literature", (80.0, 80.0, 81.0), method="coop"))
    rows = findings.confirmed_rows([FINALS[0], literature, champion])
    assert [row.name for row in rows] == [
        "zero-shot CLIP",
        "CoOp, literature [class-specific]",
        "champion [class-specific]",
    ]
    assert rows[2].values["base"].mean == 81.0
    assert math.isnan(rows[2].values["h"].mean)
    assert rows[0].lead.mean == pytest.approx(11.0)
    sentences = findings.headline(PIPELINE, [a_record(3, method="coop")], [FINALS[0], literature, champion], 3)
    assert "CoOp [class-specific]" in sentences[0]
    assert "reaches a base accuracy of 81.00 ± 1.00 on test images (3 seeds). It says nothing about new" in sentences[0]
    assert sentences[1].startswith("That is 11.00 points above zero-shot CLIP")
    assert "+0.67 points of base accuracy" in sentences[2]


def test_a_reference_without_new_classes_is_not_compared_in_h():
    literature = base_only(a_final("CoOp, literature", (80.0, 80.0, 81.0), method="coop"))
    sentences = findings.headline(PIPELINE, a_sweep(), [literature, FINALS[2]], 10)
    assert sentences[1:] == ["CoOp, literature [class-specific] has no H, so the two are not compared."]


def test_a_capped_search_says_that_its_references_train_uncapped():
    """Of any parameter, and of a cap under a method's name; a cap that nothing exceeds is silent."""
    coop = a_final("CoOp", (80.0, 80.0, 81.0), method="coop", epochs=200, lr=0.002)
    champion = a_final("champion", (82.0, 83.0, 84.0), number=10, epochs=12)
    tried = [*a_sweep()[:-3], a_record(11, label="literature-capped")]

    def told(cap, records=tried):
        pipeline = PIPELINE.model_copy(update={"search": SearchConfig(objective="val_h", cap=cap)})
        return findings.headline(pipeline, records, [FINALS[0], coop, champion], 10)[-2:]

    uncapped = "search.cap holds for the search only; the references train uncapped: "
    left_out = "The reference literature is left out: search.cap lowers its values, so the search tries it as "
    assert told({"epochs": 12.0}) == [f"{uncapped}CoOp (epochs 200, cap 12).", f"{left_out}literature-capped."]
    both = f"{uncapped}CoOp (epochs 200, cap 12, lr 0.002, cap 0.001)."
    assert told({"epochs": 12.0, "lr": 0.001}, a_sweep())[-1] == both
    assert told({"epochs": 500.0, "coop": {"epochs": 50.0}}, a_sweep())[-1].endswith("CoOp (epochs 200, cap 50).")
    assert "uncapped" not in told({"epochs": 200.0}, a_sweep())[-1]


def test_every_reference_is_a_yardstick_by_its_role_whatever_its_label():
    sam = a_final("Sharp, my words", (70.0, 71.0, 72.0), number=-2, method="sam", rho=0.3)
    shortlisted = a_final("shortlisted t0003", (70.0, 71.0, 72.0), number=3, rho=0.4)
    sentences = findings.headline(PIPELINE, a_sweep(), [sam, shortlisted, FINALS[2]], 10)
    assert sentences[1].startswith("That is 10.00 points above Sharp, my words (95 % interval")
    assert len(sentences) == 2, "a shortlisted configuration is none"


def test_many_references_share_a_sentence_by_what_their_intervals_say():
    fixed = [a_final(f"reference {n}", (70.0, 71.0, 72.0), number=-1 - n, rho=n / 10) for n in range(5)]
    further = [
        a_final("worse", (60.0, 61.0, 62.0), number=-6, rho=0.6),
        a_final("better", (90.0, 91.0, 92.0), number=-7, rho=0.7),
        a_final("like it", (79.0, 82.0, 82.0), number=-8, rho=0.8),
        a_final("as low", (60.0, 61.0, 62.5), number=-9, rho=0.9),
        a_final("elsewhere", (60.0, 61.0), number=-10, seeds=(8, 9), rho=0.95),
    ]
    sentences = findings.headline(PIPELINE, a_sweep(), [*fixed, *further, FINALS[2]], 10)
    assert len(sentences) == 1 + 5 + 1 + 1
    assert sentences[6] == (
        "By the same intervals of H it is above worse and as low; below better; not distinguishable from like it; "
        "not compared with elsewhere."
    )


def test_records_of_an_earlier_version_have_the_role_that_their_label_gave_them():
    roles = {}
    for label, number in (("champion", 3), ("shortlisted t0004", 4), ("SAM", -2), ("", 5), ("shortlisted by me", 6)):
        stated = a_final(label, (1.0,), number=number).to_dict()
        del stated["role"]
        roles[label] = TrialRecord.from_dict(stated).role.value
    assert list(roles.values()) == ["champion", "shortlisted", "reference", "searched", "searched"]


# --- Axes and the rebuilt study


def test_zero_stands_apart_on_a_logarithmic_axis():
    rho = axis("rho", [0.0, 0.01, 1.0])
    assert rho.log
    assert rho.place(0.01) == 0.01
    assert 0 < rho.place(0.0) < 0.01
    assert rho.ticks()["ticktext"] == ["0", "0.01", "0.1", "1"]
    assert rho.distribution.log


def test_off_stands_below_the_numbers():
    beta1 = axis("beta1", ["off", 0.0, 0.8])
    assert not beta1.log
    assert beta1.place("off") < 0.0
    assert beta1.ticks()["ticktext"][0] == "off"
    assert "0.4" in beta1.ticks()["ticktext"]


def test_words_make_a_categorical_axis():
    init = axis("ctx_init", ["", "a photo of a"])
    assert init.words == ("", "“a photo of a”")
    assert init.place("") == ""
    assert init.ticks() == {"type": "category"}


def test_unknown_numbers_choose_their_axis_by_how_they_lie():
    drawn = [0.1 * 10 ** (n / 10) for n in range(21)]
    assert axis("kg_lambda", drawn).log
    assert axis("kg_lambda", [0.0, *drawn]).special == {0.04: "0"}
    assert not axis("temperature", [0.1 + 0.1 * n for n in range(21)]).log
    assert not axis("rank", [5, 8, 10]).log
    assert not axis("beta1", [0.01, 0.02, 0.9]).log


def test_truth_values_and_choices_are_words():
    assert axis("class_specific", [True, False]).words == ("false", "true")
    assert axis("position", ["end", "middle", "end"]).words == ("end", "middle")


def test_the_methods_own_hyperparameters_come_first():
    tried = [{"lr": 0.1 * n, "n_ctx": n, "rank": n, "kg_lambda": n, "rho": n, "epochs": n} for n in (1, 2)]
    records = [a_record(number=n, method="coop", hyperparameters=one) for n, one in enumerate(tried)]
    assert searched(records) == ["rho", "kg_lambda", "rank", "lr", "epochs", "n_ctx"]
    assert contour_pairs(responses(records, "val_h")) == [("rho", "kg_lambda"), ("rho", "rank"), ("kg_lambda", "rank")]


def test_only_what_varies_was_searched():
    records = [a_record(0, hyperparameters={"n_ctx": 4}), a_record(1, hyperparameters={"rho": 0.2, "n_ctx": 4})]
    assert searched(records) == ["rho"]
    assert describe(records[1].config, ["rho"]) == "GCSCoOp (rho 0.2)"


def test_the_study_holds_completed_settings_in_natural_values():
    tried = responses(a_sweep(), "val_h")
    assert len(tried.records) == len(tried.study.trials) == 14
    assert list(tried.axes) == ["rho", "beta1"]
    assert tried.study.trials[3].params == {"rho": 0.1, "beta1": tried.axes["beta1"].place("off")}
    assert tried.values == [record.mean("val_h") for record in tried.records]
    assert contour_pairs(tried) == [("rho", "beta1")]


def test_importance_finds_the_parameter_that_matters():
    records = [
        a_record(
            n, h=60.0 + 20 * (n % 8 == 3), hyperparameters={"rho": 0.01 * 2 ** (n % 8), "beta1": (7 * n % 40) / 50}
        )
        for n in range(40)
    ]
    shares = importances(responses(records, "val_h"))
    assert list(shares) == ["rho", "beta1"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["rho"] > 0.6
    assert importances(responses([a_record(0), a_record(1)], "val_h")) == {}


def a_map(rhos, betas) -> Responses:
    """Every rho with every beta1; the objective is 80 at the least rho and one point higher at each next."""
    pairs = [(place, rho, beta) for place, rho in enumerate(rhos) for beta in betas]
    records = [
        a_record(number, h=79.0 + place, hyperparameters={"rho": rho, "beta1": beta})
        for number, (place, rho, beta) in enumerate(pairs)
    ]
    return responses(records, "val_h")


def test_a_surface_is_blank_where_no_setting_lies_near():
    tried = a_map([0.01, 0.0101, 0.0102, 0.0103, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    ground = surface(tried, ("rho", "beta1"))
    assert ground.x[0] == pytest.approx(0.01) and ground.x[-1] == pytest.approx(1.0)
    reach = int(REACH * 60)
    row = ground.z[0]
    assert row[0] == pytest.approx(81.5, abs=0.1)  # the mean of four neighbours
    assert row[60] == pytest.approx(84.0)
    assert not any(map(math.isnan, row[: reach + 1] + row[-reach - 1 :]))
    assert all(map(math.isnan, row[reach + 2 : -reach - 1]))


def test_few_settings_and_places_that_stand_apart_make_no_surface():
    pair = ("rho", "beta1")
    assert surface(a_map([0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.4, 0.6, 0.8]), pair)
    assert surface(a_map([0.1, 0.2, 0.3, 0.4], ["off", 0.2, 0.4, 0.6, 0.8]), pair) is None
    assert surface(a_map([0.0, 0.2, 0.3, 0.4], [0.0, 0.2, 0.4, 0.6, 0.8]), pair) is None
    alone = a_map([0.0, 0.1], [n / 30 for n in range(30)])
    assert surface(alone, pair) is None  # all numbers of rho are one number
    both = surface(a_map([0.0, 0.1, 0.2], [n / 30 for n in range(30)]), pair)
    assert max(value for row in both.z for value in row if value == value) == pytest.approx(82.0)
    assert min(value for row in both.z for value in row if value == value) == pytest.approx(81.0)  # not 80, that of 0


# --- Pictures as numbers


def test_scatter_points_have_both_sides_and_a_radius():
    (point,) = findings.scatter_points([a_record(7, 80.0), lost(8)])
    assert (point.number, point.base, point.new, point.rho) == (7, 82.0, 80.0, 0.1)
    assert findings.scatter_points([a_record(method="coop")])[0].rho is None


def test_iso_curves_join_points_of_equal_h():
    points = findings.iso_h(80.0, 30.0, 100.0)
    assert all(2 * base * new / (base + new) == pytest.approx(80.0) for base, new in points)
    assert min(base for base, _ in points) > 40


def test_history_keeps_the_best_completed_mean():
    records = [
        a_record(2, 90.0, outcome=Outcome.PRUNED),
        a_record(0, 80.0),
        lost(1),
        a_record(3, 70.0),
        a_record(4, 85.0),
    ]
    course = findings.history(records, "val_h")
    assert course.numbers == [0, 1, 2, 3, 4]
    assert course.best == [81.0, 81.0, 81.0, 81.0, 86.0]
    assert math.isnan(course.means[1])
    assert math.isnan(findings.history([lost()], "val_h").best[0])


def test_curves_span_the_seeds():
    one = findings.curve(a_record(h=80.0, epochs=2), "val_h")
    assert one == findings.Curve([1, 2], [80.0, 81.0], [79.0, 80.0], [81.0, 82.0])
    assert findings.curve(lost(), "val_h").epochs == []


def test_the_champion_is_compared_with_the_literature_and_with_the_field():
    names = [name for name, _ in findings.compared(ranking.rank(a_sweep(), "val_h"), 10, every=1)]
    assert names[0] == "trial 10, champion"
    assert names[1] == "trial 3, literature"
    assert names[2].endswith("worst")
    assert names[3].endswith("middle")
    assert len(names) == len(set(names))


def test_curves_are_read_of_the_few_that_are_shown():
    records, read = a_sweep(), []

    def with_curves(some):
        read.extend(record.number for record in some)
        return [records[record.number] for record in some]

    bare = [record.model_copy(update={"curve": ()}) for record in records]
    assert page(bare, FINALS, 10, with_curves=with_curves) == page(records, FINALS, 10)
    assert 10 in read and len(read) == 5


def test_branch_shares_add_up():
    chosen = findings.branches(a_record(hyperparameters={"beta1": "off"}))
    assert chosen.plain == pytest.approx([20.0] * 4)
    assert [sum(parts) for parts in zip(chosen.plain, chosen.projected, chosen.perturbed, strict=True)] == [100.0] * 4
    assert chosen.bounds == {"beta2": 0.8}
    assert findings.branches(a_record(method="coop")) is None


# --- The page


def page(records, finals=(), champion=None, **more) -> str:
    return built(PIPELINE, records, finals, champion, **more)


def built(*about, provenance=None, link="", **more) -> str:
    """The page; fails where a part of it could not be drawn."""
    lacking: list[str] = []
    text = build_report(ReportData(*about, **more), provenance, link=link, warn=lacking.append)
    assert not lacking
    return text


def test_the_page_stands_alone():
    text = page(a_sweep(), FINALS, 10, provenance={"torch": "2.13"}, link="http://127.0.0.1:5000")
    assert packed_in(text)["plotly"] == get_plotlyjs()
    rest = own(text)
    assert not re.search(r"<link|<iframe|<img|@import|url\(|\ssrc\s*=", rest)
    assert re.findall(r"https?://[^\s'\"<]+", rest) == ["http://127.0.0.1:5000"] * 2  # the link asked for, as a link
    assert "default-src 'none'" in rest
    assert len(text) < 2_500_000
    assert len(figures(text)) == 12
    for words in ("Results on test images", "name = &#34;pets&#34;", "2.13", "prefers-color-scheme"):
        assert words in rest


def test_every_colour_has_a_dark_counterpart():
    drawn = json.dumps(figures(page(a_sweep(), FINALS, 10)))
    used = set(re.findall(r'"(#[0-9a-f]{6}|rgba\([^)]*\))"', drawn)) - {"rgba(0,0,0,0)"}
    assert used <= set(DARK)


def test_what_users_write_is_escaped():
    nasty = "</script><script>alert(1)</script>"
    records = [a_record(0, label=nasty, reason=nasty), a_record(1, hyperparameters={"ctx_init": nasty})]
    text = own(page(records, [a_final(nasty, (1.0, 2.0))], 0, link=nasty))
    assert "<script>alert" not in text


@pytest.mark.parametrize(
    ("records", "finals", "champion", "left_out"),
    [
        ([], [], None, ["No trial has ended yet", "No configuration has completed (no trial has ended)"]),
        (
            [lost(0), lost(1)],
            [],
            None,
            ["2 failed", "No configuration has accuracies on both sides", "There is no champion"],
        ),
        (
            [a_record(0)],
            [],
            0,
            ["has not been confirmed", "Fewer than 2 different configurations", "Fewer than two numeric"],
        ),
        ([a_record(0), a_record(1, hyperparameters={"rho": 0.0})], FINALS, 1, ["Fewer than two numeric"]),
        ([a_record(0, hyperparameters={"rho": 0.0})], [], 0, []),
        (
            [a_record(n, 80 + n, method="coop", hyperparameters={"lr": 0.001 * (n + 1)}) for n in range(12)],
            [a_final("champion", (80.0,), number=11)],
            11,
            ["CoOp does not choose between gradients", "Fewer than two numeric"],
        ),
        (
            [a_record(n, hyperparameters={"rho": 0.1 + n / 100}) for n in range(12)],
            [],
            3,
            ["All configurations came to the same number"],
        ),
        (
            [a_record(0, epochs=1, method="zeroshot")],
            [],
            0,
            ["zero-shot CLIP does not choose", "fewer than two measured"],
        ),
        ([a_record(0, metrics={"val_h": (NAN, NAN)}), a_record(1)], [], 1, ["Fewer than 2 different configurations"]),
    ],
)
def test_a_picture_that_cannot_be_drawn_says_why(records, finals, champion, left_out):
    text = own(page(records, finals, champion))
    for words in left_out:
        assert words in text


SPACES = {
    "kgcoop": lambda n: {"kg_lambda": 0.1 * 1.3**n, "lr": 0.001 * (1 + n % 5)},
    "subpt": lambda n: {"probe_epochs": 20 + n % 7, "rank": 2 + n % 5, "lr": 0.001 * (1 + n % 3)},
    "coop": lambda n: {"position": ("end", "middle", "front")[n % 3], "n_ctx": (1, 2, 4, 8, 16)[n % 5]},
    "kgcoop+gcscoop": lambda n: {"rho": 0.0 if n % 5 == 0 else 0.02 * n, "kg_lambda": float(n % 4), "beta1": "off"},
    "nfl": lambda n: {"nfl_names": ("clean", "transductive")[n % 2]} | ({"nfl_lambda": 0.1 * n} if n % 3 else {}),
}


def test_the_page_of_a_search_among_methods_shows_the_method_and_what_each_has():
    tried = [("coop", {}), ("sam", {"rho": 0.1}), ("gcscoop", {"rho": 0.2}), ("kgcoop", {"kg_lambda": 4.0})]
    records = []
    for n in range(24):
        method, own_values = tried[n % 4]
        scaled = {name: value * (1 + n) for name, value in own_values.items()}
        values = scaled | {"lr": 0.001 * (1 + n), "n_ctx": 4} | ({"momentum": 0.9} if method == "coop" else {})
        records.append(a_record(n, 70 + n / 2, method=method, hyperparameters=values))
    text = own(page(records, [], 23))
    titles = [figure["layout"]["xaxis"]["title"].get("text", "") for figure in figures(text)]
    assert all(any(title.startswith(name) for title in titles) for name in ("method", "rho", "kg_lambda", "lr"))
    assert "<th scope=col><button type=button>method</button>" in text
    assert "The same in all: n_ctx 4." in text
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower()


@pytest.mark.parametrize("method", SPACES)
def test_the_page_makes_sense_for_every_method_and_space(method):
    tried = [SPACES[method](n) for n in range(24)]
    records = [a_record(n, 70 + n / 2, method=method, hyperparameters=values) for n, values in enumerate(tried)]
    champion = a_final("champion", (80.0, 81.0), number=23, method=method, **tried[23])
    text = own(page(records, [FINALS[0], champion], 23))
    assert find(method).title in text
    titles = [figure["layout"]["xaxis"]["title"].get("text", "") for figure in figures(text)]
    assert all(any(title.startswith(name) for title in titles) for name in searched(records))
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower()
    assert ("champion [transductive]" in text) == (method == "nfl")
    assert re.search(rf"The same in all: {re.escape(find(method).title)}[.,]", text)
    words = [trace["x"] for figure in figures(text) for trace in figure["data"] if isinstance(trace["x"], list)]
    assert not any("'" in str(place) for places in words for place in places)


def test_the_page_of_class_specific_vectors_leaves_out_what_they_do_not_have():
    by_base = PIPELINE.model_copy(update={"search": SearchConfig(objective="val_base_acc", space="coop")})
    records = [base_only(a_record(n, 70 + n, method="coop", hyperparameters={"lr": 0.001 * n})) for n in range(1, 13)]
    champion = base_only(a_final("champion", (80.0, 81.0), number=12, method="coop", lr=0.012))
    text = own(built(by_base, records, [champion], 12))
    assert "No configuration has accuracies on both sides" in text
    assert "<td>80.50 ±&nbsp;0.71<td>–<td>–" in text
    assert "champion ahead by, in base accuracy" in text
    assert "H –" not in text
    text = own(built(by_base, records, [FINALS[0], champion], 12))
    assert "so not in it: champion [class-specific]." in text
    text = own(built(PIPELINE, records, [], None))
    assert "No trial has come to a number (12 complete)" in text


def test_the_page_says_how_the_champion_was_chosen_as_far_as_it_was():
    records = a_sweep()
    begun, lead = own(page(records, (), 3)), "So far it is the first of the search by val_h."
    assert f"The confirmation is still to come. {lead}" in begun
    nothing = own(page([lost()]))
    assert "The confirmation is still to come." in nothing
    assert lead not in nothing
    over = own(page(records, FINALS, 10))
    assert "It is the first of the search by val_h; nothing was measured again." in over
    again = own(page(records, FINALS, 10, rechecked=records[:2]))
    assert "The best 2 of the search were trained again" in again
    assert "nothing was measured again" not in again
    added = a_final("champion", (80.0, 81.0, 82.0), number=10, seeds=(4, 5, 99))
    assert "<dt>confirmation seeds<dd>4, 5, 99" in own(page(records, [added], 10))
    assert "<dt>confirmation seeds<dd>none yet" in begun


@pytest.mark.parametrize(
    ("targets", "metrics", "sentence", "decides"),
    [
        ([], ["test_acc"], "reaches an accuracy of 81.00 ± 1.00 on test images of all classes (3 seeds).", "accuracy"),
        (
            ["shapes-neon"],
            ["test_acc", "test_acc_shapes-neon", "test_acc_targets"],
            "reaches a mean accuracy of 81.00 ± 1.00 on the targets (source 81.00 ± 1.00; 3 seeds).",
            "mean accuracy on the targets",
        ),
    ],
)
def test_the_page_of_all_classes_calls_nothing_base(targets, metrics, sentence, decides):
    task = Task.from_dict({"classes": "all", "targets": targets})
    every = Pipeline(name="pets", task=task, search=SearchConfig(objective="val_acc"))
    records = [
        a_record(n).model_copy(update={"metrics": {"val_acc": (70.0 + n, 71.0 + n)}, "curve": ()}) for n in range(12)
    ]
    finals = [one.model_copy(update={"metrics": dict.fromkeys(metrics, one.metrics["test_h"])}) for one in FINALS]
    text = own(built(every, records, finals, 10))
    assert sentence in text
    assert f"champion ahead by, in {decides}" in text
    assert f"points of {decides} (95 % interval" in text
    assert "accuracy on all classes, validation images (%)" in text
    assert f"trained on all classes{' of the source' if targets else ''}. " in text
    assert text.count("<td>81.00 ±&nbsp;1.00") == len(metrics)
    assert ("shapes-neon" in text) == bool(targets)
    words = re.sub(r"<(script|style|details)\b.*?</(script|style|details)>", "", text, flags=re.DOTALL)
    assert "base classes" not in words and "<th scope=col>base" not in words


def test_the_page_has_the_order_of_the_ranking_with_ties_and_a_front():
    records = [a_record(n, 80.0, epochs=4, hyperparameters={"rho": 0.5 - n / 10, "epochs": 9 - n}) for n in range(4)]
    ordered = [row.record.number for row in ranking.ranking(PIPELINE, records)]
    assert ordered == [3, 2, 1, 0], "of equal means the one of fewer epochs comes first"
    assert re.findall(r"<tr[^>]*><td>\d<td>(\d)<td>", own(page(records, [], 3))) == ["3", "2", "1", "0"]
    several = SearchConfig(objective=("val_base_acc", "val_new_acc"))
    sides = [(90.0, 20.0), (60.0, 60.0), (59.0, 60.0), (20.0, 80.0)]
    front = [
        a_record(n).model_copy(
            update={"metrics": {"val_base_acc": (b,), "val_new_acc": (w,), "val_h": (2 * b * w / (b + w),)}}
        )
        for n, (b, w) in enumerate(sides)
    ]
    text = own(built(PIPELINE.model_copy(update={"search": several}), front, [], 1))
    assert re.findall(r"<tr[^>]*><td>(\d(?: \*)?)<td>(\d)<td>", text)[:4] == [
        ("1 *", "1"), ("2 *", "0"), ("3 *", "3"), ("4", "2"),
    ]  # fmt: skip


def broken(*_, **__):
    raise KeyError("val_base_margni")


@pytest.mark.parametrize(
    ("broken_part", "named"),
    [
        ("figures.search.draw_history", "picture course-of-the-search"),
        ("figures.search.draw_slice", "picture slice-rho"),
        ("figures.sides._seeds", "picture base-against-new-confirmation"),
        ("sections.search.importances", "section importances"),
        ("picture.responses", "section slices"),
        ("sections.results.confirmed_rows", "section results"),
    ],
)
def test_what_cannot_be_drawn_is_a_line_that_names_it_and_all_else_is_there(broken_part, named, monkeypatch):
    monkeypatch.setattr(f"gcsearch.results.report.{broken_part}", broken)
    lines: list[str] = []
    text = own(build_report(ReportData(PIPELINE, a_sweep(), FINALS, 10), warn=lines.append))
    assert f"the report lacks the {named}: KeyError: 'val_base_margni'" in lines
    assert all("\n" not in line for line in lines)
    assert f"The {named} could not be drawn: KeyError" in text
    assert ">All trials</h2>" in text and len(figures(text)) >= 4


def test_every_picture_has_a_name_for_its_file_words_and_the_numbers_that_it_is_drawn_of():
    pictures = report_pictures(ReportData(PIPELINE, a_sweep(), FINALS, 10))
    by_name = {picture.name: picture for picture in pictures}
    assert len(by_name) == len(pictures) == 12
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in by_name)
    assert all(picture.title and len(picture.frame) for picture in pictures)
    course = by_name["course-of-the-search"]
    assert list(course.frame.columns) == ["trial", "mean", "deviation", "best", "outcome"]
    assert len(course.frame) == 16 and course.frame.loc[15, "outcome"] == "failed"
    drawn = [x for trace in course.figure.data if trace.name == "complete" for x in trace.x]
    assert drawn == list(course.frame[course.frame["outcome"] == "complete"]["trial"])


def test_maps_are_dots_until_there_are_enough_for_a_surface():
    kinds = {}
    for count in (19, 20):
        records = [
            a_record(n, 70 + n, hyperparameters={"rho": 0.1 + n / 100, "beta1": (7 * n % 20) / 20})
            for n in range(count)
        ]
        text = page(records)
        kinds[count] = {trace["type"] for figure in figures(text) for trace in figure["data"]}
        assert ("get no surface" in own(text)) == (count == 19)
        assert ("is blank where none lies within 0.125" in own(text)) == (count == 20)
    assert kinds[20] - kinds[19] == {"contour"}


def test_many_columns_put_the_deviation_below_the_mean_and_long_names_stay_short_in_legends():
    names = [f"folder:birds {n}" for n in range(8)]
    task = Task.from_dict({"classes": "all", "targets": names})
    keys = ["test_acc", "test_acc_targets", *(f"test_acc_folder-birds-{n}" for n in range(8))]
    wide = Pipeline(name="pets", task=task, search=SearchConfig(objective="val_acc"))
    finals = [one.model_copy(update={"metrics": dict.fromkeys(keys, one.metrics["test_h"])}) for one in FINALS]
    text = own(built(wide, [a_record(0)], finals, 0))
    assert '<table class="results dense">' in text
    assert text.count("<td>81.00 ±&nbsp;1.00") == len(keys)
    long = a_final(f"<b>{'very ' * 20}long", (70.0, 71.0, 72.0), number=-2)
    (drawn,) = [
        one for one in figures(page([a_record(0)], [long, FINALS[2]], 0)) if "test_new_acc" in str(one["layout"])
    ]
    entries = [trace["name"] for trace in drawn["data"] if trace.get("showlegend") and trace["name"] != "champion"]
    assert entries == ["&lt;b&gt;very very very very very ver…"]


def test_accuracies_that_are_no_numbers_cost_no_picture():
    nothing = a_final("SAM", (NAN, NAN, NAN), number=-2)
    text = own(page(a_sweep(), [nothing, *FINALS], 10))
    assert "so not in it: SAM." in text
    assert "<td class=w>SAM<td>–<td>–" in text
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).lower()


def test_an_empty_report_carries_no_plotly():
    assert len(page([])) < 25_000


def test_a_single_line_of_trials_keeps_its_order():
    text = own(page([a_record(0, 70.0), a_record(1, 80.0, hyperparameters={"beta1": "off"})], [], 1))
    rows = re.findall(r"<tr( class=champion)?><td>(\d)<td>(\d)<td>", text)
    assert rows == [(" class=champion", "1", "1"), ("", "2", "0")]
    assert "<td>off" in text


def test_what_a_point_says_stands_once_for_all_pictures():
    text = own(page([a_record(0, 70.0, label="a<b"), a_record(1, 80.0, hyperparameters={"rho": 0.2})], [], 1))
    told = carried(text)["hovers"]
    assert told["titles"] == ["base accuracy", "held-out accuracy", "H", "rho"]
    assert told["lines"]["0"] == [
        "a&lt;b", "complete", "72.00 ± 1.41 %", "70.00 ± 1.41 %", "71.00 ± 1.41 %", "0.1",
    ]  # fmt: skip
    numbers = [trace["customdata"] for one in figures(text) for trace in one["data"] if "customdata" in trace]
    assert len(numbers) > 3 and {number for some in numbers for number in some} == {0, 1}


def test_of_a_long_search_the_best_and_every_step_of_the_best_so_far_are_drawn():
    course = findings.history([a_record(n, 50 + (n * 37) % 1000 / 100, epochs=1) for n in range(3000)], "val_h")
    picture = course_of_search(course, 2999, find_metric("val_h"))
    dots, line, champion = picture.figure.data
    assert len(picture.frame) == 3000 and 1900 < len(dots.x) <= DOTS + 1
    assert "Drawn are 2000 of 3000 configurations" in picture.caption
    assert max(dots.y) == max(course.best) and list(champion.x) == [2999]
    steps = {trial: float(best) for trial, best in zip(line.x, line.y, strict=True)}
    assert set(steps.values()) == {float(np.float32(best)) for best in course.best}
    assert (min(steps), max(steps)) == (0, 2999)
