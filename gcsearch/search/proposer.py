"""What to try next: an Optuna study that is asked and told in one fixed order.

Trials are proposed in *generations* of *packs*; a pack is trained at once, in one process.  All packs of a generation
are asked for from the same knowledge, and only when every trial of it has its record are the results told, in order of
trial number.  So what is proposed depends on the seed and on the results alone, never on timing or on the number of
workers.

Nothing is restored from files of Optuna's.  A search goes on by replay: the same questions are asked again, and a trial
that has a record is not run again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import optuna
from optuna.trial import TrialState, create_trial

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, Proposal, Rung, TrialRecord
from gcsearch.errors import RunError
from gcsearch.methods import registry
from gcsearch.search import pruning, warm_start
from gcsearch.search.samplers import grid, make, total


@dataclass(frozen=True)
class _Asked:
    """A trial that the study was asked for."""

    trial: optuna.Trial
    proposal: Proposal
    label: str


class Proposer:
    """An Optuna study in memory with the order of questions and answers that makes a search repeat exactly.

        proposer = Proposer(space, settings)
        while packs := proposer.ask():
            for pack in packs:
                for record in train(pack):
                    proposer.tell(record)

    Args:
        space: what is searched. Its points come first; without anything to search there is one trial.
        settings: exactly `samplers.total` trials are proposed; the last generation and its last pack may be smaller.
        before: records of earlier sweeps, known before the first proposal. They have no number here, and count as what
            they were; those without a place in the space are left out.
    """

    def __init__(self, space: SearchSpace, search: SearchConfig, *, before: Iterable[TrialRecord] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.search = search
        self.total = total(search, space)
        self.study = optuna.create_study(directions=["maximize"] * len(search.objectives), sampler=make(search))
        for record in before:
            self._add_earlier(record)
        for point in space.points[: self.total]:
            self.study.enqueue_trial(space.internal(point.values))
        if search.sampler == "grid":
            for internal in grid(search, space)[: self.total - len(space.points)]:
                self.study.enqueue_trial(internal)
        self._history: tuple[TrialRecord, ...] = ()
        self._asked: list[_Asked] = []
        self._answered: list[TrialRecord] = []  # what the study was told of each of `_asked`, in order of number
        self._answers: dict[int, TrialRecord] = {}  # what history says to tell, where a trial was run again later
        self._records: dict[int, TrialRecord] = {}
        self._epochs: dict[int, int] = {}  # of each trial in all, by number
        self._again: list[Proposal] = []  # failed trials that others were proposed from

    @property
    def records(self) -> list[TrialRecord]:
        """The records so far, those that were replayed included, by number."""
        return [self._records[number] for number in sorted(self._records)]

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Know what earlier sessions came to, in the order in which it was written. Before the first `ask`.

        A trial that has a record is not run again, unless it FAILED.
        """
        self._history = tuple(records)

    def ask(self) -> list[list[Proposal]]:
        """The packs that run next; none once the search is over. Every trial asked for before must have been told.

        RunError where a replayed record is of another configuration than the one proposed under its number.
        """
        packs: list[list[Proposal]] = []
        while not packs:
            self._tell_generation()
            if len(self._asked) == self.total and not self._again:
                break
            if len(self._asked) < self.total:
                packs += self._ask_generation()
            if packs or len(self._asked) == self.total:
                packs += self._packs(self._again)
                self._again = []
        return packs

    def tell(self, record: TrialRecord) -> TrialRecord:
        """Keep the record of a trial; the study hears of it once its whole generation has ended.

        Returns it with the label of the point of the space that the trial is.
        """
        label = self.label(record.number)
        self._records[record.number] = record if record.label == label else record.model_copy(update={"label": label})
        return self._records[record.number]

    def label(self, number: int) -> str:
        """The label of the space's point that the trial is; empty for one that was sampled."""
        return self._asked[number].label

    def _ask_generation(self) -> list[list[Proposal]]:
        """Ask for all trials of the next generation; the packs of those that no record answers.

        Only what is missing runs: a pack that an earlier session left half recorded, or that ended where
        there were fewer trials to do, is not repeated as a whole.
        """
        first = len(self._asked)
        numbers = range(first, min(first + self.search.size * self.search.generation, self.total))
        self._asked += [self._ask(number) for number in numbers]
        missing = self._unanswered(numbers)
        packs = []
        for start in numbers[:: self.search.size]:
            pack = range(start, start + self.search.size)
            packs += self._packs([proposal for proposal in missing if proposal.number in pack])
        return packs

    def _ask(self, number: int) -> _Asked:
        # Every distribution is asked for in every trial: TPE's joint model keeps only dimensions that all trials have.
        trial = self.study.ask(fixed_distributions=self.space.distributions())
        trial.set_user_attr("number", number)
        points = self.space.points
        values = points[number].values if number < len(points) else self.space.natural(trial.params)
        label = points[number].label if number < len(points) else ""
        return _Asked(trial, Proposal(number=number, config=self.space.config(values)), label)

    def _unanswered(self, numbers: range) -> list[Proposal]:
        """The trials of a generation that must run; what answers the others is noted.

        Once later trials have records, this generation's answers are history: also a FAILED one, for the
        later ones were proposed knowing that. It is run again, but the study is not told the new result, or
        it would now propose other trials than those that have been run since.
        """
        latest = {record.number: record for record in self._history if record.number in numbers}
        history = self._history_before(numbers.stop)
        then = {record.number: record for record in history if record.number in numbers}
        built_upon = len(history) < len(self._history)
        missing = []
        for number in numbers:
            proposal = self._asked[number].proposal
            self._check_same(proposal, latest.get(number))
            answer = then.get(number)
            if built_upon and not answer:
                self._refuse(f"configurations after number {number} have records, but it has none")
            if not answer or (answer.outcome is Outcome.FAILED and not built_upon):
                missing.append(proposal)
                continue
            self._answers[number] = answer
            self.tell(latest[number])
            if latest[number].outcome is Outcome.FAILED:
                self._again.append(proposal)
        return missing

    def _history_before(self, number: int) -> Sequence[TrialRecord]:
        """The records written before any trial from `number` on had one."""
        for position, record in enumerate(self._history):
            if record.number >= number:
                return self._history[:position]
        return self._history

    def _check_same(self, proposal: Proposal, record: TrialRecord | None) -> None:
        if record and record.config.digest != proposal.config.digest:
            was, now = record.config.to_dict(), proposal.config.to_dict()
            self._refuse(f"number {proposal.number} was {was}, but {now} is proposed now")

    def _refuse(self, what: str) -> NoReturn:
        raise RunError(
            f"The records of this sweep do not follow from its settings: {what}.\n"
            "They were made with another search space, seed, sampler, pack, generation or version of Optuna. "
            "Go back to those, or begin a sweep under another name."
        )

    def _packs(self, proposals: Sequence[Proposal]) -> list[list[Proposal]]:
        size, packs = self.search.size, []
        for start in range(0, len(proposals), size):
            packs.append(self._with_rungs(proposals[start : start + size]))
            for proposal in packs[-1]:
                self._records.pop(proposal.number, None)
        return packs

    def _with_rungs(self, pack: Sequence[Proposal]) -> list[Proposal]:
        """The trials of a pack with their rungs, and what others had there.

        Others of the same pack have records where an earlier session was interrupted between two of them.
        """
        first = pack[0].number // self.search.size * self.search.size
        numbers = set(range(first, first + self.search.size)) - {proposal.number for proposal in pack}
        peers = [self._records[number] for number in sorted(numbers & self._records.keys())]
        if self.search.pruner in pruning.ACROSS:
            peers = [*self._answered, *peers]
        rungs = pruning.rungs(self.search, first // self.search.size)
        if peers:
            rungs = tuple(self._with_peers(rung, peers) for rung in rungs)
        return [proposal.model_copy(update={"rungs": rungs}) for proposal in pack]

    def _tell_generation(self) -> None:
        """Tell the study what has become of every trial asked for, in order of number."""
        for asked in self._asked[len(self._answered) :]:
            number = asked.proposal.number
            record = self._answers.get(number) or self._records[number]
            self._tell(asked.trial, record)
            self._answered.append(record)

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """COMPLETE with the objectives' means over seeds, PRUNED with the last value; all else is FAIL."""
        values = self._values(record)
        finite = all(map(math.isfinite, values))
        if record.outcome is Outcome.COMPLETE and finite:
            self.study.tell(trial, values)
        elif record.outcome is Outcome.PRUNED and finite:
            # Told as complete, a value of few epochs would pose as a final one.  TPE ranks those that left by how
            # far they came: of their own schedules, or a long one that left early would outrank a short one that
            # left late.
            (value,) = values  # of several objectives none leaves early
            trial.report(value, step=pruning.percent_done(self.search, record.epochs, _epochs(record)))
            trial.set_user_attr("epochs", record.epochs)
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            values_by_objective = zip(self.search.objectives, values, strict=True)
            reason = record.reason or ", ".join(f"{objective} is {value}" for objective, value in values_by_objective)
            trial.set_user_attr("reason", f"{record.outcome}: {reason}")
            self.study.tell(trial, state=TrialState.FAIL)

    def _add_earlier(self, record: TrialRecord) -> None:
        """Let the study know a record of an earlier sweep, as far as its configuration has a place in the space."""
        internal, values = warm_start.encode(self.space, record), self._values(record)
        if internal is None or not all(map(math.isfinite, values)):
            return
        distributions = self.space.distributions()
        if record.outcome is Outcome.COMPLETE:
            self.study.add_trial(create_trial(params=internal, distributions=distributions, values=values))
        elif record.outcome is Outcome.PRUNED and len(values) == 1:
            curve = {pruning.percent_done(self.search, record.epochs, _epochs(record)): values[0]}
            self.study.add_trial(
                create_trial(
                    state=TrialState.PRUNED, params=internal, distributions=distributions, intermediate_values=curve
                )
            )

    def _with_peers(self, rung: Rung, records: Iterable[TrialRecord]) -> Rung:
        values = []
        for record in records:
            # Every pack compares with all that ended before it: what it takes to know a method's epochs adds up.
            if record.number not in self._epochs:
                self._epochs[record.number] = _epochs(record)
            values.append(pruning.value_at(rung, record, self._epochs[record.number]))
        return rung.model_copy(update={"peers": tuple(value for value in values if value is not None)})

    def _values(self, record: TrialRecord) -> list[float]:
        return [record.mean(objective) for objective in self.search.objectives]


def _epochs(record: TrialRecord) -> int:
    """How many epochs the configuration of a record has in all; at least the one that its record is of."""
    return registry.build(record.config).epochs or max(record.epochs, 1)
