"""Runs a tokenizer's chat template and finds the author of every character of its text: the
template, or one of the turns.

A template is a program that returns one string and says nothing about its parts. So it first runs
on a skeleton: the same conversation, with a code word in place of each message's text. The words in
its output show what the template writes around them; the messages' texts, put in their places, must
give the text of the real conversation to the letter. Templates may trim texts, move them, leave
them out, or cut them at strings that they look for, such as `</think>`, which the skeleton keeps.
If a template changes letters (`| upper`), each message's text is put between two words instead.

Conversations of the same shape share a skeleton, so that each row costs one run of the template.

Which part of an answer is learned:

  - The part that the template marks with `{% generation %}`, if it does.
  - Otherwise, an answer begins where the template's text that asks a model for it ends, if the
    conversation's text begins with the same text; else with the first letter of the message.
    (Templates of reasoning models open a thought when they ask, but leave it out of given answers.)
  - It ends with the first control token after it, if the template ends answers with one; such an
    answer is `ended`.
"""

import dataclasses
import datetime
import functools
import json
import re
import weakref
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.data import chat_process, chat_spans
from safety_jax.data.chat_process import Job, Rendered, RunawayTemplate
from safety_jax.data.chat_spans import Outline, Parts, Stretch, StretchPlan, Turn, Unwritable
from safety_jax.data.control import WORD, ControlTokens, control_tokens, find_last

UNASKED, DATED = "unasked", "dated"
_KEPT_SHAPES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class ChatSettings:
    """The variables of templates beside the turns.

    Attributes:
        date: the day, for templates that write it.
        thinking: `enable_thinking`; None leaves the choice to the template.
        variables: further variables, as a JSON object; "" for none.
    """

    date: datetime.date
    thinking: bool | None
    variables: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """A conversation as a template wrote it.

    Attributes:
        stretches: the whole text, in reading order.
        notes: whose words are missing in it, at least in part: "system", "user", "assistant",
            "reasoning"; UNASKED if the template asks a model for the last answer with another text
            than the one in front of it here; DATED if the template has asked for the day.
    """

    stretches: list[Stretch]
    notes: frozenset[str]

    @property
    def code(self) -> str:
        """The whole text, with code words for the template's control tokens."""
        return "".join(stretch.code for stretch in self.stretches)


@dataclasses.dataclass
class _Shape:
    """What conversations of the same shape share.

    Attributes:
        parts: the parts of the skeleton's text; None if the template refuses it.
        headers: by turn, see `Divider.divide`.
        plans: by the turns that are learned: the text's stretches, and notes as in `Written`.
    """

    parts: Parts | None
    headers: dict[int, str | None]
    plans: dict[tuple[int, ...], tuple[list[StretchPlan], frozenset[str]]] = dataclasses.field(
        default_factory=dict
    )


class StoppedTemplate(CheckpointError):
    """A template that loops or writes without an end; `job` is the number of the text."""

    def __init__(self, message: str, job: int):
        super().__init__(message)
        self.job = job


def chat_template(tokenizer: PreTrainedTokenizerBase, settings: ChatSettings) -> "ChatTemplate":
    """The chat template of a tokenizer, cached together with its skeletons.

    Raises:
        ConfigError: the tokenizer has none.
        CheckpointError: it cannot be read.
    """
    control = control_tokens(tokenizer)
    known = _known.setdefault(control, {})
    if settings not in known:
        known[settings] = ChatTemplate(tokenizer, settings)
    return known[settings]


def answer_ends(tokenizer: PreTrainedTokenizerBase, settings: ChatSettings) -> tuple[int, ...]:
    """The token with which the chat template ends answers; () if there is none.

    Raises:
        ConfigError, CheckpointError: a chat template that is missing or broken.
    """
    end = chat_template(tokenizer, settings).end
    found = tokenizer.convert_tokens_to_ids(end) if end else None
    return (found,) if isinstance(found, int) else ()


_known: "weakref.WeakKeyDictionary[ControlTokens, dict[ChatSettings, ChatTemplate]]"
_known = weakref.WeakKeyDictionary()


class ChatTemplate:
    """The chat template of a tokenizer, see `chat_template`.

    Attributes:
        name: the tokenizer's name, for messages.
        dated: the template has asked for the date.
        reasoning_apart: the template takes an answer's thought from a field of its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings):
        """Raises:
        ConfigError: the tokenizer has none.
        CheckpointError: it cannot be read.
        """
        self.name = str(tokenizer.name_or_path or "the tokenizer")
        self.dated = False
        self._control = control_tokens(tokenizer)
        self._begin = str(tokenizer.bos_token or "")
        self._begin *= tokenizer.bos_token != tokenizer.eos_token
        self._date = settings.date
        self._variables: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self._variables |= {"tools": None, "documents": None}
        if settings.thinking is not None:
            self._variables["enable_thinking"] = settings.thinking
        self._variables |= json.loads(settings.variables or "{}")
        self._source = _source(tokenizer, self.name)
        self._markup = self._read_markup()
        self._shapes: dict[tuple[str, bool], _Shape] = {}

    @functools.cached_property
    def end(self) -> str:
        """The control token that ends an answer; "" if none does."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        (written,) = self.write([turns], asking=False)
        if isinstance(written, Unwritable):
            return ""
        ended = [stretch.text for stretch in written.stretches if stretch.ended]
        found = [*self._control.find_all(ended[-1])] if ended else []
        return found[-1] if found else ""

    def _read_markup(self) -> re.Pattern[str]:
        """Matches the strings that the template looks for in messages, except control tokens, which
        are plain text there."""
        try:
            read = chat_process.read(self._source)
        except (ValueError, RunawayTemplate) as error:
            raise CheckpointError(self._broken(f"cannot be read ({error})")) from error
        # A template that splits answers at </think> itself gets them whole.
        self.reasoning_apart = "</think>" not in read.sought and not read.fields.isdisjoint(
            chat_spans.REASONING
        )
        # Without blanks: `write` first takes those for a part of the messages.
        texts = [text for text in read.sought if text.strip() and not self._control.find(text)]
        texts.sort(key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")

    def _broken(self, what: str) -> str:
        return (
            f"{self.name}: the chat template {what}; mend or replace chat_template.jinja, or "
            "chat_template in tokenizer_config.json"
        )

    # ------------------------------------------------------------------------ texts

    def render(
        self, conversations: Sequence[Sequence[Turn]], *, asking: bool, marks: bool = False
    ) -> list[Rendered]:
        """Writes conversations as plain texts, in order.

        Args:
            asking: asks for an answer, so that the text ends where a model begins to write.
            marks: puts code words around what the template marks as generated.

        Raises:
            CheckpointError: the template loops, or writes without an end.
        """
        return self._run([(turns, asking) for turns in conversations], marks)

    def _run(
        self, asked: Sequence[tuple[Sequence[Turn], bool]], marks: bool = False
    ) -> list[Rendered]:
        around = chat_spans.MARKS if marks else ("", "")
        jobs = [
            Job(
                {**self._variables, "messages": turns, "add_generation_prompt": asking},
                self._date,
                around,
            )
            for turns, asking in asked
        ]
        try:
            found = chat_process.render(self._source, jobs)
        except RunawayTemplate as error:
            raise StoppedTemplate(self._broken(f"was stopped: {error}"), error.job) from error
        self.dated = self.dated or any(rendered.dated for rendered in found)
        return found

    # ------------------------------------------------------------------------ authors

    def write(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        asking: bool,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> list[Written | Unwritable]:
        """Writes conversations as text with authors, in order; an exception in place of each that
        the template cannot write.

        Args:
            asking: asks for an answer, see `render`; nothing is learned then.
            answers: for each conversation, the assistant's turns that are learned; None for all.

        Raises:
            CheckpointError: as `render`.
        """
        texts = self.render(conversations, asking=asking)
        learned = answers or [_answers(turns) for turns in conversations]
        rows = [
            _Row(turns, real, () if asking else tuple(some))
            for turns, real, some in zip(conversations, texts, learned, strict=True)
        ]
        for blanks in (True, False):
            for row in (left := [row for row in rows if row.found is None]):
                row.outline = chat_spans.outline(row.turns, self._markup, blanks=blanks)
            self._see_shapes([row.outline for row in left], asking)
            for row in left:
                row.found = self._from_skeleton(row, asking)
        return [row.found or self._from_brackets(row, asking) for row in rows]

    def begun(self, turns: Sequence[Turn]) -> str:
        """A conversation up to the end of its last turn's text, for a model to continue; with code
        words for the template's control tokens.

        Raises:
            Unwritable: the template refuses the conversation, or leaves that turn out.
        """
        (written,) = self.write([turns], asking=False, answers=[[len(turns) - 1]])
        if isinstance(written, Unwritable):
            raise written
        said = turns[-1]["content"]
        for text in (said, said.strip()):
            if text and (at := find_last(text, written.code)) >= 0:
                return written.code[: at + len(text)]
        raise Unwritable("it leaves out what is to be continued")

    def _see_shapes(self, outlines: Sequence[Outline], asking: bool) -> None:
        """Runs the template on all new skeletons at once."""
        if len(self._shapes) > _KEPT_SHAPES:
            self._shapes.clear()
        new = {o.key: o for o in outlines if (o.key, asking) not in self._shapes}
        wholes = self._run([(outline.turns, asking) for outline in new.values()], marks=True)
        turns = [] if asking else [(o, i) for o in new.values() for i in _answers(o.turns)]
        asked = iter(self._run([(outline.turns[:i], True) for outline, i in turns]))
        for (key, outline), whole in zip(new.items(), wholes, strict=True):
            headers = {}
            for i in () if asking else _answers(outline.turns):
                before = next(asked)
                headers[i] = None if before.fault else WORD.split(before.text)[-1]
            parts = None if whole.fault else chat_spans.parts(whole.text)
            self._shapes[key, asking] = _Shape(parts, headers)

    def _from_skeleton(self, row: "_Row", asking: bool) -> Written | Unwritable | None:
        """The text of a row by its skeleton; None if the real text differs."""
        shape, said = self._shapes[row.outline.key, asking], row.outline.said
        if shape.parts is None or chat_spans.filled(shape.parts, said) != row.real.text:
            return None
        if row.answers not in shape.plans:
            try:
                shape.plans[row.answers] = self._plans(shape.parts, row, asking)
            except Unwritable as reason:
                return reason
        plans, notes = shape.plans[row.answers]
        return row.written(plans, said, notes)

    def _from_brackets(self, row: "_Row", asking: bool) -> Written | Unwritable:
        """The text of a row that no skeleton explains."""
        (bracketed,) = self.render([row.outline.bracketed()], asking=asking, marks=True)
        if bracketed.fault:
            return Unwritable(bracketed.fault)
        try:
            parts, said = chat_spans.unbracket(bracketed.text, row.outline.said)
            if chat_spans.filled(parts, said) != row.real.text:
                raise Unwritable("it changes the messages in ways that cannot be traced")
            plans, notes = self._plans(parts, row, asking)
        except Unwritable as reason:
            return reason
        return row.written(plans, said, notes)

    def _plans(
        self, parts: Parts, row: "_Row", asking: bool
    ) -> tuple[list[StretchPlan], frozenset[str]]:
        headers = self._shapes[row.outline.key, asking].headers
        divider = chat_spans.Divider(parts, row.outline, self._control, self._begin)
        notes = chat_spans.notes(parts, row.outline)
        if not divider.as_asked(row.answers, headers):
            notes |= {UNASKED}
        return divider.divide(row.answers, headers), notes


@dataclasses.dataclass
class _Row:
    """A conversation while its text is divided among authors."""

    turns: Sequence[Turn]
    real: Rendered
    answers: tuple[int, ...]
    outline: Outline = dataclasses.field(init=False)
    found: Written | Unwritable | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.found = Unwritable(self.real.fault) if self.real.fault else None

    def written(
        self, plans: Sequence[StretchPlan], said: Sequence[str], notes: frozenset[str]
    ) -> Written:
        stretches = [plan.fill(said) for plan in plans]
        return Written(stretches, notes | {DATED} if self.real.dated else notes)


def _answers(turns: Sequence[Turn]) -> list[int]:
    return [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]


def _source(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    try:
        source = tokenizer.get_chat_template() if tokenizer.chat_template else None
    except ValueError as error:
        raise ConfigError(
            f"{name}: has several chat templates ({', '.join(map(str, tokenizer.chat_template))}), "
            "none of them called default; expected one, write it into chat_template.jinja"
        ) from error
    if not source:
        raise ConfigError(
            "data.template is chat, but the tokenizer has no chat template; expected one in its "
            "tokenizer_config.json or chat_template.jinja, or set data.template to alpaca"
        )
    return str(source)
