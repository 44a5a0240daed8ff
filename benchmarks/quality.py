"""Benchmark (g): how good is the best configuration after so much training: TPE with and without halving, and random.

    python benchmarks/quality.py                    # 10 repeats, table and picture
    python benchmarks/quality.py --quick

Searches in curves that benchmarks/curves.py measured once on the embedded world, so that repeats cost nothing: a
proposed configuration has the curves of the measured ones, each stretched over its own epochs, weighted by one over the
fourth power of its distance in the boxes of the space. At a measured configuration that is its own curve; nowhere is it
better than the best of them.
Who proposes and who leaves is the real thing: `gcsearch.search.proposer` and `gcsearch.search.pruning`.

Cost is counted in epochs trained, in units of one configuration of mean length. The best is that of the configurations
that ran to their ends, which is what a sweep can choose from.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import quantiles
from typing import Any

from common import print_table
from curves import OBJECTIVE, TABLE

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import SearchSpace, load
from gcsearch.config.trials import EpochReport, Outcome, Proposal, TrialRecord
from gcsearch.search import pruning
from gcsearch.search.proposer import Proposer

PICTURE = Path(__file__).parent / "results" / "quality.svg"
BUDGETS = (24, 32, 48, 64)
POWER = 4
ARMS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "TPE": {"sampler": "tpe"},
    "random, halving from 3/8": {"sampler": "random", "pruner": "halving", "first_rung": 0.375},
    "TPE, halving": {"sampler": "tpe", "pruner": "halving"},
    "TPE, halving from 3/8": {"sampler": "tpe", "pruner": "halving", "first_rung": 0.375},
}


class Curves:
    """The measured curves, as a pack that is trained."""

    def __init__(self, rows: Sequence[dict], space: SearchSpace) -> None:
        self.space = space
        self.encoded = space.distributions()
        self.rows = [row for row in rows if row["curve"]]
        # By way of the settings: what beta1's fraction was does not matter where beta1 is off.
        self.places = [self.scaled(space.internal(space.natural(row["place"]))) for row in self.rows]
        self.mean_epochs = sum(len(row["curve"]) for row in self.rows) / len(self.rows)

    def scaled(self, place: dict) -> list[float]:
        """A place with every box as 0..1."""
        scaled = []
        for name, box in self.encoded.items():
            if hasattr(box, "choices"):
                scaled.append(float(box.choices.index(place[name])))
                continue
            low, high, value = (math.log(x) if box.log else float(x) for x in (box.low, box.high, place[name]))
            scaled.append((value - low) / (high - low))
        return scaled

    def value(self, proposal: Proposal, share: float) -> float:
        """The objective of a configuration at a share of its schedule."""
        at = self.scaled(self.space.internal(proposal.config.hyperparameters))
        weights = [1 / (math.dist(at, place) ** POWER + 1e-12) for place in self.places]
        values = [row["curve"][max(1, math.ceil(share * len(row["curve"]) - 1e-9)) - 1] for row in self.rows]
        return sum(map(operator.mul, weights, values)) / sum(weights)

    def train(self, pack: Sequence[Proposal]) -> list[TrialRecord]:
        """The records of a pack, with its rungs."""
        left: dict[int, int] = {}
        curves: dict[int, list[EpochReport]] = {proposal.number: [] for proposal in pack}
        for rung in pruning.agreed(pack):
            values = {p.number: self.value(p, rung.share) for p in pack if p.number not in left}
            for proposal in pack:
                if proposal.number in values:
                    at = pruning.epoch_of(rung, epochs(proposal))
                    curves[proposal.number].append(_report(proposal, at, values[proposal.number]))
            stay = pruning.survives(rung, values)
            left |= {number: curves[number][-1].epoch for number in values.keys() - stay}
        return [self.record(proposal, left.get(proposal.number), curves[proposal.number]) for proposal in pack]

    def record(self, proposal: Proposal, left: int | None, curve: Sequence[EpochReport]) -> TrialRecord:
        ran, whole = left or epochs(proposal), epochs(proposal)
        curve = curve if left else [*curve, _report(proposal, whole, self.value(proposal, 1.0))]
        return TrialRecord(
            number=proposal.number, config=proposal.config, stage="search", seeds=(1,), epochs=ran,
            outcome=Outcome.PRUNED if ran < whole else Outcome.COMPLETE,
            metrics=curve[-1].metrics, curve=tuple(curve),
        )  # fmt: skip


def epochs(proposal: Proposal) -> int:
    return int(proposal.config.hyperparameters["epochs"])


def _report(proposal: Proposal, epoch: int, value: float) -> EpochReport:
    return EpochReport(number=proposal.number, epoch=epoch, metrics={OBJECTIVE: (value,)})


def search(curves: Curves, arm: dict[str, Any], seed: int, most: float) -> list[tuple[float, float]]:
    """Cost and best after each pack, until the cost is `most`."""
    settings = SearchConfig(objective=OBJECTIVE, trials=2000, seed=seed, pack=16, generation=1, eta=4, rungs=2, **arm)
    proposer = Proposer(curves.space.model_copy(update={"points": ()}), settings)
    cost, best, path = 0.0, -math.inf, []
    while cost < most:
        (pack,) = proposer.ask()
        records = curves.train(pack)
        for record in records:
            proposer.tell(record)
            # Within a pack all train at once: what it costs is paid when it ends.
            cost += record.epochs / curves.mean_epochs
        best = max(best, *(r.mean(OBJECTIVE) for r in records if r.outcome is Outcome.COMPLETE))
        path.append((cost, best))
    return path


def best_at(path: Sequence[tuple[float, float]], budget: float) -> float:
    """The best that a search had when it had cost no more than `budget`; NaN before its first pack."""
    return max((best for cost, best in path if cost <= budget), default=math.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats, small budgets, no picture")
    parser.add_argument("--threads", type=int, default=1, help="ignored: this uses one")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds, one per repeat")
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()
    repeats, budgets = (2, BUDGETS[:3]) if args.quick else (args.repeats, BUDGETS)
    rows = json.loads(args.table.read_text())
    curves = Curves(rows, load("gcscoop"))
    print(f"{len(rows)} measured configurations, {repeats} repeats; best {OBJECTIVE}: median (quartiles)")
    with ProcessPoolExecutor(args.processes) as pool:
        waiting = {
            name: [pool.submit(search, curves, arm, args.first + k, budgets[-1] + 16) for k in range(repeats)]
            for name, arm in ARMS.items()
        }
        paths = {name: [one.result() for one in found] for name, found in waiting.items()}
    table = {
        name: [quartiles([best_at(path, budget) for path in found]) for budget in budgets]
        for name, found in paths.items()
    }
    print_table(
        ["cost, configurations of mean length", *map(str, budgets)],
        [(name, *(f"{m:.2f} ({low:.2f}, {high:.2f})" for low, m, high in row)) for name, row in table.items()],
    )
    if not args.quick and not args.first:
        draw(table, budgets)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if any(math.isnan(value) for value in values):
        return (math.nan,) * 3
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


COLOURS = ("#999999", "#4477aa", "#ccbb44", "#cc3311", "#228833")


def draw(table: dict[str, list[tuple[float, float, float]]], budgets: Sequence[int]) -> None:
    """The medians with their quartiles as bands, as an SVG file."""
    seen = [value for row in table.values() for point in row for value in point if not math.isnan(value)]
    step = 10 ** math.floor(math.log10(max(seen) - min(seen)))
    low, high = min(seen) - step / 5, max(seen) + step / 5

    def at(budget: float, value: float) -> str:
        x = 60 + 520 * math.log(budget / budgets[0]) / math.log(budgets[-1] / budgets[0])
        return f"{x:.1f},{320 - 290 * (value - low) / (high - low):.1f}"

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 370" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="780" height="370" fill="white"/>')
    for mark in range(math.ceil(low / step), math.floor(high / step) + 1):
        place = at(budgets[0], mark * step).split(",")[1]
        parts.append(f'<path d="M60 {place}H580" stroke="#dddddd"/><text x="20" y="{place}">{mark * step:.4g}</text>')
    parts += [
        f'<text x="{at(budget, low).split(",")[0]}" y="340" text-anchor="middle">{budget}</text>' for budget in budgets
    ]
    parts.append('<text x="320" y="362" text-anchor="middle">cost, in configurations of mean length</text>')
    parts.append(f'<text x="60" y="18">best {OBJECTIVE}, median and quartiles</text>')
    for index, ((name, row), colour) in enumerate(zip(table.items(), COLOURS, strict=True)):
        points = [(b, *q) for b, q in zip(budgets, row, strict=True) if not math.isnan(q[1])]
        band = [at(b, h) for b, _, _, h in points] + [at(b, q) for b, q, _, _ in reversed(points)]
        parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.12"/>')
        line = " ".join(at(b, m) for b, _, m, _ in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="600" y="{40 + 20 * index}" fill="{colour}">{name}</text>')
    PICTURE.write_text("\n".join([*parts, "</svg>\n"]))


if __name__ == "__main__":
    main()
