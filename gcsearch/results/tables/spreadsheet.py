"""Entries as comma-separated values that a spreadsheet reads as they are."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from gcsearch.results.tables.table import Entry
from gcsearch.stats import spread


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
    writer.writerows(_inert({**entry.labels, **_mean_and_sd(entry.metrics)}) for entry in entries)
    return target.getvalue()


def _mean_and_sd(metrics: Mapping[str, Sequence[float]]) -> dict[str, str]:
    pairs = {metric: spread(values)[:2] for metric, values in metrics.items()}
    parts = {
        f"{metric}_{part}": value
        for metric, pair in pairs.items()
        for part, value in zip(("mean", "sd"), pair, strict=True)
    }
    return {name: f"{value:.4f}" for name, value in parts.items() if not math.isnan(value)}


def _inert(fields: Mapping[str, object]) -> dict[str, str]:
    """Fields that no spreadsheet takes for a formula: words that begin like one get an apostrophe in front."""
    texts = {name: "" if value is None else str(value) for name, value in fields.items()}
    return {name: f"'{text}" if _is_formula(text) else text for name, text in texts.items()}


def _is_formula(text: str) -> bool:
    if not text.lstrip().startswith(("=", "+", "-", "@")) and not text.startswith(("\t", "\r")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
