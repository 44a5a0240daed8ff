"""Checkpoint files to weights, without running anything that a file brings along.

Safetensors hold numbers only. Pickles are read with torch's `weights_only`, which refuses whatever is not a tensor or
a plain container. TorchScript archives are programs: they are opened only where the user asked for it, `jit:PATH`.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gcsearch.errors import InputError
from gcsearch.files import ARCHIVE, read_text

KEY = "task.pretrained"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Weights in a hub folder under open_clip's names, the preferred one first."""

_OPENAI_STATE = ("input_resolution", "context_length", "vocab_size")  # only OpenAI's own archives store these
_OPENAI_MODELS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336px")
_WRAPPINGS = ("state_dict", "model_state_dict", "model", "module", "ema", "model_ema", "state_dict_ema")
"""Under which training scripts keep the weights, in the order in which they are preferred."""
_ROOTS = ("visual", "text", "transformer", "text_model", "vision_model")
"""What a CLIP's own names begin with; anything else before all of them is the name of what held the model."""
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """What a file holds: weights by name, and what it tells about the model they belong to."""

    file: Path
    state: dict[str, Tensor]
    quick_gelu: bool | None = None  # None: the file does not say
    perhaps_openai: bool = False  # looks like OpenAI's weights, which need QuickGELU, but does not say so
    preprocessing: Mapping[str, Any] | None = None  # mean, std of a hub folder's open_clip_config.json


@dataclass(frozen=True)
class Sizes:
    """The sizes by which CLIP models are told apart, read from the shapes of their weights."""

    embed: int
    image: int
    patch: int | None  # None: a ResNet
    vision_width: int
    vision_layers: int | tuple[int, ...]
    text_width: int
    text_layers: int

    def __str__(self) -> str:
        patch = "" if self.patch is None else f", patches of {self.patch} px"
        return (
            f"images of {self.image} px{patch}, image encoder {self.vision_width} wide with {self.vision_layers} "
            f"layers, text tower {self.text_width} wide with {self.text_layers} layers, features of {self.embed}"
        )


def read(pretrained: str | Path) -> WeightsFile:
    """The weights in a file, or in a hub folder: a directory with one of `FILES`, or a repository of the hub's cache.

    Args:
        pretrained: path of a .safetensors, .pt, .pth or .bin file or of a folder; `jit:PATH` for a TorchScript archive.

    Returns:
        Float tensors as float32, names without a common prefix (`module.`, `model.`), out of a wrapping `state_dict`.

    Raises:
        InputError: nothing there, not a checkpoint, or a file that needs code to be read.
    """
    text = str(pretrained)
    asked = text.startswith(ARCHIVE)
    path = Path(text.removeprefix(ARCHIVE)).expanduser()
    file = _in_folder(path) if path.is_dir() else path
    if not file.is_file():
        raise InputError("the checkpoint must exist", key=KEY, received=text, remedy="Check the path.")
    content = _archive(file) if asked else _content(file)
    state = _state(content, file)
    settings = _settings(file.parent) if path.is_dir() else {}
    quick_gelu = bool(settings["model_cfg"].get("quick_gelu")) if settings else None
    if [state.pop(name) for name in _OPENAI_STATE if name in state]:
        quick_gelu = True
    return WeightsFile(
        file=file,
        state={name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
        quick_gelu=quick_gelu,
        perhaps_openai=quick_gelu is None and (file.stem in _OPENAI_MODELS or _mixed(state.values())),
        preprocessing=settings.get("preprocess_cfg"),
    )


def _in_folder(folder: Path) -> Path:
    """The weights' file of a folder; of the revision that `refs/main` names in a repository of the hub's cache."""
    reference = folder / "refs" / "main"
    places = [folder]
    if reference.is_file():
        places.append(folder / "snapshots" / reference.read_text(encoding="utf-8").strip())
    for place in places:
        for name in FILES:
            if (place / name).is_file():
                return place / name
    raise InputError(
        "the folder must hold open_clip's weights",
        key=KEY,
        received=str(folder),
        remedy=f"It needs one of {', '.join(FILES)}. A file of another name is given by its own path.",
    )


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "open_clip_config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(read_text(file))
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("model_cfg"), dict):
        raise InputError("the file must describe an open_clip model", file=file, remedy="Fetch the folder again.")
    return found


def _content(file: Path) -> Any:
    """The object in a file, whose kind is told by its first bytes and not by its name."""
    with file.open("rb") as stream:
        start = stream.read(9)
    if start[8:] == b"{":
        return _safetensors(file)
    if _is_archive(file):
        raise InputError(
            "a TorchScript archive is a program and is opened only where that is asked for",
            key=KEY,
            received=str(file),
            remedy=f'If you trust it, write `pretrained = "{ARCHIVE}{file}"`.',
        )
    return _pickle(file)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _unreadable(file, error) from None


def _pickle(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_plain_values()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise _unreadable(file, "it is not a checkpoint, or only a part of one") from None
        raise InputError(
            f"reading the checkpoint would run code of its own ({wanted[1]}), which is refused",
            key=KEY,
            received=str(file),
            remedy="Where you trust the file, load it and save its weights alone: "
            '`safetensors.torch.save_file(model.state_dict(), "weights.safetensors")`.',
        ) from None
    except Exception as error:  # the readers of a damaged file raise anything, from IndexError to AssertionError
        raise _unreadable(file, error) from None


@cache
def _plain_values() -> list[Any]:
    """What training scripts put beside weights and torch does not know: values that run nothing when they are made."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8", "U1", "S1")]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [*((scalar, name) for name in names), np.dtype, *kinds, argparse.Namespace, PosixPath]


def _is_archive(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # none, or a damaged one, which is then refused as a checkpoint
        return False


def _archive(file: Path) -> dict[str, Tensor]:
    if not _is_archive(file):
        raise InputError(
            f"`{ARCHIVE}` is for TorchScript archives, and this is none",
            key=KEY,
            received=str(file),
            remedy="Give the path alone.",
        )
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript; OpenAI's files will stay what they are.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return dict(torch.jit.load(file, map_location="cpu").state_dict())
    except (RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, reason: object) -> InputError:
    first = str(reason).strip().split("\n")[0].rstrip(".")
    return InputError(
        f"the checkpoint cannot be read: {first}",
        key=KEY,
        received=str(file),
        remedy="Download it again, and compare its size with the original's. "
        "Known are safetensors and what torch.save writes.",
    )


def _state(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in what was read: out of its wrappings, names without a common prefix, nothing but tensors."""
    while (inside := _wrapped(content)) is not None:
        content = inside
    if not _holds_weights(content):
        found = _some(content) if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            "the checkpoint must hold tensors by name, or such under `state_dict`",
            key=KEY,
            received=f"{file} ({found})",
            remedy="Save the model's `state_dict()` alone.",
        )
    # What is no tensor, such as an epoch, a name or an optimiser's state, is none of the model's.
    state = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    while prefix := _common_prefix(name for name, tensor in state.items() if tensor.ndim):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _holds_weights(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(one, Tensor) and one.ndim for one in content.values())


def _wrapped(content: Any) -> Mapping[Any, Any] | None:
    """The mapping in `content` that has the weights, itself wrapped or not; None where `content` has them or nobody."""
    if not isinstance(content, Mapping) or _holds_weights(content):
        return None
    named = [content[name] for name in _WRAPPINGS if name in content]
    inside = [one for one in named if isinstance(one, Mapping) and (_holds_weights(one) or _wrapped(one) is not None)]
    return inside[0] if inside else None


def _common_prefix(names: Iterable[str]) -> str:
    """The first part of all `names` with its dot, where they have one in common that is no part of a CLIP's names."""
    firsts = {name.partition(".")[::2] for name in names}
    roots = {root for root, _ in firsts}
    (root, *others) = roots
    common = not others and len(firsts) > 1 and all(rest for _, rest in firsts) and root not in _ROOTS
    return f"{root}." if common else ""


def _mixed(tensors: Iterable[Tensor]) -> bool:
    """Half and single precision side by side: how OpenAI's code leaves a model on a GPU."""
    return {torch.float16, torch.float32} <= {tensor.dtype for tensor in tensors if tensor.ndim}


def _some(names: Iterable[Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def fit(
    checkpoint: WeightsFile, model: Mapping[str, Tensor], name: str, fitting: Callable[[Sizes], Iterable[str]]
) -> dict[str, Tensor]:
    """The checkpoint's weights under the names of the model's.

    Args:
        checkpoint: what was read.
        model: state dict of the model that is to take them; only names and shapes count.
        name: the model's name, for the error.
        fitting: the names of all models of given sizes, for the error.

    Raises:
        InputError: weights are missing, left over or of another size; nothing is dropped, cut or resized.
    """
    state = _renamed(checkpoint.state, model)
    missing = [key for key in model if key not in state]
    unexpected = [key for key in state if key not in model]
    wrong = [
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in model.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults = [("missing", missing), ("unexpected", unexpected), ("of another size", wrong)]
    if not any(keys for _, keys in faults):
        return state
    faults_text = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in faults if keys)
    raise InputError(
        f"the checkpoint does not fit {name} ({faults_text})",
        key=KEY,
        received=str(checkpoint.file),
        remedy=_advice(state, fitting),
    )


def _renamed(state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences that mean nothing: where the text tower is filed, the scale's empty axis, unused counters."""
    found = dict(state)
    if "text.text_projection" in model and "text_projection" in found:
        outside = ("visual.", "logit_")
        found = {key if key.startswith(outside) else f"text.{key}": tensor for key, tensor in found.items()}
    # A single number that the model has no place for, such as a step or the bias of a sigmoid loss, decides nothing.
    for key in [key for key, tensor in found.items() if key not in model and tensor.ndim == 0]:
        del found[key]
    if "logit_bias" not in model:
        found.pop("logit_bias", None)
    for key, tensor in model.items():
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, tensor)
        if key in ("logit_scale", "logit_bias") and key in found and found[key].numel() == tensor.numel():
            found[key] = found[key].reshape(tensor.shape)
    return found


def _advice(state: Mapping[str, Tensor], fitting: Callable[[Sizes], Iterable[str]]) -> str:
    if any(key.startswith(("text_model.", "vision_model.")) for key in state):
        return "It is named as in the transformers library; take the same model's checkpoint for open_clip."
    found = sizes(state)
    if found is None:
        return "Take the checkpoint of this very model, or name the model that it belongs to as `task.backbone`."
    names = list(fitting(found))
    known = f"These are the sizes of {', '.join(names)}." if names else "No model of open_clip has these sizes."
    return f"It has {found}. {known}"


def sizes(state: Mapping[str, Tensor]) -> Sizes | None:
    """The sizes of a CLIP in OpenAI's form, ViT or ResNet; None for any other."""
    text = "text." if "text.text_projection" in state else ""
    try:
        embed = state[f"{text}text_projection"].shape[1]
        width = state[f"{text}ln_final.weight"].shape[0]
        if "visual.class_embedding" in state:
            kernel = state["visual.conv1.weight"]
            vision_width, patch = kernel.shape[0], int(kernel.shape[-1])
            layers: int | tuple[int, ...] = _count(state, "visual.transformer.resblocks.")
            image = patch * _side(state["visual.positional_embedding"])
        else:
            vision_width, patch = state["visual.layer1.0.conv1.weight"].shape[0], None
            layers = tuple(_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
            image = 32 * _side(state["visual.attnpool.positional_embedding"])
    except (KeyError, IndexError):
        return None
    return Sizes(embed, image, patch, vision_width, layers, width, _count(state, f"{text}transformer.resblocks."))


def _side(positions: Tensor) -> int:
    """Patches along an image's side, from one position per patch and one for the class token."""
    return round((positions.shape[0] - 1) ** 0.5)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
