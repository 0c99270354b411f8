"""Converts the arguments of the notebook functions for the functions of the layers below."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import encode, prompts
from safety_jax.data.sources import Source
from safety_jax.models.model import Model

Prompt = str | Sequence[Mapping[str, str]]


def several(what: str, values: Any) -> list[Any]:
    """The elements of a list, a column of a table, or the like.

    Raises:
        DataError: a single one is given, which would be taken apart (a text into its letters), or a
            whole table.
    """
    table = getattr(values, "ndim", 1) != 1
    if table or isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        hint = (
            "its rows, table.to_dict('records'), or a column" if table else f"even for one {what}"
        )
        raise DataError(f"{what}s are given as a {type(values).__name__}; expected a list, {hint}")
    return list(values)


def names(values: str | Sequence[str]) -> tuple[str, ...]:
    """Names, or other short texts, of which a single one needs no list."""
    return (values,) if isinstance(values, str) else tuple(values)


def turns(prompts: Any) -> list[Any]:
    """Prompts in the form of rows of data.

    Raises:
        DataError: one is neither a text nor a list of messages.
    """
    return [_turns(number, prompt) for number, prompt in enumerate(several("prompt", prompts))]


def _turns(number: int, prompt: Any) -> Any:
    if isinstance(prompt, str):
        return str(prompt)  # numpy has a text type of its own
    messages: Sequence[Any] = prompt if isinstance(prompt, Sequence) else [None]
    if not all(isinstance(message, Mapping) for message in messages):
        raise DataError(
            f"prompt {number} is {f'{prompt!r}'[:60]}; expected a text or a list of messages (a "
            "single conversation is a list, too: [messages])"
        )
    return [dict(message) for message in messages]


def source(what: str, rows: Any) -> Source:
    """Rows in memory as a source of data. Messages count them from 0, as in Python.

    Raises:
        DataError: there are none, or one is no mapping.
    """
    rows = several(what, rows)
    if not rows:
        raise DataError(f"no {what} is given; expected at least one")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{what} {number} is {f'{row!r}'[:60]}; expected a mapping from columns to values"
            )
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
