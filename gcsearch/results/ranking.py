"""Records to a ranking, the ranking to a shortlist, and the shortlist to a champion.

Looks at the objective alone: at no test number, unless the objective is an oracle.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from gcsearch.config.metrics import columns, is_oracle
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.methods import registry
from gcsearch.results import documents
from gcsearch.results.differences import paired
from gcsearch.results.documents import Numbers, Objective, facts
from gcsearch.results.multi_dataset import worst_regrets
from gcsearch.results.tables.table import Cell, Entry, Heading, Table, parameters, to_frame
from gcsearch.results.tables.wording import described
from gcsearch.stats import Spread, spread

if TYPE_CHECKING:
    from pandas import DataFrame

_IN_A_NOTEBOOK = 20  # rows
_LAST = {Outcome.COMPLETE: 0, Outcome.PRUNED: 1, Outcome.DIVERGED: 2, Outcome.FAILED: 3}


@dataclass(frozen=True)
class RankedTrial:
    """A record with its place. `rank` counts from 1 over the completed trials that have the objective, else None."""

    rank: int | None
    record: TrialRecord
    objective: str
    front: bool | None = None
    """Of a search by several objectives: whether no other configuration is as good in all of them and better in one."""
    worst_regret: float | None = None
    """Of a search on several data sets, see `gcsearch.results.multi_dataset.worst_regrets`."""

    @property
    def values(self) -> Spread:
        """Mean and spread of the objective over seeds."""
        return spread(self.record.metrics.get(self.objective, ()))

    def entry(self) -> Entry:
        """The row for a DataFrame."""
        labels: dict[str, Cell] = {"rank": self.rank, "trial": self.record.number, "label": self.record.label}
        labels |= {"outcome": self.record.outcome.value, "front": self.front, "worst_regret": self.worst_regret}
        shown = {key: label for key, label in labels.items() if label is not None or key == "rank"}
        return Entry(shown | parameters(self.record.config), self.record.seeds, self.record.metrics)

    def to_dict(self) -> dict[str, Any]:
        """What `gcsearch best --json` prints for a row, see `gcsearch.results.documents`."""
        return self.document().dump()

    def document(self) -> documents.Ranked:
        """The row as `gcsearch best --json` prints it."""
        numbers = Numbers.of(self.record.seeds, self.record.metrics.get(self.objective, ()))
        objective = Objective(name=self.objective, oracle=is_oracle(self.objective), **dict(numbers))
        return documents.Ranked(
            rank=self.rank, objective=objective, front=self.front, worst_regret=self.worst_regret, **facts(self.record)
        )


@dataclass(frozen=True, repr=False)
class Ranking(Sequence[RankedTrial]):
    """The trials of a search, best first. A notebook shows the first of them as a table."""

    pipeline: Pipeline
    rows: tuple[RankedTrial, ...]

    @overload
    def __getitem__(self, index: int) -> RankedTrial: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RankedTrial]: ...
    def __getitem__(self, index: int | slice) -> RankedTrial | Sequence[RankedTrial]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def table(self, top: int | None = None, *, name: str = "") -> Table:
        """The best `top` rows under the name of the sweep, by default the pipeline's: objectives and accuracies."""
        task, search = self.pipeline.task, self.pipeline.search
        accuracies = [column.metric for column in columns(task, search.stage)]
        beside = accuracies if search.ranking_metric not in accuracies else []  # a margin alone says little
        shown = dict.fromkeys((search.ranking_metric, *search.objectives, *beside))
        title = f"{name or self.pipeline.name}: {len(self)} configurations by {search.chosen_by}, mean ± sd over seeds"
        title += "; * on the front" if len(search.objectives) > 1 else ""
        headings = [
            Heading("rank", "place", words=True),
            Heading("trial", "name"),
            *(Heading(metric, metric) for metric in shown),
            *([Heading("worst regret", "worst_regret")] if task.also else []),
            Heading("outcome", "outcome"),
            Heading("configuration", "configuration", words=True, wraps=True),
        ]
        return replace(Table.of(title, headings, map(_for_people, self.rows[:top])), marked=frozenset({0}))

    def to_frame(self) -> DataFrame:
        """A DataFrame in long form: rank, trial, outcome, `params_NAME`..., `metric`, `seed` and `value`."""
        return to_frame(row.entry() for row in self.rows)

    def __repr__(self) -> str:
        return f"Ranking({self.pipeline.name!r}: {len(self)} configurations by {self.pipeline.search.chosen_by})"

    def _repr_html_(self) -> str:
        from gcsearch.results.tables.markup import notebook  # late: it brings Jinja2, which a terminal does not need

        return notebook(self.table(_IN_A_NOTEBOOK))


def _for_people(row: RankedTrial) -> Entry:
    record = row.record
    labels: dict[str, Cell] = {
        "place": str(row.rank or "-") + (" *" if row.front else ""),
        "name": f"t{record.number:04d}",
        "worst_regret": math.nan if row.worst_regret is None else row.worst_regret,
        "outcome": record.outcome.value,
        "configuration": described(record.config) + (f"  ({record.label})" if record.label else ""),
    }
    return Entry(labels, record.seeds, record.metrics)


def front(records: Iterable[TrialRecord], objectives: Sequence[str]) -> set[int]:
    """The Pareto set, by number: completed configurations that no other equals in all objectives and beats in one.

    Compared are means over seeds; a configuration without one of the objectives is not in it, equal ones all are.
    """
    values = {
        record.number: tuple(record.mean(objective) for objective in objectives)
        for record in records
        if record.outcome is Outcome.COMPLETE and all(math.isfinite(record.mean(name)) for name in objectives)
    }
    # From the highest down: whoever beats a configuration stands before it, and is in the front or beaten by one that
    # is.
    best: dict[int, tuple[float, ...]] = {}
    for number in sorted(values, key=lambda number: values[number], reverse=True):
        own = values[number]
        if not any(other != own and all(map(operator.ge, other, own)) for other in best.values()):
            best[number] = own
    return set(best)


def rank(
    records: Iterable[TrialRecord],
    objective: str,
    objectives: Sequence[str] = (),
    regrets: Mapping[int, float] | None = None,
) -> list[RankedTrial]:
    """Completed trials by the objective's mean over seeds, best first; then pruned, diverged and failed ones.

    A completed trial without the objective (class-specific vectors have no accuracy on new classes, so no H)
    comes after those that have it.

    Where there are several `objectives`, those on their front come before all others. The `regrets` of a search on
    several data sets are shown, and change no place.

    Equal means: the one of fewer epochs, then of smaller rho, then the earlier one. So the order never
    depends on the order in which trials ended.
    """
    records = list(records)
    several = len(objectives) > 1
    ahead = front(records, objectives) if several else set[int]()

    def worth_of(record: TrialRecord) -> tuple[float, ...]:
        outcome, worth = _worth(record, objective)
        return (outcome, several and record.number not in ahead, worth)

    # What breaks ties takes longer to find than all else, and of a long search few are tied.
    ordered: list[TrialRecord] = []
    for _, tied in itertools.groupby(sorted(records, key=worth_of), key=worth_of):
        equals = list(tied)
        ordered += sorted(equals, key=_effort) if len(equals) > 1 else equals
    return [
        RankedTrial(
            place if _measured(record, objective) else None,
            record,
            objective,
            record.number in ahead if several else None,
            (regrets or {}).get(record.number),
        )
        for place, record in enumerate(ordered, start=1)
    ]


def order(record: TrialRecord, objective: str) -> tuple[float, ...]:
    """What records are sorted by, the best with the smallest: outcome, objective, and what breaks ties, see `rank`."""
    return (*_worth(record, objective), *_effort(record))


def _worth(record: TrialRecord, objective: str) -> tuple[float, float]:
    mean = record.mean(objective)
    return _LAST[record.outcome], -mean if math.isfinite(mean) else math.inf


def ranking(pipeline: Pipeline, records: Sequence[TrialRecord]) -> Ranking:
    """The records of the search of `pipeline`, best first: the one order of terminal, report, shortlist and export."""
    task, search = pipeline.task, pipeline.search
    metric = search.ranking_metric
    regrets = worst_regrets(records, metric, [part.dataset for part in task.each]) if task.also else {}
    return Ranking(pipeline, tuple(rank(records, metric, search.objectives, regrets)))


def _effort(record: TrialRecord) -> tuple[float, float, int]:
    """What breaks ties: steps, rho, number. Steps are counted for one image, SubPT's probe included: a task has N."""
    try:
        values = registry.complete(record.config).hyperparameters
    except InputError:  # of an earlier gcsearch, which allowed what is refused now
        values = record.config.hyperparameters
    epochs = float(values.get("epochs", record.epochs)) + float(values.get("probe_epochs", 0))
    return epochs / float(values.get("batch_size", 1)), float(values.get("rho", 0.0)), record.number


def _measured(record: TrialRecord, objective: str) -> bool:
    return record.outcome is Outcome.COMPLETE and math.isfinite(record.mean(objective))


def champion(ranking: Sequence[RankedTrial]) -> TrialRecord:
    """The first of the ranking. RunError, with the first reason, where no trial has a rank."""
    if not ranking or ranking[0].rank is None:
        if ranking and ranking[0].record.outcome is Outcome.COMPLETE:
            raise RunError(
                f"No trial of the sweep has a {ranking[0].objective}, so there is nothing to choose. "
                "Class-specific context vectors have no accuracy on new classes: choose them by val_base_acc."
            )
        reasons = [row.record.reason.splitlines()[0] for row in ranking if row.record.reason]
        why = f" The first reason given: {reasons[0]}" if reasons else ""
        raise RunError(f"No trial of the sweep completed, so there is nothing to choose.{why}")
    return ranking[0].record


def shortlist(ranking: Sequence[RankedTrial], count: int) -> list[TrialRecord]:
    """The first `count` different configurations of the ranking, none from behind the front.

    RunError as in `champion`.
    """
    champion(ranking)
    distinct: dict[str, TrialRecord] = {}
    for row in ranking:
        if row.rank is not None and row.front is not False:
            distinct.setdefault(row.record.config.digest, row.record)
    return list(distinct.values())[:count]


def one_standard_error(records: Sequence[TrialRecord], objective: str) -> TrialRecord:
    """The simplest of a shortlist that cannot be told from its best: fewest epochs, then smallest rho.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3), with the error of the difference: a configuration
    counts as equal where it trails the best by no more than one standard error of the mean of their differences
    over common seeds.  With a single seed there is no error, and the best mean wins.

    The records must be of seeds that the shortlist was not drawn up by: the best of many noisy means is on average
    too high, and its lead with it.

    Raises:
        RunError: none of the records has the objective.
    """
    ranked = [row.record for row in rank(records, objective) if row.rank is not None]
    if not ranked:
        raise RunError(
            f"None of the configurations that were measured again has a {objective}, so there is nothing to choose."
        )
    best = ranked[0]
    return min((record for record in ranked if _equals(record, best, objective)), key=_effort)


def _equals(record: TrialRecord, best: TrialRecord, objective: str) -> bool:
    lead = paired(best, record, objective)
    return record is best or (lead is not None and lead.n > 1 and lead.mean <= lead.error)
