"""Benchmark (e): filling the feature cache against the bare encoder, and reading an entry back.

    python benchmarks/encoding.py                  # ViT-B/32, random weights, 384 JPEG photographs' size and weight
    python benchmarks/encoding.py --quick          # tiny sizes; checks that both give the same features

Bare encoder: the same model on tensors that lie in memory already, in the same pieces. Caching: JPEG files
opened, prepared, encoded, written in verified parts, one entry. Both in this process, after one another, twice,
with the same threads; the ratio is that of the two better runs. Reading: opening and verifying an entry of the
stated rows, a second time, so that its pages are in memory as they are for the second trial of a node.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import Hardware, Sizes, add_flags, build, print_table, seconds, settle
from PIL import Image

from gcsearch.data import feature_file, features
from gcsearch.data.datasets import Dataset
from gcsearch.data.features import FeatureCache
from gcsearch.data.image_loader import prepare
from gcsearch.data.lists.splits import Item

B32 = Sizes(width=512, layers=12, embed=512, image=224, patch=32, vision_width=768, vision_layers=12)


def write_photographs(folder: Path, count: int, side: int) -> Dataset:
    """Smooth noise as JPEG files of a photograph's size and weight."""
    generator = np.random.default_rng(0)
    items = []
    for index in range(count):
        coarse = generator.integers(0, 255, (side // 12, side // 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.jpg", quality=90)
        items.append(Item(f"{index}.jpg", 0))
    return Dataset("photographs", folder, ("photograph",), (), (), tuple(items))


def encode(backbone, images, args):
    """Images per second of the bare encoder and of the cache, and how far their features are apart."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        dataset = write_photographs(folder / "images", images, args.side)
        wanted = features.FeatureRequest(dataset, dataset.test)
        job = wanted.job(range(images), backbone.preparation, exif=False)
        pixels = prepare(job).pixels
        mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
        tensors = ((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std).to(args.device)
        piece = features.PART if args.device == "cuda" else features.ON_PROCESSOR
        bare, cached = [], []
        backbone.encode_images(tensors[:piece]).cpu()
        for turn in range(args.turns):
            began = time.perf_counter()
            expected = torch.cat([backbone.encode_images(part) for part in tensors.split(piece)]).cpu()
            bare.append(images / (time.perf_counter() - began))
            began = time.perf_counter()
            found = FeatureCache(folder / str(turn), backbone, args.decoders).fixed(dataset, dataset.test)
            cached.append(images / (time.perf_counter() - began))
        apart = (found.float() - expected).abs().max().item()
        reread = seconds(lambda: FeatureCache(folder / "0", backbone).fixed(dataset, dataset.test), 3)
    return max(bare), max(cached), apart, reread


def read(rows, size, repeats):
    """Seconds to open and verify an entry of `rows` x `size`, and the bytes that it holds."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "entry.arrow"
        numbers = np.random.default_rng(0).standard_normal((rows, size), np.float32).astype(np.float16)
        stated = {"key": "key", "shape": [rows, 1, size]}
        feature_file.write(path, stated, numbers)
        found = feature_file.read(path, stated)
        assert found is not None and np.array_equal(found[:, 0], numbers)
        return seconds(lambda: feature_file.read(path, stated), repeats), path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--side", type=int, default=375, help="shorter side of the photographs")
    parser.add_argument("--decoders", default="auto", help="as resources.decoders")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    sizes = settle(args, quick={"images": 40, "side": 48, "rows": 1000})
    sizes = sizes if args.quick else B32
    print(Hardware.here(args))
    _, backbone = build(sizes, args.device, args.precision)
    bare, cached, apart, reread = encode(backbone, args.images, args)
    took, size = read(args.rows, sizes.embed, 5)
    columns = ["images", "decoders", "bare images/s", "cached images/s", "ratio", "apart", "found again s"]
    row = [args.images, args.decoders, f"{bare:.2f}", f"{cached:.2f}", f"{cached / bare:.1%}", f"{apart:.1e}"]
    print_table(
        [*columns, "rows read", "MB", "read s"],
        [[*row, f"{reread:.3f}", args.rows, f"{size / 1e6:.1f}", f"{took:.3f}"]],
    )


if __name__ == "__main__":
    main()
