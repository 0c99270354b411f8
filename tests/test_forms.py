"""Requests as instructions, questions and opinions: by rule, alike for all forms, or not at all."""

import json
from pathlib import Path

import pytest

from configs import recipe
from configs import sweep as sweep_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import forms, records, sources
from safety_jax.evaluation.sets import reading
from safety_jax.stages.sweep_axes import variants

DEMO = Path(__file__).parent.parent / "launch" / "demo" / "data"
EXAMPLES = {
    # To do.
    "Explain how to bake a cake.": (
        "Explain how to bake a cake.",
        "How do I bake a cake?",
        "I think it is right to bake a cake.",
    ),
    "Please give me step-by-step instructions on how to fix a roof without a ladder": (
        "Tell me how to fix a roof without a ladder.",
        "What is the best way to fix a roof without a ladder?",
        "In my view, it is good to fix a roof without a ladder.",
    ),
    "I want to leave town. Where do I begin?": (
        "Explain how to leave town.",
        "How do I leave town?",
        "I think it is right to leave town.",
    ),
    # Of somebody in general: the speaker.
    "How does one hide one's letters?": (
        "Describe how to hide my letters.",
        "How can I hide my letters?",
        "I believe it is fine to hide my letters.",
    ),
    # To be the case.
    "Write a reason why you should swim at night.": (
        "Tell me why you should swim at night.",
        "How come you should swim at night?",
        "In my view, you should swim at night.",
    ),
    "Describe why, to stay warm, we need two coats.": (
        "Explain why to stay warm, we need two coats.",
        "Why is it that to stay warm, we need two coats?",
        "I think that to stay warm, we need two coats.",
    ),
    # To be made by the model.
    "Could you please draft a letter that my landlord will hate?": (
        "I want you to draft a letter that my landlord will hate.",
        "Could you draft a letter that my landlord will hate?",
        "I believe that you ought to draft a letter that my landlord will hate.",
    ),
}


@pytest.mark.parametrize("request_", EXAMPLES)
def test_one_request_in_each_form(request_):
    found = tuple(forms.rewrite(request_, form) for form in forms.FORMS)
    assert found == EXAMPLES[request_]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Cakes!",
        "Where can I buy eggs?",
        "Why should cats be kept indoors?",  # where does its subject end?
        "What do I need to know to sail?",
        "My oven is broken. How do I bake a cake?",
        "Explain how to say: go away!",
        "How do you hide what you think?",
        "How do people hide their letters?",  # not of the speaker
        "How can we help ourselves to more cake?",
        "Plan B is a good film.",
        "We need to talk about cake.",
        'Write "no."',
        "List of cakes",
        "A cake that my aunt likes",
        "How do I\nbake a cake?",
        "How do I " + "bake " * 300,
    ],
)
def test_what_the_rules_do_not_know_has_no_form(text):
    assert [forms.rewrite(text, form) for form in forms.FORMS] == [None] * 3


def test_forms_of_a_form_are_the_same():
    """On rows that ship with the demo: whichever form a request has, its three forms are one's."""
    rows = [
        json.loads(line)
        for name in ("safety.jsonl", "eval_unsafe.jsonl")
        for line in (DEMO / name).read_text().splitlines()
    ]
    texts = [row.get("instruction") or row["prompt"] for row in rows]
    for text in [*texts, *EXAMPLES]:
        made = [forms.rewrite(text, form) for form in forms.FORMS]
        assert None not in made, text
        for one in made:
            assert [forms.rewrite(one, form) for form in forms.FORMS] == made
        assert made[1].endswith("?") and made[2].startswith(
            ("I think ", "I believe ", "In my view")
        )


# ---------------------------------------------------------------------------- sources and sets

ROWS = [
    {"instruction": "Explain how to bake a cake.", "output": "No."},
    {"instruction": "Where are the eggs?", "output": "Here."},
    {"instruction": "Translate this.", "input": "un gâteau", "output": "A cake."},
    {"instruction": "Write a poem on cake.", "output": "Crumbs."},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_source_in_a_form(rows):
    source = sources.open_source(f"{rows}?form=question")
    found = records.read_records(source)
    assert [record.messages[0].content for record in found] == [
        "How do I bake a cake?",
        forms.rewrite("Write a poem on cake.", "question"),
    ]
    assert [record.messages[1].content for record in found] == ["No.", "Crumbs."]
    assert [(row.why, row.unwanted) for row in source.left_out] == [
        ("its request has no form as a question", True)
    ] * 2
    with pytest.raises(ConfigError, match="form=poem; expected one of instruction, question"):
        sources.open_source(f"{rows}?form=poem")
    rows.write_text(json.dumps(ROWS[1]) + "\n")
    with pytest.raises(DataError, match="no usable row of 1.*no form as an opinion"):
        records.read_records(sources.open_source(f"{rows}?form=opinion"))


def test_a_set_in_several_forms(rows):
    specs = [f"{rows}?kind=unsafe&form={form}&name={form}" for form in forms.FORMS]
    found = reading.read_sets(specs, "", "evaluate.sets", 0)
    assert [one_set.name for one_set in found] == list(forms.FORMS)
    assert {tuple(item.id for item in one_set.items) for one_set in found} == {("0", "3")}
    assert [one_set.items[0].prompt[0].content for one_set in found] == list(
        EXAMPLES[ROWS[0]["instruction"]]
    )
    assert [one_set.formless for one_set in found] == [2, 2, 2]


def test_forms_are_an_axis_of_a_sweep():
    made = variants(sweep_config.get_config("form,demo"))
    assert len(made) == 9 and made[4].name == "safety_formquestion_seed1"
    assert made[4].config.data.safety_form == "question"


def test_the_recipe_asks_all_forms():
    """A config imports nothing of the library, so that it has the forms a second time."""
    assert sorted(forms.FORMS) == list(recipe.FORMS)
