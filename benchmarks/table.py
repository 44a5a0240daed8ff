"""Benchmark (k): a table of what configurations are worth, so that objectives can be judged without training.

    python benchmarks/table.py --fill --worlds design --configurations 48    # measures what is missing; resumable
    python benchmarks/table.py --status
    python benchmarks/table.py --pack gcscoop.parquet        # all parts as one file
    python benchmarks/table.py --quick

Up to 128 configurations of `table_spaces/METHOD.toml` (its points, the rest drawn at random with seed 0) are trained
with ten seeds on worlds that are drawn (`world:SEED`), and measured at several epochs: in all that an objective may
look at, and in what it is judged by.  A unit of work is one world and sixteen configurations; it is one file below
`results/table/METHOD`, written whole.  Units come in the order that makes an early table useful: the first sixteen
configurations on all worlds, then the next.  Stopped at any time, the same command goes on; it may run in several
processes at once.  `results/table/README.md` says what the columns are; `tabulated.py` reads them.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Hardware, add_flags, print_table
from table_measures import Measures, Snapshot

from gcsearch import files
from gcsearch.clip.model import Backbone
from gcsearch.config import search_space
from gcsearch.config.base import plain_name
from gcsearch.config.task import Task
from gcsearch.config.trials import TrialConfig
from gcsearch.methods.registry import build
from gcsearch.training import loading, task_data
from gcsearch.training.population import Member, Population, structure

HERE = Path(__file__).parent
PARTS = HERE / "results" / "table"
SPACES = HERE / "table_spaces"

DESIGN = tuple(f"world:{seed}" for seed in range(1, 13))
"""The worlds that objectives are designed on."""

UNSEEN: tuple[str, ...] = ()
"""Those that nothing is designed on: none until the design is frozen, see the rule in docs/log.md."""

SEEDS = tuple(range(1, 11))
"""1 to 5 are a search's, 6 to 10 the fresh ones of its confirmation."""

CONFIGURATIONS, BLOCK = 128, 16
SHOTS = (4, 8, 16)
EPOCHS = (10, 20, 40, 80, 160)
"""Where all configurations are measured, beside their last epoch."""

NEIGHBOURS = 6
"""Worlds of the list that a prompt is carried to."""

ZERO_SHOT = -1
"""The number of zero-shot CLIP: a row of each world's first part, with seed and epoch 0."""


PROMPT = "prompt"
"""The column of context vectors: what is measured later must not be trained again."""


@dataclass(frozen=True)
class Unit:
    """A part of the table: one world and one block of configurations."""

    world: str
    block: int

    def path(self, folder: Path) -> Path:
        return folder / f"{plain_name(self.world)}.{self.block:02}.parquet"


@dataclass(frozen=True)
class Plan:
    """What a table holds; smaller in tests."""

    method: str = "gcscoop"
    worlds: tuple[str, ...] = DESIGN
    configurations: int = CONFIGURATIONS
    block: int = BLOCK
    seeds: tuple[int, ...] = SEEDS
    most_epochs: int = 10**4

    def configs(self) -> dict[int, TrialConfig]:
        """By their numbers, which do not depend on how many there are."""
        space = search_space.load(SPACES / f"{self.method}.toml")
        values = [*(point.values for point in space.points), *space.sample(CONFIGURATIONS, seed=0)]
        short = [one | {"epochs": min(int(one["epochs"]), self.most_epochs)} for one in values]
        return dict(enumerate(map(space.config, short[: self.configurations])))

    def task(self, world: str) -> Task:
        """What is trained on a world: all validation images score, no base class is held out."""
        shots = SHOTS[int(world.removeprefix("world:")) % len(SHOTS)]
        return Task(dataset=world, shots=shots, val_shots="all", views=8, seeds=self.seeds, folds=1)

    def others(self, world: str) -> list[str]:
        """The worlds that come next in the list, which is a ring."""
        at = self.worlds.index(world)
        return [*self.worlds[at + 1 :], *self.worlds[:at]][:NEIGHBOURS]

    def units(self) -> list[Unit]:
        """In the order of the work."""
        blocks = range(-(-self.configurations // self.block))
        return [Unit(world, block) for block in blocks for world in self.worlds]

    def numbers(self, unit: Unit) -> range:
        first = unit.block * self.block
        return range(first, min(first + self.block, self.configurations))


# --- Filling --------------------------------------------------------------------------------------------


def fill(folder: Path, plan: Plan) -> None:
    """Measure the units that are missing below `folder`; those that another process is at are left to it."""
    for unit in plan.units():
        path = unit.path(folder)
        with ExitStack() as stack:
            try:
                stack.enter_context(files.locked(folder / ".locks" / path.name, wait=False))
            except BlockingIOError:
                continue
            if path.exists():
                continue
            began = time.perf_counter()
            frame = measure(plan, unit)
            files.write_whole(path, _parquet(frame))
            loading.forget()
            print(f"{path.stem}: {len(frame)} rows in {time.perf_counter() - began:.0f} s", flush=True)


def measure(plan: Plan, unit: Unit) -> pd.DataFrame:
    """Train the configurations of a unit with all seeds, and measure them."""
    task = plan.task(unit.world)
    task_data.data_root(task)
    lab = loading.laboratory(task)
    configs = plan.configs()
    (prompt,) = {build(config).prompt for config in configs.values()}
    measures = Measures(lab, prompt, plan.seeds, plan.others(unit.world))
    keys = [(number, seed) for number in plan.numbers(unit) for seed in plan.seeds]
    members = [Member(build(configs[number]), measures.test[plan.seeds.index(seed)]) for number, seed in keys]
    stops = list(train(lab.backbone, members))
    sound = [stop for stop in stops if not stop.diverged]
    numbers = iter(measures.of([Snapshot(*keys[s.member], s.epoch, s.parameters) for s in sound]))
    rows: list[dict[str, Any]] = []
    for stop in stops:
        number, seed = keys[stop.member]
        row = {
            "number": number,
            "method": configs[number].method,
            **configs[number].hyperparameters,
            "seed": seed,
            **stop.facts,
        }
        rows.append(row if stop.diverged else row | next(numbers))
    if unit.block == 0:
        rows.insert(
            0,
            {"number": ZERO_SHOT, "method": "zeroshot", "seed": 0, "epoch": 0, "last": True} | measures.of_zero_shot(),
        )
    return _typed(pd.DataFrame([{"world": unit.world, "shots": task.shots} | row for row in rows]))


@dataclass(frozen=True)
class Stop:
    """A member at an epoch in which it is measured."""

    member: int
    epoch: int
    last: bool
    diverged: bool
    seconds: float
    """Processor time of its training so far: an equal share of its population's."""
    trained: dict[str, float]
    parameters: torch.Tensor

    @property
    def facts(self) -> dict[str, Any]:
        known = {key: getattr(self, key) for key in ("epoch", "last", "diverged", "seconds")}
        if self.last:
            known[PROMPT] = self.parameters.half().numpy().tobytes()
        return known | {f"train_{key}": value for key, value in self.trained.items()}


def train(backbone: Backbone, members: Sequence[Member]) -> Iterator[Stop]:
    """Train all of them, those of equal structure together, and give each one's stops."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for at, member in enumerate(members):
        groups[structure(member)].append(at)
    for going in groups.values():
        population, seconds = Population(backbone, [members[at] for at in going]), dict.fromkeys(going, 0.0)
        while going:
            began = time.process_time()
            trained = population.train_epoch()
            share = (time.process_time() - began) / len(going)
            stay, alive = [], population.alive.tolist()
            for place, at in enumerate(going):
                seconds[at] += share
                epoch, last = population.epochs[place], population.epochs[place] == members[at].method.epochs
                if last or not alive[place] or epoch in EPOCHS:
                    vectors = population.parameters[place].clone()
                    yield Stop(at, epoch, last, not alive[place], seconds[at], trained[place], vectors)
                if alive[place] and not last:
                    stay.append(place)
            going = [going[place] for place in stay]
            if going and len(going) < len(population.members):
                population.keep(stay)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers and truth values as such, all else float32; "off" is NaN, and so is what zero-shot has not."""
    frame = frame.replace({"off": None})
    whole = {"number": "int16", "shots": "int16", "seed": "int16", "epoch": "int16"}
    flags = [key for key in ("last", "diverged") if key in frame]
    frame[flags] = frame[flags].astype("boolean").fillna(False).astype(bool)
    floats = [key for key in frame if key not in ("world", "method", PROMPT, *whole, *flags)]
    frame = frame.astype(whole | dict.fromkeys(floats, "float32"))
    # Five digits are kept: the rest says nothing and would be half of the file.
    bits = frame[floats].to_numpy().view(np.int32)
    frame[floats] = ((bits + 0x40) & ~0x7F).view(np.float32)
    return frame


def _parquet(frame: pd.DataFrame) -> bytes:
    """Bytes of all floats by their significance, which compresses them best."""
    floats = [key for key, kind in frame.dtypes.items() if kind == "float32"]
    file = io.BytesIO()
    frame.to_parquet(
        file,
        index=False,
        compression="zstd",
        compression_level=19,
        use_dictionary=[key for key in frame if key not in (PROMPT, *floats)],
        use_byte_stream_split=floats,
    )
    return file.getvalue()


# --- What is there --------------------------------------------------------------------------------------


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("world-*.*.parquet"))


def status(folder: Path, plan: Plan) -> None:
    """A row for each world: which blocks of its configurations are there, and zero-shot CLIP on it."""
    blocks = sorted({unit.block for unit in plan.units()})
    rows = []
    for world in plan.worlds:
        there = [block for block in blocks if Unit(world, block).path(folder).exists()]
        accuracies = ["-"] * 3
        if 0 in there:
            zero = pd.read_parquet(Unit(world, 0).path(folder)).query(f"number == {ZERO_SHOT}").iloc[0]
            accuracies = [f"{zero[key]:.1f}" for key in ("test_base_acc", "test_new_acc", "test_h")]
        marks = "".join("x" if block in there else "." for block in blocks)
        rows.append((world, plan.task(world).shots, *accuracies, marks))
    print_table(["world", "shots", "zero-shot base", "new", "H", f"blocks of {plan.block}"], rows)
    found = parts(folder)
    done = sum(unit.path(folder).exists() for unit in plan.units())
    size = sum(path.stat().st_size for path in found) / 2**20
    print(f"{done} of {len(plan.units())} units; {len(found)} files, {size:.1f} MiB in {folder}")


def pack(folder: Path, target: Path) -> None:
    """Merge all parts to one file, without the context vectors."""
    every = [pd.read_parquet(path).drop(columns=PROMPT) for path in parts(folder)]
    frame = pd.concat(every, ignore_index=True)
    files.write_whole(target, _parquet(frame))
    print(f"{len(frame)} rows, {target.stat().st_size / 2**20:.1f} MiB: {target}")


def quick() -> None:
    """Two configurations of two epochs on one world, as a table of one unit."""
    plan = Plan(worlds=("world:3", "world:4"), configurations=2, seeds=(1, 2), most_epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), plan)
        status(Path(folder), plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--fill", action="store_true", help="measure what is missing")
    parser.add_argument("--status", action="store_true", help="print what is there")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="merge all parts to this file")
    parser.add_argument("--method", default="gcscoop", choices=sorted(path.stem for path in SPACES.glob("*.toml")))
    parser.add_argument("--worlds", default="design", choices=["design", "unseen"])
    parser.add_argument("--configurations", type=int, default=CONFIGURATIONS)
    parser.add_argument("--out", type=Path, default=PARTS, help="the folder of all tables")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        quick()
        return
    worlds = DESIGN if args.worlds == "design" else UNSEEN
    if not worlds:
        parser.error("there are no unseen worlds until the design is frozen: docs/log.md has the rule")
    if not 1 <= args.configurations <= CONFIGURATIONS:
        parser.error(f"--configurations is 1 to {CONFIGURATIONS}")
    plan, folder = Plan(args.method, worlds, args.configurations), args.out / args.method
    if args.fill:
        print(Hardware.here(args), flush=True)
        fill(folder, plan)
    if args.status or not (args.fill or args.pack):
        status(folder, plan)
    if args.pack:
        pack(folder, args.pack)


if __name__ == "__main__":
    main()
