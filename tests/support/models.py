"""Models of CLIP with random weights: every part is the one that real weights go through."""

from __future__ import annotations

from importlib import import_module

import torch

from gcsearch.clip import model as backbones
from gcsearch.clip.model import Backbone


def random_clip(width: int, layers: int, embed: int, seed: int = 0):
    """A small CLIP of OpenAI's architecture and open_clip's own class."""
    backbones.declare_torchvision_operators()
    library = import_module("open_clip.model")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = library.CLIP(
            embed_dim=embed,
            vision_cfg=library.CLIPVisionCfg(image_size=32, layers=1, width=64, patch_size=16),
            text_cfg=library.CLIPTextCfg(
                context_length=77, vocab_size=49408, width=width, heads=width // 64, layers=layers
            ),
            quick_gelu=True,
        )
    return model.eval().requires_grad_(False)


def random_model(name: str, seed: int = 0):
    """open_clip's own model of that name."""
    backbones.declare_torchvision_operators()
    library = import_module("open_clip")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return library.create_model(name, load_weights=False).eval().requires_grad_(False)


def as_backbone(model, name: str = "tiny") -> Backbone:
    """A model of open_clip's as gcsearch holds it."""
    return Backbone(
        name=name,
        tower=backbones.text_tower(model, name),
        image_size=32,
        embedding_size=model.text_projection.shape[1],
        fingerprint=backbones.fingerprint(model),
        model=model,
    )
