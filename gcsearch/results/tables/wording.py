"""Numbers, configurations and outcomes in words."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

from gcsearch.config.base import Value
from gcsearch.config.metrics import METRICS, PERCENT
from gcsearch.config.trials import Outcome, TrialConfig, TrialRecord, written
from gcsearch.methods.registry import METHODS, title_and_tags, with_tags
from gcsearch.stats import plus_minus, spread

OWN_FIRST = ("method", "rho", "beta1", "beta2")
"""Hyperparameters in the order of pictures and tables; then the method's others, then those that all methods have."""


def searched(records: Sequence[TrialRecord]) -> list[str]:
    """What takes more than one value: the method, its own hyperparameters, then those of every method."""
    values: dict[str, set[Value]] = {}
    for record in records:
        for name, value in record.config.values.items():
            values.setdefault(name, set()).add(value)
    varied = [name for name, seen in values.items() if len(seen) > 1]
    common = tuple(METHODS["coop"].hyperparameters)

    def order(name: str) -> tuple[int, int, str]:
        if name in OWN_FIRST:
            return (0, OWN_FIRST.index(name), "")
        return (2, common.index(name), "") if name in common else (1, 0, name)

    return sorted(varied, key=order)


def typeset(text: str) -> str:
    """Words or numbers with a true minus sign; a dash for a number that is missing."""
    return "–" if text == "-" else re.sub(r"(?<![\w.)-])-(?=\d)", "−", text)


def value_text(value: Value) -> str:
    """A hyperparameter's value; words in quotation marks."""
    if isinstance(value, bool):
        return str(value).lower()
    text = written(value)
    return f"“{text}”" if isinstance(value, str) and " " in value else text


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds for people: `40 seconds`, `12.5 minutes`, `3.1 hours`."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1.5:
        return counted(ceil(seconds), "second")
    return f"{minutes:.1f} minutes" if hours < 1.5 else f"{hours:.1f} hours"


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def named(record: TrialRecord) -> str:
    """A confirmed configuration by its label, with the tags of its method."""
    return with_tags(record.label or f"trial {record.number}", title_and_tags(record.config)[1])


def describe(config: TrialConfig, names: Sequence[str]) -> str:
    """A configuration in words: `GCSCoOp (rho 0.12, beta1 off, beta2 0.8)`; `names` are the keys shown."""
    title = with_tags(*title_and_tags(config))
    shown = ", ".join(f"{n} {value_text(config.hyperparameters[n])}" for n in names if n in config.hyperparameters)
    return f"{title} ({shown})" if shown else title


def described(config: TrialConfig) -> str:
    """The configuration in one line, the tags of its method behind the method's name."""
    method, space, rest = config.describe().partition(" ")
    return with_tags(method, title_and_tags(config)[1]) + space + rest


def outcome_counts(records: Iterable[TrialRecord]) -> str:
    """`8 complete, 1 failed`."""
    counts = Counter(record.outcome for record in records)
    return ", ".join(f"{counts[one]} {one.value}" for one in Outcome if counts[one]) or "no trial has ended"


class Hovers(NamedTuple):
    """What pictures say of a trial on hovering: by its number its label, its outcome and a line for each of `titles`.

    A line is empty where the trial has nothing of the kind.
    """

    titles: list[str]
    lines: dict[int, list[str]]


NO_HOVERS = Hovers([], {})


def hovers(records: Sequence[TrialRecord], names: Sequence[str]) -> Hovers:
    """The metrics of each record and its hyperparameters `names`, in HTML."""
    metrics = [one for one in METRICS.values() if any(record.metrics.get(one.key) for record in records)]

    def lines(record: TrialRecord) -> list[str]:
        summaries = (plus_minus(spread(record.metrics.get(one.key, ()))) for one in metrics)
        units = (" %" if one.unit is PERCENT else "" for one in metrics)
        numbers = ["" if text == "-" else f"{typeset(text)}{unit}" for text, unit in zip(summaries, units, strict=True)]
        values = record.config.values
        chosen = [html.escape(value_text(values[name])) if name in values else "" for name in names]
        return [html.escape(record.label), record.outcome.value, *numbers, *chosen]

    return Hovers([*(one.title for one in metrics), *names], {one.number: lines(one) for one in records})
