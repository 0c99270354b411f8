"""Rows as token ids, end to end in one array, and a preview of one for people."""

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
        cut_prompts: number of prompts that lost tokens on their left.
        cut_answers: number of answers that lost their end.
        skipped: number of rows left out, by reason.
        notes: number of rows whose text lacks something, by key of `text_rules.NOTES`.
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
        mask: True for trained tokens; never for the first token of an example.
        offsets: where each example starts, and the end of the last.
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
        """The only side: these examples are not compared with others."""
        return (self,)

    @property
    def targets(self) -> None:
        """None: these examples have no targets, see `placement.Marked`."""
        return None

    def example(self, i: int | np.integer) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """The ids and the mask of example i."""
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
    """A hash (hex) of the examples' tokens and masks."""
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
        # Decodes from the beginning each time, because tokenizers drop a leading space, which would
        # be missing between two parts.
        until = cast(str, tokenizer.decode(ids[:stop], skip_special_tokens=False))
        part = terminal.clean(until[len(text) :], keep="\n\t")
        shown += f"{mark}{part}{unmark}" if mask[start] else part
        text = until
    return shown
