"""What both sides of every benchmark get: a random LLaMA of about 20 M weights and a tokenizer, or
a chat model from a folder, and rows."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from safety_jax.base.assets import find_asset
from safety_jax.data import prompts
from safety_jax.data.records import Record
from safety_jax.models.folders import tokenizer
from tests.golden import cases

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
OWN_ROWS = ("ordinary", "contrast", "refusals")  # of launch/real/data: instructions and answers
WORDS = 31_997  # of the made-up vocabulary, beside three special tokens


def shared_folder() -> Path | None:
    """Real rows and LLaMA's tokenizer, where the environment variable names them."""
    named = os.environ.get("SAFETY_JAX_SHARED")
    return Path(named) if named else None


def write_model(folder: Path, changes: dict[str, Any] | None = None):
    """Writes tokenizer and model to `folder`; returns the tokenizer."""
    write_tokenizer(folder)
    tokens = tokenizer.load_tokenizer(folder)
    config = MODEL | {"vocab_size": len(tokens)} | (changes or {})
    random = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32)
        if "norm" in name
        else 0.02 * random.standard_normal(shape, np.float32)
        for name, shape in cases.shapes(config).items()
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return tokens


def write_tokenizer(folder: Path) -> None:
    """LLaMA's 32,000 pieces, or as many numbered words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    shared = shared_folder()
    if shared is not None:
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "LlamaTokenizer",
                    "add_bos_token": True,
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                    "unk_token": "<unk>",
                    "pad_token": "<unk>",
                }
            )
        )
        pieces = shared / "models" / "llama_tokenizer" / "tokenizer.model"
        (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        return
    words = ["<unk>", "<s>", "</s>"] + [f"w{number}" for number in range(WORDS)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    ).save_pretrained(folder)


def prepare_model(folder: Path, model: Path | None) -> tuple[Any, str]:
    """The tokenizer of `folder`, and the template of its prompts: that of a chat model, or Alpaca's
    for a new model, which is written there."""
    if model is None:
        return write_model(folder), "alpaca"
    folder.symlink_to(model.resolve())
    return tokenizer.load_tokenizer(folder), "chat"


def prompt_text(record: Record, tokens: Any, template: str) -> str:
    """A record's prompt, as `transformers` writes it."""
    if template == "alpaca":
        return prompts.ALPACA.prompt(record)
    turns = [{"role": "user", "content": record.messages[0].content}]
    return tokens.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def own_rows() -> list[dict[str, str]]:
    """Instructions with short answers, in an order by seed."""
    rows = []
    for name in OWN_ROWS:
        lines = Path(find_asset(f"launch/real/data/{name}.jsonl")).read_text().splitlines()
        rows += [json.loads(line) for line in lines]
    order = np.random.RandomState(0).permutation(len(rows))
    return [{name: rows[i][name] for name in ("instruction", "output")} for i in order]


def made_up_text(random: np.random.RandomState, median_tokens: float, spread: float) -> str:
    """Numbered words, as many as a log-normal length says."""
    length = max(1, int(median_tokens * random.lognormal(0, spread)))
    return " ".join(f"w{number}" for number in random.randint(0, WORDS, length))
