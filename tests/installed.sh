#!/usr/bin/env bash
# The wheel as users have it: built, installed into a fresh environment, run far from the checkout.
#
#     bash tests/installed.sh PYTHON [SITE_PACKAGES]
#
# Without SITE_PACKAGES pip installs what the package needs, which takes minutes; with it, that
# folder of another environment has it.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${1:-python3}
case $python in /*) ;; */*) python=$PWD/$python ;; esac  # the folder changes below
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
unset PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3

fail() { echo "error: $1" >&2; exit 1; }

"$python" -m venv "$place/venv"
"$place/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$place" "$checkout"
if [ $# -gt 1 ]; then
    "$place/venv/bin/pip" install --quiet --no-deps "$place"/safety_jax-*.whl
    # Comes after the package in the search, and its own .pth files are not read.
    echo "$2" > "$("$place"/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/needs.pth"
else
    "$place/venv/bin/pip" install --quiet "$place"/safety_jax-*.whl
fi
command=$place/venv/bin/safety-jax
mkdir "$place/elsewhere"
cd "$place/elsewhere"

# What can be asked without a run.
"$command" > listed
for name in dpo evaluate kto orpo plan raft recipe reward score sft; do
    grep -q "^  $name " listed || fail "the list lacks $name"
    "$command" --config="$name" --help | grep -q "^stage  *= '$name'" || fail "no help of $name"
done
"$command" --config=dpo:paper=report --show | grep -q "^model.path .*yahma/llama-7b-hf" \
    || fail "--show does not show"
for words in --config=nowhere --config=sft:demos "--config=sft:demo --config.optim.beta1=1"; do
    # shellcheck disable=SC2086
    if "$command" $words --workdir=run 2> said; then fail "$words is accepted"; fi
    [ "$(wc -l < said)" = 1 ] || fail "$words: $(cat said)"
    grep -q '^error: ' said || fail "$words: $(cat said)"
done

# A run of the demo, one of a config file of one's own, and one by the module.
"$command" --config=sft:demo --config.train.max_steps=2 --workdir=sft
"$python" -c "import json; json.load(open('sft/export/adapter_config.json'))"
cat > mine.py << 'END'
"""Responses of the demo, scored."""
from configs import score
from configs.common import parse_arg


def get_config(arg=None):
    parse_arg(arg)
    return score.get_config("demo")
END
"$command" --config=mine.py --workdir=scores
"$place/venv/bin/python" -m safety_jax.main --config=configs/score.py:demo --workdir=again
cmp scores/scores.jsonl again/scores.jsonl
echo "the installed package works"
