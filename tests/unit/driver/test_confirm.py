"""The confirm stage chooses by fresh seeds, measures everything once, and takes up what an earlier session left."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from gcsearch.config import search_space
from gcsearch.config.trials import CHAMPION, Outcome, Proposal
from gcsearch.driver.session import Session
from gcsearch.errors import RunError
from gcsearch.methods.registry import complete
from gcsearch.sweep.journal import FileWritten
from tests.support.bench import Bench, config, measured

FRESH = (4, 5, 6, 7, 8)


def test_the_simplest_of_the_best_is_chosen_before_any_test_image(tmp_path):
    bench = Bench(tmp_path)
    finals, champion = bench.finish()
    assert champion.number == 3
    assert bench.asked[:3] == [("search", FRESH, number) for number in (2, 3, 1)]
    assert [(stage, number) for stage, _, number in bench.asked[3:]] == [("test", n) for n in (-1, 2, 1, 3)]
    assert [one.label for one in finals] == ["zero-shot CLIP", "shortlisted t0002", "shortlisted t0001", CHAMPION]
    assert bench.sweep.champion.number == 3
    assert [one.number for one in bench.sweep.rechecked] == [1, 2, 3]
    assert bench.stages == [("recheck", 3), ("confirm", 4)]


def test_with_one_on_the_shortlist_nothing_is_measured_again(tmp_path):
    bench = Bench(tmp_path, top=1)
    finals, champion = bench.finish()
    assert champion.number == 2
    assert [one.label for one in finals] == ["zero-shot CLIP", CHAMPION]
    assert [stage for stage, _, _ in bench.asked] == ["test", "test"]
    assert bench.sweep.rechecked == []


def test_an_oracle_measures_on_test_images_only_and_each_setting_once(tmp_path):
    bench = Bench(tmp_path, objective="test_h")
    finals, champion = bench.finish()
    assert champion.number == 3
    assert [(stage, number) for stage, _, number in bench.asked] == [("test", n) for n in (2, 3, 1, -1)]
    assert [one.number for one in finals] == [-1, 2, 1, 3]
    assert [(one.number, one.seeds) for one in bench.sweep.rechecked] == [(1, FRESH), (2, FRESH), (3, FRESH)]


def test_an_oracle_without_a_shortlist_measures_nothing_again(tmp_path):
    bench = Bench(tmp_path, objective="test_h", top=1)
    bench.finish()
    assert bench.sweep.rechecked == []


@pytest.mark.parametrize("after", [0, 1, 3, 5, 6])
def test_an_interrupted_stage_goes_on_and_repeats_nothing(tmp_path, after):
    whole = Bench(tmp_path / "whole")
    expected = whole.finish()
    bench = Bench(tmp_path / "cut")
    bench.stop_after = after
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    bench.stop_after = None
    assert bench.finish() == expected
    assert bench.asked == whole.asked


def test_seeds_that_are_added_join_those_there_are(tmp_path):
    bench = Bench(tmp_path)
    bench.finish()
    before = {one.number: one for one in bench.sweep.finals}
    first = len(bench.asked)
    bench.sweep.journal.append("seeds", seeds=[9, 10])
    finals, _ = bench.finish()
    assert {seeds for _, seeds, _ in bench.asked[first:]} == {(9, 10)}
    assert len(bench.asked) == first + 3 + 4
    for one in finals:
        assert one.seeds == (*FRESH, 9, 10)
        assert one.metrics["test_h"][:5] == before[one.number].metrics["test_h"]
    assert all(one.seeds == (*FRESH, 9, 10) for one in bench.sweep.rechecked)


def test_a_setting_that_failed_is_tried_again_and_one_that_diverged_is_not(tmp_path):
    bench = Bench(tmp_path, top=2)
    two, three = (Proposal(number=n, config=complete(config(n))) for n in (2, 3))
    bench.sweep.journal.append("recheck", record=measured(two, "search", FRESH, Outcome.DIVERGED))
    bench.sweep.journal.append("recheck", record=measured(three, "search", FRESH, Outcome.FAILED))
    _, champion = bench.finish()
    assert bench.asked[0] == ("search", FRESH, 3)
    assert ("search", FRESH, 2) not in bench.asked
    assert champion.number == 3


def test_a_shortlist_of_which_nothing_ends_well_has_no_champion(tmp_path):
    bench = Bench(tmp_path, top=2)
    for number in (2, 3):
        proposal = Proposal(number=number, config=complete(config(number)))
        bench.sweep.journal.append("recheck", record=measured(proposal, "search", FRESH, Outcome.DIVERGED))
    with pytest.raises(RunError, match="nothing to choose"):
        bench.run()


def a_session(bench, said):
    """A driver's session on the bench's sweep, which nobody else drives."""
    driver = SimpleNamespace(lease=SimpleNamespace(check=lambda: None))
    callback = SimpleNamespace(warn=said.append, stage=lambda *_: None)
    return Session(bench.sweep, bench.pipeline, search_space.load("sam"), None, callback, driver, None)


@pytest.mark.parametrize(
    "part", ["gcsearch.results.report.pages.sweep.headline", "gcsearch.results.report.pages.document.get_plotlyjs"]
)
def test_a_report_that_cannot_be_written_is_one_line_and_no_failed_sweep(part, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("test_acc")

    bench, said = Bench(tmp_path), []
    bench.finish()
    monkeypatch.setattr(part, fail)
    a_session(bench, said)._report()
    again = f"`gcsearch report one --store {bench.sweep.store.root}` tries it again"
    assert said == [f"the report could not be written (KeyError: 'test_acc'); {again}"]
    assert not bench.sweep.journal.events(FileWritten)
    monkeypatch.undo()
    a_session(bench, said)._report()
    assert [event.file for event in bench.sweep.journal.events(FileWritten)] == ["report.html"]
    assert len(said) == 1


def test_a_full_disk_is_no_fault_of_the_drawing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    bench, said = Bench(tmp_path), []
    bench.finish()
    monkeypatch.setattr("gcsearch.files.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        a_session(bench, said)._report()
    assert said == []
