"""What to try next: an Optuna study that is asked and told in one fixed order.

Trials are proposed in *generations* of *packs*; a pack is trained at once, in one process.  All packs of a generation
are asked for from the same knowledge, and only when every trial of it has its record are the results told, in order of
trial number.  So what is proposed depends on the seed and on the results alone, never on timing or on the number of
workers.

A search goes on by replay: the same questions are asked again, and a trial that has a record is not run again.  With
thousands of trials that takes many minutes: so `Proposer.state` is kept now and then, what had been told by then is
added to the study as it is, and only what came after is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import optuna
from optuna.trial import TrialState

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, Proposal, Rung, StudyState, TrialRecord
from gcsearch.errors import RunError
from gcsearch.methods import registry
from gcsearch.search import pruning, study_state, warm_start
from gcsearch.search.samplers import grid, make, total
from gcsearch.search.study_state import KnownStates, Memory, Told

KEEP_EVERY = 16
"""A state is kept after so many trials: to ask for these again takes seconds, and a state has some kilobytes."""


@dataclass(frozen=True)
class _Past:
    """What earlier sessions wrote of a generation before any trial of a later one had a record.

    `built_upon`: whether one has. Then these records are history, also a FAILED one.
    """

    records: Mapping[int, TrialRecord]
    built_upon: bool

    def settles(self, numbers: range) -> bool:
        """Whether nothing of the generation must run before the next one is asked for."""
        known = [self.records.get(number) for number in numbers]
        return all(one and (self.built_upon or one.outcome is not Outcome.FAILED) for one in known)


class Proposer:
    """An Optuna study in memory with the order of questions and answers that makes a search repeat exactly.

        proposer = Proposer(space, search)
        while packs := proposer.ask():
            for pack in packs:
                for record in train(pack):
                    proposer.tell(record)

    Args:
        space: what is searched. Its points come first; without anything to search there is one trial.
        search: exactly `samplers.total` trials are proposed; the last generation and its last pack may be smaller.
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
        self._fixed = [space.internal(point.values) for point in space.points]
        if search.sampler == "grid":
            self._fixed += grid(search, space)
        self._earlier = len(self.study.get_trials(deepcopy=False))
        self._memory = study_state.memory(search.sampler, self.study) if space.searched else None
        self._state: StudyState | None = None
        self._kept = 0  # so many trials are in states that were given out
        self._past: list[_Past] = []  # by generation
        self._latest: Mapping[int, TrialRecord] = {}  # of `_past`, also of what was run again
        self._asked: list[Proposal] = []
        self._running: list[optuna.Trial] = []  # the last of `_asked`, of which the study was not told yet
        self._answered: list[TrialRecord] = []  # what the study was told of each of `_asked`, in order of number
        self._answers: dict[int, TrialRecord] = {}  # what history says to tell, where a trial was run again later
        self._records: dict[int, TrialRecord] = {}
        self._at_rungs: dict[float, tuple[list[float], int]] = {}  # values by share, and of how many of `_answered`
        self._again: list[Proposal] = []  # failed trials that others were proposed from

    @property
    def records(self) -> list[TrialRecord]:
        """The records so far, those that were replayed included, by number."""
        return [self._records[number] for number in sorted(self._records)]

    def replay(self, records: Iterable[TrialRecord], states: Iterable[StudyState] = ()) -> None:
        """Know what earlier sessions came to, in the order in which it was written. Before the first `ask`.

        A trial that has a record is not run again, unless it FAILED. `states` are those that `state` gave, and spare
        to ask for most trials again; without them nothing else is proposed.
        """
        records = tuple(records)
        self._latest = {record.number: record for record in records}
        self._past = list(self._by_generation(records))
        if self._memory:
            self._restore(self._memory, states)

    def state(self) -> StudyState | None:
        """What the study knew before the generation that was asked for last; None where hardly more was told since the
        last one.

        Once the search is over, all that it knows.
        """
        state, self._state = self._state, None
        self._kept = state.told if state else self._kept
        return state

    def ask(self) -> list[list[Proposal]]:
        """The packs that run next; none once the search is over. Every trial asked for before must have been told.

        RunError where a replayed record is of another configuration than the one proposed under its number.
        """
        packs: list[list[Proposal]] = []
        while not packs:
            self._tell_generation()
            self._note_state()
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
        points = self.space.points
        return points[number].label if number < len(points) else ""

    def _by_generation(self, records: Sequence[TrialRecord]) -> Iterator[_Past]:
        """What was known of each generation that has a record when it was built upon, or is known now."""
        then: list[dict[int, TrialRecord]] = []
        for record in records:
            generation = record.number // self._together
            then += [{} for _ in range(len(then), generation + 1)]
            if generation == len(then) - 1:
                then[generation][record.number] = record
        for generation, known in enumerate(then):
            yield _Past(known, built_upon=generation < len(then) - 1)

    def _past_of(self, numbers: range) -> _Past:
        """What earlier sessions wrote of this generation."""
        generation = numbers.start // self._together
        return self._past[generation] if generation < len(self._past) else _Past({}, built_upon=False)

    @property
    def _together(self) -> int:
        """Trials of a generation."""
        return self.search.size * self.search.generation

    def _generation(self, first: int) -> range:
        """The numbers of the generation that begins with this one."""
        return range(first, min(first + self._together, self.total))

    def _restore(self, memory: Memory, states: Iterable[StudyState]) -> None:
        """Add to the study what needs no asking: the trials up to the last state between two generations of now."""
        distributions = self.space.distributions()
        known = KnownStates(state for state in states if memory.fits(state, distributions))
        settled = {0}
        for past in self._past:
            numbers = self._generation(max(settled))
            if not past.settles(numbers):
                break
            settled.add(numbers.stop)
        state = known.last(settled)
        if not state:
            return
        for number in range(state.told):
            self._settle(self._proposal(number, known.params[number]), self._past[number // self._together])
            self._answered.append(self._answer(number))
        known.restore(self.study, memory, state, list(map(self._told, self._answered)), distributions)
        self._kept = state.told

    def _note_state(self) -> None:
        """Take down the study, in which nothing runs now, where enough was told since the last time.

        Not on the way through what is known: then the next generation is told at once, too.
        """
        told, following = len(self._answered), self._generation(len(self._answered))
        if not self._memory or (following and self._past_of(following).settles(following)):
            return
        if told - self._kept >= (KEEP_EVERY if following else 1):
            trials = self.study.get_trials(deepcopy=False)[self._earlier :]
            self._state = study_state.take(self.study, self._memory, trials, self._kept)

    def _ask_generation(self) -> list[list[Proposal]]:
        """Ask for all trials of the next generation; the packs of those that no record answers.

        Only what is missing runs: a pack that an earlier session left half recorded, or that ended where
        there were fewer trials to do, is not repeated as a whole.
        """
        numbers = self._generation(len(self._asked))
        proposals = list(map(self._ask, numbers))
        past = self._past_of(numbers)
        missing = [proposal for proposal in proposals if not self._settle(proposal, past)]
        packs = []
        for start in numbers[:: self.search.size]:
            pack = range(start, start + self.search.size)
            packs += self._packs([proposal for proposal in missing if proposal.number in pack])
        return packs

    def _ask(self, number: int) -> Proposal:
        if number < len(self._fixed):
            self.study.enqueue_trial(self._fixed[number])
        # Every distribution is asked for in every trial: TPE's joint model keeps only dimensions that all trials have.
        trial = self.study.ask(fixed_distributions=self.space.distributions())
        self._running.append(trial)
        return self._proposal(number, trial.params)

    def _proposal(self, number: int, params: Mapping[str, Any]) -> Proposal:
        """The trial as it is run, from Optuna's values."""
        points = self.space.points
        values = points[number].values if number < len(points) else self.space.natural(params)
        return Proposal(number=number, config=self.space.config(values))

    def _settle(self, proposal: Proposal, past: _Past) -> bool:
        """Whether the trial need not run before the next generation; what answers it is noted.

        Once later trials have records, this generation's answers are history: also a FAILED one, for the
        later ones were proposed knowing that. It is run again, but the study is not told the new result, or
        it would now propose other trials than those that have been run since.
        """
        number = proposal.number
        self._asked.append(proposal)
        latest, answer = self._latest.get(number), past.records.get(number)
        self._check_same(proposal, latest)
        if past.built_upon and not answer:
            self._refuse(f"configurations after number {number} have records, but it has none")
        if not latest or not answer or (answer.outcome is Outcome.FAILED and not past.built_upon):
            return False
        self._answers[number] = answer
        self.tell(latest)
        if latest.outcome is Outcome.FAILED:
            self._again.append(proposal)
        return True

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
        rungs = []
        for rung in pruning.rungs(self.search, first // self.search.size):
            earlier = self._told_at(rung) if self.search.pruner in pruning.ACROSS else ()
            rungs.append(rung.model_copy(update={"peers": (*earlier, *_values_at(rung, peers))}))
        return [proposal.model_copy(update={"rungs": tuple(rungs)}) for proposal in pack]

    def _tell_generation(self) -> None:
        """Tell the study what has become of every trial asked for, in order of number."""
        for trial in self._running:
            record = self._answer(len(self._answered))
            told = self._told(record)
            for step, value in told.curve.items():
                trial.report(value, step)
            for name, value in told.attributes.items():
                trial.set_user_attr(name, value)
            self.study.tell(trial, told.values if told.state is TrialState.COMPLETE else None, told.state)
            self._answered.append(record)
        self._running.clear()

    def _answer(self, number: int) -> TrialRecord:
        """The record that the study is told of a trial."""
        return self._answers.get(number) or self._records[number]

    def _told(self, record: TrialRecord) -> Told:
        """COMPLETE with the objectives' means over seeds, PRUNED with the last value; all else is FAIL."""
        values = [record.mean(objective) for objective in self.search.objectives]
        finite = all(map(math.isfinite, values))
        if record.outcome is Outcome.COMPLETE and finite:
            return Told(TrialState.COMPLETE, values)
        if record.outcome is Outcome.PRUNED and finite and len(values) == 1:  # by several objectives none leaves early
            # Told as complete, a value of few epochs would pose as a final one.  TPE ranks those that left by how
            # far they came: of their own schedules, or a long one that left early would outrank a short one that
            # left late.
            step = pruning.percent_done(self.search, record.epochs, _epochs(record))
            return Told(TrialState.PRUNED, values, {step: values[0]}, {"epochs": record.epochs})
        named = zip(self.search.objectives, values, strict=True)
        reason = record.reason or ", ".join(f"{objective} is {value}" for objective, value in named)
        return Told(TrialState.FAIL, attributes={"reason": f"{record.outcome}: {reason}"})

    def _add_earlier(self, record: TrialRecord) -> None:
        """Let the study know a record of an earlier sweep, as far as its configuration has a place in the space."""
        internal = warm_start.encode(self.space, record)
        if internal is not None and (told := self._told(record)).state is not TrialState.FAIL:
            self.study.add_trial(study_state.added(told, internal, self.space.distributions()))

    def _told_at(self, rung: Rung) -> list[float]:
        """What all trials that the study was told of had at a rung: every pack asks, each trial is looked at once."""
        values, seen = self._at_rungs.get(rung.share, ([], 0))
        values += _values_at(rung, self._answered[seen:])
        self._at_rungs[rung.share] = values, len(self._answered)
        return values


def _values_at(rung: Rung, records: Iterable[TrialRecord]) -> list[float]:
    """What those of `records` had at a rung that came there."""
    values = (pruning.value_at(rung, record, _epochs(record)) for record in records)
    return [value for value in values if value is not None]


def _epochs(record: TrialRecord) -> int:
    """How many epochs the configuration of a record has in all; at least the one that its record is of."""
    return registry.build(record.config).epochs or max(record.epochs, 1)
