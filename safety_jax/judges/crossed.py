"""A cross-fitted judge: several trained ones, each for the prompts that it was not trained on.

Judge i of n was trained by stage `reward` on sources with `prompts=-i/n` (see data/folds.py), as
its `judge.json` records. So a model that never saw its prompt judges each answer, and all answers
can be used to measure how good such judges are.
"""

from collections.abc import Mapping, Sequence

from safety_jax.base.errors import ConfigError
from safety_jax.data.folds import Fold, part_of
from safety_jax.judges import sequence_specs
from safety_jax.judges.judge import Conversation, Judge, JudgeCard, Score
from safety_jax.judges.planned import PlannedJudge, Resources, Spec, described, resolve_folder

KIND = "cross_fitted"


class CrossFitted:
    """Scores each conversation by the judge whose training left its prompt out.

    Args:
        judges: judge i scores the prompts of part i, from 1.
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
    """The judge of an entry with several folders of stage `reward`.

    Raises:
        ConfigError: there are fewer than two, one was trained on prompts that it is to judge, or
            their scores mean different things.
    """
    paths = tuple(spec["paths"])
    if len(paths) < 2:
        raise ConfigError(
            f"score.judges.{name}.paths is {paths!r}; expected two folders or more, or the kind "
            "trained"
        )
    judges = []
    for number, path in enumerate(paths, start=1):
        expected = str(Fold(number, len(paths), inside=False))
        said = described(resolve_folder(name, {"path": path}))
        if said.get("prompts") != [expected]:
            raise ConfigError(
                f"score.judges.{name}: {path} is to judge part {number} of {len(paths)} of all "
                f"prompts, but was trained on prompts={said.get('prompts') or 'all'}; expected a "
                f"judge trained on sources with ?prompts={expected}"
            )
        judges.append(sequence_specs.trained(name, {"path": path}, resources, others))
    first = judges[0].card
    for path, judge in zip(paths, judges, strict=True):
        for fact in ("direction", "threshold", "template"):
            if getattr(judge.card, fact) != getattr(first, fact):
                raise ConfigError(
                    f"score.judges.{name}: {path} has the {fact} {getattr(judge.card, fact)!r}, "
                    f"{paths[0]} has {getattr(first, fact)!r}; expected judges that differ only in "
                    "their prompts"
                )
    card = JudgeCard(
        name=name,
        kind=KIND,
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
