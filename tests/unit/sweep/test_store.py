"""The store on disk, and the commands that messages name for what is in it."""

from __future__ import annotations

import pytest

from gcsearch.errors import InputError
from gcsearch.sweep.store import Store


def test_a_command_names_the_store_where_it_would_not_be_found_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GCSEARCH_STORE", raising=False)
    assert Store.locate().command("resume", "demo") == "gcsearch resume demo"
    other = Store.locate("my sweeps")
    assert other.command("extend", "demo", "--trials", "8") == (
        f"gcsearch extend demo --trials 8 --store '{tmp_path}/my sweeps'"
    )
    monkeypatch.setenv("GCSEARCH_STORE", "my sweeps")
    assert other.command("resume", "demo") == "gcsearch resume demo"
    monkeypatch.setenv("GCSEARCH_STORE", "s3://bucket/sweeps")  # a command without --store is refused
    assert other.command("resume", "demo").endswith("--store '" + str(tmp_path / "my sweeps") + "'")


def test_a_file_is_no_store(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=rf"--store: the store is a folder, and this is a file, got {file}"):
        Store.locate(file)
    monkeypatch.setenv("GCSEARCH_STORE", str(file))
    with pytest.raises(InputError, match="GCSEARCH_STORE: the store is a folder"):
        Store.locate()
