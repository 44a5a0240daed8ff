"""The description of a sweep's run, as far as the sweep has come: what was asked, what came out, where to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gcsearch.config.metrics import columns, find
from gcsearch.config.trials import Role
from gcsearch.results.report import findings
from gcsearch.results.tables.table import written
from gcsearch.results.tables.wording import describe, outcome_counts, searched
from gcsearch.stats import plus_minus
from gcsearch.sweep.journal import run_key
from gcsearch.sweep.sweep import Sweep


@dataclass(frozen=True)
class Links:
    """Where things are in MLflow's browser: addresses within the page, so that they hold wherever it is served.

    `files`: artifacts of the sweep's run and of the champion's, by name, that are there.
    """

    experiment: str
    parent: str
    files: Mapping[str, str] = field(default_factory=dict)

    def run(self, run_id: str, file: str = "") -> str:
        """A run, or an artifact of it. Without its last part MLflow 3.17 would frame it in pages of language models."""
        place = f"/artifacts/{file}" if file else ""
        return f"#/experiments/{self.experiment}/runs/{run_id}{place}?workflowType=machine_learning"


def description(sweep: Sweep, links: Links) -> str:
    """The note of the sweep's run, in Markdown."""
    return "\n\n".join(part for part in (*_result(sweep, links), _asked(sweep)) if part)


def _asked(sweep: Sweep) -> str:
    """What the sweep is, in one paragraph."""
    pipeline, task = sweep.pipeline, sweep.pipeline.task
    return (
        f"Sweep **{sweep.id}**: search space `{pipeline.search.space}` on `{task.title}` "
        f"with `{task.backbone}`, {task.shots} shots{' of all classes' if task.classes == 'all' else ''}, "
        f"seeds {', '.join(map(str, task.seeds))}; "
        f"{''.join(f'measured on `{name}`; ' for name in task.targets)}"
        f"chosen by {pipeline.search.chosen_by}. Each run below is one configuration."
    )


def _result(sweep: Sweep, links: Links) -> Iterator[str]:
    state = sweep.state
    if not state.records:
        return
    if state.final:
        yield _where(sweep, links)  # first: MLflow folds away what is longer than a few lines
        yield " ".join(_verdict(sweep))
        yield _table(sweep, links)
    elif state.searched or len(state.records) >= sweep.trials:
        yield " ".join(_verdict(sweep))
        yield "The best configurations are being measured again with fresh seeds, and then on test images."
    ended = f"{len(state.records)} of {sweep.trials} trials have ended: {outcome_counts(sweep.searched)}."
    yield f"{ended} The search ended early: {state.budget}." if state.budget else ended


def _verdict(sweep: Sweep) -> list[str]:
    ranked = any(row.rank for row in sweep.ranking)
    number = sweep.champion.number if ranked else None
    return findings.headline(sweep.pipeline, sweep.searched, sweep.finals, number)


def _table(sweep: Sweep, links: Links) -> str:
    """The confirmed configurations, each a link to its run, and the champion's difference to each."""
    shown = columns(sweep.pipeline.task)
    metric = find(findings.deciding(sweep.finals, sweep.pipeline.task)).title
    headings = ["accuracy on test images in %", *(one.title for one in shown), f"champion minus it, {metric}"]
    lines = [_line(headings), _line(["---", *("---:" for _ in shown), "---:"])]
    for row in findings.confirmed_rows(sweep.finals, sweep.pipeline.task):
        run_id = sweep.state.runs.get(run_key(row.record))
        name = row.name.replace("|", "\\|")
        name = f"[{name}]({links.run(run_id)})" if run_id else name
        name = f"**{name}**" if row.record.role is Role.CHAMPION else name
        cells = [plus_minus(row.values[one.key]) for one in shown]
        lines.append(_line([name, *cells, written(row.lead) if row.lead else ""]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _where(sweep: Sweep, links: Links) -> str:
    """Links to the champion's runs and to the files that are there."""
    champion, confirmed = sweep.champion, sweep.confirmed
    found = []
    if confirmed and (run_id := sweep.state.runs.get(run_key(confirmed))):
        config = describe(champion.config, searched(sweep.searched))
        found.append(f"Champion, {config}: [on test images]({links.run(run_id)})")
        if run_id := sweep.state.runs.get(run_key(champion)):
            found.append(f"[in the search]({links.run(run_id)})")
    titles = {"report.html": "report", "export": "export (configuration, prompts, card)"}
    found += [
        f"[{title}]({links.run(links.files[name], name)})" for name, title in titles.items() if name in links.files
    ]
    return " · ".join(found)
