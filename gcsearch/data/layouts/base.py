"""What readers of layouts share.

A reader is called with the data set's folder and its image folder, reads lists and folder names, opens no
image, and gives `Contents` back.  Where lists are still to be drawn the caller draws them, and warns.  Class
names come out in the form in which the split files have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gcsearch.data.lists.folders import images_in
from gcsearch.data.lists.splits import Contents, Item

Reader = Callable[[Path, Path], Contents]
"""(folder of the data set, folder of its images) to what they hold."""

VAL_SHARE = 0.2


def some(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def listed(folder: Path, names: Sequence[str], prefix: str = "") -> list[Item]:
    """The images of a folder per class, labelled in the order of `names`."""
    return [
        Item(f"{prefix}{name}/{image}", label) for label, name in enumerate(names) for image in images_in(folder / name)
    ]
