"""The frozen CLIP behind one door: the only module that imports open_clip.

Shapes: G groups (members of a population, or 1), C classes, Lp and Ls positions of prefix and suffix,
D text width, H heads, E joint embedding size, N images, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcsearch.errors import InputError

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
class Block:
    """One residual block of the text tower: attention and perceptron, each after a LayerNorm."""

    ln_1: nn.LayerNorm
    qkv_weight: Tensor  # [3D, D]
    qkv_bias: Tensor  # [3D]
    out: nn.Linear
    ln_2: nn.LayerNorm
    fc: nn.Linear
    activation: Callable[[Tensor], Tensor]
    proj: nn.Linear
    heads: int

    def keys_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """LayerNormed states [..., L, D] to keys and values [..., H, L, D/H]."""
        width = normed.shape[-1]
        keys, values = F.linear(normed, self.qkv_weight[width:], self.qkv_bias[width:]).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def queries(self, normed: Tensor) -> Tensor:
        """LayerNormed states [..., L, D] to queries [..., H, L, D/H], divided by sqrt(D/H)."""
        width = normed.shape[-1]
        scale = (width // self.heads) ** -0.5
        return self._split(F.linear(normed, self.qkv_weight[:width], self.qkv_bias[:width])) * scale

    def finish(self, states: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output [..., H, L, D/H] and the perceptron to the states [..., L, D]."""
        merged = attended.transpose(-3, -2).flatten(-2)
        states = states + self.out(merged)
        return states + self.proj(self.activation(self.fc(self.ln_2(states))))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


@dataclass(frozen=True)
class TextTower:
    """CLIP's frozen text transformer, evaluated only where it matters.

    The tower is causal and pooled at the end-of-text token (EOT), so nothing after EOT counts, and a prefix
    that several classes share has the same keys and values for all of them: `encode` computes it once per
    group instead of once per class.  Equal to the full 77-token forward up to rounding.
    """

    blocks: tuple[Block, ...]
    token_embedding: Tensor  # [V, D]
    positions: Tensor  # [77, D]
    ln_final: nn.LayerNorm
    projection: Tensor  # [D, E]
    logit_scale: float  # exp of the stored parameter; 100 for OpenAI's weights
    start: int = 49406
    end: int = 49407

    @property
    def width(self) -> int:
        return self.token_embedding.shape[1]

    @property
    def device(self) -> torch.device:
        return self.token_embedding.device

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Token ids to embeddings [len(tokens), D], without positions."""
        return self.token_embedding[torch.tensor(tokens, dtype=torch.long, device=self.device)]

    def encode(self, prefix: Tensor, suffix: Tensor, eot: Tensor) -> Tensor:
        """Text features of unit length for every group and class.

        Args:
            prefix: embeddings [G, Lp, D] shared by all classes of a group: start token and context.
            suffix: embeddings [G or 1, C, Ls, D] that follow, padded at the end: name, full stop, EOT.
            eot: position of EOT within the suffix, [G or 1, C].

        Returns:
            [G, C, E].
        """
        groups, shared = prefix.shape[:2]
        length = suffix.shape[2]
        if shared + length > self.positions.shape[0]:
            raise InputError(
                f"context, class name and markers must fit into {self.positions.shape[0]} tokens",
                received=shared + length,
                remedy="Use fewer context vectors or shorter class names.",
            )
        head = prefix + self.positions[:shared]
        tail = suffix + self.positions[shared : shared + length]
        for block in self.blocks[:-1]:
            head, tail = self._advance(block, head, tail)
        pooled = self._last(self.blocks[-1], head, tail, eot)
        features = self.ln_final(pooled) @ self.projection
        return F.normalize(features, dim=-1).expand(groups, -1, -1)

    def _advance(self, block: Block, head: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        normed = block.ln_1(head)
        keys, values = block.keys_values(normed)  # [G, H, Lp, d]
        attended = F.scaled_dot_product_attention(block.queries(normed), keys, values, is_causal=True, scale=1.0)
        normed = block.ln_1(tail)
        queries = block.queries(normed)  # [G or 1, C, H, Ls, d]
        crossed = _attend(queries, keys, values, *block.keys_values(normed), _causal(tail.shape[2], tail.device))
        return block.finish(head, attended), block.finish(tail, crossed)

    def _last(self, block: Block, head: Tensor, tail: Tensor, eot: Tensor) -> Tensor:
        """The last block at EOT only: [G, C, D]. Nothing else of it is ever read."""
        keys, values = block.keys_values(block.ln_1(head))
        normed = block.ln_1(tail)
        own_keys, own_values = block.keys_values(normed)
        at_eot = eot[:, :, None, None].expand(*tail.shape[:2], 1, tail.shape[3])
        queries = block.queries(normed.gather(2, at_eot))  # [G or 1, C, H, 1, d]
        seen = torch.arange(tail.shape[2], device=tail.device) <= eot[..., None]
        mask = torch.zeros_like(seen, dtype=tail.dtype).masked_fill(~seen, float("-inf"))
        attended = _attend(queries, keys, values, own_keys, own_values, mask[:, :, None, None])
        return block.finish(tail.gather(2, at_eot), attended).squeeze(2)


def _causal(length: int, device: torch.device) -> Tensor:
    return torch.full((length, length), float("-inf"), device=device).triu(1)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor, mask: Tensor
) -> Tensor:
    """Attention of each class's queries to the group's shared positions and to its own.

    The shared part folds classes and positions into one matrix product per group and head, so that the
    shared keys and values are never copied per class.

    Args:
        queries: [G or 1, C, H, Lq, d]; keys, values: shared, [G, H, Lp, d]; own_keys, own_values:
            [G or 1, C, H, Ls, d]; mask: added to the own scores, broadcast to [.., C, H, Lq, Ls].

    Returns:
        [G, C, H, Lq, d].
    """
    groups, heads, shared, size = keys.shape
    classes, asked = queries.shape[1], queries.shape[3]
    folded = queries.transpose(1, 2).reshape(queries.shape[0], heads, classes * asked, size)
    to_shared = (folded @ keys.transpose(-1, -2)).unflatten(2, (classes, asked)).transpose(1, 2)
    to_own = (queries @ own_keys.transpose(-1, -2) + mask).expand(groups, -1, -1, -1, -1)
    weights = torch.cat([to_shared, to_own], dim=-1).softmax(dim=-1)
    from_shared = weights[..., :shared].transpose(1, 2).reshape(groups, heads, classes * asked, shared) @ values
    return from_shared.unflatten(2, (classes, asked)).transpose(1, 2) + weights[..., shared:] @ own_values


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
    return TextTower(
        blocks=tuple(_block(block) for block in text.transformer.resblocks),
        token_embedding=text.token_embedding.weight.detach().float(),
        positions=text.positional_embedding.detach().float(),
        ln_final=text.ln_final.float(),
        projection=projection.detach().float(),
        logit_scale=float(model.logit_scale.detach().float().exp()),
    )


def _block(block: Any) -> Block:
    attention, perceptron = block.attn, block.mlp
    return Block(
        ln_1=block.ln_1.float(),
        qkv_weight=attention.in_proj_weight.detach().float(),
        qkv_bias=attention.in_proj_bias.detach().float(),
        out=attention.out_proj.float(),
        ln_2=block.ln_2.float(),
        fc=perceptron.c_fc.float(),
        activation=perceptron.gelu,
        proj=perceptron.c_proj.float(),
        heads=attention.num_heads,
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
