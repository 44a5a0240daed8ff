"""Tables for publications: what LaTeX, Markdown and CSV readers make of any name."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess

import pytest

from gcsearch.cli import render
from gcsearch.config.task import Task
from gcsearch.config.trials import Role, TrialRecord
from gcsearch.data.datasets import title_of
from gcsearch.results.averages import averages
from gcsearch.results.comparison import Finished, against, compare
from gcsearch.results.method_table import Comparison
from gcsearch.results.tables.latex import escape, label, table
from gcsearch.results.tables.table import Heading, Table
from tests.support.records import trial_record

NASTY = (
    "100% of_a&b #1 {x} $y$ ~z ^w \\cmd",
    "[in brackets]",
    "* starred",
    "naïve café – “Größe” …",
    "猫 и αβΩ 🦉",
    'a|b <i> `c` "d"',
    "two\nlines",
    "=1+1",
)


def a_final(name, base, method="coop", **hyperparameters) -> TrialRecord:
    accuracies = {"test_base_acc": (base, base + 1), "test_new_acc": (60.0, 62.0), "test_h": (base - 9, base - 8.5)}
    known = {"stage": "test", "seeds": (4, 5), "epochs": 3, "label": name, "role": Role.REFERENCE}
    return trial_record(-1, method, metrics=accuracies, **known, **hyperparameters)


def groups(names=NASTY, datasets=("shapes-sketch", "folder:my_50% birds & 猫")):
    references = [a_final(name, 70.0 + n, lr=0.001 * (n + 1)) for n, name in enumerate(names)]
    champion = a_final("champion", 65.0, "gcscoop").model_copy(update={"number": 3, "role": Role.CHAMPION})
    return compare([Finished(f"a_b-{n}", Task(dataset=name), champion, references) for n, name in enumerate(datasets)])


def latex(capsys, **more) -> str:
    found = against(groups(**more), "gcscoop")
    for group in found:
        render.print_table(group.table(found, formal=True), "latex")
    for one in (means := averages(found)):
        render.print_table(one.table(means, formal=True), "latex")
    return capsys.readouterr().out


def test_a_table_explains_its_star_and_has_a_label_and_minus_signs(capsys):
    text = latex(capsys, names=["CoOp", "SAM"])
    first = text.split(r"\end{table}")[0]
    assert (
        r"\caption{shapes-sketch, mini, 16 shots: accuracy on test images in \%, mean $\pm$ sd over seeds 4, 5}"
        in first
    )
    assert r"\label{tab:shapes-sketch-mini-16-shots}" in first
    note = first[first.index(r"\end{tabular}") :]
    assert "{}* The 95 \\% interval of the difference to GCSCoOp, paired by seed, leaves out zero." in note
    assert "Wilcoxon" in note
    assert "+5.00 [+5.00, +5.00]*" in first, "it is there to be explained"
    assert not re.search(r"(?<![\w$-])-\d", first), "no hyphen for a minus"
    (lower,) = against(compare([Finished("x", Task(), a_final("", 65.0, lr=1.0), [a_final("low", 40.0)])]), "x")
    render.print_table(lower.table([lower], formal=True), "latex")
    assert "$-$25.00 [$-$25.00, $-$25.00]*" in capsys.readouterr().out


def test_every_table_of_an_output_has_a_label_of_its_own(capsys):
    text = latex(capsys, names=["CoOp"], datasets=("folder:猫", "folder:犬", "folder:a-b", "folder:a b c"))
    labels = re.findall(r"\\label\{(tab:[a-z0-9-]+)\}", text)
    assert len(labels) == len(set(labels)) == text.count(r"\begin{table}") == 5


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("OxfordPets", "Oxford Pets"),
        ("DescribableTextures", "DTD"),
        ("ImageNetSketch", "ImageNet-Sketch"),
        ("EuroSAT", "EuroSAT"),
        ("shapes-sketch", "shapes-sketch"),
        ("folder:photos/my birds", "my birds"),
        ("table:lists/birds.csv", "birds"),
    ],
)
def test_a_data_set_has_its_proper_name_in_latex_and_its_key_elsewhere(name, title, capsys):
    assert title_of(name) == title
    found = groups(names=["CoOp"], datasets=(name,))
    render.print_table(found[0].table(found, formal=True), "latex")
    assert rf"\caption{{{escape(title)}, mini" in capsys.readouterr().out
    render.print_table(found[0].table(found), "markdown")
    assert capsys.readouterr().out.startswith(f"{name}, mini")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_the_tables_compile_in_a_plain_article_whatever_things_are_called(capsys, tmp_path):
    nasty = Table("x", [Heading(name, words=bool(i)) for i, name in enumerate(["[a", *NASTY])], [["*", *NASTY]],
                  strong=frozenset((0, i) for i in range(len(NASTY) + 1)), label=label("x"), notes=NASTY)  # fmt: skip
    body = latex(capsys) + table(nasty)
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{body}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_latex_reads_as_a_command_is_a_sign():
    assert escape("50% a_b & #1 {x} $5 ~ ^ \\") == (
        r"50\% a\_b \& \#1 \{x\} \$5 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape("-1.05 ± 0.20") == r"$-$1.05 $\pm$ 0.20"
    assert escape("[-1.05, -0.20] t-1 2026-11-22 ViT-B-16") == "[$-$1.05, $-$0.20] t-1 2026-11-22 ViT-B-16"
    assert escape("Cafe\u0301") == "Café", "letters of macOS's file names are put together"
    assert escape("αΩ") == r"$\alpha$$\Omega$"


def test_no_name_breaks_a_markdown_table(capsys):
    found = against(groups(), "gcscoop")
    render.print_table(found[1].table(found), "markdown")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == len(NASTY) + 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert any(r"| a\|b &lt;i> \`c\`" in line for line in lines)
    assert any(line.endswith("]* | 0.500 |") for line in lines)


def test_a_csv_holds_every_name_and_no_formula():
    names = ["=1+1", "+1 b", "-cmd|'x'", "@SUM(A1)", 'quoted "x", y', "\tx", "- 5"]
    found = against(groups(names=names), "gcscoop")
    rows = list(csv.DictReader(io.StringIO(Comparison(tuple(found), ()).to_csv())))
    read = [row["name"] for row in rows[: len(names)]]
    assert read == ["'=1+1", "'+1 b", "'-cmd|'x'", "'@SUM(A1)", 'quoted "x", y', "'\tx", "'- 5"]
    assert {row["against_mean"] for row in rows} >= {"5.0000", ""}
    low = [a_final("low", 40.0)]
    lower = Comparison.of([Finished("x", Task(), a_final("champion", 65.0, lr=1.0), low)], against_row="x")
    (line,) = [row for row in csv.DictReader(io.StringIO(lower.to_csv())) if row["name"] == "low"]
    assert line["against_mean"] == "-25.0000", "a negative number stays one"
