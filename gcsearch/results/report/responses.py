"""The configurations that were tried, as points of a space: which hyperparameters vary, their axes, an Optuna study."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from gcsearch.config.base import Value
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.results.tables.table import Heading, Table
from gcsearch.results.tables.wording import OWN_FIRST, searched, value_text

logging.getLogger("optuna.storages").setLevel(logging.WARNING)

_LOGARITHMIC = frozenset({"rho", "lr", "weight_decay", "epochs", "batch_size", "n_ctx"})
_LINEAR = frozenset({"beta1", "beta2", "momentum"})
_WIDE = 10.0  # least ratio of the largest to the smallest number on an axis that is logarithmic by its numbers
_OFF = "off"

LEAST_IMPORTANCE = 10  # completed configurations
LEAST_SURFACE = 20  # configurations with numbers on both axes; fewer are shown as points alone
REACH = 1 / 8  # of an axis' length: farther than this from every configuration, a surface says nothing
_WIDTH = REACH / 2  # standard deviation of the weights of the average
_CELLS = 60  # of a surface along each axis


@dataclass(frozen=True)
class Axis:
    """Where values of a hyperparameter lie on a picture's axis.

    On a logarithmic axis 0 stands apart at the left end; "off" stands apart below the numbers (for beta1,
    every value <= 0 means the same).  `special` maps such places to their words.
    """

    name: str
    log: bool
    words: tuple[str, ...]
    low: float
    high: float
    special: Mapping[float, str]

    def place(self, value: Value) -> float | str:
        """The coordinate of `value`; for a categorical axis the word itself."""
        if self.words:
            return value_text(value)
        for place, text in self.special.items():
            if (text == _OFF and value == _OFF) or (text == "0" and value == 0):
                return place
        return float(value)

    def is_number(self, value: Value) -> bool:
        """Whether `value` lies among the numbers, not apart from them."""
        return not self.words and self.place(value) not in self.special

    def unit(self, value: Value) -> float:
        """Where a number lies between the axis' ends, 0 to 1."""
        ends = self.low, self.high, float(value)
        low, high, at = map(math.log, ends) if self.log else ends
        return (at - low) / (high - low)

    def natural(self, unit: float) -> float:
        """The number at `unit`, the inverse of that."""
        if self.log:
            return self.low ** (1 - unit) * self.high**unit
        return self.low + unit * (self.high - self.low)

    @property
    def distribution(self) -> BaseDistribution:
        """The same axis for Optuna."""
        if self.words:
            return CategoricalDistribution(self.words)
        return FloatDistribution(min([self.low, *self.special]), self.high, log=self.log)

    def ticks(self) -> dict[str, Any]:
        """Plotly's axis settings: words at the special places, round numbers elsewhere."""
        if self.words:
            return {"type": "category"}
        if not self.special and not self.log:
            return {"type": "linear"}
        regular = decades(self.low, self.high) if self.log else round_steps(self.low, self.high)
        places = [*self.special, *regular]
        texts = [*self.special.values(), *map(value_text, regular)]
        return {"type": "log" if self.log else "linear", "tickvals": places, "ticktext": texts}


def axis(name: str, values: Iterable[Value]) -> Axis:
    """The axis that holds all `values` of the hyperparameter `name`."""
    seen = set(values)
    numbers = sorted(float(v) for v in seen if isinstance(v, (int, float)) and not isinstance(v, bool))
    others = {value for value in seen if isinstance(value, (bool, str))} - {_OFF}
    if others or not numbers:
        return Axis(name, False, tuple(sorted(map(value_text, seen))), 0.0, 0.0, {})
    positive = [number for number in numbers if number > 0]
    log = bool(positive) and numbers[0] >= 0 and _OFF not in seen and _is_logarithmic(name, positive)
    low, high = (positive if log else numbers)[0], numbers[-1]
    special = {low / 2.5: "0"} if log and numbers[0] == 0 else {}
    if _OFF in seen:
        special = {low - 0.15 * max(high - low, 0.1): _OFF}
    return Axis(name, log, (), low, max(high, math.nextafter(low, math.inf)), special)


def _is_logarithmic(name: str, positive: Sequence[float]) -> bool:
    """Whether the numbers, in rising order, lie more evenly by their logarithm, where the name does not tell."""
    low, middle, high = positive[0], median(positive), positive[-1]
    if name in _LOGARITHMIC or name in _LINEAR or high < _WIDE * low:
        return name in _LOGARITHMIC
    by_logarithm = math.log(middle / low) / math.log(high / low)
    return abs(by_logarithm - 0.5) < abs((middle - low) / (high - low) - 0.5)


@dataclass(frozen=True)
class Responses:
    """The completed configurations as an Optuna study: trial i of the study is `records[i]`."""

    study: optuna.Study
    records: tuple[TrialRecord, ...]
    axes: Mapping[str, Axis]

    @cached_property
    def values(self) -> list[float]:
        """The objective of each configuration, mean over seeds."""
        return [trial.value for trial in self.study.get_trials(deepcopy=False)]

    def having(self, names: Sequence[str]) -> list[int]:
        """The indices of the configurations that have all these hyperparameters."""
        return [i for i, record in enumerate(self.records) if set(names) <= record.config.values.keys()]


def responses(records: Sequence[TrialRecord], objective: str) -> Responses:
    """Rebuild an Optuna study from the natural values of the completed records."""
    complete = tuple(r for r in records if r.outcome is Outcome.COMPLETE and math.isfinite(r.mean(objective)))
    names = searched(complete)
    axes = {name: axis(name, [r.config.values[name] for r in complete if name in r.config.values]) for name in names}
    study = optuna.create_study(direction="maximize")
    for record in complete:
        given = {name: axes[name] for name in names if name in record.config.values}
        study.add_trial(
            optuna.create_trial(
                params={name: one.place(record.config.values[name]) for name, one in given.items()},
                distributions={name: one.distribution for name, one in given.items()},
                value=record.mean(objective),
            )
        )
    return Responses(study, complete, axes)


def importances(tried: Responses) -> dict[str, float]:
    """Share of each searched hyperparameter in reaching the best tenth of configurations (PED-ANOVA), largest first."""
    if not tried.axes or len(set(tried.values)) < 2:
        return {}
    # Compared can be only what every configuration has: what one method has alone is in `method` with it.
    common = [name for name in tried.axes if all(name in record.config.values for record in tried.records)]
    if not common:
        return {}
    found = optuna.importance.get_param_importances(tried.study, params=common)
    return {name: share for name, share in found.items() if math.isfinite(share)}


def importance_table(tried: Responses) -> Table:
    """The shares of `importances` as the terminal shows them; a note where there are too few to tell."""
    shares = importances(tried) if len(tried.records) >= LEAST_IMPORTANCE else {}
    notes = [] if shares else ["Too few different configurations have completed to tell which hyperparameters matter."]
    headings = [Heading("hyperparameter", words=True), Heading("importance (PED-ANOVA)")]
    rows = [[name, f"{100 * share:.0f} %"] for name, share in shares.items()]
    return Table("", headings, rows, notes=notes)


def contour_pairs(tried: Responses) -> list[tuple[str, str]]:
    """The pairs worth a map: radius and bounds against one another; without bounds, the first three numbers."""
    numeric = [name for name, one in tried.axes.items() if not one.words]
    bounds = {"beta1", "beta2"} & set(numeric)
    chosen = [name for name in numeric if name in OWN_FIRST] if bounds and len(numeric) > 1 else numeric[:3]
    pairs = combinations(chosen if len(chosen) > 1 else numeric[:2], 2)
    return [(x, y) for x, y in pairs if sum({x, y} <= set(record.config.values) for record in tried.records) > 1]


class Surface(NamedTuple):
    """The objective over two hyperparameters in natural units; z[row][column] is NaN where nothing is known."""

    x: list[float]
    y: list[float]
    z: list[list[float]]


def surface(tried: Responses, pair: tuple[str, str]) -> Surface | None:
    """The average of the configurations near each place of the map; None where there are too few for one.

    z = sum(w_i v_i) / sum(w_i) with w_i = exp(-d_i^2 / 2 s^2), d_i the distance to configuration i with both axes
    scaled to 0..1 (by the logarithm on a logarithmic axis) and s half of `REACH`; NaN where the nearest configuration
    is farther than `REACH`.  Configurations at a place that stands apart ("off", 0 on a logarithmic axis) take no part;
    `LEAST_SURFACE` others are needed, of two values or more on either axis.
    """
    across, up = (tried.axes[name] for name in pair)
    given = zip((record.config.values for record in tried.records), tried.values, strict=True)
    known = [
        (values[pair[0]], values[pair[1]], objective)
        for values, objective in given
        if all(name in values and tried.axes[name].is_number(values[name]) for name in pair)
    ]
    if len(known) < LEAST_SURFACE or any(len({row[side] for row in known}) < 2 for side in (0, 1)):
        return None
    cells = np.linspace(0, 1, _CELLS + 1)
    dx = cells[:, None] - np.array([across.unit(row[0]) for row in known])  # [columns, configurations]
    dy = cells[:, None] - np.array([up.unit(row[1]) for row in known])  # [rows, configurations]
    wx, wy = (np.exp(-(d**2) / (2 * _WIDTH**2)) for d in (dx, dy))
    nearest = np.stack([(row**2 + dx**2).min(axis=1) for row in dy])
    with np.errstate(invalid="ignore"):  # 0 / 0 far from every configuration
        average = (wy * [row[2] for row in known]) @ wx.T / (wy @ wx.T)
    z = np.where(nearest <= REACH**2, average, math.nan)
    return Surface([across.natural(u) for u in cells], [up.natural(u) for u in cells], z.tolist())


def decades(low: float, high: float) -> list[float]:
    """1, 10, 100, ... between two numbers; with 2 and 5 where those are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) >= 3:
            return found
    return found or [low]


def round_steps(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    raw = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw)
    return [round(index * step, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def thinned(total: int, most: int) -> set[int]:
    """Places in a ranking: all, or a third of `most` from the front and the others at even distances."""
    if total <= most:
        return set(range(total))
    first = most // 3
    return set(range(first)) | {round(place) for place in np.linspace(first, total - 1, most - first)}


def left_out(total: int, most: int) -> str:
    """What a caption says of a picture that is `thinned`."""
    first = most // 3
    return f"Drawn are {most} of {total} configurations: the best {first}, others at even distances of rank."
