"""The interface of templates, which turn records into spans of text, some of them learned."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import text_rules
from safety_jax.data.control import control_tokens
from safety_jax.data.records import Record
from safety_jax.data.recovery import Beginning
from safety_jax.data.text_rules import TextRules


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a record's text.

    Attributes:
        text: the text as people read it.
        trained: it is learned.
        code: the text to tokenize, with code words for the template's control tokens (see
            `control.py`).
        ended: the template ends the answer with a control token.
        opening: the beginning of another answer that this span is cut to; None for none.
    """

    text: str
    trained: bool
    code: str
    ended: bool = False
    opening: Beginning | None = None


def plain_span(text: str, trained: bool) -> Span:
    """A span without control tokens."""
    return Span(text, trained, text)


@dataclasses.dataclass(frozen=True, slots=True)
class Worded:
    """A record as a template words it.

    Attributes:
        spans: in reading order, up to the end of the last answer.
        rest: the template's text behind that, with code words.
        notes: keys of `text_rules.NOTES`.
    """

    spans: list[Span]
    rest: str = ""
    notes: frozenset[str] = frozenset()

    @property
    def code(self) -> str:
        """The whole text to tokenize."""
        return "".join(span.code for span in self.spans) + self.rest


@runtime_checkable
class Template(Protocol):
    """Turns records into text.

    Attributes:
        has_special_tokens: the text contains the tokenizer's control tokens, including BOS, as code
            words; otherwise the tokenizer adds BOS.
        rules: how the texts of records are read.
    """

    @property
    def has_special_tokens(self) -> bool: ...

    @property
    def rules(self) -> TextRules: ...

    def under(self, rules: TextRules) -> "Template":
        """This template with other rules."""
        ...

    def spans(self, record: Record) -> list[Span]:
        """The spans of a record in reading order, up to the end of the last answer.

        Raises:
            DataError: the template has no place for something in the record.
        """
        ...

    def prompt(self, record: Record) -> str:
        """The text that a model reads before it gives the record's last answer."""
        ...

    def word(self, records: Sequence[Record]) -> list[Worded | DataError]:
        """Words many records at once; a DataError in place of each that the template cannot write.

        If the template marks turns, all answers with `Message.learned` are learned; else only the
        last."""
        ...

    def ask(self, records: Sequence[Record]) -> list[Worded | DataError]:
        """Words the prompts of many records, as `word`."""
        ...


def leading_ids(tokenizer: PreTrainedTokenizerBase, template: Template) -> list[int]:
    """The ids that the tokenizer puts in front of a text: BOS, or nothing (Qwen). Empty for chat
    templates, which write their own.

    This is not `bos_token_id`, which some tokenizers have but do not use.

    Raises:
        ConfigError: the tokenizer encodes a text differently with special tokens around it.
    """
    if template.has_special_tokens:
        return []
    whole = tokenizer("a").input_ids
    return whole[: find_plain("a", whole, tokenizer).start]


def find_plain(
    text: str, whole: list[int], tokenizer: PreTrainedTokenizerBase, behind: int = 0
) -> slice:
    """Where a text's ids stand among those with special tokens around it.

    Args:
        behind: the text begins at this place or later.

    Raises:
        ConfigError: the tokenizer encodes the text differently with special tokens around it.
    """
    plain = tokenizer(text, add_special_tokens=False).input_ids
    for start in range(behind, len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return slice(start, start + len(plain))
    raise ConfigError(
        f"the tokenizer gives {whole}, which does not hold {plain}, what it gives for {text!r} "
        "without special tokens; expected special tokens only around a text"
    )


def worded(
    records: Sequence[Record],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    asking: bool = False,
) -> list[Worded | DataError]:
    """Records as a template words them, after applying its rules for special text and reasoning.

    Args:
        asking: words only their prompts.
    """
    rows = text_rules.spoken(records, template.rules)
    words = template.ask(rows) if asking else template.word(rows)
    control = control_tokens(tokenizer)
    found: list[Worded | DataError] = []
    for record, row, said in zip(records, rows, words, strict=True):
        special = None
        if template.rules.special_text != text_rules.AS_TEXT:
            special = text_rules.find_special(row, control)
        if row is not record and isinstance(said, Worded):
            said = dataclasses.replace(said, notes=said.notes | {text_rules.DROPPED})
        found.append(special or said)
    return found
