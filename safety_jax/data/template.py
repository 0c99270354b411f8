"""What a template is: records in, spans of text out, of which some are learned."""

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
        text: as people read it.
        trained: it is learned.
        code: what is tokenized: the text, where control tokens that a template writes are in code
            words (see `control.py`).
        ended: a control token that the template writes ends the answer.
        opening: how many of its tokens stand there, of the beginning of another answer; None: all.
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
        rest: what the template writes behind that, coded.
        notes: of whom something is left out: "system", "user", "assistant", "reasoning".
    """

    spans: list[Span]
    rest: str = ""
    notes: frozenset[str] = frozenset()

    @property
    def code(self) -> str:
        """All that is tokenized."""
        return "".join(span.code for span in self.spans) + self.rest


@runtime_checkable
class Template(Protocol):
    """How records are worded.

    Attributes:
        has_special_tokens: the text holds the tokenizer's control tokens, BOS included, in code
            words; otherwise BOS is the tokenizer's to add.
        rules: how the texts of records are read.
    """

    @property
    def has_special_tokens(self) -> bool: ...

    @property
    def rules(self) -> TextRules: ...

    def under(self, rules: TextRules) -> "Template":
        """This template under other rules."""
        ...

    def spans(self, record: Record) -> list[Span]:
        """Spans in reading order, up to the end of the last answer.

        Raises:
            DataError: the template has no place for something in the record.
        """
        ...

    def prompt(self, record: Record) -> str:
        """What a model reads before it gives the record's last answer, as people read it."""
        ...

    def word(self, records: Sequence[Record]) -> list[Worded | DataError]:
        """Many records at once; in place of one that has no place, why. Answers are learned whose
        messages say so, where the template tells them apart; else the last alone."""
        ...

    def ask(self, records: Sequence[Record]) -> list[Worded | DataError]:
        """Prompts of many records, as `word`."""
        ...


def leading_ids(tokenizer: PreTrainedTokenizerBase, template: Template) -> list[int]:
    """What the tokenizer puts in front of a text: BOS, or nothing (Qwen).

    Not `bos_token_id`, which some tokenizers have and do not use. A chat template writes its own.

    Raises:
        ConfigError: the tokenizer changes a text by putting tokens around it.
    """
    if template.has_special_tokens:
        return []
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise ConfigError(
        f"the tokenizer gives {whole} for 'a', which does not hold {plain}, what it gives without "
        "special tokens; expected special tokens only around a text"
    )


def worded(
    records: Sequence[Record],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    *,
    asking: bool = False,
) -> list[Worded | DataError]:
    """Records as a template words them, by its rules for special text and reasoning.

    Args:
        asking: their prompts.
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
