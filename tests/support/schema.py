"""docs/schema.json as a reader of the file uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text(encoding="utf-8"))


def check(document: Any, name: str) -> None:
    """Validate against the part of the schema that has this title."""
    (part,) = [one for one in SCHEMA["anyOf"] if one["title"] == name]
    jsonschema.Draft202012Validator({**part, "$defs": SCHEMA["$defs"]}).validate(json.loads(json.dumps(document)))
