"""Rows as token ids, end to end in one array, and how a person looks at one."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from safety_jax.base import terminal


@dataclasses.dataclass(frozen=True)
class Counts:
    """What encoding did to the rows.

    Attributes:
        cut_prompts: prompts that lost tokens on their left.
        cut_answers: answers that lost their end.
        skipped: rows left out, by reason.
        notes: rows of which something is not in their text, by what; see `text_rules.NOTES`.
    """

    cut_prompts: int
    cut_answers: int
    skipped: Mapping[str, int]
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


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

    @property
    def targets(self) -> None:
        """Nothing is known of an example beside its tokens, see `placement.Marked`."""
        return None

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
