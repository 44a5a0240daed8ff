"""The JSON that gcsearch prints and writes, as one schema: each `--json`, and an export's `metrics.json`.

All say the same thing the same way: a configuration is a `Measured`, numbers over seeds are `Numbers`.  The documents
are made through these classes, so what is printed is what docs/schema.json says.  A number that does not exist is null.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from gcsearch.results.documents.commands import (
    CacheEntry,
    DatasetFinding,
    MachineFinding,
    PlannedMatrix,
    PlannedSweep,
    StatusEntry,
    TrainedRecord,
)
from gcsearch.results.documents.exported import (
    Chosen,
    Classes,
    Classified,
    Data,
    Exported,
    Frozen,
    Guess,
    Origin,
    Predictions,
    Sharp,
    Sharpnesses,
    Temperature,
)
from gcsearch.results.documents.results import (
    Against,
    Average,
    Averages,
    Compared,
    Document,
    Group,
    Measured,
    Numbers,
    Objective,
    Ranked,
    confirmed_numbers,
    facts,
)

__all__ = [
    "DOCUMENTS",
    "Against",
    "Average",
    "Averages",
    "CacheEntry",
    "Chosen",
    "Classes",
    "Classified",
    "Compared",
    "Data",
    "DatasetFinding",
    "Document",
    "Exported",
    "Frozen",
    "Group",
    "Guess",
    "MachineFinding",
    "Measured",
    "Numbers",
    "Objective",
    "Origin",
    "PlannedMatrix",
    "PlannedSweep",
    "Predictions",
    "Ranked",
    "Sharp",
    "Sharpnesses",
    "StatusEntry",
    "Temperature",
    "TrainedRecord",
    "confirmed_numbers",
    "facts",
    "json_schema",
]

DOCUMENTS: dict[str, Any] = {
    "gcsearch best --json": list[Ranked],
    "gcsearch compare --json": list[Group | Averages],
    "metrics.json": Exported,
    "gcsearch predict --json": Predictions,
    "gcsearch landscape --json": Sharpnesses,
    "gcsearch status --json": list[StatusEntry],
    "gcsearch plan --json": PlannedSweep | PlannedMatrix,
    "gcsearch train --json": TrainedRecord,
    "gcsearch doctor --json": list[MachineFinding],
    "gcsearch data check --json": list[DatasetFinding],
    "gcsearch cache ls --json": list[CacheEntry],
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of all documents; `$defs` holds what they share."""
    adapters = [(name, "serialization", TypeAdapter(kind)) for name, kind in DOCUMENTS.items()]
    found, definitions = TypeAdapter.json_schemas(adapters)  # type: ignore[arg-type]
    parts = [found[name, "serialization"] | {"title": name} for name in DOCUMENTS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": parts, **definitions}
