"""Every `--json` is part of the one schema."""

from __future__ import annotations

import json
import math

import pytest

from gcsearch import files
from gcsearch.cli.doctor import Check
from gcsearch.config.trials import Outcome
from gcsearch.driver.load import load
from gcsearch.results.documents import TrainedRecord
from gcsearch.sweep.journal import Journal
from gcsearch.sweep.store import Store
from tests.support.calls import call
from tests.support.records import a_record
from tests.support.schema import check
from tests.support.trees import put


def printed(*words, **more):
    """What a command prints, which is JSON and part of the schema under the command's name."""
    return json.loads(call(*words, "--json", **more).stdout)


@pytest.fixture
def root(tmp_path):
    """One data set that can be read, and one whose images are all of one class."""
    for name in ("both/red", "both/blue", "one/red"):
        for index in range(8):
            put(tmp_path / name / f"{index}.png")
    return tmp_path


def test_data_check_says_what_is_there_and_what_is_wrong(root):
    found = printed("data", "check", root, "--dataset", "folder:both", "--dataset", "folder:one")
    check(found, "gcsearch data check --json")
    assert [(one["name"], one["classes"], bool(one["problem"])) for one in found] == [
        ("folder:both", 2, False),
        ("folder:one", 0, True),
    ]


def test_cache_ls_and_verify_list_entries_and_what_cannot_be_read(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "torn.arrow").write_bytes(b"half an entry")
    for verb in ("ls", "verify"):
        (found,) = printed("cache", verb, GCSEARCH_CACHE=str(tmp_path))
        check([found], "gcsearch cache ls --json")
        assert found["problem"] and found["file"].endswith("torn.arrow") and found["dataset"] is None


def test_status_says_all_of_a_sweep_that_has_begun(tmp_path):
    pipeline, sweep = load("demo"), Store(tmp_path).sweep("demo")
    files.write_whole(sweep / "pipeline.toml", files.to_toml(pipeline.to_dict()))
    Journal(sweep / "journal.jsonl").append("open", id="demo-0", trials=32)
    (found,) = printed("status", "--store", tmp_path)
    check([found], "gcsearch status --json")
    assert (found["sweep"], found["done"], found["total"], found["best"]) == ("demo", 0, 32, None)


def test_what_was_not_measured_is_null_and_a_check_is_what_doctor_prints():
    record = a_record(outcome=Outcome.DIVERGED, metrics={"loss": (math.nan, 1.0)})
    document = TrainedRecord.of(record).dump()
    check(document, "gcsearch train --json")
    assert document["metrics"]["loss"] == [None, 1.0]
    check([Check("python", True, "3.11").to_dict()], "gcsearch doctor --json")
