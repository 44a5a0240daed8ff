"""Folders of images: what counts by its ending, and that nothing is passed over without a word."""

from __future__ import annotations

import os
import warnings
import zlib

import pytest
from PIL import Image

from gcsearch.data import datasets, image_files, inspect
from gcsearch.data.lists.folders import SkippedFilesWarning, images_below, images_in, warning_of_skipped_files
from gcsearch.errors import InputError


def picture(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = zlib.crc32(bytes(path))  # no two pictures are the same: repeats are left out
    Image.new("RGB", (9, 9), (content & 255, content >> 8 & 255, content >> 16 & 255)).save(path, kind)


@pytest.fixture
def root(tmp_path):
    """A data set `pics` of two classes with six images each."""
    for name in ("cat", "dog"):
        for index in range(6):
            picture(tmp_path / "pics" / name / f"{index}.png")
    return tmp_path


def said(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with warning_of_skipped_files(folder):
            images_in(folder)
    return [str(one.message).removeprefix(f"{folder}: ") for one in caught]


def test_usual_endings_count_in_any_letters_and_those_of_systems_and_other_files_do_not(tmp_path):
    counted = ["a.JPG", "a.Jpeg", "a.jpe", "a.jfif", "a.mpo", "a.TIF", "a.tiff", "a.b.PNG", "a.webp", "a.bmp", "a.gif"]
    counted += ["a.pgm", "a.ppm", "a.pbm", "a.pnm", *(["a.avif"] if "AVIF" in image_files.FORMATS else [])]
    for name in (*counted, ".hidden.png", "._a.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / name).touch()
    assert images_in(tmp_path) == sorted(counted)
    assert said(tmp_path) == []


def test_what_is_passed_over_is_counted_by_ending(tmp_path):
    for name in ("1.heic", "2.HEIC", "3.heic", "4.heic", "a.txt", "b.txt", "c.Txt", "png", "a.png.part", "x."):
        (tmp_path / name).write_bytes(b"none")
    (tmp_path / "more" / "below").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    expected = "11 files passed over: .heic 4, .txt 3, without an ending 2, .part 1, pipes and devices 1"
    assert said(tmp_path) == [f"{expected}; 2 folders in class folders passed over"]


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "cats"
    folder.mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert said(folder) == ["1 folder in class folders passed over"]


def test_one_of_many_endings_is_one_of_the_others(tmp_path):
    for index in range(30):
        (tmp_path / f"a.e{index:02d}").touch()
    (told,) = said(tmp_path)
    assert told.startswith("30 files passed over: .e00 1, .e01 1,") and told.endswith(".e11 1, others 18")


def test_an_image_that_its_ending_hides_is_named(tmp_path):
    (tmp_path / "a.dat").write_bytes(b"no image")
    picture(tmp_path / "photo_1", "JPEG")
    assert said(tmp_path) == [
        f"2 files passed over: .dat 1, without an ending 1; {tmp_path / 'photo_1'} is an image all the same: an ending "
        "such as .jpg makes it count"
    ]


@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
def test_a_data_set_says_once_what_its_class_folders_hold_beside_images(root):
    for name in ("cat", "dog"):
        (root / "pics" / name / "labels.xml").touch()
    (root / "pics" / "README.md").touch()  # in no class folder
    with pytest.warns(SkippedFilesWarning) as caught:
        datasets.load("folder:pics", root)
    told = [str(one.message) for one in caught if one.category is SkippedFilesWarning]
    assert told == [f"{root / 'pics'}: 2 files passed over: .xml 2"]
    found = inspect.examine(root, "folder:pics")
    assert found.ok and told[0] in found.notes


def test_a_class_of_nothing_but_what_is_passed_over_is_refused_with_the_reason_beside(root):
    for path in (root / "pics" / "cat").iterdir():
        path.rename(path.with_suffix(".heic"))
    found = inspect.examine(root, "folder:pics")
    assert "every class needs 4 images" in found.problem
    assert found.notes[0].startswith(f"{root / 'pics'}: 6 files passed over: .heic 6; ")
    with pytest.warns(SkippedFilesWarning), pytest.raises(InputError, match="every class needs 4 images"):
        datasets.load("folder:pics", root)


@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
def test_a_link_that_leads_nowhere_or_to_itself_is_a_missing_image(root):
    (root / "pics" / "cat" / "lost.png").symlink_to("nowhere")
    (root / "pics" / "dog" / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match=r"2 of 14 are missing in .*got cat/lost.png, dog/loop.png"):
        datasets.load("folder:pics", root)
    assert inspect.examine(root, "folder:pics").missing == ("cat/lost.png", "dog/loop.png")


def test_listing_opens_no_image(root, monkeypatch):
    def opened(path, **_):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("gcsearch.data.lists.folders.is_image", opened)
    monkeypatch.setattr(image_files, "read", opened)
    monkeypatch.setattr("builtins.open", opened)
    assert images_in(root / "pics" / "cat") == [f"{index}.png" for index in range(6)]


def test_below_a_folder_images_come_in_sorted_order_and_each_folder_once(tmp_path):
    for name in ("b.png", "a.jpg", "z/1.png", "c/2.png", "c/10.png", "c/d/e.gif", ".hidden/x.png", "__MACOSX/y.png"):
        picture(tmp_path / name)
    (tmp_path / "c" / "again").symlink_to(tmp_path)
    (tmp_path / "c" / "loop").symlink_to("loop")
    (tmp_path / "other").symlink_to(tmp_path / "z")
    found = [str(path.relative_to(tmp_path)) for path in images_below(tmp_path)]
    assert found == ["a.jpg", "b.png", "c/10.png", "c/2.png", "c/d/e.gif", "other/1.png"]
