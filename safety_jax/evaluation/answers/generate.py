"""A model answers sets, block by block, and its answers are judged; both go on after a kill."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from safety_jax.base import hosts
from safety_jax.data import thoughts
from safety_jax.evaluation.answers.responses import Response, Responses
from safety_jax.evaluation.sets.items import Set
from safety_jax.judges import scoring
from safety_jax.judges.judge import Score
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model


def place(folder: Path, model: str, name: str) -> Path:
    """The file of a model and a set, whatever their names are made of."""
    return folder / quote(model, safe="") / f"{quote(name, safe=' ')}.jsonl"


def fill(
    answers: Responses,
    of: Set,
    prompts: Sequence[Sequence[int]],
    model: Model,
    setup: generation.Setup,
    *,
    seed: int,
    block: int,
    title: str,
) -> None:
    """Answers the prompts that `answers` lacks.

    Randomness is folded from (seed, set, item): an answer does not depend on what else is asked.
    A block always starts where it started before, so that a run that was killed meets the same
    batches again.
    """
    hosts.check_shared(answers.done, answers.path)
    assert setup.stop is not None  # it reads tokens
    read = setup.stop.text
    own = zlib.crc32(of.name.encode()) ^ seed
    while answers.done < len(prompts):
        numbers = range(answers.done, min(answers.done + block, len(prompts)))
        found = generation.generate(
            model,
            setup,
            [prompts[i] for i in numbers],
            list(numbers),
            own % 2**31,
            f"{title}, {numbers.start + 1}-{numbers.stop} of {len(prompts)}",
        )
        answers.add(
            [
                Response(
                    of.items[i].id,
                    thoughts.said(read, prompts[i], row[0].text or ""),
                    row[0].finish,
                )
                for i, row in zip(numbers, found, strict=True)
            ]
        )


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
        folder: where scores are kept as they come.
        rows: of a block, see `run.judge_all`.
    """
    found: dict[tuple[str, str], dict[str, list[Score]]] = {
        (model, name): {} for model, by_set in answered.items() for name in by_set
    }
    for judge_name, one in planned.items():
        load = functools.cache(one.load)
        for (model, name), scores in found.items():
            if one.combination is not None:
                scores[judge_name] = one.combination.combine(scores)
                continue
            path = place(folder, model, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            responses = answered[model][name]
            scores[judge_name] = scoring.judge_all(
                one.card,
                load,
                [
                    item.conversation(response.text)
                    for item, response in zip(sets[name].items, responses, strict=True)
                ],
                Ledger(path, writes),
                rows=rows,
                title=f"{judge_name}: {model}, {name}",
                leave=False,  # there may be hundreds
            )
    return found
