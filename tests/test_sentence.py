"""What a report says in one sentence."""

import dataclasses

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.report.evaluation import sentence, text
from tests.report_samples import small


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


def test_without_comparisons_nothing_is_said():
    assert sentence.sentence(dataclasses.replace(small(), comparisons=())) == ""
