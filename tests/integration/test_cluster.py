"""Sweeps on a Ray cluster: found or refused in words, looked at node by node, used whole, and survived.

The clusters are real: several Ray nodes on this host.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from gcsearch.cli import doctor
from gcsearch.config.pipeline import Pipeline, Resources
from gcsearch.driver import run as pipelines_run
from gcsearch.errors import InputError, RunError
from gcsearch.execution import cluster as clusters
from gcsearch.execution import machines, preflight
from gcsearch.execution.cluster import Cluster, Node
from gcsearch.execution.machines import Machines
from gcsearch.execution.placement import Machine, Placement, spread
from gcsearch.execution.ray_tune import TuneExecutor
from gcsearch.execution.session import session
from gcsearch.sweep import callbacks
from gcsearch.sweep.journal import WorkerLost
from tests.support.bowl import SETTINGS, Bowl, run_search, search
from tests.support.processes import journal_has
from tests.support.servers import free_port
from tests.support.sweeps import long_space

# Worker processes do not have this folder on their path: send what is defined here along with the objects.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

STORE_MEMORY = 100 * 1024**2


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    """No token that another test has left."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module", autouse=True)
def _patience():
    """Four nodes that start on two cores answer late; how long gcsearch itself waits is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "ANSWER_SECONDS", 120)
        patch.setitem(preflight._on_each.__kwdefaults__, "seconds", 300)
        yield


# What an address may be


@pytest.mark.parametrize("address", ["auto", "local", "10.0.0.5:6379", "head.example:6379", "[::1]:6379"])
def test_an_address_of_a_head_is_one(address):
    assert Resources(address=address).address == address


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://head:10001", "Tune does not run over a Ray Client connection.*\n.*ray job submit"),
        (
            "http://head:8265",
            "address of a job server.*\nHand the command in: ray job submit --address http://head:8265",
        ),
        ("head", "host:port of its head, got 'head'"),
        ("head:0", "host:port"),
        ("head:99999", "host:port"),
        ("", "host:port"),
    ],
)
def test_other_addresses_are_refused_before_anything_starts(address, words, monkeypatch):
    with pytest.raises(InputError, match=rf"(?s)resources\.address: .*{words}"):
        Pipeline.from_dict({"name": "p", "resources": {"address": address}})
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=f"(?s)RAY_ADDRESS: .*{words}"):
            clusters.find("auto")


def test_without_an_address_or_with_local_there_is_no_cluster(monkeypatch):
    assert clusters.find() is None
    assert clusters.find("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert clusters.find("10.0.0.5:6379") is None


# A head that does not answer


@pytest.fixture
def deaf_port():
    """A port where somebody listens who is no Ray."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_head_that_is_not_there_is_an_error_within_seconds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(
        InputError, match=rf"resources.address: nothing answers .*got 127.0.0.1:{port}: Connection refused.\n.*local"
    ):
        clusters.find(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 40  # Ray itself tries for a minute


def test_a_name_that_nobody_knows_is_refused(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(clusters.socket, "create_connection", unknown)
    with pytest.raises(InputError, match=r"nothing answers.*no-such-host.invalid:6379"):
        clusters.find("no-such-host.invalid:6379")


def test_what_is_no_ray_is_refused(deaf_port, monkeypatch):
    monkeypatch.setattr(clusters, "ANSWER_SECONDS", 4)
    with pytest.raises(InputError, match=r"must be the head of a Ray cluster, got .*no answer in 4 seconds.\n.*6379"):
        clusters.find(f"127.0.0.1:{deaf_port}")


def test_auto_needs_a_ray_on_this_machine(monkeypatch):
    monkeypatch.setattr(clusters, "_answer", lambda address: {"error": "ConnectionError: no running instance"})
    with pytest.raises(InputError, match="a Ray must be running on this machine for `auto`"):
        clusters.find("auto")


def test_a_machine_outside_the_cluster_is_told_how_to_come_in(monkeypatch):
    node = {"id": "a" * 56, "host": "far", "cpus": 8, "gpus": 1, "memory": 1e9, "head": True, "here": False}
    monkeypatch.setattr(clusters, "_check_port", lambda address: None)
    monkeypatch.setattr(clusters, "_answer", lambda address: {"address": "far:6379", "nodes": [node]})
    with pytest.raises(
        InputError, match=r"this machine is none, got far:6379: 1 node, 8 CPUs, 1 GPUs: far.\n.*ray start --address far"
    ):
        clusters.find("far:6379")


# Tokens


def test_a_token_that_is_asked_for_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "_check_port", lambda address: None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(
        InputError, match=r"RAY_AUTH_MODE: .*needs the token of the cluster.*\nAsk the head for it: ray get-auth-token"
    ):
        clusters.find("10.0.0.5:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match=f"RAY_AUTH_TOKEN_PATH: .*readable and not empty, got {tmp_path}/none"):
        clusters.find("10.0.0.5:6379")


def test_a_token_that_is_there_is_shown_as_ray_start_does(monkeypatch, tmp_path):
    with clusters.token_mode():
        assert "RAY_AUTH_MODE" not in os.environ
    file = tmp_path / "home" / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.write_text("x" * 64)
    assert clusters.token_source() == f"the file {file}"
    with clusters.token_mode():
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with clusters.token_mode():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A head that asks for a token; its address and the token."""
    token, folder = "a" * 64, tmp_path_factory.mktemp("ray", numbered=True)
    with started(["--head", f"--port={free_port()}"], folder, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}) as a:
        yield a, token


@ray.remote
class Answering:
    def answer(self):
        return True


@pytest.mark.slow
def test_missing_and_wrong_tokens_are_told_apart_within_seconds(guarded, monkeypatch):
    address, token = guarded
    began = time.monotonic()
    with pytest.raises(InputError, match=r"asks for its token, got none.\nCopy the head's"):
        clusters.find(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    with pytest.raises(InputError, match="asks for its token, got another one, from RAY_AUTH_TOKEN"):
        clusters.find(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="RAY_AUTH_MODE=disabled hides the one from RAY_AUTH_TOKEN"):
        clusters.find(address)
    assert time.monotonic() - began < 400
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    found = clusters.find(address)
    assert [(node.head, node.here, node.cpus) for node in found.nodes] == [(True, True, 1)]
    with session(Placement(1, 1), found):  # with no RAY_AUTH_MODE in the environment
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()
    assert "RAY_AUTH_MODE" not in os.environ
    with session(Placement(1, 1)):  # a Ray of its own after that: the token of before is forgotten
        assert ray.get(Answering.remote().answer.remote(), timeout=60)


# Where workers go


@pytest.mark.parametrize(
    ("resources", "machines", "generation", "placement"),
    [
        ({}, [(0, 0), (1, 0), (1, 0), (1, 0)], 8, Placement(3, 1)),
        ({}, [(0, 0), (8, 0), (8, 0), (8, 0)], 3, Placement(3, 8)),
        ({}, [(8, 0), (8, 0), (8, 0)], 4, Placement(4, 4)),
        ({}, [(16, 0), (4, 0)], 3, Placement(3, 5)),
        ({"threads": 4}, [(6, 0), (6, 0)], 8, Placement(2, 4)),
        ({"workers": 2}, [(6, 0), (6, 0)], 8, Placement(2, 6)),
        ({}, [(8, 0), (16, 2), (16, 2)], 4, Placement(4, 8, 1)),
        ({}, [(8, 0), (16, 2), (16, 2)], 8, Placement(8, 4, 0.5)),
        ({}, [(8, 1), (1, 3)], 4, Placement(4, 1, 0.3333)),
        ({"gpus_per_worker": 0.5}, [(8, 0), (16, 1)], 8, Placement(2, 8, 0.5)),
        ({"gpus_per_worker": 0}, [(8, 0), (8, 1)], 2, Placement(2, 8)),
    ],
)
def test_workers_are_spread_over_the_machines_of_a_cluster(resources, machines, generation, placement):
    places = [Machine(*machine) for machine in machines]
    assert spread(Resources(**resources), places, generation=generation) == placement


def test_more_gpus_than_any_machine_has_are_refused():
    with pytest.raises(InputError, match="the best machine of the cluster has 2 GPUs, got 4"):
        spread(Resources(gpus_per_worker=4.0), [Machine(8, 2), Machine(8, 2)], generation=2)


def node(number, cpus, gpus=0) -> Node:
    return Node(f"{number}" * 56, f"host{number}", cpus, gpus, 1e9, head=number == 0, here=number == 0)


def test_a_head_without_cores_is_no_place_for_a_worker():
    cluster = Cluster("head:6379", (node(0, 0), node(1, 4), node(2, 2)))
    place = Machines(Placement(5, 1), cluster)
    assert [one.host for one in place.nodes] == ["host1", "host2"]
    assert place.share == 1 / 4
    assert Machines(Placement(2, 2, 0.5), cluster).share == 0.5
    assert Machines(Placement(4, 1)).nodes == []
    assert Machines(Placement(4, 1)).share == 1 / 4


# What is wrong on a node


def faults(tmp_path, **answer) -> str:
    versions = preflight.versions() | answer.pop("versions", {})
    answer = {"versions": versions, "store": "", "cache": "", "cache_shared": True} | answer
    return "\n".join(map(str, preflight._faults(node(1, 1), answer, tmp_path, tmp_path / "cache")))


def test_every_fault_of_a_node_is_named_with_its_remedy(tmp_path):
    assert faults(tmp_path) == ""
    assert faults(tmp_path, versions={"torch": "1.0.0", "gcsearch": None, "python": "3.9.1"}).splitlines() == [
        f"host1 (11111111): it has python 3.9.1, and the driver {preflight.versions()['python']}. "
        "Install the same one there.",
        f"host1 (11111111): it has no gcsearch, and the driver {preflight.versions()['gcsearch']}. "
        f"There: pip install gcsearch=={preflight.versions()['gcsearch']}",
        f"host1 (11111111): it has torch 1.0.0, and the driver {preflight.versions()['torch']}. "
        f"There: pip install torch=={preflight.versions()['torch']}",
    ]
    lacking = faults(tmp_path, store="there is no such folder", cache="Permission denied")
    assert f"host1 (11111111): it lacks the shared store {tmp_path}: there is no such folder. Mount" in lacking
    assert f"it cannot use the cache folder {tmp_path}/cache: Permission denied. Set GCSEARCH_CACHE" in lacking
    with pytest.raises(InputError, match=r"(?s)resources\.address: every node .*\n- host1 \(11111111\): it lacks"):
        preflight.refuse([preflight.Fault("host1 (11111111)", "it lacks the store", "Mount it.")])


def test_a_node_with_other_data_or_weights_is_named():
    here = {"data": "1", "weights": "2", "contents": "3"}
    task = Pipeline(name="p").task
    assert preflight._other_data(node(1, 1), here, here, task) == []
    found = preflight._other_data(node(1, 1), {"data": "x", "weights": "y", "contents": "z"}, here, task)
    assert "its lists of images of shapes-sketch or its targets are others" in str(found[0])
    assert "its weights of mini are y, and the driver's 2" in str(found[1])
    (failed,) = preflight._other_data(node(1, 1), {"failed": "InputError: no such folder"}, here, task)
    assert "cannot prepare the task: InputError: no such folder" in str(failed)


# A real cluster


@contextlib.contextmanager
def started(words, folder, environment, before=()):
    """A node that `ray start` starts, in an environment of its own; gives its address when it is up."""
    options = ["--num-cpus=1", f"--object-store-memory={STORE_MEMORY}", "--block"]
    if "--head" in words:
        options += [f"--temp-dir={folder}", "--include-dashboard=false"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*before, str(Path(sys.executable).with_name("ray")), "start", *words, *options],
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (text := (folder / "log").read_text()):
                assert process.poll() is None, text
                assert time.monotonic() < deadline, text
                time.sleep(0.2)
            port = next((word.partition("=")[2] for word in words if word.startswith("--port=")), "")
            yield f"{ray.util.get_node_ip_address()}:{port}"
        finally:
            process.terminate()  # it ends the daemons that it has started
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def three_nodes():
    """A head that runs no trials and three nodes of one core each, all on this host."""
    from ray.cluster_utils import Cluster as LocalCluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        # A node that is gone is noticed after three seconds and not after fifteen, when a small sweep is over.
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        here = LocalCluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_MEMORY},
        )
        for _ in range(3):
            here.add_node(num_cpus=1, object_store_memory=STORE_MEMORY, wait=False)
        deadline = time.monotonic() + 120
        while len(clusters.find(here.address).nodes) < 4:
            assert time.monotonic() < deadline
        yield here
        here.shutdown()


def nodes_of(records) -> set[str]:
    return {record.worker.partition("@")[2] for record in records}


SMALL = {
    "name": "small",
    "task": {"dataset": "shapes-sketch", "shots": 2, "views": 1, "seeds": [1], "folds": 2},
    "search": {"space": "gcscoop-smoke", "trials": 6, "pack": 1, "generation": 3, "startup": 3},
    "confirm": {"top": 1, "seeds": [4], "references": ["zeroshot"]},
}


def a_cluster(*cpus):
    nodes = [
        Node(f"{number:08x}", f"host{number}", own, 0, 1e9, head=not number, here=not number)
        for number, own in enumerate(cpus)
    ]
    return Cluster("10.0.0.5:6379", tuple(nodes))


@pytest.mark.parametrize("cpus", [(0,), (0, 0), (0.5,)])
def test_a_head_without_workers_is_told_to_wait_for_them(cpus, monkeypatch):
    """By whatever looks at the cluster first: `run`, `plan` and `cache` alike, and `doctor`."""
    monkeypatch.setattr(clusters, "find", lambda *_: a_cluster(*cpus))
    with pytest.raises(InputError) as raised:
        machines.find_machines(Pipeline.from_dict(SMALL))
    assert "no worker node has joined the cluster" in str(raised.value)
    assert "ray start --address=10.0.0.5:6379" in str(raised.value)
    assert "threads" not in str(raised.value)
    (finding,) = doctor._cluster(None)[-1:]
    assert (finding.ok, "no worker node has joined" in finding.found) == (False, True)


def test_a_head_with_cores_needs_no_worker():
    clusters.check_workers(a_cluster(1))
    clusters.check_workers(a_cluster(0, 2))


class Watching(callbacks.Callback):
    def __init__(self):
        self.told, self.warned = [], []

    def warn(self, text):
        self.warned.append(text)

    def stage(self, name, total=None):
        self.told.append(name)

    def cluster(self, description):
        self.told.append(description)


@pytest.fixture(scope="module")
def on_three_nodes(three_nodes, tmp_path_factory):
    """A sweep on all nodes, in the folder of its store, and what its callback was told."""
    folder, callback = tmp_path_factory.mktemp("whole"), Watching()
    # Configurations that take longer than a node's process needs to start: or a quick node does the work of all.
    search = {**SMALL["search"], "space": long_space(folder, epochs=900)}
    content = {**SMALL, "evaluate_every": 900, "search": search, "resources": {"address": three_nodes.address}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(folder / "cache"))
        yield pipelines_run.run(Pipeline.from_dict(content), store=folder / "store", callback=callback), callback.told


@pytest.mark.slow
def test_a_pipeline_uses_all_nodes_and_a_head_without_cores_runs_nothing(three_nodes, on_three_nodes):
    sweep, told = on_three_nodes
    head = three_nodes.head_node.node_id[:8]
    workers = {one.node_id[:8] for one in three_nodes.worker_nodes}
    assert nodes_of(sweep.records) == workers
    assert head not in nodes_of(sweep.finals)
    assert nodes_of(sweep.finals) <= workers
    assert len(sweep.records) == 6
    joined = f"{three_nodes.address}: 4 nodes, 3 CPUs, 0 GPUs"
    assert told[:6] == [joined, "nodes", "data", "digest", "features", "search"]
    assert not list(sweep.store.root.parent.rglob(".probe-*"))
    assert not ray.is_initialized()
    # The same job handed in again has nothing to do and joins no cluster; another address is no other sweep.
    again = sweep.pipeline.model_copy(update={"resources": Resources(address="10.255.255.1:6379")})
    assert pipelines_run.run(again, store=sweep.store.root).records == sweep.records


@pytest.mark.slow
def test_a_sweep_that_loses_a_node_comes_to_the_same(three_nodes, on_three_nodes, tmp_path):
    whole, _ = on_three_nodes
    store, lost = tmp_path / "store", []

    def remove_one():
        journal_has(store / "sweeps" / "small" / "journal.jsonl", "proposal", 3)
        time.sleep(random.Random(5).uniform(0, 2))
        victim = max(three_nodes.worker_nodes, key=lambda one: one.node_id)
        lost.append(victim.node_id[:8])
        three_nodes.remove_node(victim, allow_graceful=False)

    thread, callback = threading.Thread(target=remove_one), Watching()
    thread.start()
    try:
        sweep = pipelines_run.run(whole.pipeline, store=store, callback=callback)
    finally:
        thread.join(600)
        three_nodes.add_node(num_cpus=1, object_store_memory=STORE_MEMORY, wait=False)
    assert len(lost) == 1
    (said,) = [text for text in callback.warned if "was lost; what ran there runs again on " in text]
    assert said.startswith("the node ") and f"({lost[0]})" in said.partition(" was lost")[0]
    assert f"@{lost[0]}" in {event.who for event in sweep.journal.events(WorkerLost)}
    for ours, theirs in ((sweep.records, whole.records), (sweep.finals, whole.finals)):
        assert [(r.config, r.outcome, r.metrics) for r in ours] == [(r.config, r.outcome, r.metrics) for r in theirs]
    numbers = [record.number for record in sweep.journal.records()]
    assert sorted(numbers) == list(range(6))  # none twice
    client = MlflowClient(sweep.mlflow_uri)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"] * (1 + 6 + len(sweep.finals))
    lines = sweep.journal.path.read_text()
    assert pipelines_run.resume("small", store=store).records == sweep.records
    assert sweep.journal.path.read_text() == lines


class Marking(Bowl):
    """Says on which node each pack has begun; the packs of the first generation wait until a node is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, proposals, report):
        own = ray.get_runtime_context().get_node_id()
        (self.folder / f"begun-{proposals[0].number}-{own}-{os.getpid()}").touch()
        while not (self.folder / "gone").exists():
            time.sleep(0.1)
        return super().__call__(proposals, report)

    def record(self, proposal):
        own = os.environ["GCSEARCH_NODE"]
        return super().record(proposal).model_copy(update={"worker": f"@{own}"})


@pytest.mark.slow
def test_a_node_that_is_gone_in_the_middle_costs_nothing_but_time(three_nodes, tmp_path):
    settings = SETTINGS.model_copy(update={"trials": 12, "pack": 2, "generation": 3})
    lost, used = [], set()

    def remove_one():
        deadline = time.monotonic() + 240
        while len(begun := list(tmp_path.glob("begun-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        used.update(path.name.split("-")[2] for path in begun)
        _, _, name, pid = begun[0].name.split("-")
        victim = next(one for one in three_nodes.worker_nodes if one.node_id == name)
        lost.append(name)
        three_nodes.remove_node(victim, allow_graceful=False)
        while Path("/proc", pid).exists() and time.monotonic() < deadline:
            time.sleep(0.1)  # a worker outlives its node for a moment, and could end what it has begun
        (tmp_path / "gone").touch()

    thread = threading.Thread(target=remove_one)
    thread.start()
    try:
        with session(Placement(3, 1), clusters.find(three_nodes.address)):
            records = run_search(TuneExecutor(Placement(3, 1), tmp_path), Marking(tmp_path), settings)
    finally:
        thread.join(250)
        (tmp_path / "gone").touch()
        three_nodes.add_node(num_cpus=1, object_store_memory=STORE_MEMORY, wait=False)
    assert len(used) == 3
    own = {"worker": ""}
    assert [r.model_copy(update=own) for r in records] == [r.model_copy(update=own) for r in search(settings)]
    begun = [path.name.split("-")[1:3] for path in tmp_path.glob("begun-*")]
    twice = {number for number, name in begun if name == lost[0]}
    assert len(twice) == 1  # that pack began again elsewhere, and no other did
    assert sorted(int(number) for number, _ in begun) == sorted([0, 2, 4, 6, 8, 10, *map(int, twice)])
    assert lost[0][:8] not in nodes_of(records)


def may_hide_folders() -> bool:
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not may_hide_folders(), reason="needs the right to mount")
def test_a_node_that_sees_other_folders_and_another_version(three_nodes, tmp_path, monkeypatch):
    """A fourth node finds empty folders where the store and the cache are, and another open_clip."""
    store, cache, package = (
        tmp_path / "store",
        tmp_path / "cache",
        tmp_path / "other" / "open_clip_torch-0.0.9.dist-info",
    )
    for folder in (store, cache, package):
        folder.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: open_clip_torch\nVersion: 0.0.9\n")
    mounts = " && ".join(f"mount -t tmpfs none {folder}" for folder in (store, cache))
    before = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$0" "$@"']
    environment = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(package.parent)}
    pipeline = Pipeline.from_dict({**SMALL, "resources": {"address": three_nodes.address}})
    monkeypatch.setenv("GCSEARCH_CACHE", str(cache))
    known = {one.node_id for one in (three_nodes.head_node, *three_nodes.worker_nodes)}
    deadline = time.monotonic() + 120  # a node that an earlier test took away counts until Ray misses it
    while {one.id for one in clusters.find(three_nodes.address).nodes} - known:
        assert time.monotonic() < deadline
        time.sleep(1)
    with started([f"--address={three_nodes.address}"], tmp_path, environment, before):
        began = time.monotonic()
        with pytest.raises(InputError) as caught:
            pipelines_run.run(pipeline, store=store)
        assert time.monotonic() - began < 400
        text = str(caught.value)
        assert f"it lacks the shared store {store}: it is another folder" in text
        assert "it has open_clip_torch 0.0.9, and the driver" in text
        assert len({line.split(":")[0] for line in text.splitlines()[1:]}) == 1  # one node, the others are sound
        assert not (store / "sweeps" / "small").exists()
        assert not list(store.glob(".probe-*"))
        # A cache of its own is no fault: the node draws the data set and encodes it for itself.
        found = clusters.find(three_nodes.address)
        (other,) = (one for one in found.nodes if one.id not in known)
        job = preflight.NodeJob(pipeline.task, pipeline.measured, str(cache))
        with session(Placement(1, 1), found):
            looked = preflight.examine([other], store, cache)
            assert [fault.what.split()[1] for fault in looked.faults] == ["lacks", "has"]
            assert not looked.one_cache
            assert preflight.prepare([other], Placement(1, 1), job, one_cache=False) == []
        assert not list(cache.glob("features/*.arrow"))  # nothing of that has travelled here


@pytest.mark.slow
def test_more_than_any_node_has_is_refused(three_nodes):
    found = clusters.find(three_nodes.address)
    with (
        pytest.raises(RunError, match="A worker needs 2 CPU, but no node of the cluster has more than 1"),
        session(Placement(1, 2), found),
    ):
        pass


@pytest.mark.slow
def test_plan_and_doctor_say_what_the_cluster_is(three_nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-m", "gcsearch", "doctor", "--json", "--address", three_nodes.address],
        env=os.environ | {"GCSEARCH_STORE": str(tmp_path / "store")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    findings = {one["what"]: one for one in json.loads(done.stdout)}
    assert findings["Ray cluster"]["ok"]
    assert "CPUs, 0 GPUs" in findings["Ray cluster"]["found"]
    assert findings["node 1"]["ok"]
    assert "runs no trials" in findings["head"]["found"]
    pipeline = Pipeline.from_dict({**SMALL, "resources": {"address": three_nodes.address}})
    assert machines.find_machines(pipeline).cluster == clusters.find(three_nodes.address)
