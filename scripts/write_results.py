"""Writes docs/results.md, the published tables, from gcsearch/assets/published.toml.

    python scripts/write_results.py          # a test fails while the page is behind the file

The page is generated so that a number stands in one place: what `gcsearch compare --published` prints and
what a reader finds in the docs cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gcsearch import files
from gcsearch.results.published import AVERAGE, COLUMNS, Paper, Protocol, Published, PublishedNumber, Result, load

PAGE = Path(__file__).parent.parent / "docs" / "results.md"

TITLES: dict[Protocol, tuple[str, str]] = {
    "base-to-new": (
        "Base to new",
        "Trained on the first half of the classes, measured on the test images of either half among its own names; "
        "base / new / H in %.",
    ),
    "few-shot": ("Few-shot, all classes", "Trained and measured on all classes; accuracy on test images in %."),
    "cross-dataset": (
        "Cross-dataset",
        "Trained on all classes of ImageNet, measured with the same prompt on the test images of other data sets; "
        "accuracy in %.",
    ),
    "domain-generalisation": (
        "Domain generalisation",
        "Trained on all classes of ImageNet, measured on its variants; accuracy in %.",
    ),
}

HEAD = """# Published results

What has been published for the methods that gcsearch has, so that your numbers can stand beside it. Made by
`scripts/write_results.py` from [published.toml](../gcsearch/assets/published.toml); edit that.

**No number of gcsearch's own on real data is on this page, because none has been run yet:** the real data sets and
weights were not within reach where gcsearch is built. A number of ours is entered only when it was run, with its
command, date and hardware. What was measured on the embedded world is in [log.md](log.md) and says nothing about
real CLIP.

`gcsearch compare SWEEP --published` prints your numbers beside these where data set, backbone and number of shots are
the same, and says in a sentence which of the three differs where they are not. open_clip's `ViT-B-16` and
`ViT-B-16-quickgelu` with `pretrained = "openai"` are the papers' ViT-B/16. A sweep on weights from a file is put beside
nothing: whose they are is not known. Zero-shot CLIP has no shots and stands beside any number of them.

## How sure a number is

| mark | meaning |
|---|---|
| 73.60 | read in a public text, named below the table |
| 73.60? | **recalled**, and not found in a text: provisional. Check it against the paper before you quote it |
| *77.00* | computed here as 2BN/(B+N) from a base and a new accuracy that were read |
| - | not known |

Except for SAMPLe's, none was read in the table of its own paper: those texts were not within reach; reprints, readmes
and issues were.

## Before you compare

- The data set must come with the field's split file. A split that gcsearch drew itself ([datasets.md](datasets.md)) is
  another data set.
- Zero-shot CLIP and what is guided by it (KgCoOp, ProGrad) depend on `task.template`; the field's differs by data set.
- H of a data set is formed in the papers from the mean accuracies over seeds; gcsearch prints the mean over seeds of H.
- An average H is that of the average accuracies in some papers and the mean of the Hs in others; it is said which. The
  two differ by up to a point.
- Batch size, epochs and precision differ between papers, and from gcsearch's defaults ([methods.md](methods.md)).
- Which configurations were tried before the published one was chosen, and on which images, is not stated in any of
them.
"""


def cell_text(cell: PublishedNumber) -> str:
    """A number with the mark of its certainty."""
    text = f"{cell.value:.2f}"
    if cell.certainty == "computed":
        return f"*{text}*"
    return text + "?" * (cell.certainty == "recalled")


def numbers_of(result: Result, dataset: str) -> str:
    """A result's numbers on a data set, `-` where it has none."""
    if dataset not in result.numbers:
        return "-"
    cells = result.cells(dataset)
    return " / ".join(cell_text(cells[column]) for column in COLUMNS[result.protocol])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source_of(published: Published, number: int, result: Result) -> str:
    """Where a column comes from, in a line."""
    parts = [f"{number}. {result.title}: {published.source(result)}", f"read in {result.read_in}"]
    if result.shots:
        parts.append(f"seeds: {result.seeds or 'number unknown'}")
    if result.average_h:
        words = {"of-averages": "H of the average accuracies", "average-of-h": "mean of the Hs"}
        parts.append(f"average H: {words[result.average_h]}")
    return "; ".join(parts) + "." + (f" {result.note}" if result.note else "")


def part(published: Published, results: Sequence[Result]) -> str:
    """A table with a column per result, and the sources below. The results have protocol and backbone in common."""
    datasets = [*dict.fromkeys(name for result in results for name in result.numbers if name != AVERAGE), AVERAGE]
    kept = [name for name in datasets if any(name in result.numbers for result in results)]
    header = ["", *(f"{result.title} ({number})" for number, result in enumerate(results, start=1))]
    rows = [[name, *(numbers_of(result, name) for result in results)] for name in kept]
    sources = [source_of(published, number, result) for number, result in enumerate(results, start=1)]
    return table(header, rows) + "\n\n" + "\n".join(sources)


def cited(key: str, paper: Paper) -> str:
    """All that is known of a paper."""
    known = (paper.authors, f'"{paper.title}"' if paper.title else None, paper.year, paper.where)
    return f"{key} paper: " + (", ".join(str(one) for one in known if one) or "not at hand")


def parts_of(published: Published, results: Sequence[Result]) -> Iterator[str]:
    """The tables of one protocol: by backbone, averages alone apart, at most six columns wide."""
    for backbone in dict.fromkeys(result.backbone for result in results):
        mine = [result for result in results if result.backbone == backbone]
        alone = [result for result in mine if set(result.numbers) == {AVERAGE}]
        full = [result for result in mine if result not in alone]
        shots = ", ".join(sorted({f"{result.shots} shots" for result in mine if result.shots})) or "zero-shot"
        for words, some in (("", full[:6]), ("", full[6:]), (", averages alone", alone)):
            if some:
                yield f"### {backbone}, {shots}{words}\n\n{part(published, some)}\n"


def page(published: Published) -> str:
    """The whole page."""
    parts = [HEAD]
    for protocol, (title, words) in TITLES.items():
        parts.append(f"## {title}\n\n{words}\n")
        parts += parts_of(published, [result for result in published.results if result.protocol == protocol])
    unknown = "\n".join(f"- {one.what}: {one.why}." for one in published.unknown)
    papers = "\n".join(f"- {cited(*item)}" for item in published.papers.items())
    return "\n".join([*parts, f"## Published and not known here\n\n{unknown}\n", f"## Papers\n\n{papers}\n"])


if __name__ == "__main__":
    files.write_whole(PAGE, page(load()))
    print(PAGE)
