"""Writes a folder for training a small judge from scratch: a LLaMA's sizes, and a tokenizer.

    python -m launch.make_trunk --train=PAIRS --eval_rows=345 --vocabulary=4096 --width=128 \\
        --layers=2 --out=runs/trunk
    python -m safety_jax.main --config=configs/reward.py --config.model.path=runs/trunk \\
        --config.model.init=random --config.data.train=PAIRS --config.data.eval_rows=345 ...

The tokenizer is lower-case byte-level BPE. It learns from the pairs that the run will train on, not
from those it will hold out: give both the same sources, `eval_rows` and `seed`. The folder has no
weights.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from safety_jax.data import mixing
from safety_jax.data.records import Pair, read_pairs
from safety_jax.data.sources import open_source

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def training_pairs(specs: list[str], eval_rows: int, seed: int) -> list[Pair]:
    """The pairs that a run with data.bad_rows=skip trains on."""
    opened = [
        dataclasses.replace(open_source(spec, "--train"), skip_bad_rows=True) for spec in specs
    ]
    pairs: list[Pair] = mixing.mix(opened, read=read_pairs, seed=seed).records
    return mixing.split(pairs, rows=eval_rows, seed=seed)[0] if eval_rows else pairs


def texts(pairs: list[Pair]) -> Iterator[str]:
    for pair in pairs:
        for message in (*pair.prompt, *pair.chosen, *pair.rejected):
            yield message.content


def make_tokenizer(pairs: list[Pair], vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(pairs), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def config_of(vocabulary: int, width: int, layers: int, positions: int) -> dict[str, object]:
    heads = max(1, width // 32)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="append", required=True, help="a source; repeatable")
    parser.add_argument("--eval_rows", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    pairs = training_pairs(given.train, given.eval_rows, given.seed)
    tokenizer = make_tokenizer(pairs, given.vocabulary)
    config = config_of(len(tokenizer), given.width, given.layers, given.positions)
    tokenizer.save_pretrained(given.out)
    (given.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    print(f"{given.out}: {len(tokenizer):,} tokens learned from {len(pairs):,} pairs")


if __name__ == "__main__":
    main()
