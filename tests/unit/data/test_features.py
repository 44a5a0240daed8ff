"""The feature cache: exact, never stale, never half-written, mended when damaged, made once."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from PIL import Image

from gcsearch import files
from gcsearch.data import datasets, digests, features
from gcsearch.data.feature_file import BrokenEntryWarning, CacheStorage
from gcsearch.data.features import FeatureCache, FeatureRequest
from gcsearch.errors import InputError
from tests.support.models import as_backbone, random_clip


@pytest.fixture
def cache(tmp_path, backbone):
    return FeatureCache(tmp_path / "features", backbone)


def drawn(cache, dataset, items, *, seed, count, progress=None):
    """Features [V, N, E] of `count` augmented views of `items`."""
    return cache.get([FeatureRequest(dataset, items, seed, count)], progress)[0]


@pytest.fixture
def own_copy(tiny_dataset, tmp_path):
    """A data set whose files a test may change."""
    shutil.copytree(tiny_dataset.images.parent, tmp_path / "copy" / "tiny")
    return datasets.load("tiny", tmp_path / "copy")


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """How many rows have been encoded, by this process and those that it forks."""
    log, encode = tmp_path / "encoded", FeatureCache._encode

    def watch(self, pixels):
        with log.open("a") as file:
            file.write("." * len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(FeatureCache, "_encode", watch)
    log.touch()
    return lambda: log.stat().st_size


def entries(cache):
    return sorted(cache.folder.glob("*.arrow"))


def test_features_are_those_of_the_encoder(cache, tiny_dataset, backbone):
    items = tiny_dataset.test[:5]
    found = cache.fixed(tiny_dataset, items)
    library = pytest.importorskip("open_clip")
    transform = library.image_transform(32, is_train=False)
    pixels = torch.stack([transform(Image.open(tiny_dataset.images / item.path)) for item in items])
    assert found.dtype == torch.float16
    assert torch.equal(found, backbone.encode_images(pixels).half())


def test_an_entry_is_computed_once(cache, tiny_dataset, encoded):
    calls = []
    first = cache.fixed(tiny_dataset, tiny_dataset.val, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (32, 32)
    again = cache.fixed(tiny_dataset, tiny_dataset.val)
    assert encoded() == 32
    assert torch.equal(first, again)


def test_what_is_read_lies_on_the_pages_of_the_file(cache, tiny_dataset):
    drawn(cache, tiny_dataset, tiny_dataset.val, seed=1, count=3)
    found = drawn(cache, tiny_dataset, tiny_dataset.val, seed=1, count=3)
    (path,) = entries(cache)
    mapped = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if path.name in line
    ]
    assert any(int(low, 16) <= found.data_ptr() < int(high, 16) for low, high in mapped)


def test_views_depend_on_seed_and_image_only(cache, tiny_dataset):
    items = tiny_dataset.train[:6]
    views = drawn(cache, tiny_dataset, items, seed=1, count=3)
    assert views.shape == (3, 6, 32)
    assert not torch.equal(views[0], views[1])
    torch.testing.assert_close(drawn(cache, tiny_dataset, items[::-1], seed=1, count=2), views[:2].flip(1))
    assert not torch.equal(drawn(cache, tiny_dataset, items, seed=2, count=3), views)


def test_processes_that_open_images_change_no_byte(cache, tiny_dataset, tmp_path):
    views = drawn(cache, tiny_dataset, tiny_dataset.val, seed=1, count=20)
    beside = replace(cache, folder=tmp_path / "other", decoders=2)
    assert torch.equal(drawn(beside, tiny_dataset, tiny_dataset.val, seed=1, count=20), views)
    assert entries(beside)[0].read_bytes() == entries(cache)[0].read_bytes()


def test_nothing_to_encode_is_an_entry_too(cache, tiny_dataset):
    assert cache.fixed(tiny_dataset, ()).shape == (0, 32)
    assert cache.fixed(tiny_dataset, ()).shape == (0, 32)


def test_the_key_changes_with_every_input(cache, tiny_dataset, own_copy):
    cache.fixed(tiny_dataset, tiny_dataset.val)
    cache.fixed(tiny_dataset, tiny_dataset.val[1:])
    replace(cache, backbone=as_backbone(random_clip(64, 2, 32, seed=1))).fixed(tiny_dataset, tiny_dataset.val)
    replace(cache, backbone=replace(cache.backbone, resize_mode="squash")).fixed(tiny_dataset, tiny_dataset.val)
    cache.fixed(own_copy, own_copy.val)
    assert len(entries(cache)) == 4  # another place is no other content
    changed = own_copy.images / own_copy.val[0].path
    Image.new("RGB", (40, 36), "red").save(changed)
    cache.fixed(own_copy, own_copy.val)
    assert len(entries(cache)) == 5


def test_another_content_of_the_same_size_and_time_is_noticed(cache, own_copy, monkeypatch):
    monkeypatch.setattr(digests, "RECENT", 0)
    path = own_copy.images / own_copy.val[0].path
    before = path.stat()
    cache.fixed(own_copy, own_copy.val)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the checksum of PNG's end chunk: Pillow opens it all the same
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    cache.fixed(own_copy, own_copy.val)
    assert len(entries(cache)) == 2


def test_only_images_of_more_than_8_bits_have_another_digest_than_before_they_were_scaled(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, values in (("8.png", grey), ("8.jpg", grey), ("16.png", grey.astype(np.uint16)), ("float.tif", grey / 1)):
        image = Image.fromarray(values.astype(np.float32) if values.dtype == float else values)
        image.save(tmp_path / name)
    names = ["8.png", "8.jpg", "16.png", "float.tif"]
    found, failed = digests.of_files(tmp_path, names, tmp_path / "memory")
    plain = [hashlib.blake2b((tmp_path / name).read_bytes(), digest_size=16).digest() for name in names]
    assert not failed
    assert [one.tobytes() == before for one, before in zip(found, plain, strict=True)] == [True, True, False, False]


def test_what_is_no_file_is_not_read_for_its_content(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    _, failed = digests.of_files(tmp_path, ["pipe.png", "folder.png", "loop.png"], tmp_path / "memory")
    assert failed == {"pipe.png": "no file", "folder.png": "no file", "loop.png": "Too many levels of symbolic links"}


def test_images_that_are_nearly_black_are_told_where_most_are(cache, own_copy):
    cache.fixed(own_copy, own_copy.test)
    for number, item in enumerate(own_copy.val):
        if number > len(own_copy.val) // 3:
            grey = np.random.default_rng(number).integers(0, 4096, (32, 32), dtype=np.uint16)  # 12 of 16 bits
            Image.fromarray(grey).save(own_copy.images / item.path, "PNG")
    with pytest.warns(UserWarning, match=r"most images of tiny are nearly black; grey images of 16 bits"):
        cache.fixed(own_copy, own_copy.val)


def test_images_that_are_turned_have_entries_of_their_own(cache, tiny_dataset):
    turned = replace(cache, exif=True)
    assert torch.equal(cache.fixed(tiny_dataset, tiny_dataset.val), turned.fixed(tiny_dataset, tiny_dataset.val))
    assert len(entries(cache)) == 2


def test_files_are_read_once_for_their_content(cache, own_copy, monkeypatch):
    read = []
    digest = digests.hashlib.file_digest
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name))
    monkeypatch.setattr(digests, "RECENT", 10**15)
    cache.fixed(own_copy, own_copy.val)
    cache.fixed(own_copy, own_copy.val)
    assert len(read) == 2 * 32  # written a moment ago: they may change once more within the same tick
    monkeypatch.setattr(digests, "RECENT", 0)
    cache.fixed(own_copy, own_copy.val)
    read.clear()
    cache.fixed(own_copy, own_copy.val)
    cache.fixed(own_copy, own_copy.val[3:])
    assert read == []
    (memory,) = cache.memory.iterdir()
    memory.write_bytes(b"broken")
    cache.fixed(own_copy, own_copy.val)
    assert len(read) == 32
    assert len(entries(cache)) == 2


DAMAGES = {
    "flip a byte": lambda content, middle: content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
    "cut off": lambda content, middle: content[:middle],
    "empty": lambda content, middle: b"",
    "foreign": lambda content, middle: b"PK" * 999,
    "another format": lambda content, middle: content.replace(b'"format": 2', b'"format": 1'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_named_rebuilt_and_never_read(cache, tiny_dataset, damage):
    good = cache.fixed(tiny_dataset, tiny_dataset.val).clone()
    (path,) = entries(cache)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(DAMAGES[damage](content, content.index(good[3].numpy().tobytes())))
    calls = []
    with pytest.warns(BrokenEntryWarning, match=f"{path.name} is not read and made anew: ") as caught:
        repaired = cache.fixed(tiny_dataset, tiny_dataset.val, lambda *done: calls.append(done))
    assert calls
    assert len(caught) == 1
    assert torch.equal(repaired, good)
    assert path.read_bytes() == content


def test_an_interrupted_write_leaves_nothing_that_is_read(cache, tiny_dataset, monkeypatch, encoded):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            cache.fixed(tiny_dataset, tiny_dataset.val)
    assert entries(cache) == []
    cache.fixed(tiny_dataset, tiny_dataset.val)
    assert encoded() == 32  # the parts were kept


def forked(work):
    """A process that does `work`, and nothing else that this one would do at its end."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def test_killed_at_any_moment_the_same_call_goes_on_to_the_same_bytes(
    cache, tiny_dataset, tmp_path, monkeypatch, encoded
):
    wanted = {"seed": 1, "count": 60}  # 48 images x 60 views = 2880 rows in 12 parts
    whole = replace(cache, folder=tmp_path / "whole")
    drawn(whole, tiny_dataset, tiny_dataset.train, **wanted)
    before, encode = encoded(), FeatureCache._encode

    def work(parts):
        """Goes on for `parts` parts, and one that may have been lost: it cannot end before it is killed."""
        calls = []

        def stall(self, pixels):
            calls.append(len(pixels))
            time.sleep(60 if len(calls) > parts + 1 else 0)
            return encode(self, pixels)

        FeatureCache._encode = stall
        drawn(cache, tiny_dataset, tiny_dataset.train, **wanted)

    written = lambda: sum(file.stat().st_size for file in cache.folder.glob("*.rows"))  # noqa: E731
    for parts in (1, 3, 2):
        there = written()
        child = forked(partial(work, parts))
        until = time.monotonic() + 100
        while written() < there + parts * features.PART * 64:
            assert time.monotonic() < until
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert entries(cache) == []
    (rows,) = cache.folder.glob("*.rows")
    with rows.open("ab") as file:
        file.write(b"torn")
    told = []
    drawn(cache, tiny_dataset, tiny_dataset.train, **wanted, progress=lambda done, total: told.append(done))
    assert told[0] >= 5 * features.PART  # six were written; the last may have been killed before its sum was
    assert encoded() - before <= 2880 + 3 * features.PART  # at most the part in work was lost each time
    assert entries(cache)[0].read_bytes() == entries(whole)[0].read_bytes()
    assert [path.suffix for path in cache.folder.iterdir() if path.is_file()] == [".arrow"]


@pytest.mark.parametrize("spoil", ["a row", "a line", "the key"])
def test_parts_that_do_not_verify_are_encoded_again(cache, tiny_dataset, monkeypatch, encoded, spoil):
    items = tiny_dataset.train
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            drawn(cache, tiny_dataset, items, seed=1, count=16)
    (rows,), (sums,) = cache.folder.glob("*.rows"), cache.folder.glob("*.sums")
    if spoil == "a row":
        content = bytearray(rows.read_bytes())
        content[300 * 64] ^= 1  # in the second of three parts
        rows.write_bytes(content)
    else:
        lines = sums.read_text().splitlines()
        lines[{"a line": 2, "the key": 0}[spoil]] = "0" * 8
        sums.write_text("\n".join(lines))
    drawn(cache, tiny_dataset, items, seed=1, count=16)
    assert encoded() == 3 * 256 + (3 if spoil == "the key" else 2) * 256


def test_two_processes_that_want_one_entry_compute_it_once(cache, tiny_dataset, encoded):
    def work():
        found = drawn(cache, tiny_dataset, tiny_dataset.train, seed=1, count=60)
        assert found.shape == (60, 48, 32)

    assert [os.waitpid(child, 0)[1] for child in [forked(work), forked(work), forked(work)]] == [0, 0, 0]
    assert encoded() == 2880
    assert len(entries(cache)) == 1


def test_who_waits_sees_how_far_the_other_is(cache, tiny_dataset, monkeypatch):
    seen, calls = cache.folder.parent / "seen", []

    def slowly(self, pixels):
        calls.append(len(pixels))
        until = time.monotonic() + 60
        while len(calls) > 2 and not seen.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        return np.zeros((len(pixels), 32), np.float16)

    monkeypatch.setattr(FeatureCache, "_encode", slowly)
    child = forked(lambda: drawn(cache, tiny_dataset, tiny_dataset.train, seed=1, count=32))
    while not list(cache.folder.glob("*.rows")):
        time.sleep(0.01)
    told = []

    def look(done, total):
        told.append(done)
        if done == 512:
            seen.touch()

    drawn(cache, tiny_dataset, tiny_dataset.train, seed=1, count=32, progress=look)
    assert os.waitpid(child, 0)[1] == 0
    assert 512 in told
    assert told == sorted(told)
    assert told[-1] == 1536


def test_all_unreadable_images_are_named_at_once(cache, own_copy):
    broken = [own_copy.train[3].path, own_copy.val[2].path, own_copy.val[7].path]
    for path in broken:
        (own_copy.images / path).write_bytes(b"not an image")
    wanted = [FeatureRequest(own_copy, own_copy.train, 1, 2), FeatureRequest(own_copy, own_copy.val)]
    with pytest.raises(InputError, match="every image must be readable; 3 of 80 are not") as caught:
        cache.get(wanted)
    assert all(path in str(caught.value) for path in broken)
    assert f"{broken[0]} (no image but text: 'not an image')" in str(caught.value)
    assert len((cache.folder / "unreadable.txt").read_text().splitlines()) == 3
    for path in broken[:2]:
        (own_copy.images / path).unlink()
    with pytest.raises(InputError, match="2 of 80 are not") as caught:
        cache.get(wanted)
    assert all(path in str(caught.value) for path in broken[:2])


# --- Shared between nodes ----------------------------------------------------------------------------------


def node(cache, tmp_path, name, storage):
    return replace(cache, folder=tmp_path / name, shared=storage)


def test_nodes_share_entries_through_an_address(cache, tiny_dataset, tmp_path, encoded):
    storage = CacheStorage.of_uri(f"file://{tmp_path}/shared/features")
    one, two = (node(cache, tmp_path, name, storage) for name in ("one", "two"))
    first = one.fixed(tiny_dataset, tiny_dataset.val)
    second = two.fixed(tiny_dataset, tiny_dataset.val)
    assert encoded() == 32
    assert torch.equal(first, second)
    assert [found.name for found in storage.entries()] == [path.name for path in entries(two)]
    assert len(list((tmp_path / "shared" / "features").iterdir())) == 1
    # Once on a node, the shared place is not asked again.
    shutil.rmtree(tmp_path / "shared")
    two.fixed(tiny_dataset, tiny_dataset.val)


def test_a_damaged_shared_entry_is_computed_and_replaced(cache, tiny_dataset, tmp_path, encoded):
    storage = CacheStorage.of_uri(f"file://{tmp_path}/shared")
    good = node(cache, tmp_path, "one", storage).fixed(tiny_dataset, tiny_dataset.val)
    (path,) = (tmp_path / "shared").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(BrokenEntryWarning, match="made anew"):
        again = node(cache, tmp_path, "two", storage).fixed(tiny_dataset, tiny_dataset.val)
    assert torch.equal(good, again)
    assert path.read_bytes() == content


class _Away(pafs.FileSystemHandler):
    """A file system whose server does not answer, for the calls that a cache storage makes."""

    def get_file_info(self, paths):
        raise OSError("no route to host")

    def create_dir(self, path, recursive):
        raise OSError("no route to host")

    def _no(self, *args):
        raise NotImplementedError  # pyarrow wants them all there; a cache storage calls none of these

    get_type_name = normalize_path = get_file_info_selector = delete_dir = delete_dir_contents = _no
    delete_root_dir_contents = delete_file = move = copy_file = open_input_stream = open_input_file = _no
    open_output_stream = open_append_stream = _no


def test_a_shared_place_that_is_away_stops_nothing(cache, tiny_dataset, tmp_path):
    storage = CacheStorage(pafs.PyFileSystem(_Away()), "bucket/features", "s3://bucket/features")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        node(cache, tmp_path, "one", storage).fixed(tiny_dataset, tiny_dataset.val)
    said = [str(warning.message) for warning in caught if "shared cache" in str(warning.message)]
    assert len(said) == 2
    assert all("s3://bucket/features" in text and "no route to host" in text for text in said)


def test_a_folder_inside_another_file_system_serves_too(cache, tiny_dataset, tmp_path, encoded):
    (tmp_path / "bucket").mkdir()
    inside = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    storage = CacheStorage(inside, "features", "bucket")
    for name in ("one", "two"):
        node(cache, tmp_path, name, storage).fixed(tiny_dataset, tiny_dataset.val)
    assert encoded() == 32
    (found,) = storage.entries()
    assert storage.check(found) == ""
    storage.remove(found)
    assert storage.entries() == []


def test_an_address_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match=r"GCSEARCH_CACHE: .*address that pyarrow opens, got nowhere://x"):
        CacheStorage.of_uri("nowhere://x")
