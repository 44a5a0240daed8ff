"""What a page of the report carries: its words, and what its script unpacks."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64decode
from typing import Any

_PACKED = re.compile(r'<script type="text/plain" id="packed-(\w+)">([\w+/=]*)</script>')


def words_of(page: str) -> str:
    """The page without plotly.js."""
    return _PACKED.sub(lambda found: "" if found[1] == "plotly" else found[0], page)


def packed_in(page: str) -> dict[str, str]:
    """By its name what is packed in the page: `plotly` and `data`."""
    return {name: gzip.decompress(b64decode(text)).decode() for name, text in _PACKED.findall(page)}


def carried(page: str) -> dict[str, Any]:
    """The page's data: `pictures`, `hovers` and `dark`."""
    return json.loads(packed_in(page)["data"])


def figures(page: str) -> list[dict[str, Any]]:
    """The plotly figures of the page, in the order in which they stand."""
    return [picture["figure"] for picture in carried(page)["pictures"]]
