"""One table of results in every form: the same digits everywhere, and long form for those who compute further."""

from __future__ import annotations

import math
import subprocess
import sys

from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.trials import Outcome, TrialRecord
from gcsearch.results.differences import Difference
from gcsearch.results.ranking import ranking
from gcsearch.results.tables import latex
from gcsearch.results.tables.markup import html, markdown, notebook
from gcsearch.results.tables.spreadsheet import header, to_csv
from gcsearch.results.tables.table import Entry, Heading, Remark, Table, to_frame, written
from gcsearch.stats import Spread, spread
from tests.support.records import trial_record

NAN = math.nan
PETS = Entry({"name": "CoOp", "rank": 1}, (4, 5), {"base": (80.0, 82.0), "new": (70.0, NAN)})
FAILED = Entry({"name": "<SAM>", "rank": None}, (4, 5), {})
HEADINGS = [Heading("", "name", words=True), Heading("rank", "rank"), Heading("base", "base")]


def a_trial(number: int, *values: float, outcome: Outcome = Outcome.COMPLETE, **hyperparameters: float) -> TrialRecord:
    metrics = {"val_h": values} if values else {}
    return trial_record(number, "gcscoop", outcome=outcome, epochs=5, metrics=metrics, **hyperparameters)


def test_a_cell_is_written_in_one_way_whatever_it_holds():
    cells = [spread((83.1, 84.3)), spread((83.1,)), spread(()), 1.005, NAN, 3, "words", None, Remark("failed", "why")]
    assert list(map(written, cells)) == ["83.70 ± 0.85", "83.10", "-", "1.00", "-", "3", "words", "", "failed"]
    assert written(Difference(1.5, 0.3, 0.2, 2.8, 5)) == "+1.50 [+0.20, +2.80]*"
    assert written(Difference(-1.5, 0.9, -3.2, 0.2, 5)) == "-1.50 [-3.20, +0.20]"
    assert written(Difference(-1.5, NAN, NAN, NAN, 1)) == "-1.50 (one seed)"


def test_html_typesets_the_same_digits_and_escapes_what_users_write():
    assert html(Spread(-1.05, 0.2, 3)) == "−1.05 ± 0.20"
    assert html("<b>") == "&lt;b&gt;"
    assert html(Difference(-1.5, 0.9, -3.2, 0.2, 5)) == "−1.50 <small>[−3.20, +0.20]</small>"
    assert html(Remark("failed", "a < b\nmore")) == 'failed <small title="a &lt; b\nmore">a &lt; b</small>'


def test_every_form_shows_the_same_cells():
    table = Table.of("pets", HEADINGS, [PETS, FAILED])
    assert table.cells == [["CoOp", "1", "81.00 ± 1.41"], ["<SAM>", "", "-"]]
    for form in (markdown, latex.table, notebook):
        assert "81.00" in form(table) and "1.41" in form(table)
    assert "&lt;SAM&gt;" in notebook(table) and "<SAM>" not in notebook(table)
    assert notebook(Table("pets", HEADINGS, [], notes=["nothing fits"])).split() == [
        "<div>", "<p>nothing", "fits</p>", "</div>",
    ]  # fmt: skip


def test_long_form_has_a_line_for_each_row_metric_and_seed():
    frame = to_frame([PETS, FAILED])
    assert list(frame.columns) == ["name", "rank", "metric", "seed", "value"]
    assert frame[["metric", "seed"]].values.tolist() == [["base", 4], ["base", 5], ["new", 4], ["new", 5]]
    assert frame.groupby("metric").value.mean().to_dict() == {"base": 81.0, "new": 70.0}
    assert to_frame([]).empty


def test_a_csv_has_mean_and_deviation_of_each_metric_and_empty_fields():
    fields = header([PETS, FAILED], ["rank"], ["note"])
    assert to_csv(fields, [PETS, FAILED]).splitlines() == [
        "rank,name,base_mean,base_sd,new_mean,new_sd,note",
        "1,CoOp,81.0000,1.4142,,,",
        ",<SAM>,,,,,",
    ]


def test_a_ranking_is_a_table_a_data_frame_and_a_notebooks_cell():
    trials = [a_trial(0, 80.0, 82.0, rho=0.1), a_trial(1, 84.0, 86.0, rho=0.2), a_trial(2, outcome=Outcome.FAILED)]
    pipeline = Pipeline(name="pets", search=SearchConfig(objective="val_h"))
    ranked = ranking(pipeline, trials)
    assert [row.record.number for row in ranked] == [1, 0, 2] and len(ranked[:2]) == 2
    assert ranked.table(2).title == "pets: 3 configurations by val_h, mean ± sd over seeds"
    assert [row[:2] for row in ranked.table().cells] == [["1", "t0001"], ["2", "t0000"], ["-", "t0002"]]
    frame = ranked.to_frame()
    assert frame[["rank", "trial", "params_rho", "seed", "value"]].values.tolist() == [
        [1, 1, 0.2, 1, 84.0], [1, 1, 0.2, 2, 86.0], [2, 0, 0.1, 1, 80.0], [2, 0, 0.1, 2, 82.0],
    ]  # fmt: skip
    assert "85.00 ± 1.41" in ranked._repr_html_()


def test_tables_and_the_verdict_on_the_terminal_need_nothing_that_is_slow_to_import():
    code = (
        "import sys, gcsearch.results.method_table, gcsearch.results.ranking, gcsearch.results.report.findings\n"
        "sys.exit(any(name in sys.modules for name in ('pandas', 'jinja2', 'torch', 'plotly', 'optuna')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
