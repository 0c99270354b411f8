"""A model answers conversations: one turn of all of them, then the next, behind its own answers."""

import dataclasses
from collections.abc import Callable, Sequence

from safety_jax.data.records import Record
from safety_jax.evaluation.answers import generate
from safety_jax.evaluation.answers.responses import CUT, Response, Responses
from safety_jax.evaluation.sets.items import Set
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Talker:
    """A model that is asked conversations.

    Attributes:
        answers: its file.
        word: records as token ids, see `prompt_ids.encode_prompts`.
        room: tokens that a prompt may have.
    """

    answers: Responses
    word: Callable[[Sequence[Record]], list[list[int]]]
    room: int


def fill(
    talkers: Sequence[Talker],
    of: Set,
    model: Model,
    setup: generation.Setup,
    *,
    seed: int,
    title: str,
) -> None:
    """Answers the turns that the files lack; a block holds turns of one number alone, so that all
    that stands before them is there.

    Earlier answers are given without the thoughts before them, as chat programs do. Randomness is
    folded from (seed, set, place in the set).

    A conversation that grows beyond the room ends there: this turn and those behind it are not
    asked, and recorded as cut. Sets leave out what has no room for answers of full length, but a
    text may have more tokens than the model took to write it.

    Args:
        talkers: one model, or several, see `generate.fill`.
        setup: of one answer a prompt: copies of a conversation are conversations.
    """
    for block in generate.left([one.answers for one in talkers]):
        prompts = [_prompts(one, of, block) for one in talkers]
        where = f"{block.start + 1}-{block.stop} of {len(of.items)}"
        found = generate.ask(model, setup, prompts, generate.stream(of, seed), f"{title}, {where}")
        for talker, asked, own in zip(talkers, prompts, found, strict=True):
            said = {
                i: Response(of.items[i].id, generate.said(setup, asked[i], 0, one), one.finish)
                for i, (one, *_) in own.items()
            }
            cut = (i for i in block if i not in said)
            said |= {i: Response(of.items[i].id, "", CUT) for i in cut}
            talker.answers.add([said[i] for i in block])


def _prompts(talker: Talker, of: Set, block: range) -> dict[int, list[int]]:
    """The turns of a block that go on, behind the answers before them."""
    there = talker.answers.all()
    going = [i for i in block if all(there[j].finish != CUT for j in of.earlier[i])]
    records = [of.items[i].record([there[j].turn.answer for j in of.earlier[i]]) for i in going]
    found = zip(going, talker.word(records), strict=True)
    return {i: ids for i, ids in found if len(ids) <= talker.room}
