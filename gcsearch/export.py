"""The champion to files that stand on their own.

DIR/
    config.toml                 `gcsearch train DIR/config.toml` gives the same numbers again
    prompt.safetensors          what was trained, of every seed: `seed_4.ctx` the context vectors [n, D] (or
                                [C, n, D], class-specific), `seed_4.meta_net...` CoCoOp's network
    text_features.safetensors   unit text features [C, E] of every seed, `seed_4`; class names in the metadata;
                                not there for prompts that depend on the image
    metrics.json                the numbers, the ranking row, and where they come from
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gcsearch.errors import InputError
from gcsearch.files import to_toml, write_tensors, write_whole
from gcsearch.schema import TrialFile, TrialRecord

FILES = ("config.toml", "prompt.safetensors", "text_features.safetensors", "metrics.json")


def write(
    folder: Path,
    *,
    trial: TrialFile,
    record: TrialRecord,
    prompts: Sequence[Mapping[str, Tensor]],
    features: Sequence[Tensor],
    names: Mapping[str, Sequence[str]],
    provenance: Mapping[str, Any],
    force: bool = False,
) -> Path:
    """Write the export to `folder` and return it.

    Args:
        trial: what `gcsearch train` needs; record: the confirmed numbers (stage `test`).
        prompts: per seed, what was trained by name; empty for a method that trains nothing.
        features: per seed, [C, E] for all names in their order; empty where they depend on the image.
        names: class names by part, `base` and `new` or `all`, in the order of the features.
        force: replace an earlier export; a folder that holds anything else is never touched.

    Raises:
        InputError: the folder exists and is not an export, or is one and `force` is not set.
    """
    folder = folder.resolve()
    _check_free(folder, force)
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    comment = (
        f"The best configuration of the sweep {provenance.get('sweep', '')}.\nRun it again: gcsearch train config.toml"
    )
    write_whole(aside / "config.toml", to_toml(trial.to_dict(), comment))
    seeds = [f"seed_{seed}" for seed in record.seeds]
    texts = {"names": json.dumps({side: list(part) for side, part in names.items()})}
    if prompts:
        tensors = {
            f"{seed}.{name}": tensor for seed, one in zip(seeds, prompts, strict=True) for name, tensor in one.items()
        }
        write_tensors(aside / "prompt.safetensors", tensors, {"config": trial.trial.digest})
    if features:
        write_tensors(aside / "text_features.safetensors", dict(zip(seeds, features, strict=True)), texts)
    content = {"record": record.to_dict() | {"curve": []}, "provenance": dict(provenance)}
    write_whole(aside / "metrics.json", json.dumps(content, indent=2) + "\n")
    former = folder.with_name(f".{folder.name}.former")
    if folder.exists():
        folder.rename(former)
    aside.rename(folder)
    shutil.rmtree(former, ignore_errors=True)
    return folder


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    foreign = not folder.is_dir() or not (folder / "config.toml").exists()
    foreign = foreign or any(path.name not in FILES for path in folder.iterdir())
    if foreign:
        raise InputError(
            "an export goes to a new folder, or replaces an earlier export",
            file=folder,
            key="--out",
            remedy="Name another folder: this one holds something else.",
        )
    if not force:
        raise InputError(
            "the folder holds an earlier export already",
            file=folder,
            key="--out",
            remedy="Add --force to replace it, or name another folder.",
        )
