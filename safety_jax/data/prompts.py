"""Turns records into text and marks what is learned; only this module words prompts.

    alpaca       the papers' wording (Alpaca, as in arXiv 2309.07875 and 2412.00074)
    plain        the messages as they are, a blank line between them
    bare         one prompt and nothing else: for prompts that are worded already
    human_assistant   Anthropic's transcripts, as many judges read (arXiv 2204.05862, 2309.07875)
    beaver       PKU's wording, for its reward and cost models (arXiv 2310.12773)
    chat         the tokenizer's own chat template, see chat.py
    file:PATH    a JSON file with `prompt_input` and `prompt_no_input`, as alpaca-lora's

In dialogues of several turns, `chat` learns every answer, because the template marks where each
ends. The other templates have no such mark: they learn only the last answer, and treat everything
before it as the prompt.
"""

import abc
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError, ConfigError, DataError
from safety_jax.data import thoughts
from safety_jax.data.chat import StoppedTemplate, Unwritable, Written, chat_template
from safety_jax.data.chat_spans import REASONING, Turn
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.data.template import Span, Template, Worded, plain_span
from safety_jax.data.text_rules import FIXED, TextRules


def load_template(
    name: str, tokenizer: PreTrainedTokenizerBase, rules: TextRules = FIXED
) -> Template:
    """The template with a name from the list at the top of this file.

    Raises:
        ConfigError: an unknown name, a file without the two prompts, or a tokenizer without a
            chat template.
        CheckpointError: a chat template that is broken.
    """
    if name == "chat":
        return Chat(tokenizer, rules)
    if name == "plain":
        return Plain(rules)
    known = {"alpaca": ALPACA, "bare": BARE, **JUDGES}
    if name in known:
        return dataclasses.replace(known[name], rules=rules)
    if name.startswith("file:"):
        return dataclasses.replace(_read_template(name.removeprefix("file:")), rules=rules)
    raise ConfigError(
        f"data.template: unknown template {name!r}; expected alpaca, plain, bare, "
        f"{', '.join(JUDGES)}, chat or file:PATH"
    )


def identified(name: str) -> str:
    """The name of a template for protocols; that of a file with a hash of its wording, which may
    change under the same path.

    Raises:
        ConfigError: a file that cannot be used.
    """
    if not name.startswith("file:"):
        return name
    read = _read_template(name.removeprefix("file:"))
    wording = json.dumps([read.with_input, read.without_input, read.next_turn])
    return f"{name}, sha256 {hashlib.sha256(wording.encode()).hexdigest()[:16]}"


class OneByOne(abc.ABC):
    """Templates that word each record by itself."""

    def spans(self, record: Record) -> list[Span]:
        prompt, last = plain_span(self.prompt(record), False), record.messages[-1]
        if last.role != "assistant":
            return [prompt]
        return [prompt, plain_span(last.content, last.learned)]

    @abc.abstractmethod
    def prompt(self, record: Record) -> str:
        """The text before a record's answer."""

    def word(self, records: Sequence[Record]) -> list[Worded | DataError]:
        return [self._worded(record, self.spans) for record in records]

    def ask(self, records: Sequence[Record]) -> list[Worded | DataError]:
        return [
            self._worded(record, lambda r: [plain_span(self.prompt(r), False)])
            for record in records
        ]

    def _worded(self, record: Record, spans: Callable[[Record], list[Span]]) -> Worded | DataError:
        try:
            return Worded(spans(record))
        except DataError as error:
            return error


def _before_answer(record: Record) -> Sequence[Message]:
    return record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages


@dataclasses.dataclass(frozen=True)
class Instruction(OneByOne):
    """A wording for one instruction, with `{instruction}` and `{input}` for the record's text.

    Attributes:
        with_input: the prompt of a record that has a context.
        without_input: the prompt of one that has none.
        next_turn: the text that follows an answer to ask again; None if the wording has none.
    """

    name: str
    with_input: str
    without_input: str
    next_turn: str | None
    has_special_tokens: bool = False
    rules: TextRules = FIXED

    def under(self, rules: TextRules) -> "Instruction":
        return dataclasses.replace(self, rules=rules)

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
    # In one pass, so that an instruction that contains {input} stays as it is.
    values = {"instruction": instruction, "input": context}
    return _BLANK.sub(lambda blank: values[blank.group(1)], wording)


_BLANK = re.compile(r"\{(instruction|input)\}")
# What wordings of other tools hold, for which nothing is filled in here.
_UNFILLED = re.compile(
    r"\{\{ ?(?:instruction|input)|\{ ?(?:output|response|answer|completion|system|context|prompt|"
    r"question|query|history)(?:_\w+)? ?\}|\{%"
)

# Models and published numbers depend on every character of these. The form of a further turn is
# ours, because the papers only have single turns.
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
    if path.endswith((".jinja", ".jinja2")):
        raise ConfigError(
            f"data.template: {path} is a chat template; expected a JSON file. Set data.template to "
            "chat, and model.tokenizer to a folder with the tokenizer's files and this one as "
            "chat_template.jinja"
        )
    try:
        content = files.read_object(
            files.expand(path), ConfigError, "expected a wording in JSON for data.template"
        )
    except FileNotFoundError as error:
        raise ConfigError(f"data.template: {path}: no such file; expected a JSON file") from error
    keys = {"prompt_input": "{input}", "prompt_no_input": "{instruction}"}
    for key, blank in keys.items():
        text = content.get(key)
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
    for key in (*keys, "next_turn"):
        if unfilled := _UNFILLED.search(str(content.get(key) or "")):
            raise ConfigError(
                f"data.template: {path}: {key} holds {unfilled[0]}, which would stay as it is; "
                "expected {instruction} and {input} alone, each in single braces: the answer "
                "follows the text by itself"
            )
    return Instruction(
        name=f"file:{path}",
        with_input=content["prompt_input"],
        without_input=content["prompt_no_input"],
        next_turn=next_turn,
    )


@dataclasses.dataclass(frozen=True)
class Plain(OneByOne):
    """System message, context and turns as they are, each followed by a blank line."""

    rules: TextRules = FIXED
    has_special_tokens: bool = False

    def under(self, rules: TextRules) -> "Plain":
        return dataclasses.replace(self, rules=rules)

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


def turns_of(messages: Sequence[Message], *, reasoning_apart: bool = False) -> list[Turn]:
    """Messages as chat templates get them.

    Args:
        reasoning_apart: passes thoughts in fields of their own instead of in front of answers.
    """
    turns: list[Turn] = []
    for message in messages:
        turn: dict[str, str] = {"role": message.role, "content": message.content}
        if reasoning_apart and message.role == "assistant":
            thought, answer = thoughts.apart(message.content)
            if thought is not None:
                turn |= dict.fromkeys(REASONING, thought) | {"content": answer}
        turns.append(turn)
    return turns


class Chat:
    """The tokenizer's chat template; learns every answer with the token that ends it."""

    has_special_tokens = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rules: TextRules):
        """Raises:
        ConfigError: the tokenizer has no chat template.
        CheckpointError: it is broken.
        """
        self._tokenizer, self.rules = tokenizer, rules
        self.chat = chat_template(tokenizer, rules.chat)

    def under(self, rules: TextRules) -> "Chat":
        return Chat(self._tokenizer, rules)

    def spans(self, record: Record) -> list[Span]:
        return _or_raise(self.word([record])[0]).spans

    def prompt(self, record: Record) -> str:
        return "".join(span.text for span in _or_raise(self.ask([record])[0]).spans)

    def word(self, records: Sequence[Record]) -> list[Worded | DataError]:
        return self._write(records, [record.messages for record in records], asking=False)

    def ask(self, records: Sequence[Record]) -> list[Worded | DataError]:
        return self._write(records, [_before_answer(record) for record in records], asking=True)

    def _write(
        self,
        records: Sequence[Record],
        messages: Sequence[Sequence[Message]],
        *,
        asking: bool,
    ) -> list[Worded | DataError]:
        apart = self.chat.reasoning_apart
        turns = [
            turns_of(_with_context(record, said), reasoning_apart=apart)
            for record, said in zip(records, messages, strict=True)
        ]
        answers = [
            [i for i, one in enumerate(said) if one.role == "assistant" and one.learned]
            for said in messages
        ]
        try:
            written = self.chat.write(turns, asking=asking, answers=answers)
        except StoppedTemplate as error:
            raise CheckpointError(f"{records[error.job].where}: {error}") from error
        return [self._worded(r, w) for r, w in zip(records, written, strict=True)]

    def _worded(self, record: Record, written: Written | Unwritable) -> Worded | DataError:
        if isinstance(written, Unwritable):
            return DataError(
                f"{record.where}: the chat template refuses this row ({written}); mend the row or "
                f"the template, which is that of {self.chat.name}, or set data.template to alpaca"
            )
        spans = [Span(s.text, s.learned, s.code, s.ended) for s in written.stretches]
        rest = spans.pop().code if len(spans) > 1 and not spans[-1].trained else ""
        return Worded(spans, rest, written.notes)


def _or_raise(found: Worded | DataError) -> Worded:
    if isinstance(found, DataError):
        raise found
    return found
