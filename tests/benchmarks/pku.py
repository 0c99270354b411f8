"""DPO on real pairs, from a model that learned to say both answers: does held-out accuracy rise?

    python -m tests.benchmarks.pku PAIRS FOLDER [--sft_epochs 6] [--dpo_epochs 3]

PAIRS is PKU-SafeRLHF in any form that `data.train` takes (its rows hold an empty answer: add
`?bad_rows=skip`). In FOLDER appear the split (nine in ten,
by prompt), a BPE vocabulary learned on its training part, a LLaMA of some 2.5 M random parameters,
`sft/` (all weights, on chosen and rejected answers alike), `dpo/` (LoRA). Each stage is the command
a user would run, and is resumed when this is started again. Prints held-out reward accuracy with
its 95% interval as training went, beside what answer length alone gives.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
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

from safety_jax.data import mixing, records, sources
from safety_jax.maths import clusters
from safety_jax.training import metrics

VOCABULARY = 4096
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COMMON = (
    "--config.model.parameter_dtype=float32",
    "--config.model.compute_dtype=float32",
    "--config.model.remat=none",
    "--config.data.template=plain",
    "--config.data.max_length=256",
    "--config.data.row_tokens=512",
    "--config.data.overlong_prompt=skip",
    "--config.checkpoint.export_dtype=float32",
)


def split(spec: str, folder: Path) -> list[records.Pair]:
    """Writes the two parts of the pairs, and every answer of the training part as a row."""
    pairs = records.read_pairs(sources.open_source(spec))
    parts = mixing.split(pairs, rows=len(pairs) // 10, seed=0)
    for name, part in zip(("train", "eval"), parts, strict=True):
        write(folder / f"{name}.jsonl", [
            {
                "prompt": pair.prompt[0].content,
                "chosen": pair.chosen[0].content,
                "rejected": pair.rejected[0].content,
            }
            for pair in part
        ])  # fmt: skip
    write(folder / "answers.jsonl", [
        {"prompt": pair.prompt[0].content, "completion": answer[0].content}
        for pair in parts[0]
        for answer in (pair.chosen, pair.rejected)
    ])  # fmt: skip
    return parts[1]


def write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_model(folder: Path, rows: Path) -> None:
    """Config and tokenizer; the weights are the run's to draw."""
    special = ["<unk>", "<s>", "</s>"]
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    texts = (" ".join(json.loads(line).values()) for line in rows.open(encoding="utf-8"))
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(MODEL, indent=2))


def stage(name: str, workdir: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "safety_jax.main", f"--config=configs/{name}.py"]
    subprocess.run([*command, f"--workdir={workdir}", *COMMON, *flags], check=True)


def length_baseline(pairs: list[records.Pair]) -> tuple[float, float, float]:
    """Accuracy of calling the longer answer the better one, and its interval over prompts; ties
    count one half."""
    lengths = np.array([[len(s[0].content) for s in (p.chosen, p.rejected)] for p in pairs])
    difference = lengths[:, 0] - lengths[:, 1]
    right = (difference > 0) + 0.5 * (difference == 0)
    prompts = np.unique([p.prompt[0].content for p in pairs], return_inverse=True)[1]
    return float(right.mean()), *clusters.mean(right, prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sft_epochs", type=float, default=6.0)
    parser.add_argument("--dpo_epochs", type=float, default=3.0)
    given = parser.parse_args()
    folder = given.folder
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    held_out = split(given.pairs, folder)
    make_model(model, folder / "answers.jsonl")
    stage(
        "sft",
        folder / "sft",
        f"--config.model.path={model}",
        "--config.model.init=random",
        "--config.lora.rank=0",
        f"--config.data.train={folder / 'answers.jsonl'}",
        "--config.data.eval_rows=200",
        f"--config.train.epochs={given.sft_epochs}",
        "--config.train.batch_size=32",
        "--config.train.rows_per_microbatch=8",
        "--config.optim.learning_rate=2e-3",
        "--config.optim.warmup_steps=50",
        "--config.checkpoint.every_steps=200",
        "--config.log.eval_every_steps=200",
    )
    stage(
        "dpo",
        folder / "dpo",
        f"--config.model.path={folder / 'sft' / 'export'}",
        f"--config.data.train={folder / 'train.jsonl'}",
        f"--config.data.eval={folder / 'eval.jsonl'}",
        "--config.data.prefer=all",
        f"--config.train.epochs={given.dpo_epochs}",
        "--config.train.batch_size=32",
        "--config.train.rows_per_microbatch=4",
        "--config.optim.learning_rate=3e-4",
        "--config.checkpoint.every_steps=100",
    )
    for row in metrics.read(folder / "dpo" / "metrics.jsonl"):
        if "eval/loss" in row:
            low, high = (row[f"eval/rewards/accuracies_{side}"] for side in ("low", "high"))
            print(
                f"step {row['step']:4}: held-out accuracy {row['eval/rewards/accuracies']:.3f} "
                f"[{low:.3f}, {high:.3f}], loss {row['eval/loss']:.4f}, "
                f"margin {row['eval/rewards/margins']:.3f}, "
                f"chosen {row['eval/rewards/chosen']:.3f}"
            )
    right, low, high = length_baseline(held_out)
    print(f"the longer answer: {right:.3f} [{low:.3f}, {high:.3f}] of {len(held_out)} pairs")


if __name__ == "__main__":
    main()
