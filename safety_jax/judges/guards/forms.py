"""The forms in which guards read a conversation: the chat template of the guard's folder, or a text
with places for the question and the answer.

Only the form writes control tokens, never the conversation (see `data/control.py`).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError
from safety_jax.data import chat, prompts
from safety_jax.data.control import control_tokens
from safety_jax.data.messages import Message
from safety_jax.data.text_rules import FIXED
from safety_jax.judges.guards.reading import Prefix
from safety_jax.judges.judge import Conversation, Score, unscored
from safety_jax.judges.sequence import NoPlace, check_special


@runtime_checkable
class Form(Protocol):
    """Turns a conversation into the text that a guard reads."""

    def check(self, judge: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Raises:
            ConfigError: the tokenizer lacks what the form needs; `judge` is named.
        """
        ...

    def write(self, conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> Prefix:
        """
        Raises:
            NoPlace: the form has no place for something in the conversation.
        """
        ...

    def reworded(self) -> "Form | None":
        """The same form in other words, see `reword`; None if it has no words of its own."""
        ...


# Phrases of a form and synonyms for them.
EXCHANGES = {
    "determine": "decide",
    "assess": "judge",
    "pretend": "imagine",
    "provide": "give",
    "shall not": "must not",
    "according to": "in line with",
    "in accordance with": "in line with",
    "as shown in": "as seen in",
    "for example": "for instance",
    "check if": "see whether",
    "check whether": "see whether",
    "please": "kindly",
}
_EXCHANGED = re.compile(rf"\b({'|'.join(EXCHANGES)})\b", re.IGNORECASE)


def reword(text: str) -> str:
    """A form with synonyms from EXCHANGES; keeps initial capitals."""

    def other(found: re.Match[str]) -> str:
        word = EXCHANGES[found[0].lower()]
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return _EXCHANGED.sub(other, text)


def whole(conversation: Conversation) -> list[Message]:
    """All turns, the judged answer last."""
    return [*conversation.prompt, Message("assistant", conversation.response)]


@dataclasses.dataclass(frozen=True)
class ChatForm:
    """The chat template of the guard's own folder.

    Attributes:
        turns: the turns of a conversation for the template.
        message: a text with places, see `fill`; it replaces all turns as one message.
        last: a message after the turns.
        variables: further variables of the template, as JSON; "" for none.
        asking: the template's `add_generation_prompt`.
        behind: control tokens at which a template may end too early, and the text that follows.
    """

    turns: Callable[[Conversation], Sequence[Message]] = whole
    message: str = ""
    last: str = ""
    variables: str = ""
    asking: bool = True
    behind: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check(self, judge: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Form`."""
        if not tokenizer.chat_template:
            raise ConfigError(
                f"judge {judge}: {tokenizer.name_or_path} has no chat template; expected a model "
                "with one in tokenizer_config.json or chat_template.jinja"
            )

    def write(self, conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> Prefix:
        """See `Form`."""
        settings = dataclasses.replace(FIXED.chat, variables=self.variables)
        turns = prompts.turns_of(self._messages(conversation))
        (written,) = chat.chat_template(tokenizer, settings).write(
            [turns], asking=self.asking, answers=[()]
        )
        if isinstance(written, chat.Unwritable):
            raise NoPlace(f"the chat template refuses it ({written})") from written
        answers = sum(turn["role"] == "assistant" for turn in turns)
        if "assistant" in written.notes and answers == 1:
            raise NoPlace("the chat template leaves out the response")
        control = control_tokens(tokenizer)
        for token, more in self.behind.items():
            if written.code.endswith(control.encode(token)):
                return Prefix(written.code + more)
        return Prefix(written.code)

    def _messages(self, conversation: Conversation) -> list[Message]:
        if self.message:
            found = [Message("user", fill(self.message, conversation))]
        else:
            found = list(self.turns(conversation))
        return [*found, Message("user", self.last)] if self.last else found

    def reworded(self) -> "ChatForm | None":
        """See `Form`; the template's own words are kept."""
        variables = json.dumps(_reworded_values(json.loads(self.variables or "{}")))
        other = dataclasses.replace(
            self,
            message=reword(self.message),
            last=reword(self.last),
            variables=variables if self.variables else "",
        )
        return None if other == self else other


def _reworded_values(value: Any) -> Any:
    """JSON with its sentences reworded, but not its names, which have no spaces."""
    if isinstance(value, dict):
        return {key: _reworded_values(one) for key, one in value.items()}
    return reword(value) if isinstance(value, str) and " " in value else value


_PLACE = re.compile(r"\{(prompt|response)\}")


def fill(form: str, conversation: Conversation, wrap: Callable[[str], str] = str) -> str:
    """A form with the question for `{prompt}` and the answer for `{response}`.

    Args:
        wrap: applied to the form's own text, piece by piece.

    Raises:
        NoPlace: there are several turns, or a system message.
    """
    if len(conversation.prompt) > 1:
        raise NoPlace("has several turns, for which the guard has no form")
    said = {"prompt": conversation.question, "response": conversation.response}
    pieces = _PLACE.split(form)
    return "".join(said[p] if i % 2 else wrap(p) for i, p in enumerate(pieces))


@dataclasses.dataclass(frozen=True)
class TextForm:
    """A text with places, for guards whose folder has no template of its own.

    Attributes:
        text: with `{prompt}` and `{response}`; it may write control tokens.
        response_tokens: the number of the response's tokens that are read, as in the guard's
            benchmark; 0: all.
    """

    text: str
    response_tokens: int = 0

    def check(self, judge: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Form`."""
        for place in ("{prompt}", "{response}"):
            if self.text.count(place) != 1:
                raise ConfigError(
                    f"judge {judge}: its form has {place} {self.text.count(place)} times; "
                    "expected each of {prompt} and {response} once"
                )

    def write(self, conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> Prefix:
        """See `Form`; begins with BOS if the tokenizer adds it to texts."""
        if self.response_tokens:
            cut = clip(conversation.response, self.response_tokens, tokenizer)
            conversation = dataclasses.replace(conversation, response=cut)
        text = fill(self.text, conversation, control_tokens(tokenizer).encode)
        begin, first = tokenizer.bos_token_id, tokenizer("a").input_ids[0]
        if first != begin or self.text.startswith(tokenizer.bos_token):
            return Prefix(text)
        return Prefix(text, (first,))

    def reworded(self) -> "TextForm | None":
        """See `Form`."""
        other = dataclasses.replace(self, text=reword(self.text))
        return None if other == self else other


def clip(text: str, tokens: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The first tokens of a text, as text."""
    (encoding,) = control_tokens(tokenizer).read_with_offsets([text])
    return text if len(encoding.ids) <= tokens else text[: encoding.offsets[tokens - 1][1]]


def written(
    form: Form,
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    special_text: str,
) -> list[Prefix | Score]:
    """The text for each conversation; unscored if it has no place in the form.

    Args:
        special_text: see `sequence.check_special`.
    """
    found: list[Prefix | Score] = []
    for conversation in conversations:
        try:
            check_special(tokenizer, conversation, special_text)
            found.append(form.write(conversation, tokenizer))
        except NoPlace as problem:
            found.append(unscored(str(problem)))
    return found
