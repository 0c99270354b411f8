"""Judges with a sequence head: reward and harmfulness models, toxicity classifiers, cost models.

Templates:

pair             the tokenizer's text pair (prompt, response); OpenAssistant's DeBERTa
human_assistant  "\\n\\nHuman: q\\n\\nAssistant: a"; arXiv 2309.07875's harmfulness model, GPT-2's
                 helpfulness model
beaver           PKU's "BEGINNING OF CONVERSATION: USER: q ASSISTANT:a" and EOS (safe-rlhf)
chat             the tokenizer's chat template
response         the response alone; toxicity classifiers
plain, alpaca, bare, file:PATH   templates of data/prompts.py
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special
from transformers import PreTrainedTokenizerBase

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import chat, prompts
from safety_jax.data.control import control_tokens
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.data.text_rules import FIXED
from safety_jax.judges.batching import Batcher, TokenRow
from safety_jax.judges.judge import NOT_FINITE, Conversation, JudgeCard, Score, scored, unscored
from safety_jax.models.encoders import heads
from safety_jax.models.execution import Execution

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda outputs: outputs,
    "sigmoid": special.expit,
    "softmax": lambda outputs: special.softmax(outputs, axis=-1),
}
OVERLONG = ("unscored", "cut_prompt")
LARGEST = "*"  # instead of an output's label: the largest output


class NoPlace(Exception):
    """A template has no place for something in a conversation; the row is left unscored."""


# ---------------------------------------------------------------------------- templates
# A template returns the text before the response and the text of the response. A row that is too
# long may lose tokens of the former.

JudgeTemplate = Callable[[Conversation, PreTrainedTokenizerBase], tuple[str, str]]


def _turns(conversation: Conversation, template: str) -> list[tuple[str, str]]:
    """(role, text) of each turn; raises NoPlace for a system message."""
    if conversation.prompt[0].role == "system":
        raise NoPlace(f"has a system message, for which the template {template} has no place")
    return [(message.role, message.content) for message in conversation.prompt]


def _pair(conversation: Conversation, _: PreTrainedTokenizerBase) -> tuple[str, str]:
    return "\n\n".join(text for _, text in _turns(conversation, "pair")), conversation.response


def _human_assistant(conversation: Conversation, _: PreTrainedTokenizerBase) -> tuple[str, str]:
    names = {"user": "Human", "assistant": "Assistant"}
    turns = _turns(conversation, "human_assistant")
    before = "".join(f"\n\n{names[role]}: {text}" for role, text in turns)
    return f"{before}\n\nAssistant:", f" {conversation.response}"


def _beaver(conversation: Conversation, _: PreTrainedTokenizerBase) -> tuple[str, str]:
    turns = _turns(conversation, "beaver")
    if len(turns) > 1:
        raise NoPlace("has several turns, for which the template beaver has no form")
    begin = "BEGINNING OF CONVERSATION: USER:"
    return f"{begin} {conversation.question} ASSISTANT:", conversation.response


def _chat(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    turns = [*conversation.prompt, Message("assistant", conversation.response)]
    return "", render(tokenizer, turns)


def _response(conversation: Conversation, _: PreTrainedTokenizerBase) -> tuple[str, str]:
    if not conversation.response.strip():
        raise NoPlace("the response is empty, and nothing else is read")
    return "", conversation.response


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> str:
    """The chat template's text, with its control tokens encoded (see `data/control.py`).

    Raises:
        NoPlace: the template refuses these turns.
        CheckpointError: it is broken.
    """
    template = chat.chat_template(tokenizer, FIXED.chat)
    (written,) = template.write([prompts.turns_of(turns)], asking=False)
    if isinstance(written, chat.Unwritable):
        raise NoPlace(f"the chat template refuses it ({written})") from written
    return written.code


def check_special(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, special_text: str
) -> None:
    """Checks for control tokens in the text of messages.

    Args:
        special_text: "text" reads them as text, "skip" leaves the row unscored, "error" raises.

    Raises:
        NoPlace, DataError: there is one, and `special_text` is "skip", or "error".
    """
    if special_text == "text":
        return
    turns = [*conversation.prompt, Message("assistant", conversation.response)]
    for message in turns:
        if found := control_tokens(tokenizer).find(message.content):
            why = f"the {message.role}'s text holds the special token {found.group()!r}"
            if special_text == "skip":
                raise NoPlace(why)
            raise DataError(
                f"{conversation.where}: {why}; set data.special_text to text, which reads it as "
                "letters, or to skip, which leaves the row unscored"
            )


def _worded(name: str, tokenizer: PreTrainedTokenizerBase) -> JudgeTemplate:
    """A template of data/prompts.py; a conversation that it cannot word is left unscored."""
    template = prompts.load_template(name, tokenizer)

    def words(conversation: Conversation, _: PreTrainedTokenizerBase) -> tuple[str, str]:
        asked = Record(conversation.prompt, "", "", conversation.where)
        try:
            return template.prompt(asked), conversation.response
        except DataError as error:
            raise NoPlace(str(error)) from error

    return words


TEMPLATES: dict[str, JudgeTemplate] = {
    "pair": _pair,
    "human_assistant": _human_assistant,
    "beaver": _beaver,
    "chat": _chat,
    "response": _response,
}
WORDED = ("plain", "alpaca", "bare")
# Templates that append EOS, as safe-rlhf trains its models (arXiv 2310.12773).
ENDED = ("beaver",)


# ---------------------------------------------------------------------------- tokens


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Encodes conversations as rows of tokens.

    Attributes:
        template: a key of TEMPLATES, or a template of data/prompts.py.
        max_tokens: of a row.
        overlong: one of OVERLONG: leave a longer row unscored, or cut its prompt on the left.
        append_eos: append EOS to the response, unless the tokenizer or the chat template already
            ends it with a token.
        special_text: see `check_special`.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    max_tokens: int
    overlong: str
    append_eos: bool
    special_text: str = "text"

    def __post_init__(self) -> None:
        if self.overlong not in OVERLONG:
            raise ConfigError(f"overlong {self.overlong!r}: expected one of {', '.join(OVERLONG)}")
        if self.template == "chat" and not self.tokenizer.chat_template:
            raise ConfigError("template is chat, but the tokenizer has no chat template")
        if self.template == "chat" and self.overlong == "cut_prompt":
            raise ConfigError("overlong is cut_prompt, which would cut a chat template's marks")
        if self.template not in TEMPLATES and not self.template.startswith("file:"):
            if self.template not in WORDED:
                known = (*TEMPLATES, *WORDED, "file:PATH")
                raise ConfigError(f"template {self.template!r}: expected one of {', '.join(known)}")

    @functools.cached_property
    def _words(self) -> JudgeTemplate:
        if self.template in TEMPLATES:
            return TEMPLATES[self.template]
        return _worded(self.template, self.tokenizer)

    @functools.cached_property
    def _ended(self) -> bool:
        """Whether to append EOS to the response."""
        if self.template in ENDED:
            return True
        if self.template == "chat" and chat.chat_template(self.tokenizer, FIXED.chat).end:
            return False
        alone, whole = (
            self.tokenizer("a", add_special_tokens=special).input_ids for special in (False, True)
        )
        return self.append_eos and alone[-1] == whole[-1]

    def encode(self, conversation: Conversation) -> TokenRow | Score:
        """The row, or why there is none."""
        try:
            check_special(self.tokenizer, conversation, self.special_text)
            before, after = self._words(conversation, self.tokenizer)
        except NoPlace as problem:
            return unscored(str(problem))
        row = self._row(before, after, {})
        length, room = len(row.ids), self.max_tokens
        if length > room:
            (prompt,) = control_tokens(self.tokenizer).read([before])
            if self.overlong == "unscored" or length - room >= len(prompt):
                return unscored(f"{length} tokens, more than {room}")
            # As a truncating tokenizer would, with room for the EOS that we append.
            cut = "only_first" if self.template == "pair" else True
            room -= self._ended
            row = self._row(before, after, {"truncation": cut, "max_length": room})
        return row

    def _row(self, before: str, after: str, truncation: dict[str, Any]) -> TokenRow:
        # A chat template writes its special tokens itself.
        texts = (before, after) if self.template == "pair" else (before + after,)
        control = control_tokens(self.tokenizer)
        encoded = control.reader(
            *texts, add_special_tokens=self.template != "chat", verbose=False, **truncation
        )
        ids = [*encoded["input_ids"]]
        if self.template == "chat":
            control.check(after, ids)
        if self._ended and (self.template in ENDED or ids[-1] != self.tokenizer.eos_token_id):
            ids.append(self.tokenizer.eos_token_id)
        types = [*(encoded.get("token_type_ids") or ())]
        return TokenRow(ids, types + [0] * (len(ids) - len(types)))


# ---------------------------------------------------------------------------- the judge


class SequenceJudge:
    """One output of a sequence head, or a probability made from it.

    Args:
        output: index of the output that is the score, see `output_index`; None for the largest.
        activation: a key of ACTIVATIONS, applied to all outputs of a row.
    """

    def __init__(
        self,
        card: JudgeCard,
        scorer: heads.Scorer,
        weights: trees.Tree,
        execution: Execution,
        encoder: Encoder,
        batcher: Batcher,
        *,
        output: int | None,
        activation: str,
    ):
        self.card = card
        self._weights, self._encoder = weights, encoder
        self._output, self._activation = output, ACTIVATIONS[activation]
        self._names = scorer.label_names
        self._batcher, self._gap = batcher, scorer.gap
        self._compiled = batcher.compile(
            lambda weights, tokens, ends: heads.packed_scores(
                scorer, weights, tokens, ends, execution
            )
        )

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        encoded = [self._encoder.encode(conversation) for conversation in conversations]
        rows = [row for row in encoded if isinstance(row, TokenRow)]
        if not rows:
            return [row for row in encoded if isinstance(row, Score)]
        outputs = self._batcher.run(self._compiled, self._weights, rows, gap=self._gap)
        outputs = self._activation(outputs)
        values = iter(outputs)
        return [row if isinstance(row, Score) else self._score(next(values)) for row in encoded]

    def _score(self, outputs: np.ndarray) -> Score:
        if self._output is not None:
            return scored(float(outputs[self._output]))
        if not np.isfinite(outputs).all():
            return unscored(NOT_FINITE)
        found = {name: float(value) for name, value in zip(self._names, outputs, strict=True)}
        largest = max(found, key=found.__getitem__)
        return scored(found[largest], largest, outputs=found)


def output_index(name: str, labels: Sequence[str], output: str) -> int | None:
    """The index of a judge's output by its label, or "" if there is only one; None for LARGEST.

    Raises:
        ConfigError: there is no such label, or none is given although there are several.
    """
    if output == LARGEST:
        return None
    if not output and len(labels) == 1:
        return 0
    if output not in labels:
        raise ConfigError(
            f"score.judges.{name}.output {output!r}: expected one of the model's labels, "
            f"{', '.join(labels)}, or {LARGEST} for the largest"
        )
    return list(labels).index(output)


def check_activation(name: str, activation: str) -> None:
    """Raises a ConfigError unless it is a key of ACTIVATIONS."""
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"score.judges.{name}.activation {activation!r}: expected one of "
            f"{', '.join(ACTIVATIONS)}"
        )
