"""Converts the arguments of the notebook functions for the functions of the layers below."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import encode, prompts
from safety_jax.data.sources import Source
from safety_jax.models.model import Model

Prompt = str | Sequence[Mapping[str, str]]


def turns(prompt: Prompt) -> Any:
    """A prompt in the form of a row of data."""
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]


def source(what: str, rows: Sequence[Mapping[str, Any]]) -> Source:
    """Rows in memory as a source of data. Messages count them from 0, as in Python.

    Raises:
        DataError: there are none.
    """
    if not rows:
        raise DataError(f"no {what} is given; expected at least one")
    return Source(
        spec=f"the {what}s given",
        name="given",
        rows=[dict(row) for row in rows],
        where=[f"{what} {number}" for number in range(len(rows))],
        take=None,
        weight=None,
        format=None,
        columns={},
        skip_bad_rows=False,
        needs_all=True,
    )


def tokenizer(model: Model) -> PreTrainedTokenizerBase:
    if model.tokenizer is None:
        raise ConfigError("the model has no tokenizer; load it by sj.load, or replace `tokenizer`")
    return model.tokenizer


def template_name(name: str, tokens: PreTrainedTokenizerBase) -> str:
    """`name`; if it is "", "chat" for a tokenizer with a chat template, and else "plain"."""
    return name or ("chat" if tokens.chat_template else "plain")


def encoding(model: Model, template: str) -> encode.Encoding:
    tokens = tokenizer(model)
    return encode.Encoding(
        template=prompts.load_template(template_name(template, tokens), tokens),
        tokenizer=tokens,
        max_length=model.config.max_positions,
        overlong_prompt="error",
        vocabulary_size=model.config.vocabulary_size,
    )
