#!/usr/bin/env bash
#SBATCH --job-name=safety_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180
# One process a node, each with all GPUs of its node:
#
#   python3 -m venv .venv && .venv/bin/pip install -e '.[cuda]'
#   sbatch launch/slurm.sh configs/sft.py:safety=500 --config.model.path=MODEL \
#       --config.mesh.fsdp=8 --workdir=/shared/runs/sit-500
#
# Three minutes before the time limit Slurm sends SIGTERM: the run saves and ends, and the job goes
# back into the queue, where the same command goes on. So it does when a node or a process is lost.
# A mistake of the user's (exit code 2) is not tried again.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start with sbatch}"
config="${1:?config to run, such as configs/sft.py:safety=500}"
shift

# jax reads rank and address of the first node from Slurm's variables. It would give each process
# the one GPU of its number on the node; one process a node has all of them.
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
    JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))"
    export JAX_LOCAL_DEVICE_IDS
fi

# When a process fails the others find out why, say so and end; Slurm need not kill them at once.
srun --kill-on-bad-exit=0 --wait=120 .venv/bin/python -m safety_jax.main --distributed \
    --config="$config" "$@" &
run=$!
stopped=no
trap 'stopped=yes; kill -TERM "$run"' TERM # srun passes it on to every process

ended() {
    status=0
    wait "$run" || status=$?
}
ended
if [ "$stopped" = yes ]; then ended; fi # the signal ended `wait`, the run is still saving
while kill -0 "$run" 2>/dev/null; do ended; done # and so did another one

if { [ "$stopped" = yes ] || [ "$status" != 0 ]; } && [ "$status" != 2 ] &&
    [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "${SLURM_JOB_ID:?}"
fi
exit "$status"
