"""Prints the schema: python -m gcsearch.results.documents > docs/schema.json."""

import json

from gcsearch.results.documents import json_schema

print(json.dumps(json_schema(), indent=2))
