"""A pipeline as `gcsearch new` writes it: few keys, each with the description that its model has."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gcsearch import files
from gcsearch.config.pipeline import Budget, Confirm, Pipeline, SearchConfig
from gcsearch.config.task import Task
from gcsearch.data import datasets
from gcsearch.data.survey import Protocol, Survey
from gcsearch.driver.load import OWN, complete, with_absolute_paths
from gcsearch.errors import InputError, printable

TIMED_TRIALS = 1000
"""The number of configurations of a search that ends by the clock."""


@dataclass(frozen=True)
class Draft:
    """The answers to the questions of `gcsearch new`."""

    file: Path
    survey: Survey
    backbone: str
    pretrained: str | None
    space: str
    classes: Protocol
    shots: int
    folds: int
    trials: int | None
    minutes: float | None

    @property
    def name(self) -> str:
        """That of the file, as a name of a sweep."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.file.stem).strip("-._")

    def content(self) -> dict[str, Any]:
        """The keys of the file. Paths below its folder are relative to it."""
        found = self.survey
        task = {
            "dataset": found.name,
            "root": found.root and self._near(found.root),
            "backbone": self.backbone,
            "pretrained": self.pretrained and self._near_weights(self.pretrained),
            "template": OWN if found.name in datasets.DATASETS else Task.model_fields["template"].default,
            "classes": self.classes,
            "shots": self.shots,
            "val_shots": found.val_shots,
            "folds": self.folds,
            "views": Task.model_fields["views"].default,
            "seeds": list(Task.model_fields["seeds"].default),
        }
        trials = self.trials or TIMED_TRIALS
        search = {
            "space": self._near(Path(self.space)) if files.is_file_name(self.space) else self.space,
            "sampler": SearchConfig.model_fields["sampler"].default,
            "objective": "val_base_margin" if self.classes == "base" else "val_acc",
            "trials": trials,
            "budget": {"minutes": self.minutes} if self.minutes else None,
        }
        confirm = {
            "top": min(Confirm.model_fields["top"].default, trials),
            "seeds": list(Confirm.model_fields["seeds"].default),
            "references": list(Confirm.model_fields["references"].default),
        }
        tables = {"task": task, "search": search, "confirm": confirm}
        content = {"version": 1, "name": self.name, "evaluate_every": 5}
        return content | {name: _given(table) for name, table in tables.items()}

    def check(self) -> Pipeline:
        """The pipeline. InputError for whatever `plan` would refuse without loading the model."""
        self.survey.check(self.classes, self.shots, self.folds)
        return complete(with_absolute_paths(self.content(), self.file.parent), self.file)

    def text(self) -> str:
        """The file: its keys, and what is said of each."""
        lines = [
            f"# Written by `gcsearch new`. What would run, and for how long: gcsearch plan {self.file.name}",
            "#",
            *(f"# {what:<9} {found}" for what, found in self.survey.lines()),
            *(_comment(note) for note in self.survey.notes),
            "",
        ]
        models: dict[str, type[BaseModel]] = {"task": Task, "search": SearchConfig, "confirm": Confirm}
        content = self.content()
        lines += _keys(Pipeline, {key: value for key, value in content.items() if key not in models})
        for table, model in models.items():
            values = dict(content[table])
            budget = values.pop("budget", None)
            lines += ["", f"[{table}]", *_keys(model, values)]
            if budget:
                lines += ["", f"[{table}.budget]", _comment(_described(Budget)), *_keys(Budget, budget)]
        return "\n".join(lines) + "\n"

    def _near(self, path: Path) -> str:
        """Relative to the file's folder where it lies in it; a path in any case, not a shipped name."""
        path, folder = path.absolute(), self.file.parent
        if path != folder and not path.is_relative_to(folder):
            return str(path)
        near = os.path.relpath(path, folder)
        return near if near == "." else f"./{near}"

    def _near_weights(self, pretrained: str) -> str:
        if not files.is_path(pretrained):
            return pretrained
        path = pretrained.removeprefix(files.ARCHIVE)
        return pretrained.removesuffix(path) + self._near(files.absolute(path))


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _described(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").partition("\n")[0]


def _comment(text: str) -> str:
    return textwrap.fill(printable(" ".join(text.split())), 110, initial_indent="# ", subsequent_indent="# ")


def _keys(model: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """Each key with its value below what its model says of it."""
    import tomlkit

    lines: list[str] = []
    for key, value in values.items():
        if description := model.model_fields[key].description:
            lines += [""] * bool(lines) + [_comment(description)]
        lines.append(f"{key} = {tomlkit.item(value).as_string()}")
    return lines


def check_file(file: Path, *, force: bool) -> Path:
    """The absolute path of a file that may be written. InputError where it may not."""
    path = files.absolute(file, key="FILE")
    if path.suffix != ".toml":
        raise InputError("a pipeline is a TOML file", key="FILE", received=str(file), remedy=f"Write {file}.toml.")
    if path.is_dir():
        raise InputError("a pipeline is a file", key="FILE", received=str(file), remedy="Name another file.")
    if path.exists() and not force:
        rule, remedy = "the file is there already", "Name another one, or replace it with --force."
        raise InputError(rule, file=file, key="FILE", remedy=remedy)
    return path
