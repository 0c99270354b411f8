"""Training rows that ask what a test asks, in nearly the same words.

A prompt is taken as its words, case and punctuation apart. A row's prompt is a near-duplicate of a
test's if at least `ALIKE` of their single words and pairs of neighbouring words together are common
to both (Jaccard's index), and as much of the words that carry meaning; or if runs of `RUN` words
that both have cover at least `COVERED` of the test's words, as Tülu 3 was decontaminated (arXiv
2411.15124). The first finds a short request that is reworded at one place, the second a long one
that is quoted within another. "How do I kill a process?" and "How do I kill a person?" stay apart.
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
# What stands inside words: apostrophes, hyphens, and the accents that NFKD sets apart.
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
    """The words of a text in their plainest form; a hyphenated word is one."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c if c.isalnum() else _INSIDE.get(c, " ") for c in plain).split()


def _features(text_words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(
        [*((word,) for word in text_words), *zip(text_words, text_words[1:], strict=False)]
    )


def _content(text_words: Sequence[str]) -> frozenset[str]:
    """The words that carry meaning; all where none does."""
    return frozenset(text_words) - _FUNCTION or frozenset(text_words)


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


def _runs(text_words: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(text_words[i : i + RUN]) for i in range(len(text_words) - RUN + 1))


@dataclasses.dataclass(frozen=True)
class Match:
    """A prompt of a test that a text is nearly the same as."""

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
        self._holding: dict[str, list[int]] = defaultdict(list)  # by word that carries meaning
        self._runs: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, (_, text) in enumerate(self._prompts):
            for word in self._content[number]:
                self._holding[word].append(number)
            for place, run in enumerate(_runs(words(text))):
                self._runs[run].append((number, place))

    def __len__(self) -> int:
        return len(self._prompts)

    def match(self, text: str) -> Match | None:
        """The prompt that the text is most like, where it is a near-duplicate of one."""
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
        """The prompt of which at least `COVERED` stands in these words, in runs."""
        covered: dict[int, set[int]] = defaultdict(set)
        for run in _runs(own):
            for number, place in self._runs.get(run, ()):
                covered[number].update(range(place, place + RUN))
        for number, places in covered.items():
            if len(places) >= COVERED * len(words(self._prompts[number][1])):
                return number
        return None

    def apart(self, rows: Sequence[R], skipped: list[Skipped]) -> list[R]:
        """The rows none of whose questions is nearly a test's.

        Args:
            rows: of one source.
            skipped: gets the others.

        Raises:
            DataError: no row is left.
        """
        kept = []
        for row in rows:
            found = next(filter(None, map(self.match, _questions(row))), None)
            if found is None:
                kept.append(row)
            else:
                why = f"asks nearly what {found.where} asks, which data.decontaminate keeps apart"
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
    """The prompts of these sources; None where none is named.

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
