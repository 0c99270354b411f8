"""The only place where prompt text is written: a record becomes text, with what is learned marked.

    alpaca       the papers' wording (Alpaca, as in arXiv 2309.07875 and 2412.00074)
    plain        the messages as they are, a blank line between them
    bare         one prompt and nothing else: for prompts that bring their own wording
    human_assistant   Anthropic's transcripts, as many judges read (arXiv 2204.05862, 2309.07875)
    beaver       PKU's wording, for its reward and cost models (arXiv 2310.12773)
    chat         the tokenizer's own chat template
    file:PATH    a JSON file with `prompt_input` and `prompt_no_input`, as alpaca-lora's

Several turns: `chat` learns every answer, since the template marks where each ends. The others
have no such mark, so they learn the last answer alone, and what was said before is prompt.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import jinja2
from transformers import PreTrainedTokenizerBase

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.formats import Message
from safety_jax.data.records import Record


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a record's text, and whether it is learned."""

    text: str
    trained: bool


@runtime_checkable
class Template(Protocol):
    """How records are worded.

    Attributes:
        has_special_tokens: the text spells the tokenizer's special tokens itself, BOS included;
            otherwise whatever looks like one is data, and BOS is the tokenizer's to add.
    """

    @property
    def has_special_tokens(self) -> bool: ...

    def spans(self, record: Record) -> list[Span]:
        """Spans in reading order; joined, they are the whole text.

        Raises:
            DataError: the template has no place for something in the record.
        """
        ...

    def prompt(self, record: Record) -> str:
        """What a model reads before it gives the record's last answer: all spans but the last."""
        ...


def load_template(name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template of a config value, see the top of this file.

    Raises:
        ConfigError: an unknown name, a file without the two prompts, or a tokenizer without a
            chat template.
    """
    if name == "alpaca":
        return ALPACA
    if name == "plain":
        return Plain()
    if name == "bare":
        return BARE
    if name in JUDGES:
        return JUDGES[name]
    if name == "chat":
        return Chat(tokenizer)
    if name.startswith("file:"):
        return _read_template(name.removeprefix("file:"))
    raise ConfigError(
        f"data.template: unknown template {name!r}; expected alpaca, plain, bare, "
        f"{', '.join(JUDGES)}, chat or file:PATH"
    )


def _answered(record: Record, prompt: str) -> list[Span]:
    last = record.messages[-1]
    if last.role != "assistant":
        return [Span(prompt, trained=False)]
    return [Span(prompt, trained=False), Span(last.content, trained=last.learned)]


def _before_answer(record: Record) -> Sequence[Message]:
    return record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A wording for one instruction, with `{instruction}` and `{input}` for the record's text.

    Attributes:
        with_input: the prompt of a record that has a context.
        without_input: the prompt of one that has none.
        next_turn: what follows an answer to ask again, or None where the wording has no such form.
    """

    name: str
    with_input: str
    without_input: str
    next_turn: str | None
    has_special_tokens: bool = False

    def spans(self, record: Record) -> list[Span]:
        return _answered(record, self.prompt(record))

    def prompt(self, record: Record) -> str:
        first, *others = _before_answer(record)
        if first.role == "system":
            raise DataError(
                f"{record.where}: has a system message, for which the template {self.name} has no "
                "place; set data.template to chat or plain, or remove it"
            )
        wording = self.with_input if record.context else self.without_input
        text = _filled(wording, first.content, record.context)
        if others and self.next_turn is None:
            raise DataError(
                f"{record.where}: has several turns, for which the template {self.name} has no "
                "form; add next_turn to it, or set data.template to chat"
            )
        for message in others:
            text += (
                message.content
                if message.role == "assistant"
                else _filled(self.next_turn or "", message.content, "")
            )
        return text


def _filled(wording: str, instruction: str, context: str) -> str:
    # In one pass: an instruction that says {input} stays as it is.
    values = {"instruction": instruction, "input": context}
    return _BLANK.sub(lambda blank: values[blank.group(1)], wording)


_BLANK = re.compile(r"\{(instruction|input)\}")

# A protocol constant: models and published numbers depend on every character of it. The form of a
# further turn is ours; the papers have single turns only.
_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
_BLOCK = "### Instruction:\n{instruction}\n\n"
ALPACA = Instruction(
    name="alpaca",
    with_input=f"{_TASK}, paired with an input that provides further context. {_REQUEST}\n\n"
    f"{_BLOCK}### Input:\n{{input}}\n\n### Response:\n",
    without_input=f"{_TASK}. {_REQUEST}\n\n{_BLOCK}### Response:\n",
    next_turn=f"\n\n{_BLOCK}### Response:\n",
)

BARE = Instruction(
    name="bare",
    with_input="{instruction}\n\n{input}",
    without_input="{instruction}",
    next_turn=None,
)

# Wordings of judges; judges/sequence.py has the same.
_HUMAN = "\n\nHuman: {instruction}"
_USER = "USER: {instruction}"
JUDGES = {
    "human_assistant": Instruction(
        name="human_assistant",
        with_input=f"{_HUMAN}\n\n{{input}}\n\nAssistant: ",
        without_input=f"{_HUMAN}\n\nAssistant: ",
        next_turn=f"{_HUMAN}\n\nAssistant: ",
    ),
    "beaver": Instruction(
        name="beaver",
        with_input=f"BEGINNING OF CONVERSATION: {_USER}\n\n{{input}} ASSISTANT:",
        without_input=f"BEGINNING OF CONVERSATION: {_USER} ASSISTANT:",
        next_turn=None,
    ),
}


def _read_template(path: str) -> Instruction:
    try:
        content = json.loads(files.expand(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.template: {path} cannot be read ({error}); expected a JSON file"
        ) from error
    keys = {"prompt_input": "{input}", "prompt_no_input": "{instruction}"}
    for key, blank in keys.items():
        text = content.get(key) if isinstance(content, dict) else None
        if not isinstance(text, str) or blank not in text or "{instruction}" not in text:
            raise ConfigError(
                f"data.template: {path}: {key} is missing or lacks {{instruction}} or {{input}}; "
                f"expected {' and '.join(keys)}, as in alpaca-lora's templates"
            )
    next_turn = content.get("next_turn")
    if next_turn is not None and "{instruction}" not in str(next_turn):
        raise ConfigError(
            f"data.template: {path}: next_turn lacks {{instruction}}; expected text that asks again"
        )
    return Instruction(
        name=f"file:{path}",
        with_input=content["prompt_input"],
        without_input=content["prompt_no_input"],
        next_turn=next_turn,
    )


@dataclasses.dataclass(frozen=True)
class Plain:
    """System message, context and turns as they are, each followed by a blank line."""

    has_special_tokens: bool = False

    def spans(self, record: Record) -> list[Span]:
        return _answered(record, self.prompt(record))

    def prompt(self, record: Record) -> str:
        messages = _with_context(record, _before_answer(record))
        return "".join(f"{message.content}\n\n" for message in messages)


def _with_context(record: Record, messages: Sequence[Message]) -> list[Message]:
    """Puts the record's context below the first user message."""
    found = list(messages)
    if record.context:
        first = next(i for i, message in enumerate(found) if message.role == "user")
        found[first] = Message("user", f"{found[first].content}\n\n{record.context}")
    return found


class Chat:
    """The tokenizer's chat template; every answer is learned, with the mark that ends it.

    The template is a program, and says nothing about which of its text is an answer. So it is run
    once up to the place where the model starts to answer, and once with the answer; what the second
    text adds to the first is the answer. This holds if more turns never change the text before.
    """

    has_special_tokens = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Raises:
        ConfigError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ConfigError(
                "data.template is chat, but the tokenizer has no chat template; expected one in "
                "its tokenizer_config.json or chat_template.jinja, or set data.template to alpaca"
            )
        self._tokenizer = tokenizer
        # Longest first, so that a message names the whole token it found.
        special = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))
        self._end = tokenizer.eos_token

    def spans(self, record: Record) -> list[Span]:
        messages = self._messages(record, record.messages)
        spans: list[Span] = []
        done = ""
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            asked = self._render(record, messages[:i], answering=True)
            answered = self._render(record, messages[: i + 1], answering=False)
            if not (asked.startswith(done) and answered.startswith(asked)):
                raise DataError(
                    f"{record.where}: the chat template changes earlier text when turn {i} is "
                    "added, so answers cannot be told from prompts; keep one question and one "
                    "answer a row, or set data.template to alpaca"
                )
            end = self._answer_end(answered, len(asked))
            spans += [
                Span(asked[len(done) :], False),
                Span(answered[len(asked) : end], message.learned),
            ]
            done = answered[:end]
        return spans or [Span(self.prompt(record), False)]

    def prompt(self, record: Record) -> str:
        messages = self._messages(record, _before_answer(record))
        return self._render(record, messages, answering=True)

    def _answer_end(self, text: str, start: int) -> int:
        """Where the answer ends: after its EOS, before what a template adds behind (a newline)."""
        if self._end is None or (found := text.find(self._end, start)) < 0:
            return len(text)
        return found + len(self._end)

    def _messages(self, record: Record, messages: Sequence[Message]) -> list[Message]:
        for message in messages:
            if found := self._special.search(message.content):
                raise DataError(
                    f"{record.where}: the {message.role}'s text holds the special token "
                    f"{found.group()!r}, which would end or forge a turn; remove it from the row"
                )
        return _with_context(record, messages)

    def _render(self, record: Record, messages: Sequence[Message], *, answering: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=answering,
                # Some templates write today's date; a run that is resumed tomorrow must not change.
                date_string="26 Jul 2024",
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"{record.where}: the chat template refuses this row ({error}); mend the row, or "
                "set data.template to alpaca"
            ) from error
        return cast(str, text)
