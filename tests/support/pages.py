"""What a page of the report carries: its words, and what its script unpacks."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
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


class _Tables(HTMLParser):
    """Collects the texts of all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[list[str]]] = []
        self._open = False

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("th", "td"):
            self.found[-1][-1].append("")
            self._open = True
        elif tag not in ("b", "small", "button"):
            self._open = False

    def handle_endtag(self, tag: str) -> None:
        if tag in ("tr", "table"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1][-1][-1] += data


def tables(page: str) -> list[list[list[str]]]:
    """The page's tables as rows of texts, the headings first; signs as the terminal writes them, without the star."""
    reader = _Tables()
    reader.feed(words_of(page))
    signs = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u2013": "-", "★": ""})
    return [[[cell.translate(signs).strip() for cell in row] for row in table] for table in reader.found]
