"""The page that holds sections: one HTML file, readable without a network."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from plotly.offline import get_plotlyjs

from gcsearch.results.report.picture import Picture, Section
from gcsearch.results.report.theme import DARK
from gcsearch.results.tables.markup import environment
from gcsearch.results.tables.spreadsheet import frame_to_csv
from gcsearch.results.tables.wording import NO_HOVERS, Hovers

Warn = Callable[[str], None]
"""Told in a line of what the page lacks."""

_MOST_ROWS = 2_000  # of a picture's numbers in the page: those of more take megabytes, and a table nobody reads


def built(name: str, build: Callable[[], Section], warn: Warn) -> Section:
    """The section, or in its place the reason why there is none."""
    try:
        return build()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever one part dies of, the others are shown
        return Section(name.capitalize(), _lacking(f"section {name}", error, warn))


def _lacking(what: str, error: Exception, warn: Warn) -> str:
    """In words that the page lacks `what`; `warn` hears of it too."""
    first = next(iter(str(error).splitlines()), "")
    why = f"{type(error).__name__}{': ' if first else ''}{first}"
    warn(f"the report lacks the {what}: {why}")
    return f"The {what} could not be drawn: {why}"


class _Slot(NamedTuple):
    """Where a picture is drawn: its number among the figures and its height; or the words that stand in for it."""

    picture: Picture
    figure: int = -1
    height: int = 0
    lacking: str = ""


def document(
    kind: str,
    name: str,
    about: str,
    sections: Sequence[Section],
    *,
    sentences: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    toml: str = "",
    points: Hovers = NO_HOVERS,
    warn: Warn = lambda _: None,
) -> str:
    """One HTML file with everything in it, plotly.js included once; nothing is loaded from elsewhere.

    What has nothing to show is listed below the others, each with the reason. What cannot be drawn is named to `warn`
    and in the page, and costs nothing else.
    """
    pictures: list[str] = []
    drawn = [(section, _draw(section, pictures, warn)) for section in sections if section.shows]
    hovers = json.dumps(points._asdict(), ensure_ascii=False, separators=(",", ":"))
    carried = f'{{"hovers":{hovers},"dark":{json.dumps(DARK)},"pictures":[{",".join(pictures)}]}}'
    return (
        environment()
        .get_template("page.html")
        .render(
            kind=kind,
            name=name,
            about=about,
            sentences=sentences,
            drawn=drawn,
            left_out=[section for section in sections if not section.shows],
            facts=facts or {},
            toml=toml,
            plotly=_packed_plotly(get_plotlyjs()) if pictures else "",
            carried=packed(carried),
        )
    )


def packed(text: str) -> str:
    """Compressed, and in letters that end no script: what the page's own script unpacks is a third as long."""
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


_packed_plotly = lru_cache(maxsize=1)(packed)


def _draw(section: Section, pictures: list[str], warn: Warn) -> list[_Slot]:
    """The places of a section's pictures, which are added to `pictures` as JSON with their numbers."""
    places = []
    for picture in section.pictures:
        try:
            figure, rows = picture.figure, len(picture.frame)
            drawn = str(figure.to_json())
            csv = frame_to_csv(picture.frame) if rows <= _MOST_ROWS else None
        except (MemoryError, OSError):
            raise
        except Exception as error:  # a picture is no reason to lose the page
            places.append(_Slot(picture, lacking=_lacking(f"picture {picture.name}", error, warn)))
            continue
        places.append(_Slot(picture, len(pictures), figure.layout.height))
        about = {"name": picture.name, "rows": rows, "csv": csv}
        pictures.append(f'{{"about":{json.dumps(about, ensure_ascii=False)},"figure":{drawn}}}')
    return places
