"""What gcsearch prints as JSON is what docs/schema.json says."""

from __future__ import annotations

import json

import jsonschema
import pytest

from gcsearch.config.task import Task
from gcsearch.results import documents
from gcsearch.results.averages import averages
from gcsearch.results.comparison import Finished, against, compare
from gcsearch.results.documents import Measured, Numbers, facts
from gcsearch.results.ranking import rank
from tests.support.records import a_final
from tests.support.schema import SCHEMA, check


def test_the_schema_on_disk_is_that_of_the_code():
    assert documents.json_schema() == SCHEMA, "python -m gcsearch.results.documents > docs/schema.json"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_numbers_that_do_not_exist_are_null_and_never_left_out():
    assert Numbers.of((4,), (80.0,)).dump() == {
        "mean": 80.0, "deviation": None, "interval": None, "per_seed": {"4": 80.0}
    }  # fmt: skip
    assert Numbers.of((), ()).dump() == {"mean": None, "deviation": None, "interval": None, "per_seed": {}}
    assert Numbers.of((4, 5), (80.0, float("nan"))).dump()["per_seed"] == {"4": 80.0, "5": None}


def test_rows_of_best_and_of_compare_share_the_facts_of_a_setting():
    champion = a_final("gcscoop", rho=0.2)
    ranked = [row.to_dict() for row in rank([champion], "test_h")]
    compared = [group.to_dict() for group in compare([Finished("one", Task(), champion, [])])]
    check(ranked, "gcsearch best --json")
    check(compared, "gcsearch compare --json")
    shared = json.loads(json.dumps(Measured(**facts(champion)).dump()))
    for row in (ranked[0], compared[0]["rows"][0]):
        row = json.loads(json.dumps(row))
        assert {key: row[key] for key in shared} == shared
    assert ranked[0]["objective"]["mean"] == compared[0]["rows"][0]["h"]["mean"] == shared["metrics"]["test_h"]["mean"]


def test_averages_are_the_last_entry_and_say_what_they_are_compared_with():
    references = [a_final("coop", label="CoOp")]
    both = [
        Finished(name, Task(dataset=name), a_final("gcscoop"), references, oracle=True)
        for name in ("shapes-sketch", "shapes-night")
    ]
    groups = against(compare(both), "coop")
    (table,) = averages(groups)
    document = json.loads(json.dumps(table.to_dict()))
    check([*(group.to_dict() for group in groups), document], "gcsearch compare --json")
    coop, peek = document["rows"]
    assert (coop["name"], coop["oracle"], coop["against"]) == ("CoOp", False, None)
    assert (peek["name"], peek["oracle"], peek["against"]["name"]) == ("GCSCoOp [oracle]", True, "CoOp")


@pytest.mark.parametrize("broken", [{"mean": "80"}, {"mean": None, "extra": 1}])
def test_another_shape_is_refused_by_the_schema(broken):
    row = rank([a_final("gcscoop")], "test_h")[0].to_dict()
    with pytest.raises(jsonschema.ValidationError):
        check([{**row, "objective": {**row["objective"], **broken}}], "gcsearch best --json")
