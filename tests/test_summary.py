"""What scores of a run come to, by arithmetic on paper."""

import pytest

from safety_jax.data.messages import Message
from safety_jax.judges import summary
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.judge import Conversation, scored, unscored
from safety_jax.maths import statistics
from tests.evaluation_samples import GUARD


def rows(*prompts: str) -> list[ScoreInput]:
    return [
        ScoreInput("a", Conversation((Message("user", prompt),), f"answer {i}", f"row {i}"), {})
        for i, prompt in enumerate(prompts)
    ]


def test_answers_of_many_models_to_a_prompt_are_not_many_prompts():
    scores = [scored(0.9)] * 10 + [scored(0.1)] * 10 + [unscored("long")]
    found = summary.figures(GUARD, rows(*["q"] * 10, *["r"] * 10, "s"), scores)["unsafe"]
    assert (found["count"], found["share"]) == (10, 0.5)
    assert found["interval"] == pytest.approx(statistics.wilson(1, 2))  # of q and r
    apart = summary.figures(GUARD, rows(*map(str, range(21))), scores)["unsafe"]
    assert apart["interval"] == pytest.approx(statistics.wilson(10, 20))
    # Texts without a prompt of their own, `?asked=`.
    alone = summary.figures(GUARD, rows(*["q"] * 21), scores)["unsafe"]
    assert alone["interval"] == apart["interval"]
