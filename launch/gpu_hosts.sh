#!/usr/bin/env bash
# Trains on GPU machines that ssh reaches and no scheduler knows, from the first of them.
#
#   HOSTS="10.0.0.1 10.0.0.2" WORKDIR=/mnt/shared/sit-500 \
#       bash launch/gpu_hosts.sh configs/sft.py:safety=500 --config.model.path=MODEL \
#       --config.mesh.fsdp=8
#
# Every machine has this checkout in the same place, with `pip install -e '.[cuda]'` in its .venv,
# mounts the disk of WORKDIR, and reaches the first one at PORT. Ctrl-C saves and stops all. After
# that, or a failure, the same command goes on.
set -euo pipefail
: "${HOSTS:?addresses of the machines, this one first}" "${WORKDIR:?folder that all hosts write to}"
port="${PORT:-8476}"
config="${1:?config to run, such as configs/sft.py:safety=500}"
shift
read -r -d '' -a hosts <<<"$HOSTS" || true # blanks or lines between them
: "${hosts[0]:?HOSTS names no machine}"

runs=()
for number in "${!hosts[@]}"; do
    command="cd $(printf '%q' "$PWD") && exec .venv/bin/python -m safety_jax.main --distributed \
        --coordinator=${hosts[0]}:$port --processes=${#hosts[@]} --process=$number \
        --config=$(printf '%q' "$config") --workdir=$(printf '%q' "$WORKDIR") $([ "$#" = 0 ] || printf '%q ' "$@")"
    if [ "$number" = 0 ]; then
        bash -c "$command" &
    else
        ssh -n -o BatchMode=yes "${hosts[$number]}" "$command" &
    fi
    runs+=("$!")
done

# The processes stop together, whichever of them is asked.
trap 'kill -TERM "${runs[0]}" 2>/dev/null || true' INT TERM

status=0
for run in "${runs[@]}"; do
    code=0
    wait "$run" || code=$?
    while kill -0 "$run" 2>/dev/null; do # the signal ended `wait`, the run is still saving
        code=0
        wait "$run" || code=$?
    done
    if [ "$code" != 0 ]; then status="$code"; fi
done
exit "$status"
