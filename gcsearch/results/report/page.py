"""The page that holds the sections: one HTML file, readable without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from plotly.offline import get_plotlyjs

from gcsearch import files
from gcsearch.config.metrics import find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import TrialRecord
from gcsearch.results.ranking import ranking
from gcsearch.results.report.findings import headline
from gcsearch.results.report.responses import responses
from gcsearch.results.report.sections import (
    Section,
    WithCurves,
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
    pipeline: Pipeline,
    records: Sequence[TrialRecord],
    finals: Sequence[TrialRecord],
    champion: int | None,
    provenance: Mapping[str, object] | None = None,
    *,
    rechecked: Sequence[TrialRecord] = (),
    with_curves: WithCurves = lambda records: records,
    link: str = "",
    warn: Warn = lambda _: None,
) -> str:
    """One HTML file with everything in it, plotly.js included once; nothing is loaded from elsewhere.

    What cannot be drawn is named to `warn` and in the page, and costs nothing else.

    Args:
        records: of the search. finals: of the confirmation, labelled; the champion's role is champion.
        champion: its trial number; None where no trial completed.
        provenance: versions, git commit, and what else the numbers depend on.
        rechecked: the shortlist as measured again, which the champion was chosen by.
        with_curves: reads the curves of the few records of which they are drawn, where `records` come without.
        link: where the runs can be browsed: an address, or words.
    """
    objective = find(pipeline.search.ranking_metric)
    records = sorted(records, key=lambda record: record.number)
    ranked = ranking(pipeline, records)
    tried = cache(lambda: responses(records, objective.key))
    parts: dict[str, Callable[[], Section]] = {
        "results": lambda: results_section(pipeline, finals),
        "choice": lambda: choice_section(pipeline, records, rechecked, champion, over=bool(finals)),
        "base against new": lambda: scatter_section(records, finals, champion),
        "course of the search": lambda: history_section(records, champion, objective),
        "slices": lambda: slices_section(tried(), champion, objective),
        "maps of two": lambda: contours_section(tried(), champion, objective),
        "importances": lambda: importance_section(tried()),
        "learning curves": lambda: curves_section(ranked, champion, objective, pipeline.evaluate_every, with_curves),
        "gradient rule": lambda: branches_section(records, champion, with_curves),
        "all trials": lambda: trials_section(pipeline, ranked, champion, objective),
    }
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
        [_built(name, build, warn) for name, build in parts.items()],
        sentences=headline(pipeline, records, finals, champion),
        facts={key: text for key, text in facts.items() if text},
        toml=files.to_toml(pipeline.to_dict()),
        points=hovers(records, searched(records)),
        warn=warn,
    )


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

    figure: int
    height: int
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
            figure = picture.draw()
            drawn = str(figure.to_json())
        except (MemoryError, OSError):
            raise
        except Exception as error:  # a picture is no reason to lose the page
            places.append(_Slot(-1, 0, _lacking(f"picture {picture.name}", error, warn)))
            continue
        places.append(_Slot(len(figures), figure.layout.height))
        figures.append(drawn)
    return places
