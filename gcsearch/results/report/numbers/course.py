"""How many trials were alive at each rung, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.errors import InputError
from gcsearch.methods import registry
from gcsearch.search import pruning


class AtRung(NamedTuple):
    """How many trials came to a share of their own epochs, and what became of them there."""

    share: float
    arrived: int
    pruned: int

    @property
    def went_on(self) -> int:
        return self.arrived - self.pruned


def survival(records: Sequence[TrialRecord], search: SearchConfig) -> list[AtRung]:
    """The start, each rung, and the end; empty where no rung was set.

    A trial that diverged or failed on the way comes to no later rung. With hyperband some packs have fewer rungs than
    others, and pass the others' without a loss.
    """
    shares = pruning.rungs(search, 0)
    if not shares:
        return []
    known = [(record, epochs) for record in records if (epochs := own_epochs(record))]
    found = [AtRung(0.0, len(known), 0)]
    for rung in shares:
        arrived = [(one, epochs) for one, epochs in known if one.epochs >= pruning.epoch_of(rung, epochs)]
        pruned = [
            one
            for one, epochs in arrived
            if one.outcome is Outcome.PRUNED and one.epochs == pruning.epoch_of(rung, epochs)
        ]
        found.append(AtRung(rung.share, len(arrived), len(pruned)))
    ended = sum(record.outcome is Outcome.COMPLETE for record, _ in known)
    return [*found, AtRung(1.0, ended, 0)]


def own_epochs(record: TrialRecord) -> int:
    """How many epochs the configuration would train; 0 of one that trains nothing, or that no method knows."""
    try:
        return int(registry.complete(record.config).hyperparameters.get("epochs", 0))
    except InputError:
        return 0


STAGES = {
    "start": "start, and waiting for the first trial",
    "search": "search",
    "recheck": "shortlist measured again",
    "confirmation": "test images",
    "report": "report and end",
}
"""What a sweep's time goes to, by the keys of `SweepState.stage_seconds`, in order."""


class TimeSpent(NamedTuple):
    """Seconds of a stage on the clock."""

    stage: str
    seconds: float


def time_spent(seconds: Mapping[str, float]) -> list[TimeSpent]:
    """The stages that took time, in their order."""
    return [TimeSpent(words, seconds[key]) for key, words in STAGES.items() if seconds.get(key, 0.0) > 0]
