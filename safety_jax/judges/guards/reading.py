"""How probable each of some labels is at one place of a language model's answer.

A guard answers in the form that it was trained on, `Safety: Unsafe` or `{"Response Safety":
"safe"}`. Nothing is sampled and no text is parsed. The model is given the answer up to the label
(teacher forcing), and the next token's distribution gives the probability of each label, as in
Llama Guard's paper (arXiv 2312.06674, section 3). Where all labels together are improbable, the
model is about to say something else, and the row stays unscored.
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

# Labels, each with the ways in which it may be written; the last is how the model writes it. The
# ways of all labels correspond: the first of one to the first of the others.
Labels = Mapping[str, tuple[str, ...]]
# The tokens that each label may begin with.
LabelTokens = Mapping[str, tuple[int, ...]]


def spelled(*labels: str, ways: Sequence[str] = ("{}", " {}")) -> dict[str, tuple[str, ...]]:
    """Labels that are written with a space before them or not, or as `ways` says."""
    return {label: tuple(way.format(label) for way in ways) for label in labels}


@dataclasses.dataclass(frozen=True)
class Prefix:
    """What a model has read and written when its next token is looked at.

    Attributes:
        text: contains code words for the control tokens of the form, see `data/control.py`.
        start: ids before the text, such as BOS.
    """

    text: str
    start: tuple[int, ...] = ()

    def __add__(self, text: str) -> "Prefix":
        return Prefix(self.text + text, self.start)


@dataclasses.dataclass(frozen=True)
class LabelReading:
    """What was read at one place.

    Attributes:
        shares: the probability of each label among the labels; they add up to 1.
        mass: the probability of all labels together.
    """

    shares: Mapping[str, float]
    mass: float

    @property
    def likeliest(self) -> str:
        """The label of the largest share; the last of equals."""
        return max(reversed(list(self.shares)), key=self.shares.__getitem__)


@dataclasses.dataclass(frozen=True)
class LabelReader:
    """A causal language model that is asked for the probabilities of labels.

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
        """Ids of a text whose control tokens are in code words."""
        (ids,) = control_tokens(self.tokenizer).read([prefix.text])
        return [*prefix.start, *ids]

    def first_tokens(self, prefix: Prefix, labels: Labels) -> dict[str, tuple[int, ...]]:
        """The tokens that each label may begin with behind `prefix`.

        A way of writing them counts where it begins every label with a token of its own that does
        not melt into the text before it.

        Raises:
            CheckpointError: one token cannot tell the labels apart.
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
                f"the tokenizer does not begin {', '.join(map(repr, labels))} with a token of its "
                "own each; expected a model whose verdict its first token tells"
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
        """The labels' probabilities behind each prefix; scores pass through.

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
        """Greedy text behind each, to the end of its line; without a cache, so for a few tokens.

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
        """Texts in packed rows, behind one copy of the form that all of them begin with."""
        longest = self.model.config.longest_shared_row
        shared = (longest or sys.maxsize) if attention.takes_many(self.model.mesh) else 0
        return self.batcher.run(compiled, given, rows, longest_shared=shared)


def reading(
    logs: Float[np.ndarray, " labels"], labels: Sequence[str], floor: float
) -> LabelReading | Score:
    """Log-probabilities of labels as a LabelReading; unscored where all of them together are less
    probable than `floor`, or not numbers."""
    if np.isnan(logs).any() or (logs == np.inf).any():
        return unscored(NOT_FINITE)
    whole = np.logaddexp.reduce(logs)
    mass = float(np.exp(whole))
    if mass < floor or whole == -np.inf:
        return unscored(f"the verdict has probability {mass:.3g}", verdict=mass)
    shares = np.exp(logs - whole)
    return LabelReading(dict(zip(labels, map(float, shares), strict=True)), mass)


# One program serves the labels of every question: this many, of this many first tokens, or
# multiples of both.
_LABELS, _TOKENS = 16, 8


def table(tokens: LabelTokens) -> Int[np.ndarray, "labels tokens"]:
    """First tokens of labels, a row a label; -1 where there is none."""
    high, wide = len(tokens), max(map(len, tokens.values()))
    found = np.full((-(-high // _LABELS) * _LABELS, -(-wide // _TOKENS) * _TOKENS), -1, np.int32)
    for row, some in zip(found, tokens.values(), strict=False):
        row[: len(some)] = some
    return found


def label_logprobs(
    given: tuple[Model, Int[Array, "labels tokens"]], tokens: Tokens, ends: Int[Array, "B S"]
) -> Float[Array, "B S labels"]:
    """log P of the next token being one of each label's, behind each segment.

    Args:
        given: the model, and labels as of `table`.
        ends: see `batching.PackedBatch`.
    """
    model, firsts = given
    logs = jax.nn.log_softmax(next_logits(model, tokens, ends), axis=-1)
    found = jnp.where(firsts < 0, -jnp.inf, logs[..., firsts])
    return jax.nn.logsumexp(found, axis=-1)


def next_logits(model: Model, tokens: Tokens, ends: Int[Array, "B S"]) -> Float[Array, "B S V"]:
    """Float32 logits behind the last token of each segment."""
    hidden = model.forward(tokens)
    return model.logits(jnp.take_along_axis(hidden, ends[..., None], axis=1))
