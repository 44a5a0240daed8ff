"""One table of all methods: each configuration once, each task apart, the best of each column marked."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from gcsearch.cli import render
from gcsearch.config import metrics as protocol
from gcsearch.config.task import Task
from gcsearch.config.trials import Outcome, TrialConfig
from gcsearch.errors import InputError
from gcsearch.methods.registry import with_tags
from gcsearch.results.averages import averages
from gcsearch.results.comparison import against, compare, heading, results_table
from gcsearch.results.differences import Verdict
from gcsearch.results.method_table import Comparison
from gcsearch.results.tables.wording import described, named
from tests.support.finished import COOP, SKETCH, ZEROSHOT, a_sweep
from tests.support.records import a_final


def shown(group):
    return [(row.name, row.sweeps) for row in group.rows]


def test_references_stand_once_and_before_the_champions():
    (group,) = compare([a_sweep("one", a_final("gcscoop")), a_sweep("two", a_final("kgcoop", kg_lambda=2.0))])
    assert shown(group) == [
        ("zero-shot CLIP", ()),
        ("CoOp", ()),
        ("GCSCoOp", ("one",)),
        ("KgCoOp", ("two",)),
    ]


def test_a_champion_that_is_a_reference_is_one_row_with_the_names_of_its_sweeps():
    literature = a_final("gcscoop", label="GCSCoOp, literature")
    sweeps = [
        a_sweep("one", a_final("gcscoop"), [literature]),
        a_sweep("two", a_final("gcscoop"), []),
        a_sweep("three", a_final("gcscoop", rho=0.3), [literature]),
    ]
    (group,) = compare(sweeps)
    assert shown(group) == [("GCSCoOp, literature", ("one", "two")), ("GCSCoOp", ("three",))]


def test_the_search_protocol_makes_no_other_task_but_shots_data_and_model_do():
    tasks = [SKETCH, Task(folds=2, val_shots="all", seeds=(7,)), Task(shots=4), Task(dataset="shapes-photo")]
    groups = compare([a_sweep(str(i), a_final("coop", lr=0.01 * (i + 1)), task=t) for i, t in enumerate(tasks)])
    assert [len(group.rows) for group in groups] == [4, 3, 3]
    assert [heading(group, groups) for group in groups] == [
        "shapes-sketch, mini, 16 shots",
        "shapes-sketch, mini, 4 shots",
        "shapes-photo, mini, 16 shots",
    ]
    other = compare([a_sweep("a", COOP, task=SKETCH), a_sweep("b", COOP, task=Task(views=2))])
    assert [heading(group, other) for group in other] == [
        "shapes-sketch, mini, 16 shots, views 8",
        "shapes-sketch, mini, 16 shots, views 2",
    ]


def test_a_default_that_an_older_sweep_did_not_write_makes_no_other_setting():
    older = ZEROSHOT.model_copy(update={"config": TrialConfig(method="zeroshot")})
    assert older.config.digest != ZEROSHOT.config.digest
    (group,) = compare([a_sweep("one", COOP, [older]), a_sweep("two", COOP, [ZEROSHOT])])
    assert [row.name for row in group.rows] == ["zero-shot CLIP", "CoOp"]


def test_another_list_of_names_is_another_setting_of_nfl_and_of_nothing_else():
    mine = Task(other_names="mine.txt")
    (group,) = compare([a_sweep("one", a_final("nfl")), a_sweep("two", a_final("nfl"), task=mine)])
    assert [row.name for row in group.rows] == ["zero-shot CLIP", "CoOp", "NFL", "NFL [names of mine.txt]"]


def test_the_same_setting_with_other_seeds_is_another_row():
    again = COOP.model_copy(update={"seeds": (8, 9)})
    (group,) = compare([a_sweep("one", a_final("sam"), [COOP]), a_sweep("two", a_final("sam"), [again])])
    assert [row.name for row in group.rows] == ["CoOp", "CoOp", "SAM"]
    assert group.seeds == [(4, 5), (8, 9)]


def test_the_best_of_each_column_is_marked_and_equals_share_it():
    (group,) = compare([a_sweep("one", a_final("sam", 90.001, 50.0))])
    assert [(row.title, sorted(row.best)) for row in group.rows] == [
        ("zero-shot CLIP", ["h", "new"]),
        ("CoOp", ["base"]),
        ("SAM", ["base"]),
    ]


def test_a_row_without_new_classes_has_base_accuracy_alone():
    champion = a_final("coop", 99.0, None, class_specific=True)
    (group,) = compare([a_sweep("one", champion)])
    row = group.rows[-1]
    assert row.name == "CoOp [class-specific]"
    assert row.best == {"base"}
    found = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    reach = 12.7062 * 2**0.5 / 2**0.5  # Student's t of one degree of freedom, times s over the root of n
    assert found["base"] == {
        "mean": 100.0,
        "deviation": pytest.approx(2**0.5),
        "interval": pytest.approx([100 - reach, 100 + reach], abs=1e-3),
        "per_seed": {"4": 99.0, "5": 101.0},
    }
    assert found["new"] == found["h"] == {"mean": None, "deviation": None, "interval": None, "per_seed": {}}


ALL = Task.from_dict({"classes": "all"})
AWAY = Task.from_dict({"classes": "all", "targets": ["shapes-neon", "shapes-sketch", "folder:my birds"]})


def measured(record, task, *values):
    """The record with `values` for the first seed in the task's columns, and two points more for the second."""
    columns = [column.metric for column in protocol.columns(task)]
    metrics = {metric: (value, value + 2) for metric, value in zip(columns, values, strict=True)}
    return record.model_copy(update={"metrics": metrics})


def test_each_protocol_has_its_own_columns_and_its_own_part():
    usual = a_sweep("usual", a_final("sam"))
    every = a_sweep("every", measured(a_final("sam"), ALL, 70.0), [measured(COOP, ALL, 71.0)], ALL)
    champion = measured(a_final("sam"), AWAY, 70.0, 60.0, 70.0, 50.0, 55.0)
    away = a_sweep("away", champion, [measured(COOP, AWAY, 71.0, 59.0, 71.0, 50.0, 54.5)], AWAY)
    groups = compare([usual, every, away])
    assert [heading(group, groups) for group in groups] == [
        "shapes-sketch, mini, 16 shots",
        "shapes-sketch, mini, 16 shots, all classes",
        "shapes-sketch, mini, 16 shots, all classes",
    ]
    assert [[column.title for column in group.columns] for group in groups] == [
        ["base", "new", "H"],
        ["Acc"],
        ["source", "shapes-neon", "shapes-sketch", "folder-my-birds", "mean of targets"],
    ]
    coop, sam = groups[2].rows
    assert sam.values("targets").mean == 56.0
    assert coop.best == {"acc", "shapes-sketch", "folder-my-birds"}
    assert sam.best == {"shapes-neon", "folder-my-birds", "targets"}
    found = json.loads(json.dumps(groups[2].to_dict(), allow_nan=False))
    assert found["rows"][1]["shapes-neon"]["per_seed"] == {"4": 60.0, "5": 62.0}
    assert found["rows"][1]["best"] == ["shapes-neon", "folder-my-birds", "targets"]
    assert not {"base", "new", "h"} & set(found["rows"][1])


def test_tables_and_csv_of_several_protocols_stand_together(capsys):
    champion = measured(a_final("sam"), AWAY, 70.0, 60.0, 70.0, 50.0, 55.0)
    groups = compare([a_sweep("usual", a_final("sam"), []), a_sweep("away", champion, [], AWAY)])
    usual, away = csv.DictReader(Comparison(tuple(groups), ()).to_csv().splitlines())
    assert (usual["h_mean"], usual["acc_mean"], usual["targets_sd"]) == ("67.0000", "", "")
    assert (away["h_mean"], away["acc_mean"], away["folder-my-birds_mean"]) == ("", "71.0000", "51.0000")
    assert (usual["targets"], away["targets"]) == ("", "shapes-neon;shapes-sketch;folder:my birds")
    render.print_table(groups[1].table(groups), "markdown")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "|  | searched in | source | shapes-neon | shapes-sketch | folder-my-birds | mean of targets |"
    assert lines[4].startswith("| SAM | away | **71.00 ± 1.41** | **61.00 ± 1.41** |")
    render.print_table(results_table([champion], AWAY))
    assert "mean of targets" in capsys.readouterr().out


def test_who_saw_the_new_names_does_not_compete_with_who_did_not():
    seen = a_final("subpt+nfl", 99.0, 99.0, nfl_names="transductive")
    (group,) = compare([a_sweep("one", seen)])
    assert group.rows[-1].name == "SubPT + NFL [transductive]"
    assert group.rows[-1].best == frozenset()
    assert group.rows[1].best == {"base"}
    (group,) = compare([a_sweep("one", seen, [])])
    assert group.rows[0].best == {"base", "new", "h"}


def test_what_an_oracle_chose_is_a_row_apart_that_says_so_and_does_not_compete():
    literature = a_final("gcscoop", 99.0, 60.0, label="GCSCoOp, literature")
    champion = a_final("gcscoop", 99.0, 60.0)
    sweeps = [
        a_sweep("clean", champion, [COOP, literature]),
        replace(a_sweep("peek", champion, [COOP, literature]), oracle=True),
        replace(a_sweep("again", champion, [COOP]), oracle=True),
        replace(a_sweep("sam", a_final("sam", 99.5, 72.0), [COOP]), oracle=True),
    ]
    (group,) = compare(sweeps)
    assert shown(group) == [
        ("CoOp", ()),
        ("GCSCoOp, literature", ("clean",)),
        ("GCSCoOp [oracle]", ("peek", "again")),
        ("SAM [oracle]", ("sam",)),
    ]
    assert [sorted(row.best) for row in group.rows] == [["h", "new"], ["base"], [], []]
    document = group.to_dict()["rows"]
    assert [(row["oracle"], row["tags"]) for row in document[1:3]] == [(False, []), (True, ["oracle"])]
    (alone,) = compare([replace(a_sweep("peek", champion, []), oracle=True)])
    assert alone.rows[0].best == {"base", "new", "h"}


def test_the_clean_and_the_oracle_row_of_a_method_are_told_apart_by_name():
    clean, peek = a_final("gcscoop"), a_final("gcscoop", 85.0, 65.0, rho=0.3)
    groups = compare([a_sweep("a", clean), replace(a_sweep("b", peek), oracle=True)])
    for name, other in (("gcscoop", "GCSCoOp"), ("GCSCoOp [oracle]", "GCSCoOp [oracle]"), ("b", "GCSCoOp [oracle]")):
        (group,) = against(groups, name)
        assert {row.against.name for row in group.rows if row.against} == {other}


def test_a_setting_that_broke_says_so_until_another_sweep_has_its_numbers():
    broken = a_final("sam", outcome=Outcome.DIVERGED)
    (group,) = compare([a_sweep("one", broken, [])])
    assert shown(group) == [("SAM (diverged)", ("one",))]
    (group,) = compare([a_sweep("one", broken, []), a_sweep("two", a_final("sam"), [])])
    assert shown(group) == [("SAM", ("one", "two"))]
    assert group.rows[0].values("base").mean == 81.0


def test_names_carry_their_tags_once():
    assert with_tags("NFL [transductive]", ("transductive",)) == "NFL [transductive]"
    assert with_tags("CoOp", ()) == "CoOp"
    record = a_final("nfl", label="NFL, literature", nfl_names="transductive")
    assert named(record) == "NFL, literature [transductive]"
    setting = TrialConfig(method="nfl", hyperparameters={"nfl_names": "transductive", "lr": 0.01})
    assert described(setting) == "nfl [transductive] nfl_names=transductive lr=0.01"
    older = TrialConfig(method="nfl", hyperparameters={"of_an_older_version": 1})
    assert described(older) == "nfl of_an_older_version=1"


def test_a_comparison_needs_neither_torch_nor_mlflow():
    code = (
        "import sys, gcsearch.results.comparison; "
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'plotly', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- Beside one row, and over data sets


def test_every_row_is_compared_by_seed_with_the_one_that_is_named():
    (group,) = against(compare([a_sweep("one", a_final("gcscoop", 88.0, 65.0))]), "CoOp")
    by_name = {row.name: row.against for row in group.rows}
    assert by_name["CoOp"] is None
    found = by_name["GCSCoOp"]
    assert (found.name, found.column.metric, found.lead.n) == ("CoOp", "test_h", 2)
    assert (found.lead.mean, found.lead.low, found.lead.high) == (4.0, 4.0, 4.0)
    assert found.verdict is Verdict.BETTER
    assert found.document().dump()["verdict"] == "better"
    assert group.to_dict()["rows"][-1]["against"]["mean"] == 4.0


@pytest.mark.parametrize("name", ["coop", "COOP", "two"])
def test_a_row_is_named_by_title_method_or_sweep(name):
    groups = compare([a_sweep("two", a_final("coop", 90.0, 61.0, epochs=7), references=(ZEROSHOT,))])
    (group,) = against(groups, name)
    assert [row.against is None for row in group.rows] == [False, True]


def test_a_name_that_is_in_no_table_or_fits_several_rows_is_refused():
    groups = compare([a_sweep("one", a_final("gcscoop")), a_sweep("two", a_final("gcscoop", rho=0.3))])
    with pytest.raises(
        InputError, match=r"configurations are compared with one that is in the table(.|\n)*There are: zero-shot"
    ):
        against(groups, "prograd")
    with pytest.raises(InputError, match="several rows are called so"):
        against(groups, "gcscoop")


def test_rows_without_a_common_seed_say_so_in_every_form(capsys):
    other = a_final("gcscoop", seeds=(8, 9))
    groups = against(compare([a_sweep("one", other)]), "CoOp")
    render.print_table(groups[0].table(groups))
    assert "no common seed" in capsys.readouterr().out
    (row,) = [r for r in csv.DictReader(Comparison(tuple(groups), ()).to_csv().splitlines()) if r["name"] == "GCSCoOp"]
    assert row["against_mean"] == ""


NIGHT = Task(dataset="shapes-night")


def test_averages_over_data_sets_come_in_both_conventions():
    sweeps = [
        a_sweep("a", a_final("gcscoop", 80.0, 60.0, rho=0.1)),
        a_sweep("b", a_final("gcscoop", 90.0, 50.0, rho=0.2), task=NIGHT),
    ]
    (table,) = averages(compare(sweeps))
    assert table.datasets == ("shapes-sketch", "shapes-night")
    assert [row.name for row in table.rows] == ["zero-shot CLIP", "CoOp", "GCSCoOp"]
    found = table.rows[-1].values
    assert found["base"] == (85.0, 87.0)
    assert found["new"] == (55.0, 57.0)
    assert found["h"] == (60.0, 64.0)  # the mean of 65 and 55, of 69 and 59
    assert found["h_of_means"] == pytest.approx((2 * 85 * 55 / 140, 2 * 87 * 57 / 144))
    assert table.to_dict()["average_over"] == ["shapes-sketch", "shapes-night"]


def test_methods_that_a_data_set_lacks_or_has_with_other_seeds_are_in_no_average():
    sweeps = [
        a_sweep("a", a_final("gcscoop"), references=(ZEROSHOT, COOP)),
        a_sweep("b", a_final("gcscoop", seeds=(8, 9)), references=(ZEROSHOT,), task=NIGHT),
        a_sweep("c", a_final("sam"), task=Task(shots=4)),
    ]
    (table,) = averages(compare(sweeps))
    assert [row.name for row in table.rows] == ["zero-shot CLIP"]
    assert averages(compare(sweeps[:1])) == []


LITERATURE = a_final("gcscoop", 90.0, 60.0, label="GCSCoOp, literature")


def means(table):
    """Base accuracy of each average, and the sentences about what has none."""
    return {row.name: round(sum(row.values["base"]) / 2, 2) for row in table.rows}, list(table.left_out)


def test_a_champion_that_is_a_reference_counts_as_both():
    sweeps = [
        a_sweep("a", a_final("gcscoop", 90.0, 60.0), [ZEROSHOT, LITERATURE]),
        a_sweep("b", a_final("gcscoop", 94.0, 60.0, rho=0.2), [ZEROSHOT, LITERATURE], task=NIGHT),
    ]
    assert [row.title for row in compare(sweeps)[0].rows] == ["zero-shot CLIP", "GCSCoOp, literature"]
    (table,) = averages(compare(sweeps))
    assert means(table) == ({"zero-shot CLIP": 71.0, "GCSCoOp, literature": 91.0, "GCSCoOp": 93.0}, [])


def test_what_was_searched_is_told_from_a_reference_of_the_same_name():
    sweeps = [a_sweep("a", COOP), a_sweep("b", a_final("coop", 94.0, 60.0, lr=0.1), task=NIGHT)]
    (table,) = averages(compare(sweeps))
    assert means(table) == ({"zero-shot CLIP": 71.0, "CoOp": 91.0, "CoOp, searched": 93.0}, [])
    (table,) = averages(compare([a_sweep("a", ZEROSHOT), a_sweep("b", ZEROSHOT, task=NIGHT)]))
    assert means(table) == ({"zero-shot CLIP": 71.0, "CoOp": 91.0}, [])


def test_two_champions_of_one_method_on_a_data_set_have_no_average_and_it_is_said():
    sweeps = [
        a_sweep("one", a_final("gcscoop", 90.0, 60.0), [ZEROSHOT, LITERATURE]),
        a_sweep("two", a_final("gcscoop", 92.0, 60.0, rho=0.3), [ZEROSHOT, LITERATURE]),
        a_sweep("night", a_final("gcscoop", 94.0, 60.0, rho=0.2), [ZEROSHOT, LITERATURE], task=NIGHT),
    ]
    (table,) = averages(compare(sweeps))
    why = "GCSCoOp (several on shapes-sketch, searched in one, two)"
    assert means(table) == ({"zero-shot CLIP": 71.0, "GCSCoOp, literature": 91.0}, [why])
    again = [replace(sweep, champion=LITERATURE) if sweep.name == "two" else sweep for sweep in sweeps]
    assert means(averages(compare(again))[0])[0]["GCSCoOp"] == 93.0, "both have chosen the same configuration"


def with_seeds(record, *seeds):
    """The record with more seeds, the further ones as good as the first."""
    metrics = {name: (*values, *values[:1] * (len(seeds) - 2)) for name, values in record.metrics.items()}
    return record.model_copy(update={"seeds": seeds, "metrics": metrics})


def test_other_seeds_on_one_data_set_leave_no_average_and_the_words_why():
    more = [with_seeds(record, 4, 5, 9) for record in (a_final("gcscoop"), ZEROSHOT, COOP)]
    sweeps = [a_sweep("a", more[0], more[1:]), a_sweep("b", a_final("gcscoop", rho=0.2), task=NIGHT)]
    (table,) = averages(compare(sweeps))
    assert table.rows == ()
    assert table.left_out == (
        "zero-shot CLIP, CoOp, GCSCoOp (not on shapes-night with seeds 4, 5, 9)",
        "zero-shot CLIP, CoOp, GCSCoOp (not on shapes-sketch with seeds 4, 5)",
    )


def test_a_reference_that_has_an_average_is_not_named_for_its_other_seeds():
    sweeps = [
        a_sweep("a", a_final("gcscoop")),
        a_sweep("b", a_final("gcscoop", rho=0.2), task=NIGHT),
        a_sweep("c", with_seeds(a_final("gcscoop", rho=0.3), 4, 5, 9), [with_seeds(ZEROSHOT, 4, 5, 9)]),
    ]
    (table,) = averages(compare(sweeps))
    assert means(table) == (
        {"zero-shot CLIP": 71.0, "CoOp": 91.0, "GCSCoOp": 81.0},
        ["GCSCoOp (not on shapes-night with seeds 4, 5, 9)"],
    )


def test_averages_of_other_seeds_stand_in_one_table_that_names_them(capsys):
    more = with_seeds(a_final("sam"), 4, 5, 9)
    tasks = (SKETCH, NIGHT)
    sweeps = [a_sweep(f"{t.dataset}-{r.config.method}", r, task=t) for t in tasks for r in (a_final("gcscoop"), more)]
    (table,) = averages(compare(sweeps))
    render.print_table(table.table([table]), "markdown")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "|  | seeds | base | new | H | H of means |"
    assert [line.split("|")[1:3] for line in lines[6:]] == [[" GCSCoOp ", " 4, 5 "], [" SAM ", " 4, 5, 9 "]]


def test_averages_are_compared_by_seed_as_the_rows_are(capsys):
    sweeps = [
        a_sweep("a", a_final("gcscoop", 80.0, 60.0), [ZEROSHOT, COOP, a_final("gcscoop", label="GCSCoOp, literature")]),
        a_sweep("b", a_final("gcscoop", 90.0, 69.0, rho=0.2), task=NIGHT),
        a_sweep("c", with_seeds(a_final("sam", 90.0, 62.0), 4, 5, 9)),
        a_sweep("d", with_seeds(a_final("sam", 90.0, 61.0), 4, 5, 9), task=NIGHT),
    ]
    groups = against(compare(sweeps), "coop")
    (table,) = averages(groups)
    by_name = {row.name: row.against for row in table.rows}
    assert by_name["CoOp"] is None
    found = by_name["GCSCoOp"]
    assert (found.name, found.column.metric, found.lead.values) == ("CoOp", "test_h", (3.5, 3.5))
    assert found.verdict is Verdict.BETTER
    assert by_name["SAM"].lead.values == (0.5, 0.5), "over the seeds that both have"
    render.print_table(table.table([table]), "markdown")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("| H | H of means | H beside CoOp | p |")
    assert lines[-2].startswith("| GCSCoOp |") and lines[-2].endswith("| +3.50 [+3.50, +3.50]* | 0.500 |")
    last = [
        row
        for row in csv.DictReader(Comparison(tuple(groups), (table,)).to_csv().splitlines())
        if row["dataset"].startswith("mean")
    ]
    assert [(row["against_name"], row["against_mean"]) for row in last[1:3]] == [("", ""), ("CoOp", "3.5000")]
    rows = {row["name"]: row["against"] for row in table.to_dict()["rows"]}
    assert rows["CoOp"] is None
    assert (rows["GCSCoOp"]["name"], rows["GCSCoOp"]["mean"], rows["GCSCoOp"]["verdict"]) == ("CoOp", 3.5, "better")


def test_averages_are_compared_with_what_the_rows_are_and_with_nothing_where_a_data_set_lacks_it():
    references = [ZEROSHOT, LITERATURE]
    sweeps = [
        a_sweep("a", LITERATURE, references),
        a_sweep("b", a_final("gcscoop", 94.0, 66.0, rho=0.2), references, task=NIGHT),
    ]
    (table,) = averages(against(compare(sweeps), "gcscoop"))
    verdicts = {row.name: row.against and row.against.verdict for row in table.rows}
    assert verdicts == {
        "zero-shot CLIP": Verdict.BETTER,
        "GCSCoOp, literature": Verdict.WORSE,
        "GCSCoOp": None,
    }
    (table,) = averages(against(compare(sweeps), "b"))
    assert [row.against for row in table.rows] == [None] * 3


def test_the_csv_ends_with_the_averages_as_lines_of_the_same_columns(capsys):
    sweeps = [
        a_sweep("a", a_final("gcscoop", 80.0, 60.0, rho=0.1)),
        a_sweep("b", a_final("gcscoop", 90.0, 50.0, rho=0.2), task=NIGHT),
    ]
    groups = compare(sweeps)
    lines = Comparison(tuple(groups), tuple(averages(groups))).to_csv().splitlines()
    assert {len(line) for line in csv.reader(lines)} == {len(lines[0].split(","))}
    rows = list(csv.DictReader(lines))
    places = ("shapes-sketch", "shapes-night", "mean of 2 data sets")
    assert [row["dataset"] for row in rows] == [place for place in places for _ in range(3)]
    zeroshot, _, gcscoop = rows[6:]
    assert (gcscoop["name"], gcscoop["searched_in"], gcscoop["seeds"]) == ("GCSCoOp", "a;b", "4;5")
    assert (gcscoop["backbone"], gcscoop["shots"], gcscoop["outcome"]) == ("mini", "16", "complete")
    assert (gcscoop["base_mean"], gcscoop["h_mean"], gcscoop["h_of_means_mean"]) == ("86.0000", "62.0000", "67.8304")
    assert rows[0]["h_of_means_mean"] == "", "of one data set the two conventions are the same number"
    assert (zeroshot["searched_in"], zeroshot["configuration"]) == ("", rows[0]["configuration"])
    assert gcscoop["configuration"] == "", "each data set has its own"


def test_an_oracle_has_an_average_of_its_own_and_does_not_compete_there(capsys):
    both = [a_sweep(task.dataset, a_final("sam", 99.0, 60.0), task=task) for task in (SKETCH, NIGHT)]
    peeks = [replace(sweep, name=f"{sweep.name}-peek", oracle=True) for sweep in both]
    (table,) = averages(compare([*both, *peeks]))
    assert [(row.name, sorted(row.best)) for row in table.rows] == [
        ("zero-shot CLIP", ["h", "new"]),
        ("CoOp", []),
        ("SAM", ["base", "h_of_means"]),
        ("SAM [oracle]", []),
    ]
    assert [row["oracle"] for row in table.to_dict()["rows"]] == [False, False, False, True]
    render.print_table(table.table([table]), "markdown")
    assert "| SAM [oracle] | 100.00 ± 1.41 |" in capsys.readouterr().out
    (table,) = averages(compare([both[0], peeks[1]]))
    assert table.left_out == ("SAM (not on shapes-night)", "SAM [oracle] (not on shapes-sketch)")


def test_a_setting_that_broke_on_one_data_set_has_no_average():
    sweeps = [
        a_sweep("a", a_final("sam", outcome=Outcome.DIVERGED), []),
        a_sweep("b", a_final("sam"), [], task=NIGHT),
        a_sweep("c", a_final("kgcoop"), [], task=NIGHT),
    ]
    (table,) = averages(compare(sweeps))
    assert means(table) == ({}, ["SAM (diverged on shapes-sketch)", "KgCoOp (not on shapes-sketch)"])


def test_latex_is_safe_and_bold_where_it_should_be(capsys):
    sweeps = [a_sweep("a_b", a_final("gcscoop")), a_sweep("c", a_final("gcscoop"), task=NIGHT)]
    groups = against(compare(sweeps), "CoOp")
    render.print_table(groups[0].table(groups, formal=True), "latex")
    (table,) = averages(groups)
    render.print_table(table.table([table], formal=True), "latex")
    assert table.rows[-1].against.name == "CoOp"
    out = capsys.readouterr().out
    assert out.count(r"\toprule") == out.count(r"\bottomrule") == 2
    assert r"GCSCoOp & a\_b & 81.00 $\pm$ 1.41" in out
    assert r"\textbf{91.00 $\pm$ 1.41}" in out
    assert r"in \%, mean $\pm$ sd" in out
    assert out.count("H beside CoOp & p") == 2, "of the data set and of the average"
