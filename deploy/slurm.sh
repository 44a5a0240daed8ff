#!/bin/bash
# A search on the nodes of a Slurm job:
#
#   sbatch --nodes=4 deploy/slurm.sh pipeline.toml [--set KEY=VALUE ...]
#
# Two minutes before the time is up, and where the job is preempted, gcsearch is asked to end; what has ended is
# in the store, the job is put back into the queue, and goes on from there. Handing it in again does the same.
#
# Set before: GCSEARCH_STORE, a folder that all nodes share; GCSEARCH_CACHE, one that each node can write (node-local
# disks are fine). Activate the environment with gcsearch here or before sbatch.

#SBATCH --job-name=gcsearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

set -uo pipefail

: "${GCSEARCH_STORE:?name a folder that all nodes share}"
export GCSEARCH_STORE

# A token of this job's own, so that no other user of the network can run anything in its Ray.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
# The nodes of a large job are not up at the same moment.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:${GCSEARCH_RAY_PORT:-6379}

# This script runs on the first node, which is the head: a file tells it which process gcsearch is, and how it ended.
notes=$(mktemp -d)
export notes
trap 'rm -rf "$notes"' EXIT

stopped=""
stop() {
    stopped=yes
    if [ -s "$notes/pid" ]; then
        kill -TERM "$(cat "$notes/pid")"
    else
        kill -TERM "$step"   # Ray is still starting
    fi
}
trap stop TERM

# shellcheck disable=SC2016
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_ON_NODE:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
    env "RAY_ADDRESS=$address" bash -c '
        gcsearch run "$@" & echo $! > "$notes/pid"
        wait $!; code=$?
        echo $code > "$notes/code"
        exit $code' gcsearch "$@" &
step=$!
while kill -0 "$step" 2> /dev/null; do
    wait "$step"   # a signal that was caught ends the waiting, not the step
done

# srun reports the worst of all nodes, and those that only lent their cores end with an error when the head goes.
code=$(cat "$notes/code" 2> /dev/null || echo 1)
if [ -n "$stopped" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
