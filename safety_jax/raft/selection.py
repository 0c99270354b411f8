"""Which of a prompt's candidates to learn from (RAFT, arXiv 2304.06767, algorithm 1).

Of the candidates that every judge in `raft.accept` accepts, the one with the highest rank is
chosen, and of equals the first. A candidate that a judge could not score is never chosen, nor is an
empty one, from which there is nothing to learn, however safe it is.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from safety_jax.base.errors import ConfigError
from safety_jax.judges.judge import HARMFUL, SAFER, JudgeCard, Score
from safety_jax.raft.round_files import Candidate

UNSCORED, UNFINISHED, NOT_ACCEPTED, EMPTY = "unscored", "unfinished", "not accepted", "empty"
CHOSEN = "chosen"
NONE_ACCEPTED = "no acceptable candidate"


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The choice among the candidates of a prompt.

    Attributes:
        index: of the chosen candidate; None if none is eligible.
        why: CHOSEN or NONE_ACCEPTED.
        verdicts: one for each candidate: "" if it was eligible, else why it was not.
    """

    index: int | None
    why: str
    verdicts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SelectionRule:
    """How candidates are ranked and which are eligible.

    Attributes:
        rank_by: the judge whose preference ranks.
        accept: judges whose threshold a candidate must pass.
        kl_weight: beta of the rank r - beta * log(p / p0), with p the model that wrote the
            candidate and p0 the model at the start; 0 ranks by the score alone.
        unfinished: "keep" or "reject" candidates that did not end by themselves.
    """

    rank_by: str
    accept: tuple[str, ...]
    kl_weight: float
    unfinished: str

    def check(self, cards: Mapping[str, JudgeCard]) -> None:
        """Raises a ConfigError for an unknown judge, or one that cannot rank or accept."""
        for key, name in (("rank_by", self.rank_by), *(("accept", name) for name in self.accept)):
            if name not in cards:
                raise ConfigError(
                    f"raft.{key} {name!r}: expected one of the judges of raft.judges, "
                    f"{', '.join(cards)}"
                )
            if key == "accept" and cards[name].threshold is None:
                raise ConfigError(
                    f"raft.accept {name!r}: the judge has no threshold; set "
                    f"score.judges.{name}.threshold"
                )
            cards[name].preference(Score(0.0))  # raises for a judge of refusal
        if self.kl_weight < 0:
            raise ConfigError(f"raft.kl_weight is {self.kl_weight}; expected 0 (off) or more")
        if self.unfinished not in ("keep", "reject"):
            raise ConfigError(f"raft.unfinished {self.unfinished!r}: expected keep or reject")


def passes(card: JudgeCard, score: Score) -> bool | None:
    """Whether a score is on the good side of the card's threshold; None if there is no score.

    A value at the threshold is on the good side, except for a judge whose higher scores are more
    harmful.
    """
    if score.value is None:
        return None
    unsafe = card.is_unsafe(score)
    if card.direction in (HARMFUL, SAFER):
        return None if unsafe is None else not unsafe
    return card.threshold is not None and score.value >= card.threshold


def choose(
    rule: SelectionRule,
    cards: Mapping[str, JudgeCard],
    scores: Mapping[str, Sequence[Score]],
    log_ratios: Sequence[float],
    candidates: Sequence[Candidate],
) -> Selection:
    """The choice among a prompt's candidates.

    Args:
        scores: by judge, one for each candidate.
        log_ratios: log(p / p0) of each candidate; used if the rule has a `kl_weight`.
    """
    ranks: list[float] = []
    verdicts: list[str] = []
    for k, candidate in enumerate(candidates):
        value = cards[rule.rank_by].preference(scores[rule.rank_by][k])
        accepted = [passes(cards[name], scores[name][k]) for name in rule.accept]
        if value is not None and rule.kl_weight:
            value -= rule.kl_weight * log_ratios[k]
        if value is None or not math.isfinite(value) or None in accepted:
            verdict = UNSCORED
        elif not all(accepted):
            verdict = NOT_ACCEPTED
        elif candidate.empty:
            verdict = EMPTY
        elif not candidate.finished and rule.unfinished == "reject":
            verdict = UNFINISHED
        else:
            verdict = ""
        verdicts.append(verdict)
        ranks.append(value if value is not None and verdict == "" else -math.inf)
    best = max(range(len(ranks)), key=lambda k: ranks[k], default=0)  # the first of equals
    if not ranks or verdicts[best]:
        return Selection(None, NONE_ACCEPTED, tuple(verdicts))
    return Selection(best, CHOSEN, tuple(verdicts))
