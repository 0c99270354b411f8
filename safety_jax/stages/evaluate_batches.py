"""Which adapters answer a set together in stage `evaluate`, with `evaluate.mix_adapters`.

Idle lanes cost as much as busy ones, so adapters over one base share a batch if the prompts of one
leave lanes idle. This has a price: logits round differently, every token is multiplied by all
adapters of the batch, and the prompts' common prefix is read again for every prompt, because its
keys and values are cached for a single adapter only.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from safety_jax.evaluation.answers.responses import Responses
from safety_jax.evaluation.sets.items import Set
from safety_jax.models.decoding import reading
from safety_jax.models.execution import float_type
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.stages.evaluate_plan import EvaluationPlan

MOST_SHARE = 0.25  # bytes of a batch's adapters for each byte of the base


class Together(NamedTuple):
    """Models that answer together.

    Attributes:
        names: of the models.
        places: the names, the last one repeated to fill the batch: batches of one size need no
            further compilation.
    """

    names: list[str]
    places: list[str]


def over_one_base(opened: Mapping[str, ModelFolder]) -> list[list[str]]:
    """The names of models, grouped by base, in the order in which bases first appear."""
    found: dict[object, list[str]] = {}
    for name, one in opened.items():
        found.setdefault(one.base_weights, []).append(name)
    return list(found.values())


def together(
    config: ConfigDict,
    plan: EvaluationPlan,
    kept: Mapping[str, Mapping[str, Responses]],
    one_set: Set,
    names: Sequence[str],
) -> Iterator[Together]:
    """Batches of models, among `names` over one base, that answer the rest of a set together; a
    model in no batch answers alone.

    Their tokenizers must be the same, and their next block. A batch has at most
    `sample.prompts_per_write` prompts, so that a kill loses no more than it would otherwise.
    """
    if one_set.by_likelihood or not config.evaluate.mix_adapters:
        return
    alike: dict[tuple[str, int], list[str]] = {}
    for name in names:
        if (done := kept[name][one_set.name].done) < len(one_set.items):
            alike.setdefault((plan.opened[name].tokenizer_sha256, done), []).append(name)
    dtype = float_type("model.parameter_dtype", config.model.parameter_dtype)
    for several in alike.values():
        asked, file = plan.asked[several[0]][one_set.name], kept[several[0]][one_set.name]
        settings, pace = asked.setup.settings, asked.setup.pace
        if len(several) < 2 or reading.shared(asked.ids, 0) > settings.max_new_tokens:
            continue
        prompts = max(map(len, file.left())) // one_set.answers
        shares = (plan.opened[name].adapter_share(dtype) for name in several)
        count = adapters_in_batch(
            prompts * max(settings.candidates, settings.beams),
            pace.lanes,
            max(shares),
            min(len(several), config.sample.prompts_per_write // prompts),
        )
        for start in range(0, len(several), count):
            batch = several[start : start + count]
            if len(batch) > 1:
                filled = itertools.chain(batch, itertools.repeat(batch[-1]))
                yield Together(batch, list(itertools.islice(filled, count)))


def adapters_in_batch(answers: int, lanes: int, share: float, most: int) -> int:
    """The number of adapters in a batch for which the time of each is least; of equals the fewest.

    The model of time: answers fill all lanes of a batch in turn, and every step reads the base and
    all adapters once.

    Args:
        answers: answers of each adapter.
        share: bytes of an adapter for each byte of the base.
        most: the greatest number of adapters.
    """

    def time(count: int) -> float:
        return math.ceil(count * answers / lanes) * (1 + count * share) / count

    held = most if share == 0 else min(most, math.floor(MOST_SHARE / share))
    return min(range(1, max(held, 1) + 1), key=time)
