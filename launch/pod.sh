#!/usr/bin/env bash
# Runs a command in a pod of Kubernetes, to which exit code 0 means that the job is done. A run that
# SIGTERM stopped has saved and exits with 0, too: then this exits with 75, and the job starts anew.
set -uo pipefail
: "${1:?command to run in the pod}" # with none, Kubernetes would take the job for done
"$@" &
run=$!
stopped=no
trap 'stopped=yes; kill -TERM "$run"' TERM

ended() {
    status=0
    wait "$run" || status=$?
}
ended
if [ "$stopped" = yes ]; then ended; fi # the signal ended `wait`, the run is still saving
while kill -0 "$run" 2>/dev/null; do ended; done # and so did another one
if [ "$stopped" = yes ] && [ "$status" = 0 ]; then status=75; fi
exit "$status"
