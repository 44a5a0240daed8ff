"""Image files of every kind that people have: read alike in any depth, refused by name, and never run or waited for."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

import gcsearch
from gcsearch.clip.preprocess import Preparation
from gcsearch.data import image_files, image_loader, inspect
from gcsearch.data.image_files import MEGAPIXELS, UnreadableImage, read
from gcsearch.data.image_loader import Job, prepare
from gcsearch.errors import InputError

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def pixels(source, **arguments):
    image = read(source, **arguments)
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image, kind="PNG", **arguments):
    file = io.BytesIO()
    image.save(file, kind, **arguments)
    return file.getvalue()


def tiff(values, kind="<", **tags):
    """An uncompressed TIFF file of one strip, of any sample type that numpy has, in either order of bytes."""
    values = values.astype(values.dtype.newbyteorder(kind))
    bits, sample = 8 * values.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: tags.get("photometric", 1), 273: 8, 277: 1}
    entries |= {278: height, 279: values.nbytes, 339: sample}
    packed = [
        struct.pack(kind + "HHI", tag, 4, 1) + struct.pack(kind + "I", value) for tag, value in sorted(entries.items())
    ]
    start = {"<": b"II*\0", ">": b"MM\0*"}[kind] + struct.pack(kind + "I", 8 + values.nbytes)
    return start + values.tobytes() + struct.pack(kind + "H", len(packed)) + b"".join(packed) + bytes(4)


# --- Images of more than 8 bits ---------------------------------------------------------------------------


def pgm(values, most):
    head = f"P5 {values.shape[1]} {values.shape[0]} {most}\n".encode()
    return head + values.astype(">u2").tobytes()


def pfm(values):
    return f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode() + values[::-1].astype("<f4").tobytes()


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda grey: saved(Image.fromarray(grey.astype(np.uint16) * 257)), id="PNG-16"),
        pytest.param(lambda grey: saved(Image.fromarray(grey.astype(np.uint16) << 8)), id="PNG-16-shifted"),
        pytest.param(lambda grey: tiff(grey.astype(np.uint16) * 257), id="TIFF-16"),
        pytest.param(lambda grey: tiff(grey.astype(np.uint16) * 257, ">"), id="TIFF-16-big-endian"),
        pytest.param(
            lambda grey: saved(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF", compression="tiff_lzw"),
            id="TIFF-16-compressed",
        ),
        pytest.param(lambda grey: tiff(65535 - grey.astype(np.uint16) * 257, photometric=0), id="TIFF-16-white-is-0"),
        pytest.param(lambda grey: tiff(grey.astype(np.int16)), id="TIFF-signed-16-of-8"),
        pytest.param(lambda grey: tiff(grey.astype(np.int16) << 7), id="TIFF-signed-16"),
        pytest.param(lambda grey: tiff(grey.astype(np.uint32)), id="TIFF-32-of-8"),
        pytest.param(lambda grey: tiff(grey.astype(np.int32) * 257), id="TIFF-32-of-16"),
        pytest.param(lambda grey: tiff(grey.astype(np.uint32) * 0x01010101), id="TIFF-32"),
        pytest.param(lambda grey: tiff(grey.astype(np.int32) << 23), id="TIFF-signed-32"),
        pytest.param(lambda grey: tiff(grey.astype(np.int32) - 128, ">"), id="TIFF-with-negative-values"),
        pytest.param(lambda grey: tiff(grey.astype(np.float32)), id="float-to-255"),
        pytest.param(lambda grey: tiff(grey.astype(np.float32) / 255), id="float-to-1"),
        pytest.param(lambda grey: tiff(grey.astype(np.float32) * 257, ">"), id="float-to-65535"),
        pytest.param(lambda grey: tiff(grey.astype(np.float32) / 127.5 - 1), id="float-from-minus-1"),
        pytest.param(lambda grey: tiff(1 - grey.astype(np.float32) / 255, photometric=0), id="float-white-is-0"),
        pytest.param(lambda grey: tiff(grey.astype(np.float32) * 1e6), id="float-far-beyond"),
        pytest.param(lambda grey: pgm(grey.astype(np.uint16) * 257, 65535), id="PGM-16"),
        pytest.param(lambda grey: pgm(grey.astype(np.uint16) * 16, 4095), id="PGM-12"),
        pytest.param(lambda grey: pfm(grey / 255), id="PFM"),
    ],
)
def test_a_grey_image_of_more_bits_is_the_8_bit_image_that_it_is_a_copy_of(copy):
    assert np.array_equal(pixels(copy(GREY)), pixels(saved(Image.fromarray(GREY))))


def test_a_12_bit_tiff_is_scaled_by_12_bits():
    packed = bytearray()
    for first, second in (GREY.astype(int).reshape(-1, 2) << 4).tolist():
        packed += bytes((first >> 4, (first & 15) << 4 | second >> 8, second & 255))
    whole = bytearray(tiff(np.zeros((1, len(packed)), np.uint8)))
    whole[8 : 8 + len(packed)] = packed
    for tag, value in ((256, 16), (257, 16), (258, 12), (278, 16)):
        at = whole.index(struct.pack("<HHI", tag, 4, 1), 8 + len(packed))
        whole[at + 8 : at + 12] = struct.pack("<I", value)
    assert np.array_equal(pixels(bytes(whole)), pixels(saved(Image.fromarray(GREY))))


def test_a_dark_16_bit_image_stays_as_dark_as_its_8_bit_copy():
    dark = GREY // 16
    assert np.array_equal(pixels(saved(Image.fromarray(dark.astype(np.uint16) * 257)))[..., 0], dark)


def test_in_colour_16_bits_are_read_as_8_too():
    colours = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in (colours.astype(np.uint16) * 257).astype(">u2"))
    file = io.BytesIO()
    chunk = PngImagePlugin.putchunk
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(file, b"IHDR", struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0))
    chunk(file, b"IDAT", zlib.compress(rows))
    chunk(file, b"IEND", b"")
    assert np.array_equal(pixels(file.getvalue()), colours)


def test_no_number_is_black_and_an_image_without_any_is_refused():
    values = GREY.astype(np.float32) / 255
    values[0, :3] = np.nan, np.inf, -np.inf
    found = pixels(tiff(values))[..., 0]
    assert list(found[0, :4]) == [0, 255, 0, 3]
    with pytest.raises(UnreadableImage, match="none of its values is a number"):
        read(tiff(np.full((4, 4), np.nan, np.float32)))


# --- 8 bits: as the reference code makes them RGB -----------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "GIF", "BMP", "WEBP"])
def test_8_bit_images_become_rgb_as_pillow_makes_them(mode, kind):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8))
    try:
        file = saved(colours.convert("RGB").convert(mode) if mode != "RGBA" else colours, kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} does not have {mode}")
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(pixels(file), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparent_entries_is_read_without_a_word(tmp_path):
    image = Image.fromarray(GREY).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    script = f"from gcsearch.data.image_files import read; read({str(tmp_path / 'p.png')!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    with pytest.warns(UserWarning, match="Transparency"), Image.open(tmp_path / "p.png") as file:
        file.convert("RGB")  # what Pillow says by itself


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_of_several_pictures_the_first_is_read(kind):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    file = saved(first, kind, save_all=True, append_images=[second])
    with Image.open(io.BytesIO(file)) as image:
        assert getattr(image, "n_frames", 1) == 2
    red, green, blue = pixels(file)[8, 8]
    assert red > 250 and max(green, blue) < 5


def test_an_avif_file_is_read_where_pillow_has_the_format():
    if "AVIF" not in image_files.FORMATS:
        pytest.skip("this Pillow has no AVIF")
    assert abs(int(pixels(saved(Image.new("RGB", (16, 16), (200, 20, 20)), "AVIF"))[8, 8, 0]) - 200) < 5


# --- What is no image ---------------------------------------------------------------------------------------

PROGRAM = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(MARK) (w) file closefile {} loop
showpage
%%EOF
"""


def heic():
    return struct.pack(">I", 24) + b"ftypheic" + bytes(12)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (PROGRAM, "no image but a PostScript program"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40) + PROGRAM, "no image but an EPS file"),
        (b"%PDF-1.7\n", "no image but a PDF document"),
        (b"SIMPLE  =                    T" + bytes(3000), "no image but a FITS file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "no image but an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "no image but an SVG drawing"),
        (heic(), "no image but a HEIC file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull` fetches the image"),
        (b"P5 is how this sentence begins, and not a picture", "cannot|damaged"),
        (b"Paris", "no image but text: 'Paris'"),
        (b"404: Not Found", "no image but text: '404: Not Found'"),
        (b'\xef\xbb\xbf{"error": "rate limit"}\r\n', r"""no image but text: '{"error": "rate limit"}'"""),
        (("é" * 400).encode(), "no image but text: 'é{60}'"),
        (bytes(5000), "no image but zero bytes, as a download that broke off"),
        (b"\0\5\x16\7" + bytes(400), "what a Mac keeps beside a file"),
        (b"RIFF\x24\0\0\0AVI LIST", "no image but a film"),
        (b"\x0a\5\1\x08" + bytes(range(200)), "no image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "a damaged PNG file"),
        (saved(Image.new("RGB", (64, 64)), "ICO"), "no image but an icon"),
        (saved(Image.new("RGB", (64, 64)), "JPEG2000"), "no image but a JPEG 2000 file"),
        (saved(Image.fromarray(GREY))[:-40], "truncated|damaged"),
        (saved(Image.effect_noise((64, 64), 99).convert("RGB"), "JPEG")[:900], "truncated"),
        (saved(Image.effect_noise((64, 64), 99), "TIFF")[:400], "."),
        (saved(Image.effect_noise((64, 64), 99).convert("RGB"), "WEBP")[:200], "."),
        (tiff(np.zeros((4, 4), np.float64)), "a damaged TIFF file, or of a kind that Pillow does not read"),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.eps", "a"])
def test_a_file_that_is_no_whole_image_is_refused_by_what_it_is(tmp_path, content, reason, name):
    (tmp_path / name).write_bytes(content.replace(b"MARK", str(tmp_path / "ran").encode()))
    for source in (tmp_path / name, content):
        with pytest.raises(UnreadableImage, match=reason):
            read(source)
    assert os.listdir(tmp_path) == [name]


def test_a_program_in_a_class_folder_runs_nothing_and_hangs_nothing(tmp_path):
    if not shutil.which("gs"):
        pytest.skip("only Ghostscript would run it")
    for name in ("a", "b"):
        folder = tmp_path / "root" / "pics" / name
        folder.mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (9, 9), (index, ord(name), 0)).save(folder / f"{index}.png")
    bad = tmp_path / "root" / "pics" / "a" / "0.png"
    bad.write_bytes(PROGRAM.replace(b"MARK", str(tmp_path / "ran").encode()))
    found = inspect.examine(tmp_path / "root", "folder:pics", verify=True)
    assert found.reasons == {"a/0.png": "no image but a PostScript program"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
        said = {path.stem: image_loader.fault(path) for path in sorted(tmp_path.iterdir())}
    assert said == {
        "device": "a device, no file",
        "folder": "a folder, no file",
        "loop": "Too many levels of symbolic links",
        "lost": "No such file or directory",
        "pipe": "a named pipe, no file",
        "socket": "a socket, no file",
    }


# --- How large an image may be ------------------------------------------------------------------------------


def wide(width, height):
    """A PNG file that says so of itself and holds no pixels."""
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    PngImagePlugin.putchunk(file, b"IDAT", b"")
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


def test_the_limit_of_pixels_is_stated_and_can_be_raised(monkeypatch):
    with pytest.raises(UnreadableImage, match=r"30000 x 20000 pixels, 600 million, where 300 million are the limit"):
        read(wide(30000, 20000))
    small = saved(Image.new("L", (1000, 600), 7))
    monkeypatch.setenv(MEGAPIXELS, "0.5")
    with pytest.raises(UnreadableImage, match=r"1000 x 600 pixels, 1 million, where 0.5 million are the limit"):
        read(small)
    monkeypatch.setenv(MEGAPIXELS, "0.6")
    assert read(small).size == (1000, 600)


@pytest.mark.parametrize("stated", ["", "0", "-3", "many", "nan", "inf", "1e12"])
def test_a_limit_that_is_none_is_refused(monkeypatch, stated):
    monkeypatch.setenv(MEGAPIXELS, stated)
    if not stated:
        assert image_files.pixel_limit() == 300_000_000
        return
    with pytest.raises(InputError, match=r"GCSEARCH_MEGAPIXELS: .*above 0, got"):
        image_files.pixel_limit()


def test_pillows_own_limit_is_aside_meanwhile_and_back_afterwards(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (100, 100), "red").save(tmp_path / "a.png")
    job = Job(str(tmp_path), ("a.png",) * 3, (None, (1, 0), (1, 1)), Preparation(32))
    threads = [threading.Thread(target=prepare, args=(job,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert not prepare(job).unreadable  # above twice the limit, Pillow refuses files and crops
    for thread in threads:
        thread.join()
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
def test_an_image_so_thin_that_scaling_it_needs_gigabytes_is_refused(tmp_path, size):
    Image.new("L", size, 90).save(tmp_path / "thin.png")
    done = prepare(Job(str(tmp_path), ("thin.png", "thin.png"), (None, (1, 0)), Preparation(224)))
    (reason,) = done.unreadable.values()
    assert reason.startswith(f"an image of {size[0]} x {size[1]} that would be scaled to ")
    assert "3011 million, where 300 million are the limit: raise it with GCSEARCH_MEGAPIXELS" in reason
    for mode in ("squash", "longest"):  # these need no more than the model's own size
        done = prepare(Job(str(tmp_path), ("thin.png",), (None,), Preparation(224, resize_mode=mode)))
        assert not done.unreadable


# --- EXIF orientation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_heeded_where_that_is_asked_for(kind, orientation):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    stored = upright
    if orientation > 1:  # how a camera that is held so stores what should be upright
        back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
        stored = upright.transpose(back.get(orientation, image_files._TURNS[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(file, exif=True), np.asarray(upright))
    # A TIFF file's orientation is no matter of EXIF: Pillow heeds it for everybody.
    assert np.array_equal(pixels(file), np.asarray(upright if kind == "TIFF" else stored))


def test_a_damaged_block_of_exif_does_not_cost_the_image():
    file = saved(Image.fromarray(GREY), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert np.array_equal(pixels(file, exif=True), pixels(file))


def test_16_bits_are_turned_too():
    exif = TiffImagePlugin.ImageFileDirectory_v2()
    exif[0x0112] = 3
    file = saved(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF", tiffinfo=exif)
    assert np.array_equal(pixels(file, exif=True)[..., 0], GREY[::-1, ::-1])


def test_the_door_is_the_only_one():
    """No other module opens an image through Pillow."""
    package = Path(gcsearch.__file__).parent
    opening = [path.relative_to(package) for path in package.rglob("*.py") if "Image.open(" in path.read_text()]
    assert opening == [Path("data/image_files.py")]
