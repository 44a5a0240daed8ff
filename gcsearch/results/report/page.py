"""The page that holds the sections: one HTML file, readable without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from plotly.offline import get_plotlyjs

from gcsearch import files
from gcsearch.results.report.findings import headline
from gcsearch.results.report.picture import Picture, ReportData, Section
from gcsearch.results.report.sections import (
    branches_section,
    choice_section,
    contours_section,
    curves_section,
    history_section,
    importance_section,
    results_section,
    scatter_section,
    slices_section,
    trials_section,
)
from gcsearch.results.report.theme import DARK
from gcsearch.results.tables.markup import environment
from gcsearch.results.tables.wording import NO_HOVERS, Hovers, counted, hovers, outcome_counts, searched

Warn = Callable[[str], None]
"""Told in a line of what the page lacks."""


def build_report(
    data: ReportData,
    provenance: Mapping[str, object] | None = None,
    *,
    link: str = "",
    warn: Warn = lambda _: None,
) -> str:
    """One HTML file with everything in it, plotly.js included once; nothing is loaded from elsewhere.

    What cannot be drawn is named to `warn` and in the page, and costs nothing else.

    Args:
        provenance: versions, git commit, and what else the numbers depend on.
        link: where the runs can be browsed: an address, or words.
    """
    pipeline, records, finals = data.pipeline, data.records, data.finals
    task = pipeline.task
    confirmed = sorted({seed for record in finals for seed in record.seeds})
    facts = {
        "search seeds": ", ".join(map(str, task.seeds)),
        "confirmation seeds": ", ".join(map(str, confirmed)) or "none yet",
        "chosen by": pipeline.search.chosen_by,
        "runs": link,
        **{str(key): str(value) for key, value in (provenance or {}).items()},
    }
    return document(
        "gcsearch report",
        pipeline.name,
        f"{task.title} · {task.backbone} · {task.shots} shots per class · {counted(len(records), 'configuration')} × "
        f"{counted(len(task.seeds), 'seed')} ({outcome_counts(records)}) · chosen by {pipeline.search.chosen_by}",
        report_sections(data, warn),
        sentences=headline(pipeline, records, finals, data.champion),
        facts={key: text for key, text in facts.items() if text},
        toml=files.to_toml(pipeline.to_dict()),
        points=hovers(records, searched(records)),
        warn=warn,
    )


def report_sections(data: ReportData, warn: Warn = lambda _: None) -> list[Section]:
    """All sections in order; one that cannot be made says why in its words, and to `warn`."""
    pipeline, objective, champion = data.pipeline, data.objective, data.champion
    records, finals, with_curves = data.records, data.finals, data.with_curves
    parts: dict[str, Callable[[], Section]] = {
        "results": lambda: results_section(pipeline, finals),
        "choice": lambda: choice_section(pipeline, records, data.rechecked, champion, over=bool(finals)),
        "base against new": lambda: scatter_section(records, finals, champion),
        "course of the search": lambda: history_section(records, champion, objective),
        "slices": lambda: slices_section(data.tried, champion, objective),
        "maps of two": lambda: contours_section(data.tried, champion, objective),
        "importances": lambda: importance_section(data.tried),
        "learning curves": lambda: curves_section(
            data.ranked, champion, objective, pipeline.evaluate_every, with_curves
        ),
        "gradient rule": lambda: branches_section(records, champion, with_curves),
        "all trials": lambda: trials_section(pipeline, data.ranked, champion, objective),
    }
    return [_built(name, build, warn) for name, build in parts.items()]


def report_pictures(data: ReportData) -> list[Picture]:
    """All pictures of a sweep: plotly figures and their numbers, for files and for whoever draws on in Python."""
    return [picture for section in report_sections(data) for picture in section.pictures]


def _built(name: str, build: Callable[[], Section], warn: Warn) -> Section:
    """The section, or in its place the reason why there is none."""
    try:
        return build()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever one part dies of, the others are shown
        return Section(name.capitalize(), _lacking(f"section {name}", error, warn))


def _lacking(what: str, error: Exception, warn: Warn) -> str:
    """In words that the page lacks `what`; `warn` hears of it too."""
    first = next(iter(str(error).splitlines()), "")
    why = f"{type(error).__name__}{': ' if first else ''}{first}"
    warn(f"the report lacks the {what}: {why}")
    return f"The {what} could not be drawn: {why}"


class _Slot(NamedTuple):
    """Where a picture is drawn: its number among the figures and its height; or the words that stand in for it."""

    picture: Picture
    figure: int = -1
    height: int = 0
    lacking: str = ""


def document(
    kind: str,
    name: str,
    about: str,
    sections: Sequence[Section],
    *,
    sentences: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    toml: str = "",
    points: Hovers = NO_HOVERS,
    warn: Warn = lambda _: None,
) -> str:
    """The whole page. What has nothing to show is listed below the others, each with the reason."""
    figures: list[str] = []
    drawn = [(section, _draw(section, figures, warn)) for section in sections if section.shows]
    return (
        environment()
        .get_template("page.html")
        .render(
            kind=kind,
            name=name,
            about=about,
            sentences=sentences,
            drawn=drawn,
            left_out=[section for section in sections if not section.shows],
            facts=facts or {},
            toml=toml,
            plotly=get_plotlyjs() if figures else "",
            # Within a script nothing is escaped; only what ends it must not be in it.
            figures=",".join(figures).replace("</", "<\\/"),
            hovers=json.dumps(points._asdict(), ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/"),
            dark=json.dumps(DARK),
        )
    )


def _draw(section: Section, figures: list[str], warn: Warn) -> list[_Slot]:
    """The places of a section's pictures, which are added to `figures` as JSON."""
    places = []
    for picture in section.pictures:
        try:
            figure = picture.figure
            drawn = str(figure.to_json())
        except (MemoryError, OSError):
            raise
        except Exception as error:  # a picture is no reason to lose the page
            places.append(_Slot(picture, lacking=_lacking(f"picture {picture.name}", error, warn)))
            continue
        places.append(_Slot(picture, len(figures), figure.layout.height))
        figures.append(drawn)
    return places
