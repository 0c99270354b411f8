"""Which adapters answer a set together in stage `evaluate`, with `evaluate.mix_adapters`.

Lanes that stand idle cost as much as busy ones, so adapters over one base share batches where the
prompts of one alone leave lanes idle. A batch has its price, too: logits round differently in it,
every token is multiplied by all of its adapters, and each adapter reads what all prompts begin with
once a prompt, because keys and values of that are kept for one adapter only.
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
        names: of them.
        places: likewise, the last one repeated until there are as many as in the batches before, so
            that nothing is compiled for the rest of them.
    """

    names: list[str]
    places: list[str]


def over_one_base(opened: Mapping[str, ModelFolder]) -> list[list[str]]:
    """The names of models by their base, in the order in which bases come up."""
    found: dict[object, list[str]] = {}
    for name, one in opened.items():
        found.setdefault(one.base_weights, []).append(name)
    return list(found.values())


def together(
    config: ConfigDict,
    plan: EvaluationPlan,
    kept: Mapping[str, Mapping[str, Responses]],
    of: Set,
    names: Sequence[str],
) -> Iterator[Together]:
    """Batches of those of `names`, over one base, that answer together what is left of a set; who
    is in none answers alone.

    Only models that read prompts alike and stand at the same block can. The prompts of a batch are
    at most `sample.prompts_per_write`, so that a kill costs no more than without.
    """
    if of.by_likelihood or not config.evaluate.mix_adapters:
        return
    alike: dict[tuple[str, int], list[str]] = {}
    for name in names:
        if (done := kept[name][of.name].done) < len(of.items):
            alike.setdefault((plan.opened[name].tokenizer_sha256, done), []).append(name)
    dtype = float_type("model.parameter_dtype", config.model.parameter_dtype)
    for several in alike.values():
        asked, file = plan.asked[several[0]][of.name], kept[several[0]][of.name]
        settings, pace = asked.setup.settings, asked.setup.pace
        if len(several) < 2 or reading.shared(asked.ids, 0) > settings.max_new_tokens:
            continue
        prompts = max(map(len, file.left())) // of.answers
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
    """How many adapters answer in the least time each, the fewest where several numbers do.

    All lanes of a batch are filled as often as its answers need, and every step reads the base and
    all adapters once.

    Args:
        answers: of each adapter.
        share: bytes of an adapter for each byte of the base.
        most: adapters.
    """

    def time(count: int) -> float:
        return math.ceil(count * answers / lanes) * (1 + count * share) / count

    held = most if share == 0 else min(most, math.floor(MOST_SHARE / share))
    return min(range(1, max(held, 1) + 1), key=time)
