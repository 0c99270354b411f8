"""Turns records into token ids and marks which tokens are trained; only this module makes masks.

Masks come from the record's structure (who said what), never from token values. The rule is that
the model sees in training what it will see in use:

  - The ids in front of an answer equal those that inference uses: the ids of the prompt alone. The
    whole text is tokenized together, unless the end of the prompt and the beginning of the answer
    would merge into one token; then the answer is tokenized by itself.
  - BOS occurs once, where the tokenizer or the chat template puts it.
  - One end is trained, so that the model learns to stop: the control token with which the chat
    template ends an answer, or EOS if there is none. An answer that was cut has no end.
  - Text that merely looks like a control token ("</s>" in a web page) is text, see `control.py`.
  - The harmful beginning of a recovery example is not learned, see `recovery.py`. It stands in
    front of the answer, cut between two tokens.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import answer_spans
from safety_jax.data.building import Builder, Encoded, PromptRoom, shorten
from safety_jax.data.control import control_tokens
from safety_jax.data.examples import Examples
from safety_jax.data.records import Record
from safety_jax.data.recovery import Beginning, Recovery
from safety_jax.data.template import Span, Template, Worded, leading_ids, worded
from safety_jax.data.text_rules import AS_TEXT, leave_out

# Rows tokenized in one call: enough for all threads of the tokenizer, and few enough for memory.
ROWS_PER_CALL = 4096


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a run's records become token ids.

    Attributes:
        template: turns records into text.
        max_length: most tokens of an example.
        overlong_prompt: "error", or "skip" to leave out rows whose prompt alone fills `max_length`.
        vocabulary_size: rows of the model's embedding.
        recovery: which rows become recovery examples; None for none.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    overlong_prompt: str
    vocabulary_size: int
    recovery: Recovery | None = None

    def check(self) -> list[int]:
        """Checks these settings; returns the ids that every text begins with.

        Raises:
            ConfigError: they are not usable.
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
        """The beginning of a harmful answer for a record, at most a quarter of `max_length` to
        leave room for the prompt and the answer; None for none."""
        found = None if self.recovery is None else self.recovery.opening(record)
        if found is None:
            return None
        return dataclasses.replace(found, most=min(found.most, max(1, self.max_length // 4)))

    def of_own_answers(self) -> "Encoding":
        """The encoding for the model's own answers. In these, text that spells a control token is
        always read as letters, as the model wrote it, whatever `special_text` says."""
        rules = dataclasses.replace(self.template.rules, special_text=AS_TEXT)
        return dataclasses.replace(self, template=self.template.under(rules))


def encode(records: Sequence[Record], encoding: Encoding, *, train_on: str) -> Examples:
    """Tokenizes records and marks their trained tokens.

    A text longer than `max_length` keeps as much of its answer as possible: the prompt loses tokens
    on its left, behind BOS, down to a quarter of `max_length`; then the answer loses its end.

    Args:
        train_on: "response" trains answers; "everything" trains all tokens except the first.

    Raises:
        ConfigError: an unknown choice, or a tokenizer without EOS.
        DataError: a row has nothing to train on, or an answer of weight 0 if everything is trained,
            or a prompt that leaves no room, or a token that the model lacks; the message names file
            and row.
    """
    check_choice("data.train_on", train_on, ("response", "everything"))
    if encoding.recovery is not None and train_on == "everything":
        raise ConfigError(
            "data.train_on is everything, which would learn the harmful beginnings of recovery "
            "examples; set it to response, or data.recovery_share to 0"
        )
    begin, max_length = encoding.check(), encoding.max_length
    builder = Builder()
    room = PromptRoom(max_length, 1, encoding.overlong_prompt)
    skipped: Counter[str] = Counter()
    rules = encoding.template.rules
    examples = encode_uncut(records, encoding, begin)
    for record, example in zip(records, examples, strict=True):
        if isinstance(example, DataError):
            skipped[leave_out(example, record.optional, rules)] += 1
            continue
        prompt = example.prompt_length - example.begun
        if not room.takes(record.where, prompt):
            skipped["prompt too long"] += 1
            continue
        everything = train_on == "everything"
        if everything and not all(message.learned for message in record.messages):
            raise DataError(
                f"{record.where}: has an answer of weight 0, which data.train_on=everything would "
                "learn; set it to response, or remove the row"
            )
        cut = shorten(example, len(example.ids) - max_length, max_length)
        builder.add(example, cut, record.where, record.source, everything)
    return builder.finish(encoding.vocabulary_size, skipped, len(records), max_length)


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError if a value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}; expected one of {', '.join(choices)}")


def encode_uncut(
    records: Sequence[Record], encoding: Encoding, begin: list[int]
) -> Iterator[Encoded | DataError]:
    """The ids of each record, uncut, with the tokens of its answers marked; a DataError in place of
    each record that cannot be encoded."""
    template, tokenizer = encoding.template, encoding.tokenizer
    control = control_tokens(tokenizer)
    for start in range(0, len(records), ROWS_PER_CALL):
        rows = records[start : start + ROWS_PER_CALL]
        words = worded(rows, template, tokenizer)
        for k, (row, found) in enumerate(zip(rows, words, strict=True)):
            if isinstance(found, DataError):
                continue
            if row.cut:
                found.spans[:] = answer_spans.without_end(found.spans)
            if (opening := encoding.opening(row)) is not None:
                words[k] = answer_spans.behind(opening, row, found, template, control)
        spans = [found.spans for found in words if isinstance(found, Worded)]
        # For each row, the text up to the end of every span: "p", "pa", "paq", "paqb".
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
    """Joins the ids of a row's spans; `wholes[k]` are those of the text up to the end of span k."""
    ids: list[int] = []
    answer = [False] * len(begin)
    begun = 0
    for span, whole in zip(spans, wholes, strict=True):
        code = span.code
        if begun and not (code[:1].isspace() or _ends_blank(ids, tokenizer)):
            code = " " + code  # separates it from the harmful text, which is cut between two tokens
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
    # A chat template writes BOS itself.
    kept = len(begin) + control_tokens(tokenizer).begins(spans[0].code)
    return Encoded(begin + ids, answer, kept, begun=begun)


def _ends_blank(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    # Several, because the last may be part of a character.
    return cast(str, tokenizer.decode(ids[-4:]))[-1:].isspace()
