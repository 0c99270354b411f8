"""Turns records into token ids, and marks which tokens are trained: the only place masks are made.

Masks come from the record's structure (who said what), never from token values. The rule is that
the model learns in training what it will meet in use:

  - The ids before an answer are what inference feeds: those of the prompt's text alone. The whole
    text is tokenized together; only where the last prompt token and the answer's first letters
    would melt into one token is the answer tokenized for itself.
  - BOS stands where the tokenizer or the chat template puts it, once.
  - One end is trained, so that the model learns to stop: the control token by which the chat
    template ends an answer, and EOS where there is none. An answer that had to be cut has no end.
  - Text that merely looks like a control token ("</s>" in a web page) is text, see `control.py`.
  - The harmful beginning of a recovery example is no part of what is learned, see `recovery.py`. It
    stands where the answer would, cut between two tokens, and the answer goes on from there.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import text_rules, thoughts
from safety_jax.data.control import WORD, ControlTokens, control_tokens
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.records import Record
from safety_jax.data.recovery import Beginning, Recovery
from safety_jax.data.template import Span, Template, Worded, leading_ids, worded
from safety_jax.data.text_rules import AS_TEXT, leave_out

# Rows tokenized in one call: enough for all threads of the tokenizer, little enough to hold.
ROWS_PER_CALL = 4096


@dataclasses.dataclass
class Encoded:
    """One example in the making.

    Attributes:
        answer: marks tokens of answers, whatever will be trained.
        notes: keys of `text_rules.NOTES`.
        begun: tokens of another answer that stand in front of the last one.
    """

    ids: list[int]
    answer: list[bool]
    notes: frozenset[str] = frozenset()
    begun: int = 0

    @property
    def prompt_length(self) -> int:
        return self.answer.index(True)

    def unlearn(self, tokens: int) -> None:
        """Takes the first tokens of the answer for a part of the prompt; the last one stays."""
        first = self.prompt_length
        self.begun = min(tokens, len(self.answer) - 1 - first)
        self.answer[first : first + self.begun] = [False] * self.begun


class Builder:
    """Puts examples end to end, and counts what had to be cut."""

    def __init__(self) -> None:
        self._ids: list[Int[np.ndarray, " n"]] = []
        self._masks: list[Bool[np.ndarray, " n"]] = []
        self._where: list[str] = []
        self._source: list[str] = []
        self._cut: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()

    def add(
        self,
        example: Encoded,
        cut: Sequence[str],
        where: str,
        source: str,
        everything: bool = False,
        end: tuple[int, ...] = (),
    ) -> None:
        """Takes an example in.

        Args:
            cut: what `shorten` says.
            everything: trains the prompt too.
            end: ids to put behind what is left of the answer.
        """
        self._cut.update(cut)
        self._notes.update(example.notes)
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
                f"no example is left of {rows} rows ({_listed(skipped) or 'none can be used'}); "
                f"expected at least one, mend the rows or raise data.max_length={max_length}"
            )
        lengths = [len(ids) for ids in self._ids]
        examples = Examples(
            ids=np.concatenate(self._ids),
            mask=np.concatenate(self._masks),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            where=self._where,
            source=self._source,
            counts=Counts(
                self._cut["prompt"], self._cut["answer"], dict(skipped), dict(self._notes)
            ),
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
        recovery: which rows begin with a harmful answer; None: none.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    overlong_prompt: str
    vocabulary_size: int
    recovery: Recovery | None = None

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
        return leading_ids(self.tokenizer, self.template)

    def opening(self, record: Record) -> Beginning | None:
        """What a record begins with: at most a quarter of an example, so that there is room for the
        prompt and the answer."""
        found = None if self.recovery is None else self.recovery.opening(record)
        if found is None:
            return None
        return dataclasses.replace(found, most=min(found.most, max(1, self.max_length // 4)))

    def of_own_answers(self) -> "Encoding":
        """As this one, for answers of the model itself: what spells a control token there was read
        as letters, whatever becomes of such rows elsewhere."""
        rules = dataclasses.replace(self.template.rules, special_text=AS_TEXT)
        return dataclasses.replace(self, template=self.template.under(rules))


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
    if encoding.recovery is not None and train_on == "everything":
        raise ConfigError(
            "data.train_on is everything, which would learn the harmful beginnings of recovery "
            "examples; set it to response, or data.recovery_share to 0"
        )
    begin, max_length = encoding.check(), encoding.max_length
    builder = Builder()
    skipped: Counter[str] = Counter()
    rules = encoding.template.rules
    examples = encoded(records, encoding, begin)
    for record, example in zip(records, examples, strict=True):
        if isinstance(example, DataError):
            skipped[leave_out(example, record.optional, rules)] += 1
            continue
        prompt = example.prompt_length - example.begun
        if prompt >= max_length:
            refuse_long_prompt(record.where, prompt, max_length, encoding.overlong_prompt)
            skipped["prompt too long"] += 1
            continue
        everything = train_on == "everything"
        if everything and not all(message.learned for message in record.messages):
            raise DataError(
                f"{record.where}: has an answer of weight 0, which data.train_on=everything would "
                "learn; set it to response, or remove the row"
            )
        cut = shorten(example, len(example.ids) - max_length, max_length, len(begin))
        builder.add(example, cut, record.where, record.source, everything)
    return builder.finish(encoding.vocabulary_size, skipped, len(records), max_length)


def refuse_long_prompt(where: str, tokens: int, max_length: int, overlong_prompt: str) -> None:
    """Raises a DataError for a prompt that leaves no room, unless such rows are to be skipped."""
    if overlong_prompt == "error":
        raise DataError(
            f"{where}: its prompt has {tokens} tokens; expected fewer than "
            f"data.max_length={max_length}, raise it or set data.overlong_prompt to skip"
        )


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError where a value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}; expected one of {', '.join(choices)}")


def _listed(skipped: Mapping[str, int]) -> str:
    """`3 skipped: prompt too long; 1 skipped: ...`, or "" """
    return "; ".join(f"{number} skipped: {why}" for why, number in skipped.items())


def _check_vocabulary(examples: Examples, vocabulary_size: int) -> None:
    outside = np.flatnonzero(examples.ids >= vocabulary_size)
    if len(outside):
        i = int(np.searchsorted(examples.offsets, outside[0], side="right")) - 1
        raise DataError(
            f"{examples.where[i]}: has token {examples.ids[outside[0]]}; expected ids below the "
            f"model's {vocabulary_size}, use the tokenizer that belongs to the model"
        )


def encoded(
    records: Sequence[Record], encoding: Encoding, begin: list[int]
) -> Iterator[Encoded | DataError]:
    """Ids of each record, uncut, with the tokens of its answers marked; an error in place of a
    record without, which says why."""
    template, tokenizer = encoding.template, encoding.tokenizer
    control = control_tokens(tokenizer)
    for start in range(0, len(records), ROWS_PER_CALL):
        rows = records[start : start + ROWS_PER_CALL]
        words = worded(rows, template, tokenizer)
        for k, (row, found) in enumerate(zip(rows, words, strict=True)):
            if isinstance(found, DataError):
                continue
            if row.cut:
                found.spans[:] = _without_end(found.spans)
            if (opening := encoding.opening(row)) is not None:
                words[k] = _behind(opening, row, found, template, control)
        spans = [found.spans for found in words if isinstance(found, Worded)]
        # For each row the text up to the end of every span: "p", "pa", "paq", "paqb".
        texts = [text for row in spans for text in itertools.accumulate(span.code for span in row)]
        ids = iter(control.read(texts))
        for row, found in zip(rows, words, strict=True):
            if isinstance(found, DataError):
                yield found
                continue
            wholes = list(itertools.islice(ids, len(found.spans)))
            example = _join(row, found.spans, wholes, tokenizer, begin)
            if isinstance(example, Encoded):
                example.notes = found.notes
            yield example


def _join(
    record: Record,
    spans: list[Span],
    wholes: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    begin: list[int],
) -> Encoded | DataError:
    """Adds up the ids of a row's spans; `wholes[k]` are the ids of all text up to span k's end."""
    ids: list[int] = []
    answer = [False] * len(begin)
    begun = 0
    for span, whole in zip(spans, wholes, strict=True):
        code = span.code
        if begun and not (code[:1].isspace() or _ends_blank(ids, tokenizer)):
            code = " " + code  # the tokens before are a text cut anywhere, which ends in no blank
        if whole[: len(ids)] == ids and not begun:
            added = whole[len(ids) :]
        else:
            added = control_tokens(tokenizer).continuation(code)
        if span.opening is not None:
            added = added[: span.opening.tokens(len(added))]
            begun = len(added)
        if span.trained and not added:
            return DataError(f"{record.where}: the answer has no tokens; mend or remove the row")
        ids = ids + added
        answer += [span.trained] * len(added)
    if not any(answer):
        return DataError(
            f"{record.where}: nothing to train on; expected a row with an answer, mend or remove it"
        )
    if not (spans[-1].ended or record.cut):
        ids, answer = [*ids, cast(int, tokenizer.eos_token_id)], [*answer, True]
    return Encoded(begin + ids, answer, begun=begun)


def _ends_blank(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    # Several, for the last may be a part of a letter.
    return cast(str, tokenizer.decode(ids[-4:]))[-1:].isspace()


def _behind(
    opening: Beginning, record: Record, found: Worded, template: Template, control: ControlTokens
) -> Worded | DataError:
    """A record's words with the beginning of another answer in front of its last one, behind its
    thought and what the template writes at the beginning of an answer."""
    if template.rules.special_text != AS_TEXT:
        special = text_rules.special_opening(record, opening.text, control)
        if special is not None:
            return special
    first = len(found.spans)
    while first and found.spans[first - 1].trained:
        first -= 1
    code = "".join(span.code for span in found.spans[first:])
    said = thoughts.split(record.messages[-1].content).answer.strip()
    at = code.rfind(said)
    if at < 0:
        return DataError(
            f"{record.where}: the template does not write its answer as it stands, so there is no "
            "place for a recovery example; set data.recovery_share to 0, or remove the row"
        )
    # A blank alone belongs to whichever text follows it.
    blank = code[:at] if code[:at].isspace() else ""
    before = [] if blank or not at else [Span(control.decode(code[:at]), True, code[:at])]
    rest = Span(control.decode(code[at:]), True, code[at:], found.spans[-1].ended)
    spans = [
        *found.spans[:first],
        *before,
        Span(blank + opening.text, False, blank + opening.text, opening=opening),
        rest,
    ]
    return dataclasses.replace(found, spans=spans)


def _without_end(spans: list[Span]) -> list[Span]:
    """The spans of an answer that was cut off, without what a template writes at its end."""
    last = max(k for k, span in enumerate(spans) if span.trained)
    code = re.sub(rf"(?:{WORD.pattern}\s*)+$", "", spans[last].code)
    return [*spans[:last], dataclasses.replace(spans[last], code=code, ended=False)]


def shorten(encoded: Encoded, surplus: int, max_length: int, begin: int) -> list[str]:
    """Shortens an example to `max_length` tokens, in place; says what was cut.

    Args:
        surplus: tokens that should go; for one side of a pair, those of the longer side.
        begin: tokens in front that stay.
    """
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
