"""Answers conversations turn by turn: one turn of all of them, then the next, with a model's own
earlier answers as context."""

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
    """A model that answers conversations.

    Attributes:
        answers: its file.
        word: encodes records, see `prompt_ids.encode_prompts`.
        room: the most tokens that a prompt may have.
    """

    answers: Responses
    word: Callable[[Sequence[Record]], list[list[int]]]
    room: int


def fill(
    talkers: Sequence[Talker],
    one_set: Set,
    model: Model,
    setup: generation.Setup,
    *,
    seed: int,
    title: str,
) -> None:
    """Answers the turns that the files lack. A block holds turns of one number only, so that all
    earlier answers exist.

    Earlier answers are given without their thoughts, as chat programs do. Randomness is folded from
    (seed, set, index in the set).

    A conversation that outgrows the room ends there: this turn and the later ones are not asked,
    and are recorded as cut. Sets leave out conversations without room for answers of full length,
    but a text may encode to more tokens than the model generated for it.

    Args:
        talkers: one model, or several, see `generate.fill`.
        setup: with one answer a prompt: `Set.repeated` copies conversations.
    """
    for block in generate.left([one.answers for one in talkers]):
        prompts = [_prompts(one, one_set, block) for one in talkers]
        where = f"{block.start + 1}-{block.stop} of {len(one_set.items)}"
        found = generate.ask(
            model, setup, prompts, generate.stream(one_set, seed), f"{title}, {where}"
        )
        for talker, asked, own in zip(talkers, prompts, found, strict=True):
            said = {
                i: Response(one_set.items[i].id, generate.said(setup, asked[i], 0, one), one.finish)
                for i, (one, *_) in own.items()
            }
            cut = (i for i in block if i not in said)
            said |= {i: Response(one_set.items[i].id, "", CUT) for i in cut}
            talker.answers.add([said[i] for i in block])


def _prompts(talker: Talker, one_set: Set, block: range) -> dict[int, list[int]]:
    """The ids of a block's turns with the answers before them, without conversations that ended."""
    answers = talker.answers.all()
    live = [i for i in block if all(answers[j].finish != CUT for j in one_set.earlier[i])]
    records = [
        one_set.items[i].record([answers[j].turn.answer for j in one_set.earlier[i]]) for i in live
    ]
    found = zip(live, talker.word(records), strict=True)
    return {i: ids for i, ids in found if len(ids) <= talker.room}
