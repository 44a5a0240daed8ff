"""The field's published numbers, with where they were read and how sure they are.

The numbers are data, `assets/published.toml`; this module reads it and finds what stands for a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from gcsearch import files
from gcsearch.config.base import Model
from gcsearch.errors import InputError, unknown_name
from gcsearch.methods.registry import find as find_method
from gcsearch.stats import harmonic_mean

FILE = files.ASSETS / "published.toml"
AVERAGE = "average"
"""The key of the mean over data sets among those of `Result.numbers`."""

Protocol = Literal["base-to-new", "few-shot", "cross-dataset", "domain-generalisation"]
Certainty = Literal["read", "recalled", "computed"]
"""Read in a public text; recalled and not found in one; H computed from base and new that were read."""

COLUMNS: dict[Protocol, tuple[str, ...]] = {
    "base-to-new": ("base", "new", "h"),
    "few-shot": ("acc",),
    "cross-dataset": ("acc",),
    "domain-generalisation": ("acc",),
}

Percent = Annotated[float, Field(ge=0, le=100)]


class PublishedNumber(NamedTuple):
    """A published accuracy in per cent."""

    value: float
    certainty: Certainty


class Paper(Model):
    """Where numbers were published first. What is not known of it is left out."""

    authors: str | None = None
    title: str | None = None
    year: int | None = None
    where: str | None = None


class Result(Model):
    """One method's row of a published table: numbers by data set, the protocol they were measured in, their source."""

    method: str
    protocol: Protocol
    backbone: str
    shots: Annotated[int, Field(ge=1)] | None = None
    """None: nothing was trained."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Number of seeds; None: unknown, or nothing was drawn."""
    paper: str
    table: str | None = None
    read_in: str
    average_h: Literal["of-averages", "average-of-h"] | None = None
    """Whether the printed average H is that of the average accuracies, or the mean of the Hs."""
    recalled: tuple[str, ...] = ()
    """`DATASET` or `DATASET.column`."""
    note: str = ""
    numbers: dict[str, tuple[Percent, ...]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        allowed = {len(COLUMNS[self.protocol]), *((2,) if self.protocol == "base-to-new" else ())}
        for dataset, row in self.numbers.items():
            if len(row) not in allowed:
                rule = f"a row of {self.protocol} has {' or '.join(map(str, sorted(allowed)))} numbers"
                raise InputError(rule, key=f"numbers.{dataset}", received=list(row))
        for name in self.recalled:
            dataset, dot, column = name.partition(".")
            if dataset not in self.numbers or (dot and column not in COLUMNS[self.protocol]):
                raise InputError("what is recalled must be one of the numbers", key="recalled", received=name)
        return self

    @property
    def title(self) -> str:
        """The method's title."""
        return find_method(self.method).title

    def cells(self, dataset: str) -> dict[str, PublishedNumber]:
        """The numbers on a data set of `numbers`, or `average`, by column; H is computed where it is not stated."""
        row = self.numbers[dataset]
        found = {
            column: PublishedNumber(value, self._certainty(dataset, column))
            for column, value in zip(COLUMNS[self.protocol], row, strict=False)
        }
        if self.protocol == "base-to-new" and len(row) == 2:
            recalled = any(cell.certainty == "recalled" for cell in found.values())
            found["h"] = PublishedNumber(round(harmonic_mean(*row), 2), "recalled" if recalled else "computed")
        return found

    def _certainty(self, dataset: str, column: str) -> Certainty:
        return "recalled" if {dataset, f"{dataset}.{column}"} & set(self.recalled) else "read"


class Unknown(Model):
    """Numbers that were published and are not known here."""

    methods: tuple[str, ...]
    what: str
    why: str


class Published(Model):
    """All that is known. The content of `assets/published.toml`."""

    version: Literal[1]
    papers: dict[str, Paper]
    results: tuple[Result, ...]
    unknown: tuple[Unknown, ...] = ()

    @model_validator(mode="after")
    def _papers_are_named(self) -> Self:
        for index, result in enumerate(self.results):
            if result.paper not in self.papers:
                raise unknown_name("paper", result.paper, self.papers, key=f"results.{index}.paper")
        return self

    def source(self, result: Result) -> str:
        """`KgCoOp paper 2023, table 3`: year and table as far as known."""
        year = self.papers[result.paper].year
        return (
            f"{result.paper} paper" + (f" {year}" if year else "") + (f", table {result.table}" if result.table else "")
        )


@cache
def load() -> Published:
    """The numbers that ship with gcsearch."""
    return Published.from_dict(files.read_toml(FILE), file=FILE)


class Match(NamedTuple):
    """What was published for a task, and in one sentence what differs where there is nothing."""

    results: tuple[Result, ...]
    difference: str = ""


def match(task: Mapping[str, Any], published: Published) -> Match:
    """The results with the data set, the backbone and the shots of a task, given as `Task.to_dict` gives it.

    open_clip's ViT-B-16 and ViT-B-16-quickgelu with the tag `openai` are the papers' ViT-B/16; of weights in a file
    nobody knows whose they are.  A result without shots, zero-shot CLIP's, fits any number of them.
    """
    protocol = protocol_of(task)
    candidates = [result for result in published.results if result.protocol == protocol]
    if not candidates:
        return Match((), f"no published table of the protocol {protocol} is known")
    fitting = tuple(result for result in candidates if not _differences(task, result))
    if any(result.shots for result in fitting):
        return Match(fitting)
    trained = [result for result in candidates if result.shots]
    least = min(len(_differences(task, result)) for result in trained)
    nearest = [result for result in trained if len(_differences(task, result)) == least]
    return Match(fitting, _in_words(task, nearest))


def protocol_of(task: Mapping[str, Any]) -> Protocol:
    """The protocol in which a task's own test images are measured."""
    return "few-shot" if task.get("classes") == "all" else "base-to-new"


def _differences(task: Mapping[str, Any], result: Result) -> tuple[str, ...]:
    """Which of data set, backbone and number of shots are not the task's."""
    same = {
        "data set": task["dataset"] in result.numbers and task["dataset"] != AVERAGE,
        "backbone": backbone_of(task) == result.backbone,
        "number of shots": result.shots in (None, task["shots"]),
    }
    return tuple(key for key, agrees in same.items() if not agrees)


def backbone_of(task: Mapping[str, Any]) -> str | None:
    """The papers' name of a task's frozen model, "ViT-B/16"; None where the weights are not OpenAI's by their tag."""
    if task.get("pretrained") != "openai":
        return None
    name = str(task["backbone"]).removesuffix("-quickgelu")
    return f"{name[:5]}/{name[6:]}" if name.startswith("ViT-") else name


def _in_words(task: Mapping[str, Any], nearest: list[Result]) -> str:
    """What the nearest results have in another way: `backbone (mini here, ViT-B/16 with openai there)`."""
    weights = f" with {task['pretrained']}" if task.get("pretrained") else ""
    datasets = sorted({name for result in nearest for name in result.numbers} - {AVERAGE})
    here = {"data set": task["dataset"], "backbone": f"{task['backbone']}{weights}", "number of shots": task["shots"]}
    there = {
        "data set": ", ".join(datasets) if len(datasets) <= 3 else f"{len(datasets)} others",
        "backbone": " or ".join(sorted({f"{result.backbone} with openai" for result in nearest})),
        "number of shots": " or ".join(sorted({str(result.shots) for result in nearest})),
    }
    parts = [f"another {key} ({here[key]} here, {there[key]} there)" for key in _differences(task, nearest[0])]
    return f"the published tables have {' and '.join(parts)}"
