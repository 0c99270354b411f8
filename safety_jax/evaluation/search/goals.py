"""What a search aims at: requests as token ids around a suffix, and the answers that are sought.

    [ template, request ] [ suffix ] [ template ] [ target ]
          before             S slots     after

A suffix is a row of ids while it is searched, and text where it is used. So only those are found
whose text, put behind every request and tokenized with it, gives the very ids that were searched;
others would have the loss of a prompt that nobody can ask.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import prompt_ids
from safety_jax.data.control import ControlTokens, control_tokens
from safety_jax.data.records import Record
from safety_jax.data.template import Template, worded
from safety_jax.evaluation.attacks import openings, registry
from safety_jax.evaluation.sets import attacked
from safety_jax.evaluation.sets.items import Item

ASCII, PRINTABLE = "ascii", "printable"  # which tokens a suffix may be made of
_MARK = "SUFFIXTOBEFOUND"  # where a suffix will stand
# Texts as unlike a suffix as can be: where ids are equal with one of them, the suffix has no part.
_OTHERS = ("?", "x", "7", "x?x")
_NO_TEXT = "\ufffd"  # bytes that are no character by themselves


@dataclasses.dataclass(frozen=True)
class Goal:
    """One request, and how its answer is to begin.

    Attributes:
        id, where: of the item that it was made of.
        before, after: ids on both sides of the suffix, as inference feeds them.
        target: ids of the answer's beginning; `sought` is its text.
        begin: how many of `before` no text stands for: BOS.
        left, right: the coded text around the suffix, see `control.py`.
    """

    id: str
    where: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...]
    sought: str
    begin: int
    left: str
    right: str

    def tokens(self, slots: int) -> int:
        """Tokens of the whole example, with a suffix of so many slots."""
        return len(self.before) + slots + len(self.after) + len(self.target)


def read_goals(
    items: Sequence[Item],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    start: str,
    key: str,
) -> tuple[list[Goal], tuple[int, ...]]:
    """A goal for each item, and the ids of the suffix that the search starts from.

    Args:
        start: its text.
        key: the config key of that text, for messages.

    Raises:
        ConfigError: a start that is not read alike behind every request.
        DataError: a template that has no place for a prompt, or changes its end.
    """
    control = control_tokens(tokenizer)
    attack = registry.of_suffixes("search", ())

    def with_suffix(item: Item, suffix: str) -> Record:
        asked = attacked.ask(item.prompt, item.context, "", attack, suffix)
        return dataclasses.replace(item, asked=asked).record()

    marked = worded([with_suffix(item, _MARK) for item in items], template, tokenizer, asking=True)
    records = [with_suffix(item, start) for item in items]
    fed = prompt_ids.encode_prompts(records, template, tokenizer)
    sought = [item.opening or openings.target(item.prompt[-1].content) for item in items]
    targets = prompt_ids.encode_openings(records, sought, template, tokenizer)
    goals: list[Goal] = []
    first: tuple[int, ...] | None = None
    for item, words, whole, target, text in zip(items, marked, fed, targets, sought, strict=True):
        if isinstance(words, DataError):
            raise words
        left, found, right = words.code.partition(_MARK)
        if not found or _MARK in right:
            raise DataError(
                f"{item.where}: the template does not keep the end of this prompt as it is, so no "
                "suffix has a place behind it; set data.template to another, or leave the row out"
            )
        before, suffix, after = _around(control, left, start, right)
        begin = len(whole) - len(before) - len(suffix) - len(after)
        goal = Goal(
            item.id, item.where, tuple(whole[: begin + len(before)]), tuple(after), tuple(target),
            text, begin, left, right,
        )  # fmt: skip
        first = first or tuple(suffix)
        if tuple(suffix) != first or not survive(goal, [suffix], tokenizer)[0]:
            raise ConfigError(
                f"{key} {start!r} has other tokens behind {item.where}; expected words that the "
                "tokenizer reads alike everywhere, such as '! ! ! !'"
            )
        goals.append(goal)
    assert first is not None  # a set has items
    return goals, first


def _around(
    control: ControlTokens, left: str, start: str, right: str
) -> tuple[list[int], list[int], list[int]]:
    """Ids before the suffix, of it, and behind it: what stays with any other suffix is not its."""
    whole, *others = control.read([left + text + right for text in (start, *_OTHERS)])
    before = min(_alike(whole, other) for other in others)
    after = min(_alike(whole[::-1], other[::-1]) for other in others)
    after = min(after, len(whole) - before)
    end = len(whole) - after
    return whole[:before], whole[before:end], whole[end:]


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two rows begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def survive(
    goal: Goal, suffixes: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    """Which suffixes are, as text behind this request, read as the ids that they are."""
    control = control_tokens(tokenizer)
    texts = spell(suffixes, tokenizer)
    known = [list(goal.before[goal.begin :]), list(goal.after)]
    read = control.read([goal.left + text + goal.right for text in texts])
    return [
        usable(text, control) and whole == [*known[0], *suffix, *known[1]]
        for text, suffix, whole in zip(texts, suffixes, read, strict=True)
    ]


def spell(suffixes: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Suffixes as text, without the space that stands before them."""
    texts = tokenizer.batch_decode(
        [list(ids) for ids in suffixes],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return [text.removeprefix(" ") for text in texts]


def usable(text: str, control: ControlTokens) -> bool:
    """Whether a text can be a line of a file of suffixes, and spells no control token."""
    whole = text.isprintable() and _NO_TEXT not in text and text == text.strip() != ""
    return whole and control.find(text) is None


def allowed_tokens(
    tokenizer: PreTrainedTokenizerBase, vocabulary_size: int, which: str
) -> Bool[np.ndarray, " V"]:
    """Which tokens a suffix may be made of: none that is a control token or prints nothing.

    Args:
        vocabulary_size: of the model, which may be larger than the tokenizer's.
        which: ASCII, or PRINTABLE for the letters of all languages.
    """
    count = min(len(tokenizer), vocabulary_size)
    texts = tokenizer.batch_decode(
        [[i] for i in range(count)], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    allowed = np.zeros(vocabulary_size, bool)
    allowed[:count] = [
        bool(text.strip())
        and text.isprintable()
        and _NO_TEXT not in text
        and (which != ASCII or text.isascii())
        for text in texts
    ]
    known = tokenizer.get_vocab()
    control = {known[text] for text in control_tokens(tokenizer).texts if text in known}
    for barred in {*control, *tokenizer.all_special_ids}:
        if barred < vocabulary_size:
            allowed[barred] = False
    return allowed
