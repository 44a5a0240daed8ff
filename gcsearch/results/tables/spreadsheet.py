"""Entries as comma-separated values that a spreadsheet reads as they are."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gcsearch.results.tables.table import Cell, Entry
from gcsearch.stats import spread

if TYPE_CHECKING:
    from pandas import DataFrame


def header(entries: Sequence[Entry], first: Iterable[str], last: Sequence[str]) -> list[str]:
    """The fields of entries: the labels, beginning with `first`, mean and deviation of each metric, those of `last`."""
    labels = dict.fromkeys([*first, *(key for entry in entries for key in entry.labels if key not in last)])
    metrics = dict.fromkeys(key for entry in entries for key in entry.metrics)
    return [*labels, *(f"{metric}_{part}" for metric in metrics for part in ("mean", "sd")), *last]


def to_csv(fields: Sequence[str], entries: Iterable[Entry]) -> str:
    """A line for each entry below one of `fields`; empty where it has no such field."""
    target = io.StringIO()
    writer = csv.DictWriter(target, fields, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in _values(entry).items()} for entry in entries)
    return target.getvalue()


def frame_to_csv(frame: DataFrame) -> str:
    """A DataFrame with all digits; empty where it has no number."""
    return str(frame.map(_harmless).to_csv(index=False, lineterminator="\n"))


def _harmless(value: Any) -> Any:
    return _field(value) if isinstance(value, str) else value


def _values(entry: Entry) -> dict[str, Cell]:
    """The labels, and mean and deviation of each metric."""
    values = dict(entry.labels)
    for metric, per_seed in entry.metrics.items():
        values[f"{metric}_mean"], values[f"{metric}_sd"], _ = spread(per_seed)
    return values


def _field(value: Cell) -> str:
    """A value as no spreadsheet takes it for a formula: words that begin like one get an apostrophe in front."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    text = "" if value is None else str(value)
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    if not text.lstrip().startswith(("=", "+", "-", "@")) and not text.startswith(("\t", "\r")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
