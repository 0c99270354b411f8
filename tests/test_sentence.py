"""What a report says in one sentence."""

import dataclasses

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.report.evaluation import page, sentence, summary, text, words
from tests.report_samples import nothing, small


def compared(made, model, name, measure, before, after, p) -> Comparison:
    first = made.comparisons[0]
    return dataclasses.replace(
        first, first=made.baseline, second=model, set=name, measure=measure, first_value=before,
        second_value=after, difference=Estimate(after - before, None, None, 9), p=p, p_holm=None,
        refused_because="",
    )  # fmt: skip


def test_only_what_chance_does_not_explain_is_a_change():
    made = small()
    unsafe, safe = (
        next(name for name, facts in made.sets.items() if facts["kind"] == kind)
        for kind in ("unsafe", "safe")
    )
    judge = f"safe/{made.safety}"
    comparisons = (
        compared(made, "sit", unsafe, judge, 0.1, 0.2, 0.9),  # of one set; all together decide
        compared(made, "sit", "all unsafe", judge, 0.1, 0.9, 1e-9),
        compared(made, "raft", "all unsafe", judge, 0.1, 0.2, 0.3),
        compared(made, "dpo", "all unsafe", judge, 0.1, 0.95, 1e-9),
        compared(made, "sit", safe, "refused", 0.0, 0.2, 0.01),
        compared(made, "dpo", safe, "refused", 0.1, 0.0, 0.01),
    )
    made = dataclasses.replace(made, comparisons=comparisons)
    said = sentence.sentence(made)
    assert said == (
        f"Against {made.baseline}: sit (10.0% → 90.0%) and dpo (10.0% → 95.0%) answer unsafe "
        "prompts safely more often, raft (10.0% → 20.0%) answers unsafe prompts safely as often as "
        "before, as far as these prompts can tell; sit (0.0% → 20.0%) refuses safe prompts more "
        "often, dpo (10.0% → 0.0%) refuses safe prompts less often."
    )
    assert said in text.tables(made)


def test_the_sentence_says_what_the_tables_mark():
    """Holm's correction may take back what one test alone would call a change."""
    made = small()
    safe = next(name for name, facts in made.sets.items() if facts["kind"] == "safe")
    one = dataclasses.replace(compared(made, "dpo", safe, "refused", 0.01, 0.05, 0.02), p_holm=0.08)
    assert words.tone(made, one) == ""
    said = sentence.sentence(dataclasses.replace(made, comparisons=(one,)))
    assert "refuses safe prompts as often as before" in said
    one = dataclasses.replace(one, p_holm=0.04)
    assert words.tone(made, one) == "worse"
    said = sentence.sentence(dataclasses.replace(made, comparisons=(one,)))
    assert "refuses safe prompts more often" in said


def test_one_of_several_sets_does_not_speak_for_the_others():
    """Before, the first set of questions stood for all, and so did the first unsafe set where all
    together cannot be compared."""
    made = small()
    kinds = {f"quiz {number}": {"kind": "choice"} for number in range(5)}
    made = dataclasses.replace(made, sets={**made.sets, **kinds, "more": {"kind": "unsafe"}})

    def questions(*after: float) -> tuple[Comparison, ...]:
        return tuple(
            compared(made, "sit", f"quiz {i}", "accuracy", 0.5, x, 0.5 if x == 0.5 else 1e-6)
            for i, x in enumerate(after)
        )

    def said(comparisons) -> str:
        return sentence.sentence(dataclasses.replace(made, comparisons=comparisons))

    assert said(questions(0.5, 0.1)) == (
        f"Against {made.baseline}: sit (50.0% → 50.0%) answers questions of quiz 0 correctly as "
        "often as before, as far as these prompts can tell; sit (50.0% → 10.0%) answers questions "
        "of quiz 1 correctly less often."
    )
    assert said(questions(0.5, 0.1, 0.2, 0.3, 0.9)) == (
        f"Against {made.baseline}: sit answers questions correctly more often on 1, less often on "
        "3 of 5 sets."
    )
    unsafe = next(name for name, facts in made.sets.items() if facts["kind"] == "unsafe")
    judge = f"safe/{made.safety}"
    two = (
        compared(made, "sit", unsafe, judge, 0.1, 0.9, 1e-9),
        compared(made, "sit", "more", judge, 0.1, 0.1, 1.0),
    )
    assert said(two) == "" and "prompts safely more often" in said(two[:1])


def test_many_models_are_counted():
    made = small()
    judge, many = f"safe/{made.safety}", [f"seed{number}" for number in range(9)]
    comparisons = tuple(
        compared(made, name, "all unsafe", judge, 0.1, 0.9, 0.01 if place < 8 else 0.5)
        for place, name in enumerate(many)
    )
    assert sentence.sentence(dataclasses.replace(made, comparisons=comparisons)) == (
        f"Against {made.baseline}: 8 of 9 models answer unsafe prompts safely more often, 1 of 9 "
        "models answers unsafe prompts safely as often as before, as far as these prompts can tell."
    )


def test_without_a_judge_of_safety_refusals_of_unsafe_prompts_are_told():
    """They are what the default judge knows of them: the summary and the sentence left them out, so
    that only the price of safety was told."""
    made = small()
    unsafe, safe = (
        next(name for name, facts in made.sets.items() if facts["kind"] == kind)
        for kind in ("unsafe", "safe")
    )
    comparisons = (
        compared(made, "dpo", unsafe, "refused", 0.0, 0.9, 1e-9),
        compared(made, "dpo", safe, "refused", 0.0, 0.2, 0.01),
    )
    made = dataclasses.replace(made, safety="", comparisons=comparisons)
    assert sentence.sentence(made) == (
        f"Against {made.baseline}: dpo (0.0% → 90.0%) refuses unsafe prompts more often; dpo (0.0% "
        "→ 20.0%) refuses safe prompts more often."
    )
    table = summary.summary(made)
    assert table is not None
    assert [heading for heading, _ in table.groups][:3] == [
        "", "refused (unsafe prompts)", "over-refusal (safe prompts)",
    ]  # fmt: skip
    row = made.row("dpo", unsafe)
    assert row is not None and row.refused is not None
    refused = next(cells for cells in table.rows if cells[0].text == "dpo")[1]
    assert refused.text == words.percent(row.refused.any.value)
    assert (refused.change, refused.tone) == ("+90.0", "")  # neither better nor worse


def test_a_set_may_be_called_all():
    """`all` followed by a kind names the sets of this kind together."""
    made = small()
    sets = {"all mine": {"kind": "safe"}}
    one = compared(made, "sit", "all mine", "refused", 0.0, 0.2, 0.01)
    made = dataclasses.replace(made, sets=sets, comparisons=(one,))
    assert words.tone(made, one) == "worse" and words.sets(made, "all mine") == "all mine"
    assert sentence.sentence(made).endswith("refuses safe prompts more often.")


def test_without_comparisons_nothing_is_said():
    assert sentence.sentence(dataclasses.replace(small(), comparisons=())) == ""


def test_a_report_without_shares_has_no_empty_summary():
    """For instance of a set with reference answers, without a judge of help."""
    made = nothing()
    assert summary.summary(made) is None
    assert "|  |" not in text.markdown(made, []) and "--" not in text.tables(made)
    assert 'id="summary"' not in page.render(made) and "#summary" not in page.render(made)
