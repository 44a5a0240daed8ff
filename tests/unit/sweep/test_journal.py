"""The journal survives being killed halfway and refuses to guess."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from gcsearch.config.trials import EpochReport, TrialConfig, TrialRecord
from gcsearch.errors import InputError, RunError
from gcsearch.sweep.journal import Event, Journal, RunLogged, SessionEnd
from gcsearch.sweep.state import SweepState
from tests.support.records import trial_record


def record(number: int, value: float = 1.0) -> TrialRecord:
    metrics = {"val_h": (value, value)}
    config = TrialConfig(method="sam", hyperparameters={"rho": 0.1, "beta1": "off", "epochs": 4})
    curve = (EpochReport(number=number, epoch=1, metrics=metrics),)
    return trial_record(number, config=config, epochs=1, metrics=metrics, curve=curve)


def kinds(journal: Journal) -> list[str]:
    return [line.event.kind for line in journal.follow()]


def test_what_is_written_is_read_back_in_order(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.events(Event) == [] and journal.records() == []
    journal.append("open", id="s-0", pipeline="abc")
    journal.append("record", record=record(1))
    journal.append("record", record=record(0))
    journal.append("run", number=1, stage="search", run_id="r")
    journal.append("final", records=[record(7)], threads=1)
    assert kinds(Journal(journal.path)) == ["open", "record", "record", "run", "final"]
    assert journal.records() == [record(1), record(0)]
    assert journal.events(RunLogged)[0].run_id == "r"
    assert journal.events(Event)[0].time.utcoffset() == timedelta(0)
    *_, last = journal.events(Event)
    assert last.records == (record(7),)


def test_a_journal_is_followed_without_curves_and_each_line_read_with_them(tmp_path):
    """Curves are most of its bytes: of three records in one line, and beside text that looks like one."""
    journal = Journal(tmp_path / "journal.jsonl")
    odd = record(1).model_copy(update={"reason": '{"curve":[{"number":1}}]'})
    journal.append("record", record=odd)
    journal.append("record", record=record(2).model_copy(update={"curve": ()}))
    journal.append("final", records=[record(0), odd, record(2)], threads=1)
    lean = [one.model_copy(update={"curve": ()}) for one in (odd, record(2), record(0), odd, record(2))]
    first, second, final = journal.follow()
    assert [first.event.record, second.event.record, *final.event.records] == lean
    assert journal.read(first.start).record == odd
    assert journal.read(final.start).records == (record(0), odd, record(2))


def test_a_line_that_another_program_wrote_is_read_as_well(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).append("record", record=record(1))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=None, sort_keys=True) + "\n")
    assert Journal(path).records() == [record(1)]
    assert [line.event.record.number for line in Journal(path).follow()] == [1]


def test_one_event_is_one_line_of_json(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("record", record=record(1), note="a\nb")
    (line,) = journal.path.read_text().splitlines()
    assert json.loads(line)["record"]["config"]["hyperparameters"]["beta1"] == "off"


def test_a_number_that_is_not_finite_comes_back(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("record", record=record(1, math.nan))
    assert math.isnan(journal.records()[0].metrics["val_h"][0])


@pytest.mark.parametrize("torn", [b'{"kind":"rec', b'{"kind":"open","time":"t"}', b"\0\0\0", b"\xff"])
def test_a_torn_last_line_is_dropped_and_repaired_by_the_next_append(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    Journal(path).append("open", id="s-0")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    journal = Journal(path)
    assert kinds(journal) == ["open"]
    journal.append("close", why="done")
    assert path.read_bytes().startswith(whole + b'{"kind":"close"')
    assert kinds(journal) == ["open", "close"]


def test_lines_that_belong_together_are_all_written_or_none_is(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("open", id="s-0")
    pack = [{"number": number, "config": {"method": "coop"}} for number in range(2)]
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, lines: write(descriptor, lines[: lines.index(b"\n") + 5]))
    with pytest.raises(RunError):
        journal.append_all("proposal", pack)
    monkeypatch.undo()
    assert kinds(journal) == ["open"]
    journal.append_all("proposal", pack)
    assert kinds(journal) == ["open", "proposal", "proposal"]


@pytest.mark.parametrize("bad", ['{"kind":"rec', "[1]", '{"time":"t"}', ""])
def test_any_other_unreadable_line_is_named(tmp_path, bad):
    path = tmp_path / "journal.jsonl"
    Journal(path).append("open", id="s-0")
    with path.open("a") as file:
        file.write(f'{bad}\n{{"kind":"close"}}\n')
    with pytest.raises(InputError, match=r"journal.jsonl, line 2: every line"):
        Journal(path).events(Event)


def test_a_record_that_is_no_record_is_named_with_its_line(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("open", id="s-0")
    journal.append("record", record={"number": "x"})
    with pytest.raises(InputError, match="line 2"):
        journal.records()


def test_a_journal_that_cannot_be_written_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match=r"journal\.jsonl: the journal cannot be written: No such file"):
        Journal(tmp_path / "missing" / "journal.jsonl").append("open", id="s-0")


def test_a_full_disk_leaves_the_journal_readable(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("open", id="s-0")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:5]))
    with pytest.raises(
        RunError, match=r"only a part of what was written\.\nEvery line before is safe\. Make room on this disk"
    ):
        journal.append("proposal", number=1, config={"method": "coop"})
    monkeypatch.undo()
    assert kinds(journal) == ["open"]
    journal.append("close", why="FAILED")
    assert kinds(journal) == ["open", "close"]


@pytest.mark.parametrize("torn", [b"", b'{"kind":"rec', b"\0\0\0"])
def test_a_torn_last_line_is_mended_and_its_length_told(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    assert Journal(path).repair() == 0
    Journal(path).append("open", id="s-0")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert Journal(path).repair() == len(torn)
    assert path.read_bytes() == whole
    assert Journal(path).repair() == 0


def test_who_may_not_write_does_not(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).append("open", id="s-0")
    whole = path.read_bytes() + b"torn"
    path.write_bytes(whole)

    def forbid():
        raise RunError("another driver has taken over")

    journal = Journal(path, before=forbid)
    for write in (lambda: journal.append("close", why="FAILED"), journal.repair):
        with pytest.raises(RunError, match="taken over"):
            write()
    assert path.read_bytes() == whole


def test_a_journal_that_grows_is_followed_line_by_line(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert list(journal.follow()) == []
    journal.append("open", id="s-0")
    journal.append("proposal", number=0, config={"method": "coop"})
    first, second = journal.follow()
    assert (first.event.kind, second.event.kind, second.start) == ("open", "proposal", first.end)
    with journal.path.open("ab") as file:
        file.write(b'{"kind":"rec')
    assert list(journal.follow(second.end)) == []
    Journal(journal.path).append("close", why="FAILED")
    assert [line.event.kind for line in journal.follow(second.end)] == ["close"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
def test_a_disk_that_is_really_full_stops_in_words_and_nothing_half_written_is_believed(tmp_path):
    disk = tmp_path / "demo"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this place mounts nothing")
    try:
        journal = Journal(disk / "journal.jsonl")
        with pytest.raises(
            RunError, match=r"(?s)cannot be written.*Make room on this disk, then `gcsearch resume demo --store"
        ):
            for number in range(1000):
                journal.append("record", record=record(number), filler="x" * 3000)
        kept = [one.number for one in journal.records()]
        assert 10 < len(kept) == number == kept[-1] + 1
        with pytest.raises(RunError, match="cannot be written"):
            journal.append("close", why="x" * 9000)
        assert [one.number for one in Journal(journal.path).records()] == kept
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        Journal(journal.path).append("close", why="FAILED")
        assert kinds(journal) == ["record"] * len(kept) + ["close"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_line_that_was_acknowledged_is_there_after_a_kill(tmp_path):
    path = tmp_path / "journal.jsonl"
    code = (
        f"from gcsearch.sweep.journal import Journal\nj = Journal({str(path)!r})\n"
        "for n in range(10**6):\n    j.append('run', number=n, stage='search', run_id='')\n    print(n, flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        writer.stdout.readline()
        time.sleep(0.3)
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().split()]
    finally:
        writer.wait()
        writer.stdout.close()
    numbers = [line.event.number for line in Journal(path).follow()]
    assert numbers == list(range(len(numbers)))
    assert not acknowledged or numbers[-1] >= acknowledged[-1]


TIME = '"time":"2026-11-28T00:00:00.000+00:00"'
DAMAGED = [
    '{"kind":"record"}',
    f'{{"kind":"record",{TIME}}}',
    f'{{"kind":"record",{TIME},"record":{{"number":"x"}}}}',
    f'{{"kind":"record",{TIME},"record":[]}}',
    f'{{"kind":"proposal","number":0,{TIME}}}',
    f'{{"kind":"proposal","number":"0","config":{{"method":"sam"}},{TIME}}}',
    f'{{"kind":"final",{TIME},"threads":1,"records":[{{}}]}}',
    f'{{"kind":"final",{TIME},"threads":1}}',
    f'{{"kind":"close",{TIME}}}',
    '{"kind":"close","why":"FINISHED"}',
    '{"kind":"close","why":"FINISHED","time":"yesterday"}',
    '{"kind":"close","why":"FINISHED","time":"2026-11-28T00:00:00"}',
    f'{{"kind":"open","id":5,{TIME}}}',
    f'{{"kind":"run","number":0,{TIME}}}',
    f'{{"kind":"pack","size":0,{TIME}}}',
    f'{{"kind":"before","records":5,{TIME}}}',
    f'{{"kind":"extend","trials":null,"there":1,{TIME}}}',
    f'{{"kind":"seeds","seeds":5,{TIME}}}',
    f'{{"kind":"artifact","file":"../../secret",{TIME}}}',
    f'{{"kind":"data","weights":"w","other_names":"",{TIME}}}',
    f'{{"kind":"data","weights":"w","other_names":"","sets":null,{TIME}}}',
    f'{{"kind":"data","weights":"w","other_names":"","sets":{{"pets":{{"classes":"c","lists":{{}}}}}},{TIME}}}',
    '{"kind":[]}',
    '"record"',
    "[" * 5000 + "]" * 5000,
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_a_line_that_lacks_its_fields_is_named_wherever_it_is_read(tmp_path, damaged):
    """One reader looks at every line: whatever asks the journal hears the same."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("open", id="s-0")
    with journal.path.open("a") as file:
        file.write(damaged + "\n")
    journal.append("close", why="FAILED")
    for ask in (lambda: journal.events(Event), journal.records, lambda: SweepState.replay(journal.follow())):
        with pytest.raises(InputError, match=r"journal\.jsonl, line 2.*\n.*restore it, or delete this line"):
            ask()


def test_a_kind_of_line_of_a_later_version_is_passed_over(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("open", id="s-0")
    journal.append("weather", sky="blue")
    journal.append("close", why="RAINED_OFF")
    assert kinds(journal) == ["open", "weather", "close"]
    assert SweepState.replay(journal.follow()).end is SessionEnd.FAILED
