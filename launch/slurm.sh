#!/usr/bin/env bash
#SBATCH --job-name=safety_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
# One process a node, each with all GPUs of its node:
#
#   python3 -m venv .venv && .venv/bin/pip install -e '.[cuda]'
#   sbatch launch/slurm.sh configs/sft.py:safety=500 --config.model.path=MODEL \
#       --config.mesh.fsdp=8 --workdir=/shared/runs/sit-500
#
# Two minutes before the time limit Slurm sends SIGTERM, and the run saves; --requeue starts the
# same command again, which continues from there.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start with sbatch}"
config="$1"
shift
# jax reads the rank and the address of the first node from Slurm's own variables.
exec srun --kill-on-bad-exit=1 .venv/bin/python -m safety_jax.main --distributed \
    --config="$config" "$@"
