"""The champion to files that stand on their own.

DIR/
    config.toml                 `gcsearch train DIR/config.toml` gives the same numbers again
    prompt.safetensors          what was trained, of every seed: `seed_4.ctx` the context vectors [n, D] (or
                                [C, n, D], class-specific), `seed_4.meta_net...` CoCoOp's network
    text_features.safetensors   unit text features [C, E] of every seed, `seed_4`, and their `mean`, a classifier's
                                weights; class names and logit scale in the metadata; not there for prompts that
                                depend on the image
    metrics.json                the numbers, and where they come from: `Exported` of `gcsearch.results.documents`
    card.md                     the same for people
    words.md                    the nearest words to each context vector; not there where nothing was trained
    authors.yaml, authors.sh    the configuration for the GCSCoOp authors' code; not there where that code has no such
    method
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.provenance import environment
from gcsearch.config.trials import TrialFile, TrialRecord
from gcsearch.errors import InputError
from gcsearch.export import authors, card, words
from gcsearch.export.classifier import Classifier, named_parameters
from gcsearch.export.temperature import fitted
from gcsearch.files import to_toml, write_tensors, write_whole
from gcsearch.methods import registry
from gcsearch.methods.registry import Method
from gcsearch.results import documents
from gcsearch.results.documents import (
    Against,
    Chosen,
    Classes,
    Data,
    Exported,
    Frozen,
    Measured,
    Origin,
    Temperature,
    facts,
)
from gcsearch.training.task_data import Laboratory

FILES = (
    "config.toml",
    "prompt.safetensors",
    "text_features.safetensors",
    "metrics.json",
    "card.md",
    "words.md",
    "authors.yaml",
    "authors.sh",
)
_CONTENTS = {
    "config.toml": "the configuration with all that its numbers depend on",
    "prompt.safetensors": "what was trained, of every seed: `seed_4.ctx` the context vectors of seed 4",
    "text_features.safetensors": "unit text features [C, E] of every seed, and their `mean`: image features times it "
    "times the logit scale are the logits that `gcsearch predict` shows; names in the metadata",
    "metrics.json": "the numbers above for programs",
    "words.md": "the nearest words to each context vector",
    "authors.yaml": "the configuration as a file of the GCSCoOp authors' code",
    "authors.sh": "command lines for that code",
}


@dataclass(frozen=True)
class Champion:
    """What a sweep knows of its champion: all that an export is made of, beside the data and the model."""

    sweep: str
    pipeline: Pipeline
    threads: int
    record: TrialRecord
    """The confirmed numbers (stage `test`)."""
    parameters: Sequence[Tensor]
    """Per seed, what was trained; empty for a method that trains nothing."""
    references: Sequence[TrialRecord]
    chosen: documents.Ranked
    """Its row in the ranking of the search."""
    trials: int
    tracking: str
    """The MLflow store, without a password."""
    criterion: str = ""
    """What chose it, where that is more than the pipeline's criterion."""
    verdict: Sequence[str] = ()
    """What its numbers allow to say, in sentences."""
    draws: Mapping[str, str] | None = None
    """Digests of the images that were measured, as `Laboratory.digests`; None: those that lie there now."""
    leads: Sequence[Against] = ()
    """The champion minus each reference, paired by seed."""

    @property
    def trial(self) -> TrialFile:
        """What `gcsearch train` needs."""
        return TrialFile(
            stage="test",
            seeds=self.record.seeds,
            threads=self.threads,
            evaluate_every=self.pipeline.evaluate_every,
            task=self.pipeline.task,
            trial=self.record.config,
        )


def write(
    folder: Path,
    champion: Champion,
    laboratory: Laboratory,
    *,
    given: Sequence[str] = (),
    calibrate: bool = False,
    force: bool = False,
) -> Path:
    """Write the export to `folder` and return it.

    Args:
        given: further class names to make text features of.
        calibrate: fit a temperature on validation images, see `gcsearch.export.temperature`.
        force: replace an earlier export; a folder that holds anything else is never touched.

    Raises:
        InputError: the folder exists and is not an export, or is one and `force` is not set; features of `given` names
            cannot be made, because they depend on the image or every class has vectors of its own.
    """
    folder = folder.resolve()
    check_free(folder, force=force)
    method = registry.build(champion.record.config)
    _check_given(method, given)
    classes = _classes(laboratory, method, given)
    task, seeds, parameters = champion.pipeline.task, champion.record.seeds, tuple(champion.parameters)
    classifier = Classifier(
        laboratory.backbone, method, task.template, seeds, classes.trained, parameters, exif=task.exif
    )
    temperature = fitted(classifier, laboratory) if calibrate else None
    content = _facts(champion, laboratory, classes, temperature)
    with _in_place_of(folder) as aside:
        left_out = _write_parts(aside, champion, classifier, classes)
        write_whole(aside / "metrics.json", json.dumps(content.dump(), indent=2, allow_nan=False) + "\n")
        there = {name: words for name, words in _CONTENTS.items() if (aside / name).exists()}
        write_whole(aside / "card.md", card.write_up(content, champion.trial, there, left_out))
    return folder


def _check_given(method: Method, given: Sequence[str]) -> None:
    """InputError where no text features can be made of further names."""
    if given and method.trains and method.prompt.per_image:
        raise InputError(
            "CoCoOp's text features depend on the image, so none can be exported",
            key="--classes",
            remedy="Leave it out, and name the classes when classifying: gcsearch predict DIR IMAGE --classes FILE.",
        )
    if given and method.prompt.class_specific:
        raise InputError(
            "every class has context vectors of its own, which fit no other name",
            key="--classes",
            remedy="Leave it out.",
        )


def _classes(laboratory: Laboratory, method: Method, given: Sequence[str]) -> Classes:
    """Names of the data set, and of the given the others; class-specific vectors fit the trained names alone."""
    trained, new = (tuple(laboratory.dataset.classes[label] for label in half) for half in laboratory.halves)
    if method.prompt.class_specific:
        new = ()
    every = laboratory.task.classes == "all"
    others = tuple(name for name in given if name not in {*trained, *new})
    return Classes(all=trained if every else (), base=() if every else trained, new=new, given=others)


def _write_parts(folder: Path, champion: Champion, classifier: Classifier, classes: Classes) -> list[str]:
    """All files but those of the numbers; returns sentences on what there is none of."""
    record, seeds, left_out = champion.record, [f"seed_{seed}" for seed in champion.record.seeds], []
    comment = f"The best configuration of the sweep {champion.sweep}.\nRun it again: gcsearch train config.toml"
    write_whole(folder / "config.toml", to_toml(champion.trial.to_dict(), comment))
    if champion.parameters:
        parts = zip(seeds, named_parameters(classifier), strict=True)
        tensors = {f"{seed}.{name}": tensor for seed, one in parts for name, tensor in one.items()}
        write_tensors(folder / "prompt.safetensors", tensors, {"config": record.config.digest})
        contexts = {seed: tensors[f"seed_{seed}.ctx"] for seed in record.seeds}
        conditional, backbone = classifier.conditional, classifier.backbone
        write_up = words.write_up(backbone, contexts, names=classes.trained, conditional=conditional)
        write_whole(folder / "words.md", write_up)
    else:
        left_out.append("There is no prompt and no list of nearest words: zero-shot CLIP trains nothing.")
    if classifier.conditional:
        left_out.append("There are no text features: this method makes them anew for every image.")
    else:
        _write_features(folder / "text_features.safetensors", classifier, classes)
    found = authors.options(record.config, champion.pipeline.task, record.seeds)
    if found.reason:
        left_out.append(found.reason)
    else:
        write_whole(folder / "authors.yaml", found.file)
        write_whole(folder / "authors.sh", found.commands)
    return left_out


def _write_features(path: Path, classifier: Classifier, classes: Classes) -> None:
    """The rows of all names; `mean` is not brought to unit length, so that its logits are the mean logits."""
    text = classifier.text(classes.known)
    if classes.given:
        text = [torch.cat(pair) for pair in zip(text, classifier.text(classes.given), strict=True)]
    tensors = {f"seed_{seed}": one for seed, one in zip(classifier.seeds, text, strict=True)}
    names = {side: list(part) for side, part in classes if part}
    metadata = {"names": json.dumps(names), "logit_scale": repr(classifier.backbone.tower.logit_scale)}
    write_tensors(path, tensors | {"mean": torch.stack(text).mean(0)}, metadata)


def _facts(champion: Champion, laboratory: Laboratory, classes: Classes, temperature: Temperature | None) -> Exported:
    """What `metrics.json` says."""
    task, backbone, record = champion.pipeline.task, laboratory.backbone, champion.record
    search, digests = champion.pipeline.search, dict(champion.draws or laboratory.digests(record.seeds))
    return Exported(
        version=1,
        digest=_digest(champion, backbone.fingerprint, classes, temperature),
        champion=Measured(**facts(record)),
        references=tuple(Measured(**facts(reference)) for reference in champion.references),
        chosen=Chosen(
            sweep=champion.sweep,
            objective=champion.criterion or search.criterion,
            oracle=search.oracle,
            trials=champion.trials,
            row=champion.chosen,
        ),
        verdict=tuple(champion.verdict),
        leads=tuple(champion.leads),
        classes=classes,
        data=Data(
            dataset=task.dataset,
            digests="contents",
            test=digests.pop("test"),
            draws=digests,
            test_images=len(laboratory.dataset.test),
        ),
        model=Frozen(
            backbone=task.backbone,
            pretrained=task.pretrained,
            weights=backbone.fingerprint,
            width=backbone.tower.width,
            embedding=backbone.embedding_size,
            logit_scale=backbone.tower.logit_scale,
        ),
        origin=Origin(tracking=champion.tracking, run_id=record.run_id, environment=environment()),
        temperature=temperature,
    )


def _digest(champion: Champion, weights: str, classes: Classes, temperature: Temperature | None) -> str:
    """Sixteen digits that stay the same for the same configuration, prompts, names, weights and temperature."""
    stated = [champion.trial.to_dict(), weights, classes.dump(), *([temperature.value] if temperature else [])]
    found = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for tensor in champion.parameters:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def _in_place_of(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends well."""
    aside, former = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.former")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if folder.exists():
            folder.rename(former)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def check_free(folder: Path, *, force: bool, key: str = "--out") -> None:
    """InputError where no export may be written to `folder`, which `key` named."""
    folder = files.absolute(folder, key=key)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    foreign = not folder.is_dir() or not (folder / "config.toml").exists()
    foreign = foreign or any(path.name not in FILES for path in folder.iterdir())
    if foreign:
        raise InputError(
            "an export goes to a new folder, or replaces an earlier export",
            file=folder,
            key=key,
            remedy="Name another folder: this one holds something else.",
        )
    if not force:
        raise InputError(
            "the folder holds an earlier export already",
            file=folder,
            key=key,
            remedy="Add --force to replace it, or name another folder.",
        )
