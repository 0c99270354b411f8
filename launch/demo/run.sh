#!/usr/bin/env bash
# Safety instruction tuning of the demo's tiny LLaMA, then its answers before and after: make demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
export JAX_PLATFORMS=cpu TRANSFORMERS_NO_ADVISORY_WARNINGS=1

# A finished run would only be shown again: start over.
rm -rf runs/demo
"$python" -m safety_jax.main --config=configs/sft.py:demo --workdir=runs/demo
"$python" -m launch.demo.answers --model=launch/demo/model --adapter=runs/demo/export

cat <<'MESSAGE'
(A model of this size knows hardly any facts. What it learned here is what to refuse.)

runs/demo holds the run:
  README.md       the model card          metrics.jsonl   loss, step by step
  plots/          the loss as a picture   export/         the adapter, for peft or vLLM
  config.json     all settings            checkpoints/    to resume from
MESSAGE
