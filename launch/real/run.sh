#!/usr/bin/env bash
# SmolLM2-135M-Instruct made safe by SIT, RAFT and DPO, and a report on all: make real
# One to two hours on two CPU cores. Run again, it goes on where it stopped. Then, in the same folder, what
# holds when somebody pushes: RECIPE=smollm2,pushed make real. What each method pays for its safety:
# RECIPE=smollm2,frontier make real. Which defence holds, in a folder of its own:
# RECIPE=smollm2,defences WORKDIR=runs/smollm2-defences make real
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
arguments="${RECIPE:-smollm2}"
workdir="${WORKDIR:-runs/real}"
export JAX_PLATFORMS=cpu TRANSFORMERS_NO_ADVISORY_WARNINGS=1

"$python" -m launch.real.fetch build/models
"$python" -m safety_jax.main --config="configs/recipe.py:$arguments" --workdir="$workdir"

cat <<MESSAGE

$workdir holds a folder for each step. Of smollm2:
  own/                  what the base answers, and the training data that follow from it
  judge/ looker/        the judge that chooses for RAFT, and the one that only looks on
  sit/ raft/ dpo/       export/ is the adapter, for peft or vLLM; README.md the model card
  report/report.html    all of it on one page, with every answer: open it in a browser
And of RECIPE=smollm2,pushed:
  recovery/             SIT with recovery examples
  pushed/report.html    attacks, conversations and groups; tamper/README.md what tampering undoes
And of RECIPE=smollm2,frontier: frontier/report.html
And of RECIPE=smollm2,defences: docs/defences.md
MESSAGE
