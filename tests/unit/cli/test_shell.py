"""Tests see nothing of the shell that starts them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from gcsearch.files import cache_folder
from gcsearch.sweep.store import Store
from tests.support.shell import AT_THE_START, RAY, cleaned

HOSTILE = {
    "GCSEARCH_STORE": "/home/me/store",
    "GCSEARCH_CACHE": "s3://bucket/cache",
    "RAY_ADDRESS": "10.0.0.5:6379",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a" * 64,
    "RAY_AUTH_TOKEN_PATH": "/nowhere",
    "RAY_TMPDIR": "/nowhere",
    "MLFLOW_TRACKING_URI": "http://10.0.0.5:5000",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "HTTP_PROXY": "http://10.0.0.5:3128",
    "https_proxy": "http://10.0.0.5:3128",
    "OMP_NUM_THREADS": "64",
    "NO_COLOR": "1",
    "FORCE_COLOR": "1",
    "COLUMNS": "20",
    "TERM": "dumb",
    "LANG": "de_DE.ISO-8859-1",
    "LC_ALL": "C",
    "PYTHONIOENCODING": "ascii",
    "PYTHONWARNINGS": "error",
    "XDG_CACHE_HOME": "/nowhere",
    "HF_HUB_CACHE": "/nowhere",
    "HOME": "/home/me",
    "TZ": "Pacific/Kiritimati",
}


def test_what_the_shell_says_of_gcsearch_is_not_heard(tmp_path):
    machine = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "PYTEST_XDIST_WORKER": "gw0"}
    own = {"HOME": str(tmp_path), "GCSEARCH_CACHE": str(tmp_path / "cache"), "LANG": "C.UTF-8"}
    assert cleaned(machine | HOSTILE, tmp_path) == machine | RAY | own


@pytest.mark.parametrize("folder", ["a folder with spaces", "käse", "d" * 60, "absent", "50%"])
def test_a_temporary_directory_that_is_out_of_the_ordinary_is_not_used(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if folder != "absent":
        Path(folder).mkdir()
    assert "TMPDIR" not in cleaned({"TMPDIR": str(tmp_path / folder)}, tmp_path)


def test_an_ordinary_temporary_directory_is_used():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        assert cleaned({"TMPDIR": folder}, Path("/home"))["TMPDIR"] == folder


def test_this_process_and_those_that_it_starts_are_clean():
    assert HOSTILE.keys() & AT_THE_START.keys() == {"HOME", "GCSEARCH_CACHE", "LANG"}
    assert Store.locate().root == Path("gcsearch-store").absolute()
    assert cache_folder().is_relative_to(Path.home())
    assert Path.home().name.startswith("gcsearch-home-")
