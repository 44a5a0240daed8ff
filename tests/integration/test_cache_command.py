"""`gcsearch cache`: computes what a pipeline reads, lists it, checks it, removes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.data import datasets
from gcsearch.data.features import FeatureCache
from gcsearch.errors import InputError

DAY = 86400


def cache(*words):
    return CliRunner().invoke(app, ["cache", *map(str, words)])


def contents(place):
    """Entries and parts of entries."""
    return sorted(path for path in place.glob("[!.]*.*") if path.is_file())


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def pipeline(data_root, tmp_path):
    def write(root=data_root, **task):
        own = {"dataset": "tiny", "root": str(root), "backbone": "mini"}
        keys = {**own, "shots": 2, "val_shots": 2, "folds": 2, "seeds": [1, 2], **task}
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        confirm = ["[confirm]", "top = 2", "seeds = [4, 5, 6]", ""]
        path = tmp_path / "my.toml"
        path.write_text("\n".join(['name = "my"', "[task]", *lines, "[search]", 'space = "coop"', *confirm]))
        return path

    return write


def test_a_pipelines_features_are_computed_listed_checked_and_removed(pipeline, place, tiny_dataset, backbone):
    mine = pipeline(views=3)
    done = cache(mine, "--quiet")
    assert done.exit_code == 0, done.output
    found = json.loads(cache("ls", "--json").stdout)
    # Views and validation draws of five seeds (two of the search, three of the confirmation), one test list.
    assert sorted(one["shape"][:2] for one in found) == [[8, 1]] * 5 + [[8, 3]] * 5 + [[48, 1]]
    assert {one["format"] for one in found} == {2}
    assert found[0]["file"].startswith(str(place))
    before = {path: path.stat().st_mtime_ns for path in place.glob("*.arrow")}
    assert cache("build", mine, "-q").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in place.glob("*.arrow")} == before

    assert cache("verify").exit_code == 0
    broken, old, *_ = sorted(before)
    content = broken.read_bytes()
    broken.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    checked = cache("verify")
    assert checked.exit_code == 1
    assert f"{broken.name}" in checked.stdout
    assert checked.stdout.count("its checksum is wrong") == 1
    broken.write_bytes(b"no entry")

    FeatureCache(place, backbone).fixed(tiny_dataset, tiny_dataset.val)
    (foreign,) = set(place.glob("*.arrow")) - set(before)
    (place / "abandoned.rows").write_bytes(b"rows")
    (place / "begun.rows").write_bytes(b"rows")
    for path, age in ((old, 3 * DAY), (place / "abandoned.rows", 2 * DAY)):
        os.utime(path, (time.time() - age,) * 2)

    def goes(*flags):
        said = cache("prune", *flags)
        assert said.exit_code == 0, said.output
        return {path.name for path in (*before, foreign, *place.glob("*.rows")) if path.name in said.stdout}

    always = {broken.name, "abandoned.rows"}
    assert goes() == always
    assert goes("--older-than", "2d") == always | {old.name}
    assert goes("--keep", mine) == always | {foreign.name}
    assert goes("--all") == always | {path.name for path in (*before, foreign)}
    assert len(list(place.glob("*.arrow"))) == 12  # so far it was only said
    goes("--keep", mine, "--older-than", "2d", "--yes")
    kept = {path.name for path in set(before) - {broken, old}}
    assert {path.name for path in contents(place)} == {"begun.rows"} | kept
    assert "9 files" in cache("prune", "--all", "-y").stdout
    assert "the cache is empty" in cache("ls").stdout


def test_a_matrix_is_encoded_sweep_by_sweep_and_kept_as_a_whole(pipeline, place):
    mine = pipeline(views=2, seeds=[1])
    single = mine.read_text()
    mine.write_text(f'{single}[matrix]\n"task.shots" = [1, 2]\n')
    done = cache(mine)
    assert done.exit_code == 0, done.output
    assert [f"sweep {number} of 2: my-{number}" in done.stderr for number in (1, 2)] == [True, True]
    assert "sweep 1 of" not in cache(mine, "--quiet").stderr
    # Views and validation draws of four seeds each; the test list is the same for both.
    found = json.loads(cache("ls", "--json").stdout)
    assert sorted(one["shape"][:2] for one in found) == [[4, 2]] * 4 + [[8, 1]] * 8 + [[8, 2]] * 4 + [[48, 1]]
    assert cache("prune", "--keep", mine).stdout.startswith("0 files")
    mine.write_text(f'{single}[matrix]\n"task.shots" = [2, 99]\n')
    refused = cache(mine, "-q").exception
    assert isinstance(refused, InputError)
    assert "the largest has 6, in the sweep my-99" in str(refused)


@pytest.mark.parametrize("age", ["", "30", "d", "1.2.3d", "-1d", "3w"])
def test_an_age_is_a_number_with_a_unit(place, age):
    done = cache("prune", f"--older-than={age}")
    assert isinstance(done.exception, InputError)
    assert "For example 30d" in str(done.exception)


def test_all_unreadable_images_of_both_stages_are_named(pipeline, place, data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / "data")
    dataset = datasets.load("tiny", tmp_path / "data")
    broken = [dataset.test[2].path, dataset.test[40].path, *(item.path for item in dataset.train)]
    for path in broken:
        (dataset.images / path).write_bytes(b"no image")
    done = cache(pipeline(tmp_path / "data", shots=6), "-q")
    assert isinstance(done.exception, InputError)
    assert "26 of " in str(done.exception)  # two test images and all training images of the base classes
    assert len((place / "unreadable.txt").read_text().splitlines()) == 26


def test_nodes_share_a_cache_by_its_address(pipeline, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    monkeypatch.setenv("GCSEARCH_CACHE", f"file://{shared}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    done = cache(pipeline(views=2), "-q")
    assert done.exit_code == 0, done.output
    assert f"file://{shared}" in done.stdout
    here, there = ({path.name for path in folder.rglob("*.arrow")} for folder in (tmp_path / "node", shared))
    assert there <= here
    assert len(there) == 11
    listed = json.loads(cache("ls", "--json").stdout)
    assert len(listed) == 22
    assert sum(one["file"].startswith("file://") for one in listed) == 11
    assert cache("verify").exit_code == 0
    assert "22 files" in cache("prune", "--all", "--yes").stdout
    assert list(shared.rglob("*.arrow")) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_killed_by_surprise_goes_on_to_the_same_bytes(tmp_path):
    """On an embedded data set, with processes that open images; from the command line to the files."""

    def start(place):
        words = ["cache", "demo", "--quiet", "--set", "task.views=4", "--set", "resources.decoders=1"]
        environment = {**os.environ, "GCSEARCH_CACHE": str(tmp_path / place), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "gcsearch", *words], env=environment, stdout=subprocess.PIPE)

    with start("whole") as whole:
        assert whole.wait() == 0
    shutil.copytree(tmp_path / "whole" / "data", tmp_path / "killed" / "data")
    features = tmp_path / "killed" / "features"
    # Killed after the second of three parts of 256 rows of 64 numbers, of the first and of a later entry.
    for grown in (40_000, 270_000):
        with start("killed") as process:
            until = time.monotonic() + 240
            while _written(features) < grown:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            process.kill()
    with start("killed") as process:
        assert process.wait() == 0
    whole, killed = (sorted((tmp_path / place / "features").glob("*.arrow")) for place in ("whole", "killed"))
    assert len(whole) > 3
    assert [path.name for path in whole] == [path.name for path in killed]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(whole, killed, strict=True))
    ours = [entry for entry in Path("/proc").iterdir() if _is_ours(entry, tmp_path)]
    assert not any("gcsearch.data.image_loader" in _command(entry) for entry in ours)


def _written(features):
    try:
        return sum(path.stat().st_size for path in contents(features))
    except FileNotFoundError:  # parts that have become an entry
        return 0


def _command(entry):
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""


def _is_ours(entry, folder):
    try:
        return str(folder).encode() in (entry / "environ").read_bytes()
    except OSError:
        return False


def test_decoders_reach_the_cache_of_a_worker(monkeypatch, place):
    from gcsearch.config import pipeline as schema
    from gcsearch.execution import worker
    from gcsearch.execution.executor import Batch
    from gcsearch.training import loading

    pipeline = schema.Pipeline.from_dict({"name": "my", "resources": {"decoders": 3}})
    asked = []

    def of(task, decoders):
        asked.append(decoders)
        raise InputError("far enough")

    monkeypatch.setattr(loading, "laboratory", of)
    decoders = pipeline.resources.decoders
    runner = worker.PackRunner(pipeline.task, 1, decoders=decoders)
    with pytest.raises(InputError, match="far enough"):
        runner(Batch(stage="search", seeds=(1,), trials=()), lambda reports: None)
    assert asked == [3]
    with pytest.raises(InputError, match=r"resources.decoders: .*got -1"):
        schema.Pipeline.from_dict({"name": "my", "resources": {"decoders": -1}})
