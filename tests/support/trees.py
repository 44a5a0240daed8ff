"""Small image trees of real JPEG and PNG files, one in each layout that gcsearch reads."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import csv, parquet
from scipy.io import savemat

from gcsearch.data import datasets
from gcsearch.data.layouts.torchvision import FOLDERS

NAMES = ("große_Küche", "naïve café", "owl", "tiny yellow cat", "wren")
"""Class names as people write them; the last class has few images."""

SPLIT = {"train": (5, 5, 5, 5, 2), "val": (2, 2, 2, 2, 1), "test": (3, 3, 3, 3, 1)}
TEST_ONLY = {"train": 0, "val": 0, "test": 13}
OFFICIAL = {"train": 22, "val": 9, "test": 13}  # also what 50/20/30 makes of 10 and 4 images
WITH_VAL = {"train": 26, "val": 5, "test": 13}  # a fifth of 7 and 3 images, the test list as it is


@dataclass(frozen=True)
class Tree:
    """What a reader has to find."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    truth: dict[str, str]
    """Path to class name."""
    test: frozenset[str] | None = None
    """The official test images, where the layout has them."""
    fresh: bool = False


def _bytes(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


JPEG, PNG = _bytes("JPEG"), _bytes("PNG")


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # What follows the end of an image is not read: so no two files are the same.
    path.write_bytes((PNG if path.suffix == ".png" else JPEG) + crc32(os.fsencode(path)).to_bytes(4))


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def entries():
    """(label, part, index) of every image."""
    for part, counts in SPLIT.items():
        for label, count in enumerate(counts):
            for index in range(count):
                yield label, part, index


def folders(images: Path, keys, classes, ending: str = "") -> dict[str, str]:
    """A folder per class; path to class name."""
    truth = {}
    for label, part, index in entries():
        path = f"{keys[label]}/{part} {index}{ending or ('.JPEG' if index % 2 else '.png')}"
        put(images / path)
        truth[path] = classes[label]
    return truth


def split_json(name: str) -> Callable[[Path], Tree]:
    def make(root: Path) -> Tree:
        layout = datasets.DATASETS[name]
        folder = root / layout.folder
        truth = folders(folder / layout.images, [n.replace(" ", "_") for n in NAMES], NAMES)
        label = {n: index for index, n in enumerate(NAMES)}
        rows = {
            part: [[p, label[c], c] for p, c in truth.items() if p.split("/")[1].startswith(part)] for part in SPLIT
        }
        (folder / layout.split).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return Tree(name, NAMES, OFFICIAL, truth, frozenset(p for p, _, _ in rows["test"]))

    return make


def class_folders(name: str, keys=NAMES, classes=NAMES, left_out=(), files: str = "") -> Callable[[Path], Tree]:
    def make(root: Path) -> Tree:
        layout = datasets.find(name)
        images = root / layout.folder / layout.images
        truth = folders(images, keys, classes, files)
        write(images / keys[0] / "notes.txt", ["no image"])
        for folder in left_out:
            put(images / folder / "x.jpg")
        return Tree(name, tuple(classes), OFFICIAL, truth, fresh=True)

    return make


WNIDS = tuple(f"n0{number}" for number in (1, 2, 3, 5, 8))


def imagenet(root: Path) -> Tree:
    folder = root / "imagenet"
    write(folder / "classnames.txt", [f"{w} {n}" for w, n in zip(WNIDS, NAMES, strict=True)])
    truth = {}
    for label, part, index in entries():
        path = f"{'val' if part == 'test' else 'train'}/{WNIDS[label]}/{part}{index}.JPEG"
        put(folder / "images" / path)
        truth[path] = NAMES[label]
    return Tree("ImageNet", NAMES, WITH_VAL, truth, frozenset(p for p in truth if p.startswith("val/")))


def variant(name: str) -> Callable[[Path], Tree]:
    """Sketch, A and R: their folders are some of the wnids that classnames.txt has."""

    def make(root: Path) -> Tree:
        layout = datasets.DATASETS[name]
        names = dict(zip(("n00", *WNIDS), ("absent", *NAMES), strict=True))
        write(root / layout.folder / "classnames.txt", [f"{w} {n}" for w, n in names.items()])
        images = root / layout.folder / layout.images
        truth = {}
        for label, part, index in entries():
            if part == "test":
                path = f"{WNIDS[label]}/{index}.jpg"
                put(images / path)
                truth[path] = NAMES[label]
        write(images / "README.txt", ["no image"])
        return Tree(name, NAMES, TEST_ONLY, truth, frozenset(truth))

    return make


def imagenet_v2(root: Path) -> Tree:
    layout = datasets.DATASETS["ImageNetV2"]
    names = [*NAMES, *(f"class {index}" for index in range(5, 12))]  # "10" sorts before "2" as text
    wnids = [f"n{90 - label}" for label in range(12)]  # not sorted: the line counts
    write(root / layout.folder / "classnames.txt", [f"{w} {n}" for w, n in zip(wnids, names, strict=True)])
    truth = {f"{label}/{index}.jpeg": name for label, name in enumerate(names) for index in range(2)}
    for path in truth:
        put(root / layout.folder / layout.images / path)
    return Tree("ImageNetV2", tuple(names), {"train": 0, "val": 0, "test": 24}, truth, frozenset(truth))


def aircraft(root: Path) -> Tree:
    folder, truth = root / "fgvc_aircraft", {}
    names = ("Boeing 737", "A 300_Größe", *NAMES[2:])  # in the file's order, not sorted
    lines: dict[str, list[str]] = {part: [] for part in SPLIT}
    for label, part, _ in entries():
        image = f"{len(truth):07d}"
        put(folder / "images" / f"{image}.jpg")
        truth[f"{image}.jpg"] = names[label]
        lines[part].append(f"{image} {names[label]}")
    for part, some in lines.items():
        write(folder / f"images_variant_{part}.txt", some)
    write(folder / "variants.txt", list(names))
    test = frozenset(f"{line.split()[0]}.jpg" for line in lines["test"])
    return Tree("FGVCAircraft", names, OFFICIAL, truth, test)


def _two_lists(truth_of, prefix: str = ""):
    """Truth, and the image keys of trainval and test."""
    truth, lists = {}, {"trainval": [], "test": []}
    for label, part, index in entries():
        path, name = truth_of(label, part, index)
        truth[prefix + path] = name
        lists["test" if part == "test" else "trainval"].append((path, label))
    return truth, lists


def pets(root: Path) -> Tree:
    folder = root / "oxford_pets"
    stems = ("Abyssinian", "american_bulldog", "Bärenhund", "scottish_terrier", "yorkshire_terrier")
    names = tuple(stem.lower() for stem in stems)
    serial = {"train": 0, "val": 100, "test": 200}
    truth, lists = _two_lists(lambda label, part, i: (f"{stems[label]}_{serial[part] + i}.jpg", names[label]))
    for path in truth:
        put(folder / "images" / path)
    for part, some in lists.items():
        write(
            folder / "annotations" / f"{part}.txt", [f"{p.removesuffix('.jpg')} {label + 1} 1 1" for p, label in some]
        )
    return Tree("OxfordPets", names, WITH_VAL, truth, frozenset(p for p, _ in lists["test"]), fresh=True)


def sun397(root: Path) -> Tree:
    folder = root / "sun397"
    keys = ("a/abbey", "a/apartment_building/outdoor", "b/bar", "b/bow_window/indoor", "k/küche")
    names = ("abbey", "outdoor apartment_building", "bar", "indoor bow_window", "küche")
    truth, lists = _two_lists(lambda label, part, i: (f"{keys[label]}/sun_{part}{i}.jpg", names[label]))
    for path in truth:
        put(folder / "SUN397" / path)
    write(folder / "ClassName.txt", [f"/{key}" for key in keys])
    for file, part in (("Training_01.txt", "trainval"), ("Testing_01.txt", "test")):
        write(folder / file, [f"/{path}" for path, _ in lists[part]])
    return Tree("SUN397", names, WITH_VAL, truth, frozenset(p for p, _ in lists["test"]), fresh=True)


def ucf101(root: Path) -> Tree:
    folder = root / "ucf101"
    actions = ("ApplyEyeMakeup", "Archery", "BabyCrawling", "YoYo", "KüchenTanz")
    names = ("Apply_Eye_Makeup", "Archery", "Baby_Crawling", "Yo_Yo", "Küchen_Tanz")
    truth, lists = _two_lists(lambda label, part, i: (f"{names[label]}/v_{actions[label]}_{part}{i}.jpg", names[label]))
    for path in truth:
        put(folder / "UCF-101-midframes" / path)
    videos = {
        part: [f"{actions[label]}/{path.split('/')[1].replace('.jpg', '.avi')}" for path, label in some]
        for part, some in lists.items()
    }
    lists_folder = folder / "ucfTrainTestlist"
    write(lists_folder / "classInd.txt", [f"{index} {action}" for index, action in enumerate(actions, start=1)])
    numbers = [label + 1 for _, label in lists["trainval"]]
    write(lists_folder / "trainlist01.txt", [f"{v} {n}" for v, n in zip(videos["trainval"], numbers, strict=True)])
    write(lists_folder / "testlist01.txt", videos["test"])
    return Tree("UCF101", names, WITH_VAL, truth, frozenset(p for p, _ in lists["test"]), fresh=True)


def flowers(root: Path) -> Tree:
    folder, truth, labels = root / "oxford_flowers", {}, []
    for label, _, _ in entries():
        labels.append(label + 1)
        path = f"image_{len(labels):05d}.jpg"
        put(folder / "jpg" / path)
        truth[path] = NAMES[label]
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    names = {str(label + 1): name for label, name in reversed(list(enumerate(NAMES)))}
    (folder / "cat_to_name.json").write_text(json.dumps(names), encoding="utf-8")
    return Tree("OxfordFlowers", NAMES, OFFICIAL, truth, fresh=True)


def cars(root: Path) -> Tree:
    folder = root / "stanford_cars"
    titles = (
        "AM General Hummer SUV 2000",
        "Acura RL Sedan 2012",
        "Škoda Fabia_RS 2011",
        "BMW M3 Coupe 2012",
        "Fiat 500 2012",
    )
    names = (
        "2000 AM General Hummer SUV",
        "2012 Acura RL Sedan",
        "2011 Škoda Fabia_RS",
        "2012 BMW M3 Coupe",
        "2012 Fiat 500",
    )
    rows: dict[str, list] = {"cars_train": [], "cars_test": []}
    truth = {}
    for label, part, _ in entries():
        place = "cars_test" if part == "test" else "cars_train"
        image = f"{len(rows[place]) + 1:05d}.jpg"
        put(folder / place / image)
        truth[f"{place}/{image}"] = names[label]
        rows[place].append((label + 1, image))
    (folder / "devkit").mkdir()
    kinds = [("class", "O"), ("fname", "O")]
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": _struct(rows["cars_train"], kinds)})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": _struct(rows["cars_test"], kinds)})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([titles], dtype="O")})
    return Tree("StanfordCars", names, WITH_VAL, truth, frozenset(p for p in truth if "test" in p), fresh=True)


def _struct(rows: list, kinds: list) -> np.ndarray:
    """A 1 x n struct array, as MATLAB stores annotations."""
    return np.array([tuple(row) for row in rows], dtype=kinds)[None, :]


def table(file: str, *, split: bool) -> Callable[[Path], Tree]:
    def make(root: Path) -> Tree:
        truth = folders(root / "birds and more", [f"ä {index}" for index in range(5)], NAMES)
        columns = {"path": list(truth), "class": list(truth.values())}
        if split:
            columns["split"] = [path.split("/")[1].split()[0] for path in truth]
        path = root / "birds and more" / file
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(pa.table(columns), path)
        test = frozenset(p for p in truth if "/test" in p) if split else None
        name = f"table:birds and more/{file}"
        return Tree(name, tuple(sorted(NAMES)), OFFICIAL, truth, test, fresh=not split)

    return make


def by_torchvision(make: Callable[[Path], Tree]) -> Callable[[Path], Tree]:
    """The same tree with the folders of torchvision's loader; without what its archives do not hold."""

    def moved(root: Path) -> Tree:
        tree = make(root)
        layout, place = datasets.DATASETS[tree.name], FOLDERS[tree.name]
        (root / layout.folder).rename(root / ".aside")
        (root / place.folder).parent.mkdir(parents=True, exist_ok=True)
        (root / ".aside").rename(root / place.folder)
        if not place.images:  # the images lie in the folder itself
            former = root / place.folder / layout.images
            for path in list(former.iterdir()):
                path.rename(root / place.folder / path.name)
            former.rmdir()
        return tree

    return moved


def sun397_images(root: Path) -> Tree:
    """The archive of the images alone."""
    tree = sun397(root)
    for file in ("Training_01.txt", "Testing_01.txt"):
        (root / "sun397" / file).unlink()
    return replace(tree, counts=OFFICIAL, test=None)


def _official(tree: Tree) -> dict[str, list[str]]:
    """The images of a tree by the list that their file names tell."""
    return {part: [path for path in tree.truth if path.split("/")[1].startswith(part)] for part in SPLIT}


def food101(root: Path) -> Tree:
    tree, meta = class_folders("Food101", files=".jpg")(root), root / "food-101" / "meta"
    lists, by_class = _official(tree), {}
    for part, images in (("train", [*lists["train"], *lists["val"]]), ("test", lists["test"])):
        by_class[part] = {name: [p.removesuffix(".jpg") for p in images if p.split("/")[0] == name] for name in NAMES}
        write(meta / f"{part}.json", [json.dumps(by_class[part])])
    return replace(tree, counts=WITH_VAL, test=frozenset(lists["test"]))


def textures(root: Path) -> Tree:
    tree = class_folders("DescribableTextures")(root)
    lists = _official(tree)
    for part, images in lists.items():
        write(root / "dtd" / "labels" / f"{part}1.txt", images)
    return replace(tree, test=frozenset(lists["test"]))


FLOWERS = ("pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold")
"""The first of the names that torchvision has for the numbers of Oxford's flowers."""


def flowers_official(root: Path) -> Tree:
    """With the official lists, and without the names that CoOp's page offers."""
    tree, folder = flowers(root), root / "oxford_flowers"
    (folder / "cat_to_name.json").unlink()
    indices: dict[str, list[int]] = {part: [] for part in SPLIT}
    for index, (_, part, _) in enumerate(entries(), start=1):
        indices[part].append(index)
    variables = {"trnid": indices["train"], "valid": indices["val"], "tstid": indices["test"]}
    savemat(folder / "setid.mat", {name: np.array([numbers]) for name, numbers in variables.items()})
    truth = {path: FLOWERS[NAMES.index(name)] for path, name in tree.truth.items()}
    return replace(tree, classes=FLOWERS, truth=truth, test=frozenset(f"image_{i:05d}.jpg" for i in indices["test"]))


_WITH_JSON = [name for name, layout in datasets.DATASETS.items() if layout.split and layout.published]
_CALTECH = ("Faces", "Leopards", "Motorbikes", "airplanes", "wild cät_fish")
_EUROSAT = ("AnnualCrop", "Forest", "Grüner_Fluss am Meer", "Highway", "SeaLake")
_EUROSAT_NAMES = ("Annual Crop Land", "Forest", "Grüner_Fluss am Meer", "Highway or Road", "Sea or Lake")

_caltech = class_folders(
    "Caltech101",
    _CALTECH,
    ("face", "leopard", "motorbike", "airplane", "wild cät_fish"),
    ("BACKGROUND_Google", "Faces_easy"),
)

TREES: dict[str, Callable[[Path], Tree]] = {
    **{f"{name} by its split": split_json(name) for name in _WITH_JSON},
    "ImageNet": imagenet,
    "FGVCAircraft": aircraft,
    "ImageNetV2": imagenet_v2,
    "ImageNetSketch": variant("ImageNetSketch"),
    "ImageNetA": variant("ImageNetA"),
    "ImageNetR": variant("ImageNetR"),
    "Caltech101": _caltech,
    "Food101": class_folders("Food101"),
    "DescribableTextures": class_folders("DescribableTextures"),
    "EuroSAT": class_folders("EuroSAT", _EUROSAT, _EUROSAT_NAMES),
    "OxfordFlowers": flowers,
    "StanfordCars": cars,
    "OxfordPets": pets,
    "SUN397": sun397,
    "UCF101": ucf101,
    "ImageNet of torchvision": by_torchvision(imagenet),
    "Caltech101 of torchvision": by_torchvision(_caltech),
    "OxfordPets of torchvision": by_torchvision(pets),
    "OxfordFlowers of torchvision": by_torchvision(flowers_official),
    "Food101 of torchvision": food101,
    "FGVCAircraft of torchvision": by_torchvision(aircraft),
    "SUN397 of torchvision": by_torchvision(sun397_images),
    "DescribableTextures of torchvision": by_torchvision(textures),
    "folder": class_folders("folder:my things/vögel"),
    "csv": table("list.csv", split=True),
    "csv without split": table("list.csv", split=False),
    "parquet": table("list.parquet", split=True),
}
