from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

import pytest

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.errors import InputError


def test_toml_survives_the_round_trip(tmp_path):
    content = {"name": "a", "lr": 1e-4, "rho": 0.1, "on": True, "seeds": [1, 2], "task": {"template": "a {}.", "n": 4}}
    text = files.to_toml(content, "What this is.\n\nHow to run it.")
    assert text.startswith("# What this is.")
    assert tomllib.loads(text) == content


def test_a_syntax_error_names_file_and_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(InputError, match=r"bad.toml: the file must be valid TOML.*line 2"):
        files.read_toml(path)


def _classes(path):
    from gcsearch.export.classifier import read_names

    return read_names(path)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (files.read_toml, 'a = 1\n\n[b]\nc = """one\ntwo"""\n'),
        (search_space.load, 'version = 1\nmethod = "coop"\n[parameters.lr]\nlow = 0.001\nhigh = 0.01\n'),
        (_classes, "red squirrel\nwren\n"),
    ],
)
def test_files_that_people_write_are_read_as_any_system_saves_them(tmp_path, read, text):
    plain, windows, old = (tmp_path / f"{name}.toml" for name in ("plain", "windows", "old"))
    plain.write_text(text)
    windows.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    old.write_bytes(text.replace("\n", "\r").encode())
    assert read(windows) == read(old) == read(plain)
    for encoding in ("utf-16", "utf-32"):
        windows.write_bytes(text.encode(encoding))
        with pytest.raises(
            InputError, match=rf"windows.toml.*: the file must be text in UTF-8, got {encoding.upper()}"
        ):
            read(windows)


def test_shipped_names_and_paths_are_told_apart(tmp_path):
    assert files.find("pipelines", "demo", kind="pipeline").name == "demo.toml"
    with pytest.raises(InputError, match="Did you mean 'demo'"):
        files.find("pipelines", "demoo", kind="pipeline")
    with pytest.raises(InputError, match="must exist"):
        files.find("pipelines", tmp_path / "mine.toml", kind="pipeline")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    files.write_whole(path, "old")
    monkeypatch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError("Detail: [errno 2] No such file"), False),
    ],
)
def test_a_full_disk_is_told_from_other_errors(error, full):
    assert files.is_full(error) is full


def test_a_disk_that_really_is_full_is_recognised():
    with pytest.raises(OSError, match="No space") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert files.is_full(caught.value)


def test_what_has_no_end_is_not_read_as_text(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="must be a regular one"):
            files.read_text(path)
