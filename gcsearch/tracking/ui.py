"""A server of somebody else's that ends with this process, however this one ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import IO

from gcsearch.errors import InputError
from gcsearch.sweep import interrupts

HOST = "127.0.0.1"

_PATIENCE = 5.0  # seconds that a server has to end in


def check_port(port: int) -> None:
    """InputError where no server of this user can listen on `port` of this machine."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a former server's connections do not count
            probe.bind((HOST, port))
            probe.listen()
    except PermissionError:
        remedy = "Name one of 1024 to 65535: --port 5001"
        raise InputError(
            "only the administrator may use this port", key="--port", received=port, remedy=remedy
        ) from None
    except OSError as error:
        rule = f"another process listens on this port ({error.strerror})"
        other = port + 1 if port < 65535 else port - 1
        raise InputError(rule, key="--port", received=port, remedy=f"Name another one: --port {other}") from None


def serve(
    command: Sequence[str],
    log: IO[bytes] | None = None,
    port: int | None = None,
    ready: Callable[[], None] | None = None,
) -> int:
    """Run a server until it ends; its exit code. Whatever ends this call or this process ends the server, too.

    What it prints goes to `log`, where one is given; `ready` is called once something listens on `port`.

    The server runs in a process group of its own, below a keeper that waits for it and for the end of a pipe: the
    system closes that pipe when this process is gone, also where nothing could be done any more (SIGKILL).
    """
    ours, theirs = os.pipe()
    keeper = None
    try:
        keeper = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "gcsearch.tracking.ui", str(ours), *command],
            pass_fds=[ours],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(ours)
        while ready and port and keeper.poll() is None:
            if _listens(port):
                ready()
                break
            time.sleep(0.05)
        return keeper.wait()
    finally:
        os.close(theirs)
        if keeper:
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(2 * _PATIENCE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(keeper.pid, signal.SIGKILL)
            keeper.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _keep(pipe: int, command: Sequence[str]) -> int:
    """What the keeper does: start the server, and end all of its processes once the other end of `pipe` is closed."""
    interrupts.outlived()  # they are meant for the group
    server = subprocess.Popen(command)  # noqa: S603
    end = os.pidfd_open(server.pid)
    wait([pipe, end])
    if server.poll() is None:
        os.killpg(0, signal.SIGTERM)
        wait([end], _PATIENCE)
        os.killpg(0, signal.SIGKILL)
    code = server.wait()
    # Workers of a server that ended by itself.
    os.killpg(0, signal.SIGTERM)
    return code if code >= 0 else 1


if __name__ == "__main__":
    sys.exit(_keep(int(sys.argv[1]), sys.argv[2:]))
