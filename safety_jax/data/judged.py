"""Encodes answers for judges: the wording of prompt and answer, their token ids, and their labels.

A judge reads a whole text, so the ids are those of `tokenizer(text)`, without a boundary between
prompt and answer. Wordings are those of `prompts.py`, and

    pair    prompt and answer as a text pair, for models that were trained on pairs (BERT, DeBERTa)

The text is followed by the tokens that the tokenizer puts there, such as [SEP], and by EOS if asked
for. These tokens stay when a text is cut.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import building, encode, prompts
from safety_jax.data.building import Encoded
from safety_jax.data.control import control_tokens
from safety_jax.data.examples import Examples
from safety_jax.data.records import Pair, Rated, Record
from safety_jax.data.sources import Skipped
from safety_jax.data.template import Template, Worded, find_plain, worded
from safety_jax.data.text_rules import FIXED, TextRules

PAIR = "pair"


@dataclasses.dataclass(frozen=True)
class JudgedAnswers:
    """Encoded answers; entry i of all fields is one example.

    Attributes:
        sides: the prompt with the answer, whose tokens the mask marks; for pairs two sides, chosen
            and rejected.
        targets: for each side a rating, or 1 for unsafe and 0 for safe; None if pairs do not say.
        categories: kinds of harm.
        prompts: the number of its prompt, from 0; if all have one prompt, each has its own number.
    """

    sides: tuple[Examples, ...]
    targets: Float[np.ndarray, "n sides"] | None
    categories: list[tuple[str, ...]]
    prompts: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.sides[0])

    @property
    def where(self) -> list[str]:
        return self.sides[0].where

    @property
    def source(self) -> list[str]:
        return self.sides[0].source

    @property
    def answer_lengths(self) -> Float[np.ndarray, "n sides"]:
        """Tokens of each answer, including the special tokens behind it."""
        return np.stack([side.trained_lengths for side in self.sides], axis=1).astype(float)


# ---------------------------------------------------------------------------- wordings


@dataclasses.dataclass(frozen=True)
class Frame:
    """Special tokens around a text, or around and between two."""

    begin: list[int]
    between: list[int]
    end: list[int]
    types: bool  # the tokenizer marks the second text by token types


@runtime_checkable
class Wording(Protocol):
    """How records become ids; without the frame's end, which is appended after cutting."""

    @property
    def frame(self) -> Frame: ...

    @property
    def rules(self) -> TextRules: ...

    def encode(self, records: Sequence[Record]) -> list[Encoded | DataError]: ...

    def prompt(self, record: Record) -> str: ...


def wording(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    takes_pairs: bool,
    append_eos: bool,
    rules: TextRules = FIXED,
) -> Wording:
    """The wording of a config value.

    Args:
        rules: how texts are read; for judges, whose scores must not depend on the day, `FIXED` with
            another `special_text` or `reasoning`.
        takes_pairs: the model was made for text pairs.
        append_eos: append EOS to the answer, unless the tokenizer or the chat template ends it with
            a token of its own.

    Raises:
        ConfigError: an unknown name, a pair for a model that takes none, or a tokenizer that has no
            EOS to append.
    """
    if append_eos and tokenizer.eos_token_id is None:
        raise ConfigError(
            "data.append_eos: the tokenizer has no EOS; expected eos_token in the model folder's "
            "tokenizer_config.json, or set it to False"
        )
    if name != PAIR:
        return SingleText(prompts.load_template(name, tokenizer, rules), tokenizer, append_eos)
    if not takes_pairs:
        raise ConfigError(
            "data.template pair: this model does not take text pairs; expected plain, "
            "human_assistant, alpaca, chat or file:PATH"
        )
    return TextPair(tokenizer, rules)


class SingleText:
    """One text, worded by a template."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, append_eos: bool):
        self.rules = template.rules
        self._template, self._tokenizer = template, tokenizer
        self.frame = _frame(tokenizer)
        ended = False
        if isinstance(template, prompts.Chat):  # a chat template writes its own special tokens
            self.frame, ended = Frame([], [], [], types=False), template.chat.end != ""
        if append_eos and not self.frame.end and not ended:
            self.frame = dataclasses.replace(self.frame, end=[tokenizer.eos_token_id])

    def encode(self, records: Sequence[Record]) -> list[Encoded | DataError]:
        words = [
            DataError(f"{record.where}: the chat template leaves the answer out")
            if isinstance(row, Worded) and not row.spans[-1].trained
            else row
            for record, row in zip(
                records, worded(records, self._template, self._tokenizer), strict=True
            )
        ]
        good = [row for row in words if isinstance(row, Worded)]
        control = control_tokens(self._tokenizer)
        read = iter(control.read_with_offsets([row.code for row in good]))
        found: list[Encoded | DataError] = []
        for row in words:
            if isinstance(row, DataError):
                found.append(row)
                continue
            tokens = next(read)
            start = sum(len(span.code) for span in row.spans[:-1])
            answer = [stop > start for _, stop in tokens.offsets]
            ids, begin, end = tokens.ids, self.frame.begin, self.frame.end
            if end and ids[-1:] == end:  # the chat template has written it already
                ids, answer = ids[:-1], answer[:-1]
            kept = len(begin) + control.begins(row.code)  # a chat template writes BOS itself
            found.append(Encoded(begin + ids, [False] * len(begin) + answer, kept, row.notes))
        return found

    def prompt(self, record: Record) -> str:
        return self._template.prompt(record)


class TextPair:
    """Prompt and answer as two texts; blank lines separate several turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rules: TextRules):
        self.rules = rules
        self._plain, self._tokenizer = prompts.Plain(rules), tokenizer
        self.frame = _pair_frame(tokenizer)

    def encode(self, records: Sequence[Record]) -> list[Encoded | DataError]:
        words = worded(records, self._plain, self._tokenizer)
        good = [row for row in words if isinstance(row, Worded)]
        control = control_tokens(self._tokenizer)
        asked = iter(control.read([_alone(row.spans[0].code) for row in good]))
        said = iter(control.read([row.spans[-1].code for row in good]))
        found: list[Encoded | DataError] = []
        for row in words:
            if isinstance(row, DataError):
                found.append(row)
                continue
            prompt = self.frame.begin + next(asked) + self.frame.between
            second = next(said)
            answer = [False] * len(prompt) + [True] * len(second)
            found.append(Encoded(prompt + second, answer, len(self.frame.begin), row.notes))
        return found

    def prompt(self, record: Record) -> str:
        return _alone(self._plain.prompt(record))


def _alone(prompt: str) -> str:
    """A prompt of the template `plain` without the blank line in front of the answer."""
    return prompt.removesuffix("\n\n")


def _frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    whole = tokenizer("a").input_ids
    text = find_plain("a", whole, tokenizer)
    return Frame(whole[: text.start], [], whole[text.stop :], types=False)


def _pair_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    both = tokenizer("a", "b")
    whole = both.input_ids
    first = find_plain("a", whole, tokenizer)
    second = find_plain("b", whole, tokenizer, behind=first.stop)
    types = cast(dict, both).get("token_type_ids", [0])
    return Frame(
        whole[: first.start], whole[first.stop : second.start], whole[second.stop :], any(types)
    )


# ---------------------------------------------------------------------------- token ids


def encode_answers(
    rows: Sequence[Pair] | Sequence[Rated],
    wording: Wording,
    *,
    max_length: int,
    overlong_prompt: str,
    bad_rows: str,
    vocabulary_size: int,
    skipped: list[Skipped],
) -> JudgedAnswers:
    """Tokenizes the answers of every row behind the same prompt.

    Rows longer than `max_length` lose tokens as in `encode.encode`; the prompt of a pair loses the
    same number on both sides.

    Args:
        bad_rows: "skip" leaves out pairs whose answers are equal once cut, "error" raises.
        skipped: receives the rows that are left out, with the reason.

    Raises:
        ConfigError, DataError: as `encode.encode`; also pairs whose answers do not differ.
    """
    encode.check_choice("data.overlong_prompt", overlong_prompt, ("error", "skip"))
    frame = wording.frame
    limits = building.Limits(max_length, overlong_prompt, vocabulary_size, tuple(frame.end))
    if limits.room < 2:
        raise ConfigError(
            f"data.max_length is {max_length}; expected at least {2 + len(frame.end)}"
        )
    encoded = [wording.encode(list(side)) for side in zip(*map(_sides, rows), strict=True)]
    sides = building.SidesBuilder(
        len(encoded), limits, rules=wording.rules, bad_rows=bad_rows, skipped=skipped
    )
    kept = [row for row, *found in zip(rows, *encoded, strict=True) if sides.add(row, tuple(found))]
    categories = [r.labels.categories if isinstance(r, Pair) else r.categories for r in kept]
    return JudgedAnswers(tuple(sides.finish()), _targets(kept), categories, _prompts(kept))


def _sides(row: Pair | Rated) -> tuple[Record, ...]:
    answers = (row.chosen, row.rejected) if isinstance(row, Pair) else (row.answer,)
    return tuple(
        Record(row.prompt + a, row.context, row.source, row.where, row.optional) for a in answers
    )


def _prompts(rows: Sequence[Pair | Rated]) -> Int[np.ndarray, " n"]:
    asked = [(row.prompt, row.context) for row in rows]
    numbers = {one: number for number, one in enumerate(dict.fromkeys(asked))}
    if len(numbers) == 1:  # such as texts to classify, which answer nothing
        return np.arange(len(rows))
    return np.array([numbers[one] for one in asked], int)


def _targets(rows: Sequence[Pair | Rated]) -> Float[np.ndarray, "n sides"] | None:
    known = [row.labels.unsafe if isinstance(row, Pair) else (row.value,) for row in rows]
    return None if None in known else np.array(known, np.float64)
