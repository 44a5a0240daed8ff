"""The confirm stage: the shortlist measured again with fresh seeds, the choice, and the test images.

    recheck   the best `confirm.top` configurations of the search, trained and measured as in the search, but with the
              seeds of the confirmation, which no choice has looked at yet
    choose    the simplest within one standard error of the best of those: the champion
    test      references, shortlist and champion, trained on all base classes and measured on test images

The choice is made before any test image is looked at.  Where the objective itself reads test images (it is then
called an oracle everywhere) there is nothing left to keep apart, and the recheck is the test.

Every measurement is journalled by its seeds, so seeds can be added later: what was measured stays.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from gcsearch.config.metrics import Stage
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import CHAMPION, SHORTLISTED, Outcome, Proposal, Role, TrialRecord
from gcsearch.driver.checks import references
from gcsearch.execution.executor import Wave
from gcsearch.methods import registry
from gcsearch.results import ranking
from gcsearch.results.differences import pooled
from gcsearch.sweep.journal import Journal, RecordEvent, TrialConfirmed, TrialRechecked
from gcsearch.sweep.sweep import Sweep

OnStage = Callable[[str, int], None]
OnRecord = Callable[[TrialRecord], None]

MakeWave = Callable[[Stage, tuple[int, ...], Sequence[Proposal], OnRecord], Wave]
"""The wave that trains each trial by itself with seeds in a stage, and hands every record on as it ends."""


@dataclass(frozen=True)
class Confirmation:
    """The confirm stage of one sweep.

    Args of the constructor:
        journal: the sweep's, held by its driver. wave: makes what is run.
        on_stage: told of "recheck" and "confirm" with the number of configurations.
        on_record: told of every record, also of those that an earlier session came to.
    """

    sweep: Sweep
    journal: Journal
    pipeline: Pipeline
    space: SearchSpace
    wave: MakeWave
    on_stage: OnStage
    on_record: OnRecord

    def run(self) -> Generator[Wave, None, tuple[list[TrialRecord], TrialRecord]]:
        """The waves of all that is missing; each has run to its end before the next is asked for.

        Returns the confirmed trials, the champion last, and its record of the search.

        RunError where no configuration of the search, or none of the shortlist, has the objective.
        """
        short = ranking.shortlist(self.sweep.ranking, self.pipeline.confirm.top)
        champion = yield from self._choose(short)
        configurations = self._configurations(short, champion)
        self.on_stage("confirm", len(configurations) * len(self.sweep.confirmed_seeds))
        done = yield from self._measured(TrialConfirmed, "test", [proposal for proposal, _, _ in configurations])
        finals = [
            one.model_copy(update={"label": label, "role": role})
            for one, (_, label, role) in zip(done, configurations, strict=True)
        ]
        return finals, champion

    def _choose(self, short: Sequence[TrialRecord]) -> Generator[Wave, None, TrialRecord]:
        if len(short) == 1:
            return short[0]
        search = self.pipeline.search
        self.on_stage("recheck", len(short) * len(self.sweep.confirmed_seeds))
        kind = TrialConfirmed if search.oracle else TrialRechecked
        again = yield from self._measured(kind, search.stage, [_proposal(record) for record in short])
        chosen = ranking.one_standard_error(again, search.ranking_metric)
        return next(record for record in short if record.number == chosen.number)

    def _configurations(self, short: Sequence[TrialRecord], champion: TrialRecord) -> list[tuple[Proposal, str, Role]]:
        """References, numbered -1, -2, ... because they are no trials of the search; the shortlist; the champion."""
        named = [
            (Proposal(number=-1 - index, config=config), title, Role.REFERENCE)
            for index, (config, title) in enumerate(references(self.pipeline, self.space))
        ]
        others = [
            (_proposal(record), f"{SHORTLISTED} t{record.number:04d}", Role.SHORTLISTED)
            for record in short
            if record is not champion
        ]
        return [*named, *others, (_proposal(champion), CHAMPION, Role.CHAMPION)]

    def _measured(
        self, kind: type[RecordEvent], stage: Stage, proposals: Sequence[Proposal]
    ) -> Generator[Wave, None, list[TrialRecord]]:
        """A record per proposal with the seeds of all batches; what the journal has is not run again.

        Numbers that an earlier session came to may be of another shortlist: the configuration tells them apart.
        """
        parts: dict[int, list[TrialRecord]] = {proposal.number: [] for proposal in proposals}
        known = [record for record in self.journal.records(kind) if record.outcome is not Outcome.FAILED]
        for seeds in self.sweep.confirmed_seeds:
            done = {(r.number, r.config.digest): r for r in known if r.seeds == seeds}
            missing = [p for p in proposals if (p.number, p.config.digest) not in done]
            for proposal in proposals:
                if proposal not in missing:
                    self.on_record(done[proposal.number, proposal.config.digest])

            def keep(record: TrialRecord, done: dict[tuple[int, str], TrialRecord] = done) -> None:
                self.journal.append(kind.word(), record=record)
                done[record.number, record.config.digest] = record
                self.on_record(record)

            yield self.wave(stage, seeds, missing, keep)
            for proposal in proposals:
                parts[proposal.number].append(done[proposal.number, proposal.config.digest])
        return [together(parts[proposal.number]) for proposal in proposals]


def _proposal(record: TrialRecord) -> Proposal:
    return Proposal(number=record.number, config=registry.complete(record.config))


def together(parts: Sequence[TrialRecord]) -> TrialRecord:
    """The batches of one configuration as one record; the first that did not end well stands for all."""
    broken = next((part for part in parts if part.outcome is not Outcome.COMPLETE), None)
    return broken or pooled(parts)
