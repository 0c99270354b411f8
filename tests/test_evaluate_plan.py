"""What is looked at before an evaluation begins: judges whose scores are stored, and mistakes."""

import json

import pytest

from configs import evaluate as evaluate_config
from safety_jax.base.errors import UserError
from safety_jax.stages import evaluate, evaluate_plan, precision
from tests.evaluation_runs import configure, given, inputs, report  # noqa: F401


def test_what_is_planned_is_said_a_line_each(given):  # noqa: F811
    """With the rows that a set's own option leaves out."""
    (given / "gap.jsonl").write_text('{"prompt": "a"}\n{"prompt": null}\n')
    sets = (f"{given}/gap.jsonl?kind=unsafe&bad_rows=skip", f"{given}/safe.jsonl?kind=safe")
    values = {"evaluate.sets": sets, "evaluate.judges": ("refusal",)}
    said = evaluate_plan.make_plan(configure(given, **values), "title").describe().splitlines()
    assert said == [
        "sets (2), with their prompts:", "  gap   1", "  safe  7",
        "models (2):", f"  base   {given}/base", f"  tuned  {given}/tuned",
        "judges (1): refusal", "gap: 1 rows are left out by bad_rows=skip: they cannot be used.",
    ]  # fmt: skip


def test_answers_from_other_caches_are_of_another_protocol(given):  # noqa: F811
    """Keys and values in 8 bits change answers; in the type of activations, the default, they are
    what the protocol always meant."""

    def protocol(**values) -> str:
        plan = evaluate_plan.make_plan(precision.settled(configure(given, **values), "cpu"), "t")
        one_set = plan.sets[0]
        return plan.asked["base"][one_set.name].protocol.of(one_set)

    usual = protocol()
    assert protocol(**{"sample.cache_dtype": "float32"}) == usual
    assert protocol(**{"sample.cache_dtype": "int8"}) != usual


def test_stored_scores_are_a_judge(given, tmp_path):  # noqa: F811
    asked = [json.loads(line) for line in (given / "unsafe.jsonl").read_text().splitlines()]
    verdicts = ["safe", "unsafe\nS1", " Unsafe", "safe", "", "maybe", "safe"]
    rows = [
        {"instruction": row["prompt"], "output": "an answer", "guard": verdict, "harm": i}
        for i, (row, verdict) in enumerate(zip(asked, verdicts, strict=True))
    ]
    (tmp_path / "answers_unsafe.json").write_text(json.dumps(rows))
    config = configure(
        given,
        **{
            "evaluate.models": "",
            "evaluate.responses": f"m={tmp_path}/answers_unsafe.json",
            "evaluate.judges": (),
        },
    )
    with config.unlocked():
        row = evaluate_config.stored("guard", "higher is more harmful", (0.5,))
        config.score.judges = {"guard": row, "harm": dict(row) | {"column": "harm"}}
    evaluate.run(config, str(tmp_path / "run"))
    (row,) = report(tmp_path / "run")["rows"]
    safe = row["judged"]["guard"]["safe"]
    assert (safe["count"], safe["n"], safe["unscored"]) == (3, 5, 2)
    assert row["judged"]["harm"]["median"]["value"] == 3 and row["refused"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evaluate.models": ""}, "are both empty"),
        ({"evaluate.models": "/no/name"}, "expected NAME=FOLDER"),
        ({"evaluate.models": "a=/x,a=/y"}, "the name 'a' is given twice"),
        ({"evaluate.models": "a=/no/such/model"}, "/no/such/model"),
        ({"evaluate.responses": "base=/x"}, "both name 'base'"),
        ({"evaluate.baseline": "dpo"}, "evaluate.baseline 'dpo': expected one of base, tuned"),
        ({"evaluate.safety": "refusal"}, "a threshold between safe and unsafe: harm"),
        ({"evaluate.sets": ("I-Nothing",)}, "I-Nothing"),
        ({"evaluate.sets": ("I-CoNa",)}, "I-CoNa"),
        (
            {"data.max_length": 10},
            "every prompt is longer than the 2 tokens that a model has room for before its answer; "
            "lower answer.max_new_tokens, or raise data.max_length",
        ),
        (
            {"data.max_length": 10, "data.overlong_prompt": "error"},
            "base has room for 2 before its answer; lower answer.max_new_tokens, or raise "
            "data.max_length, or set data.overlong_prompt to skip",
        ),
        ({"answer.candidates": 2}, "set temperature above 0"),
        (
            {"answer.candidates": 2, "evaluate.models": "", "evaluate.responses": "old=x.jsonl"},
            "evaluate.responses hold one answer to each prompt",
        ),
    ],
)
def test_mistakes_end_in_one_line(given, tmp_path, values, message):  # noqa: F811
    with pytest.raises(UserError) as caught:
        evaluate.run(configure(given, **values), str(tmp_path / "run"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
