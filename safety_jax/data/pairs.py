"""Preference pairs: decides which answer is preferred, and encodes both answers.

If rows say which answer is better and which is safer, a rule decides which is preferred:

    all                the better answer
    safe_and_better    the better answer, if it is safe or the row does not say so; all other rules
                       below refuse such a row                              (arXiv 2412.00074)
    safe_over_unsafe   the better answer, if it is safe and the other is unsafe
    agreed             the better answer, if it is also the safer one
    safer              the safer answer, whichever is better
    safety_first       the safe answer, whichever is better; the better one if both are safe; no
                       pair if both are unsafe                     (SafeDPO, arXiv 2505.20065)
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import building, encode
from safety_jax.data.building import Encoded
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.labels import Labels
from safety_jax.data.records import Labelled, Pair, Record
from safety_jax.data.sources import Skipped


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Encoded pairs; entry i of all fields is one pair. Both sides begin with the same prompt.

    Attributes:
        chosen, rejected: the prompt with either answer, whose tokens the mask marks.
        unsafe: whether the chosen and the rejected answer are unsafe; None unless all rows say so.
        categories: kinds of harm of each pair.
    """

    chosen: Examples
    rejected: Examples
    unsafe: Bool[np.ndarray, "n 2"] | None
    categories: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def sides(self) -> tuple[Examples, Examples]:
        return self.chosen, self.rejected

    @property
    def where(self) -> list[str]:
        return self.chosen.where

    @property
    def targets(self) -> Float[np.ndarray, "n 2"] | None:
        """1 for unsafe answers and 0 for safe ones, as losses expect."""
        return None if self.unsafe is None else self.unsafe.astype(np.float32)


# ---------------------------------------------------------------------------- what is preferred

PreferenceRule = Callable[[Pair], Pair | None]


def _unsafe(pair: Pair) -> tuple[bool, bool]:
    if pair.labels.unsafe is None:
        raise DataError(
            f"{pair.where}: does not say which answers are unsafe; expected PKU-SafeRLHF's columns "
            "or chosen_unsafe and rejected_unsafe, add them or set data.prefer=all"
        )
    return pair.labels.unsafe


def _chosen_is_safer(pair: Pair) -> bool:
    if pair.labels.chosen_is_safer is None:
        raise DataError(
            f"{pair.where}: does not say which answer is safer; expected PKU-SafeRLHF's columns, "
            "add safer_response_id or set data.prefer=all"
        )
    return pair.labels.chosen_is_safer


def _safe_and_better(pair: Pair) -> Pair | None:
    return None if pair.labels.unsafe is not None and pair.labels.unsafe[0] else pair


def _safe_over_unsafe(pair: Pair) -> Pair | None:
    return pair if _unsafe(pair) == (False, True) else None


def _safety_first(pair: Pair) -> Pair | None:
    unsafe = _unsafe(pair)
    if unsafe == (True, True):
        return None
    return pair.swapped if unsafe == (True, False) else pair


RULES: dict[str, PreferenceRule] = {
    "all": lambda pair: pair,
    "safe_and_better": _safe_and_better,
    "safe_over_unsafe": _safe_over_unsafe,
    "agreed": lambda pair: pair if _chosen_is_safer(pair) else None,
    "safer": lambda pair: pair if _chosen_is_safer(pair) else pair.swapped,
    "safety_first": _safety_first,
}


def rule(name: str) -> PreferenceRule:
    """The rule with this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RULES:
        raise ConfigError(f"data.prefer {name!r}: expected one of {', '.join(RULES)}")
    return RULES[name]


def describe_unlabelled(found: Sequence[Pair], prefer: str) -> list[str]:
    """A line about pairs without the labels that the rule `safe_and_better` looks at, if any."""
    count = sum(pair.labels.unsafe is None for pair in found)
    if prefer != "safe_and_better" or not count:
        return []
    return [
        f"{count:,} of {len(found):,} pairs do not say which answers are unsafe; "
        f"data.prefer={prefer} takes them as they are"
    ]


def rotated(rows: Sequence[Labelled]) -> list[Pair]:
    """Pairs each labelled answer with the answer of the row before, as TRL does for KTO; both are
    labelled unsafe if the row's own answer is undesirable."""
    return [
        Pair(
            row.prompt, row.answer, other.answer, row.context, row.source, row.where,
            Labels(unsafe=(not row.desirable, not row.desirable), categories=row.categories),
            row.optional,
        )
        for row, other in zip(rows, [*rows[-1:], *rows[:-1]], strict=True)
    ]  # fmt: skip


# ---------------------------------------------------------------------------- token ids


def encode_pairs(
    pairs: Sequence[Pair],
    skipped: list[Skipped],
    *,
    encoding: encode.Encoding,
    bad_rows: str,
) -> Pairs:
    """Tokenizes both answers of every pair behind the same prompt.

    Pairs that are too long lose tokens as in `encode.encode`; the prompt loses the same number on
    both sides, as many as the longer answer needs.

    If a pair becomes a recovery example, the first tokens of the rejected answer stand in front of
    the chosen one, and are learned on neither side (DOOR, arXiv 2503.03710).

    Args:
        bad_rows: "skip" leaves out pairs whose answers are equal once cut, "error" raises.
        skipped: receives the rows that are left out, with the reason.

    Raises:
        ConfigError, DataError: as `encode.encode`; also answers of several turns, if the template
            does not mark turns, and answers that do not differ.
    """
    begin, sides = encoding.check(), _builder(encoding, bad_rows, skipped, compared=True)
    kept = []
    both = [_uncut(pairs, k, encoding, begin) for k in (0, 1)]
    for pair, chosen, rejected in zip(pairs, *both, strict=True):
        if isinstance(chosen, Encoded) and isinstance(rejected, Encoded):
            rejected.unlearn(chosen.begun)
        if sides.add(pair, (chosen, rejected)):
            kept.append(pair)
    return _built(sides, kept)


def encode_labelled(
    rows: Sequence[Labelled],
    skipped: list[Skipped],
    *,
    encoding: encode.Encoding,
    bad_rows: str,
) -> Pairs:
    """Tokenizes each labelled answer, and behind its prompt the answer of the row before, for KTO
    (see `rotated`). A row that cannot be encoded lends its answer to none, and none is cut for the
    sake of the other's answer.

    Args:
        bad_rows, skipped: as in `encode_pairs`.

    Raises:
        ConfigError, DataError: as `encode_pairs`.
    """
    begin, sides = encoding.check(), _builder(encoding, bad_rows, skipped, compared=False)
    own = [*_uncut(rotated(rows), 0, encoding, begin)]
    usable = [row for row, one in zip(rows, own, strict=True) if isinstance(one, Encoded)]
    lent = rotated(usable)
    others = iter(zip(lent, _uncut(lent, 1, encoding, begin), strict=True))
    kept = []
    for row, one in zip(rows, own, strict=True):
        if isinstance(one, DataError):
            sides.add(row, (one, one))
            continue
        pair, other = next(others)
        if sides.add(pair, (one, other)):
            kept.append(pair)
    found = _built(sides, kept)
    # A lent answer is counted where it is a row's own.
    counts = Counts(0, 0, found.rejected.counts.skipped)
    return dataclasses.replace(found, rejected=dataclasses.replace(found.rejected, counts=counts))


def _builder(
    encoding: encode.Encoding, bad_rows: str, skipped: list[Skipped], *, compared: bool
) -> building.SidesBuilder:
    limits = building.Limits(
        encoding.max_length, encoding.overlong_prompt, encoding.vocabulary_size
    )
    rules = encoding.template.rules
    return building.SidesBuilder(
        2, limits, rules=rules, bad_rows=bad_rows, skipped=skipped, compared=compared
    )


def _built(sides: building.SidesBuilder, kept: Sequence[Pair]) -> Pairs:
    chosen_examples, rejected_examples = sides.finish()
    flags = [pair.labels.unsafe for pair in kept]
    return Pairs(
        chosen=chosen_examples,
        rejected=rejected_examples,
        unsafe=None if None in flags else np.array(flags, bool),
        categories=[pair.labels.categories for pair in kept],
    )


def _uncut(
    pairs: Sequence[Pair], side: int, encoding: encode.Encoding, begin: list[int]
) -> Iterator[Encoded | DataError]:
    """One side of every pair, as `encode.encode_uncut`."""
    answers = [_side(pair, side) for pair in pairs]
    encoded = encode.encode_uncut(answers, encoding, begin)
    for pair, found in zip(pairs, encoded, strict=True):
        turns = len((pair.chosen, pair.rejected)[side])
        yield (
            found
            if turns == 1 or encoding.template.has_special_tokens
            else DataError(
                f"{pair.where}: its answers have several turns, whose ends this template does not "
                "mark; set data.template=chat, or remove the row"
            )
        )


def _side(pair: Pair, side: int) -> Record:
    answer = (pair.chosen, pair.rejected)[side]
    # A template that marks turns would also learn the answers in the prompt.
    prompt = tuple(dataclasses.replace(message, learned=False) for message in pair.prompt)
    harmful = pair.rejected[0].content if side == 0 and len(pair.rejected) == 1 else ""
    return Record(
        prompt + answer, pair.context, pair.source, pair.where, pair.optional, rejected=harmful
    )
