"""Which configurations of a pack go on: rungs on the way, and who stays there. Pure functions.

A *rung* lies at a share of a configuration's own epochs, not at a number of them.  The learning rate falls over a
configuration's own schedule, so configurations compare at equal shares: at equal epochs a short schedule is nearly
over, and looks better than it is beside a long one that still takes large steps.  Configurations that come to a rung
wait there for the others of their pack; only the better part goes on.

    halving     R rungs from the share `first_rung` on, by default eta^-R, at even ratios; at each stays 1/eta
                of those of the pack that came there
    hyperband   the same, with fewer rungs from pack to pack: R, R-1, ..., 0, and R again
    asha        as halving, and the configurations of earlier generations that came to a rung count there too
    median      R rungs at even distances; stays who is not below the median of those that came there
                and of the configurations of earlier generations that did

A pack needs no word from any other while it runs: what must be known of earlier generations goes with it.
So the decisions are those of the seed and the results, and a sweep that goes on decides as it did before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.trials import Outcome, Proposal, Rung, TrialRecord

ACROSS = ("asha", "median")
"""The pruners that look at earlier generations."""


def rungs(search: SearchConfig, pack: int) -> tuple[Rung, ...]:
    """The rungs of the pack with this index (its first number divided by the size of packs), peers left open."""
    count, eta, metric = search.rungs, search.eta, search.ranking_metric
    if search.pruner == "none":
        return ()
    if search.pruner == "median":
        return tuple(Rung(share=(k + 1) / (count + 1), keep=0.5, metric=metric) for k in range(count))
    first = eta**-count if search.first_rung is None else search.first_rung
    shares = [first ** (1 - k / count) for k in range(count)]
    if search.pruner == "hyperband":
        shares = shares[pack % (count + 1) :]
    return tuple(Rung(share=share, keep=1 / eta, metric=metric) for share in shares)


def finishing(search: SearchConfig) -> float:
    """The share of configurations that is left to train to its end; 1 where none has to leave."""
    packs = search.rungs + 1 if search.pruner == "hyperband" else 1
    kept = [math.prod(rung.keep for rung in rungs(search, pack)) for pack in range(packs)]
    return sum(kept) / packs


def trained(search: SearchConfig) -> float:
    """The share of their epochs that configurations train on average; 1 where none has to leave."""
    packs = search.rungs + 1 if search.pruner == "hyperband" else 1
    return sum(trained_by(1.0, rungs(search, pack)) for pack in range(packs)) / packs


def trained_by(share: float, rungs: Sequence[Rung]) -> float:
    """The share of their epochs that configurations have trained on average when the first have come to `share`."""
    left, at, total = 1.0, 0.0, 0.0
    for rung in rungs:
        if rung.share >= share:
            break
        total += left * (rung.share - at)
        left, at = left * rung.keep, rung.share
    return total + left * (share - at)


def epoch_of(rung: Rung, epochs: int) -> int:
    """The epoch after which a configuration of so many `epochs` stands at a rung."""
    return max(1, math.ceil(rung.share * epochs - 1e-9))


def percent_done(search: SearchConfig, ran: int, epochs: int) -> int:
    """How far a configuration came that ran so many of its `epochs`: the percentage that its last rung lies at.

    The rung's, because epochs are whole: 3 of 10 and 13 of 50 both stand for a quarter.
    """
    shares = [rung.share for rung in rungs(search, 0) if epoch_of(rung, epochs) <= ran]
    return round(100 * (shares[-1] if shares else ran / epochs))


def value_at(rung: Rung, record: TrialRecord, epochs: int) -> float | None:
    """What a configuration of so many `epochs` had at a rung; None where it never came there.

    One that diverged or failed did not, wherever that happened: it has nothing to say about others.
    """
    at = epoch_of(rung, epochs)
    values = [report.mean(rung.metric) for report in record.curve if report.epoch == at]
    ended_well = record.outcome in (Outcome.COMPLETE, Outcome.PRUNED)
    return values[0] if ended_well and values and math.isfinite(values[0]) else None


def survives(rung: Rung, values: Mapping[int, float]) -> set[int]:
    """Those of `values` (by place in the pack) that go on from a rung.

    Of all that ever came there, ceil(keep * count) may stay: as many as are better decide against a configuration;
    of equals in the pack the earlier one is better. A value that is not a number is below all others.
    """
    count = len(values) + len(rung.peers)
    places = math.ceil(rung.keep * count - 1e-9)
    worth = {place: value if math.isfinite(value) else -math.inf for place, value in values.items()}

    def better(place: int) -> int:
        own = sum((-other, at) < (-worth[place], place) for at, other in worth.items())
        return own + sum(peer > worth[place] for peer in rung.peers)

    return {place for place in worth if better(place) < places}


def agreed(proposals: Sequence[Proposal]) -> tuple[Rung, ...]:
    """The rungs of a pack: those of its configurations, which all have the same."""
    return proposals[0].rungs if proposals else ()
