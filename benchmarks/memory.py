"""Benchmark (d): memory and time of a step against classes and members, under a limit.

    python benchmarks/memory.py                                     # a table without and with a limit
    python benchmarks/memory.py --classes 500 --members 12 --limit "6 GiB" --steps 2
    python benchmarks/memory.py --quick

Each row is a process of its own: `--steps` steps of GCSCoOp for ViT-B/16-sized towers on random features (names
of one to six tokens).  "peak" is the largest resident memory of that process, Python, torch and the tower's
weights included (on a GPU: the largest allocation).  The planner (`gcsearch/training/memory.py`) chooses how many
members and classes go through the tower at once.  Ends with 1 where a process went over its limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from common import Hardware, add_flags, build, names_of, population, print_table, random_images, settle

from gcsearch.config.pipeline import bytes_of


def one_row(args: argparse.Namespace) -> dict[str, object]:
    """What the child process measures and prints."""
    sizes = settle(args, quick={})
    (classes,), (members,) = args.classes, args.members
    _, backbone = build(sizes, args.device, args.precision)
    images, labels = random_images(32, backbone.embedding_size, classes)
    limit = bytes_of(args.limit[0]) if args.limit[0] != "none" else None
    trained = population(backbone, names_of(classes), images, labels, members, limit, method=args.method)
    began = time.perf_counter()
    for _ in range(args.steps):
        (numbers, *_) = trained.train_epoch()
    taken = (time.perf_counter() - began) / args.steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    part = trained.parts[0]
    return {
        "pieces": f"{min(part.members.stop, members)} members, {part.prompts.suffixes[0].classes} classes",
        "planned": trained.bytes,
        "peak": peak,
        "seconds": taken,
        "loss": numbers["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--classes", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--members", type=int, nargs="+", default=[3, 12])
    parser.add_argument("--limit", nargs="+", default=["none", "6 GiB", "2 GiB"], help='such as "6 GiB"')
    parser.add_argument("--method", default="gcscoop")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(one_row(args)))
        return
    settle(args, quick={"classes": [400], "members": [48], "limit": ["none", "600 MiB"]})
    print(Hardware.here(args))
    rows, over = [], False
    for classes in args.classes:
        for members in args.members:
            for limit in args.limit:
                row = child(args, classes, members, limit)
                over |= limit != "none" and row["peak"] > bytes_of(limit)
                numbers = [f"{row['planned'] / 2**20:.0f}", f"{row['peak'] / 2**20:.0f}", f"{row['seconds']:.2f}"]
                rows.append([classes, members, limit, row["pieces"], *numbers, f"{row['loss']:.5f}"])
    print_table(["classes", "members", "limit", "at once", "planned MiB", "peak MiB", "s/step", "loss"], rows)
    sys.exit(1 if over else 0)


def child(args: argparse.Namespace, classes: int, members: int, limit: str) -> dict[str, float]:
    """One row, measured in a process of its own."""
    flags = {"classes": classes, "members": members, "limit": limit, "steps": args.steps, "method": args.method}
    flags |= {"threads": args.threads, "device": args.device, "precision": args.precision}
    command = [sys.executable, __file__, "--child", *(["--quick"] if args.quick else [])]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
