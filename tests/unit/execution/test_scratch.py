"""Folders that a run needs beside its own: looked at before anything starts, and the message names the way out."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections import namedtuple

import pytest

from gcsearch.cli import doctor
from gcsearch.driver import load, plan, run
from gcsearch.errors import InputError
from gcsearch.execution.local_ray import scratch
from gcsearch.sweep.store import Store, check_cache, explaining_cache_errors

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def long(tmp_path, monkeypatch) -> str:
    """A temporary folder as batch systems make them."""
    place = tmp_path / "slurm_jobdir" / ("1355700" * 8) / "tmp.t0016"
    place.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return str(place)


def test_plan_run_and_doctor_refuse_a_temporary_folder_that_is_too_long_for_sockets(long, tmp_path):
    demo = load.load("demo")
    for ask in (lambda: plan.make(demo), lambda: run.run(demo, store=tmp_path / "store")):
        with pytest.raises(InputError, match=rf"(?s)TMPDIR: Ray's sockets .* at most \d+, got {long}.*RAY_TMPDIR=/tmp"):
            ask()
    (found,) = doctor._scratch()
    assert not found.ok and "TMPDIR" in found.found and "RAY_TMPDIR=/tmp" in found.remedy
    assert not (tmp_path / "store" / "sweeps" / "demo").exists()


def test_ray_may_have_a_short_one_of_its_own(long, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    scratch.check()
    (found,) = doctor._scratch()
    assert found.ok and found.found.startswith("/tmp, ")


def test_the_longest_path_that_is_accepted_fits_a_socket(monkeypatch, tmp_path):
    longest = scratch._LONGEST - len(scratch._SOCKET) - 1
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.BytesIO())
    monkeypatch.setenv("RAY_TMPDIR", "/" + "a" * (longest - 1))
    scratch.check()
    monkeypatch.setenv("RAY_TMPDIR", "/" + "a" * longest)
    with pytest.raises(InputError, match="RAY_TMPDIR: Ray's sockets lie below it"):
        scratch.check()


@pytest.mark.parametrize(
    ("place", "free", "message"),
    [
        ("/absent-folder", {}, "TMPDIR: the temporary folder must exist, got /absent-folder"),
        ("/tmp/ü", {}, "TMPDIR: Ray reads no path with other characters than those of ASCII"),
        ("/tmp", {"/tmp": 2**20}, "TMPDIR: Ray needs 64 MiB of temporary room, got /tmp with 1 MiB"),
        ("/tmp", {"/tmp": 2**27, "/dev/shm": 2**20}, "Ray needs 264 MiB of temporary room, 1 MiB being free in /dev/s"),
    ],
)  # fmt: skip
def test_a_temporary_folder_that_cannot_be_used_is_named_with_its_variable(place, free, message, monkeypatch):
    monkeypatch.setenv("TMPDIR", place)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free.get(str(path), 2**40)))
    with pytest.raises(InputError, match=message):
        scratch.check()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_temporary_folder_that_takes_no_file_is_named(code, monkeypatch):
    def refuse(**_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(
        InputError, match=rf"TMPDIR: the temporary folder must be writable, got /tmp \({os.strerror(code)}"
    ):
        scratch.check()


def test_a_store_and_a_cache_that_cannot_be_written_are_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    check_cache()
    Store(tmp_path / "store").check_writable()
    monkeypatch.setenv("GCSEARCH_CACHE", "/proc/cache")  # nobody may make a folder there, not even root
    with pytest.raises(InputError, match=r"(?s)GCSEARCH_CACHE: the cache .*/proc/cache \(.*GCSEARCH_CACHE=/path"):
        check_cache()
    with pytest.raises(
        InputError, match=r"(?s)--store: the store must be a folder that can be written.*GCSEARCH_STORE"
    ):
        run.run("demo", store="/proc/store")


def test_what_the_file_system_refuses_in_the_cache_is_said_in_words_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "cache" / "data" / "x.png"))
    with (
        pytest.raises(InputError, match=r"has room, got .*cache \(No space left on device\)"),
        explaining_cache_errors(),
    ):
        raise full
    for other in (OSError(errno.EIO, "bad", str(tmp_path / "data")), OSError("no file")):
        with pytest.raises(OSError, match=r"bad|no file") as caught, explaining_cache_errors():
            raise other
        assert caught.value is other
