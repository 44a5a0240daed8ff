"""Public data sets: fetched by torchvision's loaders where these can, and for the others what to put where.

A data set is fetched into a hidden folder beside its place and appears whole: whatever goes wrong on the way leaves
nothing behind. torchvision knows addresses and checksums; it cannot go on with half a file.
"""

from __future__ import annotations

import errno
import math
import shutil
import socket
import tarfile
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

from gcsearch import files
from gcsearch.data import datasets
from gcsearch.data.datasets import DATASETS, Progress
from gcsearch.data.layouts import torchvision
from gcsearch.errors import InputError, RunError, unknown_name

COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""The page that has the field's split files, ImageNet's names and the middle frames of UCF101."""


@dataclass(frozen=True)
class Source:
    """Where a public data set comes from."""

    page: str
    """Of those who made it."""
    loader: str = ""
    """The class of `torchvision.datasets` that fetches it; empty where none can."""
    by_hand: str = ""
    """What to put where below the root, where there is no loader."""


_CLASSNAMES = "and ImageNet's classnames.txt beside"

SOURCES: dict[str, Source] = {
    "ImageNet": Source(
        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        by_hand="the images as imagenet/images/train/WNID and imagenet/images/val/WNID, and classnames.txt in imagenet",
    ),
    "Caltech101": Source("https://data.caltech.edu/records/20086", "Caltech101"),
    "OxfordPets": Source("https://www.robots.ox.ac.uk/~vgg/data/pets/", "OxfordIIITPet"),
    "StanfordCars": Source(
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        by_hand="cars_train, cars_test, devkit and cars_test_annos_withlabels.mat in stanford_cars; torchvision says "
        "that the page's files have gone",
    ),
    "OxfordFlowers": Source("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "Flowers102"),
    "Food101": Source("https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", "Food101"),
    "FGVCAircraft": Source("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", "FGVCAircraft"),
    "SUN397": Source("https://vision.princeton.edu/projects/2010/SUN/", "SUN397"),
    "DescribableTextures": Source("https://www.robots.ox.ac.uk/~vgg/data/dtd/", "DTD"),
    "EuroSAT": Source("https://github.com/phelber/eurosat", "EuroSAT"),
    "UCF101": Source(
        "https://www.crcv.ucf.edu/data/UCF101.php",
        by_hand="the middle frame of each video as ucf101/UCF-101-midframes/Apply_Eye_Makeup/v_....jpg, and the "
        "lists of the videos in ucf101/ucfTrainTestlist",
    ),
    "ImageNetV2": Source(
        "https://github.com/modestyachts/ImageNetV2",
        by_hand=f"imagenetv2/imagenetv2-matched-frequency-format-val/0, ..., {_CLASSNAMES}",
    ),
    "ImageNetSketch": Source(
        "https://github.com/HaohanWang/ImageNet-Sketch", by_hand=f"imagenet-sketch/images/WNID, {_CLASSNAMES} images"
    ),
    "ImageNetA": Source(
        "https://github.com/hendrycks/natural-adv-examples",
        by_hand=f"imagenet-adversarial/imagenet-a/WNID, {_CLASSNAMES} imagenet-a",
    ),
    "ImageNetR": Source(
        "https://github.com/hendrycks/imagenet-r",
        by_hand=f"imagenet-rendition/imagenet-r/WNID, {_CLASSNAMES} imagenet-r",
    ),
    "CIFAR10": Source("https://www.cs.toronto.edu/~kriz/cifar.html", "CIFAR10"),
    "CIFAR100": Source("https://www.cs.toronto.edu/~kriz/cifar.html", "CIFAR100"),
}

_TIMEOUT = 60.0
"""Seconds of silence after which a server counts as gone."""

_ARCHIVES = (".gz", ".tgz", ".tar", ".zip")


def find(name: str) -> str:
    """The name that gcsearch has for a data set; that of a paper or of torchvision's loader does, too."""
    others = {source.loader: known for known, source in SOURCES.items() if source.loader}
    others |= {datasets.title_of(known): known for known in SOURCES}
    if name not in SOURCES and name not in others:
        raise unknown_name("public data set", name, SOURCES, key="NAME")
    return name if name in SOURCES else others[name]


def is_there(name: str, root: Path) -> bool:
    """Whether images of the data set lie below `root`, in either of its layouts."""
    layout = datasets.located(name, root)
    return (root / layout.folder / layout.images).is_dir()


def by_hand(name: str, root: Path) -> list[str]:
    """What a person has to do for a data set that no loader fetches, in sentences."""
    source = SOURCES[name]
    said = [f"official page: {source.page}", f"below {root}: {source.by_hand or 'the folders of docs/datasets.md'}"]
    split = DATASETS[name].split
    lists = f"the field's {split} goes into {DATASETS[name].folder}" if split else ""
    names = "classnames.txt" if "classnames" in source.by_hand else ""
    return [*said, *([f"{lists or names}: {COOP}"] if lists or names else [])]


def fetch(name: str, root: Path, *, stage: Callable[[str], None], progress: Progress) -> Path:
    """Get a data set that is not there yet; its folder below `root`.

    Args:
        name: a key of `SOURCES` with a loader.
        root: the folder of all data sets; made where absent.
        stage: told "download" for each file and "unpack" after it.
        progress: told MiB of a file, and images that are written.

    Raises:
        InputError: something else is in its place.
        RunError: no network, no room, what came is incomplete or another file, or another process is at it.
    """
    place = torchvision.FOLDERS.get(name)
    top = (place.folder if place else DATASETS[name].folder).partition("/")[0]
    if (root / top).exists():
        rule, remedy = "the place of the data set must be free", "Move it elsewhere, or complete it by hand."
        raise InputError(rule, file=root / top, key="--root", remedy=remedy)
    aside = root / f".{name}.part"
    try:
        with files.locked(aside / "lock", wait=False):
            for left in aside.iterdir():  # of a process that was killed
                if left.is_dir():
                    shutil.rmtree(left)
            try:
                _load(name, aside / "data", stage, progress)
                _without_archives(aside / "data" / top)
                (aside / "data" / top).rename(root / top)
            finally:
                shutil.rmtree(aside)
    except BlockingIOError:
        raise RunError(f"another process is fetching {name} into {root}: wait for it") from None
    return root / top


def _load(name: str, folder: Path, stage: Callable[[str], None], progress: Progress) -> None:
    loader = getattr(torchvision.loaders(), SOURCES[name].loader)
    folder.mkdir()
    try:
        with _torchvision(folder, stage, progress):
            if name.startswith("CIFAR"):
                _write_images(loader, folder, DATASETS[name].folder, stage, progress)
            else:
                loader(folder, download=True)
    except (OSError, HTTPException, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer, too, with its connection
        raise RunError(_words(name, folder.parent.parent, error)) from None


def _words(name: str, root: Path, error: Exception) -> str:
    """Why a data set could not be fetched, and what to do."""
    if isinstance(error, OSError) and files.is_full(error):
        return f"{name} could not be fetched: no room in {root} ({error.strerror}). Nothing was left there."
    match error:
        case urllib.error.HTTPError():
            why = f"{error.url} answered {error.code} {error.reason}"
        case TimeoutError():
            why = f"the server was silent for {_TIMEOUT:.0f} seconds"
        case urllib.error.URLError():
            why = f"no connection: {getattr(error.reason, 'strerror', None) or error.reason}"
        case RuntimeError() if str(error).startswith("File not found"):
            why = "the file that came has another checksum than torchvision knows"
        case ConnectionError() | HTTPException():
            why = f"the connection broke: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
        case OSError() if error.errno:
            why = f"{error.strerror}: {error.filename}"
        case _:
            why = f"the archive that came is damaged ({str(error).strip() or type(error).__name__})"
    again = "Nothing was left there. Run the command again, or fetch it by hand from the official page"
    return f"{name} could not be fetched into {root}: {why}.\n{again}: {SOURCES[name].page}"


def _write_images(loader: Any, folder: Path, name: str, stage: Callable[[str], None], progress: Progress) -> None:
    """CIFAR, which comes as arrays, as PNG files: train/CLASS/00000.png and test/CLASS/00000.png."""
    parts = {part: loader(folder, train=part == "train", download=True) for part in ("train", "test")}
    total, done = sum(map(len, parts.values())), 0
    stage("data")
    for part, images in parts.items():
        for index, (picture, label) in enumerate(images):
            path = folder / name / part / images.classes[label] / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            done += 1
            progress(done, total)


def _without_archives(folder: Path) -> None:
    """Delete the archives that torchvision leaves beside what it has unpacked."""
    for path in folder.iterdir():
        if path.suffix in _ARCHIVES and path.is_file():
            path.unlink()


@contextmanager
def _torchvision(folder: Path, stage: Callable[[str], None], progress: Progress) -> Iterator[None]:
    """Its downloads tell `stage` and `progress`, give up on a silent server, and unpack nothing outside of `folder`."""

    class Bar:
        """Takes the place of tqdm, which torchvision tells what it has read."""

        def __init__(self, total: int | None = None, **_: object) -> None:
            self.total, self.done = total or 0, 0
            # Archives hold pictures, which do not shrink: the files beside the archive take as much again.
            if 2 * self.total > shutil.disk_usage(folder).free:
                need = f"{2 * self.total / 2**20:.0f} MiB are needed"
                raise OSError(errno.ENOSPC, need)
            stage("download")

        def update(self, count: int) -> None:
            self.done += count
            if self.total:
                progress(math.ceil(self.done / 2**20), math.ceil(self.total / 2**20))

        def __enter__(self) -> Self:
            return self

        def __exit__(self, kind: object, *_: object) -> None:
            if kind is None and self.done < self.total:
                raise ConnectionError(f"{self.done} of {self.total} bytes came")
            if kind is None:
                stage("unpack")

    utils, archive = torchvision.loaders().utils, tarfile.TarFile
    former = socket.getdefaulttimeout(), utils.tqdm, archive.extraction_filter
    socket.setdefaulttimeout(_TIMEOUT)
    utils.tqdm, archive.extraction_filter = Bar, staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        socket.setdefaulttimeout(former[0])
        utils.tqdm, archive.extraction_filter = former[1:]
