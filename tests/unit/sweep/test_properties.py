"""A journal that is cut at any byte: what was complete is read, and what comes next stands behind it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsearch.sweep.journal import Journal
from gcsearch.sweep.state import SweepState
from tests.support.records import a_record


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The journal of a small sweep: three trials of which one is confirmed, with a name that is no ASCII."""
    journal = Journal(tmp_path_factory.mktemp("whole") / "journal.jsonl")
    journal.append("open", id="größe-0", trials=3)
    for number in range(3):
        journal.append("proposal", number=number, config=a_record().config, label="")
        journal.append("record", record=a_record(number, epochs=1))
    journal.append("final", records=[a_record(1, stage="test", label="champion", epochs=1)], threads=1)
    journal.append("close", why="FINISHED")
    return journal.path.read_bytes()


def kinds(journal: Journal) -> list[str]:
    return [line.event.kind for line in journal.follow()]


@given(data=st.data())
def test_cut_at_any_byte_it_is_read_up_to_there_and_goes_on(whole, data):
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        journal.path.write_bytes(whole[:cut])
        complete = kinds(journal)
        assert len(complete) == whole[:cut].count(b"\n")
        assert [one.number for one in journal.records()] == list(range(complete.count("record")))
        lines = list(journal.follow())
        state = SweepState.replay(lines)
        assert len(state.running) == complete.count("proposal") - complete.count("record")
        seen = data.draw(st.integers(0, len(lines)))
        assert SweepState.replay(lines[seen:], SweepState.replay(lines[:seen])) == state
        torn = cut - (whole[:cut].rfind(b"\n") + 1)
        assert Journal(journal.path).repair() == torn
        journal.append("record", record=a_record(7, epochs=1))
        assert kinds(journal) == [*complete, "record"]
        assert journal.path.read_bytes().startswith(whole[: cut - torn])
        assert journal.records()[-1].number == 7
