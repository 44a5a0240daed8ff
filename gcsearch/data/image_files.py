"""The one door through which image files are opened: a file, or its bytes, to pixels in RGB. Knows no torch.

Pillow tells a format by its content and knows some forty of them; one is PostScript, which it hands to Ghostscript
to run. Only formats that are meant to be images are opened here, whatever a file is called, and only regular files.

Shapes: H, W height and width of an image in pixels.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from gcsearch.errors import InputError

# Of all warnings about a file only that matters which stops it from being read, and that is an error here.
warnings.filterwarnings("ignore", module=r"PIL\.")

_AVIF = "avif" in features.modules and features.check("avif")  # a Pillow before 11.3 does not know it
FORMATS = (
    "JPEG",  # with MPO, the JPEG files of cameras that hold further pictures
    "PNG",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
    *(("WEBP",) if features.check("webp") else ()),
    *(("AVIF",) if _AVIF else ()),
)
"""Pillow's names of the formats that are opened."""

ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "jif", "mpo", "png", "apng", "bmp", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "webp"),
        *(("avif",) if _AVIF else ()),
    )
)
"""What counts as an image where a folder is listed, in small letters. An opened file is told by its content."""

MEGAPIXELS = "GCSEARCH_MEGAPIXELS"
"""The variable that says how many million pixels an image may have."""

_DEFAULT_MEGAPIXELS = 300
_LARGE = 64_000_000  # pixels above which images are opened one at a time
_BLOCK = 4_000_000  # pixels that are scaled at a time
_HEAD = 512  # bytes that tell what a file is
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WEBP"),
    (4, b"ftypavi", "AVIF"),
)
_FOREIGN = (
    (0, b"%!", "a PostScript program"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"SIMPLE  =", "a FITS file"),
    (4, b"ftypqt", "a film"),
    (4, b"ftypmp4", "a film"),
    (8, b"AVI LIST", "a film"),
    (0, b"\x1a\x45\xdf\xa3", "a film"),
    (4, b"ftypiso", "a film"),
    (4, b"ftyp", "a HEIC file or another of its kind"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"DDS ", "a DDS texture"),
    (128, b"DICM", "a DICOM file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the image"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\0\5\x16\7", "what a Mac keeps beside a file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
)
_MARKUP = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<svg", "an SVG drawing"))


class UnreadableImage(Exception):
    """A file is no whole image that is opened here; the text says why."""


def read(source: str | Path | bytes, *, exif: bool = False) -> Image.Image:
    """The whole image in RGB, the first of several; `exif`: turned as its EXIF orientation says.

    Images of 8 bits become RGB as Pillow's `convert` makes them. See `_eight_bits` for those of 16 and more.

    Raises:
        UnreadableImage: it is no whole image of a known format, or has more pixels than `pixel_limit`.
    """
    try:
        with _stream(source) as stream, own_limit():
            return _read(stream, exif)
    except (UnreadableImage, InputError):
        raise
    except OSError as error:
        raise UnreadableImage(error.strerror or _line(error)) from None
    except MemoryError:
        raise UnreadableImage("there is too little memory for it") from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UnreadableImage(f"damaged: {_line(error)}") from None


def is_image(path: Path) -> bool:
    """Whether a file begins as an image of one of `FORMATS` does."""
    try:
        with _stream(path) as stream:
            return _format(stream.read(_HEAD)) in FORMATS
    except (OSError, UnreadableImage):
        return False


def may_be_deep(file: IO[bytes]) -> bool:
    """Whether an open file may be an image whose values are scaled, see `_eight_bits`; leaves it at its start."""
    head = file.read(_HEAD)
    file.seek(0)
    return _format(head) in ("TIFF", "PPM") or (_format(head) == "PNG" and head[24:25] == b"\x10")


def pixel_limit() -> int:
    """How many pixels an image may have. InputError where the variable `MEGAPIXELS` is no number above 0."""
    stated = os.environ.get(MEGAPIXELS) or str(_DEFAULT_MEGAPIXELS)
    try:
        limit = float(stated)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        rule, remedy = "the limit is a number of million pixels above 0", f"Leave it unset for {_DEFAULT_MEGAPIXELS}."
        raise InputError(rule, key=MEGAPIXELS, received=repr(stated), remedy=remedy)
    return int(limit * 1e6)


def check_pixels(width: int, height: int, of: str = "") -> None:
    """UnreadableImage for more pixels than `pixel_limit`; `of` says of what they are, where not of the file."""
    pixels, limit = width * height, pixel_limit()
    if pixels > limit:
        raise UnreadableImage(
            f"{of}{width} x {height} pixels, {pixels / 1e6:.0f} million, where {limit / 1e6:g} million are the limit: "
            f"raise it with {MEGAPIXELS} (about 8 bytes of memory a pixel), or scale the image"
        )


# --- Pillow's own limit of pixels ------------------------------------------------------------------------


class _Guard:
    """Pillow's limit, which is one for the whole process, and how many calls need it out of the way."""

    def __init__(self) -> None:
        self.lock, self.inside, self.theirs = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS


_guard, _large = _Guard(), threading.Lock()


@contextmanager
def own_limit() -> Iterator[None]:
    """Let `pixel_limit` take the place of Pillow's limit, which warns at half of what it refuses, also of crops."""
    with _guard.lock:
        if not _guard.inside:
            _guard.theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _guard.inside += 1
    try:
        yield
    finally:
        with _guard.lock:
            _guard.inside -= 1
            if not _guard.inside:
                Image.MAX_IMAGE_PIXELS = _guard.theirs


# --- Opening ---------------------------------------------------------------------------------------------


def _stream(source: str | Path | bytes) -> IO[bytes]:
    """The bytes of a regular file. A pipe would never end, and a device does something on being opened."""
    if not isinstance(source, (str, os.PathLike)):
        return io.BytesIO(source)
    _check_regular(os.stat(source).st_mode)  # noqa: PTH116  (a Path would not take a link to itself for an OSError)
    # Should it have become a pipe meanwhile, opening does not wait for its other end.
    stream = os.fdopen(os.open(source, os.O_RDONLY | _NONBLOCKING), "rb")
    try:
        _check_regular(os.fstat(stream.fileno()).st_mode)
    except UnreadableImage:
        stream.close()
        raise
    return stream


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = (
            (stat.S_ISDIR, "a folder"),
            (stat.S_ISFIFO, "a named pipe"),
            (stat.S_ISSOCK, "a socket"),
            (stat.S_ISCHR, "a device"),
            (stat.S_ISBLK, "a device"),
        )
        raise UnreadableImage(f"{next((name for test, name in kinds if test(mode)), 'something else')}, no file")


def _read(stream: IO[bytes], exif: bool) -> Image.Image:
    head = stream.read(_HEAD)
    try:
        file = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnreadableImage(_guess_format(head)) from None
    with file:
        width, height = file.size
        check_pixels(width, height)
        with _large if width * height > _LARGE else nullcontext():
            file.load()
            return _in_rgb(file, exif)


def _format(head: bytes) -> str:
    """The format of a file that begins so; empty where it is none that is opened."""
    # A word of text may begin with P5, too: the header of these files goes on with a blank.
    portable = head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3].isspace()
    found = (name for place, mark, name in _SIGNATURES if head[place:].startswith(mark))
    return "PPM" if portable else next(found, "")


def _guess_format(head: bytes) -> str:
    """What a file that Pillow does not take for an image is, as far as its first bytes tell."""
    if not head:
        return "the file is empty"
    if name := _format(head):
        return f"a damaged {name} file, or of a kind that Pillow does not read"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, name in _MARKUP:
        if text.startswith(mark) or (text.startswith((b"<?xml", b"<!--")) and mark in text):
            return f"no image but {name}"
    found = (name for place, mark, name in _FOREIGN if head[place:].startswith(mark))
    if name := next(found, ""):
        return f"no image but {name}"
    if not head.strip(b"\0"):
        return "no image but zero bytes, as a download that broke off leaves them"
    # What a server answered in an image's place; the last character may be cut off.
    line = next(iter(head.decode("utf-8-sig", "ignore").split("\n")), "").strip()
    is_text = len(head.decode("utf-8-sig", "ignore").encode()) > len(head) - 7 and line.isprintable()
    return f"no image but text: {line[:60]!r}" if is_text and line else "no image of a known format"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


# --- Pixels ----------------------------------------------------------------------------------------------


def _in_rgb(file: ImageFile.ImageFile, exif: bool) -> Image.Image:
    turn = _TURNS.get(_orientation(file)) if exif else None
    image: Image.Image = Image.fromarray(_eight_bits(file)) if file.mode[0] in "IF" else file
    if image.mode == "La":  # which Pillow makes nothing but LA of
        image = image.convert("LA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if turn is None else image.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of each EXIF orientation upright."""


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(0x0112, 1))
    except Exception:  # whatever a damaged block of EXIF makes of Pillow: the image itself is sound
        return 1


def _eight_bits(file: ImageFile.ImageFile) -> np.ndarray:
    """Grey values of more than 8 bits [H, W] as bytes, so that a copy of an 8-bit image gives the image.

    Integers keep the highest eight bits of their range, as Pillow does with 16-bit colours: of 16 bits (12, where a
    TIFF file says so). Where nothing says which part of a range is used, in signed and 32-bit integers, the range is
    the first of 255, 65535 and all that no value exceeds; in floats, 1, 255 and 65535, a remainder below one cut off.
    With values below 0, and floats beyond, it is from the image's least to its largest value. No number is black.
    """
    tags: Any = getattr(file, "tag_v2", {})
    values = np.asarray(file)
    if values.dtype.kind == "f":
        grey = _stretched(values, *_float_range(values))
    elif file.mode != "I" or file.format != "TIFF":
        bits = tags.get(258, (16,))[0]
        grey = (values >> (bits - 8)).astype(np.uint8)
    else:
        grey = _of_integers(values, bits=tags.get(258, (32,))[0], signed=tags.get(339, (1,))[0] == 2)
    return 255 - grey if tags.get(262) == 0 else grey  # white is 0 in this file: Pillow heeds that in 8 bits alone


def _of_integers(values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    if not signed:
        values = values.view(np.uint32)  # Pillow has 32 bits with a sign only
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0:
        return _stretched(values, low, high)
    whole = bits - 1 if signed else bits
    used = next(n for n in (8, 16, whole) if n >= whole or high < 1 << n)
    return (values >> (min(used, whole) - 8)).astype(np.uint8)


def _float_range(values: np.ndarray) -> tuple[float, float]:
    finite = np.isfinite(values)
    if not finite.any():
        raise UnreadableImage("none of its values is a number")
    low = float(values.min(where=finite, initial=np.inf))
    high = float(values.max(where=finite, initial=-np.inf))
    white = next((white for white in (1.0, 255.0, 65535.0) if high < white + 1), None)
    return (low, high) if low < 0 or white is None else (0.0, white)


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bytes, 0 for `low` and 255 for `high`; in blocks of rows, because the sums need eight bytes a pixel."""
    grey = np.zeros(values.shape, np.uint8)
    rows = max(1, _BLOCK // max(values.shape[1], 1))
    factor = 255 / (high - low) if high > low else 0.0
    for start in range(0, len(values), rows):
        block = np.nan_to_num(values[start : start + rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        grey[start : start + rows] = np.rint((block.clip(low, high) - low) * factor)
    return grey
