"""Generates models' answers to sets, block by block, and judges them; both resume after a kill.

Several adapters over one base can answer the same blocks of a set in one batch.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from safety_jax.base import files, hosts
from safety_jax.data import thoughts
from safety_jax.evaluation.answers.responses import CUT, Response, Responses
from safety_jax.evaluation.harness.loglikelihood import ContextPair, LikelihoodScorer, RequestLimits
from safety_jax.evaluation.sets.items import Set
from safety_jax.judges import scoring
from safety_jax.judges.judge import Conversation, Score
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model


def place(folder: Path, model: str, name: str) -> Path:
    """The file of a model and a set; their names may have any characters."""
    return folder / files.file_name(model) / files.file_name(name, ".jsonl")


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A model that answers a set.

    Attributes:
        answers: its file.
        prompts: token ids, one list for each prompt of the set.
        begun: how many of the last ids of each prompt are the beginning of the answer.
    """

    answers: Responses
    prompts: Sequence[Sequence[int]]
    begun: Sequence[int]


def fill(
    speakers: Sequence[Speaker],
    one_set: Set,
    model: Model,
    setup: generation.Setup,
    *,
    seed: int,
    title: str,
) -> None:
    """Answers the prompts that the files lack, each `of.answers` times.

    Args:
        speakers: one model; or several adapters over one base, in the order in which `model` has
            them (`multi_lora.stack`), whose files are equally long.

    Randomness is folded from (seed, set, prompt, number of the answer), so an answer does not
    depend on the other prompts. Blocks always start at the same prompts, so a resumed run decodes
    the same batches.
    """
    each = one_set.answers
    for block in left([one.answers for one in speakers]):
        numbers = range(block.start // each, block.stop // each)
        found = ask(
            model,
            setup,
            [{i: one.prompts[i] for i in numbers} for one in speakers],
            stream(one_set, seed),
            f"{title}, {numbers.start + 1}-{numbers.stop} of {one_set.prompts}",
        )
        for speaker, own in zip(speakers, found, strict=True):
            speaker.answers.add(
                [
                    Response(
                        one_set.items[i * each + k].id,
                        said(setup, speaker.prompts[i], speaker.begun[i], one),
                        one.finish,
                    )
                    for i, row in own.items()
                    for k, one in enumerate(row)
                ]
            )


def left(files: Sequence[Responses]) -> list[range]:
    """The blocks that several models have not answered yet, which must be the same for all."""
    for file in files:
        hosts.check_shared(file.done, file.path)
    (blocks,) = {tuple(file.left()) for file in files}
    return list(blocks)


def ask(
    model: Model,
    setup: generation.Setup,
    prompts: Sequence[Mapping[int, Sequence[int]]],
    seed: int,
    title: str,
) -> list[dict[int, list[generation.Completion]]]:
    """Answers by number of the prompt, all in one batch.

    Args:
        prompts: for each speaker, token ids by number.
    """
    ids = [one for own in prompts for one in own.values()]
    numbers = [number for own in prompts for number in own]
    several = {}
    if len(prompts) > 1:
        several = {"speakers": [who for who, own in enumerate(prompts) for _ in own]}
    found = iter(generation.generate(model, setup, ids, numbers, seed, title, **several))
    return [{number: next(found) for number in own} for own in prompts]


def choose(
    answers: Responses,
    one_set: Set,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    model: Model,
    limits: RequestLimits,
    title: str,
) -> None:
    """Answers multiple choice by likelihood: the choice with the largest log p(choice | prompt)
    divided by its length in UTF-8 bytes (`acc_bytes` of lm-evaluation-harness; its `acc_norm`
    divides by characters, which are the same in ASCII). This works for small models that generate
    the same letter for every question.

    Args:
        choices: token ids of each prompt's choices.
        limits: how much is read at a time.
    """
    if answers.done == len(one_set.items):
        return
    pairs = [
        ContextPair(tuple(prompt), tuple(choice))
        for prompt, several in zip(prompts, choices, strict=True)
        for choice in several
    ]
    found = iter(LikelihoodScorer(model, limits).score(pairs, title))
    chosen = []
    for item in one_set.items:
        each = [next(found).logprob / len(text.encode()) for text in item.choice_texts]
        chosen.append(Response(item.id, item.by_likelihood[each.index(max(each))], ""))
    answers.add(chosen[answers.done :])


def stream(one_set: Set, seed: int) -> int:
    """The seed of the answers to a set."""
    return (zlib.crc32(one_set.name.encode()) ^ seed) % 2**31


def said(
    setup: generation.Setup, prompt: Sequence[int], begun: int, written: generation.Completion
) -> str:
    """The text of an answer, including its prefilled beginning at the end of the prompt."""
    assert setup.stop is not None  # it reads tokens
    before, text = prompt[: len(prompt) - begun], written.text or ""
    if begun:
        whole = setup.stop.read([*prompt[len(before) :], *written.ids], setup.eos_ids)
        # What a stop string cut off at the end.
        cut = len(setup.stop.read(written.ids, setup.eos_ids)) - len(text)
        text = whole[: len(whole) - cut]
    return thoughts.said(setup.stop.text, before, text)


def to_judge(one_set: Set, found: Sequence[Response]) -> list[Conversation]:
    """A model's answers to a set as judges read them, one for each item."""
    read = one_set.conversations([response.text for response in found])
    return [
        dataclasses.replace(one, unasked=True) if response.finish == CUT else one
        for one, response in zip(read, found, strict=True)
    ]


def judge(
    planned: Mapping[str, PlannedJudge],
    answered: Mapping[str, Mapping[str, Sequence[Response]]],
    sets: Mapping[str, Set],
    folder: Path,
    *,
    rows: int,
    writes: bool,
) -> dict[tuple[str, str], dict[str, list[Score]]]:
    """Every judge's scores, by model and set; one judge is in memory at a time.

    Args:
        planned: judges that read answers; combinations after their parts.
        answered: answers to judge, by model and set.
        folder: of the files of scores.
        rows: of a block, see `scoring.judge_all`.
    """
    named = [(model, name) for model, by_set in answered.items() for name in by_set]
    groups = [
        scoring.ToJudge(
            to_judge(sets[name], answered[model][name]),
            Ledger(place(folder, model, name), writes),
            f"{model}, {name}",
        )
        for model, name in named
    ]
    # There may be hundreds of progress bars, so none stays on the screen.
    found = scoring.judge_by_each(planned, groups, rows=rows, leave=False)
    return dict(zip(named, found, strict=True))
