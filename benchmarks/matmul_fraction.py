"""Benchmark (c): the fraction of the machine's matrix-multiply rate that a step of GCSCoOp reaches.

    python benchmarks/matmul_fraction.py           # ViT-B/16-sized tower, 3 members, 50 classes, one to six tokens
    python benchmarks/matmul_fraction.py --device cuda --precision bfloat16 --members 12
    python benchmarks/matmul_fraction.py --quick   # tiny sizes; checks the count against the operations executed

A step is one epoch of one batch of 128 in `gcsearch.training.population.Population`: two passes forward and backward,
the rule, the optimiser.  Its time is the median.  The machine's rate is the largest that any of several matrix products
reaches in the same run, at its best of many: the step's own shapes and one large square, same threads and precision,
measured before and after the steps.

Counted are the floating-point operations of the matrix products that the step cannot do without, two for each
multiplication and addition; nothing for padding, recomputation, masked attention, LayerNorm, activation, softmax or
the rule.  With D width, E embedding, n shared positions (start and context), class texts of l_1..l_C positions (name,
full stop, EOT), t = n + sum l, B images, and pairs = positions that attend to one another; forward, per member:

    first block     2 (3 n D^2 + 9 t D^2) + 4 D pairs      queries, keys and values of names are constant over a run
    inner blocks    2 * 12 t D^2 + 4 D pairs               pairs = n (n + 1) / 2 + sum l (n + (l + 1) / 2)
    last block      2 (2 t + 10 C) D^2 + 4 D sum (n + l)   of which only the end-of-text positions are read
    end             2 C E (D + B)                          projection and logits

The weights are frozen, so the backward pass needs the gradients at the inputs only: again as much for each product
with a weight or with the images, twice as much for attention, whose two factors both vary.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import Hardware, add_flags, build, names_of, population, print_table, random_images, seconds, settle
from torch.utils.flop_counter import FlopCounterMode

from gcsearch.methods.prompts import suffix_tokens

BATCH = 128


def useful_operations(shared, lengths, width, layers, embed, batch):
    """Floating-point operations of one pass, forward and backward, of one member: see the head of this file."""
    total, classes = shared + sum(lengths), len(lengths)
    pairs = shared * (shared + 1) // 2 + sum(length * shared + length * (length + 1) // 2 for length in lengths)
    first = 2 * (3 * shared + 9 * total) * width**2
    inner = 2 * 12 * total * width**2
    last = 2 * (2 * total + 10 * classes) * width**2
    attention = 4 * width * ((layers - 1) * pairs + sum(shared + length for length in lengths))
    end = 2 * classes * embed * (width + batch)
    return 2 * (first + (layers - 2) * inner + last + end) + 3 * attention


def executed_operations(work):
    """Floating-point operations of all matrix products that `work` calls, padding and masked parts included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(shapes, device, dtype, budget):
    """The largest rate, in operations per second, that products of `shapes` reach; `budget` seconds for each."""
    best = 0.0
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(inner, columns, device=device).to(dtype)
        out = torch.empty(rows, columns, device=device, dtype=dtype)
        times = 10 if device == "cuda" else 1  # a GPU is given several at a time, to hide their launch
        began = time.perf_counter()
        while time.perf_counter() - began < budget:
            start = time.perf_counter()
            for _ in range(times):
                torch.mm(left, right, out=out)
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * rows * inner * columns * times / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    sizes = settle(args, quick={"members": 2, "classes": 20, "repeats": 2})
    _, backbone = build(sizes, args.device, args.precision)
    names = names_of(args.classes)
    images, labels = random_images(BATCH, sizes.embed, args.classes)
    members = population(backbone, names, images, labels, args.members)
    lengths = [suffix_tokens(backbone, members.method.prompt, [name]) for name in names]
    shared = 1 + members.method.prompt.n_ctx
    a_pass = useful_operations(shared, lengths, sizes.width, sizes.layers, sizes.embed, BATCH)
    useful = 2 * args.members * a_pass
    executed = executed_operations(members.train_epoch)

    rows, width = args.members * (shared + sum(lengths)), sizes.width
    square = 256 if args.quick else (8192 if args.device == "cuda" else 2048)
    shapes = [(rows, width, 3 * width), (rows, width, 4 * width), (rows, 4 * width, width), (square, square, square)]
    budget = 0.01 if args.quick else 1.0
    dtype = getattr(torch, args.precision)
    rate = matmul_rate(shapes, args.device, dtype, budget)
    step = seconds(members.train_epoch, args.repeats)
    rate = max(rate, matmul_rate(shapes, args.device, dtype, budget))

    print(f"{Hardware.here(args)}; width {width}, {sizes.layers} blocks, {args.classes} classes, batch of {BATCH}")
    columns = ["members", "ms per step", "useful GFLOP", "executed", "GFLOP/s", "matmul GFLOP/s", "fraction"]
    numbers = [
        args.members,
        f"{1e3 * step:.1f}",
        f"{useful / 1e9:.3f}",
        f"{executed / useful:.3f} x",
        f"{useful / step / 1e9:.1f}",
        f"{rate / 1e9:.1f}",
        f"{useful / step / rate:.1%}",
    ]
    print_table(columns, [numbers])


if __name__ == "__main__":
    main()
