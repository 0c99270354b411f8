"""Formats with the question in one column and one answer in another: Alpaca, Dolly, prompt and
completion, OpenOrca, ToxicChat, WildJailbreak.
"""

import functools
from collections.abc import Mapping
from typing import Any

from safety_jax.data.formats.row_format import Format, Parsed, ReadText
from safety_jax.data.messages import (
    BadRow,
    Message,
    is_blank,
    listed,
    prompt_of,
    refuse_texts,
    text_of,
    turns_of,
)
from safety_jax.data.text_files import Row


def _possibly_empty(row: Mapping[str, Any], column: str) -> str:
    """Text that may be empty: a model may answer nothing, and that can be judged."""
    if not isinstance(value := row.get(column), str):
        return text_of(row, column)
    return value


def _instruction(
    row: Row, *, instruction: str, context: str, answer: str | None, read: ReadText = text_of
) -> Parsed:
    about = row.get(context)
    return Parsed(
        prompt=(Message("user", text_of(row, instruction)),),
        chosen=(Message("assistant", read(row, answer)),) if answer else (),
        context="" if about is None or is_blank(about) else text_of(row, context),
    )


def instruction_prompt(row: Row) -> Parsed:
    """The prompt of a row of Alpaca or Dolly, whose context is called `input` or `context`."""
    about = "input" if "input" in row else "context"
    return _instruction(row, instruction="instruction", context=about, answer=None)


def _completion(
    row: Row, *, prompt: str = "prompt", answer: str | None, read: ReadText = text_of
) -> Parsed:
    asked = prompt_of(row, prompt)
    if answer is None:
        return Parsed(asked)
    if isinstance(listed(row.get(answer), answer), list):  # TRL's conversational form
        refuse_texts(row, answer)
        turns = turns_of(row, answer)
        if turns[-1].role != "assistant":
            raise BadRow(f"{answer!r} ends with the {turns[-1].role}; expected the assistant")
        return Parsed(asked, turns)
    return Parsed(asked, (Message("assistant", read(row, answer)),))


def prompt_alone(row: Row, *, column: str) -> Parsed:
    """The prompt of a row, whatever answers stand beside it."""
    return _completion(row, prompt=column, answer=None)


def _wild_jailbreak(row: Row, *, answer: str | None, read: ReadText = text_of) -> Parsed:
    """A row of WildJailbreak (Jiang et al., arXiv 2406.18510); the adversarial form of the request
    is preferred to the plain one."""
    form = row.get("adversarial")
    empty = not form or is_blank(form) or form == "nan"  # as pandas writes it
    asked = "vanilla" if empty and "vanilla" in row else "adversarial"
    return _completion(row, prompt=asked, answer=answer, read=read)


def _answered(read: ReadText) -> tuple[Format, ...]:
    """The formats with an answer, whose text `read` reads."""
    instruction, completion = (
        functools.partial(parse, read=read) for parse in (_instruction, _completion)
    )
    return (
        Format(
            "alpaca",
            ("instruction", "output"),
            functools.partial(
                instruction, instruction="instruction", context="input", answer="output"
            ),
            optional=("input",),
        ),
        Format(
            "alpaca_lists",
            ("instructions", "outputs"),
            functools.partial(
                instruction, instruction="instructions", context="inputs", answer="outputs"
            ),
            optional=("inputs",),
        ),
        Format(
            "dolly",
            ("instruction", "response"),
            functools.partial(
                instruction, instruction="instruction", context="context", answer="response"
            ),
            optional=("context",),
        ),
        Format(
            "completion",
            ("prompt", "completion"),
            functools.partial(completion, answer="completion"),
        ),
        Format(
            "response",
            ("prompt", "response"),
            functools.partial(completion, answer="response"),
        ),
        Format(
            "open_orca",
            ("question", "response"),
            functools.partial(completion, prompt="question", answer="response"),
        ),
        Format(
            "toxic_chat",
            ("user_input", "model_output"),
            functools.partial(completion, prompt="user_input", answer="model_output"),
        ),
        Format(
            "wild_jailbreak",
            ("vanilla", "adversarial", "completion"),
            functools.partial(_wild_jailbreak, answer="completion", read=read),
        ),
    )


ANSWERS = (
    *_answered(text_of),
    Format(
        "label",
        ("prompt", "label"),
        functools.partial(_completion, answer="label"),
        beside=("id",),
    ),
)
RESPONSES = _answered(_possibly_empty)
PROMPTS = (
    Format("instruction", ("instruction",), instruction_prompt, optional=("input", "context")),
    Format(
        "instructions",
        ("instructions",),
        functools.partial(_instruction, instruction="instructions", context="inputs", answer=None),
        optional=("inputs",),
    ),
    Format("prompt", ("prompt",), functools.partial(prompt_alone, column="prompt")),
    Format(
        "prompt_and_messages",
        ("prompt", "messages"),
        functools.partial(prompt_alone, column="prompt"),
    ),
    Format("question", ("question",), functools.partial(prompt_alone, column="question")),
    Format("user_input", ("user_input",), functools.partial(prompt_alone, column="user_input")),
    Format(
        "wild_jailbreak",
        ("vanilla", "adversarial"),
        functools.partial(_wild_jailbreak, answer=None),
    ),
    Format("adversarial", ("adversarial",), functools.partial(_wild_jailbreak, answer=None)),
)
