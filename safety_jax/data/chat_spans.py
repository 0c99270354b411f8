"""Finds out who wrote which part of a chat, and which parts are learned, from the text of a
skeleton, in which code words stand for the messages' texts (see `chat.py`).

A skeleton's text is split at its code words; the template's own text alternates with their numbers:

    <|im_start|>user\\n{0}<|im_end|>\\n<|im_start|>assistant\\n{1}<|im_end|>\\n
    ["<|im_start|>user\\n", 0, "<|im_end|>\\n<|im_start|>assistant\\n", 1, "<|im_end|>\\n"]

An answer begins and ends somewhere in the template's text before and behind its code words;
`chat.py` says where.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence

from safety_jax.data.control import WORD, ControlTokens, word

Turn = Mapping[str, str]
Parts = list[str | int]  # the template's texts, and between them the numbers of code words

BEGIN, END = 999_998, 999_999  # words around `{% generation %}`
MARKS = (word(BEGIN), word(END))
_MOST = 300_000  # code words in a conversation
# Fields of a message that hold its reasoning, as transformers passes them to templates.
REASONING = ("reasoning_content", "thinking")


class Unwritable(Exception):
    """Says why there is no text for a conversation, or no place for its answers."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """A conversation with code words in place of the messages' texts.

    Attributes:
        turns: messages, as templates get them.
        said: the text that each word stands for, by the word's number.
        owners: the turn that each text belongs to, and whether it is that turn's reasoning.
    """

    turns: list[dict[str, str]]
    said: list[str]
    owners: list[tuple[int, bool]]

    @functools.cached_property
    def key(self) -> str:
        """The same for all conversations of the same shape."""
        return json.dumps(self.turns)

    def bracketed(self) -> list[dict[str, str]]:
        """The conversation itself, with a code word on either side of each piece of text."""

        def between(found: re.Match[str]) -> str:
            number = int(found[1])
            return word(_MOST + number) + self.said[number] + word(2 * _MOST + number)

        return [{k: WORD.sub(between, value) for k, value in t.items()} for t in self.turns]


def outline(turns: Sequence[Turn], markup: re.Pattern[str], *, blanks: bool) -> Outline:
    """Replaces every piece of the messages' texts by a code word.

    Args:
        turns: role, content, and the reasoning if there is any.
        markup: matches strings to leave as they are; has one group, around all of the pattern.
        blanks: replaces the blanks at either end of a piece, too, instead of leaving them.
    """
    said: list[str] = []
    owners: list[tuple[int, bool]] = []

    def worded(text: str, turn: int, reasoning: bool) -> str:
        pieces = markup.split(text)
        for at in range(0, len(pieces), 2):
            if core := pieces[at].strip():
                core = pieces[at] if blanks else core
                before, _, behind = pieces[at].partition(core)
                pieces[at] = before + word(len(said)) + behind
                said.append(core)
                owners.append((turn, reasoning))
        return "".join(pieces)

    found = []
    for i, turn in enumerate(turns):
        message = {"role": turn["role"]}
        if reasoning := turn.get(REASONING[0]):
            thought = worded(reasoning, i, True)
            message |= dict.fromkeys(REASONING, thought)
        found.append(message | {"content": worded(turn["content"], i, False)})
    assert len(said) < _MOST
    return Outline(found, said, owners)


def parts(text: str) -> Parts:
    """A skeleton's text, split at its code words."""
    return [int(part) if i % 2 else part for i, part in enumerate(WORD.split(text))]


def filled(found: Parts, said: Sequence[str]) -> str:
    """The text with the messages' texts in place of code words, without marks of generation."""
    return "".join(
        part if isinstance(part, str) else said[part] if part < BEGIN else "" for part in found
    )


def unbracket(text: str, said: Sequence[str]) -> tuple[Parts, list[str]]:
    """The parts of a text of `Outline.bracketed`, and the texts between its code words.

    Raises:
        Unwritable: the template has separated a pair of code words.
    """
    found = parts(text)
    kept: Parts = [found[0]]
    now = list(said)
    at = 1
    while at < len(found):
        number, behind = found[at], found[at + 1]
        assert isinstance(number, int) and isinstance(behind, str)
        if number < BEGIN:
            number -= _MOST
            closed = found[at + 2] if at + 2 < len(found) else None
            if not 0 <= number < len(said) or closed != 2 * _MOST + number:
                raise Unwritable("it rewrites what is said")
            now[number], behind = behind, found[at + 3]
            at += 2
        kept += [number, behind]
        at += 2
    return kept, now


def notes(found: Parts, outline: Outline) -> frozenset[str]:
    """Whose words the template leaves out, at least in part: roles, or "reasoning"."""
    there = {part for part in found if isinstance(part, int)}
    speaking = {outline.owners[number][0] for number in there if number < len(outline.owners)}
    missing = set()
    for number, (turn, reasoning) in enumerate(outline.owners):
        if number in there:
            continue
        role = outline.turns[turn]["role"]
        # An answer that is there in part lacks its thoughts.
        thought = reasoning or (role == "assistant" and turn in speaking)
        missing.add("reasoning" if thought else role)
    return frozenset(missing)


# ---------------------------------------------------------------------------- what is learned


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a written text.

    Attributes:
        text: the text as people read it.
        code: the same with code words for the template's control tokens, see `control.py`.
        learned: it belongs to an answer.
        ended: the template ends the answer with a control token.
    """

    text: str
    code: str
    learned: bool
    ended: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StretchPlan:
    """A stretch of all texts of one shape: the template's text, plain and coded, and the numbers of
    the messages' texts."""

    items: tuple[tuple[str, str] | int, ...]
    learned: bool
    ended: bool

    def fill(self, said: Sequence[str]) -> Stretch:
        texts = [said[item] if isinstance(item, int) else item[0] for item in self.items]
        codes = [said[item] if isinstance(item, int) else item[1] for item in self.items]
        return Stretch("".join(texts), "".join(codes), self.learned, self.ended)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Place:
    """A place in parts: `offset` characters into the template's text number `part`."""

    part: int
    offset: int


class Divider:
    """Divides a text into stretches.

    Args:
        found: the parts of a text of `outline`.
        control: the tokenizer's control tokens.
        begin: a control token that begins texts and so ends no answer; "" for none.
    """

    def __init__(self, found: Parts, outline: Outline, control: ControlTokens, begin: str):
        self._parts, self._control, self._begin = found, control, begin
        owners = outline.owners
        # The turn of each part; None for the template's text and for marks.
        self._turns = [
            owners[part][0] if isinstance(part, int) and part < BEGIN else None for part in found
        ]
        asked = (
            found[at + 1]
            for at, turn in enumerate(self._turns)
            if turn is not None and outline.turns[turn]["role"] == "user"
        )
        ends = (control.find(str(text)) for text in asked)
        self._turn_end = next((end.group() for end in ends if end is not None), "")

    def divide(
        self, answers: Sequence[int], headers: Mapping[int, str | None]
    ) -> list[StretchPlan]:
        """The whole text in stretches, with each answer in stretches of its own.

        Args:
            answers: the turns that are learned.
            headers: for each turn, the text that the template writes behind the last message when
                it asks a model for that turn; None if it refuses to ask.

        Raises:
            Unwritable: an answer is mixed with other turns.
        """
        if BEGIN in self._parts:
            regions = self._marked(set(answers))
        else:
            regions = [region for turn in answers if (region := self._answer(turn, headers[turn]))]
        found, at = [], _Place(0, 0)
        for start, stop, ended in regions:
            found += [
                self._stretch(at, start, False, False),
                self._stretch(start, stop, True, ended),
            ]
            at = stop
        last = len(self._parts) - 1
        found.append(self._stretch(at, _Place(last, len(self._text(last))), False, False))
        return [stretch for stretch in found if stretch.items]

    def as_asked(self, answers: Sequence[int], headers: Mapping[int, str | None]) -> bool:
        """Whether the text in front of the last answer is the one that asks a model for it."""
        for turn in reversed(answers):
            if turn in self._turns:
                header = headers[turn]
                return header is None or self._before(self._turns.index(turn)).startswith(header)
        return True

    def _before(self, part: int) -> str:
        """The template's text between what was said last and a part, without marks."""
        text = self._text(part - 1)
        while part > 2 and self._parts[part - 2] in (BEGIN, END):
            part -= 2
            text = self._text(part - 1) + text
        return text

    def _text(self, part: int) -> str:
        text = self._parts[part]
        assert isinstance(text, str)
        return text

    def _answer(self, turn: int, header: str | None) -> tuple[_Place, _Place, bool] | None:
        """Where the answer of a turn begins and ends, and whether a control token ends it; None if
        the template leaves it out."""
        said = [at for at, owner in enumerate(self._turns) if owner == turn]
        if not said:
            return None
        first, last = said[0], said[-1]
        if any(owner not in (None, turn) for owner in self._turns[first:last]):
            raise Unwritable(f"it mixes turn {turn} with others")
        before = self._text(first - 1)
        as_asked = header is not None and before.startswith(header)
        start = _Place(first - 1, len(header or "") if as_asked else len(before))
        end, ended = self._end(last + 1)
        return start, _Place(last + 1, end), ended

    def _end(self, part: int) -> tuple[int, bool]:
        """How much of the template's text behind an answer belongs to it, and whether a control
        token ends it."""
        behind, final = self._text(part), self._text(len(self._parts) - 1)
        if self._first_control(final) is None:
            # Behind the last answer there is none: where answers end is said in words.
            return (len(final) if behind.startswith(final) else 0), False
        found = self._first_control(behind)
        if found is None:
            return 0, False
        end, at = found.end(), found
        # Cohere ends the answer and then the turn, by the token that ends the user's.
        while at.group() != self._turn_end:
            follows = self._control.find(behind, at.end())
            if follows is None or follows.start() != at.end():
                return end, True
            at = follows
        return at.end(), True

    def _first_control(self, text: str) -> re.Match[str] | None:
        """The first control token of a text, unless that one begins texts."""
        found = self._control.find(text)
        return None if found is None or found.group() == self._begin else found

    def _marked(self, answers: set[int]) -> list[tuple[_Place, _Place, bool]]:
        """Regions that the template marks as generated, from the first learned answer on."""
        edges = [at for at, part in enumerate(self._parts) if part in (BEGIN, END)]
        pairs = list(zip(edges[::2], edges[1::2], strict=True))
        regions: list[tuple[int, int]] = []
        for begin, end in pairs:
            turns = {turn for turn in self._turns[begin:end] if turn is not None}
            if not turns & answers and (turns or not regions):
                continue
            if regions and begin == regions[-1][1] + 2 and not self._text(begin - 1):
                begin = regions.pop()[0]  # two blocks make one region
            regions.append((begin, end))
        found = []
        for begin, end in regions:
            start, stop = _Place(begin + 1, 0), _Place(end - 1, len(self._text(end - 1)))
            ended = self._first_control(self._text(end - 1)) is not None
            if not ended:  # the template does not mark the end token as generated
                more, ended = self._end(end + 1)
                stop = _Place(end + 1, more) if ended else stop
            found.append((start, stop, ended))
        return found

    def _stretch(self, start: _Place, stop: _Place, learned: bool, ended: bool) -> StretchPlan:
        items: list[tuple[str, str] | int] = []
        for at in range(start.part, stop.part + 1):
            part = self._parts[at]
            if isinstance(part, str):
                text = part[
                    start.offset if at == start.part else 0 : stop.offset
                    if at == stop.part
                    else None
                ]
                if text:
                    items.append((text, self._control.encode(text)))
            elif part < BEGIN:
                items.append(part)
        return StretchPlan(tuple(items), learned, ended)
