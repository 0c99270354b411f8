"""The goals of a search: requests as token ids around a suffix, and target answers.

    [ template, request ] [ suffix ] [ template ] [ target ]
          before             S slots     after

The search works on ids, but a suffix is used as text. So a suffix is accepted only if its text,
tokenized after every request, gives the same ids again; the loss of any other suffix is that of a
prompt which no text produces.
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

ASCII, PRINTABLE = "ascii", "printable"  # the tokens that a suffix may contain
_MARK = "SUFFIXTOBEFOUND"  # placeholder of the suffix
# Texts unlike any suffix: ids that stay the same with each of them do not belong to the suffix.
_OTHERS = ("?", "x", "7", "x?x")
_NO_TEXT = "\ufffd"  # bytes that are no complete character


@dataclasses.dataclass(frozen=True)
class Goal:
    """One request, and the target beginning of its answer.

    Attributes:
        id, where: of its item.
        before, after: ids on both sides of the suffix, as in inference.
        target: ids of the answer's beginning; `sought` is its text.
        begin: the number of ids at the start of `before` without text: BOS.
        left, right: the encoded text around the suffix, see `control.py`.
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
        """Tokens of the whole example with a suffix of `slots` tokens."""
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
        ConfigError: the start has different ids after different requests.
        DataError: the template has no place for a prompt, or changes its end.
    """
    control = control_tokens(tokenizer)
    attack = registry.from_suffixes("search", ())

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
                f"{item.where}: the template changes the end of this prompt, so a suffix has no "
                "place there; set data.template to another, or leave the row out"
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
                f"{key} {start!r} has other tokens after {item.where}; expected words with the "
                "same tokens everywhere, such as '! ! ! !'"
            )
        goals.append(goal)
    assert first is not None  # a set has items
    return goals, first


def _around(
    control: ControlTokens, left: str, start: str, right: str
) -> tuple[list[int], list[int], list[int]]:
    """Ids before, in and after the suffix: those that stay with any other suffix are not in it."""
    whole, *others = control.read([left + text + right for text in (start, *_OTHERS)])
    before = min(_alike(whole, other) for other in others)
    after = min(_alike(whole[::-1], other[::-1]) for other in others)
    after = min(after, len(whole) - before)
    end = len(whole) - after
    return whole[:before], whole[before:end], whole[end:]


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common prefix of two rows."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def survive(
    goal: Goal, suffixes: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    """Whether each suffix, as text after this request, is tokenized to its own ids."""
    control = control_tokens(tokenizer)
    texts = spell(suffixes, tokenizer)
    known = [list(goal.before[goal.begin :]), list(goal.after)]
    read = control.read([goal.left + text + goal.right for text in texts])
    return [
        usable(text, control) and whole == [*known[0], *suffix, *known[1]]
        for text, suffix, whole in zip(texts, suffixes, read, strict=True)
    ]


def spell(suffixes: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Suffixes as text, without a space before them."""
    texts = tokenizer.batch_decode(
        [list(ids) for ids in suffixes],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return [text.removeprefix(" ") for text in texts]


def usable(text: str, control: ControlTokens) -> bool:
    """Whether a text can be a line of a file of suffixes, and contains no control token."""
    whole = text.isprintable() and _NO_TEXT not in text and text == text.strip() != ""
    return whole and control.find(text) is None


def allowed_tokens(
    tokenizer: PreTrainedTokenizerBase, vocabulary_size: int, which: str
) -> Bool[np.ndarray, " V"]:
    """The tokens that a suffix may contain: no control tokens, and none without printable text.

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
