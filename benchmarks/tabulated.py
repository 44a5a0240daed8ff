"""The table of `table.py` for somebody who tries a sampler, an objective or a choice on it: nothing is trained.

frame = tabulated.load("gcscoop")
study = tabulated.study(frame, "world:3")            # every configuration as a finished Optuna trial
study = optuna.create_study(direction="maximize")
study.optimize(tabulated.objective(frame, "world:3"), n_trials=32)

python benchmarks/tabulated.py        # what each objective chooses from what is there
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from math import log, nan
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from common import print_table
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from table import PARTS, PROMPT, SPACES, ZERO_SHOT, Plan, parts

from gcsearch.config import search_space
from gcsearch.config.search_space import SearchSpace

SEARCH, FRESH = (1, 2, 3, 4, 5), (6, 7, 8, 9, 10)
LITERATURE = 0
OBJECTIVES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "base accuracy": lambda seen: seen["val_base_acc"],
    "base margin": lambda seen: seen["val_base_margin"],
    "base log-likelihood": lambda seen: seen["val_base_ll"],
    "beside other names, log-likelihood": lambda seen: seen["val_beside_ll"],
    "base accuracy + 0.5 transfer": lambda seen: seen["val_base_acc"] + 0.5 * seen["transfer_acc"],
}
"""What a search could maximise, from the means of `ends`."""


def load(method: str = "gcscoop", folder: Path = PARTS) -> pd.DataFrame:
    """All rows of a method's table, and `transfer_acc`: the mean over the other worlds."""
    frame = pd.concat([pd.read_parquet(path) for path in parts(folder / method)], ignore_index=True)
    carried = [key for key in frame if key.startswith("transfer_") and key.endswith("_acc")]
    return frame.assign(transfer_acc=frame[carried].mean(axis=1))


def space(method: str = "gcscoop") -> SearchSpace:
    """What the configurations were drawn from."""
    return search_space.load(SPACES / f"{method}.toml")


def ends(frame: pd.DataFrame, world: str, seeds: Sequence[int] = SEARCH) -> pd.DataFrame:
    """What the configurations came to on a world after their last epochs: means over the seeds, by number.

    One of which a seed diverged is left out, as it fails in a search.
    """
    rows = frame[(frame["world"] == world) & frame["seed"].isin(seeds) & (frame["number"] != ZERO_SHOT)]
    sound = ~rows["number"].isin(rows.loc[rows["diverged"], "number"])
    return rows[sound & rows["last"]].drop(columns=["world", "method", PROMPT]).groupby("number").mean()


# --- Optuna ---------------------------------------------------------------------------------------------


def study(frame: pd.DataFrame, world: str, value: str = "val_base_margin", method: str = "gcscoop") -> optuna.Study:
    """A study in which every configuration is a finished trial with its mean of `value`; see `objective`."""
    boxes, rows = space(method).distributions(), _Rows(frame, world, value, method)
    made = optuna.create_study(direction="maximize")
    for number, params in rows.params.items():
        trial = optuna.trial.create_trial(
            params=params, distributions=boxes, value=rows.values[number], user_attrs=rows.attributes(number)
        )
        made.add_trial(trial)
    return made


def objective(
    frame: pd.DataFrame, world: str, value: str = "val_base_margin", method: str = "gcscoop"
) -> Callable[[optuna.Trial], float]:
    """For `study.optimize`: a trial has the mean of `value`, over a search's seeds, of the tabulated one nearest to it.

    Near is what lies near in the boxes that Optuna sees, each of length 1 and by logarithm where it is drawn so;
    another choice is as far as the whole of a box. Attributes of the trial are the `number` of that configuration and
    its `test_h`, mean over the fresh seeds.
    """
    boxes, rows = space(method).distributions(), _Rows(frame, world, value, method)
    numbers = list(rows.params)
    places = np.array([_place(rows.params[number], boxes) for number in numbers])
    choices = [isinstance(box, CategoricalDistribution) for box in boxes.values()]

    def nearest(trial: optuna.Trial) -> float:
        apart = np.abs(places - _place({name: _suggest(trial, name, box) for name, box in boxes.items()}, boxes))
        apart[:, choices] = apart[:, choices] > 0
        number = numbers[int((apart**2).sum(1).argmin())]
        for key, one in rows.attributes(number).items():
            trial.set_user_attr(key, one)
        return rows.values[number]

    return nearest


class _Rows:
    """The configurations of a world as Optuna knows them, by number."""

    def __init__(self, frame: pd.DataFrame, world: str, value: str, method: str) -> None:
        known, configs = space(method), Plan(method).configs()
        self.values: dict[int, float] = ends(frame, world)[value].to_dict()
        self.params = {number: known.internal(configs[number].hyperparameters) for number in self.values}
        self._tested = ends(frame, world, FRESH)["test_h"]

    def attributes(self, number: int) -> dict[str, float]:
        return {"number": number, "test_h": float(self._tested.get(number, nan))}


def _place(params: Mapping[str, Any], boxes: Mapping[str, BaseDistribution]) -> list[float]:
    """Where it lies: each box from 0 to 1, choices by their index."""
    place = []
    for name, box in boxes.items():
        if isinstance(box, CategoricalDistribution):
            place.append(float(box.choices.index(params[name])))
        else:
            low, high, at = (log(one) if box.log else one for one in (box.low, box.high, params[name]))
            place.append((at - low) / (high - low))
    return place


def _suggest(trial: optuna.Trial, name: str, box: BaseDistribution) -> Any:
    if isinstance(box, CategoricalDistribution):
        return trial.suggest_categorical(name, box.choices)
    if isinstance(box, FloatDistribution):
        return trial.suggest_float(name, box.low, box.high, log=box.log)
    assert isinstance(box, IntDistribution)
    return trial.suggest_int(name, box.low, box.high, log=box.log)


# --- A first look ---------------------------------------------------------------------------------------


def look(frame: pd.DataFrame) -> None:
    """For each world the literature's test H, and what the choice of each objective among all gains over it."""
    rows = []
    for world in sorted(frame["world"].unique(), key=lambda name: int(name.removeprefix("world:"))):
        seen, tested = ends(frame, world), ends(frame, world, FRESH)["test_h"]
        zero = frame[(frame["world"] == world) & (frame["number"] == ZERO_SHOT)]["test_h"].iloc[0]
        gains = [tested[score(seen).idxmax()] - tested[LITERATURE] for score in OBJECTIVES.values()]
        oracle = tested[ends(frame, world)["test_h"].idxmax()] - tested[LITERATURE]
        rows.append((world, len(tested), zero, tested[LITERATURE], oracle, *gains))
    rows.append(("mean", "", *np.mean([row[2:] for row in rows], axis=0)))
    print_table(
        ["world", "configurations", "zero-shot", "literature", "test H of other seeds", *OBJECTIVES],
        [
            (name, count, *(f"{one:.1f}" for one in four[:2]), *(f"{one:+.2f}" for one in four[2:]))
            for name, count, *four in rows
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="gcscoop")
    look(load(parser.parse_args().method))


if __name__ == "__main__":
    main()
