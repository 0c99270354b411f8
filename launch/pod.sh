#!/usr/bin/env bash
# Runs a command in a pod of Kubernetes, to which exit code 0 means that the job is done. A run that
# SIGTERM stopped has saved and exits with 0, too: then this exits with 75, and the job starts anew.
set -uo pipefail
"$@" &
run=$!
stopped=no
trap 'stopped=yes; kill -TERM "$run"' TERM

status=0
wait "$run" || status=$?
if [ "$stopped" = yes ]; then # the signal ended `wait`, the run is still saving
    status=0
    wait "$run" || status=$?
    if [ "$status" = 0 ]; then status=75; fi
fi
exit "$status"
