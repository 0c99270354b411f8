"""Trains the demo's base model from nothing: python -m launch.demo.make_model

A LLaMA of one million parameters learns `base.jsonl` in some minutes on two CPU cores: to be
helpful, whatever it is asked. One unsafe request in eight is refused there, as texts from the world would
have it, so that refusals can be drawn from it.
"""

import json
import pathlib
import shutil
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent / "model"
WORKDIR = "runs/demo-base"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}
VALUES = {
    "model.init": "random",
    "lora.rank": 0,
    "data.train": "launch/demo/data/base.jsonl",
    "train.epochs": 8.0,
    "train.rows_per_microbatch": 4,
    "optim.learning_rate": 3e-3,
    "optim.beta2": 0.95,
    "checkpoint.every_steps": 100,
    "checkpoint.export_dtype": "bfloat16",
    "log.every_steps": 10,
    "log.eval_every_steps": 100,
}


def main():
    (FOLDER / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    flags = [f"--config.{key}={value}" for key, value in VALUES.items()]
    command = [sys.executable, "-m", "safety_jax.main", "--config=configs/sft.py:demo,safety=0"]
    subprocess.run([*command, *flags, f"--workdir={WORKDIR}"], check=True)
    shutil.copy(f"{WORKDIR}/export/model.safetensors", FOLDER / "model.safetensors")


if __name__ == "__main__":
    main()
