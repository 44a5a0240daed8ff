"""`gcsearch data get`: torchvision's loaders against a server on loopback, and all that goes wrong on the way."""

from __future__ import annotations

import errno
import json
import re
import shutil
import tarfile

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.data import datasets, fetch, inspect
from gcsearch.errors import InputError, RunError
from gcsearch.files import locked
from tests.support import downloads
from tests.support.servers import free_port

pytestmark = [
    pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning"),
    pytest.mark.filterwarnings("ignore::gcsearch.data.lists.folders.SkippedFilesWarning"),
]

FETCHED = [name for name, source in fetch.SOURCES.items() if source.loader]


@pytest.fixture
def mirror():
    with downloads.mirror() as made:
        yield made


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def get(name, root, **told):
    return fetch.fetch(name, root, stage=told.get("stage", lambda _: None), progress=told.get("progress", print))


def run(*words):
    done = CliRunner().invoke(app, ["data", "get", *map(str, words)])
    if isinstance(done.exception, Exception):  # the entry of the command line makes words of it
        raise done.exception
    return done


@pytest.mark.parametrize("name", FETCHED)
def test_each_loader_fetches_its_data_set_and_ours_reads_it(name, mirror, root, tmp_path, monkeypatch):
    (tmp_path / "tree").mkdir()
    tree = downloads.offer(name, mirror, tmp_path / "tree", monkeypatch)
    told = []
    folder = get(name, root, stage=told.append)
    found = inspect.examine(root, name, verify=True)
    assert found.ok, found
    assert told[:2] == ["download", "unpack"] and mirror.asked >= 2
    assert [path.name for path in root.iterdir()] == [folder.name], "nothing else is left"
    assert not [path for path in folder.rglob("*") if path.suffix in (".gz", ".tgz", ".zip")]
    if name.startswith("CIFAR"):
        assert datasets.load(name, root).classes == tuple(tree)
    else:
        loaded = datasets.load(name, root)
        assert (loaded.classes, found.images) == (tree.classes, tree.counts)
    assert fetch.is_there(name, root)


def test_the_command_fetches_checks_and_does_it_once(mirror, root, tmp_path, monkeypatch):
    (tmp_path / "tree").mkdir()
    downloads.offer("OxfordPets", mirror, tmp_path / "tree", monkeypatch)
    done = run("OxfordPets", "--root", root)
    assert done.exit_code == 0
    assert re.search(r"OxfordPets +5 +26 +5 +13 +0 +0", done.output)
    assert "split_zhou_OxfordPets.json is absent; the lists are those of the data set's authors" in done.output
    assert "published: 37 classes" in done.output
    asked = mirror.asked
    done = run("Oxford Pets", "--root", root, "--json")  # by the name that papers have for it
    assert (done.exit_code, mirror.asked) == (0, asked)
    assert json.loads(done.stdout)["images"] == {"train": 26, "val": 5, "test": 13}
    next((root / "oxford-iiit-pet" / "images").iterdir()).write_bytes(b"no image")
    assert run("OxfordPets", "--root", root).exit_code == 1


@pytest.fixture
def pets(mirror, root, tmp_path, monkeypatch):
    (tmp_path / "tree").mkdir()
    downloads.offer("OxfordPets", mirror, tmp_path / "tree", monkeypatch)
    root.mkdir()
    return mirror


def refused(root, message):
    """The words of the refusal, after which nothing is left."""
    with pytest.raises(RunError, match=f"(?s){message}") as caught:
        get("OxfordPets", root)
    assert list(root.iterdir()) == []
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_a_download_that_breaks_off_leaves_nothing(pets, root):
    pets.cut = 1000
    said = refused(root, r"OxfordPets could not be fetched into .*: the connection broke: \d+ of \d+ bytes came")
    assert "Run the command again, or fetch it by hand from the official page: https://www.robots.ox.ac.uk" in said
    pets.cut = 0
    get("OxfordPets", root)
    assert inspect.examine(root, "OxfordPets").ok


def test_another_file_than_torchvision_knows_is_refused(pets, root):
    pets.files["annotations.tar.gz"] = pets.files["images.tar.gz"]
    refused(root, "the file that came has another checksum than torchvision knows")


def test_an_archive_without_a_checksum_that_is_damaged_is_refused(mirror, root, tmp_path, monkeypatch):
    (tmp_path / "tree").mkdir()
    downloads.offer("FGVCAircraft", mirror, tmp_path / "tree", monkeypatch)
    (name,) = mirror.files
    mirror.files[name] = mirror.files[name][: len(mirror.files[name]) // 2]
    with pytest.raises(RunError, match="the archive that came is damaged"):
        get("FGVCAircraft", root)
    assert list(root.iterdir()) == []


def test_no_room_is_told_before_anything_is_written(pets, root, monkeypatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(root, r"no room in .*data \(\d+ MiB are needed\). Nothing was left there")


def test_no_room_while_unpacking_leaves_nothing(pets, root, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    refused(root, r"no room in .*data \(No space left on device\)")


def test_no_network_is_said_in_a_line(root, monkeypatch):
    root.mkdir()
    nobody = f"http://127.0.0.1:{free_port()}/images.tar.gz"
    monkeypatch.setattr(fetch.torchvision.loaders().OxfordIIITPet, "_RESOURCES", ((nobody, "0"),))
    refused(root, "no connection: Connection refused")


def test_a_page_that_has_gone_is_said(pets, root):
    pets.status = 410
    refused(root, r"http://127.0.0.1:\d+/images.tar.gz answered 410 Gone")


def test_an_interrupted_fetch_leaves_nothing(pets, root):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get("OxfordPets", root, progress=interrupt)
    assert list(root.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_and_one_at_work_is_left_alone(pets, root):
    aside = root / ".OxfordPets.part"
    (aside / "data").mkdir(parents=True)
    (aside / "data" / "half.tar.gz").write_bytes(b"half")
    with locked(aside / "lock", wait=False), pytest.raises(RunError, match="another process is fetching OxfordPets"):
        get("OxfordPets", root)
    assert get("OxfordPets", root) == root / "oxford-iiit-pet"
    assert [path.name for path in root.iterdir()] == ["oxford-iiit-pet"]


def test_a_folder_in_the_way_is_left_alone(pets, root):
    (root / "oxford-iiit-pet").mkdir()
    with pytest.raises(InputError, match=r"oxford-iiit-pet, --root: the place of the data set must be free"):
        get("OxfordPets", root)
    assert pets.asked == 0


def test_the_settings_of_torchvision_are_put_back(pets, root):
    before = fetch.torchvision.loaders().utils.tqdm, tarfile.TarFile.extraction_filter
    get("OxfordPets", root)
    assert (fetch.torchvision.loaders().utils.tqdm, tarfile.TarFile.extraction_filter) == before


@pytest.mark.parametrize("name", [name for name in fetch.SOURCES if name not in FETCHED])
def test_of_others_it_says_what_to_put_where(name, root):
    done = run(name, "--root", root)
    layout = datasets.find(name)
    assert done.exit_code == 1
    assert fetch.SOURCES[name].page in done.output and layout.folder in done.output
    assert layout.split in done.output and fetch.COOP in done.output


def test_without_a_name_all_public_data_sets_are_listed():
    done = run()
    assert done.exit_code == 0
    for name, source in fetch.SOURCES.items():
        assert name in done.output and source.page in done.output
    assert {name for name, layout in datasets.DATASETS.items() if layout.published} <= set(fetch.SOURCES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OxfordCats", "--root", "data"], r"NAME: the public data set must be one of .*\nDid you mean 'OxfordPets'"),
        (["OxfordPets"], r"--root: the folder that holds data sets is needed"),
    ],
)
def test_a_wrong_name_and_no_root_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        run(*words)
