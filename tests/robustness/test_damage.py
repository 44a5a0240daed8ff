"""Damaged files of gcsearch's own end a command with the file's name and what to do, never with a traceback."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.driver import load
from gcsearch.driver.prepare import origin_texts
from gcsearch.driver.run import _open_or_begin
from gcsearch.errors import GcsearchError, InputError
from gcsearch.export import classifier
from gcsearch.sweep.lease import Lease, Request, ask, request_path
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep, load_parameters
from tests.support.records import trial_record

CONTENTS = {
    "empty": b"",
    "binary": b"\x00\xff\xfe" * 100,
    "cut": b"[search\ntrials = ",
    "another": b"evaluate_every = 'often'\n",
    "deep": b"x = " + b"[" * 4000 + b"]" * 4000,
    "json": b'{"sweeps": 5}',
    "lists": b"[" * 100_000,
}
COMMANDS = (
    "status demo",
    "best demo",
    "report demo",
    "compare demo",
    "resume demo",
    "extend demo --trials 1",
    "sync demo",
)


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    pipeline = load.load("demo")
    made = _open_or_begin(pipeline, Store(tmp_path), origin_texts(pipeline), fresh=False, uri=None)
    made.journal.append("open", id="demo-0", trials=1)
    made.journal.append("final", records=[], threads=1)
    made.journal.append("close", why="FINISHED")
    return made


def said(command: str, sweep: Sweep) -> Exception | None:
    """What a command ends with beside its exit code; anything but an error of gcsearch's or a file's is a traceback."""
    error = CliRunner().invoke(app, [*command.split(), "--store", str(sweep.store.root)]).exception
    assert error is None or isinstance(error, GcsearchError | OSError | SystemExit), repr(error)
    return error


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["pipeline.toml", "space.toml", "journal.jsonl", "synced.json", "tracking-uri"])
def test_no_file_of_a_sweep_brings_a_traceback(sweep, name, content):
    (sweep.folder / name).write_bytes(CONTENTS[content])
    for command in COMMANDS[:4]:
        said(command, sweep)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_pipeline_is_named_in_every_command(sweep, command):
    (sweep.folder / "pipeline.toml").write_bytes(CONTENTS["cut"])
    error = said(command, sweep)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{sweep.folder}/pipeline.toml: the file must be valid TOML")


def test_a_journal_that_is_a_folder_is_named(sweep):
    os.unlink(sweep.journal.path)
    sweep.journal.path.mkdir()
    for command in COMMANDS:
        error = said(command, sweep)
        assert isinstance(error, GcsearchError | OSError)
        assert str(sweep.folder) in str(error) or "no sweep of this name" in str(error)


@pytest.mark.parametrize("content", ["empty", "binary", "deep", "json"])
def test_the_list_of_a_matrix_is_named(sweep, content):
    file = sweep.store.matrix_file("many")
    file.parent.mkdir()
    file.write_bytes(CONTENTS[content])
    error = said("compare many", sweep)
    assert isinstance(error, InputError)
    assert f"{file}: the file must list the sweeps of a matrix" in str(error)


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"not a tensor"])
def test_what_a_confirmed_setting_trained_is_named(tmp_path, content):
    record = trial_record(3, stage="test", seeds=(4,), epochs=1)
    (tmp_path / "3.seed_4.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"3\.seed_4\.safetensors: the file must hold what a confirmed configuration"):
        load_parameters(tmp_path, record)


@pytest.mark.parametrize("content", CONTENTS)
def test_the_files_of_an_export_are_named(tmp_path, content):
    for name, read in (("metrics.json", classifier.read_facts), ("config.toml", load.load_trial)):
        (tmp_path / name).write_bytes(CONTENTS[content])
        with pytest.raises(InputError, match=name):
            read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"wish": "fly", "token": 5}', b"[" * 5000, b"\xff"])
def test_a_damaged_request_asks_for_nothing(tmp_path, content):
    lease = Lease.take(tmp_path / ".demo.lease", "the sweep demo")
    ask(lease.path, Request.STOP)
    assert lease.request() is Request.STOP
    request_path(lease.path).write_bytes(content)
    assert lease.request() is None
    lease.release()
