"""A server on loopback in the place of the pages that torchvision's loaders fetch data sets from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from gcsearch.data.layouts import torchvision
from tests.support.trees import TREES


class Mirror:
    """Files by name, served at `address`. `cut`: of each file so many bytes less than are promised."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut, self.status, self.asked = 0, 200, 0
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = mirror.files.get(self.path.removeprefix("/"))
                mirror.asked += 1
                if content is None or mirror.status != 200:
                    self.send_error(mirror.status if mirror.status != 200 else 404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content[: len(content) - mirror.cut])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, name: str, content: bytes) -> tuple[str, str]:
        """Its address and checksum."""
        self.files[name] = content
        return f"{self.address}/{name}", hashlib.md5(content).hexdigest()


@contextlib.contextmanager
def mirror() -> Iterator[Mirror]:
    made = Mirror()
    thread = Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def tar(folder: Path, *names: str, inside: str = "") -> bytes:
    """A .tar.gz of what is in `folder`, or of these names there; below `inside`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        for path in [folder / name for name in names] or sorted(folder.iterdir()):
            archive.add(path, f"{inside}{path.name}")
    return file.getvalue()


def zipped(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return file.getvalue()


def offer(name: str, mirror: Mirror, root: Path, patch: Any) -> Any:
    """Let torchvision's loader fetch the tree of `name`, made below `root`, from the mirror; what has to come of it.

    Archives have the names, folders and nesting of the true ones.
    """
    library = torchvision.loaders()
    if name.startswith("CIFAR"):
        return _cifar(getattr(library, name), mirror, patch)
    tree = TREES["EuroSAT" if name == "EuroSAT" else f"{name} of torchvision"](root)
    match name:
        case "OxfordPets":
            folder = root / "oxford-iiit-pet"
            parts = [mirror.put(f"{part}.tar.gz", tar(folder, part)) for part in ("images", "annotations")]
            patch.setattr(library.OxfordIIITPet, "_RESOURCES", tuple(parts))
        case "OxfordFlowers":
            folder = root / "flowers-102"
            served = {"image": ("102flowers.tgz", tar(folder, "jpg"))}
            for key, file in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
                served[key] = (file, (folder / file).read_bytes())
            sums = {key: (file, mirror.put(file, content)[1]) for key, (file, content) in served.items()}
            patch.setattr(library.Flowers102, "_file_dict", sums)
            patch.setattr(library.Flowers102, "_download_url_prefix", f"{mirror.address}/")
        case "Food101":
            url, md5 = mirror.put("food-101.tar.gz", tar(root, "food-101"))
            patch.setattr(library.Food101, "_URL", url)
            patch.setattr(library.Food101, "_MD5", md5)
        case "FGVCAircraft":
            lists = root / "fgvc-aircraft-2013b" / "data"
            both = [(lists / f"images_variant_{part}.txt").read_text() for part in ("train", "val")]
            (lists / "images_variant_trainval.txt").write_text("".join(both))
            url, _ = mirror.put("fgvc-aircraft-2013b.tar.gz", tar(root, "fgvc-aircraft-2013b"))
            patch.setattr(library.FGVCAircraft, "_URL", url)
        case "SUN397":
            url, md5 = mirror.put("SUN397.tar.gz", tar(root, "SUN397"))
            patch.setattr(library.SUN397, "_DATASET_URL", url)
            patch.setattr(library.SUN397, "_DATASET_MD5", md5)
        case "DescribableTextures":
            url, md5 = mirror.put("dtd-r1.0.1.tar.gz", tar(root / "dtd", "dtd"))
            patch.setattr(library.DTD, "_URL", url)
            patch.setattr(library.DTD, "_MD5", md5)
        case "EuroSAT":
            _instead(library.eurosat, mirror.put("EuroSAT.zip", zipped(root / "eurosat")), patch)
        case "Caltech101":
            inner = root / "zip" / "caltech-101"
            inner.mkdir(parents=True)
            (inner / "101_ObjectCategories.tar.gz").write_bytes(tar(root / "caltech101", "101_ObjectCategories"))
            (inner / "Annotations.tar").write_bytes(b"")
            _instead(library.caltech, mirror.put("caltech-101.zip", zipped(root / "zip")), patch)
    return tree


def _instead(module: Any, served: tuple[str, str], patch: Any) -> None:
    """The address stands in the loader's code: what it hands on is replaced."""
    fetch = torchvision.loaders().utils.download_and_extract_archive

    def from_the_mirror(url: str, download_root: str, filename: str | None = None, md5: str | None = None) -> None:
        assert url.rpartition("/")[2] == served[0].rpartition("/")[2] and md5
        fetch(served[0], download_root, filename=filename, md5=served[1])

    patch.setattr(module, "download_and_extract_archive", from_the_mirror)


def _cifar(loader: Any, mirror: Mirror, patch: Any) -> list[str]:
    """Ten batches' worth of the same form: arrays of 32 x 32 pixels in pickles; the class names."""
    few, key = loader.__name__ == "CIFAR10", loader.meta["key"]
    names, labels = (["cat", "dog", "old horse", "owl"], "labels" if few else "fine_labels")
    generator = np.random.default_rng(0)
    sums, file = {}, io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for batch, _ in [*loader.train_list, *loader.test_list, (loader.meta["filename"], "")]:
            pixels = generator.integers(0, 255, (20, 3072), dtype=np.uint8)
            made = {key: names} if batch == loader.meta["filename"] else {"data": pixels, labels: [0, 1, 2, 3] * 5}
            content = pickle.dumps(made)
            sums[batch] = hashlib.md5(content).hexdigest()
            member = tarfile.TarInfo(f"{loader.base_folder}/{batch}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    url, md5 = mirror.put(loader.filename, file.getvalue())
    patch.setattr(loader, "url", url)
    patch.setattr(loader, "tgz_md5", md5)
    patch.setattr(loader, "meta", {**loader.meta, "md5": sums[loader.meta["filename"]]})
    for part in ("train_list", "test_list"):
        patch.setattr(loader, part, [[batch, sums[batch]] for batch, _ in getattr(loader, part)])
    return names
