"""A store that was moved, copied or reached through a link: artifacts are found, nothing is written elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.tracking import relocation
from gcsearch.tracking.sync import MlflowSync
from tests.support.records import a_record
from tests.support.sweeps import mirrored

ODD = "st ore %20?#&;'\"[x]*{0}~+$HOME é"
"""A folder whose name means something in an address, a shell, a format string and a pattern."""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A store with a sweep of one configuration in its embedded MLflow."""
    root = tmp_path_factory.mktemp("first") / ODD
    sweep = mirrored(root, "one", Store(root).mlflow_uri)
    sweep.journal.append("record", record=a_record(0))
    assert follow(root, sweep) == 1
    return root


@pytest.fixture
def store(original, tmp_path) -> Path:
    """It, moved: the place where it was is gone."""
    place = tmp_path / "before" / ODD
    shutil.copytree(original, place)
    as_if_it_was_made_at(place, original)
    shutil.move(tmp_path / "before", tmp_path / "after")
    return tmp_path / "after" / ODD


def as_if_it_was_made_at(place: Path, made: Path) -> None:
    """Only the addresses in the database tell a copy from what was made here."""
    relocation.follow(Store(place))
    assert locations(place) == {(place / "artifacts").as_uri()}
    assert locations(made) == {(made / "artifacts").as_uri()}


def follow(root: Path, sweep: Sweep | None = None) -> int:
    """Have the mirror of the store's sweep write what MLflow lacks."""
    here = Store.locate(root)
    sweep = sweep or Sweep("one", here, here.sweep("one"))
    text = (sweep.folder / "pipeline.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("uri")]  # the embedded one, wherever it is
    (sweep.folder / "pipeline.toml").write_text("\n".join(lines))
    return MlflowSync(Sweep("one", here, here.sweep("one")), sweep.journal, print, print).sync()


def client(root: Path) -> MlflowClient:
    return MlflowClient(Store(root).mlflow_uri)


def runs(root: Path) -> list:
    ids = [one.experiment_id for one in client(root).search_experiments()]
    return client(root).search_runs(ids)


def locations(root: Path) -> set[str]:
    known = client(root).get_experiment_by_name("mirrors").artifact_location
    return {known, *(one.info.artifact_uri.removesuffix(f"/{one.info.run_id}/artifacts") for one in runs(root))}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_moved_store_had_is_found_and_what_is_new_goes_into_it(store, tmp_path):
    sweep = Sweep("one", Store(store), Store(store).sweep("one"))
    sweep.journal.append("record", record=a_record(1))
    assert follow(store) == 1
    assert not (tmp_path / "before").exists()
    assert len(runs(store)) == 3 and locations(store) == {(store / "artifacts").as_uri()}
    for run in runs(store):
        names = {file.path for file in client(store).list_artifacts(run.info.run_id)}
        assert names & {"record.json", "pipeline.toml"}
        assert (store / "artifacts" / run.info.run_id / "artifacts" / names.pop()).is_file()


def test_registered_models_are_found_too(store):
    (run, *_) = runs(store)
    place = store.parent.parent / "before" / ODD / "artifacts"
    source = f"{place.as_uri()}/{run.info.run_id}/artifacts/model"
    (store / "artifacts" / run.info.run_id / "artifacts" / "model").mkdir()
    client(store).create_registered_model("mine")
    client(store).create_model_version("mine", source, run.info.run_id)
    relocation.follow(Store(store))
    assert client(store).get_model_version("mine", "1").source == f"{run.info.artifact_uri}/model".replace(
        place.as_uri(), (store / "artifacts").as_uri()
    )


def test_a_copy_never_writes_into_the_original(original, tmp_path):
    shutil.copytree(original, tmp_path / "copy")
    before = files_below(original / "artifacts")
    for number, root in ((5, tmp_path / "copy"), (6, original)):
        sweep = Sweep("one", Store(root), Store(root).sweep("one"))
        sweep.journal.append("record", record=a_record(number))
        assert follow(root) == 1
        if root != original:
            assert files_below(original / "artifacts") == before
        assert locations(root) == {(root / "artifacts").as_uri()}


def test_through_a_link_nothing_changes(store, tmp_path):
    follow(store)
    (tmp_path / "link").symlink_to(store)
    relocation.follow(Store.locate(tmp_path / "link"))
    assert locations(tmp_path / "link") == {(store / "artifacts").as_uri()}
    sweep = Sweep("one", Store(store), Store(store).sweep("one"))
    sweep.journal.append("record", record=a_record(7))
    assert follow(tmp_path / "link") == 1
    assert len(list((store / "artifacts").iterdir())) == len(runs(store))


def test_a_place_that_somebody_has_chosen_stays(tmp_path):
    artifacts = tmp_path / "store" / "artifacts"
    (tmp_path / "chosen" / "artifacts").mkdir(parents=True)
    (tmp_path / "other" / "sweeps").mkdir(parents=True)
    (tmp_path / "other" / "artifacts").mkdir()
    assert relocation.is_of_a_store(artifacts.as_uri(), artifacts)
    assert relocation.is_of_a_store((tmp_path / "gone" / "artifacts").as_uri(), artifacts)
    assert relocation.is_of_a_store((tmp_path / "other" / "artifacts").as_uri(), artifacts)
    assert not relocation.is_of_a_store((tmp_path / "chosen" / "artifacts").as_uri(), artifacts)
    assert not relocation.is_of_a_store("s3://bucket/artifacts", artifacts)
    assert not relocation.is_of_a_store("mlflow-artifacts:/1/artifacts", artifacts)


def test_a_store_that_nobody_has_set_up_is_left_alone(tmp_path):
    relocation.follow(Store(tmp_path))
    assert os.listdir(tmp_path) == []
    (tmp_path / "mlflow.db").touch()
    relocation.follow(Store(tmp_path))
    assert (tmp_path / "mlflow.db").stat().st_size == 0
