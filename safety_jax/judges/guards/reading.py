"""Reads the probabilities of labels at one position of a language model's answer.

A guard answers in the form that it was trained on, `Safety: Unsafe` or `{"Response Safety":
"safe"}`. Nothing is sampled or parsed: the answer up to the label is forced, and the next token's
distribution gives the probability of each label, as in Llama Guard's paper (arXiv 2312.06674,
section 3). If all labels together are improbable, the model would say something else, and the row
is left unscored.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError
from safety_jax.data.control import control_tokens
from safety_jax.judges.batching import Batcher, TokenRow
from safety_jax.judges.judge import NOT_FINITE, Score, unscored
from safety_jax.models import attention
from safety_jax.models.model import Model

# Labels, each with its spellings; the last is the model's own. The spellings of all labels
# correspond: the first of one to the first of the others.
Labels = Mapping[str, tuple[str, ...]]
# The tokens that each label may begin with.
LabelTokens = Mapping[str, tuple[int, ...]]


def spelled(*labels: str, ways: Sequence[str] = ("{}", " {}")) -> dict[str, tuple[str, ...]]:
    """Labels with spellings by `ways`: by default with and without a space before them."""
    return {label: tuple(way.format(label) for way in ways) for label in labels}


def either_case(*labels: str) -> dict[str, tuple[str, ...]]:
    """Labels in lower case and with one capital, which is last, each with and without a space
    before them."""
    written = ("{0}", " {0}", "{1}", " {1}")
    return {label: tuple(one.format(label, label.title()) for one in written) for label in labels}


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The text before the token that is read: the form and the forced answer.

    Attributes:
        text: with the form's control tokens encoded, see `data/control.py`.
        start: ids before the text, such as BOS.
    """

    text: str
    start: tuple[int, ...] = ()

    def __add__(self, text: str) -> "Prefix":
        return Prefix(self.text + text, self.start)


@dataclasses.dataclass(frozen=True)
class LabelReading:
    """The reading at one position.

    Attributes:
        shares: the probability of each label among the labels; they add up to 1.
        mass: the probability of all labels together.
    """

    shares: Mapping[str, float]
    mass: float

    @property
    def likeliest(self) -> str:
        """The label with the largest share; of equals the last."""
        return max(reversed(list(self.shares)), key=self.shares.__getitem__)


@dataclasses.dataclass(frozen=True)
class LabelReader:
    """A causal language model that gives the probabilities of labels.

    Attributes:
        model: with its tokenizer.
        floor: the least probability that the labels must have together.
        special_text: see `sequence.check_special`.
    """

    model: Model
    batcher: Batcher
    floor: float
    special_text: str = "text"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        assert self.model.tokenizer is not None
        return self.model.tokenizer

    def tokens(self, prefix: Prefix) -> list[int]:
        """Ids of a text whose control tokens are encoded."""
        (ids,) = control_tokens(self.tokenizer).read([prefix.text])
        return [*prefix.start, *ids]

    def first_tokens(self, prefix: Prefix, labels: Labels) -> dict[str, tuple[int, ...]]:
        """The tokens that each label may begin with after `prefix`.

        A spelling counts if it begins every label with a different token, and does not change the
        tokens before it.

        Raises:
            CheckpointError: the labels do not differ in their first token.
        """
        begun = self.tokens(prefix)
        found: dict[str, set[int]] = {label: set() for label in labels}
        for words in zip(*labels.values(), strict=True):
            ids = [self.tokens(prefix + word) for word in words]
            starts = {one[len(begun)] for one in ids if one[: len(begun)] == begun != one}
            if len(starts) == len(labels):
                for label, one in zip(labels, ids, strict=True):
                    found[label].add(one[len(begun)])
        every = [token for tokens in found.values() for token in tokens]
        if not every or len(every) != len(set(every)):
            raise CheckpointError(
                f"the tokenizer does not begin {', '.join(map(repr, labels))} with different "
                "tokens; expected a model whose verdicts differ in their first token"
            )
        return {label: tuple(sorted(tokens)) for label, tokens in found.items()}

    def compile(self) -> Callable[..., Any]:
        """`label_logprobs`, for batches of this model and any labels."""
        return self.batcher.compile(label_logprobs)

    def read(
        self,
        compiled: Callable[..., Any],
        prefixes: Sequence[Prefix | Score],
        tokens: LabelTokens,
    ) -> list[LabelReading | Score]:
        """The labels' probabilities after each prefix; scores pass through.

        Args:
            compiled: from `compile`.
            tokens: from `first_tokens`.
        """
        rows = [one if isinstance(one, Score) else self._row(one) for one in prefixes]
        wanted = [row for row in rows if isinstance(row, TokenRow)]
        answers: Iterator[np.ndarray] = iter(())
        if wanted:
            logs = self._run(compiled, (self.model, table(tokens)), wanted)
            answers = iter(logs[:, : len(tokens)].astype(np.float64))
        return [
            row if isinstance(row, Score) else reading(next(answers), list(tokens), self.floor)
            for row in rows
        ]

    def _row(self, prefix: Prefix) -> TokenRow | Score:
        ids = self.tokens(prefix)
        if len(ids) > self.batcher.longest:
            return unscored(f"{len(ids)} tokens, more than {self.batcher.longest}")
        return TokenRow(ids, [0] * len(ids))

    def continuations(
        self, compiled: Callable[..., Any], prefixes: Sequence[Prefix], max_tokens: int
    ) -> list[str]:
        """Greedy text after each prefix, to the end of its line; without a cache, so for a few
        tokens only.

        Args:
            compiled: from `compile_greedy`.
        """
        starts = [self.tokens(prefix) for prefix in prefixes]
        rows = [list(start) for start in starts]
        for _ in range(max_tokens):
            room = [i for i, row in enumerate(rows) if len(row) < self.batcher.longest]
            if not room:
                break
            batch = [TokenRow(rows[i], [0] * len(rows[i])) for i in room]
            tokens = self._run(compiled, self.model, batch)
            for i, token in zip(room, tokens[:, 0], strict=True):
                rows[i].append(int(token))
        ends = [
            self.tokenizer.decode(row[len(start) :], skip_special_tokens=True)
            for row, start in zip(rows, starts, strict=True)
        ]
        return [str(end).strip().partition("\n")[0].strip() for end in ends]

    def compile_greedy(self) -> Callable[..., Any]:
        """The likeliest next token, `[B, S, 1]`."""
        return self.batcher.compile(
            lambda model, tokens, ends: jnp.argmax(
                next_logits(model, tokens, ends), axis=-1, keepdims=True
            )
        )

    def _run(self, compiled: Callable[..., Any], given: Any, rows: Sequence[TokenRow]) -> Any:
        """Runs texts in packed rows that share their common prefix, the form."""
        longest = self.model.config.longest_shared_row
        shared = (longest or sys.maxsize) if attention.takes_many(self.model.mesh) else 0
        return self.batcher.run(compiled, given, rows, longest_shared=shared)


def reading(
    logs: Float[np.ndarray, " labels"], labels: Sequence[str], floor: float
) -> LabelReading | Score:
    """Log-probabilities of labels as a LabelReading; unscored if all of them together are less
    probable than `floor`, or not finite."""
    if np.isnan(logs).any() or (logs == np.inf).any():
        return unscored(NOT_FINITE)
    whole = np.logaddexp.reduce(logs)
    mass = float(np.exp(whole))
    if mass < floor or whole == -np.inf:
        return unscored(f"the verdict has probability {mass:.3g}", verdict=mass)
    shares = np.exp(logs - whole)
    return LabelReading(dict(zip(labels, map(float, shares), strict=True)), mass)


# One program serves the labels of every question: tables are padded to multiples of so many labels
# and first tokens.
_LABELS, _TOKENS = 16, 8


def table(tokens: LabelTokens) -> Int[np.ndarray, "labels tokens"]:
    """First tokens of labels, one row for each label, padded with -1."""
    high, wide = len(tokens), max(map(len, tokens.values()))
    found = np.full((-(-high // _LABELS) * _LABELS, -(-wide // _TOKENS) * _TOKENS), -1, np.int32)
    for row, some in zip(found, tokens.values(), strict=False):
        row[: len(some)] = some
    return found


def label_logprobs(
    given: tuple[Model, Int[Array, "labels tokens"]], tokens: Tokens, ends: Int[Array, "B S"]
) -> Float[Array, "B S labels"]:
    """log P that the next token after each segment is one of each label's.

    Args:
        given: the model, and labels from `table`.
        ends: see `batching.PackedBatch`.
    """
    model, firsts = given
    logs = jax.nn.log_softmax(next_logits(model, tokens, ends), axis=-1)
    found = jnp.where(firsts < 0, -jnp.inf, logs[..., firsts])
    return jax.nn.logsumexp(found, axis=-1)


def next_logits(model: Model, tokens: Tokens, ends: Int[Array, "B S"]) -> Float[Array, "B S V"]:
    """Float32 logits after the last token of each segment."""
    hidden = model.forward(tokens)
    return model.logits(jnp.take_along_axis(hidden, ends[..., None], axis=1))
