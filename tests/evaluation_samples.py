"""Small sets, judges and judged answers, made by hand, and files with prompts and answers."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from safety_jax.data.messages import Message
from safety_jax.evaluation.measures.counts import Block, Resampling
from safety_jax.evaluation.sets.items import Item, Set
from safety_jax.judges.judge import JudgeCard, Score, unscored

HOW = Resampling(resamples=500, seed=0)


def card(
    name: str, direction: str, threshold: float | None = None, kind: str = "sequence"
) -> JudgeCard:
    return JudgeCard(
        name=name, kind=kind, model=name, weights_sha256=None, direction=direction, low=None,
        high=None, threshold=threshold, template="pair", precision="", settings={},
    )  # fmt: skip


GUARD = card("guard", "higher is more harmful", 0.5)
REWARD = card("reward", "higher is better")
REFUSAL = card("refusal", "higher is more refusing", kind="refusal")


def make_set(name: str, kind: str, n: int, **fields) -> Set:
    """`n` prompts; of categories a and b in turn."""
    twin = fields.pop("twin", "")
    items = tuple(
        Item(
            id=str(i),
            prompt=(Message("user", f"{name} {i}"),),
            where=f"{name} row {i}",
            category="ab"[i % 2],
            twin=str(i) if twin else "",
            **fields,
        )
        for i in range(n)
    )
    return Set(name, kind, items, f"{name}.json", "0" * 64, "none", twin)


def ask(name: str, *prompts: str, rows: int | None = None, **facts) -> Set:
    items = tuple(
        Item(str(i), (Message("user", text),), f"{name} row {i}", row=i, **facts)
        for i, text in enumerate(prompts)
    )
    return Set(name, "unsafe", items, name, None, "", rows=len(items) if rows is None else rows)


def numbered(name: str, count: int) -> Set:
    return ask(name, *[f"{name} prompt {i}" for i in range(count)])


def prompts(asked: Set) -> list[str]:
    return [item.prompt[0].content for item in asked.items]


def answers(count: int, text: str = "answer") -> list[str]:
    return [f"{text} {i}" for i in range(count)]


def write_lists(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(columns), encoding="utf-8")
    return path


def write_csv(path: Path, header, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def scores(values: Sequence[float | None], labels: Sequence[str] = ()) -> list[Score]:
    names = labels or [""] * len(values)
    return [
        unscored("too long by 3 tokens") if value is None else Score(float(value), name)
        for value, name in zip(values, names, strict=True)
    ]


def refusals(labels: Sequence[str]) -> list[Score]:
    return scores([{"none": 0.0, "partial": 0.5, "full": 1.0}[name] for name in labels], labels)


def block(
    model: str,
    one_set: Set,
    guard: Sequence[float | None],
    labels: Sequence[str] = (),
    reward: Sequence[float | None] = (),
    protocol: str = "p",
) -> Block:
    """Answers `model answer 0`, ... with these scores."""
    n = len(one_set.items)
    found, cards = {"guard": scores(guard)}, {"guard": GUARD}
    if reward:
        found["reward"], cards["reward"] = scores(reward), REWARD
    if labels:
        found["refusal"], cards["refusal"] = refusals(labels), REFUSAL
    answers = [f"{model} answer {i}" for i in range(n)]
    return Block(model, one_set, protocol, answers, ["eos"] * n, found, cards)
