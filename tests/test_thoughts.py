"""Thoughts and answers taken apart: every family's markers, and markers that only are mentioned."""

import time

import pytest

from safety_jax.data import thoughts
from safety_jax.data.thoughts import Turn
from tests import tiny_tokenizers

FENCE = "```"

THOUGHT = [
    # families, with what follows their markers
    ("<think>\nHm, red.\n</think>\n\nA cherry.", "Hm, red.", "A cherry."),
    ("<think>\n\n</think>\n\nNo, I won't.", "", "No, I won't."),
    ("  \n<think>Red.</think>A cherry.", "Red.", "A cherry."),
    ("<think> red </think> a cherry", "red", "a cherry"),
    ("<|assistant|>\n<think>Red.</think>\nA cherry.", "Red.", "A cherry."),
    ("Assistant: <think>Red.</think>\nA cherry.", "Red.", "A cherry."),
    ("<thinking>Red.</thinking>\n<output>A cherry.</output>", "Red.", "A cherry."),
    ("<Thought>Red.</Thought>A cherry.", "Red.", "A cherry."),
    ("<reasoning>\nRed.\n</reasoning>\n<answer>\nA cherry.\n</answer>", "Red.", "A cherry."),
    ("<seed:think>Red.</seed:think>A cherry.", "Red.", "A cherry."),
    ("[THINK]Red.[/THINK]A cherry.", "Red.", "A cherry."),
    ("◁think▷Red.◁/think▷A cherry.", "Red.", "A cherry."),
    ("<|inner_prefix|>Red.<|inner_suffix|>A cherry.", "Red.", "A cherry."),
    (
        "<|begin_of_thought|>\nRed.\n<|end_of_thought|>\n\n<|begin_of_solution|>\nA cherry.\n"
        "<|end_of_solution|>", "Red.", "A cherry.",
    ),
    (
        "<|START_THINKING|>Red.<|END_THINKING|><|START_RESPONSE|>A cherry.<|END_RESPONSE|>",
        "Red.", "A cherry.",
    ),
    (
        "<|channel|>analysis<|message|>Red.<|end|><|start|>assistant<|channel|>final<|message|>A "
        "cherry.<|return|>", "Red.", "A cherry.",
    ),
    (
        "<|channel|>analysis<|message|>Red.<|end|><|start|>assistant<|channel|>commentary "
        "to=functions.pick <|constrain|>json<|message|>{}<|call|><|channel|>final<|message|>A "
        "cherry.", "Red.\n\n{}", "A cherry.",
    ),
    ("<|channel>thought\nRed.\n<channel|>A cherry.", "Red.", "A cherry."),
    ("<|channel>thought\n<channel|>a cherry", "", "a cherry"),
    ("<unused94>thought\nRed.<unused95>A cherry.", "Red.", "A cherry."),
    ("analysisThey want red.assistantfinalA cherry.", "They want red.", "A cherry."),
    ("Here is my thought process:\nRed.\n\nHere is my response:\nA cherry.", "Red.", "A cherry."),
    # the prompt opened it
    ("Okay, they want red.\n</think>\n\nA cherry.", "Okay, they want red.", "A cherry."),
    ("They want red.</think>A cherry.", "They want red.", "A cherry."),
    ("red, so a cherry</think>\n\nA cherry.", "red, so a cherry", "A cherry."),
    ("Red.[/THINK]A cherry.", "Red.", "A cherry."),
    ("so red</think>a cherry", "so red", "a cherry"),
    ("so 4</think>**4**", "so 4", "**4**"),
    ("红色。</think>樱桃。", "红色。", "樱桃。"),
    ("红色。 </think> 樱桃。", "红色。", "樱桃。"),
    # thoughts that speak of markers, or leave code open
    (
        "<think>\nWhat does </think> close? A thought.\n</think>\n\nA thought.",
        "What does </think> close? A thought.", "A thought.",
    ),
    (
        'They ask what "</think>" does, and `<think>`.\n</think>\nIt closes <think>.',
        'They ask what "</think>" does, and `<think>`.', "It closes <think>.",
    ),
    (
        f"<think>\nLike so:\n{FENCE}python\nprint(1)\n</think>\n\nSee:\n{FENCE}\n1\n{FENCE}",
        f"Like so:\n{FENCE}python\nprint(1)", f"See:\n{FENCE}\n1\n{FENCE}",
    ),
    ("<think>is it red?</think>\nYes.", "is it red?", "Yes."),
    # several
    ("<think>a</think>\n<think>b</think>\nA cherry.", "a\n\nb", "A cherry."),
    ("Well.\n<think>\nRed.\n</think>\nA cherry.", "Red.", "Well.\n\nA cherry."),
    # an answer that speaks of markers, behind a thought
    ("<think>x.</think>\nWrite <think>y</think> first.", "x.", "Write <think>y</think> first."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "thought", "answer"), THOUGHT, ids=range(len(THOUGHT)))
def test_a_thought_is_no_answer(text, thought, answer):
    assert thoughts.split(text) == Turn(thought, answer, False)


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>\nThey want", "They want"), ("<think>", ""), ("<think>\n", ""),
        ("<think>\nIs `</think>` the", "Is `</think>` the"),
        ("[THINK]They", "They"), ("<|begin_of_thought|>\nThey", "They"),
        ("<|channel>thought\nThey", "They"), ("<unused94>thought\nThey", "They"),
        ("<|channel|>analysis<|message|>They", "They"), ("analysisThey want", "They want"),
        ("<think>a</think>\n<think>b", "a\n\nb"),
    ],
)  # fmt: skip
def test_a_turn_that_ends_inside_its_thought_has_no_answer(text, thought):
    assert thoughts.split(text) == Turn(thought, "", True)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "A cherry.\n", "I think so.", "<b>A cherry</b>",
        "The tag <think> opens a thought, and </think> closes it.",
        "<think> is the tag that opens a thought.",
        "<think> is the first tag and </think> is the last.",
        "<think>, like [THINK], is a marker.",
        "Write `<think>` first and `</think>` last.",
        'R1 ends its thought with "</think>" and goes on.',
        "Models close a thought with </think> before they answer.",
        "</think> is what closes a thought.",
        "A thought ends in</think>, an answer follows.",
        "Wrap what you think in <think></think>tags.",
        "Gemma opens the <|channel>thought and closes it with <channel|> again.",
        "The reserved token <unused95> is the last.",
        f"Like this:\n{FENCE}\n<think>\nRed.\n</think>\nA cherry.\n{FENCE}\nThat is all.",
        f"{FENCE}python\ntext.split('</think>')\n{FENCE}",
        "Analysis of the poem: assistantfinal is no word.",
        "analysis is a branch of mathematics.",
        "Here is my thought process: first, read. Then write.",
        "The channel <|channel|>final<|message|> holds the answer.",
        "<answer> is a tag, as </answer> is.",
    ],
)  # fmt: skip
def test_a_marker_that_is_mentioned_hides_nothing(text):
    assert thoughts.split(text) == Turn("", text, False)


def test_an_answer_may_be_enclosed():
    assert thoughts.split("<answer>Paris</answer>\n") == Turn("", "Paris", False)


@pytest.mark.parametrize(
    ("prompt", "marker"),
    [
        ("User: hi\nAssistant: <think>\n", "<think>\n"), ("hi<|Assistant|><think>", "<think>"),
        ("hi[THINK]", "[THINK]"), ("hi", ""), ("<think>\n\n</think>\n\n", ""), ("<think>hi", ""),
        ("</think>", ""), ("<|turn>model\n<|channel>thought\n", "<|channel>thought\n"),
        ("<|turn>model\n<|channel>thought\n<channel|>", ""),
    ],
)  # fmt: skip
def test_what_a_prompt_opens_belongs_to_the_turn(prompt, marker):
    assert thoughts.opened(prompt) == marker
    assert (
        not marker or thoughts.split(f"{marker}Red.\n</think>[/THINK]<channel|>\nA cherry.").thought
    )


def test_marks_that_are_special_tokens_are_read():
    tokens = tiny_tokenizers.llama()
    tokens.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "[INST]"]})
    read = thoughts.reader(tokens)

    def ids(text):
        return tokens.encode(text, add_special_tokens=False)

    written = ids("[THINK]red[/THINK]green") + [tokens.eos_token_id]
    assert thoughts.split(read(written)) == Turn("red", "green", False)
    plain = ids("[INST]a green bread")
    assert read(plain) == tokens.decode(plain, skip_special_tokens=True)
    gemma = tiny_tokenizers.qwen(additional_special_tokens=["<|channel>", "<channel|>", "<turn|>"])
    text = "<|channel>thought\nred\n<channel|>green<turn|>"
    written = gemma.encode(text, add_special_tokens=False)
    assert thoughts.split(thoughts.reader(gemma)(written)) == Turn("red", "green", False)
    # What the prompt opened belongs to the turn.
    said = thoughts.said(read, ids("bake[THINK]"), "red")
    assert thoughts.split(said) == Turn("red", "", True)
    assert thoughts.said(read, ids("bake"), " red\n") == "red"


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<think>x </think> ", "<think>\nx\n</think>\n", "`<think>` ", "```\n",
     "<|channel|>analysis<|message|>", "<|channel>thought\n", "analysisA",
     "Here is my thought process:", "<answer>"],
)  # fmt: skip
def test_time_is_linear(piece):
    """Processor time of this process, whatever else runs here: squares would take minutes."""
    began = time.process_time()
    thoughts.split(piece * (300_000 // len(piece)))
    assert time.process_time() - began < 30
