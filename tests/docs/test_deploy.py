"""What `deploy/` holds: held against the schemas and versions in use, and the Slurm script run with stand-ins."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.driver import load

DEPLOY = Path(__file__).parents[2] / "deploy"
PINNED = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", (DEPLOY.parent / "constraints.txt").read_text()))


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_the_versions_are_those_that_the_tests_run_with():
    _, job = documents("rayjob.yaml")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == PINNED["ray"]
    assert f"FROM rayproject/ray:{PINNED['ray']}-py3" in (DEPLOY / "Dockerfile").read_text()
    assert (
        f"mlflow=={PINNED['mlflow']} "
        in documents("compose.yaml")[0]["services"]["mlflow"]["build"]["dockerfile_inline"]
    )


def test_ray_accepts_its_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    (content,) = documents("ray-cluster.yaml")
    validate_config(prepare_config(content))
    assert any("--num-cpus=0" in command for command in content["head_start_ray_commands"])


def test_the_ray_job_has_a_head_that_runs_no_trials_and_nodes_that_share_a_volume():
    claim, job = documents("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted["shared"] == "/shared"
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in pod["volumes"]
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def commands():
    _, job = documents("rayjob.yaml")
    yield job["spec"]["entrypoint"]
    for path in (*DEPLOY.iterdir(), DEPLOY.parent / "docs" / "cluster.md"):
        yield from re.findall(r"gcsearch (?:run|plan|doctor|export|cache)[^'\"`\n#&$]*", path.read_text())


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_of_the_files_exists_with_its_flags(command):
    words = shlex.split(command.replace("[", "").replace("]", ""))
    done = CliRunner().invoke(app, [words[1], "--help"])
    assert done.exit_code == 0
    assert all(word.partition("=")[0] in done.stdout for word in words if word.startswith("--"))


def test_the_pipeline_is_one():
    loaded = load.load(DEPLOY / "pipeline.toml", {"task.pretrained": "openai"})
    assert loaded.resources.address == "auto"
    assert loaded.search.generation == 8


# The Slurm script

STANDINS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": 'echo "$@" >> "$LOG"; while [ "$1" != -- ]; do shift; done; shift; "$@"; code=$?; exit $((code ? 1 : 0))',
    "scontrol": 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "$@" >> "$LOG"; fi',
    "gcsearch": "trap 'echo ended >> \"$LOG\"; exit 143' TERM\n"
    'until [ -s "$notes/pid" ]; do sleep 0.05; done\n'
    'echo "gcsearch $* at $RAY_ADDRESS token ${#RAY_AUTH_TOKEN}" >> "$LOG"\n'
    'while [ ! -e "$LOG.go" ]; do sleep 0.05; done; exit 3',
}


@pytest.fixture
def job(tmp_path):
    """The script running between stand-ins for Slurm, Ray and gcsearch, and what these have been told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STANDINS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "GCSEARCH_STORE": str(tmp_path / "store"),
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "77",
        "SLURM_CPUS_ON_NODE": "4",
    }
    process = subprocess.Popen(["bash", str(DEPLOY / "slurm.sh"), "my.toml", "--set", "a=b c"], env=environment)
    yield process, tmp_path / "log"
    process.kill()
    process.wait()


def wait_for(log: Path, words: str) -> str:
    deadline = time.monotonic() + 90
    while not log.exists() or words not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return log.read_text()


needs_bash = pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")


@needs_bash
def test_the_slurm_script_starts_ray_on_all_nodes_and_ends_as_gcsearch_did(job):
    process, log = job
    text = wait_for(log, " token ")
    assert "symmetric-run --address first:6379 --min-nodes 2 --num-cpus=4 --num-gpus=0 --" in text
    assert "gcsearch run my.toml --set a=b c at first:6379 token 64" in text
    Path(f"{log}.go").touch()
    assert process.wait(90) == 3
    assert "requeue" not in log.read_text()


@needs_bash
def test_a_slurm_job_whose_time_is_up_ends_gcsearch_and_goes_back_into_the_queue(job):
    process, log = job
    wait_for(log, " token ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 143
    assert log.read_text().splitlines()[-2:] == ["ended", "requeue 77"]
