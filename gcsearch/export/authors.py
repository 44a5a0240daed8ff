"""A configuration as options of the GCSCoOp authors' code: a file for it, and command lines.

Their trainer `SharpCoOp` with the optimiser `gcsam` is GCSCoOp, with `sam` SAM.  Option names as in that code; what it
has no option for is never made up, but said.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gcsearch.clip.preprocess import OPENAI_MEAN, OPENAI_STD
from gcsearch.config.task import Task
from gcsearch.config.trials import TrialConfig
from gcsearch.methods.registry import build
from gcsearch.methods.schedule import WARMUP_LR

_OPTIMISERS = {"gcscoop": "gcsam", "sam": "sam"}
_WORDS = "a photo of a"  # the only words that their trainer starts from
_BACKBONES = {
    "ViT-B-16": ("ViT-B/16", 224),
    "ViT-B-32": ("ViT-B/32", 224),
    "RN50": ("RN50", 224),
    "RN101": ("RN101", 224),
    "RN50x4": ("RN50x4", 288),
    "RN50x16": ("RN50x16", 384),
}
"""Their name and image size of all that the table of models in their `clip/clip.py` has: no ViT-L/14, no RN50x64."""
_DATASETS = {
    "OxfordPets": "oxford_pets",
    "OxfordFlowers": "oxford_flowers",
    "FGVCAircraft": "fgvc_aircraft",
    "DescribableTextures": "dtd",
    "EuroSAT": "eurosat",
    "StanfordCars": "stanford_cars",
    "Food101": "food101",
    "SUN397": "sun397",
    "Caltech101": "caltech101",
    "UCF101": "ucf101",
    "ImageNet": "imagenet",
}


class Options(NamedTuple):
    """`file` is the configuration file, `commands` a shell script; both empty where `reason` says why."""

    file: str = ""
    commands: str = ""
    reason: str = ""


def options(config: TrialConfig, task: Task, seeds: Sequence[int]) -> Options:
    """The configuration for the authors' code, or the reason why that code cannot run it."""
    values = build(config).hyperparameters
    if config.method not in _OPTIMISERS:
        return Options(
            reason=f"Options for the GCSCoOp authors' code are written for GCSCoOp and SAM, not for {config.method}."
        )
    if values["ctx_init"] not in ("", _WORDS):
        return Options(
            reason=f"The authors' code starts from {_WORDS!r} or at random, not from {values['ctx_init']!r}."
        )
    if values["class_specific"] and values["ctx_init"]:
        return Options(reason="The authors' code ignores class-specific vectors where they start from words.")
    import yaml

    notes = _differences(task, seeds)

    head = ["Options for the GCSCoOp authors' train.py: a file for --config-file.", *notes]
    file = "".join(f"# {line}\n" for line in head) + yaml.safe_dump(_tree(values, config, task), sort_keys=False)
    return Options(file, _commands(values, task, seeds, notes))


def _differences(task: Task, seeds: Sequence[int]) -> list[str]:
    """What their code does otherwise whatever its options are, in words."""
    notes = ["Prompts are float32 in gcsearch: PREC is fp32 here, and fp16 by their default."]
    if task.dataset not in _DATASETS:
        notes.append(f"It has no data set {task.dataset}: DATASET stands for the file of one that you add.")
    weights = f"{task.backbone} {task.pretrained or ''}".rstrip()
    if task.pretrained != "openai":
        notes.append(f"It loads OpenAI's weights alone, and these results are from {weights}.")
    elif _backbone(task) is None:
        known = ", ".join(name for name, _ in _BACKBONES.values())
        notes.append(f"Its table of models ({known}) has no {task.backbone}, which these results are from.")
    if 0 in seeds:
        notes.append("It takes seeds above 0 only: seed 0 is left out.")
    return notes


def _backbone(task: Task) -> tuple[str, int] | None:
    """Their name of the backbone and the side of its images; None where they have no such model.

    open_clip's names with QuickGELU are of the same models, as OpenAI trained them.
    """
    return _BACKBONES.get(task.backbone.removesuffix("-quickgelu"))


def _flat(values: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """What its scripts give on the command line."""
    found: dict[str, Any] = {
        "TRAINER.COOP.N_CTX": values["n_ctx"],
        "TRAINER.COOP.CSC": values["class_specific"],
        "TRAINER.COOP.CLASS_TOKEN_POSITION": values["position"],
        "OPTIM.RHO": values["rho"],
    }
    if "beta1" in values:
        # Any lower bound <= 0 removes the branch of the plain gradient.
        found["OPTIM.LOWBOUND"] = 0.0 if values["beta1"] == "off" else values["beta1"]
        found["OPTIM.UPBOUND"] = values["beta2"]
    return found | {"DATASET.NUM_SHOTS": task.shots, "DATASET.SUBSAMPLE_CLASSES": task.classes}


def _tree(values: Mapping[str, Any], config: TrialConfig, task: Task) -> dict[str, Any]:
    """The whole configuration, nested as in their files."""
    flat: dict[str, Any] = {
        "DATALOADER.TRAIN_X.BATCH_SIZE": values["batch_size"],
        "INPUT.SIZE": [224, 224],
        "INPUT.INTERPOLATION": "bicubic",
        "INPUT.PIXEL_MEAN": list(OPENAI_MEAN),
        "INPUT.PIXEL_STD": list(OPENAI_STD),
        "INPUT.TRANSFORMS": ["random_resized_crop", "random_flip", "normalize"],
        "OPTIM.NAME": _OPTIMISERS[config.method],
        "OPTIM.LR": values["lr"],
        "OPTIM.MAX_EPOCH": values["epochs"],
        "OPTIM.MOMENTUM": values["momentum"],
        "OPTIM.WEIGHT_DECAY": values["weight_decay"],
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "OPTIM.WARMUP_CONS_LR": WARMUP_LR,
        "TRAINER.COOP.CTX_INIT": bool(values["ctx_init"]),
        "TRAINER.COOP.PREC": "fp32",
    }
    if known := _backbone(task):
        flat["MODEL.BACKBONE.NAME"], side = known
        flat["INPUT.SIZE"] = [side, side]
    tree: dict[str, Any] = {}
    for key, value in (flat | _flat(values, task)).items():
        *path, last = key.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def _commands(values: Mapping[str, Any], task: Task, seeds: Sequence[int], notes: Sequence[str]) -> str:
    words = [word for key, value in _flat(values, task).items() for word in (key, str(value))]
    dataset = f"configs/datasets/{_DATASETS.get(task.dataset, 'DATASET')}.yaml"
    lines = [
        f"# {note}" for note in ("In the folder of the authors' train.py; DATA is the folder of data sets.", *notes)
    ]
    for seed in seeds:
        if seed > 0:
            command = ["python", "train.py", "--root", "DATA", "--seed", str(seed), "--trainer", "SharpCoOp"]
            command += ["--dataset-config-file", dataset, "--config-file", "authors.yaml"]
            lines.append(shlex.join([*command, "--output-dir", f"output/seed{seed}", *words]))
    return "\n".join(lines) + "\n"
