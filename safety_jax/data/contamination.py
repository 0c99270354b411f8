"""Finds training rows that ask in nearly the same words what a test asks.

Only the words of a prompt count, regardless of case and punctuation. A row's prompt is a
near-duplicate of a test's if the Jaccard index of their words and word bigrams is at least `ALIKE`,
and so is that of their content words; or if common runs of `RUN` words cover at least `COVERED` of
the test's words, as in the decontamination of Tülu 3 (arXiv 2411.15124). The first rule finds short
requests that are reworded at one place, the second long ones that are quoted within another. "How
do I kill a process?" and "How do I kill a person?" are no duplicates.

Where a script sets no blanks between words, its signs stand for words: of Chinese and of Japanese
each character (a run of katakana is one word), of Thai, Lao, Khmer, Burmese and Tibetan all three
neighbouring letters. A common run is then as long as `RUN` words are, about.
"""

import dataclasses
import re
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
_HYPHENS = "'’-‐‑"
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_HIRAGANA = re.compile("[\u3041-\u3096\u309d-\u309f]")
_LETTERS = re.compile("[\u0e01-\u0fbc\u1000-\u109f\u1780-\u17d3]+")
_FIRST_UNSPACED = "\u0e01"

_FUNCTION = frozenset(
    "a an the this that these those some any i you he she it we they me him her us them my your "
    "his its our their who whom whose which what when where why how is are was were be been "
    "being am do does did have has had can could will would shall should may might must of in "
    "on at to from for with without by about into as and or but if not no so than then there "
    "here please give tell write explain describe make".split()
)
# Of Chinese, in both spellings; Japanese writes such words in hiragana.
_FUNCTION_SIGNS = frozenset(
    "的了着过過吗嗎呢吧啊嘛是在有和与與或及并並但而若我你您他她它们們这這那此其哪些每个個一名位件"
    "条條种種首篇段句请請能可以会會该該应應想要需须須如何怎么麼样樣什为為甚谁誰把被给給让讓对對于於"
    "关關从從到向将將就都也还還又不没沒无無非写寫说說告诉訴解释釋描述明何"
    "教方法"
) | frozenset(map(chr, range(0x3041, 0x30A0)))


class _Plain(dict[int, str]):
    """What `str.translate` puts for each character, found when it first occurs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _HAN.match(character) or _HIRAGANA.match(character):
            plain = f" {character} "
        elif unicodedata.category(character)[0] == "M":
            # Marks that NFKD separates from letters are accents; those of no class, vowels.
            plain = "" if unicodedata.combining(character) else character
        elif character in _HYPHENS:
            plain = ""
        else:
            plain = character if character.isalnum() else " "
        self[code] = plain
        return plain


_PLAIN = _Plain()
R = TypeVar("R", bound=Record | Pair | Rated | Labelled)


def words(text: str) -> list[str]:
    """The words of a text, without case, accents and punctuation; a hyphenated word is one."""
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_PLAIN)
    return (plain if plain.isascii() else _LETTERS.sub(_threes, plain)).split()


def _threes(letters: re.Match[str]) -> str:
    """`กขคง` -> ` กขค ขคง `."""
    run = letters[0]
    return f" {' '.join(run[i : i + 3] for i in range(max(1, len(run) - 2)))} "


def _features(text_words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(
        [*((word,) for word in text_words), *zip(text_words, text_words[1:], strict=False)]
    )


def _content(text_words: Sequence[str]) -> frozenset[str]:
    """The content words; all words if there are none."""
    return frozenset(text_words) - _FUNCTION - _FUNCTION_SIGNS or frozenset(text_words)


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0


def _runs(text_words: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """All runs of `RUN` words, or of as many signs as make up so many words."""
    if max(text_words, default="") < _FIRST_UNSPACED:
        yield from (tuple(text_words[i : i + RUN]) for i in range(len(text_words) - RUN + 1))
        return
    worths = [_worth(word) for word in text_words]
    end, within = 0, 0.0
    for start, worth in enumerate(worths):
        while within < RUN and end < len(worths):
            within += worths[end]
            end += 1
        if within < RUN:
            return
        yield tuple(text_words[start:end])
        within -= worth


def _worth(word: str) -> float:
    """How much of a word this is, about: of Chinese two characters make one."""
    if _HAN.match(word):
        return 0.5
    return 0.25 if _HIRAGANA.match(word) or _LETTERS.match(word) else 1.0


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
        likely = (
            number
            for number, common in shared.items()
            if common / (len(content) + len(self._content[number]) - common) >= ALIKE
        )
        for number in sorted(likely):
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
                covered[number].update(range(place, place + len(run)))
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
