"""Tables for LaTeX: any text as it has to be written there, and a whole table for the package booktabs.

What comes out compiles in a plain article with pdfLaTeX, XeLaTeX and LuaLaTeX, whatever data sets, sweeps and
configurations are called.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

from gcsearch.results.tables.table import Table

_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "°": r"$^\circ$",
    "\u00a0": "~",
}
_LETTERS = (
    "éèêëàâäáãåçñöôóòõøüûúùïîíìßÿýÉÈÊËÀÂÄÁÃÅÇÑÖÔÓÒÕØÜÛÚÙÏÎÍÌÝ"
    + "čćďěňřšťůžČĎĚŇŘŠŤŮŽąęłńśźżĄĘŁŃŚŹŻőűŐŰğışĞİŞ"
    + "–—‘’“”…"
)
"""Of the letters beyond ASCII those that pdfLaTeX sets with its usual fonts."""

_MINUS = re.compile(r"(?<![\w.)\]-])-(?=\d)")


def escape(text: str) -> str:
    """Text as LaTeX: a minus before a number is one, and signs that LaTeX reads as commands are signs.

    What pdfLaTeX has no letter for stands there by its code point, and as itself with XeLaTeX and LuaLaTeX.
    """
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    written = _MINUS.sub("−", plain)
    kinds = groupby(written, key=_is_foreign)
    return "".join(_foreign("".join(some)) if foreign else "".join(map(_sign, some)) for foreign, some in kinds)


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(sign, ""))
    if greek and sign in _GREEK:
        name = greek[2].lower()
        return rf"$\{name if greek[1] == 'SMALL' else name.capitalize()}$"
    return sign


_GREEK = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΞΠΣΦΨΩ"


def _is_foreign(sign: str) -> bool:
    return not (sign.isascii() or sign in _SIGNS or sign in _LETTERS or sign in _GREEK)


def _foreign(text: str) -> str:
    shown = "".join(sign for sign in text if unicodedata.category(sign)[0] != "C")
    if not shown:
        return ""
    codes = " ".join(f"U+{ord(sign):04X}" for sign in shown)
    return rf"\ifdefined\directlua {shown}\else\ifdefined\XeTeXversion {shown}\else [{codes}]\fi\fi{{}}"


def label(*words: str) -> str:
    """A label of letters, digits and dashes: `tab:oxford-pets-16-shots`."""
    plain = unicodedata.normalize("NFKD", " ".join(words)).encode("ascii", "ignore").decode()
    return "tab:" + re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def table(content: Table) -> str:
    """A table for the package booktabs; of its notes the signs in it are part."""
    columns = "".join("l" if one.words else "r" for one in content.headings)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(content.title)}}}", rf"\label{{{content.label}}}"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [_row([escape(one.title) for one in content.headings]), r"\midrule"]
    for line, row in enumerate(content.cells):
        texts = map(escape, row)
        lines.append(
            _row([rf"\textbf{{{text}}}" if (line, i) in content.strong else text for i, text in enumerate(texts)])
        )
    lines += [r"\bottomrule", r"\end{tabular}"]
    if content.notes:
        text = r" \\ ".join(map(_after_a_break, map(escape, content.notes)))
        lines.append(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize\raggedright {text}}}")
    return "\n".join([*lines, r"\end{table}"])


def _row(cells: Sequence[str]) -> str:
    return _after_a_break(" & ".join(cells)) + r" \\"


def _after_a_break(text: str) -> str:
    """Text that follows a line break or a rule, which would take a bracket or a star for their own argument."""
    return "{}" + text if text.lstrip().startswith(("[", "*")) else text
