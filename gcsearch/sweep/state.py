"""The state of a sweep: running or dead, how far, how fast, how long still."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING, Any

from gcsearch.config.addresses import shown
from gcsearch.config.metrics import is_oracle
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.results import ranking
from gcsearch.stats import number
from gcsearch.sweep.journal import REOPENING, Event
from gcsearch.sweep.lease import Seen, look, request_path
from gcsearch.sweep.sweep import Sweep

if TYPE_CHECKING:
    pass


_STATES = {"FINISHED": "finished", "FAILED": "failed", "STOPPED": "stopped", "CANCELLED": "cancelled"}
_STATES |= {"KILLED": "interrupted", "": "dead"}
_AFTER_SEARCH = ("budget", "recheck", "confirmed")  # lines that come once the search is over, early or not


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment.

    `state`: running, stopping (it was asked to), finished, stopped, interrupted (by Ctrl-C or SIGTERM),
    cancelled, failed, or dead: its driver ended without a word. All but running and stopping can go on.
    `per_minute` counts this session's settings over its search's time; `seconds_left` is what that makes of
    the settings that are left, both None where nothing tells. Times are UTC.
    """

    sweep: str
    state: str
    stage: str
    done: int
    total: int
    outcomes: dict[str, int]
    objective: str
    best: float | None
    best_number: int | None
    per_minute: float | None
    seconds_left: float | None
    workers: list[str]
    driver: str | None
    since: str | None
    heartbeat: str | None
    journal_lines: int
    mlflow_lines: int
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What `gcsearch status --json` prints."""
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        oracle = ", oracle: it looks at test images" if is_oracle(self.objective) else ""
        best = "none yet"
        if self.best is not None:
            best = f"{self.objective} {number(self.best)} (t{self.best_number:04d}{oracle})"
        rows = [
            ("sweep", f"{self.sweep}: {self.state}{f', {self.why}' if self.why else ''}"),
            ("done", f"{self.done} of {self.total} settings{self._outcomes()}; stage {self.stage}"),
            ("best", best),
        ]
        if self.per_minute:
            rows.append(("rate", f"{self.per_minute:.1f} settings a minute, {len(self.workers)} worker processes"))
        if self.seconds_left:
            rows.append(("left", f"about {duration(self.seconds_left)} of search; confirmation beside"))
        if self.driver:
            rows.append(("driver", f"{self.driver} since {self.since}, last heard of {self.heartbeat}"))
        return [*rows, ("MLflow", lag(self.journal_lines, self.mlflow_lines))]

    def _outcomes(self) -> str:
        other = [f"{count} {name}" for name, count in self.outcomes.items() if name != Outcome.COMPLETE]
        return f" ({', '.join(other)})" if other else ""


def stand(sweep: Sweep) -> Standing:
    """How `sweep` stands now. Opens no connection; reads the journal and the lease."""
    lease, search = sweep.store.lease(sweep.name), sweep.pipeline.search
    seen = look(lease)
    driven = seen is not None and not seen.gone
    session, latest, lines, searched, final = _Session(), {}, 0, False, False
    for _, _, event in sweep.journal.since():
        lines += 1
        session = _Session(trials=event.get("trials")) if event["kind"] == "open" else session
        session.hear(event)
        searched = event["kind"] in _AFTER_SEARCH or (searched and event["kind"] != "extend")
        final = _whole(event) if event["kind"] == "final" else final and event["kind"] not in REOPENING
        if event["kind"] == "record":
            latest[event["record"]["number"]] = TrialRecord.from_dict(
                event["record"] | {"curve": []}, file=sweep.journal.path
            )
    objective = search.ranking_metric
    ranked = ranking.rank(latest.values(), objective, search.objectives)
    best = ranked[0].record if ranked and ranked[0].rank else None
    total = max(session.trials or sweep.pipeline.search.trials, len(latest))
    left = 0 if searched else total - len(latest)
    rate = session.per_minute(datetime.now(UTC) if driven else None)
    return Standing(
        sweep=sweep.name,
        state=_state(seen, session.ended, asked=request_path(lease).exists()),
        stage="over" if final else "confirm" if latest and not left else "search",
        done=len(latest),
        total=total,
        outcomes=dict(Counter(record.outcome.value for record in latest.values())),
        objective=objective,
        best=best.mean(objective) if best else None,
        best_number=best.number if best else None,
        per_minute=rate,
        seconds_left=60 * left / rate if rate and driven else None,
        workers=sorted(session.workers),
        driver=str(seen.holder.process) if seen else None,
        since=seen.holder.since if seen else None,
        heartbeat=seen.beat.isoformat(timespec="seconds") if seen else None,
        journal_lines=lines,
        mlflow_lines=lines_synced(sweep),
        why=seen.gone if seen else "",
    )


def _whole(final: Event) -> bool:
    """Whether the confirm stage is over: one with a failed trial is repeated by the next session."""
    return all(record["outcome"] != Outcome.FAILED for record in final["records"])


def _state(seen: Seen | None, ended: str, *, asked: bool) -> str:
    if seen is None:
        return _STATES.get(ended, "failed")
    if seen.gone:
        return _STATES.get(ended, "failed") if ended else "dead"
    return "stopping" if asked else "running"


@dataclass
class _Session:
    """What the last session has done, gathered line by line."""

    trials: int | None = None
    ended: str = ""
    workers: set[str] = field(default_factory=set)
    records: int = 0
    first: str = ""
    last: str = ""

    def hear(self, event: Event) -> None:
        match event["kind"]:
            case "proposal":
                self.first = self.first or event["time"]
            case "record":
                self.records += 1
                self.last = event["time"]
                self.workers.add(event["record"].get("worker", ""))
            case "lost":
                who = str(event["who"])
                node = who if who.startswith("@") else None
                self.workers = {one for one in self.workers if one != who and not (node and one.endswith(node))}
            case "close":
                self.ended = event["why"]

    def per_minute(self, now: datetime | None) -> float | None:
        """Settings a minute from the first proposal to `now`, or to the last record."""
        if not self.records or not self.first:
            return None
        seconds = ((now or datetime.fromisoformat(self.last)) - datetime.fromisoformat(self.first)).total_seconds()
        return 60 * self.records / seconds if seconds > 0 else None


def duration(seconds: float) -> str:
    """Seconds for people: `40 seconds`, `12.5 minutes`, `3.1 hours`."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1.5:
        return f"{ceil(seconds)} seconds"
    return f"{minutes:.1f} minutes" if hours < 1.5 else f"{hours:.1f} hours"


CURSOR = "synced.json"
EMBEDDED = "embedded"


def lines_synced(sweep: Sweep) -> int:
    """How many lines of the sweep's journal its MLflow store has; none where they went to another store."""
    try:
        cursor = json.loads((sweep.folder / CURSOR).read_bytes())
        place, own = cursor["uri"], store_in_words(sweep)
        former = own == EMBEDDED and place.startswith("sqlite:///")  # the path stood there once
        return int(cursor["lines"]) if place == own or former else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0


def lag(lines: int, synced: int) -> str:
    """What MLflow has of a journal of so many lines, in words that every message uses."""
    behind = lines - synced
    if behind <= 0:
        return "is in step with the journal"
    return f"lacks the journal's last {behind} lines" if behind > 1 else "lacks the journal's last line"


def store_in_words(sweep: Sweep) -> str:
    """The store of the sweep's runs as its cursor names it: without a password, and the same once it was moved."""
    return shown(sweep.pipeline.tracking.uri) if sweep.pipeline.tracking.uri else EMBEDDED
