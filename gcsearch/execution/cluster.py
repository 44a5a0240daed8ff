"""A Ray cluster, which is asked before it is joined.

`ray.init` waits for two minutes for a head that is not there, for twenty seconds where the token is wrong,
and ends the process where there is none.  So a cluster is asked first, by a process of its own that may
hang or die (`python -m gcsearch.execution.cluster HOST:PORT`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gcsearch.config.pipeline import cluster_address
from gcsearch.errors import InputError
from gcsearch.execution.placement import Machine

CONNECT_SECONDS = 5
"""A head that takes longer than this to accept a connection is not there."""

ANSWER_SECONDS = 20
"""Starting a process that knows Ray takes one or two; the head answers in milliseconds."""

TOKEN_FILE = Path(".ray", "auth_token")
"""Where Ray looks for a token in the user's home when the environment names none."""


@dataclass(frozen=True)
class Node:
    """One living node of a cluster. `memory` in bytes is what Ray gives to workers; `here`: it is this machine."""

    id: str
    host: str
    cpus: float
    gpus: float
    memory: float
    head: bool
    here: bool

    @property
    def name(self) -> str:
        """For people: host and the beginning of the id, which records carry too."""
        return f"{self.host} ({self.id[:8]})"

    @property
    def machine(self) -> Machine:
        return Machine(int(self.cpus), int(self.gpus))


@dataclass(frozen=True)
class Cluster:
    """A cluster that has answered. `address` is host:port of its head."""

    address: str
    nodes: tuple[Node, ...]

    def describe(self) -> str:
        """For people: `10.0.0.5:6379: 3 nodes, 24 CPUs, 2 GPUs`."""
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        count = f"{len(self.nodes)} node" + "s" * (len(self.nodes) != 1)
        return f"{self.address}: {count}, {cpus:g} CPUs, {gpus:g} GPUs"


def find(address: str | None = None) -> Cluster | None:
    """The cluster to run on: that of RAY_ADDRESS, else of `address`; None for a Ray of this machine's own.

    The environment comes first because it says where a command runs now (`ray job submit` sets it), while a
    file says where it once ran.

    Raises:
        InputError: the address is no address, nobody answers there, the cluster wants another token, or this
            machine is no node of it.
    """
    given, key = (os.environ["RAY_ADDRESS"], "RAY_ADDRESS") if os.environ.get("RAY_ADDRESS") else (address, None)
    key = key or "resources.address"
    try:
        if given is None or cluster_address(given) == "local":
            return None
        with token_mode():
            return _ask(given)
    except InputError as error:
        raise error.at(key=key) from None


def check_workers(cluster: Cluster) -> None:
    """InputError where no node of the cluster runs trials: a head is often started without cores."""
    if not any(node.cpus >= 1 for node in cluster.nodes):
        raise InputError(
            "no worker node has joined the cluster, so there is none to run trials on",
            key="resources.address",
            received=cluster.describe(),
            remedy=f"On each worker: ray start --address={cluster.address} (with RAY_AUTH_MODE=token where the cluster "
            "asks for its token). Or start the head with cores: ray start --head --num-cpus N.",
        )


def _ask(address: str) -> Cluster:
    _check_token_file()
    if address != "auto":
        _check_port(address)
    answer = _answer(address)
    if "error" in answer:
        raise _refusal(address, answer["error"])
    cluster = Cluster(answer["address"], tuple(Node(**node) for node in answer["nodes"]))
    if not any(node.here for node in cluster.nodes):
        raise InputError(
            "a sweep is driven from a node of its cluster, and this machine is none",
            received=f"{cluster.describe()}: {', '.join(node.host for node in cluster.nodes)}",
            remedy="Run it on the head, hand it in with `ray job submit`, or join: ray start --address "
            f"{cluster.address} --num-cpus 0",
        )
    return cluster


def _check_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            "nothing answers at the cluster's address",
            received=f"{address}: {error.strerror or error}",
            remedy="Is the head running there (ray start --head), and its port open to this machine? "
            "RAY_ADDRESS=local runs without a cluster.",
        ) from None


def _answer(address: str) -> dict[str, Any]:
    """What the process that asks the head has found out: its nodes, or an error."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "gcsearch.execution.cluster", address]
    try:
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"TimeoutError: no answer in {ANSWER_SECONDS} seconds"}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}


def _refusal(address: str, error: str) -> InputError:
    kind, _, text = error.partition(": ")
    if kind == "AuthenticationError":
        return _wrong_token(address)
    if address == "auto":
        rule, received = "a Ray must be running on this machine for `auto`", "none"
        return InputError(rule, received=received, remedy="Start one (ray start --head), or write host:port of a head.")
    return InputError(
        "what answers at the cluster's address must be the head of a Ray cluster",
        received=f"{address}: {text or error}",
        remedy="Write the port that `ray start --head` names (6379 where nothing else was asked for).",
    )


# --- Tokens ---------------------------------------------------------------------------------------------


def token_source() -> str:
    """Where Ray finds the token of this process, in its own order; empty where there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"the file {os.environ['RAY_AUTH_TOKEN_PATH']} (RAY_AUTH_TOKEN_PATH)"
    file = Path.home() / TOKEN_FILE
    return f"the file {file}" if file.is_file() and file.stat().st_size else ""


@contextlib.contextmanager
def token_mode() -> Iterator[None]:
    """Show a token that is there for the time of the block, as `ray start` does, but `ray.init` does not.

    A cluster without tokens takes no notice of it. What the user has set in RAY_AUTH_MODE stays as it is.
    """
    if os.environ.get("RAY_AUTH_MODE") or not token_source():
        yield
        return
    try:
        _set_mode("token")
        yield
    finally:
        _set_mode("disabled")
        os.environ.pop("RAY_AUTH_MODE", None)


def _set_mode(mode: str) -> None:
    """Ray reads mode and token once, when it is imported, and again when told; else it is enough to set it.

    With a token of old, this process would turn away the calls of the next cluster that it joins or starts: there
    every actor dies "before it started running".
    """
    os.environ["RAY_AUTH_MODE"] = mode
    module = sys.modules.get("ray._raylet")
    if module is not None:
        module.Config.initialize("")
        module.AuthenticationTokenLoader.instance().reset_cache()


def _check_token_file() -> None:
    """Ray ends the process where a token is asked for and cannot be read."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    if path and not (Path(path).is_file() and os.access(path, os.R_OK) and Path(path).read_text().strip()):
        rule, remedy = "the file of the cluster's token must be readable and not empty", "Copy it from the head."
        raise InputError(rule, key="RAY_AUTH_TOKEN_PATH", received=path, remedy=remedy)
    if not token_source():
        raise InputError(
            "RAY_AUTH_MODE=token needs the token of the cluster",
            key="RAY_AUTH_MODE",
            received=f"no token: neither RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH nor {Path.home() / TOKEN_FILE}",
            remedy="Ask the head for it: ray get-auth-token",
        )


def _wrong_token(address: str) -> InputError:
    mode, source = os.environ.get("RAY_AUTH_MODE", ""), token_source()
    if mode == "token":
        received, remedy = f"another one, from {source}", "Put the token of the head in its place: ray get-auth-token"
    elif source:
        received = f"none: RAY_AUTH_MODE={mode} hides the one from {source}"
        remedy = "Set RAY_AUTH_MODE=token, or leave it out."
    else:
        received = "none"
        remedy = f"Copy the head's (ray get-auth-token) to {Path.home() / TOKEN_FILE}, or set RAY_AUTH_TOKEN."
    return InputError(f"the cluster at {address} asks for its token", received=received, remedy=remedy)


# --- The process that asks --------------------------------------------------------------------------------


def _nodes(address: str) -> dict[str, Any]:
    """Ask the head for its nodes, with Ray's own client and before `ray.init`."""
    from ray._private.services import canonicalize_bootstrap_address_or_die, find_node_ids
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    found = canonicalize_bootstrap_address_or_die(address)
    here = find_node_ids()
    nodes = []
    for info in GcsClient(address=found).get_all_node_info(timeout=CONNECT_SECONDS).values():
        if info.state != GcsNodeInfo.ALIVE:
            continue
        resources = dict(info.resources_total)
        nodes.append(
            Node(
                id=info.node_id.hex(),
                host=info.node_manager_hostname or info.node_manager_address,
                cpus=resources.get("CPU", 0),
                gpus=resources.get("GPU", 0),
                memory=resources.get("memory", 0),
                head=info.is_head_node,
                here=info.node_id.hex() in here,
            )
        )
    nodes.sort(key=lambda node: (not node.head, node.host, node.id))
    return {"address": found, "nodes": [asdict(node) for node in nodes]}


def main(address: str) -> None:
    """Print one line of JSON: the nodes of the cluster at `address`, or the error."""
    try:
        answer = _nodes(address)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
