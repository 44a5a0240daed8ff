"""The frozen CLIP behind one door: the only module that imports open_clip.

Shapes: D text width, E joint embedding size, N images, S image side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcsearch import files
from gcsearch.clip import checkpoints
from gcsearch.clip.block import Block, fold
from gcsearch.clip.checkpoints import Sizes, WeightsFile
from gcsearch.clip.preprocess import OPENAI_MEAN, OPENAI_STD, Interpolation, Preparation, ResizeMode
from gcsearch.clip.text_tower import TextTower
from gcsearch.errors import InputError, unknown_name

VOCABULARY = 49408  # tokens of CLIP's tokenizer, the only one that there is here
MINI_FILE = files.ASSETS / "mini.safetensors"
_WORD_END = "</w>"  # ends a token of the vocabulary that ends a word


@cache
def declare_torchvision_operators() -> bool:
    """Make `import torchvision` work beside a build of torch that its compiled operators do not fit.

    A CPU build of torch cannot load torchvision's compiled library, and torchvision then fails on
    registering the shapes of two detection operators.  CLIP needs only its Python transforms, so the two
    operators are declared (without an implementation) before the import, only when they are absent.

    Returns whether the declaration was needed: `gcsearch doctor` reports it, with `OPEN_CLIP_ELSEWHERE`.
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


OPEN_CLIP_ELSEWHERE = """from gcsearch.clip.model import declare_torchvision_operators

declare_torchvision_operators()
import open_clip
"""
"""What makes `import open_clip` work in a user's own script, beside such a torch."""


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
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0
    model: nn.Module = field(repr=False, default_factory=nn.Identity)

    @property
    def preparation(self) -> Preparation:
        """How the model's images are prepared."""
        return Preparation(self.image_size, self.mean, self.std, self.interpolation, self.resize_mode, self.fill_color)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, 3, S, S] to image features of unit length [N, E], float32."""
        model: Any = self.model
        features = model.encode_image(pixels.to(self.tower.device))
        return F.normalize(features.float(), dim=-1)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text` without start and end markers; underscores count as spaces."""
        return _tokenizer().encode(text.replace("_", " "))

    def word(self, token: int) -> str:
        r"""The text of a token: `photo`, or with a mark behind it where another token must follow: `phot-`.

        The vocabulary writes bytes as letters (`Ã©` for `é`). A part of a character, and what cannot be seen, is
        shown as `\xc3`.
        """
        tokenizer = _tokenizer()
        letters: str = tokenizer.decoder[token]
        whole = bytes(tokenizer.byte_decoder[letter] for letter in letters.removesuffix(_WORD_END))
        text = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode()
            for one in whole.decode(errors="backslashreplace")
        )
        return text if letters.endswith(_WORD_END) else f"{text}-"


@cache
def _tokenizer() -> Any:
    _open_clip()
    return import_module("open_clip.tokenizer").SimpleTokenizer()


def load(name: str, pretrained: str | None = None, device: str = "cpu") -> Backbone:
    """Load a frozen CLIP: `mini` (bundled), or any open_clip model with a CLIP text tower.

    Args:
        name: a name of open_clip's; `-quickgelu` is added to it where the weights say that they need QuickGELU.
        pretrained: a tag of open_clip's (from the hub's cache, else downloaded), or a path as in `checkpoints.read`.
        device: where the model is to lie.

    Raises:
        InputError: unknown name or tag; weights that are absent, unsafe to read or of another model; a text tower
            that is not causal and EOT-pooled.
    """
    preprocessing: Mapping[str, Any] = {}
    if name == "mini":
        model = _load_mini()
    else:
        name, model, preprocessing = _load_open_clip(name, pretrained)
    model = model.eval().requires_grad_(False).to(device)
    tower = text_tower(model, name)
    visual: Any = model.visual
    size = visual.image_size
    return Backbone(
        name=name,
        tower=tower,
        image_size=size[0] if isinstance(size, tuple) else size,
        embedding_size=len(tower.projection),
        fingerprint=fingerprint(model),
        model=model,
        **_preparation(preprocessing),
    )


def _preparation(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What a `preprocess_cfg` of open_clip's says of images beside their size; None and absence mean the default."""
    found = {key: stated[key] for key in ("interpolation", "resize_mode", "fill_color") if stated.get(key) is not None}
    if found.get("interpolation") == "random":
        del found["interpolation"]  # that is for training; images to be tested are bicubic then
    for key in ("mean", "std"):
        if (value := stated.get(key)) is not None:
            found[key] = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
    Preparation(0, **found)  # refuses what is unknown
    return found


def check_model(name: str) -> None:
    """InputError for an unknown name and for a model that cannot be served. Builds nothing."""
    if name != "mini":
        _settings(name)


def has_weights(name: str, pretrained: str) -> bool:
    """Whether the weights of a model of open_clip's are on this machine; a path is not looked at.

    Builds and downloads nothing. InputError for an unknown name or tag.
    """
    _settings(name)
    if files.is_path(pretrained):
        return True
    tags = _tags(name)
    _check_tag(name, pretrained, tags)
    return bool(_cached(*_published(tags[pretrained]["hf_hub"])))


def _settings(name: str) -> dict[str, Any]:
    library = _open_clip()
    if name not in library.list_models():
        raise unknown_name("backbone", name, ["mini", *library.list_models()], key="task.backbone")
    settings: dict[str, Any] = library.get_model_config(name)
    _check_text(settings["text_cfg"], name)
    return settings


def _load_open_clip(name: str, pretrained: str | None) -> tuple[str, nn.Module, Mapping[str, Any]]:
    """The model, its name with `-quickgelu` where the weights ask for that, and how its images are prepared."""
    settings, tags = _settings(name), _tags(name)
    checkpoint = _checkpoint(name, pretrained, tags)
    if _switched(checkpoint, settings, name):
        name, settings["quick_gelu"] = f"{name}-quickgelu", True
    model = _build(settings)
    state = checkpoints.fit(checkpoint, model.state_dict(), name, _models_of)
    model.load_state_dict(state, strict=True)
    # A bare file does not tell how images are prepared: as for the model's first published weights.
    return name, model, checkpoint.preprocessing or next(iter(tags.values()), {})


def _tags(name: str) -> dict[str, dict[str, Any]]:
    """What open_clip knows of a model's published weights: place, preparation of images, whether QuickGELU."""
    table = import_module("open_clip.pretrained")
    return {tag: table.get_pretrained_cfg(name, tag) for tag in table.list_pretrained_tags_by_model(name)}


def _checkpoint(name: str, pretrained: str | None, tags: Mapping[str, dict[str, Any]]) -> WeightsFile:
    """The weights behind a tag or a path. A tag says beside them whether QuickGELU is needed."""
    if pretrained is not None and files.is_path(pretrained):
        return checkpoints.read(pretrained)
    pretrained = _check_tag(name, pretrained, tags)
    settings = tags[pretrained]
    read = checkpoints.read(_hub_file(name, pretrained, settings["hf_hub"]))
    return WeightsFile(
        read.file, read.state, quick_gelu=bool(settings.get("quick_gelu")) or None, preprocessing=settings
    )


def _check_tag(name: str, pretrained: str | None, tags: Mapping[str, dict[str, Any]]) -> str:
    """The tag. InputError where it is none of the model's."""
    if pretrained is None or pretrained not in tags:
        raise InputError(
            "pretrained must be a tag of this backbone or the path of a checkpoint",
            key="task.pretrained",
            received=pretrained,
            remedy=f"Tags of {name}: {', '.join(tags) or 'none'}. A path has a slash or a dot in it: "
            '"./folder", "weights.safetensors".',
        )
    return pretrained


def _switched(checkpoint: WeightsFile, settings: Mapping[str, Any], name: str) -> bool:
    """Whether QuickGELU takes the place of the architecture's GELU. Warns where the two may not belong together.

    Weights trained with one run with the other, a few points worse and without any error.
    """
    quick = bool(settings.get("quick_gelu"))
    if quick and checkpoint.quick_gelu is False:
        warnings.warn(
            f"{checkpoint.file} says that its model has GELU, and {name} has QuickGELU: "
            f"if the file is right, write backbone = {name.removesuffix('-quickgelu')!r}",
            stacklevel=2,
        )
    if not quick and checkpoint.perhaps_openai:
        warnings.warn(
            f"{checkpoint.file} looks like OpenAI's weights, which were trained with QuickGELU, and {name} has GELU: "
            f"if they are, write backbone = '{name}-quickgelu'",
            stacklevel=2,
        )
    return not quick and checkpoint.quick_gelu is True


def _hub_file(name: str, tag: str, place: str) -> str:
    """A tag's weights in the hub's cache; downloaded where they are not there and the hub is within reach."""
    hub = import_module("huggingface_hub")
    repository, names = _published(place)
    if cached := _cached(repository, names):
        return cached
    reason = "HF_HUB_OFFLINE forbids to ask the hub"
    try:
        # A short question first: the download itself would repeat a failed connection for half a minute.
        for file in names if not hub.is_offline_mode() else ():
            try:
                hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=10)
            except hub.errors.EntryNotFoundError:
                reason = "the hub does not have them under the usual names"
            else:
                return str(hub.hf_hub_download(repository, file))
    except Exception as error:  # of the hub's client, and of whichever library it speaks HTTP with
        reason = str(error).strip().split("\n")[0] or type(error).__name__
    raise InputError(
        f"the weights of {name} with the tag {tag} are not on this machine and could not be downloaded ({reason})",
        key="task.pretrained",
        received=tag,
        remedy=f"Where there is a network, fetch {names[0]} (or else {names[-1]}) of the hub's repository "
        f'{repository}, and name it here: `pretrained = "/path/to/{names[0]}"`. Or copy the folder '
        f"models--{repository.replace('/', '--')} of that machine's hub cache into {hub.constants.HF_HUB_CACHE}.",
    )


def _published(place: str) -> tuple[str, tuple[str, ...]]:
    """The hub's repository of a tag's weights, and the names that their file may have there."""
    repository, _, wanted = place.rpartition("/")
    return repository, (f"{wanted.rpartition('.')[0]}.safetensors", wanted) if wanted else checkpoints.FILES


def _cached(repository: str, names: Sequence[str]) -> str:
    """The file in the hub's cache; empty where it has none of these names."""
    hub = import_module("huggingface_hub")
    found = (hub.try_to_load_from_cache(repository, file) for file in names)
    return next((path for path in found if isinstance(path, str)), "")


def _check_text(text: Mapping[str, Any], name: str) -> None:
    """Refuse from a model's settings, before anything large is built, a text tower that cannot be served."""
    foreign = "hf_model_name" in text or "hf_tokenizer_name" in text
    pooled = text.get("pool_type", "argmax") == "argmax" and not text.get("embed_cls")
    if foreign or not pooled or text.get("no_causal_mask") or text.get("vocab_size") != VOCABULARY:
        raise _unserved(name)


def _unserved(name: str) -> InputError:
    return InputError(
        "gcsearch trains prompts of text towers that are causal, pooled at the end token, projected by a matrix "
        "and read CLIP's tokens",
        key="task.backbone",
        received=name,
        remedy="Choose a CLIP model such as ViT-B-16, ViT-B-32, ViT-L-14 or RN50.",
    )


def _build(settings: Mapping[str, Any]) -> nn.Module:
    """A model of open_clip's with random weights, drawn aside from the global generator."""
    library = import_module("open_clip.model")
    settings = dict(settings)
    kind = library.CustomTextCLIP if settings.pop("custom_text", False) else library.CLIP
    if "timm_model_name" in settings["vision_cfg"]:
        settings["vision_cfg"] = {**settings["vision_cfg"], "timm_model_pretrained": False}
    with torch.random.fork_rng(devices=[]):
        return kind(**settings)


def _models_of(found: Sizes) -> list[str]:
    """open_clip's models of these sizes."""
    library = _open_clip()
    return [name for name in library.list_models() if _sizes(library.get_model_config(name)) == found]


def _sizes(settings: Mapping[str, Any]) -> Sizes | None:
    image, text = settings["vision_cfg"], settings["text_cfg"]
    if "timm_model_name" in image or "layers" not in text or settings.get("custom_text"):
        return None
    layers = image["layers"]
    return Sizes(
        embed=settings["embed_dim"],
        image=image["image_size"],
        patch=image.get("patch_size"),
        vision_width=image["width"],
        vision_layers=tuple(layers) if isinstance(layers, list) else layers,
        text_width=text["width"],
        text_layers=text["layers"],
    )


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
    pooled = pool == "argmax" and getattr(text, "cls_emb", None) is None
    if mask is None or not pooled or not isinstance(projection, Tensor) or text.vocab_size != VOCABULARY:
        raise _unserved(name)
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
    """SHA-256 over names, shapes and bytes of all weights, first 16 hexadecimal digits.

    The same weights give other features with GELU than with QuickGELU: GELU counts as one more weight.
    """
    digest = hashlib.sha256()
    if any(isinstance(module, nn.GELU) for module in model.modules()):
        digest.update(b"GELU")
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
