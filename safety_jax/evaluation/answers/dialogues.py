"""A model answers conversations: one turn of all of them, then the next, behind its own answers."""

from collections.abc import Callable, Sequence

from safety_jax.base import hosts
from safety_jax.base.errors import DataError
from safety_jax.data.records import Record
from safety_jax.evaluation.answers import generate
from safety_jax.evaluation.answers.responses import Response, Responses
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

    Args:
        word: records as token ids, see `prompt_ids.encode_prompts`.
        setup: of one answer a prompt: copies of a conversation are conversations.
        room: tokens that a prompt may have.

    Raises:
        DataError: a conversation has grown beyond this room.
    """
    hosts.check_shared(answers.done, answers.path)
    for block in answers.left():
        there = [response.turn.answer for response in answers.all()]
        prompts = word([of.items[i].record([there[j] for j in of.earlier[i]]) for i in block])
        for i, ids in zip(block, prompts, strict=True):
            if len(ids) > room:
                raise DataError(
                    f"{of.items[i].where}: with the answers before it the prompt has {len(ids)} "
                    f"tokens, and there is room for {room}; lower answer.max_new_tokens, or leave "
                    "the conversation out"
                )
        found = generation.generate(
            model,
            setup,
            prompts,
            list(block),
            generate.stream(of, seed),
            f"{title}, {block.start + 1}-{block.stop} of {len(of.items)}",
        )
        answers.add(
            [
                Response(of.items[i].id, generate.said(setup, ids, 0, one), one.finish)
                for i, ids, (one, *_) in zip(block, prompts, found, strict=True)
            ]
        )
