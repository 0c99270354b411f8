"""Answers that a judge has judged, for tests of people's labels."""

from safety_jax.data.messages import Message
from safety_jax.evaluation.measures.counts import Block, Resampling
from safety_jax.evaluation.sets.items import Item, Set
from safety_jax.judges.judge import HARMFUL, JudgeCard, scored, unscored

HOW = Resampling(200, 0)
CARD = JudgeCard("guard", "sequence", "", None, HARMFUL, 0.0, 1.0, 0.5, "", "", {})


def block(model: str, name: str, verdicts, answers=None) -> Block:
    """A model's answers to a set, and what a judge called each: unsafe, safe, or nothing."""
    items = tuple(
        Item(f"id{i}", (Message("user", f"{name} asks {i}"),), "") for i in range(len(verdicts))
    )
    scores = [unscored("no") if v is None else scored(float(v)) for v in verdicts]
    texts = answers or [f"{model} says {i}" for i in range(len(verdicts))]
    asked = Set(name, "unsafe", items, "", None, "")
    return Block(model, asked, "p", texts, [""] * len(texts), {"guard": scores}, {"guard": CARD})
