"""Benchmark (i): which objective, seen on base classes alone, chooses the configuration that is best on the test
images?

    python benchmarks/proxy.py collect --out FOLDER     # trains every configuration in every variant: an hour,
    resumable python benchmarks/proxy.py judge --out FOLDER       # table and picture, a minute
    python benchmarks/proxy.py --quick

`collect` trains 60 configurations of `search_spaces/gcscoop.toml`, the literature's and 59 drawn at random with seed 0,
on five embedded data sets:

    test      on all base classes, seeds 6 to 10, measured on test images: what a choice is judged by
    folds1    the search stage on all base classes, seeds 1 to 5
    folds2    the search stage with the base classes in two folds, of which one is held out as new; folds4: in four

For each configuration and variant one record and the context vectors of every seed are kept; the objectives are
computed from these.  `judge` draws 24 of the configurations (the literature's among them) and five seeds with
repetition, 4000 times, lets each objective choose, and looks what the choice reaches on test images, beside the
literature's configuration and what base accuracy chooses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from common import Hardware, add_flags, print_table
from scipy.stats import rankdata

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.config.metrics import Stage
from gcsearch.config.task import Task
from gcsearch.config.trials import Proposal, TrialConfig
from gcsearch.methods.prompts import prompts
from gcsearch.methods.registry import build
from gcsearch.stats import Score
from gcsearch.training import loading, task_data
from gcsearch.training.episodes import Episode, Half
from gcsearch.training.task_data import Laboratory
from gcsearch.training.trial import Trial, run_pack

SETS = ("shapes-sketch", "shapes-night", "shapes-neon", "shapes-mosaic", "shapes-chalk")
VARIANTS = ("test", "folds1", "folds2", "folds4")
SETTINGS, PACK = 60, 4
TEST_SEEDS, SEARCH_SEEDS = (6, 7, 8, 9, 10), (1, 2, 3, 4, 5)
OTHERS = 24
"""Names that are no class of the data set, beside which images may have to be told."""

PICTURE = Path(__file__).parent / "results" / "proxy.svg"


def proposals(count: int) -> list[Proposal]:
    """The literature's configuration, then configurations drawn at random with seed 0."""
    space = search_space.load("gcscoop")
    values = [*(point.values for point in space.points), *space.sample(count, seed=0)][:count]
    return [
        Proposal(number=number, config=TrialConfig(method=space.method, hyperparameters=value))
        for number, value in enumerate(values)
    ]


def variant(name: str, dataset: str, shots: int) -> tuple[Task, Stage]:
    """The task and stage that a variant is measured in."""
    seeds = TEST_SEEDS if name == "test" else SEARCH_SEEDS
    folds = 1 if name == "test" else int(name.removeprefix("folds"))
    task = Task(dataset=dataset, shots=shots, val_shots="all", views=8, seeds=seeds, folds=folds)
    return task, "test" if name == "test" else "search"


# --- Collecting -----------------------------------------------------------------------------------------


def collect(out: Path, sets: Sequence[str], variants: Sequence[str], count: int, shots: int = 16) -> None:
    """Measure what is missing below `out`."""
    every = proposals(count)
    for name in variants:
        for dataset in sets:
            task, stage = variant(name, dataset, shots)
            task_data.data_root(task)
            began = time.perf_counter()
            lab = loading.laboratory(task)
            episodes = lab.episodes(stage, task.seeds)
            for pack in _missing(out / dataset / name, every):
                for trial in run_pack(lab, episodes, pack, evaluate_every=10):
                    _keep(out / dataset / name, lab, episodes, trial)
            print(f"{dataset} {name}: {time.perf_counter() - began:.0f} s", flush=True)


def _missing(folder: Path, every: Sequence[Proposal]) -> Iterator[list[Proposal]]:
    for start in range(0, len(every), PACK):
        pack = [one for one in every[start : start + PACK] if not (folder / f"{one.number:03}.json").exists()]
        if pack:
            yield pack


def _keep(folder: Path, lab: Laboratory, episodes: Sequence[Episode], trial: Trial) -> None:
    """One file of context vectors and one of numbers, complete or not there."""
    number = f"{trial.record.number:03}"
    vectors = {str(index): one for index, one in enumerate(trial.parameters)}
    files.write_tensors(folder / f"{number}.safetensors", vectors, {})
    kept = {"record": trial.record.to_dict(), "shown": shown(lab, episodes, trial)}
    files.write_whole(folder / f"{number}.json", json.dumps(kept))


@torch.inference_mode()
def shown(lab: Laboratory, episodes: Sequence[Episode], trial: Trial) -> dict[str, list[float]]:
    """Per seed: how each side is told, see `_scores`, among its own names and among others too."""
    method = build(trial.record.config)
    rows = []
    for episode, one in zip(episodes, trial.parameters, strict=True):
        names = [*episode.names, *episode.others[:OTHERS]]
        text = prompts(lab.backbone, method.prompt, [names]).features(one[None])[0]
        own, others = text[: len(episode.names)], text[len(episode.names) :]
        row: dict[str, float] = {}
        for side, half in (("base", episode.base), ("new", episode.new)):
            if half is not None:
                scale = lab.backbone.tower.logit_scale
                row |= _scores(side, half, own[half.classes], scale)
                row |= _scores(f"{side}_beside", half, torch.cat([own[half.classes], others]), scale)
        rows.append(row)
    return {key: [row[key] for row in rows] for key in rows[0]}


def _scores(name: str, half: Half, text: torch.Tensor, scale: float) -> dict[str, float]:
    chance = (scale * half.features @ text.T).log_softmax(-1)[torch.arange(len(half.labels)), half.labels]
    told = Score.of(half.features, text, half.labels)
    return {
        f"{name}_acc": told.accuracy,
        f"{name}_prob": 100 * float(chance.exp().mean()),
        f"{name}_ll": float(chance.mean()),
        f"{name}_margin": told.margin,
    }


# --- Judging --------------------------------------------------------------------------------------------

Rows = dict[str, np.ndarray]
"""Numbers [configurations, seeds] by their names."""


def read(folder: Path, count: int) -> Rows:
    rows = [json.loads((folder / f"{number:03}.json").read_text())["shown"] for number in range(count)]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def harmonic(base: np.ndarray, new: np.ndarray) -> np.ndarray:
    return 2 * base * new / np.maximum(base + new, 1e-9)


def objectives(seen: Rows) -> Rows:
    """What a search could maximise, from what a variant shows."""
    base, new = seen["base_acc"], seen.get("new_acc")
    found = {
        "base accuracy": base,
        "base probability": seen["base_prob"],
        "base log-likelihood": seen["base_ll"],
        "base log-likelihood beside other names": seen["base_beside_ll"],
        "base accuracy beside other names": seen["base_beside_acc"],
        "base margin": seen["base_margin"],
    }
    if new is None:
        return found
    both = seen["base_ll"], seen["new_ll"]
    return found | {
        "H": harmonic(base, new),
        "new accuracy": new,
        "3/4 base + 1/4 new accuracy": 0.75 * base + 0.25 * new,
        "H of probabilities": harmonic(seen["base_prob"], seen["new_prob"]),
        "base + new log-likelihood": both[0] + both[1],
        "3/4 base + 1/4 new log-likelihood": 0.75 * both[0] + 0.25 * both[1],
        "base + new log-likelihood beside other names": seen["base_beside_ll"] + seen["new_beside_ll"],
        "base + new margin": seen["base_margin"] + seen["new_margin"],
    }


def judge(out: Path, sets: Sequence[str], variants: Sequence[str], count: int, repeats: int) -> None:
    """Print what each objective's choice is worth: means over the draws, and their 2.5 and 97.5 percentiles."""
    tests = {dataset: read(out / dataset / "test", count) for dataset in sets}
    reached = np.stack(
        [harmonic(t["base_acc"], t["new_acc"]).mean(1) for t in tests.values()]
    )  # [sets, configurations]
    print(f"literature {reached[:, 0].mean():.2f}, best of all {reached.max(1).mean():.2f}, in test H over the sets")
    table = {}
    for name in variants:
        if name == "test":
            continue
        seen = [objectives(read(out / dataset / name, count)) for dataset in sets]
        for objective in seen[0]:
            table[f"{objective}, {name}"] = chosen([one[objective] for one in seen], reached, repeats)
    gains = {key: picks - reached[:, :1] for key, (picks, *_) in table.items()}  # [sets, repeats]
    ordered = sorted(table, key=lambda key: -float(gains[key].mean()))
    accuracies = {key.split(", ")[1]: picks for key, (picks, *_) in table.items() if key.startswith("base accuracy,")}
    lead = {key: picks - accuracies[key.split(", ")[1]] for key, (picks, *_) in table.items()}
    print_table(
        [
            "objective",
            "rank correlation",
            "of 24 drawn",
            "test H",
            "over the literature",
            "over base accuracy",
            "under the best drawn",
        ],
        [
            (
                key,
                f"{table[key][1].mean():.2f} ({', '.join(f'{one:.2f}' for one in table[key][1])})",
                _interval(table[key][2].mean(0)),
                f"{table[key][0].mean():.2f}",
                _interval(gains[key].mean(0)),
                _interval(lead[key].mean(0)),
                f"{(best_drawn(reached, repeats) - table[key][0]).mean():.2f}",
            )
            for key in ordered
        ],
    )
    if count == SETTINGS:
        draw({key: gains[key] for key in ordered}, sets)


def _draws(count: int, repeats: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """24 configurations with the literature's, and seeds with repetition; the same for every objective."""
    generator = np.random.default_rng(0)
    for _ in range(repeats):
        others = generator.choice(np.arange(1, count), min(23, count - 1), replace=False)
        yield np.concatenate([[0], others]), generator.integers(0, len(SEARCH_SEEDS), len(SEARCH_SEEDS))


def chosen(
    values: Sequence[np.ndarray], reached: np.ndarray, repeats: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test H [sets, repeats] of what the objective chooses, and its rank correlation with test H.

    The correlation [sets] over all configurations and seeds, and [sets, repeats] over those that were drawn.
    """
    settings, seeds = map(np.stack, zip(*_draws(reached.shape[1], repeats), strict=True))
    picks, correlations = [], []
    for value, row in zip(values, reached, strict=True):
        drawn = value[settings[:, :, None], seeds[:, None, :]].mean(2)  # [repeats, configurations]
        picks.append(row[settings[np.arange(repeats), drawn.argmax(1)]])
        correlations.append(_rank_correlation(drawn, row[settings]))
    whole = [_rank_correlation(value.mean(1)[None], row[None])[0] for value, row in zip(values, reached, strict=True)]
    return np.stack(picks), np.array(whole), np.stack(correlations)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's, row by row of [N, M]; 0 where all are equal, which ranks nothing."""
    a, b = (rankdata(one, axis=1) - (one.shape[1] + 1) / 2 for one in (a, b))
    return (a * b).sum(1) / np.maximum(np.sqrt((a * a).sum(1) * (b * b).sum(1)), 1e-12)


def best_drawn(reached: np.ndarray, repeats: int) -> np.ndarray:
    """Test H [sets, repeats] of the best of the configurations that were drawn."""
    return np.stack([reached[:, settings].max(1) for settings, _ in _draws(reached.shape[1], repeats)], axis=1)


def _interval(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{values.mean():+.2f} ({low:+.2f}, {high:+.2f})"


def draw(gains: dict[str, np.ndarray], sets: Sequence[str]) -> None:
    """For each objective the gain over the literature's configuration on each data set and its mean, as an SVG file."""
    colours = ("#4477aa", "#228833", "#ccbb44", "#ee6677", "#aa3377")
    means = {key: gain.mean(1) for key, gain in gains.items()}
    low, high = min(map(min, means.values())) - 0.2, max(map(max, means.values())) + 0.2
    left, width, step = 350, 460, 20

    def x(value: float) -> str:
        return f"{left + width * (value - low) / (high - low):.1f}"

    tall = 60 + step * len(gains)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 {tall + 50}" font-family="sans-serif">']
    parts.append(f'<g font-size="12"><rect width="840" height="{tall + 50}" fill="white"/>')
    for value in range(int(np.ceil(low)), int(np.floor(high)) + 1):
        stroke = "#333333" if value == 0 else "#dddddd"
        parts.append(f'<path d="M{x(value)} 50V{tall}" stroke="{stroke}"/>')
        parts.append(
            f'<text x="{x(value)}" y="{tall + 18}" text-anchor="middle">{f"{value:+d}" if value else "0"}</text>'
        )
    for index, (dataset, colour) in enumerate(zip(sets, colours, strict=False)):
        parts.append(f'<circle cx="{20 + 125 * index}" cy="20" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{30 + 125 * index}" y="24">{dataset}</text>')
    parts.append(
        '<rect x="645" y="14" width="4" height="12" fill="black"/><text x="655" y="24">mean of the sets</text>'
    )
    for index, (key, row) in enumerate(means.items()):
        y = 60 + step * index
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{key}</text>')
        parts += [f'<circle cx="{x(v)}" cy="{y}" r="4" fill="{c}"/>' for v, c in zip(row, colours, strict=False)]
        parts.append(f'<rect x="{float(x(row.mean())) - 2:.1f}" y="{y - 7}" width="4" height="14" fill="black"/>')
    what = "test H of the chosen configuration, beyond the literature's (points)"
    parts.append(f'<text x="{left + width / 2}" y="{tall + 38}" text-anchor="middle">{what}</text>')
    PICTURE.write_text("\n".join([*parts, "</g></svg>\n"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["collect", "judge"], help="both, where --quick is given alone")
    add_flags(parser)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(Hardware.here(args))
    if args.quick:
        with tempfile.TemporaryDirectory() as folder:
            collect(Path(folder), SETS[:1], ("test", "folds2"), count=3, shots=1)
            judge(Path(folder), SETS[:1], ("folds2",), count=3, repeats=20)
    elif not args.command or not args.out:
        parser.error("say what to do, collect or judge, and where the measurements are: --out FOLDER")
    elif args.command == "collect":
        collect(args.out, args.sets, args.variants, SETTINGS)
    else:
        judge(args.out, args.sets, args.variants, SETTINGS, repeats=4000)


if __name__ == "__main__":
    main()
