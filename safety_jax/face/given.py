"""Converts the arguments of the notebook functions for the functions of the layers below."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from safety_jax.base import settings
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import encode, prompts, values
from safety_jax.data.sources import Source
from safety_jax.models.model import Model

Prompt = str | Sequence[Mapping[str, str]]
Read = TypeVar("Read")

POSITIVE = settings.Real(0.0, low_open=True)
SEED = settings.Whole(0, (1 << 32) - 1)


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


def names(what: str, values: Any, *, paths: bool = False) -> tuple[str, ...]:
    """Names, or other short texts, of which a single one needs no list.

    Args:
        what: the argument, for messages.
        paths: whether objects of `pathlib` count as texts.

    Raises:
        ConfigError: something else is given.
    """
    texts: tuple[type, ...] = (str, os.PathLike) if paths else (str,)
    single = _plain(values)
    listed = isinstance(single, Iterable) and not isinstance(single, bytes | Mapping)
    found: list[Any] = []
    if isinstance(single, texts):
        found = [single]
    elif listed:
        found = [_plain(one) for one in single]
    if not (found or listed) or not all(isinstance(one, texts) for one in found):
        one = "a text or a path" if paths else "a text"
        raise ConfigError(f"{what} is {_shown(values)}; expected {one}, or a list of them")
    return tuple(str(os.fspath(one)) for one in found)


def path(what: str, value: Any) -> str:
    """A path, or another single text. See `names`."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise ConfigError(f"{what} is {_shown(value)}; expected a text or a path")
    return os.fspath(value)


def flag(what: str, value: Any) -> bool:
    """True or False, which may be of numpy. See `whole`."""
    return bool(_fitting(what, value, settings.Flag()))


def whole(what: str, value: Any, setting: settings.Whole) -> int:
    """A whole number, which may be one of numpy or jax.

    Args:
        what: the argument, for messages.

    Raises:
        ConfigError: it is of another type, or out of range.
    """
    return int(_fitting(what, value, setting))


def number(what: str, value: Any, setting: settings.Real) -> float:
    """A number as a float of Python, which a compiled function can depend on. See `whole`."""
    return float(_fitting(what, value, setting))


def _fitting(what: str, value: Any, setting: settings.Setting) -> Any:
    found = _plain(value)
    # A whole number without an end has no float.
    endless = isinstance(found, int) and abs(found) > settings.LARGEST_REAL
    if endless or not setting.fits(found):
        expected = settings.expectation(setting, found)
        raise ConfigError(f"{what} is {_shown(value)}; expected {expected}")
    return found


def _plain(value: Any) -> Any:
    """A single value of numpy, jax or torch as one of Python; anything else as it is."""
    single = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if single else value


def _shown(value: Any) -> str:
    return f"{value!r}"[:60]


def turns(prompts: Any) -> list[Any]:
    """Prompts in the form of rows of data.

    Raises:
        DataError: one is neither a text nor a list of messages.
    """
    return [_turns(number, prompt) for number, prompt in enumerate(several("prompt", prompts))]


def _turns(number: int, prompt: Any) -> Any:
    if isinstance(prompt, str):
        return str(prompt)  # numpy has a text type of its own
    prompt = _listed(prompt)
    messages: Sequence[Any] = prompt if isinstance(prompt, Sequence) else [None]
    if not all(isinstance(message, Mapping) for message in messages):
        raise DataError(
            f"prompt {number} is {f'{prompt!r}'[:60]}; expected a text or a list of messages (a "
            "single conversation is a list, too: [messages])"
        )
    return [dict(message) for message in messages]


def answers(said: Any) -> list[Any]:
    """Answers in the form of values of rows.

    Raises:
        DataError: one is neither a text nor made of messages.
    """
    found = several("answer", said)
    for number, answer in enumerate(found):
        parts: Any = _listed(answer)
        parts = parts if isinstance(parts, list | tuple) else [parts]
        if not all(isinstance(part, str | Mapping) for part in parts):
            raise DataError(
                f"answer {number} is {_shown(answer)}; expected a text, or messages (an answer of "
                "sj.sample has its text in `text`)"
            )
    return found


def _listed(value: Any) -> Any:
    """A list for an array, which is how pandas reads a list in a Parquet file."""
    return value.tolist() if hasattr(value, "tolist") else value


def source(what: str, rows: Any) -> Source:
    """Rows in memory as a source of data, with values as if from a file: pandas has arrays for
    lists, and NaN for None. Messages count rows from 0, as in Python.

    Raises:
        DataError: there are none, or one is no mapping, or has a value that no row can hold.
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
        rows=[_plain_row(f"{what} {number}", row) for number, row in enumerate(rows)],
        where=[f"{what} {number}" for number in range(len(rows))],
        take=None,
        weight=None,
        format=None,
        columns={},
        skip_bad_rows=False,
        needs_all=True,
    )


def _plain_row(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return values.plain(row)
    except values.BadValue as error:
        raise DataError(f"{where}: {error}") from error


def every(read: Callable[[Source], list[Read]], what: str, rows: Any) -> list[Read]:
    """What a reader makes of rows in memory, one for each row, in their order.

    A reader leaves out rows that say that they are not to be learned, or whose prompt is withheld.
    Results would then stand beside other rows than their own.

    Raises:
        DataError: a row is left out, or the reader's own.
    """
    asked = source(what, rows)
    found = read(asked)
    if len(found) != len(asked.rows):
        left = asked.left_out
        why = f"{left[0].where}: {left[0].why}" if left else "messages are joined to dialogues"
        raise DataError(
            f"{len(asked.rows)} {what}s are read as {len(found)} ({why}); expected a result for "
            f"each, leave out such {what}s"
        )
    return found


def loaded(value: Any, what: str = "model") -> Model:
    """A model, checked.

    Args:
        what: the argument, for messages.

    Raises:
        ConfigError: it is something else, such as the folder of one.
    """
    if not isinstance(value, Model):
        raise ConfigError(f"the {what} is {_shown(value)}; expected a model, load it by sj.load")
    return value


def tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ConfigError: it has none, or is no model.
    """
    found = loaded(model).tokenizer
    if found is None:
        raise ConfigError("the model has no tokenizer; load it by sj.load, or replace `tokenizer`")
    return found


def template_name(name: Any, tokens: PreTrainedTokenizerBase) -> str:
    """`name`; if it is "", "chat" for a tokenizer with a chat template, and else "plain".

    Raises:
        ConfigError: it is no text.
    """
    if name is not None and not isinstance(name, str):
        raise ConfigError(
            f"template is {_shown(name)}; expected a name such as 'alpaca', or '' for that of the "
            "model"
        )
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
