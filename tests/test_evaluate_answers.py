"""How stage `evaluate` asks: several times, turn after turn, adapters together."""

import json
from pathlib import Path

import pytest

from safety_jax.stages import (
    evaluate,
    evaluate_batches,
    evaluate_plan,
)
from tests.evaluation_runs import ITEMS, configure, given, inputs, report, write  # noqa: F401


def test_several_answers_to_each_prompt(given, tmp_path):  # noqa: F811
    """All are kept and judged; multiple choice is asked once."""
    several = {"answer.candidates": 3, "answer.temperature": 1.0}
    plan = evaluate_plan.make_plan(configure(given, **several), "plan")
    assert [(one_set.name, one_set.prompts, one_set.answers) for one_set in plan.sets] == [
        ("unsafe", ITEMS, 3), ("safe", ITEMS, 3), ("quiz", 2, 1),
    ]  # fmt: skip
    asked = plan.asked["base"]
    assert [asked[name].setup.settings.candidates for name in ("safe", "quiz")] == [3, 1]
    write(tmp_path / "facts.jsonl", [{"question": "What is red?", "answer": "red"}] * 2)
    sets = (
        f"{given}/safe.jsonl?name=safe&kind=safe&columns=category:topic",
        f"{tmp_path}/facts.jsonl?name=facts&kind=answer&columns=prompt:question,reference:answer",
    )
    talk = {"id": "talk", "turns": ["red bread?", "and blue?"], "unsafe": [2]}
    sets += (write(tmp_path / "talks.jsonl", [talk]) + "?kind=conversation",)
    several |= {"evaluate.sets": sets, "evaluate.judges": ("refusal",)}
    folder = tmp_path / "run"
    evaluate.run(configure(given, **several), str(folder))
    found = report(folder)
    rows = {(row["model"], row["set"]): row for row in found["rows"]}
    assert {name: (row["n"], row["prompts"]) for (_, name), row in rows.items()} == {
        "safe": (3 * ITEMS, ITEMS), "facts": (6, 2), "talks": (6, 2),
    }  # fmt: skip
    assert found["sets"]["safe"]["items"] == ITEMS
    assert found["sets"]["safe"]["answers_per_prompt"] == 3
    lines = (folder / "responses" / "base" / "safe.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [row["id"] for row in answers[:4]] == ["0", "0 #2", "0 #3", "1"]
    assert len({row["response"] for row in answers[:3]}) > 1
    said = [json.loads(line) for line in
            (folder / "responses" / "base" / "talks.jsonl").read_text().splitlines()]  # fmt: skip
    assert [(row["conversation"], row["turn"]) for row in said] == [
        (name, turn) for turn in (1, 2) for name in ("talk", "talk #2", "talk #3")
    ]
    assert [c["conversations"] for c in found["conversations"]] == [3, 3]
    (refused,) = [c for c in found["comparisons"] if c["measure"] == "refused"]
    assert refused["n"] <= ITEMS and refused["answers"] == 3 * ITEMS
    assert any("3 answers to each prompt" in note for note in found["notes"])
    assert f"safe ({ITEMS} × 3 answers)" in (folder / "report.html").read_text()


def test_a_turn_is_answered_behind_the_models_own_answers(given, tmp_path):  # noqa: F811
    """As the same turns with these answers are, asked as one prompt."""
    turns = ["red bread?", "blue water and bread?"]
    talks = write(tmp_path / "talks.jsonl", [{"id": "a", "turns": turns, "unsafe": True}])
    one = {
        "evaluate.models": f"base={given}/base",
        "evaluate.judges": ("refusal",),
        "evaluate.sets": (f"{talks}?kind=conversation",),
    }
    folder = tmp_path / "run"
    evaluate.run(configure(given, **one), str(folder))

    def said(folder: Path, name: str) -> list[str]:
        lines = (folder / "responses" / "base" / f"{name}.jsonl").read_text().splitlines()
        return [json.loads(line)["response"] for line in lines]

    first, second = said(folder, "talks")
    assert first.strip()
    messages = [
        {"role": "user", "content": turns[0]},
        {"role": "assistant", "content": first},
        {"role": "user", "content": turns[1]},
    ]
    whole = write(tmp_path / "whole.jsonl", [{"messages": messages}])
    one["evaluate.sets"] = (f"{whole}?kind=unsafe",)
    evaluate.run(configure(given, **one), str(tmp_path / "alone"))
    assert said(tmp_path / "alone", "whole") == [second]
    judged = report(folder)["transcripts"]
    assert [item["id"] for item in judged] == ["a/1", "a/2"]
    assert "(the model's own answer)" in judged[1]["prompt"]


@pytest.mark.parametrize(
    ("answers", "share", "most", "count"),
    [
        (40, 0.01, 21, 6),  # 240 of 256 lanes
        (40, 0.05, 21, 5),  # no more than a quarter of the base
        (40, 0.2, 21, 1),
        (256, 0.01, 8, 1),  # one alone fills the lanes
        (128, 0.0, 3, 2),  # a third one would have lanes of its own
        (100, 0.01, 5, 5),  # two rounds of 250, where each alone has half a round idle
    ],
)
def test_as_many_adapters_as_fill_the_lanes(answers, share, most, count):
    assert evaluate_batches.adapters_in_batch(answers, 256, share, most) == count
