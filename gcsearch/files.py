"""Files that people read and write: TOML in and out, whole-file writes, and the files that ship with gcsearch."""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gcsearch.errors import InputError, is_control, unknown_name

if TYPE_CHECKING:
    from torch import Tensor


ASSETS = Path(__file__).parent / "assets"
"""What ships inside the package: the bundled model, published numbers, names."""


def shipped(folder: str) -> dict[str, Path]:
    """The TOML files of `folder` (`pipelines`, `search_spaces`) that come with gcsearch, by name.

    They lie inside the package when it was installed from a wheel, beside it in a checkout.
    """
    package = Path(__file__).parent
    places = (package.parent / folder, package / folder)
    return {file.stem: file for place in places for file in sorted(place.glob("*.toml"))}


def find(folder: str, name_or_path: str | Path, *, kind: str, key: str | None = None) -> Path:
    """The file of a shipped name (`demo`), or of a path: anything that ends in .toml or has a slash.

    Raises InputError where there is no such file; it lists the shipped names.
    """
    known = shipped(folder)
    if not is_file_name(str(name_or_path)):
        if str(name_or_path) not in known:
            raise unknown_name(kind, str(name_or_path), known, key=key)
        return known[str(name_or_path)]
    path = absolute(name_or_path, key=key)
    if not path.is_file():
        raise InputError(f"the {kind} file must exist", file=path, key=key, remedy=f"Shipped: {', '.join(known)}.")
    return path


ARCHIVE = "jit:"
"""Before the path of weights that are a TorchScript archive, which is opened only where that is asked for."""


def is_file_name(text: str) -> bool:
    """Whether what may be a shipped name or a file is a file: it ends in .toml or has a slash."""
    return text.endswith(".toml") or "/" in text


def is_path(text: str) -> bool:
    """Whether a value that may be a name or a path is a path: it has a slash or a dot in it, or `jit:` before it."""
    return text.startswith(ARCHIVE) or any(mark in text for mark in "./\\")


def check_export(folder: Path, name: str) -> None:
    """InputError where `folder` has no file `name` of an export; says which folders in it do, as of a joint sweep."""
    absolute(folder)
    if (folder / name).exists():
        return
    inside = ", ".join(str(path.parent) for path in sorted(folder.glob(f"*/{name}")))
    remedy = f"Name one of those in it: {inside}." if inside else "Write one: gcsearch export."
    raise InputError(f"the folder must be an export, with its {name}", file=folder, remedy=remedy)


_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file as any system writes it: without a byte order mark, its lines ended by a newline.

    Raises:
        OSError: it cannot be read.
        InputError: it has another encoding, which is named where it can be told; it is a device or a pipe.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        rule = "the file must be a regular one, which has an end"
        raise InputError(rule, file=path, received="a device or a pipe", remedy="Write the text into a file.")
    content = path.read_bytes()
    found = next((name for mark, name in _OTHER_MARKS.items() if content.startswith(mark)), "")
    if not found and b"\0" in content[:4096]:
        found = "zero bytes: UTF-16 without a mark, or no text at all"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = found or f"byte 0x{content[error.start]:02x} in line {line}, as in Windows-1252 or Latin-1"
    if found:
        rule, remedy = "the file must be text in UTF-8", "Save it as UTF-8, with or without a byte order mark."
        raise InputError(rule, file=path, received=found, remedy=remedy)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_names(path: Path, what: str, key: str) -> list[str]:
    """The names in a text file, one per line. InputError, naming `what` of the key it is, where it cannot be read."""
    try:
        return [line.strip() for line in read_text(path.expanduser()).splitlines() if line.strip()]
    except InputError as error:
        raise error.at(key=key) from None
    except OSError as error:
        rule, remedy = f"{what} must be a readable text file", "One name per line, in UTF-8."
        raise InputError(rule, file=path, key=key, received=error.strerror, remedy=remedy) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. InputError, naming file and line, where it is missing or malformed."""
    try:
        return parse_toml(read_text(path))
    except FileNotFoundError:
        raise InputError("the file must exist", file=path, remedy="Check the path.") from None
    except OSError as error:
        raise InputError("the file must be readable", file=path, received=error.strerror) from None
    except InputError as error:
        raise error.at(file=path) from None
    except ValueError as error:
        raise InputError(
            f"the file must be valid TOML: {error}", file=path, remedy="Correct the line named above."
        ) from None


_DEEPEST = 16


def parse_toml(text: str) -> dict[str, Any]:
    """The content of TOML text.

    Raises:
        InputError: something in it can be no value anywhere: tables in tables without end, control characters.
        ValueError: the text is no TOML.
    """
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise InputError(_TOO_DEEP) from None
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:  # not by recursion, which ends with the depth that is to be refused
        key, value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise InputError(_TOO_DEEP, key=f"{key[:40]}...")
        if isinstance(value, str):
            check_text(value, key)
        elif isinstance(value, dict):
            for name, inner in value.items():
                check_text(name, key or "a key")
                waiting.append((f"{key}.{name}" if key else name, inner, depth + 1))
        elif isinstance(value, list):
            waiting += [(f"{key}.{index}", inner, depth + 1) for index, inner in enumerate(value)]
    return content


_TOO_DEEP = f"tables and lists must not be nested more than {_DEEPEST} deep"


def check_text(text: str, key: str) -> None:
    """InputError for characters that no name, path or sentence has: control characters, halves of a character."""
    wrong = next(filter(is_control, text), None)
    if wrong:
        rule, remedy = "a text must not have control characters, and must be valid Unicode", f"Remove {wrong!a}."
        raise InputError(rule, key=key, received=text, remedy=remedy)


def to_toml(content: dict[str, Any], comment: str = "") -> str:
    """TOML text of `content` below `comment`. It holds no nulls: leave such keys out."""
    import tomlkit

    document = tomlkit.document()
    for line in comment.splitlines():
        document.add(tomlkit.comment(line) if line else tomlkit.nl())
    for key, value in content.items():
        document.add(key, tomlkit.item(value))
    return tomlkit.dumps(document)


@contextmanager
def whole(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` when the block ends well; `mode` as in `os.open`.

    Written aside, synced, renamed: a reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
    """Whether a disk, or a user's share of it, had no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or f"[errno {errno.ENOSPC}]" in str(error)  # the latter: Arrow


def write_whole(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a whole file, see `whole`."""
    with whole(path, mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, see `whole`."""
    import safetensors.torch
    import torch

    # Copies, because the format refuses views and tensors that share their memory.
    own = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_whole(path, safetensors.torch.save(own, metadata=metadata))


# --- Paths as a user writes them -------------------------------------------------------------------------


RENAME = "Rename it; `convmv -r -f latin1 -t utf8 --notest FOLDER` renames all that an archive from Windows left."
"""What to do about names of files that are not in UTF-8."""


def is_text(name: str) -> bool:
    """Whether a name of a file can be written down: it is in UTF-8 and has no zero byte."""
    if name.isascii():
        return "\0" not in name
    return "\0" not in name and not any("\ud800" <= one <= "\udfff" for one in name)


def absolute(text: str | Path, folder: Path | None = None, *, key: str | None = None) -> Path:
    """The path `text`, relative to `folder` (by default that of the command), `~` and `~user` expanded.

    It need not exist. Links and `..` stay as they are written.

    Raises:
        InputError: an empty text, a line break, an unknown user, a part of the path that is a file, a name that is too
            long for the file system or not in UTF-8, a link that leads to itself, a folder that may not be entered.
    """
    written = str(text)
    if not written.strip() or any(ord(mark) < 32 for mark in written):
        rule = "a path has no line break and no other control character" if written.strip() else "a path is not empty"
        raise InputError(rule, key=key, received=repr(written), remedy="Write the path of a file or folder.")
    expanded = os.path.expanduser(written)  # noqa: PTH111  (Path raises RuntimeError where the user is unknown)
    if expanded.startswith("~"):
        user = written.partition("/")[0]
        remedy = f"Write the whole path, or ./{written} for a folder of that name."
        raise InputError(f"there is no home folder of {user}", key=key, received=written, remedy=remedy)
    path = Path(folder or Path.cwd(), expanded).absolute()
    if not is_text(str(path)):
        raise InputError("a path must be in UTF-8", key=key, received=str(path), remedy=RENAME)
    if reason := _unusable(path):
        raise InputError(f"the path cannot be used: {reason}", key=key, received=str(path), remedy="Correct the path.")
    return path


def sqlite_uri(path: Path) -> str:
    """The address of the SQLite file `path` for MLflow, whatever characters are in it."""
    quoted = str(path).replace("%", "%25").replace("?", "%3F")  # what SQLAlchemy reads otherwise than it stands there
    # Of a plain `sqlite:///` MLflow makes the folder as it is quoted, beside the one that is meant.
    return f"sqlite:///{path}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def _unusable(path: Path) -> str:
    """Why neither a file nor a folder can be at `path`; empty where one is, or could be made."""
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except NotADirectoryError:
        blocking = next((str(part) for part in reversed(path.parents) if part.exists() and not part.is_dir()), "a part")
        return f"{blocking} is a file and no folder"
    except OSError as error:
        return error.strerror or str(error)
    return ""


# --- Places and locks ------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `path` for the time of the block; it is free again when the process ends, however.

    `wait`: until it is free; else BlockingIOError where another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def cache_folder() -> Path:
    """Where encoded images and embedded data sets are kept: safe to delete, rebuilt when needed."""
    from platformdirs import user_cache_path

    chosen, address = os.environ.get("GCSEARCH_CACHE"), cache_address()
    if address:
        return user_cache_path("gcsearch") / "shared" / hashlib.blake2b(address.encode(), digest_size=8).hexdigest()
    return absolute(chosen, key="GCSEARCH_CACHE") if chosen else user_cache_path("gcsearch")


def digest_folder() -> Path:
    """Where digests of image files are remembered, see `gcsearch.data.digests`."""
    return cache_folder() / "features" / "digests"


def cache_address() -> str | None:
    """The address in $GCSEARCH_CACHE of a cache that nodes share; None where that is a plain folder or unset."""
    chosen = os.environ.get("GCSEARCH_CACHE", "")
    return chosen.rstrip("/") if "://" in chosen else None


def cache_place() -> str:
    """What $GCSEARCH_CACHE has to be in another process that is to use the same cache."""
    return cache_address() or str(cache_folder())
