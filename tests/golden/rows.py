"""Batches, adapters and numbers of the SFT goldens, shared by the generator and the tests."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.golden import cases

MODEL = "llama_grouped"
FILE = cases.FOLDER / "sft.npz"
TRL_FILE = cases.FOLDER / "trl.npz"
DPO_FILE = cases.FOLDER / "dpo.npz"
REWARD_FILE = cases.FOLDER / "reward.npz"
KTO_FILE = cases.FOLDER / "kto.npz"

ROWS, TOKENS = 4, 40
STEPS = 3
RANK, ALPHA = 4, 8.0
TARGETS = {
    "query_value": ("q_proj", "v_proj"),
    "all_linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
# Clipping bites in every step: the gradient's norm is above it.
ADAMW = {
    "learning_rate": 1e-2,
    "beta1": 0.9,
    "beta2": 0.99,
    "epsilon": 1e-6,
    "weight_decay": 0.1,
    "clip_norm": 0.1,
}
TRL_STEPS, TRL_ROWS, TRL_MICROBATCHES = 4, 2, 2
# Larger than usual, so that Adam does not amplify rounding, which differs between processors.
TRL_EPSILON = 1e-3
TRL_TRAINED = {"completion": True, "everything": False}
# Of one step on four pairs. By our name of the objective: TRL's losses with their weights, beta.
DPO_PAIRS, DPO_SMOOTHING, DPO_NLL_WEIGHT, DPO_MARGIN = 4, 0.1, 0.2, 0.5
DPO_LOSSES: dict[str, tuple[dict[str, float], float]] = {
    "sigmoid": ({"sigmoid": 1.0}, 0.1),
    "robust": ({"robust": 1.0}, 0.1),
    "hinge": ({"hinge": 1.0}, 0.1),
    "ipo_mean": ({"ipo": 1.0}, 0.1),
    "sigmoid_mean": ({"sigmoid_norm": 1.0}, 5.0),
    "with_nll": ({"sigmoid": 1.0, "sft": DPO_NLL_WEIGHT}, 0.1),
}
# W-DOOR on those pairs: the proxy has these adapters.
DOOR_PROXY, DOOR_BETA, DOOR_TEMPERATURE = "all_linear", 0.5, 2.0
# TRL's numbers of a KTO step on both answers of those pairs, and the weight of ORPO's odds ratio.
KTO = {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.5}
ORPO = 0.25
# Margin and weight of centring of a step on those pairs, and what TRL then logs.
REWARDS = {"plain": (0.0, 0.0), "margin": (0.7, 0.0), "centring": (0.0, 0.1), "both": (0.3, 0.2)}
REWARD_METRICS = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")
SCHEDULE_STEPS, SCHEDULE_WARMUP = 24, 6


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """`ids` and `mask` [B, T] of one step: right-padded rows, a prompt and a trained completion.

    Id 0 pads, and also occurs inside rows: what is padding follows from lengths, not from ids.
    """
    random = cases.generator(f"batch {step}")
    lengths = random.randint(12, TOKENS + 1, ROWS)
    prompts = [random.randint(3, length - 2) for length in lengths]
    ids = random.randint(0, cases.VOCABULARY, (ROWS, TOKENS))
    index = np.arange(TOKENS)
    inside = index < lengths[:, None]
    mask = inside & (index >= np.array(prompts)[:, None])
    return np.where(inside, ids, 0), mask


def lengths(step: int) -> np.ndarray:
    """Tokens of each row [B]; every row ends in a trained token."""
    _, mask = batch(step)
    return TOKENS - mask[:, ::-1].argmax(axis=1)


def adapters(config: dict[str, Any], targets: tuple[str, ...]) -> dict[str, np.ndarray]:
    """LoRA A [R, in] and B [out, R] of every adapted weight, both random, by weight name + .A/.B"""
    made = {}
    for name, shape in cases.shapes(config).items():
        if name.endswith(tuple(f"{target}.weight" for target in targets)):
            module = name.removesuffix(".weight")
            normal = cases.generator(module).standard_normal
            made[f"{module}.A"] = (normal((RANK, shape[1])) / shape[1] ** 0.5).astype(np.float32)
            made[f"{module}.B"] = (0.3 * normal((shape[0], RANK))).astype(np.float32)
    return made


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A word tokenizer with LLaMA's habits, one BOS in front and no EOS, saved to `folder`."""
    special = ["<unk>", "<s>", "</s>"]
    words = special + [f"w{number}" for number in range(cases.VOCABULARY - len(special))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.index("<s>"))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )
    made.save_pretrained(folder)
    return made


def text_rows() -> list[dict[str, str]]:
    """Prompt and completion rows of very different lengths, in the order that TRL takes them."""
    random = cases.generator("text rows")

    def words(low: int, high: int) -> str:
        numbers = random.randint(0, cases.VOCABULARY - 3, random.randint(low, high))
        return " ".join(f"w{number}" for number in numbers)

    count = TRL_STEPS * TRL_ROWS * TRL_MICROBATCHES
    return [{"prompt": words(2, 12), "completion": f" {words(1, 28)}"} for _ in range(count)]


def pair_rows() -> list[dict[str, str]]:
    """Prompts with two answers of different lengths, in the order that TRL takes them."""
    random = cases.generator("pair rows")

    def words(low: int, high: int) -> str:
        numbers = random.randint(0, cases.VOCABULARY - 3, random.randint(low, high))
        return " ".join(f"w{number}" for number in numbers)

    return [
        {"prompt": words(2, 10), "chosen": f" {words(1, 16)}", "rejected": f" {words(1, 16)}"}
        for _ in range(DPO_PAIRS)
    ]


def labelled_rows() -> list[dict[str, str | bool]]:
    """Both answers of the pairs, chosen ones to learn and rejected ones to avoid, mixed."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for k, row in enumerate(pair_rows())
        for side in (("chosen", "rejected") if k % 2 else ("rejected", "chosen"))
    ]
