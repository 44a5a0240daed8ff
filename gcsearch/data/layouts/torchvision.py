"""Where torchvision's loaders keep the data sets of the field, below the root that they are given.

The folders hold the same files as those of CoOp-style repositories under other names, so that one reader does for both.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class TorchvisionFolders(NamedTuple):
    """A data set's folders, relative to the root; those that are the same in both layouts are not listed here."""

    folder: str
    images: str
    mark: str = ""
    """What in `folder` tells the layout, where it is not the image folder."""


FOLDERS = {
    "ImageNet": TorchvisionFolders("imagenet", "", "train"),
    "Caltech101": TorchvisionFolders("caltech101", "101_ObjectCategories"),
    "OxfordPets": TorchvisionFolders("oxford-iiit-pet", "images"),
    "OxfordFlowers": TorchvisionFolders("flowers-102", "jpg"),
    "FGVCAircraft": TorchvisionFolders("fgvc-aircraft-2013b/data", "images"),
    "SUN397": TorchvisionFolders("SUN397", "", "ClassName.txt"),
    "DescribableTextures": TorchvisionFolders("dtd/dtd", "images"),
}


def loaders() -> Any:
    """The module `torchvision.datasets`, imported when it is first needed: it takes a second."""
    from gcsearch.clip.model import declare_torchvision_operators

    declare_torchvision_operators()
    return import_module("torchvision.datasets")
