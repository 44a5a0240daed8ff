"""`gcsearch` called in this process: a new one costs seconds of imports, and few tests are about that."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from unittest import mock

from gcsearch.cli import app


def call(*words, cwd=None, **environment) -> subprocess.CompletedProcess[str]:
    """What `gcsearch WORDS` prints and ends with, in the folder `cwd`; what a process needs beside is left out.

    That are its signals and what becomes of its streams, which tests that start one look at.
    """
    line = ["gcsearch", *map(str, words)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", line),
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = app._run_command()
    shown, said = (one.buffer.getvalue().decode() for one in (out, err))
    return subprocess.CompletedProcess(line, int(code), shown, said)
