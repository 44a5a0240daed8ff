"""What MLflow takes at most, and how longer texts are cut."""

from __future__ import annotations

from collections.abc import Mapping

PARAM_LENGTH, TAG_LENGTH = 6000, 8000
PARAMS_PER_BATCH, TAGS_PER_BATCH, ENTRIES_PER_BATCH = 100, 100, 1000


def cut(text: str, length: int) -> str:
    """The text, its end left out where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def cut_all(values: Mapping[str, object], length: int) -> dict[str, str]:
    """The values as texts, each cut."""
    return {key: cut(str(value), length) for key, value in values.items()}
