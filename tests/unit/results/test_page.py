"""The report in a browser: drawn whole, on any screen and on paper, without a mouse, and without the network."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.trials import EpochReport, Outcome, TrialConfig
from gcsearch.methods.registry import complete
from gcsearch.results.report import theme
from gcsearch.results.report.pages.sweep import build_report, report_pictures
from gcsearch.results.report.picture import ReportData
from tests.support.records import a_final, trial_record

_COUNT = 32


def searched(number, outcome=Outcome.COMPLETE):
    """GCSCoOp, best at rho 0.1, over two seeds and five epochs, some without a lower bound."""
    rho, beta1 = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)[number % 6], "off" if number % 3 == 0 else 0.02 * number
    height = 80 - 4 * abs(number % 6 - 3) + 0.1 * number

    def measured(epoch):
        h = height - (5 - epoch)
        sides = {"val_h": (h, h + 2), "val_base_acc": (h + 5, h + 6), "val_new_acc": (h - 4, h - 1)}
        shares = {"share_plain": (0.1, 0.3), "share_projected": (0.5, 0.5), "share_perturbed": (0.4, 0.2)}
        return sides | shares | {"cosine": (0.6, 0.7)}

    curve = tuple(EpochReport(number=number, epoch=epoch, metrics=measured(epoch)) for epoch in range(1, 6))
    values = {"rho": rho, "beta1": beta1, "beta2": 0.8, "lr": 0.002 * (1 + number % 5), "epochs": 5}
    config = complete(TrialConfig(method="gcscoop", hyperparameters=values))
    label = "literature" if number == 3 else ""
    known = {"curve": curve, "metrics": curve[-1].metrics, "epochs": 5, "seconds": 20.0, "outcome": outcome}
    return trial_record(number, config=config, label=label, **known)


def a_finished_sweep():
    records = [searched(number) for number in range(_COUNT)]
    records += [searched(_COUNT, Outcome.PRUNED), searched(_COUNT + 1, Outcome.DIVERGED)]
    finals = [
        a_final("zeroshot", 70.0, 71.0, label="zero-shot CLIP", number=-1),
        a_final("coop", 90.0, 61.0, label="CoOp", number=-2),
        a_final("sam", 85.0, 70.0, label="SAM", number=-3, rho=0.05),
        a_final("gcscoop", 88.0, 72.0, label="shortlisted t0009", number=9, rho=0.1),
        a_final("gcscoop", 89.0, 73.0, number=27, rho=0.1),
    ]
    pipeline = Pipeline(name="pets", search=SearchConfig(objective="val_h"))
    return ReportData(pipeline, records, finals, 27, rechecked=[records[9], records[27]])


DATA = a_finished_sweep()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a finished sweep, everything in it drawn."""
    lacking: list[str] = []
    page = build_report(DATA, {"torch": "2.13"}, link="http://127.0.0.1:5000", warn=lacking.append)
    assert not lacking
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def slowly(case):
    return pytest.param(*case, marks=pytest.mark.slow)


BOXES = "all => all.map(one => [one, one.querySelector('svg.main-svg')].map(a => a.getBoundingClientRect().toJSON()))"


def drawn(seen):
    """Wait until every picture is drawn; their boxes, each with that of what is drawn in it."""
    places = seen.page.locator(".figure")
    seen.page.locator(".figure:not([data-drawn])").first.wait_for(state="detached")
    boxes = (
        "all => all.map(one => [one, one.querySelector('svg.main-svg')].map(b => b.getBoundingClientRect().toJSON()))"
    )
    return places.evaluate_all(boxes)


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), *map(slowly, [(1280, "dark"), (400, "light"), (400, "dark")])]
)
def test_the_page_is_drawn_whole_and_is_no_wider_than_the_screen(report, visit, width, scheme):
    seen = visit(report, width=width, color_scheme=scheme)
    for place, picture in drawn(seen):
        assert abs(place["width"] - picture["width"]) < 2 and picture["height"] >= 100
    assert (seen.errors, seen.abroad, seen.sticking_out()) == ([], [], [])
    ink, ground = (channels(seen.page.evaluate(f"getComputedStyle(document.body).{one}")) for one in INK)
    assert (sum(ink) < sum(ground)) == (scheme == "light")
    text = seen.page.locator(".figure text").first.evaluate("one => getComputedStyle(one).fill")
    assert (sum(channels(text)) < 3 * 128) == (scheme == "light")


INK = ("color", "backgroundColor")


def channels(colour):
    return [int(one) for one in re.findall(r"\d+", colour)[:3]]


@pytest.mark.slow
def test_on_paper_the_page_is_light_and_its_pictures_fit(report, visit):
    seen = visit(report, color_scheme="dark")
    drawn(seen)
    seen.page.emulate_media(media="print", color_scheme="dark")
    seen.page.locator("html.printing").wait_for()
    for place, picture in drawn(seen):
        assert picture["right"] <= place["right"] + 1 and place["width"] <= 670
    for ground in seen.page.locator("body, section").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    ):
        assert min(channels(ground)) > 200
    texts = seen.page.locator(".figure text").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
    assert max(sum(channels(text)) for text in texts) < 3 * 160
    assert seen.page.locator("figure").first.evaluate("one => getComputedStyle(one).breakInside") == "avoid"
    assert not seen.page.locator("nav").is_visible()
    seen.page.emulate_media(media="screen", color_scheme="dark")
    seen.page.locator("html:not(.printing)").wait_for()
    assert all(abs(place["width"] - picture["width"]) < 2 for place, picture in drawn(seen))


STOP = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  return [`${one.tagName} ${one.textContent.trim().slice(0, 40)}`, ring, one.getBoundingClientRect().width > 0];
}"""
INTERACTIVE = "a[href], button, summary, [tabindex='0']"


@pytest.mark.slow
def test_every_part_is_reached_by_the_keyboard_and_shows_that_it_has_the_focus(report, visit):
    seen = visit(report)
    drawn(seen)
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate(STOP) == ["A Skip to the results", True, True]
    assert seen.page.locator(".skip").bounding_box()["x"] >= 0
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.activeElement.id") == "main"
    visible = seen.page.locator(INTERACTIVE).evaluate_all("all => all.filter(one => one.checkVisibility()).length")
    stops = []
    for _ in range(visible - 1):
        seen.page.keyboard.press("Tab")
        stops.append(seen.page.evaluate(STOP))
    assert all(ring and wide for _, ring, wide in stops), [stop for stop in stops if not all(stop)]
    assert stops[-1][0].startswith("SUMMARY The pipeline")


@pytest.mark.slow
def test_the_table_of_trials_is_sorted_by_keys(report, visit):
    page = visit(report).page
    heading = page.locator("table.sortable button", has_text="rho")
    for key, expected in (("Enter", ["0", "0", "0"]), ("Space", ["1", "1", "1"])):
        heading.focus()
        page.keyboard.press(key)
        column = page.locator("table.sortable th").evaluate_all("all => all.findIndex(one => one.ariaSort)")
        cells = page.locator(f"table.sortable tbody tr td:nth-child({column + 1})").all_text_contents()
        assert cells[:3] == expected and len(cells) == _COUNT + 2


@pytest.mark.slow
def test_every_picture_has_words_and_its_numbers_in_a_table_and_a_file(report, visit):
    seen = visit(report)
    drawn(seen)
    for label in seen.page.locator("figure").evaluate_all("all => all.map(one => one.getAttribute('aria-labelledby'))"):
        assert len(seen.page.locator(f"#{label}").text_content()) > 3
    assert seen.page.get_by_role("img", name="Course of the search").count() == 1
    figure = seen.page.locator("figure", has=seen.page.get_by_role("img", name="Course of the search"))
    figure.locator("summary").focus()
    seen.page.keyboard.press("Enter")
    assert figure.locator("tbody tr").count() == _COUNT + 2
    assert figure.locator("thead").inner_text().split() == ["trial", "mean", "deviation", "best", "outcome"]
    for kind, begins in (("CSV", b"trial,mean"), ("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with seen.page.expect_download() as got:
            figure.get_by_role("button", name=f"Save {kind}").click()
        assert got.value.suggested_filename == f"course-of-the-search.{kind.lower()}"
        assert got.value.path().read_bytes().startswith(begins)
    assert seen.errors == [] and seen.abroad == []


def test_names_of_pictures_are_those_of_the_docs():
    """Files of `--figures` keep their names."""
    named = re.findall(r"`([a-zA-Z-]+)`[,| ]", (Path(__file__).parents[3] / "docs" / "report.md").read_text())
    wanted = [re.compile(re.sub(r"[A-Z]+", r"[a-z0-9-]+", name)) for name in named]
    pictures = report_pictures(DATA)
    assert len(pictures) > 12
    for picture in pictures:
        assert any(name.fullmatch(picture.name) for name in wanted), picture.name


# --- Colours


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def rgb(colour):
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def contrast(one, other):
    """As WCAG 2 defines it: 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# How colours look to those without cones for red and for green: Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}


def lab(colour, cones):
    """CIE L*a*b* of a colour as such eyes see it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
    seen = [min(max(sum(m * c for m, c in zip(row, linear, strict=True)), 0), 1) for row in cones]
    matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(m * c for m, c in zip(row, seen, strict=True)) for row in matrix]
    x, y, z = (
        (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116)
        for t in (value / white for value, white in zip(xyz, (0.9505, 1.0, 1.089), strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


SERIES = (theme.ACCENT, theme.BLUE, theme.GREEN, theme.PURPLE, theme.BROWN, theme.GREY)


@pytest.mark.slow
@pytest.mark.parametrize("night", [False, True])
def test_texts_and_lines_stand_out_from_the_page(report, visit, night):
    scheme = "dark" if night else "light"
    variables = visit(report, color_scheme=scheme).page.evaluate(
        "name => Object.fromEntries(name.map(one => "
        "[one, getComputedStyle(document.documentElement).getPropertyValue(`--${one}`).trim()]))",
        ["ink", "muted", "accent", "link", "page", "surface", "wash"],
    )
    for text, ground in itertools.product(("ink", "muted", "accent", "link"), ("page", "surface", "wash")):
        assert contrast(variables[text], variables[ground]) >= 4.5, (text, ground)
    for colour in SERIES:
        assert contrast(theme.DARK[colour] if night else colour, variables["surface"]) >= 3, colour


@pytest.mark.parametrize(("eyes", "night"), [*itertools.product(VISION, (False, True))])
def test_the_colours_of_lines_are_told_apart_by_all_eyes(eyes, night):
    """A distance of 10 in L*a*b* is plain to see on neighbouring lines; marks and dashes differ beside."""
    seen = {colour: lab(theme.DARK[colour] if night else colour, VISION[eyes]) for colour in SERIES}
    for one, other in itertools.combinations(SERIES, 2):
        distance = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True)) ** 0.5
        assert distance >= 10, (one, other, distance)
