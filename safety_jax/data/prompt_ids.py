"""Token ids to generate from: prompts, and given beginnings of answers."""

from collections import Counter
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import DataError
from safety_jax.data.control import control_tokens
from safety_jax.data.encode import ROWS_PER_CALL
from safety_jax.data.records import Record
from safety_jax.data.template import Template, Worded, leading_ids, worded
from safety_jax.data.text_rules import leave_out


def encode_prompts(
    records: Sequence[Record], template: Template, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """The ids of each record's prompt, which is everything before its last answer.

    Raises:
        DataError: the template cannot write a record, or the rules for texts refuse it.
    """
    found = []
    for ids in _prompts(records, template, tokenizer):
        if isinstance(ids, DataError):
            raise ids
        found.append(ids)
    return found


def encode_openings(
    records: Sequence[Record],
    openings: Sequence[str],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """The ids of the beginnings of answers, to append to those of `encode_prompts`: the same as in
    training. Text that spells a control token is read as letters.

    Raises:
        DataError: see `encode_prompts`.
    """
    control = control_tokens(tokenizer)
    codes = []
    for words in worded(records, template, tokenizer, asking=True):
        if isinstance(words, DataError):
            raise words
        codes.append(words.code)
    wholes = control.read([code + text for code, text in zip(codes, openings, strict=True)])
    return [
        whole[len(before) :] if whole[: len(before)] == before else control.continuation(text)
        for before, whole, text in zip(control.read(codes), wholes, openings, strict=True)
    ]


def usable_prompts(
    records: Sequence[Record],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    skipped: Counter[str],
) -> tuple[list[Record], list[list[int]]]:
    """The records that can be used, and their ids as in `encode_prompts`.

    Args:
        skipped: counts the other records by reason.
    """
    kept, found = [], []
    for record, ids in zip(records, _prompts(records, template, tokenizer), strict=True):
        if isinstance(ids, DataError):
            skipped[leave_out(ids, record.optional, template.rules)] += 1
        else:
            kept.append(record)
            found.append(ids)
    return kept, found


def _prompts(
    records: Sequence[Record], template: Template, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[int] | DataError]:
    begin, control = leading_ids(tokenizer, template), control_tokens(tokenizer)
    for start in range(0, len(records), ROWS_PER_CALL):
        rows = records[start : start + ROWS_PER_CALL]
        asked = worded(rows, template, tokenizer, asking=True)
        ids = iter(control.read([words.code for words in asked if isinstance(words, Worded)]))
        yield from (words if isinstance(words, DataError) else begin + next(ids) for words in asked)
