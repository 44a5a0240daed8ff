"""A table in Markdown, and in HTML for the report and for notebooks."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gcsearch.results.differences import Difference
from gcsearch.results.tables.table import Cell, Remark, Table, written
from gcsearch.results.tables.wording import typeset
from gcsearch.stats import number

_IN_BRIEF = 80  # letters of a reason


def markdown(content: Table) -> str:
    """The table in Markdown, below its title."""
    rules = ["---" if one.words else "---:" for one in content.headings]
    lines = [f"{_plain(content.title)}\n", _line([_plain(one.title) for one in content.headings])]
    lines.append(f"|{'|'.join(rules)}|")
    for line, row in enumerate(content.cells):
        texts = map(_plain, row)
        lines.append(_line([f"**{text}**" if (line, i) in content.strong else text for i, text in enumerate(texts)]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that ends no cell, begins no HTML and no code; a star that closes an interval is a mark."""
    escaped = "".join("\\" + sign if sign in "|`*" else sign for sign in " ".join(text.split()))
    return escaped.replace("<", "&lt;").removesuffix("]\\*") + ("]*" if escaped.endswith("]\\*") else "")


def html(cell: Cell) -> Markup:
    """A cell in HTML, its interval or its reason in small letters."""
    match cell:
        case Difference():
            interval = f"[{_signed(cell.low)}, {_signed(cell.high)}]" if cell.n > 1 else "one seed"
            return Markup("{} <small>{}</small>").format(_signed(cell.mean), interval)
        case Remark():
            first = next(iter(cell.reason.splitlines()), "")
            brief = first if len(first) <= _IN_BRIEF else first[: _IN_BRIEF - 1] + "…"
            small = Markup(' <small title="{}">{}</small>').format(cell.reason, brief) if first else Markup()
            return escape(cell.text) + small
    return escape(typeset(written(cell)))


def _signed(value: float) -> str:
    return typeset(number(value, signed=True))


@cache
def environment() -> Environment:
    """The templates of pages and tables, which escape whatever they are given."""
    loader = PackageLoader("gcsearch.results", "report/templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"typeset": typeset, "html": html}
    return made


def notebook(content: Table) -> str:
    """The table as a notebook shows it, below its title."""
    return environment().get_template("notebook.html").render(table=content)
