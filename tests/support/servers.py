"""Real servers on loopback for tests: PostgreSQL where the system has it, and an MLflow server over it."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

POSTGRES = Path("/usr/lib/postgresql/15/bin")


def free_port() -> int:
    """A free port that nobody else gets before it is used.

    Between those of Ray's workers, which no head may have, and those that the system gives to whoever asks for any.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("", port))
            return port


def has_postgres() -> bool:
    return (POSTGRES / "initdb").exists()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own in a folder that is thrown away; yields its address.

    It refuses to run as root, so there it runs as the user `postgres` that the system's packages make.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="gcsearch-postgres-")), free_port()
    user: list[str] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    data, quiet = folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    initdb = [POSTGRES / "initdb", "--no-sync", "--auth=trust", "--username=gcsearch", "-D", data]
    subprocess.run([*user, *initdb], check=True, **quiet)
    options = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
    server = subprocess.Popen([*user, POSTGRES / "postgres", *options], **quiet)
    try:
        ready = [POSTGRES / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.1)
        yield f"postgresql+psycopg2://gcsearch@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait(30)
        shutil.rmtree(folder)


class MlflowServer:
    """An MLflow server that can be stopped and started, always at the same address."""

    def __init__(self, database: str, artifacts: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
        self._command += ["--artifacts-destination", artifacts.as_uri(), "--host", "127.0.0.1"]
        self._command += ["--port", str(self.port), "--workers", "1"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 180) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, start_new_session=True, **quiet)
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, "the MLflow server does not start"
                time.sleep(0.2)

    def stop(self) -> None:
        """Kill it with all its processes, as a machine that goes down would."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
