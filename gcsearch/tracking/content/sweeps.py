"""A sweep's own run: its tags, parameters and inputs, and its results once they are there."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome, Role, TrialRecord
from gcsearch.results.ranking import RankedTrial
from gcsearch.results.report.findings import Rechecked, choice, confirmed_rows
from gcsearch.stats import finite, spread
from gcsearch.sweep.store import WORDS_FILE
from gcsearch.sweep.sweep import Sweep
from gcsearch.tracking.content.trials import Key, config_params, confirmed_metrics, key_of, table, task_params

SHORTLIST_FILE = "shortlist.json"
RANKED = 100
"""How many trials have a tag `rank`: what is kept right while the search goes on must not grow with it."""

_DIGEST_LENGTH = 36


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sweep_tags(name: str, pipeline: Pipeline, about: Mapping[str, str]) -> dict[str, str]:
    """The tags of a sweep's run as it begins."""
    task = pipeline.task
    tags = {
        "gcsearch.kind": "sweep",
        "gcsearch.sweep": name,
        "gcsearch.objective": ",".join(pipeline.search.objectives),
        "gcsearch.selection": "oracle" if pipeline.search.oracle else "clean",
        "gcsearch.dataset": task.title,
        "gcsearch.backbone": task.backbone,
        "gcsearch.heartbeat": now(),
        "mlflow.source.name": "gcsearch",
        "mlflow.source.type": "LOCAL",
    }
    tags |= {f"gcsearch.version.{key}": text for key, text in about.items() if not key.startswith("git.")}
    if "git.commit" in about:
        tags["mlflow.source.git.commit"] = about["git.commit"]
        tags["gcsearch.git.dirty"] = about.get("git.dirty", "unknown")
    return tags


def pipeline_params(pipeline: Pipeline) -> dict[str, object]:
    """What a sweep keeps for life (parameters cannot be changed later, so not the number of trials)."""
    search = pipeline.search.to_dict()
    kept = {f"search.{key}": search[key] for key in ("sampler", "seed")}
    kept["search.objective"] = ",".join(pipeline.search.objectives)
    # Those that trials have too in their words, so that one filter finds both.
    return {f"task.{key}": value for key, value in pipeline.task.to_dict().items()} | kept | task_params(pipeline)


def dataset_input(pipeline: Pipeline) -> DatasetInput:
    """The data set as MLflow knows one; its digest covers every key that decides which images are drawn."""
    task = pipeline.task
    drawn = task.to_dict() | {"confirm_seeds": list(pipeline.confirm.seeds)}
    dataset = Dataset(
        name=task.dataset,
        digest=hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH],
        source_type="gcsearch",
        source=json.dumps({"dataset": task.dataset, "root": task.root}),
        profile=json.dumps(
            {"shots": task.shots, "val_shots": task.val_shots, "folds": task.folds, "classes": task.classes}
        ),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])


def target_inputs(pipeline: Pipeline) -> list[DatasetInput]:
    """The further data sets: those that are trained on too, and those that are measured only."""
    sources = [
        (name, json.dumps({"dataset": name, "root": pipeline.task.root}))
        for name in (*pipeline.task.also, *pipeline.task.targets)
        if name != pipeline.task.dataset
    ]
    return [
        DatasetInput(
            Dataset(
                name=name,
                digest=hashlib.sha256(source.encode()).hexdigest()[:_DIGEST_LENGTH],
                source_type="gcsearch",
                source=source,
            ),
            [InputTag("mlflow.data.context", "train" if name in pipeline.task.also else "test")],
        )
        for name, source in sources
    ]


# --- Results


def counts(sweep: Sweep) -> dict[str, float]:
    """How many trials of the search have ended, and how."""
    outcomes = Counter(record.outcome for record in sweep.searched)
    every = {f"trials_{one.value}": float(outcomes[one]) for one in Outcome}
    return {"trials": float(outcomes.total()), **every}


def results(sweep: Sweep) -> dict[str, float]:
    """The metrics of a confirmed sweep: the champion's numbers, what it gains over each reference, what it took."""
    champion, final = sweep.confirmed, sweep.state.final
    if champion is None or final is None:
        return {}
    found = confirmed_metrics(champion, sweep.pipeline)
    objective = spread(sweep.champion.metrics.get(sweep.pipeline.search.ranking_metric, ()))
    found |= {"objective": objective.mean, "objective_sd": objective.deviation}
    for row in confirmed_rows(sweep.finals, sweep.pipeline.task):
        if row.record.role is Role.REFERENCE and row.lead:
            key = f"gain_{_slug(row.record)}"
            found |= {key: row.lead.mean, f"{key}_low": row.lead.low, f"{key}_high": row.lead.high}
    opened = sweep.state.opened or final.time
    found["seconds"] = sweep.state.spent + max((final.time - opened).total_seconds(), 0.0)
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _slug(record: TrialRecord) -> str:
    """A reference as the pipeline names it: a method, or behind the comma of its title a point of the space."""
    named = record.label.rpartition(", ")[2] if ", " in record.label else record.config.method
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", named).replace("+", "-")


def champion_params(sweep: Sweep) -> dict[str, object]:
    """The champion's configuration; empty before the confirmation."""
    return config_params(sweep.confirmed.config) if sweep.confirmed else {}


def marks(sweep: Sweep) -> dict[Key, dict[str, str]]:
    """The tags of trials that change as the sweep goes on: `role`, and `rank` of the first `RANKED`, else empty.

    Of a sweep that is extended nobody knows the roles before it is confirmed again: they stay as they were.
    """
    chosen = {one.number: one.role.value for one in sweep.finals if one.role is not Role.REFERENCE}
    ranks = {row.record.number: _rank(row) for row in sweep.ranking}
    found: dict[Key, dict[str, str]] = {}
    for row in sweep.ranking:
        record = row.record
        found[key_of(record)] = {"rank": ranks[record.number]}
        if sweep.finals:
            found[key_of(record)]["role"] = chosen.get(record.number, record.role.value)
    for record in sweep.finals:
        rank = "" if record.role is Role.REFERENCE else ranks.get(record.number, "")
        found[key_of(record)] = {"role": record.role.value, "rank": rank}
    return found


def _rank(row: RankedTrial) -> str:
    return str(row.rank) if row.rank is not None and row.rank <= RANKED else ""


def words_of(sweep: Sweep, record: TrialRecord) -> dict[str, Path]:
    """The nearest words to what a confirmed configuration trained, as artifacts of its run."""
    paths = sorted(sweep.kept.rglob(WORDS_FILE.format(record.number)))
    return {(path.parent.relative_to(sweep.kept) / "words.md").as_posix(): path for path in paths}


def shortlist_table(sweep: Sweep) -> str:
    """The shortlist by its second measurement, the best first: what the champion was chosen by."""
    rows = choice(sweep.searched, sweep.rechecked, sweep.pipeline.search.ranking_metric)
    headings = ["trial", "chosen", "recheck", "recheck sd", "behind", "behind, low", "behind, high"]
    headings += ["in the search", "in the search, sd", "configuration"]
    return table(headings, [_row(one, sweep.confirmed) for one in rows])


def _row(one: Rechecked, champion: TrialRecord | None) -> Sequence[object]:
    behind = [one.behind.mean, one.behind.low, one.behind.high] if one.behind else [0.0, math.nan, math.nan]
    numbers = map(finite, (*one.again[:2], *behind, *one.before[:2]))
    chosen = champion is not None and champion.number == one.record.number
    return [f"t{one.record.number:04d}", chosen, *numbers, one.record.config.describe()]
