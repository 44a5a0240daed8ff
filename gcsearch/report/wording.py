"""Numbers, settings and outcomes in words."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from gcsearch.methods import title_and_tags, with_tags
from gcsearch.metrics import Spread, spread
from gcsearch.schema import Outcome, TrialConfig, TrialRecord


def plus_minus(value: Spread) -> str:
    """`83.1 ± 0.8`; without the deviation where there is none, a dash where there is no mean."""
    if math.isnan(value.mean):
        return "–"
    return f"{value.mean:.1f}" + ("" if math.isnan(value.deviation) else f" ± {value.deviation:.1f}")


def accuracy_text(value: float) -> str:
    """`83.1`; nothing where there is no number."""
    return "" if math.isnan(value) else f"{value:.1f}"


def signed(value: float) -> str:
    """`+1.5` or `−1.5`; what rounds to zero has no sign."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def value_text(value: object) -> str:
    """A hyper-parameter's value; words in quotation marks."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"“{value}”" if isinstance(value, str) and " " in value else str(value)


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def named(record: TrialRecord) -> str:
    """A confirmed setting by its label, with the tags of its method."""
    return with_tags(record.label or f"trial {record.number}", title_and_tags(record.config)[1])


def describe(config: TrialConfig, names: Sequence[str]) -> str:
    """A setting in words: `GCSCoOp (rho 0.12, beta1 off, beta2 0.8)`; `names` are the keys shown."""
    title = with_tags(*title_and_tags(config))
    shown = ", ".join(f"{n} {value_text(config.hyperparameters[n])}" for n in names if n in config.hyperparameters)
    return f"{title} ({shown})" if shown else title


def outcome_counts(records: Iterable[TrialRecord]) -> str:
    """`8 complete, 1 failed`."""
    counts = Counter(record.outcome for record in records)
    return ", ".join(f"{counts[one]} {one.value}" for one in Outcome if counts[one]) or "no trial has ended"


def hover(record: TrialRecord, names: Sequence[str]) -> str:
    """The text of a point: trial, outcome, numbers, setting, a line each."""
    label = f", {record.label}" if record.label else ""
    lines = [f"<b>trial {record.number}{html.escape(label)}</b> ({record.outcome.value})"]
    for key, words in (
        ("val_h", "H"),
        ("val_base_acc", "trained"),
        ("val_new_acc", "held out"),
        ("val_acc", "accuracy"),
    ):
        if record.metrics.get(key):
            lines.append(f"{words} {plus_minus(spread(record.metrics[key]))} %")
    lines += [f"{n} {html.escape(value_text(v))}" for n, v in record.config.values.items() if n in names]
    return "<br>".join(lines)
