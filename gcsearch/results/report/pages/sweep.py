"""The page of one sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gcsearch import files
from gcsearch.results.report.findings import headline
from gcsearch.results.report.pages.document import Warn, built, document
from gcsearch.results.report.picture import Picture, ReportData, Section
from gcsearch.results.report.sections.results import (
    calibration_section,
    choice_section,
    results_section,
    scatter_section,
    worth_section,
)
from gcsearch.results.report.sections.search import (
    contours_section,
    history_section,
    importance_section,
    parallel_section,
    slices_section,
    survival_section,
    trials_section,
)
from gcsearch.results.report.sections.training import (
    branches_section,
    curves_section,
    test_curves_section,
    time_section,
)
from gcsearch.results.tables.wording import counted, hovers, outcome_counts, searched


def build_report(
    data: ReportData,
    provenance: Mapping[str, object] | None = None,
    *,
    link: str = "",
    warn: Warn = lambda _: None,
    sections: Sequence[Section] | None = None,
) -> str:
    """The report of a sweep, see `document`.

    Args:
        provenance: versions, git commit, and what else the numbers depend on.
        link: where the runs can be browsed: an address, or words.
        sections: those of `report_sections`, where they are made already.
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
        report_sections(data, warn) if sections is None else sections,
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
        "worth": lambda: worth_section(pipeline, finals),
        "choice": lambda: choice_section(pipeline, records, data.rechecked, champion, over=bool(finals)),
        "base against new": lambda: scatter_section(records, finals, champion),
        "course of the search": lambda: history_section(records, champion, objective),
        "survival": lambda: survival_section(records, pipeline.search),
        "parallel coordinates": lambda: parallel_section(data),
        "slices": lambda: slices_section(data),
        "maps of two": lambda: contours_section(data.tried, champion, objective),
        "importances": lambda: importance_section(data),
        "learning curves": lambda: curves_section(
            data.ranked, champion, objective, pipeline.evaluate_every, with_curves
        ),
        "curves on test images": lambda: test_curves_section(data),
        "calibration": lambda: calibration_section(finals),
        "gradient rule": lambda: branches_section(records, champion, with_curves),
        "time": lambda: time_section(data),
        "all trials": lambda: trials_section(pipeline, data.ranked, champion, objective),
    }
    return [built(name, build, warn) for name, build in parts.items()]


def report_pictures(data: ReportData) -> list[Picture]:
    """All pictures of a sweep: plotly figures and their numbers, for files and for whoever draws on in Python."""
    return [picture for section in report_sections(data) for picture in section.pictures]
