"""Answers of a model to a set: the record of one, and the file that a run writes.

    responses/MODEL/SET.jsonl   one line an answer, in the order of the set, in blocks; appended
    responses/MODEL/earlier/    earlier files of another protocol, set or model

A line holds everything that its answer depends on, so that answers are never confused:

    {"set": "I-CoNa", "id": "0", "prompt_sha256": "…", "template": "alpaca", "decoding": "16 hex",
     "seed": 0, "weights": "…", "config": "…", "tokenizer": "…", "response": "…", "finish": "eos"}

A turn of a conversation also has its `conversation` and `turn`; all first turns precede all second
ones. If a conversation has no room for a turn, `finish` is "cut", and nothing was asked. If a model
writes a thought, `response` is the whole text, and `thought` and `answer` are its parts. Under an
attack, `attack`, `attack_version` and `asked` record what was asked instead of the prompt, and
`opening` the text whose first tokens were prefilled.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.data import thoughts
from safety_jax.evaluation.sets.items import Item, Set

EARLIER = "earlier"
THOUGHT = "thought"
CUT = "cut"
CONFIG = "config"
_FACTS = ("template", "decoding", "seed")  # of `Protocol.of`, as lines have them


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        id: of the item that it answers.
        text: the model's text, with its thought; may be empty, and hostile.
        finish: "eos", "stop", "length", "cut" if nothing was asked; "" if it was not recorded.
        stored: further columns of the file that it was read from.
        where: file and row, if it was read from a file.
    """

    id: str
    text: str
    finish: str
    stored: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = ""

    @property
    def turn(self) -> thoughts.Turn:
        """Thought and answer."""
        return thoughts.split(self.text)

    @property
    def ending(self) -> str:
        """How the answer ended: its `finish`, or "thought" if the model never finished its
        thought."""
        return THOUGHT if self.turn.unfinished else self.finish


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Everything that answers depend on beside the set.

    Attributes:
        weights: a hash of the model's weights, and of its adapter's.
        config: a hash of the values in its configs that change what is computed.
        tokenizer: a hash of how the model reads prompts and ends answers; models that are compared
            may differ in it.
        template: the template of prompts.
        decoding: settings of the decoder, and its precision; JSON values.
    """

    weights: str
    tokenizer: str
    template: str
    decoding: Mapping[str, Any]
    seed: int
    config: str

    def decoding_hash(self) -> str:
        return _hash(dict(self.decoding))

    def of(self, asked: Set) -> str:
        """A hash of everything but the model, in 16 hex digits: answers of two models can be
        compared if it is the same."""
        return _hash([self.template, self.decoding_hash(), self.seed, asked.items_sha256])


def recorded(found: Sequence[Response], asked: Set) -> str | None:
    """`Protocol.of` for answers that a run of this project wrote, from their stored columns; None
    if another tool wrote them, or if they differ in it."""
    facts = [[response.stored.get(name) for name in _FACTS] for response in found]
    match facts[0]:
        case [str(), str(), int()] if all(fact == facts[0] for fact in facts):
            return _hash([*facts[0], asked.items_sha256])
    return None


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Responses:
    """The answers of a model to a set, written in blocks. An incomplete block is dropped when the
    file is read, so that a resumed run decodes the same batches again.

    Args:
        path: the file. If it was made by another model or protocol, or from other prompts, it is
            moved to `earlier/` beside it.
        blocks: indices of the items that are written at a time, see `Set.blocks`.
        writes: whether this process writes; exactly one process of a run does.

    Raises:
        DataError: a line before the last block is damaged.
    """

    def __init__(
        self,
        path: Path,
        asked: Set,
        protocol: Protocol,
        *,
        blocks: Sequence[range],
        writes: bool,
    ):
        self.path, self._asked, self._protocol = path, asked, protocol
        self._blocks, self._writes = blocks, writes
        remedy = "remove the file to answer its prompts again"
        self._lines = files.Lines(path, writes=writes, remedy=remedy)
        self._found = self._known(self._lines.read(_parsed))

    @property
    def done(self) -> int:
        """The number of answers, in complete blocks."""
        return len(self._found)

    def left(self) -> list[range]:
        """The blocks without answers, in order."""
        return [block for block in self._blocks if block.start >= self.done]

    def all(self) -> list[Response]:
        """The answers so far, in the order of the set."""
        return list(self._found)

    def add(self, found: Sequence[Response]) -> None:
        """Appends the next block; it is on disk when this returns."""
        items = self._asked.items[self.done : self.done + len(found)]
        if [item.id for item in items] != [response.id for response in found]:
            raise ValueError("answers must follow in the order of the set")
        lines = []
        for item, response in zip(items, found, strict=True):
            response = dataclasses.replace(response, text=characters(response.text))
            said = {"response": response.text, "finish": response.finish}
            if (turn := response.turn).answer != response.text:
                said |= {"thought": turn.thought, "answer": turn.answer}
            lines.append(self._facts(item) | said)
            self._found.append(response)
        self._lines.append(lines)

    def _facts(self, item: Item) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "set": self._asked.name,
            "id": item.id,
            "prompt_sha256": item.prompt_sha256(),
            "template": self._protocol.template,
            "decoding": self._protocol.decoding_hash(),
            "seed": self._protocol.seed,
            "weights": self._protocol.weights,
            CONFIG: self._protocol.config,
            "tokenizer": self._protocol.tokenizer,
        }
        attack, asked = self._asked.attack, item.asked
        if attack and asked:
            told = [{"role": one.role, "content": one.content} for one in item.asking().prompt]
            facts |= {"attack": attack.name, "attack_version": attack.version, "asked": told}
            facts |= {"opening": asked.opening} if asked.opening else {}
        if item.talk:
            facts |= {"conversation": item.talk.talk, "turn": item.talk.number + 1}
        return facts

    def _known(self, lines: Sequence[dict[str, Any]]) -> list[Response]:
        """The answers of complete blocks; none if the file has another protocol, set or model."""
        items, count = self._asked.items, len(lines)
        ours = count <= len(items) and all(
            _made_by(self._facts(item), line) for item, line in zip(items, lines, strict=False)
        )
        if not ours:
            if self._writes:
                self._put_aside()
            count = 0
        else:
            count = max((b.stop for b in self._blocks if b.stop <= count), default=0)
        if ours:
            self._lines.keep(count)
        return [Response(row["id"], row["response"], row["finish"]) for row in lines[:count]]

    def _put_aside(self) -> None:
        folder = self.path.parent / EARLIER
        folder.mkdir(exist_ok=True)
        number = 1
        while (target := folder / f"{self.path.stem}-{number}.jsonl").exists():
            number += 1
        self.path.replace(target)


def _made_by(facts: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Whether a line has these facts; lines of early versions lack the model's config."""
    return facts.items() <= {CONFIG: facts[CONFIG], **line}.items()


def _parsed(line: dict[str, Any]) -> dict[str, Any]:
    if not all(isinstance(line[key], str) for key in ("id", "response", "finish")):
        raise TypeError
    return line


def characters(text: str) -> str:
    """The text without lone surrogates, which JSON can escape but UTF-8 cannot encode."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
