"""A server ends with the process that has started it, however that one ends; and a port that is taken is named."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.errors import InputError
from gcsearch.tracking import ui
from tests.support.servers import free_port

# A server as MLflow's is one: it starts another process, which listens. It is slow to end.
SERVER = """
import os, signal, socket, subprocess, sys, time
if len(sys.argv) == 2:
    raise SystemExit(subprocess.call([sys.executable, sys.argv[0], sys.argv[1], "worker"]))
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), os._exit(0)))
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    time.sleep(1)
"""

SERVES = (
    "import sys; from gcsearch.tracking import ui as serving; sys.exit(serving.serve([sys.executable, *sys.argv[1:]]))"
)


def answers(port) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def becomes(expected, port, seconds=30) -> bool:
    deadline = time.monotonic() + seconds
    while answers(port) is not expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return answers(port) is expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_server_ends_with_the_process_that_started_it(number, tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVES, tmp_path / "server.py", str(port)],
        env={**os.environ, "PYTHONPATH": os.curdir},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    assert becomes(True, port)
    process.send_signal(number)
    process.wait(30)
    assert becomes(False, port)


def test_the_end_of_a_server_is_the_end_of_the_call():
    assert ui.serve([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_what_a_server_says_goes_to_its_log(tmp_path, capfd):
    with (tmp_path / "log").open("w+b") as log:
        assert ui.serve([sys.executable, "-c", "import os; os.write(1, b'one '); os.write(2, b'two')"], log) == 0
    assert (tmp_path / "log").read_text() == "one two"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_that_another_process_has_is_refused(family):
    kind = socket.AF_INET6 if ":" in family else socket.AF_INET
    with socket.socket(kind) as taken:
        taken.bind((family, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: another process listens .*got {port}"):
            ui.check_port(port)
    ui.check_port(port)


def test_a_port_of_the_administrator_is_refused(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ui.socket.socket, "bind", refuse)
    with pytest.raises(InputError, match="--port: only the administrator may use this port, got 80"):
        ui.check_port(80)


@pytest.mark.parametrize("port", ["0", "-1", "70000", "http"])
def test_what_is_no_port_is_refused(port, tmp_path):
    done = CliRunner().invoke(app, ["ui", "--store", str(tmp_path), "--port", port])
    assert done.exit_code == 2
    assert "--port" in done.output
