"""Which requests ask for nearly the same: they share most of the words that carry the matter.

The files that a model is tested on must not repeat those that it learns from, in whatever frame:
"How do I pick a lock?" and "Write a tutorial on picking locks" are near, "How do I pick a lock?"
and "How do I pick a colour?" are not. Words of the frame do not count, endings do not, order does
not; what is left is compared by the Jaccard index.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

NEAR = 0.6  # share of the words of both that are words of each

_WORD = re.compile(r"[a-z0-9]+")
# What makes a request of a matter, and what any sentence has.
_FRAME = frozenset(
    """
    a about am an and any are as at be been best but by can could describe detail did do does don
    draft easiest effective explain few find for from get give good guide had has have he help her
    hers him his how i if in instruct instruction into is it its let list ll make may me might my
    need not of on one or our out outline own people person please plan produce provide quickest re
    reason s safest say she should show so some someone somebody steps step suggest t tell than that
    the their them then there these they this those to too tutorial us ve want was way were what
    when where which while who why will with would write you your yours
    """.split()
)
_ENDINGS = ("ingly", "ing", "edly", "ed", "ies", "es", "s", "ly", "e", "y")
_STEM = 3  # letters that an ending leaves at least


def matter(text: str) -> frozenset[str]:
    """The words of a request that say what it is about, without their endings."""
    words = (word for word in _WORD.findall(text.lower()) if word not in _FRAME)
    return frozenset(_stem(word) for word in words)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM:
            return word[: -len(ending)]
    return word


def near(texts: Sequence[str], others: Iterable[str]) -> Iterator[tuple[str, str, float]]:
    """Each of `others` that is near one of `texts`, with the nearest and their index."""
    matters = [matter(text) for text in texts]
    places = defaultdict(list)
    for place, words in enumerate(matters):
        for word in words:
            places[word].append(place)
    for other in others:
        about = matter(other)
        shared = Counter(place for word in about for place in places.get(word, ()))
        index = {place: count / len(about | matters[place]) for place, count in shared.items()}
        nearest = max(index, key=lambda place: index[place], default=None)
        if nearest is not None and index[nearest] >= NEAR:
            yield other, texts[nearest], index[nearest]
