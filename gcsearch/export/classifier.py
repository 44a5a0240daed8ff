"""Exported prompts as a classifier: image files and class names in, logits out.  Reads an export and nothing else.

Shapes: N images, C classes, E embedding size, S image side in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gcsearch import files
from gcsearch.clip.model import Backbone
from gcsearch.config.trials import TrialFile
from gcsearch.data import image_files
from gcsearch.data.datasets import Progress, spoken
from gcsearch.data.image_files import UnreadableImage
from gcsearch.data.image_loader import fault, fixed
from gcsearch.data.image_loader import named as some_of
from gcsearch.data.lists.folders import images_below, warning_of_skipped_files
from gcsearch.errors import InputError
from gcsearch.methods import registry
from gcsearch.methods.prompts import Context, prompts
from gcsearch.methods.registry import Method
from gcsearch.results.documents import Classified, Exported, Guess, Predictions
from gcsearch.training import loading
from gcsearch.training.population import IMAGE_TOKENS

_BATCH = 64  # images that are encoded at once


@dataclass(frozen=True)
class Classifier:
    """The prompts of one configuration, one per seed, before their frozen model. Zero-shot CLIP has no parameters."""

    backbone: Backbone
    method: Method
    template: str
    seeds: tuple[int, ...]
    trained: tuple[str, ...]
    """The names that were trained: the only ones that class-specific vectors fit."""
    parameters: tuple[Tensor, ...] = ()
    exif: bool = False
    """Whether images are turned as their EXIF orientation says."""

    @property
    def conditional(self) -> bool:
        """Whether the text features depend on the image."""
        return self.method.prompt.per_image

    @property
    def class_specific(self) -> bool:
        """Whether every class has vectors of its own, so that no other name can be asked for."""
        return self.method.prompt.class_specific

    def check_names(self, names: Sequence[str]) -> None:
        """InputError where class-specific vectors are asked for other names than their own."""
        if self.class_specific and tuple(names) != self.trained:
            raise InputError(
                "every class has context vectors of its own, which fit no other name",
                key="--classes",
                remedy="Leave --classes out: the classes are the trained ones.",
            )

    @torch.inference_mode()
    def text(self, names: Sequence[str]) -> list[Tensor]:
        """Unit text features [C, E] of each seed, on the CPU. Not for prompts that depend on the image."""
        self.check_names(names)
        if self.method.template:
            return [self.method.template.features(self.backbone, self.template, names)] * len(self.seeds)
        table = prompts(self.backbone, self.method.prompt, [names])
        device = self.backbone.tower.device
        return [table.features(one[None].to(device))[0].cpu() for one in self.parameters]

    @torch.inference_mode()
    def logits(self, images: Tensor, names: Sequence[str], seed: int | None = None) -> Tensor:
        """exp(logit scale) times the cosines of unit image features [N, E] with the names: [N, C].

        Of one seed's prompt, or the mean over all. InputError for a seed that there is none of.
        """
        chosen = range(len(self.seeds)) if seed is None else [self.index(seed)]
        if self.conditional:
            similar = [self._by_image(self.parameters[index], images, names) for index in chosen]
        else:
            text = self.text(names)
            similar = [images @ text[index].T for index in chosen]
        return self.backbone.tower.logit_scale * torch.stack(similar).mean(0)

    def index(self, seed: int) -> int:
        """The index of a seed's prompt. InputError where there is none."""
        if seed not in self.seeds:
            known = ", ".join(map(str, self.seeds))
            raise InputError(
                "the export holds no prompt of this seed", key="--seed", received=seed, remedy=f"Seeds in it: {known}."
            )
        return self.seeds.index(seed)

    def _by_image(self, parameters: Tensor, images: Tensor, names: Sequence[str]) -> Tensor:
        """Cosines [N, C] where every image has text features of its own: some hundred images at a time."""
        table, device = prompts(self.backbone, self.method.prompt, [names]), self.backbone.tower.device
        size, rows = max(1, IMAGE_TOKENS // table.suffixes[0].tokens), []
        for part in images.split(size):
            text = table.features(parameters[None].to(device), part[None].to(device))[0].cpu()
            rows.append(torch.einsum("ne,nce->nc", part, text))
        return torch.cat(rows)

    def encode(self, images: Iterable[str | Path | bytes], progress: Progress = lambda done, total: None) -> Tensor:
        """Unit features [N, E] of image files, or of their bytes. InputError naming one that cannot be read.

        `progress` is told how many are encoded.
        """
        every, features = list(images), [torch.zeros(0, self.backbone.embedding_size)]
        for start in range(0, len(every), _BATCH):
            try:
                squares = [self._square(image) for image in every[start : start + _BATCH]]
            except UnreadableImage:
                raise self._refusal(every) from None
            # As the feature cache keeps them, so that an image gets the class that it was measured with.
            features.append(self.backbone.encode_images(_pixels(squares, self.backbone)).cpu().half().float())
            progress(min(start + _BATCH, len(every)), len(every))
        return torch.cat(features)

    def _square(self, image: str | Path | bytes) -> np.ndarray:
        """The fixed transform of an image, bytes [S, S, 3]."""
        return np.asarray(fixed(image_files.read(image, exif=self.exif), self.backbone.preparation))

    def _refusal(self, images: Sequence[str | Path | bytes]) -> InputError:
        """What is wrong with all images that cannot be read."""
        reasons: dict[str, str] = {}
        for number, image in enumerate(images, start=1):
            if why := fault(image, self.backbone.preparation, exif=self.exif):
                reasons[f"image {number}" if isinstance(image, bytes) else str(image)] = why
        remedy = f"Formats that are read: {', '.join(image_files.FORMATS)}."
        if len(reasons) == 1:
            ((place, why),) = reasons.items()
            return InputError("every image must be readable", file=place, received=why, remedy=remedy)
        every = some_of([f"{place} ({why})" for place, why in reasons.items()])
        rule = f"every image must be readable; {len(reasons)} of {len(images)} are not"
        return InputError(rule, received=every, remedy=remedy)


def _pixels(squares: Sequence[np.ndarray], backbone: Backbone) -> Tensor:
    """[N, 3, S, S]: with the model's mean and deviation."""
    values = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    return (values - mean[:, None, None]) / std[:, None, None]


# --- Reading an export ----------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Export:
    """An export read back: its configuration, its numbers, and its prompts as a classifier."""

    folder: Path
    trial: TrialFile
    facts: Exported
    classifier: Classifier

    def __repr__(self) -> str:
        seeds = len(self.trial.seeds)
        return f"Export({str(self.folder)!r}: {self.trial.trial.describe()}, {seeds} seeds, {len(self.names)} classes)"

    @property
    def names(self) -> tuple[str, ...]:
        """All class names of the data set that the prompts fit."""
        return self.facts.classes.known

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        names: Sequence[str] | None = None,
        seed: int | None = None,
        top: int = 1,
    ) -> Predictions:
        """The `top` likeliest classes of image files, and of those in folders. See `predict`."""
        listed = [images] if isinstance(images, str | Path) else images
        return predict(self, [Path(one) for one in listed], names=names, seed=seed, top=top)


def load_export(folder: str | Path) -> Export:
    """Read the export in `folder`, with the frozen model that it was made with.

    Raises:
        InputError: the folder is no export, a file of it is damaged, or the model at hand has other weights.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    path = folder / "config.toml"
    trial = TrialFile.from_dict(files.read_toml(path), file=path)
    method = registry.build(trial.trial, file=path)
    backbone = loading.backbone_of(trial.task)
    if backbone.fingerprint != facts.model.weights:
        raise InputError(
            f"the export was made with the weights {facts.model.weights} of {facts.model.backbone}",
            file=path,
            key="task.pretrained",
            received=f"weights {backbone.fingerprint}",
            remedy="Name there the checkpoint that it was made with.",
        )
    trained = facts.classes.trained
    parameters = _parameters(folder, backbone, method.prompt, trial.seeds, len(trained)) if method.trains else ()
    task = trial.task
    classifier = Classifier(backbone, method, task.template, trial.seeds, trained, parameters, task.exif)
    return Export(folder, trial, facts, classifier)


def read_facts(folder: Path) -> Exported:
    """The `metrics.json` of an export. InputError where the folder is none."""
    path = folder / "metrics.json"
    files.check_export(folder, path.name)
    try:
        content = json.loads(files.read_text(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("the file must be valid JSON", file=path, received=str(error)) from None
    return Exported.from_dict(content, file=path)


def _parameters(
    folder: Path, backbone: Backbone, prompt: Context, seeds: Sequence[int], classes: int
) -> tuple[Tensor, ...]:
    """What each seed trained, as the flat tensors that `gcsearch.methods.prompts` works with."""
    import safetensors
    import safetensors.torch

    path = folder / "prompt.safetensors"
    try:
        tensors = safetensors.torch.load_file(path)
        return tuple(_joined(tensors, seed, backbone, prompt, classes) for seed in seeds)
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise InputError("the prompts of every seed must be readable", file=path, received=str(error)) from None


def _joined(tensors: Mapping[str, Tensor], seed: int, backbone: Backbone, prompt: Context, classes: int) -> Tensor:
    """The inverse of `Context.named`."""
    sizes = prompt.sizes(backbone, classes)
    parts = [tensors[f"seed_{seed}.{name}"].reshape(size) for name, size in sizes.items()]
    return parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])


def named_parameters(classifier: Classifier) -> list[dict[str, Tensor]]:
    """Per seed, what was trained by name; empty for zero-shot CLIP."""
    return [classifier.method.prompt.named(classifier.backbone, one) for one in classifier.parameters]


def read_names(path: Path) -> list[str]:
    """Class names, one per line. InputError for a file that cannot be read, holds none, or one twice."""
    names = files.read_names(path, "the class names", "--classes")
    names_found: dict[str, str] = {}
    for name in names:
        other = names_found.setdefault(spoken(name), name)
        if other is not name:
            rule = "every class has one line; case, underscores and spaces do not count"
            received = f"{name!r} twice" if other == name else f"{other!r} and {name!r}"
            raise InputError(rule, file=path, key="--classes", received=received, remedy="Leave one of them out.")
    if len(names) < 2:
        rule, received = "images are told apart by two names or more", f"the name {names[0]!r}" if names else "no name"
        raise InputError(rule, file=path, key="--classes", received=received, remedy="One name per line.")
    return names


def predict(
    export: Export,
    images: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
    top: int = 1,
    progress: Progress = lambda done, total: None,
) -> Predictions:
    """Classify images among `names`, by default all classes of the export; of a folder all images below it, in order.

    `progress` is told how many images are encoded.

    Raises:
        InputError: a folder holds no image, an image cannot be read, there is no prompt of `seed`, or the prompts do
            not fit the names.
    """
    classes = tuple(names or export.names)
    images = images_of(images)
    found = guesses(export, images, classes, seed, top, progress)
    return Predictions(
        export=str(export.folder),
        method=export.facts.champion.name,
        seeds=export.classifier.seeds if seed is None else (seed,),
        classes=classes,
        images=tuple(Classified(image=str(image), top=one) for image, one in zip(images, found, strict=True)),
    )


def images_of(paths: Sequence[Path]) -> list[Path]:
    """The files, and in the place of each folder the image files below it. InputError where it holds none.

    Warns (`data.lists.folders.SkippedFilesWarning`) of other files in a folder.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        with warning_of_skipped_files(path):
            below = images_below(path)
        if not below:
            rule = "a folder to be classified must hold image files, by their endings"
            raise InputError(rule, file=path, remedy="A file that is named by itself may have any ending.")
        found += below
    return found


def guesses(
    export: Export,
    images: Sequence[Path | bytes],
    names: Sequence[str],
    seed: int | None = None,
    top: int = 1,
    progress: Progress = lambda done, total: None,
) -> list[tuple[Guess, ...]]:
    """Per image file, or its bytes, the `top` likeliest of `names`. Raises as `predict`."""
    classifier = export.classifier
    classifier.check_names(names)
    if seed is not None:
        classifier.index(seed)
    known = export.facts.temperature
    temperature = known.value if known else 1.0
    logits = classifier.logits(classifier.encode(images, progress), names, seed)
    return [_guesses(row, names, top, temperature) for row in logits]


def _guesses(logits: Tensor, names: Sequence[str], top: int, temperature: float = 1.0) -> tuple[Guess, ...]:
    """The `top` likeliest of the classes for logits [C], best first; of equal ones the first class."""
    shares = (logits.double() / temperature).softmax(0)
    order = torch.argsort(logits, descending=True, stable=True)[:top].tolist()
    return tuple(Guess(name=names[i], probability=float(shares[i]), logit=float(logits[i])) for i in order)
