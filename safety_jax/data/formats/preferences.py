"""Formats with two answers, one preferred: TRL's, HH-RLHF, Orca's, PKU-SafeRLHF, OpenAI's files,
HelpSteer2 and 3.
"""

import functools
from collections.abc import Mapping

from safety_jax.data import attachments
from safety_jax.data.formats.instructions import prompt_alone
from safety_jax.data.formats.row_format import Format, Parsed
from safety_jax.data.labels import Labels, categories_of, flag_of
from safety_jax.data.messages import (
    BadRow,
    Message,
    UnwantedRow,
    listed,
    prompt_of,
    refuse_texts,
    text_of,
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
    """Two dialogues with a common beginning; the prompt ends with the last common user message."""
    chosen, rejected = turns_of(row, "chosen"), turns_of(row, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared - 1].role != "user":
        shared -= 1
    if not shared:
        raise BadRow(
            "chosen and rejected share no prompt; expected two dialogues that begin with the same "
            "question, or two answers beside a prompt (of another name: add columns=prompt:NAME to "
            "the source)"
        )
    return Parsed(chosen[:shared], chosen[shared:], rejected[shared:], labels=_labels(row))


def _labels(row: Row) -> Labels:
    """The optional columns `chosen_unsafe`, `rejected_unsafe` and `category`."""
    unsafe = None
    if row.get("chosen_unsafe") is not None or row.get("rejected_unsafe") is not None:
        unsafe = (flag_of(row, "chosen_unsafe"), flag_of(row, "rejected_unsafe"))
    safer = None if unsafe is None or unsafe[0] == unsafe[1] else unsafe[1]
    return Labels(unsafe, safer, categories_of(row, "category"))


def _safe_rlhf(row: Row) -> Parsed:
    """A row of PKU-SafeRLHF (Dai et al., arXiv 2310.12773); the better answer is the chosen one."""
    better, safer = (_answer_number(row, f"{what}_response_id") for what in ("better", "safer"))
    answers = [(Message("assistant", text_of(row, f"response_{i}")),) for i in (0, 1)]
    unsafe = [not flag_of(row, f"is_response_{i}_safe") for i in (0, 1)]
    categories: set[str] = set()
    for i in (0, 1):
        categories.update(categories_of(row, f"response_{i}_harm_category"))
    worse = 1 - better
    labels = Labels(
        unsafe=(unsafe[better], unsafe[worse]),
        chosen_is_safer=better == safer,
        categories=tuple(sorted(categories)),
    )
    return Parsed(prompt_of(row, "prompt"), answers[better], answers[worse], labels=labels)


def _answer_number(row: Row, column: str) -> int:
    value = row.get(column)
    if isinstance(value, str) and value in ("0", "1"):  # a CSV file has no numbers
        return int(value)
    if isinstance(value, bool | list | dict) or value not in (0, 1):
        raise BadRow(f"{column!r} is {value!r:.80}; expected 0 or 1")
    return int(value)


def _openai_preference(row: Row) -> Parsed:
    """OpenAI's file format for preference fine-tuning."""
    asked = row["input"]
    if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
        raise BadRow("'input' holds no messages; expected {'messages': [...]}")
    attachments.refuse(asked)
    answers = (turns_of(row, "preferred_output"), turns_of(row, "non_preferred_output"))
    return Parsed(turns_of(asked, "messages"), *answers)


def _help_steer(row: Row, *, prompt: str, answers: tuple[str, str], preference: str) -> Parsed:
    """A row of HelpSteer3 (Wang et al., arXiv 2505.11475) or of HelpSteer2's preferences (arXiv
    2410.01257): at -3 the first answer is much better, at 3 the second."""
    value = row.get(preference)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -3 <= value <= 3:
        raise BadRow(f"{preference!r} is {value!r:.80}; expected a number from -3 to 3")
    if not value:
        raise UnwantedRow("neither answer is preferred")
    one, other = ((Message("assistant", text_of(row, answer)),) for answer in answers)
    chosen, rejected = (one, other) if value < 0 else (other, one)
    return Parsed(prompt_of(row, prompt), chosen, rejected)


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
        "safe_rlhf",
        (
            "prompt",
            *("response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
            *("better_response_id", "safer_response_id"),
        ),
        _safe_rlhf,
    ),
    _OPENAI,
    Format(
        "help_steer",
        ("context", "response1", "response2", "overall_preference"),
        functools.partial(
            _help_steer,
            prompt="context",
            answers=("response1", "response2"),
            preference="overall_preference",
        ),
    ),
    Format(
        "help_steer2",
        ("prompt", "response_1", "response_2", "preference_strength"),
        functools.partial(
            _help_steer,
            prompt="prompt",
            answers=("response_1", "response_2"),
            preference="preference_strength",
        ),
    ),
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference),
)
PROMPTS = (
    _OPENAI,
    Format(
        "help_steer",
        ("context", "response1"),
        functools.partial(prompt_alone, column="context"),
    ),
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference, yields=True),
)
