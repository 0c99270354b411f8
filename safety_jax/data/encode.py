"""Turns records into token ids, and marks which tokens are trained: the only place masks are made.

Masks come from the record's structure (who said what), never from token values. The rule is that
the model learns in training what it will meet in use:

  - The ids before an answer are what inference feeds: those of the prompt's text alone. The whole
    text is tokenized together; only where the last prompt token and the answer's first letters
    would melt into one token is the answer tokenized for itself.
  - BOS stands where the tokenizer puts it, once. One EOS ends an answer, and is trained, so that
    the model learns to stop; an answer that had to be cut gets none.
  - Text that merely looks like a special token ("</s>" in a web page) is tokenized as text.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from safety_jax.base import terminal
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.prompts import Span, Template
from safety_jax.data.records import Record


@dataclasses.dataclass(frozen=True)
class Counts:
    """What encoding did to the rows.

    Attributes:
        cut_prompts: prompts that lost tokens on their left.
        cut_answers: answers that lost their end.
        skipped: rows left out, by reason.
    """

    cut_prompts: int
    cut_answers: int
    skipped: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Token sequences of different lengths, end to end; example i is `offsets[i]:offsets[i + 1]`.

    Attributes:
        ids: token ids.
        mask: True where a token is trained; never on the first of an example.
        offsets: where each example starts, and the end.
        where: the row of each example, in words.
        source: the name of each example's source.
    """

    ids: Int[np.ndarray, " total"]
    mask: Bool[np.ndarray, " total"]
    offsets: Int[np.ndarray, " starts"]
    where: list[str]
    source: list[str]
    counts: Counts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sides(self) -> tuple["Examples"]:
        """An example is a side of its own, where nothing is compared with it."""
        return (self,)

    def example(self, i: int | np.integer) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Ids and mask of example i."""
        here = slice(self.offsets[i], self.offsets[i + 1])
        return self.ids[here], self.mask[here]

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each example."""
        return np.diff(self.offsets)

    @functools.cached_property
    def trained_lengths(self) -> Int[np.ndarray, " n"]:
        """Trained tokens of each example."""
        return np.diff(np.concatenate([[0], np.cumsum(self.mask)])[self.offsets])


def fingerprint(sides: Sequence[Examples]) -> str:
    """A hash (hex) of examples: their tokens, and which are trained."""
    digest = hashlib.sha256()
    for side in sides:
        for array in (side.ids, side.mask, side.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclasses.dataclass
class Encoded:
    """One example in the making. `answer` marks tokens of answers, whatever will be trained."""

    ids: list[int]
    answer: list[bool]

    @property
    def prompt_length(self) -> int:
        return self.answer.index(True)


class Builder:
    """Puts examples end to end, and counts what had to be cut."""

    def __init__(self) -> None:
        self._ids: list[Int[np.ndarray, " n"]] = []
        self._masks: list[Bool[np.ndarray, " n"]] = []
        self._where: list[str] = []
        self._source: list[str] = []
        self._cut: Counter[str] = Counter()

    def add(
        self,
        example: Encoded,
        surplus: int,
        max_length: int,
        begin: int,
        where: str,
        source: str,
        everything: bool = False,
        end: tuple[int, ...] = (),
    ) -> None:
        """Takes an example in, cut to `max_length`.

        Args:
            surplus: tokens that should go; for one side of a pair, those of the longer side.
            begin: tokens in front that stay.
            everything: trains the prompt too.
            end: ids to put behind what is left of the answer, beyond `max_length`.
        """
        self._cut.update(_cut(example, surplus, max_length, begin))
        example.ids += end
        example.answer += [True] * len(end)
        answer = np.array(example.answer)
        mask = np.ones_like(answer) if everything else answer
        mask[0] = False
        self._ids.append(np.array(example.ids, np.int32))
        self._masks.append(mask)
        self._where.append(where)
        self._source.append(source)

    def finish(
        self, vocabulary_size: int, skipped: Mapping[str, int], rows: int, max_length: int
    ) -> Examples:
        """The examples; raises a DataError when there are none, or one has an unknown token."""
        if not self._ids:
            raise DataError(
                f"no example is left of {rows} rows ({sum(skipped.values())} prompts are too "
                f"long); expected at least one, raise data.max_length={max_length}"
            )
        lengths = [len(ids) for ids in self._ids]
        examples = Examples(
            ids=np.concatenate(self._ids),
            mask=np.concatenate(self._masks),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            where=self._where,
            source=self._source,
            counts=Counts(self._cut["prompt"], self._cut["answer"], dict(skipped)),
        )
        _check_vocabulary(examples, vocabulary_size)
        return examples


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a run's records become token ids.

    Attributes:
        template: writes the text around what records say.
        max_length: most tokens of an example.
        overlong_prompt: "error", or "skip" to leave out rows whose prompt alone fills `max_length`.
        vocabulary_size: rows of the model's embedding.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    overlong_prompt: str
    vocabulary_size: int

    def check(self) -> list[int]:
        """The ids every text begins with.

        Raises:
            ConfigError: nothing can be encoded this way.
        """
        check_choice("data.overlong_prompt", self.overlong_prompt, ("error", "skip"))
        if self.max_length < 2:
            raise ConfigError(f"data.max_length is {self.max_length}; expected at least 2 tokens")
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer has no EOS, so the model could not learn to stop; expected "
                "eos_token in the model folder's tokenizer_config.json"
            )
        return _begin(self.tokenizer, self.template)


def encode(records: Sequence[Record], encoding: Encoding, *, train_on: str) -> Examples:
    """Tokenizes records and marks their trained tokens.

    A text longer than `max_length` keeps its answer as far as possible: the prompt loses tokens on
    its left, behind BOS, down to a quarter of `max_length`; then the answer loses its end.

    Args:
        train_on: "response" trains answers; "everything" all tokens but the first.

    Raises:
        ConfigError: an unknown choice, or a tokenizer without EOS.
        DataError: a row with nothing to train on, with an answer of weight 0 where everything is
            trained, with a prompt that leaves no room, or with a token that the model does not
            have; the message names file and row.
    """
    check_choice("data.train_on", train_on, ("response", "everything"))
    begin, max_length = encoding.check(), encoding.max_length
    builder = Builder()
    skipped: Counter[str] = Counter()
    examples = encoded(records, encoding.template, encoding.tokenizer, begin)
    for record, example in zip(records, examples, strict=True):
        if example.prompt_length >= max_length:
            refuse_long_prompt(
                record.where, example.prompt_length, max_length, encoding.overlong_prompt
            )
            skipped["prompt too long"] += 1
            continue
        surplus = len(example.ids) - max_length
        everything = train_on == "everything"
        if everything and not all(message.learned for message in record.messages):
            raise DataError(
                f"{record.where}: has an answer of weight 0, which data.train_on=everything would "
                "learn; set it to response, or remove the row"
            )
        builder.add(
            example, surplus, max_length, len(begin), record.where, record.source, everything
        )
    return builder.finish(encoding.vocabulary_size, skipped, len(records), max_length)


def refuse_long_prompt(where: str, tokens: int, max_length: int, overlong_prompt: str) -> None:
    """Raises a DataError for a prompt that leaves no room, unless such rows are to be skipped."""
    if overlong_prompt == "error":
        raise DataError(
            f"{where}: its prompt has {tokens} tokens; expected fewer than "
            f"data.max_length={max_length}, raise it or set data.overlong_prompt to skip"
        )


def encode_prompts(
    records: Sequence[Record], template: Template, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Ids to generate from: of each record, what stands before its last answer."""
    begin = _begin(tokenizer, template)
    texts = [template.prompt(record) for record in records]
    return [begin + ids for ids in _tokenize(tokenizer, texts, template)]


def preview(examples: Examples, i: int, tokenizer: PreTrainedTokenizerBase, *, colour: bool) -> str:
    """Text of example i with its trained tokens green, or in [[ ]] without colour."""
    ids, mask = examples.example(i)
    mark, unmark = (terminal.GREEN, terminal.PLAIN) if colour else ("[[", "]]")
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1), len(ids)]
    text, shown = "", ""
    for start, stop in itertools.pairwise(edges):
        # Decoded from the beginning each time: tokenizers drop a space in front of what they
        # decode, which would otherwise go missing between two parts.
        until = cast(str, tokenizer.decode(ids[:stop], skip_special_tokens=False))
        part = terminal.clean(until[len(text) :], keep="\n\t")
        shown += f"{mark}{part}{unmark}" if mask[start] else part
        text = until
    return shown


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError where a value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}; expected one of {', '.join(choices)}")


def _check_vocabulary(examples: Examples, vocabulary_size: int) -> None:
    outside = np.flatnonzero(examples.ids >= vocabulary_size)
    if len(outside):
        i = int(np.searchsorted(examples.offsets, outside[0], side="right")) - 1
        raise DataError(
            f"{examples.where[i]}: has token {examples.ids[outside[0]]}; expected ids below the "
            f"model's {vocabulary_size}, use the tokenizer that belongs to the model"
        )


def _begin(tokenizer: PreTrainedTokenizerBase, template: Template) -> list[int]:
    """What the tokenizer puts in front of a text: BOS, or nothing (Qwen).

    Not `bos_token_id`, which some tokenizers have and do not use. A chat template writes its own.
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


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], template: Template
) -> list[list[int]]:
    """Ids of many texts at once, without BOS and EOS of the tokenizer's own."""
    if not texts:
        return []
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=not template.has_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    ).input_ids


# Rows tokenized in one call: enough for all threads of the tokenizer, little enough to hold.
_ROWS_PER_CALL = 4096


def encoded(
    records: Sequence[Record],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    begin: list[int],
) -> Iterator[Encoded]:
    """Ids of each record, uncut, with the tokens of its answers marked.

    Raises:
        DataError: a row with nothing to train on.
    """
    for start in range(0, len(records), _ROWS_PER_CALL):
        rows = records[start : start + _ROWS_PER_CALL]
        spans = [template.spans(record) for record in rows]
        # Of each row the text up to the end of every span: "p", "pa", "paq", "paqb".
        texts = [text for row in spans for text in itertools.accumulate(span.text for span in row)]
        ids = iter(_tokenize(tokenizer, texts, template))
        for record, row in zip(rows, spans, strict=True):
            wholes = list(itertools.islice(ids, len(row)))
            yield _join(record, row, wholes, tokenizer, template, begin)


def _join(
    record: Record,
    spans: list[Span],
    wholes: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    begin: list[int],
) -> Encoded:
    """Adds up the ids of a row's spans; `wholes[k]` are the ids of all text up to span k's end."""
    ids: list[int] = []
    answer = [False] * len(begin)
    for span, whole in zip(spans, wholes, strict=True):
        if whole[: len(ids)] == ids:
            added = whole[len(ids) :]
        else:
            added = _continuation(span.text, tokenizer, template)
        if span.trained and not added:
            raise DataError(f"{record.where}: the answer has no tokens; mend or remove the row")
        ids = ids + added
        answer += [span.trained] * len(added)
    if not any(answer):
        raise DataError(
            f"{record.where}: nothing to train on; expected a row with an answer, mend or remove it"
        )
    end = tokenizer.eos_token_id
    if ids[-1] != end:
        ids, answer = [*ids, end], [*answer, True]
    return Encoded(begin + ids, answer)


def _continuation(text: str, tokenizer: PreTrainedTokenizerBase, template: Template) -> list[int]:
    """Ids of a text that goes on from another: without the space LLaMA 1 and 2 put at a start."""
    alone, anchor, anchored = _tokenize(tokenizer, [text, "\n", "\n" + text], template)
    return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else alone


def _cut(encoded: Encoded, surplus: int, max_length: int, begin: int) -> list[str]:
    """Shortens an example to `max_length` tokens, in place; tells what was cut."""
    if surplus <= 0:
        return []
    cut = []
    prompt = encoded.prompt_length
    keep = max(min(prompt, max(max_length // 4, begin, 1)), prompt - surplus)
    if keep < prompt:
        del encoded.ids[begin : begin + prompt - keep]
        del encoded.answer[begin : begin + prompt - keep]
        cut.append("prompt")
    if len(encoded.ids) > max_length:
        del encoded.ids[max_length:]
        del encoded.answer[max_length:]
        # A later question whose answer fell away teaches nothing.
        while not encoded.answer[-1]:
            encoded.ids.pop()
            encoded.answer.pop()
        cut.append("answer")
    return cut
