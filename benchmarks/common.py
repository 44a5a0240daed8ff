"""What the benchmarks share: flags, random models of real sizes, class names, timing, tables, hardware."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gcsearch.clip import model as backbones
from gcsearch.clip.model import Backbone
from gcsearch.methods.registry import find
from gcsearch.training.episodes import Episode, Half
from gcsearch.training.population import Member, Population

WORDS = (
    "cat", "red fox", "sea otter", "golden retriever", "great white shark", "american staffordshire terrier",
    "tractor", "fire truck", "grand piano", "japanese spitz dog", "black footed ferret",
    "sydney harbour bridge at night",
)  # fmt: skip
"""Names of one to six tokens: the lengths of real class names."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a CLIP."""

    width: int
    layers: int
    embed: int
    image: int
    patch: int
    vision_width: int
    vision_layers: int


B16 = Sizes(width=512, layers=12, embed=512, image=224, patch=16, vision_width=768, vision_layers=12)
TINY = Sizes(width=64, layers=2, embed=32, image=32, patch=16, vision_width=64, vision_layers=1)


@dataclass(frozen=True)
class Hardware:
    """What a number was measured on."""

    processor: str
    threads: int
    device: str
    precision: str

    @classmethod
    def here(cls, args: argparse.Namespace) -> Hardware:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
        return cls(models[0] if models else "unknown", torch.get_num_threads(), device, args.precision)

    def __str__(self) -> str:
        where = f"{self.processor}, {self.threads} threads" if self.device == "cpu" else self.device
        return f"{where}, {self.precision}, torch {torch.__version__}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every benchmark."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it is right")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")


def settle(args: argparse.Namespace, quick: dict[str, Any]) -> Sizes:
    """Set the threads and, with --quick, the small values; the sizes of the towers."""
    torch.set_num_threads(args.threads)
    if not args.quick:
        return B16
    print("quick form: tiny sizes, to see that it is right; its times say nothing", file=sys.stderr)
    for name, value in quick.items():
        setattr(args, name, value)
    return TINY


def build(sizes: Sizes, device: str = "cpu", precision: str = "float32") -> tuple[Any, Backbone]:
    """A CLIP of OpenAI's architecture with random weights, and the backbone of it."""
    backbones.declare_torchvision_operators()
    library = import_module("open_clip.model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = library.CLIP(
            embed_dim=sizes.embed,
            vision_cfg=library.CLIPVisionCfg(
                image_size=sizes.image, layers=sizes.vision_layers, width=sizes.vision_width, patch_size=sizes.patch
            ),
            text_cfg=library.CLIPTextCfg(
                context_length=77,
                vocab_size=49408,
                width=sizes.width,
                heads=sizes.width // 64,
                layers=sizes.layers,
            ),
            quick_gelu=True,
        )
    model = model.eval().requires_grad_(False).to(device)
    tower = backbones.text_tower(model, "random").to(getattr(torch, precision))
    return model, Backbone("random", tower, sizes.image, sizes.embed, backbones.fingerprint(model), model=model)


def names_of(count: int) -> list[str]:
    """Class names of one to six tokens in equal shares."""
    return [WORDS[index % len(WORDS)] for index in range(count)]


def population(
    backbone: Backbone, names: Sequence[str], images: Tensor, labels: Tensor, members: int, limit: int | None = None,
    method: str = "gcscoop", **values: float,
) -> Population:  # fmt: skip
    """Members whose every epoch is one step on `images` [B, E]."""
    half = Half(torch.arange(len(names)), images, labels)
    episode = Episode(0, "search", tuple(names), images[None], labels, half, half)
    setting = find(method).configured({"batch_size": len(images), "lr": 0.002, **values})
    return Population(backbone, [Member(setting, episode)] * members, limit=limit)


def random_images(count: int, size: int, classes: int) -> tuple[Tensor, Tensor]:
    """Unit features [N, E] and labels [N]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, size, generator=generator)
    return images / images.norm(dim=-1, keepdim=True), torch.randint(classes, (count,), generator=generator)


def seconds(work: Callable[[], Any], repeats: int, *, warm: bool = False) -> float:
    """Median seconds of `work`, after one run more unless it is `warm`; waits for the GPU where there is one."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    if not warm:
        once()
    return median(once() for _ in range(repeats))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table, so that it can be pasted into a dated result."""
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
