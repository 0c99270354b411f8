"""Builds examples from encoded and marked tokens: cuts them to length and puts them end to end.

An example has one side, a prompt with its answer, or several that are compared: a preference pair
has two. A row that is left out is left out on all sides.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from safety_jax.base.errors import DataError
from safety_jax.data import text_rules
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.records import Labelled, Pair, Rated
from safety_jax.data.sources import Skipped
from safety_jax.data.text_rules import TextRules


@dataclasses.dataclass
class Encoded:
    """One example in the making.

    Attributes:
        answer: marks tokens of answers, regardless of which are trained.
        begin: number of leading tokens that are never cut, such as BOS.
        notes: keys of `text_rules.NOTES`.
        begun: number of tokens of another answer in front of the last one.
    """

    ids: list[int]
    answer: list[bool]
    begin: int
    notes: frozenset[str] = frozenset()
    begun: int = 0

    @property
    def prompt_length(self) -> int:
        return self.answer.index(True)

    def unlearn(self, tokens: int) -> None:
        """Counts the answer's first tokens as part of the prompt, but never its last one."""
        first = self.prompt_length
        self.begun = min(tokens, len(self.answer) - 1 - first)
        self.answer[first : first + self.begun] = [False] * self.begun


def shorten(encoded: Encoded, surplus: int, max_length: int) -> list[str]:
    """Shortens an example to `max_length` tokens, in place; returns which parts were cut.

    Args:
        surplus: tokens to remove; for a side of a pair, those of the longer side.
    """
    if surplus <= 0:
        return []
    cut = []
    prompt, begin = encoded.prompt_length, encoded.begin
    keep = max(min(prompt, max(max_length // 4, begin, 1)), prompt - surplus)
    if keep < prompt:
        del encoded.ids[begin : begin + prompt - keep]
        del encoded.answer[begin : begin + prompt - keep]
        cut.append("prompt")
    if len(encoded.ids) > max_length:
        del encoded.ids[max_length:]
        del encoded.answer[max_length:]
        # A later question whose answer was cut away teaches nothing.
        while not encoded.answer[-1]:
            encoded.ids.pop()
            encoded.answer.pop()
        cut.append("answer")
    return cut


@dataclasses.dataclass(frozen=True)
class PromptRoom:
    """How long prompts may be.

    Attributes:
        max_length: most tokens of a prompt and its answer.
        answer: how many of these are reserved for the answer, at least 1.
        overlong_prompt: "error", or "skip" to leave out rows with longer prompts.
    """

    max_length: int
    answer: int
    overlong_prompt: str

    def takes(self, where: str, tokens: int) -> bool:
        """Whether a prompt with so many tokens leaves room for its answer.

        Raises:
            DataError: it does not, and `overlong_prompt` is "error".
        """
        longest = self.max_length - self.answer
        if tokens > longest and self.overlong_prompt == "error":
            expected = f"fewer than data.max_length={self.max_length}"
            if self.answer > 1:
                expected = (
                    f"at most {longest}, as data.max_length={self.max_length} keeps "
                    f"{self.answer} for the answer"
                )
            raise DataError(
                f"{where}: its prompt has {tokens} tokens; expected {expected}, raise it or set "
                "data.overlong_prompt to skip"
            )
        return tokens <= longest


class Builder:
    """Puts examples end to end, and counts cuts and notes."""

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
        """Adds an example.

        Args:
            cut: the parts that `shorten` cut.
            everything: trains the prompt, too.
            end: ids to append.
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
        """The examples; raises a DataError if there are none, or one has an unknown token."""
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
class Limits:
    """How long the sides of an example may be, and what happens to longer ones.

    Attributes:
        max_length: most tokens of a side, including its end.
        overlong_prompt: "error", or "skip" to leave out rows whose prompt alone fills the room.
        vocabulary_size: rows of the model's embedding.
        end: ids to append to every text once it is cut.
    """

    max_length: int
    overlong_prompt: str
    vocabulary_size: int
    end: tuple[int, ...] = ()

    @property
    def room(self) -> int:
        """Tokens for everything except the end."""
        return self.max_length - len(self.end)

    @property
    def prompts(self) -> PromptRoom:
        """Room for prompts, with one token of the answer and the end reserved."""
        return PromptRoom(self.max_length, len(self.end) + 1, self.overlong_prompt)


class SidesBuilder:
    """Builds examples with one or more sides.

    Args:
        sides: their number.
        rules: how texts are read; they decide whether a row that cannot be encoded is left out.
        bad_rows: "skip" leaves out rows whose two answers are equal once cut, "error" raises.
        skipped: receives the rows that are left out, with the reason.
        compared: the sides are answers that are compared. They must differ, and the prompt loses
            the same number of tokens on all sides, as many as the longest side needs.
    """

    def __init__(
        self,
        sides: int,
        limits: Limits,
        *,
        rules: TextRules,
        bad_rows: str,
        skipped: list[Skipped],
        compared: bool = True,
    ):
        self._builders = [Builder() for _ in range(sides)]
        self._limits, self._rules, self._bad_rows = limits, rules, bad_rows
        self._skipped, self._compared = skipped, compared
        self._rows = self._too_long = 0

    def add(self, row: Pair | Rated | Labelled, found: Sequence[Encoded | DataError]) -> bool:
        """Adds the sides of a row; returns False if it leaves the row out.

        Raises:
            DataError: the row cannot be used, and its source or the config does not allow to leave
                it out.
        """
        self._rows += 1
        limits, where = self._limits, row.where
        sides = [side for side in found if isinstance(side, Encoded)]
        if len(sides) < len(found):
            problem = next(side for side in found if isinstance(side, DataError))
            text_rules.leave_out(problem, row.optional, self._rules)
            return self._leave_out(where, str(problem).removeprefix(f"{where}: "))
        prompt = max(side.prompt_length - side.begun for side in sides)
        if not limits.prompts.takes(where, prompt):
            self._too_long += 1
            return self._leave_out(where, f"its prompt has {prompt} tokens")
        lengths = [len(side.ids) for side in sides]
        if self._compared:
            lengths = [max(lengths)] * len(sides)
        cuts = [
            shorten(side, length - limits.room, limits.room)
            for side, length in zip(sides, lengths, strict=True)
        ]
        if self._compared and len(sides) == 2 and sides[0].ids == sides[1].ids:
            why = f"its answers do not differ within data.max_length={limits.max_length}"
            if self._bad_rows == "error":
                raise DataError(
                    f"{where}: {why}, so neither is preferred; raise it, or set data.bad_rows "
                    "to skip"
                )
            return self._leave_out(where, why)
        for side, cut, builder in zip(sides, cuts, self._builders, strict=True):
            builder.add(side, cut, where, row.source, end=limits.end)
        return True

    def finish(self) -> list[Examples]:
        """The examples of each side; raises as `Builder.finish`."""
        reasons = {"prompt too long": self._too_long} if self._too_long else {}
        limits = self._limits
        return [
            builder.finish(limits.vocabulary_size, reasons, self._rows, limits.max_length)
            for builder in self._builders
        ]

    def _leave_out(self, where: str, why: str) -> bool:
        self._skipped.append(Skipped(where, why))
        return False


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
