"""Formats with a chosen and a rejected answer: TRL's, HH-RLHF, Orca's, LLaMA-Factory's, OpenAI's
files.
"""

import dataclasses
import functools
from collections.abc import Mapping

from safety_jax.data import attachments
from safety_jax.data.formats.instructions import instruction_prompt
from safety_jax.data.formats.row_format import Format, Parsed
from safety_jax.data.labels import Labels, categories_of, unsafe_of_both
from safety_jax.data.messages import (
    BadRow,
    Message,
    is_transcript,
    listed,
    prompt_of,
    refuse_texts,
    same_words,
    turns_of,
)
from safety_jax.data.text_files import Row


def _preference(row: Row, *, prompt: str = "prompt") -> Parsed:
    for column in ("chosen", "rejected"):
        refuse_texts(row, column)
    chosen, rejected = turns_of(row, "chosen"), turns_of(row, "rejected")
    if chosen[0].role != "assistant":
        found = _implicit_preference(row)
        _check_same_prompt(row, prompt, found.prompt)
        return found
    return Parsed(prompt_of(row, prompt), chosen, rejected, labels=_labels(row))


def _check_same_prompt(row: Row, column: str, shared: tuple[Message, ...]) -> None:
    """Raises a BadRow if a row's prompt differs from the beginning of its dialogues.

    Both dialogues contain the prompt. The prompt's own column may repeat only the first question,
    as in UltraFeedback, or only the last, or all of it as one text.
    """
    if row.get(column) in (None, "", []):
        return
    said = {" ".join(message.content.split()) for message in shared}
    asked = [" ".join(message.content.split()) for message in prompt_of(row, column)]
    if isinstance(listed(row[column], column), list):
        known = said.issuperset(asked)
    else:
        known = any(one in other or other in one for one in asked for other in said)
    if not known:
        raise BadRow(
            f"{column!r} differs from the prompt with which the dialogues chosen and rejected "
            f"begin; mend or remove one of them, or add without={column} to the source"
        )


def _implicit_preference(row: Row) -> Parsed:
    prompt, chosen, rejected = shared_beginning(row, "chosen", "rejected")
    return Parsed(prompt, chosen, rejected, labels=_labels(row))


def shared_beginning(row: Row, one: str, other: str) -> tuple[tuple[Message, ...], ...]:
    """Two dialogues as the prompt that they share, which ends with the last common user message,
    and what follows it in each.

    Raises:
        BadRow: they share none.
    """
    first, second = turns_of(row, one), turns_of(row, other)
    shared = 0
    for one_turn, other_turn in zip(first, second, strict=False):
        if not same_words([one_turn], [other_turn]):
            break
        shared += 1
    while shared and first[shared - 1].role != "user":
        shared -= 1
    if not shared:
        raise BadRow(
            f"{one} and {other} share no prompt; expected two dialogues that begin with the same "
            "question, or two answers beside a prompt (of another name: add columns=prompt:NAME to "
            "the source)"
        )
    return first[:shared], first[shared:], second[shared:]


def _labels(row: Row) -> Labels:
    """The optional columns `chosen_unsafe`, `rejected_unsafe` and their like, and `category`."""
    unsafe = unsafe_of_both(row)
    safer = None if unsafe is None or unsafe[0] == unsafe[1] else unsafe[1]
    return Labels(unsafe, safer, categories_of(row, "category"))


def _instruction_preference(row: Row) -> Parsed:
    """A row of LLaMA-Factory's preferences in Alpaca's columns."""
    asked = instruction_prompt(row)
    chosen, rejected = (_answer(row, column) for column in ("chosen", "rejected"))
    return dataclasses.replace(asked, chosen=chosen, rejected=rejected, labels=_labels(row))


def _continued(row: Row) -> Parsed:
    """A row of LLaMA-Factory's preferences in ShareGPT's columns: two answers to a dialogue."""
    chosen, rejected = (_answer(row, column) for column in ("chosen", "rejected"))
    return Parsed(turns_of(row, "conversations"), chosen, rejected, labels=_labels(row))


def _answer(row: Row, column: str) -> tuple[Message, ...]:
    refuse_texts(row, column)
    answer = turns_of(row, column)
    if answer[0].role != "assistant":
        raise BadRow(f"{column!r} begins with the {answer[0].role}; expected the assistant alone")
    return answer


def _preference_prompt(row: Row, *, prompt: str) -> Parsed:
    """The prompt of a preference row, whose column may repeat only the first question of it."""
    for column in ("chosen", "rejected"):
        if not _holds_dialogue(row, column) or turns_of(row, column)[0].role == "assistant":
            return Parsed(prompt_of(row, prompt))
    return Parsed(_preference(row, prompt=prompt).prompt)


def _holds_dialogue(row: Row, column: str) -> bool:
    value = listed(row.get(column), column)
    if isinstance(value, str):
        return is_transcript(value)
    return isinstance(value, list) and isinstance(next(iter(value), None), Mapping)


def _openai_preference(row: Row) -> Parsed:
    """OpenAI's file format for preference fine-tuning."""
    asked = row["input"]
    if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
        raise BadRow("'input' holds no messages; expected {'messages': [...]}")
    attachments.refuse(asked)
    answers = (turns_of(row, "preferred_output"), turns_of(row, "non_preferred_output"))
    return Parsed(turns_of(asked, "messages"), *answers)


_OPENAI = Format(
    "openai_preference",
    ("input", "preferred_output", "non_preferred_output"),
    _openai_preference,
)
PAIRS = (
    Format("preference", ("prompt", "chosen", "rejected"), _preference),
    Format("ultra_feedback", ("prompt", "chosen", "rejected", "messages"), _preference),
    Format(
        "orca_dpo",
        ("question", "chosen", "rejected"),
        functools.partial(_preference, prompt="question"),
    ),
    Format(
        "alpaca_preference",
        ("instruction", "chosen", "rejected"),
        _instruction_preference,
        optional=("input",),
    ),
    Format("sharegpt_preference", ("conversations", "chosen", "rejected"), _continued),
    _OPENAI,
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference),
)
_PREFERENCE = ("prompt", "chosen", "rejected")
PROMPTS = (
    Format("preference", _PREFERENCE, functools.partial(_preference_prompt, prompt="prompt")),
    Format(
        "ultra_feedback",
        (*_PREFERENCE, "messages"),
        functools.partial(_preference_prompt, prompt="prompt"),
    ),
    Format(
        "orca_dpo",
        ("question", "chosen", "rejected"),
        functools.partial(_preference_prompt, prompt="question"),
    ),
    _OPENAI,
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference, yields=True),
)
