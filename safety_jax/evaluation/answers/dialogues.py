"""A model answers conversations: one turn of all of them, then the next, behind its own answers."""

from collections.abc import Callable, Sequence

from safety_jax.base import hosts
from safety_jax.data.records import Record
from safety_jax.evaluation.answers import generate
from safety_jax.evaluation.answers.responses import CUT, Response, Responses
from safety_jax.evaluation.sets.items import Set
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model


def fill(
    answers: Responses,
    of: Set,
    word: Callable[[Sequence[Record]], list[list[int]]],
    model: Model,
    setup: generation.Setup,
    *,
    room: int,
    seed: int,
    title: str,
) -> None:
    """Answers the turns that `answers` lacks; a block holds turns of one number alone, so that
    all that stands before them is there.

    Earlier answers are given without the thoughts before them, as chat programs do. Randomness is
    folded from (seed, set, place in the set).

    A conversation that grows beyond the room ends there: this turn and those behind it are not
    asked, and recorded as cut. Sets leave out what has no room for answers of full length, but a
    text may have more tokens than the model took to write it.

    Args:
        word: records as token ids, see `prompt_ids.encode_prompts`.
        setup: of one answer a prompt: copies of a conversation are conversations.
        room: tokens that a prompt may have.
    """
    hosts.check_shared(answers.done, answers.path)
    for block in answers.left():
        there = answers.all()
        going = [i for i in block if all(there[j].finish != CUT for j in of.earlier[i])]
        records = [of.items[i].record([there[j].turn.answer for j in of.earlier[i]]) for i in going]
        prompts = {i: ids for i, ids in zip(going, word(records), strict=True) if len(ids) <= room}
        found = generation.generate(
            model,
            setup,
            list(prompts.values()),
            list(prompts),
            generate.stream(of, seed),
            f"{title}, {block.start + 1}-{block.stop} of {len(of.items)}",
        )
        said = {
            i: Response(of.items[i].id, generate.said(setup, ids, 0, one), one.finish)
            for (i, ids), (one, *_) in zip(prompts.items(), found, strict=True)
        }
        answers.add([said[i] if i in said else Response(of.items[i].id, "", CUT) for i in block])
