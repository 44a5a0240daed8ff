"""Benchmark (b): member-steps per second against the size of the population.

    python benchmarks/scaling.py                   # the bundled `mini` tower on the demo's trained classes
    python benchmarks/scaling.py --tower b16       # a ViT-B/16-sized tower, 19 classes
    python benchmarks/scaling.py --quick

One member-step is one step of GCSCoOp (two passes forward and backward) for one prompt.  P members are trained
in one `gcsearch.training.population.Population` on random features; everything else is what `gcsearch run` does:
drawing the batch, both passes, the rule, the optimiser's step.  The last column is relative to P = 1 of the same run.
"""

from __future__ import annotations

import argparse

from common import Hardware, add_flags, build, names_of, population, print_table, random_images, seconds, settle

from gcsearch.clip import model
from gcsearch.data.lists.draws import hold_out
from gcsearch.data.synthetic.worlds import WORLDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--tower", choices=["mini", "b16"], default="mini")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 3, 12, 48])
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    sizes = settle(args, quick={"members": [1, 3], "repeats": 1})
    if args.tower == "mini":
        backbone = model.load("mini", device=args.device)
        every = WORLDS["shapes-sketch"].class_names
        names = [every[label] for label in hold_out(range(len(every) // 2), 0, 2)[0]]
    else:
        backbone, names = build(sizes, args.device, args.precision)[1], names_of(19)
    images, labels = random_images(32, backbone.embedding_size, len(names))
    print(f"{Hardware.here(args)}; {args.tower} tower, {len(names)} classes, batch of 32")
    rows, alone = [], 0.0
    for members in args.members:
        taken = seconds(population(backbone, names, images, labels, members).train_epoch, args.repeats)
        rate = members / taken
        alone = alone or rate
        rows.append([members, f"{1000 * taken:.2f}", f"{rate:.1f}", f"{rate / alone:.2f}"])
    print_table(["members", "ms per step", "member-steps/s", "relative"], rows)


if __name__ == "__main__":
    main()
