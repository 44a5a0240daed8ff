"""Every layout, held to one contract: counts, disjoint lists, halves, relabelling, and what is wrong is said."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from gcsearch.config.task import Task
from gcsearch.data import datasets, inspect
from gcsearch.data.features import FeatureCache
from gcsearch.data.lists import draws
from gcsearch.data.lists.splits import FreshSplitWarning, Item
from gcsearch.errors import InputError
from gcsearch.training.task_data import Laboratory
from tests.support.trees import NAMES, TREES, Tree, put, write

# The trees' class folders hold a text beside their images; that it is named is in test_folders.py.
pytestmark = pytest.mark.filterwarnings("ignore::gcsearch.data.lists.folders.SkippedFilesWarning")


def load(tree: Tree, root):
    expected = pytest.warns(FreshSplitWarning, match="not comparable") if tree.fresh else contextlib.nullcontext()
    with expected:
        return datasets.load(tree.name, root)


@pytest.fixture(scope="module", params=TREES)
def read(request, tmp_path_factory):
    """(what is there, what was read, root), for every layout."""
    root = tmp_path_factory.mktemp("root")
    tree = TREES[request.param](root)
    return tree, load(tree, root), root


def test_the_fifteen_data_sets_and_two_free_forms_are_all_written():
    assert {name.split(" by ")[0] for name in TREES} >= {
        name for name, layout in datasets.DATASETS.items() if layout.published or name == "ImageNet"
    }
    assert len([name for name, layout in datasets.DATASETS.items() if layout.published]) + 1 == 15


def test_classes_and_counts_are_those_of_the_tree(read):
    tree, found, _ = read
    assert found.classes == tree.classes
    assert {key: len(items) for key, items in found.lists.items()} == tree.counts


def test_every_image_has_the_class_it_lies_in_and_is_in_one_list(read):
    tree, found, _ = read
    every = [item for items in found.lists.values() for item in items]
    assert {item.path: found.classes[item.label] for item in every} == tree.truth
    assert len(every) == len(tree.truth)
    assert all((found.images / item.path).is_file() for item in every)
    if tree.test is not None:
        assert {item.path for item in found.test} == tree.test


def test_reading_twice_gives_the_same(read):
    tree, found, root = read
    assert load(tree, root) == found


def test_halves_cover_the_classes_and_relabel_from_0(read):
    _, found, _ = read
    base, new = draws.halves(found)
    assert len(base) - len(new) in (0, 1)
    assert (*base, *new) == tuple(range(len(found.classes)))
    for half in (base, new):
        for items in found.lists.values():
            kept = [items[index] for index in draws.of_labels(items, half)]
            assert {half.index(item.label) for item in kept} == (set(range(len(half))) if items else set())


def test_a_draw_takes_what_there_is_of_a_small_class(read):
    _, found, _ = read
    drawn = draws.few_shot(found.train, 4, random.Random(1))
    there = [sum(item.label == label for item in found.train) for label in range(len(found.classes))]
    assert [sum(item.label == label for item in drawn) for label in range(len(there))] == [min(n, 4) for n in there]
    assert len(set(drawn)) == len(drawn)


def test_an_unreadable_image_is_named(read):
    tree, found, root = read
    assert inspect.examine(root, tree.name, verify=True).ok
    path = found.images / found.test[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        finding = inspect.examine(root, tree.name, verify=True)
        assert (finding.unreadable, finding.missing, finding.ok) == ((found.test[0].path,), (), False)
        assert "truncated" in finding.reasons[found.test[0].path].lower()
    finally:
        path.write_bytes(whole)


LISTED = [name for name in TREES if " by " in name or name in ("OxfordPets", "SUN397", "UCF101", "FGVCAircraft", "csv")]
LISTED += ["StanfordCars", "OxfordFlowers", "parquet"]


@pytest.mark.parametrize("name", LISTED)
def test_missing_images_are_all_found_before_anything_starts(tmp_path, name):
    tree = TREES[name](tmp_path)
    found = load(tree, tmp_path)
    gone = sorted({found.train[0].path, found.val[0].path, found.test[0].path})
    for path in gone:
        (found.images / path).unlink()
    with pytest.raises(InputError, match=r"3 of 44 are missing") as caught:
        load(tree, tmp_path)
    assert all(path in str(caught.value) for path in gone)
    assert list(inspect.examine(tmp_path, tree.name).missing) == gone


FOLDERS = ("ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")
FOLDERS += ("Caltech101", "Food101", "DescribableTextures", "EuroSAT", "folder")


@pytest.mark.parametrize("name", FOLDERS)
def test_an_empty_class_folder_is_refused_by_name(tmp_path, name):
    tree = TREES[name](tmp_path)
    layout = datasets.find(tree.name)
    folder = next(path for path in (tmp_path / layout.folder / layout.images).rglob("*") if path.suffix != ".txt")
    victims = {folder.name} if any(p.is_file() for p in folder.iterdir()) else {p.name for p in folder.iterdir()}
    for path in (tmp_path / layout.folder / layout.images).rglob("*"):
        if path.is_file() and path.parent.name in victims:
            path.unlink()
    with pytest.raises(InputError, match=r"every class (must have|needs)"):
        datasets.load(tree.name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("FGVCAircraft", "fgvc_aircraft/variants.txt", "Concorde"),
        ("SUN397", "sun397/ClassName.txt", "/z/zoo"),
        ("UCF101", "ucf101/ucfTrainTestlist/classInd.txt", "6 Zumba"),
    ],
)
def test_a_listed_class_without_images_is_refused_by_name(tmp_path, name, file, line):
    tree = TREES[name](tmp_path)
    append(tmp_path / file, line)
    with pytest.raises(InputError, match=f"must have at least one image.*{line.split('/')[-1].split()[-1]}"):
        datasets.load(tree.name, tmp_path)


@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
@pytest.mark.parametrize(
    ("name", "message"), [("StanfordCars", "got none for 2013 Tata Nano"), ("OxfordFlowers", r"got 6 \(0\)")]
)
def test_a_named_class_without_images_is_refused_in_matlabs_layouts_too(tmp_path, name, message):
    tree = TREES[name](tmp_path)
    if name == "StanfordCars":
        titles = [*(f"Car {number} 2000" for number in range(5)), "Tata Nano 2013"]
        content = {"class_names": np.array([titles], dtype="O")}
        savemat(tmp_path / "stanford_cars" / "devkit" / "cars_meta.mat", content)
    else:
        names = {str(number): f"flower {number}" for number in range(1, 7)}
        write(tmp_path / "oxford_flowers" / "cat_to_name.json", [json.dumps(names)])
    with pytest.raises(InputError, match=message):
        datasets.load(tree.name, tmp_path)


SPLITS = [name for name in TREES if name.endswith(" by its split")]


def change_split(tree, root, change):
    """Rewrite a layout's split file; gives its path."""
    layout = datasets.find(tree.name)
    path = root / layout.folder / layout.split
    split = json.loads(path.read_text(encoding="utf-8"))
    change(split)
    path.write_text(json.dumps(split), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_with_an_empty_class_is_refused(tmp_path, name):
    tree = TREES[name](tmp_path)

    def without_the_third(split):
        for rows in split.values():
            rows[:] = [row for row in rows if row[1] != 2]

    path = change_split(tree, tmp_path, without_the_third)
    with pytest.raises(InputError, match=r"labels must run from 0 without a gap, got \[0, 1, 3, 4\]") as caught:
        load(tree, tmp_path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("climbing", ["../../secret.jpg", "/etc/secret.jpg", "C:\\secret.jpg", "a\\..\\..\\secret.jpg"])
def test_a_split_whose_path_climbs_out_is_refused(tmp_path, name, climbing):
    tree = TREES[name](tmp_path)
    change_split(tree, tmp_path, lambda split: split["val"].append([climbing, 0, NAMES[0]]))
    with pytest.raises(InputError, match=r"must stay inside the image folder.*secret"):
        load(tree, tmp_path)


def test_cars_whose_annotations_climb_out_are_refused(tmp_path):
    tree = TREES["StanfordCars"](tmp_path)
    rows = np.array([[(1, "../../secret.jpg")]], dtype=[("class", "O"), ("fname", "O")])
    savemat(tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(InputError, match=r"must stay inside the image folder.*cars_test/\.\./\.\./secret"):
        datasets.load(tree.name, tmp_path)


def append(path, line):
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("FGVCAircraft", "fgvc_aircraft/images_variant_test.txt", "../../secret owl"),
        ("OxfordPets", "oxford_pets/annotations/test.txt", "../../secret/Abyssinian_1 1 1 1"),
        ("SUN397", "sun397/ClassName.txt", "/../../secret"),
        ("UCF101", "ucf101/ucfTrainTestlist/testlist01.txt", "Archery/../../../secret.avi"),
        ("csv", "birds and more/list.csv", '"../secret.png","owl","test"'),
        ("csv", "birds and more/list.csv", '"/etc/secret.png","owl","test"'),
        ("csv", "birds and more/list.csv", '"C:\\secret.png","owl","test"'),
        ("csv", "birds and more/list.csv", '"..\\secret.png","owl","test"'),
    ],
)
def test_a_path_that_climbs_out_of_the_images_is_refused(tmp_path, name, file, line):
    tree = TREES[name](tmp_path)
    append(tmp_path / file, line)
    if name == "SUN397":
        append(tmp_path / "sun397" / "Testing_01.txt", "/../../secret/image.jpg")
    with pytest.raises(InputError, match=r"must stay inside the image folder.*secret"):
        datasets.load(tree.name, tmp_path)


@pytest.mark.parametrize(
    "name", ["folder:../pets", "folder:/etc", "folder:", "table:../list.csv", "table:a/../../b.csv"]
)
def test_a_name_that_climbs_out_of_the_root_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"must stay below task\.root"):
        datasets.load(name, tmp_path)


def test_cars_whose_class_numbers_do_not_fit_are_refused(tmp_path):
    tree = TREES["StanfordCars"](tmp_path)
    titles = np.array([["A 2000", "B 2001"]], dtype="O")
    savemat(tmp_path / "stanford_cars" / "devkit" / "cars_meta.mat", {"class_names": titles})
    with pytest.raises(InputError, match="from 1 to 2"):
        datasets.load(tree.name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("ImageNetA", "imagenet-adversarial/classnames.txt", ["n01 a"], "no name for n02, n03"),
        ("ImageNetV2", "imagenetv2/classnames.txt", ["n1 a", "n2 b"], "numbers from 0 to 1.*10, 11"),
        ("OxfordPets", "oxford_pets/annotations/test.txt", ["Bengal_1 3"], "four fields"),
        ("OxfordPets", "oxford_pets/annotations/test.txt", ["Bengal_1 9 1 1"], "without a gap"),
        ("FGVCAircraft", "fgvc_aircraft/variants.txt", ["owl"], "known class.*Boeing 737"),
        ("OxfordFlowers", "oxford_flowers/cat_to_name.json", ['{"1": "rose"}'], "no name for 2, 3"),
        ("OxfordFlowers", "oxford_flowers/cat_to_name.json", ["[]"], "must map class numbers"),
        ("OxfordFlowers", "oxford_flowers/imagelabels.mat", ["no mat"], "MATLAB file with the variable labels"),
        ("csv", "birds and more/list.csv", ["file,class", "a.png,owl"], "columns path and class.*file, class"),
        ("csv", "birds and more/list.csv", ["path,class,split", "a.png,owl,mine"], "train, val or test.*mine"),
        ("csv", "birds and more/list.csv", ["path,class,split", "a.png,,test"], "every row must have a class.*rows 1"),
        ("csv", "birds and more/list.csv", ["path,class"], "every row must have a path.*no row"),
        (
            "csv",
            "birds and more/list.csv",
            ["path,class,split", "a,b,val", "a,b,test", "c,d,val"],
            "in one list only.*a",
        ),
        ("parquet", "birds and more/list.parquet", ["no parquet"], "must be a CSV or Parquet file"),
    ],
)
def test_what_is_wrong_with_a_data_sets_files_is_said(tmp_path, name, file, content, message):
    tree = TREES[name](tmp_path)
    write(tmp_path / file, content)
    with pytest.raises(InputError, match=message) as caught:
        datasets.load(tree.name, tmp_path)
    assert str(tmp_path / file.split("/")[0]) in caught.value.file


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("ImageNet", "imagenet/images/val/n01"),
        ("ImageNetR", "imagenet-rendition/classnames.txt"),
        ("OxfordFlowers", "oxford_flowers/imagelabels.mat"),
        ("EuroSAT", "eurosat"),
        ("csv", "birds and more/list.csv"),
        ("folder", "my things"),
    ],
)
def test_absent_parts_of_a_data_set_are_named(tmp_path, name, gone):
    tree = TREES[name](tmp_path)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=r"must (exist|have the same class folders)") as caught:
        datasets.load(tree.name, tmp_path)
    split = datasets.find(tree.name).split
    assert split in (caught.value.remedy or "")


def test_a_class_too_small_for_three_lists_is_refused_with_its_number(tmp_path):
    for name, count in (("owl", 3), ("wren", 4)):
        for index in range(count):
            put(tmp_path / "birds" / name / f"{index}.png")
    with pytest.raises(InputError, match=r"needs 4 images; those with fewer, got owl \(3\)"):
        datasets.load("folder:birds", tmp_path)


def test_a_further_class_moves_no_image_of_another(tmp_path):
    tree = TREES["folder"](tmp_path)
    before = load(tree, tmp_path)
    for index in range(4):
        put(tmp_path / "my things" / "vögel" / "aa" / f"{index}.png")
    after = load(tree, tmp_path)
    assert after.classes == ("aa", *NAMES)
    assert [Item(item.path, item.label - 1) for item in after.test if item.label] == list(before.test)


def test_a_split_file_goes_before_the_fall_back(tmp_path):
    fallen_back = load(TREES["OxfordPets"](tmp_path), tmp_path)
    shutil.rmtree(tmp_path / "oxford_pets")
    by_split = load(TREES["OxfordPets by its split"](tmp_path), tmp_path)
    assert (len(fallen_back.train), len(by_split.train)) == (26, 22)


def test_any_folder_can_be_encoded_and_cached(tmp_path, backbone):
    tree = TREES["folder"](tmp_path / "root")
    found = load(tree, tmp_path / "root")
    features = FeatureCache(tmp_path / "cache", backbone).fixed(found, found.test)
    assert features.shape == (13, 32)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 1


def test_a_data_set_that_only_tests_is_not_trained_on(tmp_path, backbone):
    found = load(TREES["ImageNetA"](tmp_path), tmp_path)
    laboratory = Laboratory(Task(dataset="ImageNetA"), backbone, found, FeatureCache(tmp_path / "cache", backbone))
    with pytest.raises(InputError, match="images to train on, got ImageNetA, which has test images only"):
        laboratory.episodes("test", [1])


@pytest.mark.parametrize(
    ("name", "template", "prefix"),
    [
        ("OxfordPets", "a photo of a {}, a type of pet.", "a type of pet, a photo of a {}."),
        ("OxfordFlowers", "a photo of a {}, a type of flower.", "a type of flower, a photo of a {}."),
        ("FGVCAircraft", "a photo of a {}, a type of aircraft.", "a type of aircraft, a photo of a {}."),
        ("DescribableTextures", "{} texture.", "a texture of {}."),
        ("EuroSAT", "a centered satellite photo of {}.", ""),
        ("Food101", "a photo of {}, a type of food.", "a type of food, a photo of {}."),
        ("UCF101", "a photo of a person doing {}.", ""),
        *(
            (name, "a photo of a {}.", "")
            for name in ("StanfordCars", "SUN397", "Caltech101", "ImageNet", "ImageNetV2")
        ),
        ("folder:anything", "a photo of a {}.", ""),
    ],
)
def test_templates_are_those_of_the_field(name, template, prefix):
    assert datasets.template_of(name) == template
    assert datasets.find(name).prefix_template == prefix


def test_the_check_finds_what_is_below_a_root(tmp_path):
    for name in ("ImageNetA", "EuroSAT by its split", "SUN397"):
        TREES[name](tmp_path)
    names = inspect.check_names(None, tmp_path)
    assert names == ["SUN397", "EuroSAT", "ImageNetA"]
    sun, eurosat, _ = (inspect.examine(tmp_path, name) for name in names)
    assert (sun.classes, sun.images) == (5, {"train": 26, "val": 5, "test": 13})
    assert "split_zhou_SUN397.json is absent" in sun.notes[0]
    assert eurosat.notes == ("published: 10 classes, train 13500, val 5400, test 8100",)
    with pytest.raises(InputError, match=r"(?s)no data set lies below the root.*folder:NAME.*table:FILE"):
        inspect.check_names(None, tmp_path / "eurosat" / "2750" / NAMES[0])
    with pytest.raises(InputError, match="folder that holds all data sets"):
        inspect.check_names(None, tmp_path / "nowhere")


def test_an_image_in_two_lists_is_a_problem(tmp_path):
    TREES["EuroSAT by its split"](tmp_path)
    path = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    path.write_text(path.read_text(encoding="utf-8").replace("/val 0.png", "/test 0.png"), encoding="utf-8")
    finding = inspect.examine(tmp_path, "EuroSAT")
    assert not finding.ok
    assert "one list only; 5 of 13 of the list test are also in val" in finding.problem


def test_progress_counts_the_images_that_were_opened(tmp_path):
    TREES["EuroSAT by its split"](tmp_path)
    seen = []
    inspect.examine(tmp_path, "EuroSAT", verify=True, progress=lambda *pair: seen.append(pair))
    assert seen[-1] == (44, 44)


# --- Files from other systems ------------------------------------------------------------------------------

TEXTS = {
    "OxfordPets by its split": "oxford_pets/split_zhou_OxfordPets.json",
    "ImageNetA": "imagenet-adversarial/classnames.txt",
    "FGVCAircraft": "fgvc_aircraft/variants.txt",
    "OxfordPets": "oxford_pets/annotations/trainval.txt",
    "SUN397": "sun397/ClassName.txt",
    "UCF101": "ucf101/ucfTrainTestlist/classInd.txt",
    "OxfordFlowers": "oxford_flowers/cat_to_name.json",
    "csv": "birds and more/list.csv",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_byte_order_mark_and_the_line_ends_of_windows_change_nothing(tmp_path, name):
    tree = TREES[name](tmp_path)
    before = load(tree, tmp_path)
    file = tmp_path / TEXTS[name]
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load(tree, tmp_path) == before


@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "latin-1"])
def test_text_in_another_encoding_is_refused_by_the_name_of_the_encoding(tmp_path, name, encoding):
    tree = TREES[name](tmp_path)
    file = tmp_path / TEXTS[name]
    file.write_bytes((file.read_text(encoding="utf-8") + "\n\u00e9\u00e8").encode(encoding))
    said = {"utf-16-be": "UTF-16 without a mark", "latin-1": r"byte 0x.. in line \d+, as in Windows-1252 or Latin-1"}
    with pytest.raises(InputError, match=rf"must be text in UTF-8.*, got .*{said.get(encoding, encoding.upper())}"):
        datasets.load(tree.name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("EuroSAT by its split", "eurosat/split_zhou_EuroSAT.json"),
        ("SUN397", "sun397/Training_01.txt"),
        ("SUN397", "sun397/ClassName.txt"),
        ("UCF101", "ucf101/ucfTrainTestlist/testlist01.txt"),
        ("csv", "birds and more/list.csv"),
        ("csv without split", "birds and more/list.csv"),
    ],
)
def test_paths_written_on_windows_find_their_images(tmp_path, name, file):
    tree = TREES[name](tmp_path)
    before = load(tree, tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text(encoding="utf-8").replace("/", r"\\" if path.suffix == ".json" else "\\"), "utf-8")
    assert load(tree, tmp_path) == before


def own_table(folder, form):
    """Six images of two classes, and a table of them; `form` makes its rows of texts out of (path, class, split)."""
    rows = []
    for name in ("owl", "wren"):
        for part in ("train", "val", "test"):
            put(folder / f"{name} {part}.png")
            rows.append((f"{name} {part}.png", name, part))
    write(folder / "list.csv", form(rows))


def joined(mark, first="path,class,split"):
    return lambda rows: [first.replace(",", mark), *map(mark.join, rows)]


@pytest.mark.parametrize(
    "form",
    [
        joined(";"),
        joined("\t"),
        joined("|"),
        joined(", "),
        joined(",", "Path,CLASS, Split "),
        lambda rows: ["sep=;", *joined(";")(rows)],
        lambda rows: ["notes,path,class,split", *(f'"two\nlines; here",{path},"{c}",{s}' for path, c, s in rows)],
        lambda rows: ["", *joined(",")(rows), ""],
        lambda rows: joined(",")([(path, c, {"val": "Validation", "test": "TEST"}.get(s, s)) for path, c, s in rows]),
        lambda rows: joined(",")([(path, c, {"val": "dev", "train": "training"}.get(s, s)) for path, c, s in rows]),
    ],
)
def test_a_table_is_read_as_spreadsheets_of_many_countries_and_people_write_it(tmp_path, form):
    own_table(tmp_path / "plain", joined(","))
    own_table(tmp_path / "other", form)
    plain, other = (datasets.load(f"table:{place}/list.csv", tmp_path) for place in ("plain", "other"))
    assert other.lists == plain.lists and other.classes == ("owl", "wren")
    assert inspect.check_names(None, tmp_path) == ["table:other/list.csv", "table:plain/list.csv"]


@pytest.mark.parametrize("value", ["1", "001", "NA", "null", "true", "1e3", "2020-01-01"])
def test_a_class_that_looks_like_a_value_is_the_text_that_stands_there(tmp_path, value):
    own_table(tmp_path, lambda rows: joined(";")([(path, c.replace("owl", value), s) for path, c, s in rows]))
    assert datasets.load("table:list.csv", tmp_path).classes == tuple(sorted((value, "wren")))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (joined(",", "file_name,label,split"), r"(?s)got file_name, label, split.*Rename columns in its first row"),
        (lambda rows: ["path,class", "a.png,owl,train"], r"(?s)Expected 2 columns, got 3.*Save it as CSV in UTF-8"),
        (lambda rows: joined(",")([(rf"C:\\data\\{p}", c, s) for p, c, s in rows]), r"(?s)C:.*Write them relative to"),
        (
            lambda rows: joined(",")([(f"/data/{p}", c, s) for p, c, s in rows]),
            r"(?s)and 3 more.*Write them relative to",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_what_to_do(tmp_path, form, message):
    own_table(tmp_path, form)
    with pytest.raises(InputError, match=message):
        datasets.load("table:list.csv", tmp_path)


LATIN = os.fsdecode("Küche".encode("latin-1"))
"""A name as an archive from Windows leaves it: no UTF-8, which Python shows as halves of characters."""


@pytest.mark.parametrize("name", [f"mine/owl/{LATIN}.png", f"mine/{LATIN}/0.png"])
def test_names_in_another_encoding_are_refused_with_the_command_that_mends_them(tmp_path, name):
    in_lists(tmp_path, mine={"owl": 5, "wren": 5})
    for number in range(5):
        put(tmp_path / name.replace("0.png", f"{number}.png"))
    with pytest.raises(InputError, match=r"(?s)must be in UTF-8, got .*K\\udcfcche.*convmv -r -f latin1 -t utf8"):
        datasets.load("folder:mine", tmp_path)
    assert "must be in UTF-8" in inspect.examine(tmp_path, "folder:mine").problem


def test_a_root_in_another_encoding_is_refused(tmp_path):
    in_lists(tmp_path / LATIN, mine={"owl": 5, "wren": 5})
    with pytest.raises(InputError, match=r"(?s)a path must be in UTF-8.*convmv"):
        datasets.load("folder:mine", tmp_path / LATIN)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["a.png\0", 0, "owl"], "must be in UTF-8, got a.png"),
        (["a.png", 0, "owl\ud800"], "must be in UTF-8, got owl"),
        ([None, 0, "owl"], r"got entry 1 of train: \[None, 0, 'owl'\]"),
        (["a.png", 0, None], r"got entry 1 of train: \['a.png', 0, None\]"),
        (["a.png", 0.5, "owl"], r"got entry 1 of train: \['a.png', 0.5, 'owl'\]"),
        (["a.png", True, "owl"], "got entry 1 of train"),
        (["a.png", 0], r"got entry 1 of train: \['a.png', 0\]"),
        ({"path": "a.png", "label": 0, "name": "owl"}, "got entry 1 of train: {'path': 'a.png'"),
        (["x" * 900, "no", "owl"], r"got entry 1 of train: \['x+\.\.\."),
    ],
)
def test_an_entry_of_a_split_file_that_is_none_is_named(tmp_path, entry, message):
    split = {"train": [entry], "val": [["b.png", 1, "wren"]], "test": []}
    write(tmp_path / "eurosat" / "split_zhou_EuroSAT.json", [json.dumps(split)])
    with pytest.raises(InputError, match=message):
        datasets.read("EuroSAT", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [], "annotations": []}, "no list train and no list val and no list test; there are 'images', 'an"),
        ({"train": [], "test": []}, "no list val; there are 'train', 'test'"),
        ({"train": [], "val": {}, "test": []}, "no list val"),
        ([["a.png", 0, "owl"]], "no list train"),
    ],
)
def test_json_of_another_form_is_no_split(tmp_path, content, message):
    write(tmp_path / "eurosat" / "split_zhou_EuroSAT.json", [json.dumps(content)])
    with pytest.raises(InputError, match=message):
        datasets.read("EuroSAT", tmp_path)


def test_a_file_with_a_backslash_in_its_name_keeps_it(tmp_path):
    rows = ["path,class,split"]
    for name in ("owl", "wren"):
        for part in ("train", "val", "test"):
            put(tmp_path / f"{name}\\{part}.png")
            rows.append(f"{name}\\{part}.png,{name},{part}")
    write(tmp_path / "list.csv", rows)
    assert datasets.load("table:list.csv", tmp_path).train[0].path == "owl\\train.png"


@pytest.mark.parametrize("name", FOLDERS)
def test_what_systems_put_beside_the_images_is_neither_class_nor_image(tmp_path, name):
    tree = TREES[name](tmp_path)
    before = load(tree, tmp_path)
    layout = datasets.find(tree.name)
    images = tmp_path / layout.folder / layout.images
    for folder in [images, *(path for path in images.rglob("*") if path.is_dir())]:
        for other in (
            "__MACOSX",
            "@Recycle",
            "@eaDir",
            ".ipynb_checkpoints",
            "$RECYCLE.BIN",
            "lost+found",
            "System Volume Information",
        ):
            put(folder / other / "._1.png")
            put(folder / other / "1.jpg")
        for file in (".DS_Store", "Thumbs.db", "Icon\r", "1.jpg:Zone.Identifier", "._1.jpg", ".hidden.png"):
            put(folder / file)
    assert load(tree, tmp_path) == before


def in_lists(images, **classes):
    """LIST/CLASS/N.png, for each list so many images of each class."""
    for part, counts in classes.items():
        for name, count in counts.items():
            for number in range(count):
                put(images / part / name / f"{number}.png")


@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("valid", "test"), ("Validation", "Testing")])
def test_a_folder_for_each_list_is_read_as_the_split(tmp_path, val, test):
    in_lists(
        tmp_path / "mine", train={"owl": 3, "wren": 2}, **{val: {"owl": 2, "wren": 1}, test: {"owl": 1, "wren": 4}}
    )
    put(tmp_path / "mine" / "__MACOSX" / "train" / "owl" / "._0.png")
    found = datasets.load("folder:mine", tmp_path)
    assert found.classes == ("owl", "wren")
    assert {key: len(items) for key, items in found.lists.items()} == {"train": 5, "val": 3, "test": 5}
    assert found.val[-1] == Item(f"{val}/wren/0.png", 1)


def test_without_a_folder_for_validation_some_of_train_are_held_out_and_that_is_said(tmp_path):
    in_lists(tmp_path / "mine", train={"owl": 10, "wren": 2}, test={"owl": 1, "wren": 4})
    with pytest.warns(FreshSplitWarning, match="no validation images, and a fifth of each class of train is held out"):
        found = datasets.load("folder:mine", tmp_path)
    assert [len(items) for items in found.lists.values()] == [9, 3, 5]
    assert {item.path for item in (*found.train, *found.val)} == {
        f"train/{name}/{number}.png" for name, count in (("owl", 10), ("wren", 2)) for number in range(count)
    }


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ("owl", "wren")}, r"(?s)there must be a folder test.*gcsearch divides them itself"),
        ({"train": ("owl", "wren"), "val": ("owl", "wren")}, r"(?s)there must be a folder test.*rename it to test"),
        ({"train": ("owl", "wren"), "test": ("owl",)}, "the same class folders, got no wren in test"),
        ({"train": ("owl",), "val": ("owl", "wren"), "test": ("owl",)}, "the same class folders, got no wren in train"),
        ({"train": ("owl",), "test": ("owl",), "val": ("owl",), "valid": ("owl",)}, "one folder, got val and valid"),
        ({"train": ("owl",), "test": ("owl",), "labels": ("owl",)}, "must be no other folder, got labels"),
        ({"train": ("owl",), "test": ()}, "got no owl in test"),
        ({"train": ("owl",), "test": (".",)}, r"(?s)images and no folder in test.*Sort them into class folders"),
    ],
)
def test_folders_for_lists_that_do_not_fit_are_refused_by_name(tmp_path, lists, message):
    for part, names in lists.items():
        (tmp_path / "mine" / part).mkdir(parents=True)
        in_lists(tmp_path / "mine", **{part: dict.fromkeys(names, 5)})
    with pytest.raises(InputError, match=message):
        datasets.load("folder:mine", tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            ["owl.0.png", "wren.0.png"],
            r"(?s)no folder in it, and images beside.*into a folder of",
        ),
        (["data/owl/0.png", "data/wren/0.png"], r"(?s)no image in data\..*class folders in .*/mine/data: name"),
        (["owl/images/0.png", "wren/images/0.png"], r"(?s)no image in owl, wren\..*mine/owl/images: move them up into"),
        (["owl/0.heic"], r"(?s)no image in owl\..*Complete the download"),
    ],
)
@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.folders.SkippedFilesWarning")
def test_where_no_folder_has_images_it_is_said_where_they_are(tmp_path, images, message):
    for image in images:
        put(tmp_path / "mine" / image)
    with pytest.raises(InputError, match=message):
        datasets.load("folder:mine", tmp_path)


@pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning")
def test_a_class_of_trains_is_no_list(tmp_path):
    for name in ("train", "test", "bus"):
        in_lists(tmp_path, mine={name: 5})
    assert datasets.load("folder:mine", tmp_path).classes == ("bus", "test", "train")


def test_a_link_that_leads_to_itself_or_nowhere_is_named(tmp_path):
    in_lists(tmp_path, mine={"owl": 5, "wren": 5})
    (tmp_path / "mine" / "tit").symlink_to("tit")
    (tmp_path / "mine" / "jay").symlink_to("gone")
    with pytest.raises(InputError, match="must lead to a file or folder, and not to itself, got jay, tit"):
        datasets.load("folder:mine", tmp_path)


def test_a_table_with_a_doubled_column_is_refused_by_its_name(tmp_path):
    TREES["csv"](tmp_path)
    write(tmp_path / "birds and more" / "list.csv", ["path,class,class", "a.png,owl,owl"])
    with pytest.raises(InputError, match="a table has one column class, got path, class, class"):
        datasets.load("table:birds and more/list.csv", tmp_path)


def test_the_check_finds_peoples_own_folders_and_tables(tmp_path):
    in_lists(tmp_path, mine={"owl": 5, "wren": 5}, one={"owl": 5}, empty={"owl": 0})
    in_lists(tmp_path / "split", train={"owl": 3, "wren": 3}, test={"owl": 3, "wren": 3})
    in_lists(tmp_path / "archive", archive={"owl": 5, "wren": 5})
    put(tmp_path / "__MACOSX" / "owl" / "1.png")
    put(tmp_path / "__MACOSX" / "wren" / "1.png")
    write(tmp_path / "list.csv", ["\ufeffpath,class", "mine/owl/0.png,owl"])
    write(tmp_path / "one" / "notes.csv", ["date,text", "today,nothing"])
    assert inspect.check_names(None, tmp_path) == [
        "folder:archive/archive",
        "folder:mine",
        "folder:split",
        "table:list.csv",
    ]
    assert inspect.check_names(["folder:one"], tmp_path) == ["folder:one"]
    with pytest.raises(InputError, match=rf"(?s)folder per class itself.*{tmp_path} --dataset folder:mine"):
        inspect.check_names(None, tmp_path / "mine")


@pytest.mark.parametrize(
    "there", ["KÜCHE/one.png", "Ku\u0308che/One.png", "küche/ONE.PNG", "Küche/One.jpeg", "One.png"]
)
def test_a_file_that_another_system_calls_otherwise_is_named_as_it_is(tmp_path, there):
    write(tmp_path / "list.csv", ["path,class,split", "Küche/One.png,a,train", "b.png,b,test"])
    put(tmp_path / there)
    put(tmp_path / "b.png")
    with pytest.raises(InputError, match="1 of 2 are missing") as caught:
        datasets.load("table:list.csv", tmp_path)
    assert f"'Küche/One.png' is there as {there!r}" in caught.value.remedy
    assert any(f"is there as {there!r}" in note for note in inspect.examine(tmp_path, "table:list.csv").notes)


def test_an_image_that_is_listed_without_its_ending_is_named_with_it(tmp_path):
    own_table(tmp_path, lambda rows: joined(",")([(path.removesuffix(".png"), c, s) for path, c, s in rows]))
    with pytest.raises(InputError, match=r"(?s)6 of 6 are missing.*'owl test' is there as 'owl test.png'"):
        datasets.load("table:list.csv", tmp_path)


def test_a_link_to_an_image_that_was_not_fetched_is_called_that(tmp_path):
    own_table(tmp_path, joined(","))
    (tmp_path / "owl test.png").unlink()
    (tmp_path / "owl test.png").symlink_to(".git/annex/objects/owl")
    with pytest.raises(InputError, match=r"(?s)1 of 6 are missing.*'owl test.png' is a link that leads nowhere"):
        datasets.load("table:list.csv", tmp_path)


def test_the_check_says_which_list_has_no_image_of_a_class(tmp_path):
    own_table(tmp_path, lambda rows: joined(",")([row for row in rows if row[1:] != ("wren", "val")]))
    found = inspect.examine(tmp_path, "table:list.csv")
    assert found.ok and "val has no image of 1 of 2 classes (wren)" in found.notes


def test_the_command_for_a_folder_of_classes_survives_the_shell(tmp_path):
    for name in "ab":
        put(tmp_path / "my birds" / "it's" / name / "1.png")
    with pytest.raises(InputError) as refused:
        inspect.check_names(None, tmp_path / "my birds" / "it's")
    command = (refused.value.remedy or "").partition(": ")[2].removesuffix(".")
    assert shlex.split(command)[3:] == [str(tmp_path / "my birds"), "--dataset", "folder:it's"]


def test_folders_of_torchvision_are_found_by_name_and_are_nobodys_own(tmp_path):
    TREES["OxfordPets of torchvision"](tmp_path)
    TREES["DescribableTextures of torchvision"](tmp_path)
    assert inspect.check_names(None, tmp_path) == ["OxfordPets", "DescribableTextures"]
    assert inspect.examine(tmp_path, "OxfordPets").folder == str(tmp_path / "oxford-iiit-pet")
    assert inspect.own(tmp_path) == []


def test_the_folders_of_coop_come_before_those_of_torchvision(tmp_path):
    TREES["OxfordPets of torchvision"](tmp_path)
    TREES["OxfordPets"](tmp_path)
    with pytest.warns(FreshSplitWarning):
        assert datasets.load("OxfordPets", tmp_path).images == tmp_path / "oxford_pets" / "images"


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("EuroSAT", "gcsearch drew a fresh split"),
        ("DescribableTextures of torchvision", "the lists are those of the data set's authors, numbers"),
        ("Food101 of torchvision", "the lists are those of .* authors, a fifth of each class of train held out as val"),
    ],
)
def test_the_warning_says_whose_lists_these_are(tmp_path, name, lists):
    tree = TREES[name](tmp_path)
    with pytest.warns(FreshSplitWarning, match=f"split_zhou_.* is absent; {lists}"):
        datasets.load(tree.name, tmp_path)


def test_a_split_file_is_read_in_torchvisions_folder_too(tmp_path):
    TREES["OxfordPets by its split"](tmp_path)
    (tmp_path / "oxford_pets").rename(tmp_path / "oxford-iiit-pet")
    assert datasets.load("OxfordPets", tmp_path).classes == NAMES


def test_a_damaged_list_of_a_loader_is_named(tmp_path):
    TREES["Food101 of torchvision"](tmp_path)
    write(tmp_path / "food-101" / "meta" / "test.json", ["[1]"])
    with pytest.raises(InputError, match=r"meta/test.json: .* must map classes to lists of images"):
        datasets.read("Food101", tmp_path)
