"""The model registry: aliases move, nothing is registered twice, nothing is pickled. A real SQLite store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gcsearch.driver.exports import write_export
from gcsearch.errors import InputError, RunError
from gcsearch.export import bundle
from gcsearch.export.bundle import Champion
from gcsearch.tracking import registry
from tests.support.exports import KINDS, a_champion


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def uri(place):
    return f"sqlite:///{place / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(uri, place):
    client = MlflowClient(uri)
    client.create_experiment("sweep", (place / "artifacts").as_uri())
    return client


def write(lab, client, folder, method="zeroshot", **values):
    run = client.create_run(client.get_experiment_by_name("sweep").experiment_id)
    champion = a_champion(lab, method, KINDS[method] | values)
    record = champion.record.model_copy(update={"run_id": run.info.run_id})
    return bundle.write(folder, Champion(**{**vars(champion), "record": record}), lab, force=True)


def aliases(client, name="pets"):
    return {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}


def test_a_new_champion_makes_the_former_one_the_challenger_and_the_same_content_changes_nothing(
    at_home,
    client,
    uri,
    tmp_path,
):
    first = write(at_home, client, tmp_path / "first")
    made = registry.register(first, uri, "pets")
    assert (made.number, made.known, made.uri) == ("1", False, "models:/pets@champion")
    assert aliases(client) == {"champion": "1"}
    again = registry.register(first, uri, "pets")
    assert (again.number, again.known) == ("1", True)
    assert again.describe() == "models:/pets@champion is version 1, as before"

    second = write(at_home, client, tmp_path / "second", ensemble=True)
    assert registry.register(second, uri, "pets").number == "2"
    assert aliases(client) == {"champion": "2", "challenger": "1"}
    assert registry.register(second, uri, "pets").known
    assert aliases(client) == {"champion": "2", "challenger": "1"}
    # Another export of the first content is that content: its version comes back, and no third is made.
    assert registry.register(write(at_home, client, tmp_path / "third"), uri, "pets").number == "1"
    assert aliases(client) == {"champion": "1", "challenger": "2"}
    assert len(client.search_model_versions("name = 'pets'")) == 2


def test_the_version_belongs_to_the_champions_run_and_holds_no_pickle(at_home, client, uri, tmp_path):
    folder = write(at_home, client, tmp_path / "best", "gcscoop")
    registry.register(folder, uri, "cars")
    version = client.get_model_version("cars", "1")
    facts = json.loads((folder / "metrics.json").read_text())
    assert version.run_id == facts["origin"]["run_id"]
    assert version.tags["gcsearch.export"] == facts["digest"]
    assert version.tags["gcsearch.selection"] == "clean"
    assert version.description == (folder / "card.md").read_text()
    artifacts = client.get_run(version.run_id).info.artifact_uri.removeprefix("file://")
    kept = {path.name for path in Path(artifacts).rglob("*") if path.is_file()}
    assert {"MLmodel", "served.py", "prompt.safetensors"} <= kept
    assert not [name for name in kept if name.endswith((".pkl", ".pickle"))]


def test_what_cannot_be_registered_is_refused_in_words(at_home, client, uri, tmp_path):
    folder = write(at_home, client, tmp_path / "best")
    with pytest.raises(InputError, match=r"--name: a model's name has no slash and no colon, got 'a/b'"):
        registry.register(folder, uri, "a/b")
    with pytest.raises(InputError, match="the folder must be an export"):
        registry.register(tmp_path, uri, "lost")
    lost = bundle.write(tmp_path / "lost", a_champion(at_home, "zeroshot", {}), at_home)
    with pytest.raises(RunError, match="has no run r1 of the champion"):
        registry.register(lost, uri, "lost")
    assert "lost" not in [model.name for model in client.search_registered_models()]


def test_a_handover_needs_a_place_and_only_a_registered_model_has_a_name():
    with pytest.raises(InputError, match="an export goes to a folder, or to the registry"):
        write_export("pets")
    with pytest.raises(InputError, match="only a registered model has a name, got cars"):
        write_export("pets", out=Path("best"), model="cars")
