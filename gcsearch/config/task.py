"""What is trained on: data set, frozen model, few-shot protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator

from gcsearch.config.base import Count, CountOrZero, Model, Seeds, Text, plain_name
from gcsearch.errors import InputError

Precision = Literal["float32", "bfloat16", "float16"]


def _distinct_names(datasets: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if len(set(map(plain_name, datasets))) != len(datasets):
        what = "targets" if info.field_name == "targets" else "data sets"
        raise InputError(f"{what} must be distinct", received=list(datasets), remedy="Remove the repeated one.")
    return datasets


def _val_shots(known: dict[str, Any]) -> int:
    return min(int(known.get("shots", 4)), 4)


FOLDS_OF_SHOTS = 4
"""So many at most, unless a task says how many, where shots are held out."""


def _folds(known: dict[str, Any]) -> int:
    if known.get("val_shots") == 0:
        return min(int(known.get("shots", FOLDS_OF_SHOTS)), FOLDS_OF_SHOTS)
    return 1 if known.get("classes") == "all" else 3


class Task(Model):
    """What is trained on: data set, frozen model and few-shot protocol."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # `gcsearch new` writes them beside the keys

    dataset: Text = "shapes-sketch"
    """A data set that gcsearch knows by name, `folder:NAME` (a folder per class) or `table:FILE` below `root`, or a
    drawn one, `world:SEED`."""
    root: Text | None = None
    """The folder that holds the data sets."""
    backbone: Text = "mini"
    """The frozen CLIP: a name of open_clip's, or the bundled test bed `mini`, which knows nothing but the embedded
    drawings."""
    pretrained: Text | None = None
    """Its weights: a tag of open_clip's, or the path of a checkpoint."""
    template: str = "a photo of a {}."
    """The sentence of zero-shot CLIP and of losses that refer to it; in a pipeline's file "own" is the data set's."""
    also: Annotated[tuple[str, ...], AfterValidator(_distinct_names)] = ()
    """Further data sets, on each of which a configuration has prompts of its own: a search for one configuration
    that suits them all, see `gcsearch.results.multi_dataset`."""
    classes: Literal["base", "all"] = "base"
    """`base` trains the first half of the classes and measures the second as new ones; `all` trains all."""
    targets: Annotated[tuple[str, ...], AfterValidator(_distinct_names)] = ()
    """Data sets that the prompt is measured on in the stage `test`, with all their classes and test images."""
    shots: Count = 16
    """Training images per class; of a class that has fewer, all."""
    val_shots: CountOrZero | Literal["all"] = Field(default_factory=_val_shots)
    """Validation images per class that score the search, or "all" that there are. Unset: min(shots, 4), as
    published. 0: none is read, and shots that a seed does not train on score the search."""
    folds: Count = Field(default_factory=_folds)
    """In the search the seed at index i trains on the base classes without fold i mod `folds`, which plays "new"; 1
    holds nothing out, and nothing else goes with all classes. With `val_shots = 0` a fold is every `folds`-th shot of
    each class instead, and no class is held out; unset, min(shots, 4)."""
    views: Annotated[int, Field(ge=1, le=10**4)] = 8
    """Augmented views of each training image that are encoded once; epoch e uses view (e-1) mod views."""
    seeds: Seeds = (1, 2, 3)
    """Every configuration of the search is trained with each of them; they also draw the images."""
    precision: Precision = "float32"
    """That of the frozen text tower; what is trained is float32 always."""
    exif: bool = False
    """Turn images as their EXIF orientation says; the reference code does not."""
    other_names: Text | None = None
    """A text file with one name per line for NFL, in place of the embedded list."""
    repeats: Literal["refuse", "keep"] = "refuse"
    """`refuse` a data set whose test images are also in its other lists, told by content, or `keep` them, with a
    warning."""
    also_templates: tuple[str, ...] = ()
    """The templates of the data sets of `also`, in order, where they differ from `template`; "own" there fills them
    in."""

    @property
    def class_folds(self) -> int:
        """The folds that base classes are held out in; 1 where shots are held out in place of them."""
        return 1 if self.val_shots == 0 else self.folds

    @property
    def each(self) -> tuple[Task, ...]:
        """The tasks of one data set each that this one is made of; itself where there is but one."""
        if not self.also:
            return (self,)
        templates = (self.template, *(self.also_templates or [self.template] * len(self.also)))
        return tuple(
            self.model_copy(update={"dataset": name, "template": template, "also": (), "also_templates": ()})
            for name, template in zip((self.dataset, *self.also), templates, strict=True)
        )

    @property
    def title(self) -> str:
        """The data sets for people: `shapes-night + shapes-neon`."""
        return " + ".join(task.dataset for task in self.each)

    @field_validator("also")
    @classmethod
    def _not_the_first(cls, also: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        first = info.data.get("dataset", "")
        if plain_name(first) in map(plain_name, also):
            remedy = "Leave it out: `dataset` is one of them already."
            raise InputError("the further data sets must be others than `dataset`", received=first, remedy=remedy)
        return also

    @field_validator("targets")
    @classmethod
    def _targets_of_one_source(cls, targets: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if targets and info.data.get("also"):
            rule, remedy = "a prompt is carried to targets from one data set", "Leave `also` out, or `targets`."
            raise InputError(rule, received=list(targets), remedy=remedy)
        return targets

    @field_validator("template")
    @classmethod
    def _one_slot(cls, template: str) -> str:
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise InputError(
                "a template must contain {} exactly once, and no other braces",
                received=template,
                remedy='Write for example "a photo of a {}.".',
            )
        return template

    @field_validator("also_templates")
    @classmethod
    def _one_for_each(cls, templates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if templates and len(templates) != len(info.data.get("also", ())):
            rule, remedy = "each data set of `also` needs one template", "Leave it out where `template` suits them all."
            raise InputError(rule, received=list(templates), remedy=remedy)
        return tuple(map(cls._one_slot, templates))

    @field_validator("val_shots")
    @classmethod
    def _shots_to_hold_out(cls, val_shots: int | str, info: ValidationInfo) -> int | str:
        if val_shots == 0 and info.data.get("shots", 2) < 2:
            rule = "without validation images some of the shots are held out, so a class needs two or more"
            raise InputError(rule, received=val_shots, remedy="Set `shots` to 2 or more, or `val_shots` to 1 or more.")
        return val_shots

    @field_validator("folds")
    @classmethod
    def _folds_fit(cls, folds: int, info: ValidationInfo) -> int:
        if info.data.get("val_shots") == 0:
            shots = info.data.get("shots", folds)
            if not 2 <= folds <= shots:
                rule = "with `val_shots = 0` the shots are divided into folds"
                raise InputError(rule, received=folds, remedy=f"Write 2 to {shots}, the number of shots.")
        elif folds > 1 and info.data.get("classes") == "all":
            raise InputError(
                "where all classes are trained, none is held out",
                received=folds,
                remedy='Leave `folds` out, or set `folds = 1`; folds go with `classes = "base"`.',
            )
        return folds
