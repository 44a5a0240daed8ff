"""The frozen CLIP behind one door: the only module that imports open_clip.

Shapes: D text width, E joint embedding size, N images, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcsearch.block import Block, fold
from gcsearch.errors import InputError
from gcsearch.tower import TextTower

MINI_FILE = Path(__file__).parent / "assets" / "mini.safetensors"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@cache
def declare_torchvision_operators() -> bool:
    """Make `import torchvision` work beside a build of torch that its compiled operators do not fit.

    A CPU build of torch cannot load torchvision's compiled library, and torchvision then fails on
    registering the shapes of two detection operators.  CLIP needs only its Python transforms, so the two
    operators are declared (without an implementation) before the import, only when they are absent.

    Returns whether the declaration was needed: `gcsearch doctor` reports it.
    """
    try:
        import torchvision

        return False
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # A Library that is garbage-collected takes its definitions along.
    declare_torchvision_operators.library = library  # type: ignore[attr-defined]
    import torchvision  # noqa: F401

    return True


def _open_clip() -> Any:
    declare_torchvision_operators()
    import open_clip

    return open_clip


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP: image encoder, text tower, tokenizer, and a fingerprint of the weights."""

    name: str
    tower: TextTower
    image_size: int
    embedding_size: int
    fingerprint: str
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    model: nn.Module = field(repr=False, default_factory=nn.Identity)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, 3, S, S] to image features of unit length [N, E], float32."""
        model: Any = self.model
        features = model.encode_image(pixels.to(self.tower.device))
        return F.normalize(features.float(), dim=-1)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text` without start and end markers; underscores count as spaces."""
        return _tokenizer().encode(text.replace("_", " "))


@cache
def _tokenizer() -> Any:
    from importlib import import_module

    _open_clip()
    return import_module("open_clip.tokenizer").SimpleTokenizer()


def load(name: str, pretrained: str | None = None, device: str = "cpu") -> Backbone:
    """Load a frozen CLIP: `mini` (bundled), or any open_clip model by name and tag or checkpoint file.

    Raises:
        InputError: unknown name or tag, missing file, or a text tower that is not causal and EOT-pooled.
    """
    model = _load_mini() if name == "mini" else _load_open_clip(name, pretrained)
    model = model.eval().requires_grad_(False).to(device)
    visual: Any = model.visual
    size = visual.image_size
    return Backbone(
        name=name,
        tower=text_tower(model, name),
        image_size=size[0] if isinstance(size, tuple) else size,
        embedding_size=visual.output_dim,
        fingerprint=fingerprint(model),
        mean=tuple(getattr(visual, "image_mean", None) or OPENAI_MEAN),
        std=tuple(getattr(visual, "image_std", None) or OPENAI_STD),
        model=model,
    )


def _load_open_clip(name: str, pretrained: str | None) -> nn.Module:
    library = _open_clip()
    if name not in library.list_models():
        from gcsearch.errors import unknown_name

        raise unknown_name("backbone", name, ["mini", *library.list_models()], key="task.backbone")
    tags = library.list_pretrained_tags_by_model(name)
    if pretrained is None or (pretrained not in tags and not Path(pretrained).is_file()):
        raise InputError(
            "pretrained must be a tag of this backbone or an existing checkpoint file",
            key="task.pretrained",
            received=pretrained,
            remedy=f"Tags of {name}: {', '.join(tags) or 'none'}.",
        )
    try:
        return library.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the weights of {name} could not be loaded: {error}",
            key="task.pretrained",
            received=pretrained,
            remedy="Without network, download the checkpoint elsewhere and give its path as `pretrained`.",
        ) from error


def mini_state_dict() -> dict[str, Tensor]:
    """The bundled model's weights under OpenAI's names, the token table at its full 49408 rows.

    The file stores only the rows that training touched; all others are zero.
    """
    from safetensors import safe_open

    with safe_open(MINI_FILE, framework="pt") as file:
        state = {key: file.get_tensor(key).float() for key in file.keys() if key != "token_embedding.rows"}  # noqa: SIM118
        rows = file.get_tensor("token_embedding.rows")
    table = torch.zeros(mini_architecture()["text"]["vocab_size"], state["token_embedding.weight"].shape[1])
    table[rows] = state["token_embedding.weight"]
    return {**state, "token_embedding.weight": table}


def mini_architecture() -> dict[str, Any]:
    """Sizes of the bundled model, from its file's metadata."""
    from safetensors import safe_open

    with safe_open(MINI_FILE, framework="pt") as file:
        return json.loads(file.metadata()["architecture"])


def _load_mini() -> nn.Module:
    from importlib import import_module

    _open_clip()
    library = import_module("open_clip.model")
    sizes = mini_architecture()
    model = library.CLIP(
        embed_dim=sizes["embed_dim"],
        vision_cfg=library.CLIPVisionCfg(image_size=sizes["image_size"], **sizes["vision"]),
        text_cfg=library.CLIPTextCfg(**sizes["text"]),
        quick_gelu=sizes["quick_gelu"],
    )
    model.load_state_dict(mini_state_dict(), strict=True)
    return model


def text_tower(model: Any, name: str) -> TextTower:
    """The text half of an open_clip model. InputError where it is not causal and pooled at EOT."""
    text = getattr(model, "text", model)
    mask = getattr(text, "attn_mask", None)
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
    projection = getattr(text, "text_projection", None)
    if mask is None or pool != "argmax" or not isinstance(projection, Tensor):
        raise InputError(
            "gcsearch trains prompts of text towers that are causal, pooled at the end token and projected by a matrix",
            key="task.backbone",
            received=name,
            remedy="Choose a CLIP model such as ViT-B-16, ViT-B-32, ViT-L-14 or RN50.",
        )
    scale, shift = text.ln_final.weight.detach().float(), text.ln_final.bias.detach().float()
    matrix = projection.detach().float()
    return TextTower(
        blocks=tuple(_block(block, name) for block in text.transformer.resblocks),
        token_embedding=text.token_embedding.weight.detach().float(),
        positions=text.positional_embedding.detach().float(),
        projection=(scale[:, None] * matrix).T.contiguous(),
        projection_bias=shift @ matrix,
        eps=text.ln_final.eps,
        logit_scale=float(model.logit_scale.detach().float().exp()),
    )


def _block(block: Any, name: str) -> Block:
    activation = block.mlp.gelu
    if type(activation).__name__ not in ("QuickGELU", "GELU") or type(block).__name__ != "ResidualAttentionBlock":
        raise InputError(
            "gcsearch knows text towers of CLIP's residual blocks with GELU or QuickGELU",
            key="task.backbone",
            received=f"{name} ({type(block).__name__} with {type(activation).__name__})",
            remedy="Choose a CLIP model such as ViT-B-16, ViT-B-32, ViT-L-14 or RN50.",
        )
    return fold(
        block.ln_1,
        block.attn,
        block.ln_2,
        block.mlp.c_fc,
        block.mlp.c_proj,
        gelu=getattr(activation, "approximate", None),
        out_scale=getattr(block.ls_1, "gamma", 1.0),
        proj_scale=getattr(block.ls_2, "gamma", 1.0),
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
