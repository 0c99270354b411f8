"""One judge made of several trained ones, each of which judges the prompts that it has not read.

Judge i of n was trained by stage `reward` on sources with `prompts=-i/n` (see data/folds.py) and
says so in its `judge.json`. Every answer is then judged by a model that never saw its prompt, and
all of them can be used to see how good such judges are.
"""

from collections.abc import Mapping, Sequence

from safety_jax.base.errors import ConfigError
from safety_jax.data.folds import Fold, part_of
from safety_jax.judges import sequence_specs
from safety_jax.judges.judge import Conversation, Judge, JudgeCard, Score
from safety_jax.judges.planned import PlannedJudge, Resources, Spec, described, resolve_folder


class CrossFitted:
    """Hands each conversation to the judge whose training left its prompt out.

    Args:
        judges: judge i of prompts in part i, from 1.
    """

    def __init__(self, card: JudgeCard, judges: Sequence[Judge]):
        self.card, self._judges = card, judges

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        found: dict[int, Score] = {}
        for number, judge in enumerate(self._judges, start=1):
            own = [
                i
                for i, one in enumerate(conversations)
                if part_of(one.prompt, parts=len(self._judges)) == number
            ]
            if own:
                scores = judge.score([conversations[i] for i in own])
                found |= dict(zip(own, scores, strict=True))
        return [found[i] for i in range(len(conversations))]


def cross_fitted(
    name: str, spec: Spec, resources: Resources, others: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    """The judge of a row with several folders of stage `reward`.

    Raises:
        ConfigError: fewer than two, one that read prompts that it is to judge, or folders whose
            scores mean different things.
    """
    paths = tuple(spec["paths"])
    if len(paths) < 2:
        raise ConfigError(
            f"score.judges.{name}.paths is {paths!r}; expected two folders or more, or a row of "
            "the kind trained"
        )
    judges = []
    for number, path in enumerate(paths, start=1):
        expected = str(Fold(number, len(paths), inside=False))
        said = described(resolve_folder(name, {"path": path}))
        if said.get("prompts") != [expected]:
            raise ConfigError(
                f"score.judges.{name}: {path} is to judge part {number} of {len(paths)} of all "
                f"prompts, and learned from prompts={said.get('prompts') or 'all'}; expected a "
                f"judge trained on sources with ?prompts={expected}"
            )
        judges.append(sequence_specs.trained(name, {"path": path}, resources, others))
    first = judges[0].card
    for path, judge in zip(paths, judges, strict=True):
        for fact in ("direction", "threshold", "template"):
            if getattr(judge.card, fact) != getattr(first, fact):
                raise ConfigError(
                    f"score.judges.{name}: {path} has the {fact} {getattr(judge.card, fact)!r}, "
                    f"{paths[0]} has {getattr(first, fact)!r}; expected judges that differ in "
                    "their prompts alone"
                )
    card = JudgeCard(
        name=name,
        kind="cross_fitted",
        model="|".join(paths),
        weights_sha256=None,
        direction=first.direction,
        low=first.low,
        high=first.high,
        threshold=first.threshold,
        template=first.template,
        precision=first.precision,
        settings={"parts": [judge.card.protocol() for judge in judges]},
    )
    return PlannedJudge(
        card,
        lambda: CrossFitted(card, [judge.load() for judge in judges]),
        None,
        log_odds=all(judge.log_odds for judge in judges),
    )
