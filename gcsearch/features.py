"""The feature cache: images encoded once, kept as Arrow files, read by memory map.

An entry's key hashes all that its numbers depend on (weights, transform, files with sizes, views, seed), so
a stale entry is never found.  It is written aside, synced and renamed; on opening, its metadata and the
checksum of its bytes are verified, and an entry that fails is rebuilt.

Shapes: N images, V views, E embedding size, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gcsearch.backbone import Backbone
from gcsearch.datasets import Dataset, Item, Progress
from gcsearch.errors import InputError
from gcsearch.files import whole

FORMAT = 1
BATCH = 256


def centre(image: Image.Image, size: int) -> Image.Image:
    """The fixed transform: shorter side to `size` (bicubic), then the middle square."""
    width, height = image.size
    shorter = min(width, height)
    scaled = (int(size * width / shorter), int(size * height / shorter))
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def random_view(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """The training transform: a crop of 8 to 100 % of the area, ratio 3/4 to 4/3, bicubic; flip with p = 0.5.

    As in CLIP prompt learning's usual recipe: ten tries for a crop that fits, then the middle.
    """
    box = _random_box(*image.size, generator)
    view = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else view


def _random_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass(frozen=True)
class FeatureCache:
    """Encoded images of one backbone below one folder."""

    folder: Path
    backbone: Backbone

    def fixed(self, dataset: Dataset, items: Sequence[Item], progress: Progress | None = None) -> Tensor:
        """Features [N, E] of `items` under the fixed transform, read-only."""
        return self._entry(dataset, items, "centre", [None], progress)[0]

    def views(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        *,
        seed: int,
        count: int,
        progress: Progress | None = None,
    ) -> Tensor:
        """Features [V, N, E] of `count` augmented views of `items`, drawn from `seed`, read-only."""
        return self._entry(dataset, items, "random_view", [(seed, view) for view in range(count)], progress)

    def _entry(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        transform: str,
        draws: Sequence[tuple[int, int] | None],
        progress: Progress | None,
    ) -> Tensor:
        key = self._key(dataset, items, transform, draws)
        path = self.folder / f"{dataset.name}-{transform}-{key[:20]}.arrow"
        shape = (len(draws), len(items), self.backbone.embedding_size)
        found = _read(path, key, shape)
        if found is None:
            batches = self._encode(dataset, items, draws, progress)
            _write(path, key, shape, batches)
            found = _read(path, key, shape)
        if found is None:
            raise OSError(f"{path} was written but does not verify; is the disk sound?")
        return found

    def _key(
        self, dataset: Dataset, items: Sequence[Item], transform: str, draws: Sequence[tuple[int, int] | None]
    ) -> str:
        stated = {
            "format": FORMAT,
            "weights": self.backbone.fingerprint,
            "transform": [transform, self.backbone.image_size, self.backbone.mean, self.backbone.std],
            "draws": list(draws),
            "files": [[item.path, (dataset.images / item.path).stat().st_size] for item in items],
        }
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def _encode(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        draws: Sequence[tuple[int, int] | None],
        progress: Progress | None,
    ) -> Iterator[Tensor]:
        size, total = self.backbone.image_size, len(draws) * len(items)
        done = 0
        for draw in draws:
            for start in range(0, len(items), BATCH):
                part = items[start : start + BATCH]
                pixels = [self._pixels(dataset.images / item.path, size, draw, item.path) for item in part]
                yield self.backbone.encode_images(self._normalise(np.stack(pixels)))
                done += len(part)
                if progress:
                    progress(done, total)

    def _pixels(self, path: Path, size: int, draw: tuple[int, int] | None, name: str) -> np.ndarray:
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise InputError("every image must be readable", file=path, received=str(error)) from None
        if draw is None:
            return np.asarray(centre(image, size))
        # Each view has a generator of its own, so that its crop depends on nothing but itself.
        generator = np.random.default_rng([*draw, zlib.crc32(name.encode())])
        return np.asarray(random_view(image, size, generator))

    def _normalise(self, pixels: np.ndarray) -> Tensor:
        """[N, S, S, 3] bytes to [N, 3, S, S] floats with CLIP's mean and deviation."""
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor(self.backbone.mean), torch.tensor(self.backbone.std)
        return (values - mean[:, None, None]) / std[:, None, None]


def _write(path: Path, key: str, shape: tuple[int, ...], batches: Iterator[Tensor]) -> None:
    """Write the rows as one Arrow file: a reader sees a whole entry or none."""
    rows = torch.cat([batch.cpu() for batch in batches]).numpy() if shape[0] * shape[1] else np.zeros((0, shape[2]))
    flat = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1)
    metadata = {"gcsearch": json.dumps({"key": key, "shape": shape, "crc32": zlib.crc32(flat.data)})}
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), shape[2])
    table = pa.table({"feature": column}).replace_schema_metadata(metadata)
    with whole(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read(path: Path, key: str, shape: tuple[int, ...]) -> Tensor | None:
    """The entry's features [V, N, E] without copying, or None where it is absent, foreign or damaged."""
    if not path.exists():
        return None
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        stated = json.loads((table.schema.metadata or {})[b"gcsearch"])
        chunks = table["feature"].chunks
        flat = chunks[0].flatten().to_numpy() if chunks else np.zeros(0, np.float32)
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, IndexError):
        return None
    if stated != {"key": key, "shape": list(shape), "crc32": zlib.crc32(flat.data)} or flat.size != math.prod(shape):
        return None
    with warnings.catch_warnings():
        # The pages are read-only and stay so: features are never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(flat).reshape(shape)
