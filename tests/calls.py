"""`gcsearch` called in this process: a new one costs seconds of imports, and few tests are about that."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

from gcsearch import cli

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def call(*words, cwd=None, **environment) -> subprocess.CompletedProcess[str]:
    """What `gcsearch WORDS` prints and ends with, from its entry point on; in the folder `cwd`."""
    line = ["gcsearch", *map(str, words)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", line),
        _handlers_kept(),
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    shown, said = (one.buffer.getvalue().decode() for one in (out, err))
    return subprocess.CompletedProcess(line, code, shown, said)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
