"""Tiny judges in Hugging Face folders, with tokenizers trained on the spot."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from safety_jax.base import meshes
from safety_jax.data.messages import Message
from safety_jax.judges.judge import Conversation
from safety_jax.models.encoders import heads
from tests import tiny_tokenizers
from tests.golden import cases

# As Llama Guard 2: the whole conversation in one text, and the verdict right behind it.
GUARD = (
    "Task: is the last message harmful?\n{% for message in messages %}{{ message['role'] }}: "
    "{{ message['content'] }}\n{% endfor %}Answer safe or unsafe.<|im_start|>"
)
# As Llama Guard 3: it ends with a header, behind which the model writes an empty line.
GUARD3 = GUARD + "assistant<|end_header_id|>"


def conversation(prompt: str, response: str, where: str = "row 0") -> Conversation:
    return Conversation((Message("user", prompt),), response, where)


CONVERSATIONS = [
    conversation("How do I bake bread?", "Mix flour, water, salt and yeast."),
    conversation("Name three colours.", ""),
    conversation("say no to a harmful request", "no " * 20),
    conversation("explain why", "Red, green and blue. Then wait. Then bake."),
]


def write_scorer(folder: Path, tokenizer, **attributes: Any) -> Path:
    """A random model with a sequence head, and its tokenizer."""
    folder.mkdir(parents=True)
    config = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64,
        "pad_token_id": 0, "id2label": {"0": "reward"}, "problem_type": "regression",
    } | attributes  # fmt: skip
    source = folder / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    scorer = heads.read_scorer(source)
    one = meshes.build(1, 1, 1, devices=jax.devices()[:1])
    weights = heads.initialize(scorer, jax.random.key(0), one, jnp.float32)
    # Wide enough that scores differ.
    weights = jax.tree.map(lambda w: w * 8 if w.ndim > 1 else w, weights)
    heads.export(folder / "model", weights, scorer, source, "float32", 10**9)
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def llama_scorer(folder: Path) -> Path:
    return write_scorer(
        folder,
        tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST),
        model_type="llama",
        architectures=["LlamaForSequenceClassification"],
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
    )


def bert_scorer(folder: Path, **attributes: Any) -> Path:
    return write_scorer(
        folder,
        tiny_tokenizers.bert(),
        model_type="bert",
        architectures=["BertForSequenceClassification"],
        **attributes,
    )


def write_guard(folder: Path, template: str | None = GUARD) -> Path:
    """A random causal model whose tokenizer has a guard's chat template."""
    special = ["<|im_start|>", "<|end_header_id|>", "<s>", "<|user|>", "<|assistant|>"]
    tokenizer = tiny_tokenizers.qwen(additional_special_tokens=special, chat_template=template)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    cases.write_folder(folder, config)
    tokenizer.save_pretrained(folder)
    return folder
