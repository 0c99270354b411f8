"""Separates thoughts from answers: reasoning models write both, but only the answer counts.

    <think>The user asks for the capital of France.</think>Paris.
            thought                                         answer

A thought stands at the beginning of a turn, between the markers of its model's family. If the
prompt has opened it already, as DeepSeek-R1's template does, the turn has only the closing marker.
Later blocks on lines of their own are thoughts, too. Markers that prose mentions or that stand in
code are plain text: "close it with `</think>`" neither opens nor closes anything.

A turn that ends inside its thought has no answer, which differs from an empty one: nobody can judge
it.
"""

import bisect
import dataclasses
import re
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """A model's text, split into thought and answer.

    Attributes:
        thought: the thought without its markers; blank lines separate several.
        answer: the text for the user; the whole text, unchanged, if there is no thought.
        unfinished: the text ends inside its thought, so that there is no answer.
    """

    thought: str
    answer: str
    unfinished: bool


# Markers that open and close thoughts; the closing marker has the same kind as the opening one.
_TAGS = "think|thinking|thoughts?|reasoning|scratchpad|inner_monologue|seed:think"
_MARKER = re.compile(
    rf"<(?P<slash>/?)(?P<tag>(?i:{_TAGS}))>"  # DeepSeek-R1, Qwen3, QwQ, EXAONE, Seed-OSS
    r"|\[(?P<slash2>/?)THINK\]"  # Magistral
    r"|<\|(?P<place>begin|end)_of_thought\|>"  # Sky-T1, OpenThinker
    r"|<\|(?P<place2>START|END)_THINKING\|>"  # Command A Reasoning
    r"|<\|inner_(?P<place3>prefix|suffix)\|>"  # Apertus
    r"|◁(?P<slash3>/?)think▷"  # Kimi
    r"|<\|(?P<slash4>/?)think(?:ing)?\|>"
    r"|<(?P<place4>\|channel>thought\n?|channel\|>)"  # Gemma 4
    r"|<unused(?P<place5>94>thought\n?|95>)"  # MedGemma
)
_BEFORE = re.compile(r"<think>\n?(.*?)\n?</think>\s*", re.DOTALL)
_CLOSES = {"/", "end", "END", "suffix", "channel|>", "95>"}
# Markers around the answer, which may follow a thought or enclose the whole text.
_ANSWER = re.compile(
    r"\s*(?:<(?P<tag>(?i:answer|response|output|solution))>|<\|begin_of_(?P<name>solution)\|>"
    r"|<\|START_(?P<name2>RESPONSE)\|>)"
)
_ANSWER_END = re.compile(
    r"</(?P<tag>(?i:answer|response|output|solution))>|<\|end_of_(?P<name>solution)\|>"
    r"|<\|END_(?P<name2>RESPONSE)\|>"
)
_WRAPPED_END = re.compile(rf"(?:{_ANSWER_END.pattern})\s*\Z")
# May stand in front of the first marker: blanks, and the name of the role.
_START = re.compile(
    r"\s*(?:(?:<\|(?!begin|START|inner|/?think)[^|<>\s]{1,40}\|>|(?i:\bassistant\b):?)\s*)?"
)
# Behind an opening marker, these show that the sentence is about the marker.
_MENTION = re.compile(
    r"[ \t]*(?:[.,:;)]|(?:is|are|was|were|and|or|tags?|tokens?|markers?|blocks?|elements?|means?|"
    r"marks?|opens?|closes?|starts?|begins?|ends?|comes?|should|must|can|at|in|as|to)\b)"
)
_CODE = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?(?:^[ \t]*\1|\Z)|(?<!`)`[^`\n]+`", re.M | re.S)
_QUOTED = ('""', "''", "``", "“”", "‘’", "()", "«»")
# Granite marks thoughts by sentences, and gpt-oss names a channel for each message. Decoders leave
# out its special tokens; then only the names "analysis" and "assistantfinal" remain.
_WORDED = re.compile(
    r"\s*here(?:'s| is) my thought process:(.*?)\bhere(?:'s| is) my response:", re.I | re.S
)
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]{0,200}(?:<\|constrain\|>[^<]{0,200})?<\|message\|>"
)
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_CHANNELS = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?(?=<\|channel\|>)")
_BARE_CHANNEL = re.compile(r"\s*analysis(?=[A-Z\"'*])")
_BARE_FINAL = "assistantfinal"
_KEPT = re.compile(
    r"<\|(?:channel|message|start|end|return|call|constrain)\|>|<\|channel>|<unused94>"
)
_LINE_MENTION = re.compile(r"[ \t]+(?:is|are|and|or|tags?|marks?|closes?|ends?)\b")
_BEHIND_SENTENCE = re.compile(r"[.!?…。！？][\"')*]{0,3}[ \t]*\Z")


def split(text: str, *, unwrap: bool = True) -> Turn:
    """Splits a model's turn into thought and answer, in time linear in its length.

    Args:
        unwrap: removes markers around the answer, such as `<answer>`.
    """
    for found in (_by_channel(text), _by_words(text), _by_markers(text)):
        if found is not None:
            answer = _unwrapped(found.answer) if unwrap else found.answer
            return dataclasses.replace(found, answer=answer.strip())
    wrapped = unwrap and _ANSWER.match(text) and _WRAPPED_END.search(text)
    return Turn("", _unwrapped(text) if wrapped else text, False)


def before(thought: str, answer: str) -> str:
    """A turn with a thought and an answer, as most models write it."""
    return f"<think>\n{thought.strip()}\n</think>\n\n{answer}"


def apart(turn: str) -> tuple[str | None, str]:
    """The inverse of `before`: thought and answer, unchanged. The thought is None if the turn does
    not begin with one in this spelling."""
    found = _BEFORE.match(turn)
    return (found[1], turn[found.end() :]) if found else (None, turn)


def opened(prompt: str) -> str:
    """The marker, with the white space behind it, that a prompt ends with to open a thought; "" if
    there is none. It belongs to the turn that follows, not to the prompt."""
    tail = prompt[-80:]
    for found in _MARKER.finditer(tail):
        if not tail[found.end() :].strip() and not _closes(found):
            return tail[found.start() :]
    return ""


def said(read: Callable[[Sequence[int]], str], prompt: Sequence[int], text: str) -> str:
    """A turn as records hold it: the marker that the prompt opened, and the model's text.

    Args:
        read: see `reader`.
        prompt: token ids.
        text: what the model wrote.
    """
    return (opened(read(prompt[-16:])) + text).strip()


def reader(tokens: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """Returns a function from token ids to text. It leaves out special tokens, but keeps those that
    mark thoughts, without which a thought and its answer would be one text."""
    special = {i for i, token in tokens.added_tokens_decoder.items() if token.special}
    special |= set(tokens.all_special_ids)
    names = {i: str(tokens.convert_ids_to_tokens(i)) for i in special}
    known = (_MARKER, _ANSWER, _ANSWER_END, _KEPT)
    marks = {i for i, name in names.items() if any(mark.fullmatch(name) for mark in known)}
    marks -= {tokens.eos_token_id, tokens.bos_token_id, tokens.pad_token_id}

    def read(ids: Sequence[int]) -> str:
        if marks.isdisjoint(ids):
            return str(tokens.decode(list(ids), skip_special_tokens=True))
        kept = [i for i in ids if i in marks or i not in special]
        return str(tokens.decode(kept, skip_special_tokens=False))

    return read


# ---------------------------------------------------------------------------- markers


@dataclasses.dataclass(frozen=True, slots=True)
class _Mark:
    """A marker in a text.

    Attributes:
        kind: the same for matching opening and closing markers.
        starts_line: nothing stands before it on its line.
        alone: it stands where models write markers: at the beginning of a line, behind a sentence,
            or at the end of a paragraph; not within a sentence, in quotes or in code.
        bare: it is neither in code nor in quotes.
    """

    kind: str
    closes: bool
    start: int
    end: int
    starts_line: bool
    alone: bool
    bare: bool


def _by_markers(text: str) -> Turn | None:
    marks = _marks(text)
    if not marks:
        return None
    closers = _closers(marks)
    thoughts: list[str] = []
    begin = _START.match(text)
    place = begin.end() if begin else 0
    number = 0
    while number < len(marks) and marks[number].start == place and not marks[number].closes:
        opener, closer = marks[number], closers[number]
        mention = _MENTION.match(text, opener.end)
        if mention and (closer is None or not marks[closer].alone):
            break
        if closer is None:
            return Turn(_joined([*thoughts, text[opener.end :]]), "", True)
        thoughts.append(text[opener.end : marks[closer].start])
        place, number = marks[closer].end, closer + 1
        while place < len(text) and text[place].isspace():
            place += 1
    if not thoughts:
        place = 0
        if (orphan := _orphan(marks)) is not None:
            thoughts.append(text[: marks[orphan].start])
            place, number = marks[orphan].end, orphan + 1
    kept = []
    for i in range(number, len(marks)):  # blocks on lines of their own
        opener, closer = marks[i], closers[i]
        if opener.start < place or closer is None or not opener.starts_line or not opener.bare:
            continue
        if marks[closer].alone:
            kept.append(text[place : opener.start])
            thoughts.append(text[opener.end : marks[closer].start])
            place = marks[closer].end
    if not thoughts:
        return None
    return Turn(_joined(thoughts), "".join([*kept, text[place:]]), False)


def _marks(text: str) -> list[_Mark]:
    found = list(_MARKER.finditer(text))
    spans = [match.span() for match in _CODE.finditer(text)] if found else []
    starts = [start for start, _ in spans]
    marks = []
    for one in found:
        start, end = one.span()
        span = bisect.bisect_right(starts, start) - 1
        in_code = span >= 0 and start < spans[span][1]
        before, after = text[max(start - 200, 0) : start], text[end : end + 40]
        line = before.rpartition("\n")[2]
        starts_line = not line.strip() and (len(line) < len(before) or start <= 200)
        quoted = before[-1:] + after[:1] in _QUOTED
        bare = not in_code and not quoted
        alone = bare and (
            _LINE_MENTION.match(after) is None if starts_line else _ends_paragraph(before, after)
        )
        kind = f"{one.lastgroup} {(one['tag'] or '').lower()}"
        marks.append(_Mark(kind, _closes(one), start, end, starts_line, alone, bare))
    return marks


def _closes(marker: re.Match[str]) -> bool:
    return any(name != "tag" and part in _CLOSES for name, part in marker.groupdict().items())


def _ends_paragraph(before: str, after: str) -> bool:
    touching = not before[-1:].isspace() and re.match(r"\s*(?:\n|\Z)|[^\s.,:;!?)\]}]", after)
    return bool(
        touching or _BEHIND_SENTENCE.search(before[-8:]) or re.match(r"[ \t]*\n[ \t]*\n", after)
    )


def _closers(marks: Sequence[_Mark]) -> list[int | None]:
    """For each opening marker, the number of the one that closes it: the first that stands alone;
    else the first that is bare; else the first at the beginning of a line, because a thought may
    leave a block of code open, which then seems to contain the marker."""
    following: tuple[dict[str, int], ...] = ({}, {}, {})
    found: list[int | None] = [None] * len(marks)
    for i in range(len(marks) - 1, -1, -1):
        mark = marks[i]
        if mark.closes:
            for known, fits in zip(
                following, (mark.alone, mark.bare, mark.starts_line), strict=True
            ):
                if fits:
                    known[mark.kind] = i
        else:
            places = [known[mark.kind] for known in following if mark.kind in known]
            found[i] = places[0] if places else None
    return found


def _orphan(marks: Sequence[_Mark]) -> int | None:
    """The number of the marker that closes a thought which the prompt opened."""
    opened: set[str] = set()
    opened_line: set[str] = set()
    for i, mark in enumerate(marks):
        if not mark.closes:
            if mark.bare:
                opened.add(mark.kind)
            if mark.starts_line:
                opened_line.add(mark.kind)
        elif mark.alone:
            known = opened_line if mark.starts_line else opened
            return None if mark.kind in known else i
    return None


def _unwrapped(answer: str) -> str:
    """The answer without markers around it."""
    start = _ANSWER.match(answer)
    if start is None:
        return answer
    end = _ANSWER_END.search(answer, start.end())
    inner = answer[start.end() : end.start() if end else len(answer)].strip()
    rest = answer[end.end() :].strip() if end else ""
    return f"{inner}\n\n{rest}" if rest else inner


def _joined(thoughts: Sequence[str]) -> str:
    return "\n\n".join(thought.strip() for thought in thoughts if thought.strip())


# ---------------------------------------------------------------------------- words and channels


def _by_words(text: str) -> Turn | None:
    if worded := _WORDED.match(text):
        return Turn(worded[1].strip(), text[worded.end() :].strip(), False)
    bare = _BARE_CHANNEL.match(text)
    if bare is None:
        return None
    thought, final, answer = text[bare.end() :].partition(_BARE_FINAL)
    return Turn(thought.strip(), answer.strip(), not final)


def _by_channel(text: str) -> Turn | None:
    """Splits the messages of gpt-oss by channel: `final` is the answer, all others are thoughts."""
    begin = _CHANNELS.match(text)
    if begin is None:
        return None
    thoughts, answers = [], []
    final = False
    heads = list(_CHANNEL.finditer(text, begin.end()))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        end = following.start() if following else len(text)
        body = _MESSAGE_END.split(text[head.end() : end], maxsplit=1)[0]
        if head[1] == "final":
            answers.append(body.strip())
            final = True
        else:
            thoughts.append(body)
    return Turn(_joined(thoughts), "\n\n".join(answers), not final)
