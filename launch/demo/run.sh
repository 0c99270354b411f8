#!/usr/bin/env bash
# The whole ladder on the demo's tiny LLaMA, and a report on it: make demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
export JAX_PLATFORMS=cpu TRANSFORMERS_NO_ADVISORY_WARNINGS=1

# A finished run would only be shown again: start over.
rm -rf runs/demo
"$python" -m safety_jax.main --config=configs/recipe.py:demo --workdir=runs/demo

cat <<'MESSAGE'

runs/demo holds a folder for each step:
  sit/ raft/ dpo/       export/ is the adapter, for peft or vLLM; README.md the model card
  judge/                the judge that chose for RAFT, measured on held-out answers
  report/report.html    all of it on one page, with every answer: open it in a browser
MESSAGE
