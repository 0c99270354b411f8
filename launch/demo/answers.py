"""Answers of a model before and after its adapter, side by side; the last part of `make demo`.

python -m launch.demo.answers --model=launch/demo/model --adapter=runs/demo/export
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp

from safety_jax import mesh as meshes
from safety_jax import policy
from safety_jax.data.encode import encode_prompts
from safety_jax.data.prompts import load_template
from safety_jax.data.records import read_prompts
from safety_jax.data.sources import open_source
from safety_jax.data.tokenizer import load_tokenizer
from safety_jax.models import decode, hf, hf_config, lora, peft
from safety_jax.models import folder as folders
from safety_jax.scoring import refusal

GREEDY = decode.Settings(
    temperature=0.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1, length_penalty=1.0,
    candidates=1, max_new_tokens=48,
)  # fmt: skip
PACE = decode.Pace(
    lanes=64, prefill_prompts=64, bucket_tokens=64, chunk_steps=16, cache_dtype=jnp.float32
)


def refuses(answer: str) -> bool:
    return refusal.classify(answer).label in (refusal.FULL, refusal.PARTIAL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--adapter", required=True, help="PEFT folder")
    parser.add_argument("--questions", default="launch/demo/data/held_out.jsonl")
    given = parser.parse_args()

    folder = folders.resolve(given.model)
    config = hf_config.read_config(folder)
    mesh = meshes.build(1, 1, 1, jax.devices()[:1])
    run = policy.execution(config, mesh, compute_dtype="float32", backend="xla", remat="none")
    weights = hf.load(folder, config, mesh, jnp.float32)
    adapters, _settings = peft.load(pathlib.Path(given.adapter), config, mesh)

    tokens = load_tokenizer(folder)
    source = open_source(given.questions)
    records = read_prompts(source)
    prompts = encode_prompts(records, load_template("alpaca", tokens), tokens)
    stop = decode.Stop((), lambda ids: str(tokens.decode(list(ids))))
    setup = decode.Setup(config, run, GREEDY, PACE, (tokens.eos_token_id,), stop)
    columns = []
    for tree in (weights, lora.merge(weights, adapters)):
        found = decode.generate(setup, tree, None, prompts, range(len(prompts)), 0, None)
        columns.append([answer.text for (answer,) in found])

    refused = {"safe": [0, 0, 0], "unsafe": [0, 0, 0]}
    for row, before, after in zip(source.rows, *columns, strict=True):
        print(f"\n{row['instruction']}  ({row['kind']})\n  before: {before}\n  after:  {after}")
        count = refused[row["kind"]]
        count[0] += 1
        count[1] += refuses(before)
        count[2] += refuses(after)
    print()
    for kind, (asked, before, after) in refused.items():
        print(f"{kind} requests refused: {before} of {asked} before, {after} of {asked} after")


if __name__ == "__main__":
    main()
