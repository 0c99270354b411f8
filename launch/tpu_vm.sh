#!/usr/bin/env bash
# Trains on a TPU slice of any size, one host or many, from your own machine.
#
#   gcloud compute tpus tpu-vm create my-slice --zone=us-west4-a \
#       --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#   TPU=my-slice ZONE=us-west4-a WORKDIR=/mnt/shared/sit-500 \
#       bash launch/tpu_vm.sh configs/sft.py:safety=500 --config.model.path=HUB_ID \
#       --config.mesh.fsdp=16 --config.mesh.data=1
#
# WORKDIR is on a disk that all hosts mount: Filestore, or a bucket through gcsfuse, with
# --rename-dir-limit=100000 unless it has a hierarchical namespace, because saving a checkpoint
# renames a folder. The hosts need Python 3.11. A gated model needs `hf auth login` on each of them
# once.
#
# The same command goes on with a run that was stopped, preempted or cut off. To stop one (it saves):
#   gcloud compute tpus tpu-vm ssh my-slice --zone=us-west4-a --worker=all \
#       --command='pkill -TERM -o -f safety_jax.main'
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?zone of the slice}" "${WORKDIR:?folder that all hosts write to}"
config="${1:?config to run, such as configs/sft.py:safety=500}"
shift

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

# The checkout travels as a tarball: what runs is what you have here, committed or not.
archive="$(mktemp -t safety_jax.XXXXXX)"
trap 'rm -f "$archive"' EXIT
tar -czf "$archive" --exclude=.git --exclude=.venv --exclude=runs --exclude=./build .
gcloud compute tpus tpu-vm scp "$archive" "$TPU:safety_jax.tgz" --zone="$ZONE" --worker=all
on_all_hosts 'mkdir -p safety_jax && tar -xzf safety_jax.tgz -C safety_jax &&
    cd safety_jax && python3 -m venv .venv && .venv/bin/pip install -q -e ".[tpu,tensorboard]"'

# jax finds the other hosts by the slice's metadata. `nohup` lets the run outlive the ssh session;
# every host keeps its own log, whose last line says why it ended.
# In braces: otherwise a shell waits for the run, holds ssh open, and is what `pkill` finds first.
on_all_hosts "cd safety_jax && { nohup .venv/bin/python -m safety_jax.main --distributed \
    --config=$(printf '%q' "$config") --workdir=$(printf '%q' "$WORKDIR") $([ "$#" = 0 ] || printf '%q ' "$@") \
    > run.log 2>&1 < /dev/null & }"
echo "started; to follow:"
echo "gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --command='tail -f safety_jax/run.log'"
echo "how it ended, on every host:"
echo "gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --worker=all --command='tail -n 1 safety_jax/run.log'"
