"""Finds training rows that ask in nearly the same words what a test asks.

Only the words of a prompt count, regardless of case and punctuation. A row's prompt is a
near-duplicate of a test's if the Jaccard index of their words and word bigrams is at least `ALIKE`,
and so is that of their content words; or if common runs of `RUN` words cover at least `COVERED` of
the test's words, as in the decontamination of Tülu 3 (arXiv 2411.15124). The first rule finds short
requests that are reworded at one place, the second long ones that are quoted within another. "How
do I kill a process?" and "How do I kill a person?" are no duplicates.
"""

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

from safety_jax.base.errors import DataError
from safety_jax.data import sources
from safety_jax.data.records import Labelled, Pair, Rated, Record, read_prompts
from safety_jax.data.sources import Skipped

ALIKE = 0.6
RUN = 8
COVERED = 0.5
# Characters inside words: apostrophes, hyphens, and the accents that NFKD separates from letters.
_INSIDE = dict.fromkeys("'’-‐‑\u0300\u0301\u0302\u0303\u0308\u0327", "")

_FUNCTION = frozenset(
    "a an the this that these those some any i you he she it we they me him her us them my your "
    "his its our their who whom whose which what when where why how is are was were be been "
    "being am do does did have has had can could will would shall should may might must of in "
    "on at to from for with without by about into as and or but if not no so than then there "
    "here please give tell write explain describe make".split()
)


R = TypeVar("R", bound=Record | Pair | Rated | Labelled)


def words(text: str) -> list[str]:
    """The words of a text, without case, accents and punctuation; a hyphenated word is one."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c if c.isalnum() else _INSIDE.get(c, " ") for c in plain).split()


def _features(text_words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(
        [*((word,) for word in text_words), *zip(text_words, text_words[1:], strict=False)]
    )


def _content(text_words: Sequence[str]) -> frozenset[str]:
    """The content words; all words if there are none."""
    return frozenset(text_words) - _FUNCTION or frozenset(text_words)


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


def _runs(text_words: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(text_words[i : i + RUN]) for i in range(len(text_words) - RUN + 1))


@dataclasses.dataclass(frozen=True)
class Match:
    """A test's prompt of which a text is a near-duplicate."""

    where: str
    text: str
    likeness: float


class HeldApart:
    """Prompts that must not be trained on.

    Args:
        prompts: place and text of each.
    """

    def __init__(self, prompts: Iterable[tuple[str, str]]):
        self._prompts = list(prompts)
        self._features = [_features(words(text)) for _, text in self._prompts]
        self._content = [_content(words(text)) for _, text in self._prompts]
        self._holding: dict[str, list[int]] = defaultdict(list)  # by content word
        self._runs: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, (_, text) in enumerate(self._prompts):
            for word in self._content[number]:
                self._holding[word].append(number)
            for place, run in enumerate(_runs(words(text))):
                self._runs[run].append((number, place))

    def __len__(self) -> int:
        return len(self._prompts)

    def match(self, text: str) -> Match | None:
        """The most similar prompt, if the text is a near-duplicate of one; else None."""
        own = words(text)
        features, content = _features(own), _content(own)
        best: int | None = None
        likeness = 0.0
        shared = Counter(n for word in content for n in self._holding.get(word, ()))
        for number, common in sorted(shared.items()):
            if common / (len(content) + len(self._content[number]) - common) < ALIKE:
                continue
            if (jaccard := _jaccard(features, self._features[number])) > likeness:
                best, likeness = number, jaccard
        if likeness < ALIKE:
            best = self._quoted(own)
        return None if best is None else Match(*self._prompts[best], likeness)

    def _quoted(self, own: Sequence[str]) -> int | None:
        """A prompt whose words these quote in runs, to at least the share `COVERED`."""
        covered: dict[int, set[int]] = defaultdict(set)
        for run in _runs(own):
            for number, place in self._runs.get(run, ()):
                covered[number].update(range(place, place + RUN))
        for number, places in covered.items():
            if len(places) >= COVERED * len(words(self._prompts[number][1])):
                return number
        return None

    def apart(self, rows: Sequence[R], skipped: list[Skipped]) -> list[R]:
        """The rows without a question that is a near-duplicate of a test's.

        Args:
            rows: the rows of one source.
            skipped: receives the others.

        Raises:
            DataError: no row is left.
        """
        kept = []
        for row in rows:
            found = next(filter(None, map(self.match, _questions(row))), None)
            if found is None:
                kept.append(row)
            else:
                why = f"is a near-duplicate of {found.where}, a test in data.decontaminate"
                skipped.append(Skipped(row.where, why, True))
        if rows and not kept:
            last = skipped[-1]
            raise DataError(
                f"{rows[0].source}: data.decontaminate leaves none of its {len(rows)} rows "
                f"({last.where} {last.why.partition(',')[0]}); expected at least one, remove the "
                "source, or the test from data.decontaminate"
            )
        return kept


def _questions(row: Record | Pair | Rated | Labelled) -> list[str]:
    turns = row.messages if isinstance(row, Record) else row.prompt
    return [message.content for message in turns if message.role == "user"]


def read(specs: Sequence[str], key: str = "data.decontaminate") -> HeldApart | None:
    """The prompts of these sources; None if no source is given.

    Raises:
        ConfigError, DataError: sources that cannot be used.
    """
    named = [spec for spec in specs if spec]
    if not named:
        return None
    found: list[Record] = []
    for spec in named:
        found += read_prompts(sources.open_source(spec, key))
    return HeldApart(
        (record.where, question) for record in found for question in _questions(record)
    )
