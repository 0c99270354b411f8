"""Chat templates: what each kind has learned, to the letter; whose every character is."""

import dataclasses
import datetime

import pytest

from safety_jax.base.errors import CheckpointError, ConfigError, DataError
from safety_jax.data import encode, prompts, text_rules
from safety_jax.data.chat import ChatSettings, ChatTemplate, Unwritable
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from tests import chat_templates as kinds
from tests.tiny_tokenizers import CHATML, llama, qwen

DAY = datetime.date(2031, 5, 4)
THOUGHT = "<think>\nhm\n</think>\n\n"


def tokenizer(template, **settings):
    """Bytes and merges; the template's marks are special tokens, most of them named nowhere."""
    special = list(kinds.TOKENS.get(template, ()))
    named = {"bos_token": "<bos>", "eos_token": "<|endoftext|>"} | settings
    return qwen(chat_template=template, additional_special_tokens=special, **named)


def turns(*texts, system=None):
    roles = ("user", "assistant") * len(texts)
    found = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *found] if system else found


def write(template, said, *, asking=False, answers=None, thinking=None):
    chat = ChatTemplate(tokenizer(template), ChatSettings(DAY, thinking))
    (found,) = chat.write([said], asking=asking, answers=answers and [answers])
    return found


def learned(written):
    return [part.text for part in written.stretches if part.learned]


TWO = turns("Q", "A", "Q2", "A2")
HAVE_DAYS = (kinds.DATED, kinds.OWN_SYSTEM)
EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["A<|im_end|>", "A2<|im_end|>"]),
        (kinds.HEADERS, ["A<|eot|>", "A2<|eot|>"]),
        (kinds.GEMMA, ["A<end>", "A2<end>"]),
        (kinds.PHI, ["A<|end|>", "A2<|end|>"]),
        (kinds.FIRST_TURN, ["A<end>", "A2<end>"]),
        (kinds.THREE_MARKS, ["A<|im_end|>", "A2<|im_end|>"]),
        (kinds.LINES, ["A<|endoftext|>", "A2<|endoftext|>"]),
        (kinds.OWN_SYSTEM, ["A<|endoftext|>", "A2<|endoftext|>"]),
        (kinds.THINKS, ["A<|im_end|>", f"{EMPTY}A2<|im_end|>"]),
        (kinds.OPENS, ["A<|endoftext|>", "A2<|endoftext|>"]),
        (kinds.LATE_SYSTEM, [" A<|endoftext|>", " A2<|endoftext|>"]),
        (
            kinds.CHANNELS,
            ["<|channel|>final<|message|>A<|end|>", "<|channel|>final<|message|>A2<|return|>"],
        ),
        (kinds.TWO_ENDS, ["A<|answered|><|over|>", "A2<|answered|><|over|>"]),
        (kinds.MARKED, ["A<|im_end|>", "A2<|im_end|>"]),
        (kinds.WORDS, ["A\n\n", "A2\n\n"]),
        (kinds.LOUD, ["A<|im_end|>", "A2<|im_end|>"]),
        (kinds.DATED, ["A<|endoftext|>", "A2<|endoftext|>"]),
    ],
)
def test_every_answer_is_learned_and_nothing_else(template, expected):
    written = write(template, TWO)
    assert learned(written) == expected
    whole = "".join(part.text for part in written.stretches)
    if template not in HAVE_DAYS:
        assert whole == tokenizer(template).apply_chat_template(TWO, tokenize=False)
    # The last alone, as for a pair's answer.
    assert learned(write(template, TWO, answers=[3])) == expected[1:]
    # One turn, and what a model is asked with, are the same text.
    assert learned(write(template, TWO[:2])) == [expected[1].replace("A2", "A")]
    asked = write(template, TWO[:3], asking=True)
    if template not in HAVE_DAYS:
        assert "".join(part.text for part in asked.stretches) == tokenizer(
            template
        ).apply_chat_template(TWO[:3], tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    "template", [*kinds.TOKENS, CHATML, kinds.THINKS, kinds.MARKED, kinds.LOUD]
)
def test_a_row_trains_each_end_once(template):
    tokens = tokenizer(template)
    rows = [Record(tuple(Message(**turn) for turn in TWO), "", "s", "row 0")]
    encoding = encode.Encoding(prompts.load_template("chat", tokens), tokens, 512, "error", 999)
    ids, mask = encode.encode(rows, encoding, train_on="response").example(0)
    assert mask[-1] and not mask[0]
    last = "".join(learned(write(template, TWO, answers=[3])))
    trained = tokens.decode(ids[mask])
    assert trained == "".join(learned(write(template, TWO)))
    behind_answer = tokens(last.partition("A2")[2], add_special_tokens=False).input_ids
    assert ids[-len(behind_answer) :].tolist() == behind_answer
    assert len(behind_answer) == (2 if template is kinds.TWO_ENDS else 1)
    # The prompt is what the model is fed, where the whole text begins with that.
    asked = tokens.apply_chat_template(TWO[:1], add_generation_prompt=True, return_dict=False)
    if template not in (kinds.OPENS, *HAVE_DAYS):
        assert ids[: len(asked)].tolist() == asked


@pytest.mark.parametrize("template", [*kinds.TOKENS, CHATML, "plain"])
def test_an_answer_that_was_cut_off_is_learned_without_an_end(template):
    tokens = tokenizer(CHATML if template == "plain" else template)
    name = "plain" if template == "plain" else "chat"
    encoding = encode.Encoding(prompts.load_template(name, tokens), tokens, 512, "error", 999)
    asked, answer = (Message(**turn) for turn in TWO[:2])
    found = [
        encode.encode([row], encoding, train_on="response").example(0)
        for cut in (False, True)
        for row in [Record((asked, dataclasses.replace(answer, cut=cut)), "", "s", "row 0")]
    ]
    (ids, mask), (cut_ids, cut_mask) = found
    assert len(cut_ids) < len(ids) and ids[: len(cut_ids)].tolist() == cut_ids.tolist()
    learned_of_cut = tokens.decode(cut_ids[cut_mask])
    assert learned_of_cut.strip().endswith(TWO[1]["content"])


def test_an_answer_without_a_control_token_at_its_end_gets_eos():
    tokens = tokenizer(kinds.WORDS)
    rows = [Record((Message("user", "Q"), Message("assistant", "A")), "", "s", "row 0")]
    encoding = encode.Encoding(prompts.load_template("chat", tokens), tokens, 512, "error", 999)
    ids, mask = encode.encode(rows, encoding, train_on="response").example(0)
    assert tokens.decode(ids[mask]) == "A\n\n<|endoftext|>"


def test_what_a_template_marks_is_learned_as_transformers_has_it():
    tokens = tokenizer(kinds.MARKED)
    rows = [Record(tuple(Message(**turn) for turn in TWO), "", "s", "row 0")]
    encoding = encode.Encoding(prompts.load_template("chat", tokens), tokens, 512, "error", 999)
    ids, mask = encode.encode(rows, encoding, train_on="response").example(0)
    theirs = tokens.apply_chat_template(TWO, return_assistant_tokens_mask=True)
    assert ids.tolist() == theirs["input_ids"][: len(ids)]
    assert mask.astype(int).tolist() == theirs["assistant_masks"][: len(ids)]
    assert sum(theirs["assistant_masks"]) == mask.sum()
    # Marks may leave the end out, which is learned all the same, and stand in several blocks.
    bare = kinds.MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    assert learned(write(bare, TWO)) == ["A<|im_end|>", "A2<|im_end|>"]
    blocks = kinds.MARKED.replace(
        "<|im_end|>{% endg", "{% endgeneration %}{% generation %}<|im_end|>{% endg"
    )
    assert learned(write(blocks, TWO)) == ["A<|im_end|>", "A2<|im_end|>"]


def test_blanks_belong_to_whoever_said_them():
    said = turns(" Q\n", "\n\nA ", "Q2", " A2\n")
    assert learned(write(CHATML, said)) == ["\n\nA <|im_end|>", " A2\n<|im_end|>"]
    assert learned(write(kinds.OPENS, said)) == ["\n\nA <|endoftext|>", " A2\n<|endoftext|>"]
    assert learned(write(kinds.HEADERS, said)) == ["A<|eot|>", "A2<|eot|>"]


def test_what_a_template_leaves_out_is_told():
    def notes(template, said):
        return sorted(write(template, said).notes)

    late = turns("Q", "A", system="Be kind.")
    assert notes(kinds.LATE_SYSTEM, late) == ["system"]
    assert learned(write(kinds.LATE_SYSTEM, late)) == [" A<|endoftext|>"]
    asked = write(kinds.LATE_SYSTEM, late[:2], asking=True).stretches
    assert asked[0].text == "<bos>[INST] Be kind.\n\nQ[/INST]"
    assert notes(kinds.FIRST_TURN, late) == []
    asked = write(kinds.FIRST_TURN, late[:2], asking=True).stretches
    assert "".join(part.text for part in asked).startswith("<bos><turn>user\nBe kind.\n\nQ<end>\n")
    assert notes(kinds.OWN_SYSTEM, late) == [] and notes(kinds.OWN_SYSTEM, TWO) == ["dated"]
    assert notes(kinds.THINKS, TWO) == []
    assert notes(kinds.THINKS, turns("Q", f"{THOUGHT}A", "Q2", f"{THOUGHT}A2")) == ["reasoning"]
    assert notes(kinds.OPENS, turns("Q", f"{THOUGHT}A")) == ["reasoning", "unasked"]
    assert notes(kinds.OPENS, turns("Q", "A")) == ["unasked"]
    assert notes(kinds.DATED, turns("Q", "A")) == ["dated"]
    # Marks stand between the text that asks for an answer and the answer.
    assert notes(kinds.MARKED, TWO) == []
    opened = kinds.MARKED.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    assert notes(opened, TWO) == ["unasked"]
    forgetful = "{% for m in messages %}{% if loop.last %}{{ m.content }}|{% endif %}{% endfor %}"
    assert notes(forgetful, TWO) == ["assistant", "unasked", "user"]
    assert learned(write(forgetful, TWO)) == ["A2|"]


def test_thoughts_are_learned_where_they_are_written():
    said = turns("Q", f"{THOUGHT}A", "Q2", f"{THOUGHT}A2")
    assert learned(write(kinds.THINKS, said)) == ["A<|im_end|>", f"{THOUGHT}A2<|im_end|>"]
    # With an empty thought in the question, answers begin behind it.
    assert learned(write(kinds.THINKS, TWO, thinking=False)) == ["A<|im_end|>", "A2<|im_end|>"]
    asked = [
        "".join(
            part.text for part in write(kinds.THINKS, TWO[:1], asking=True, thinking=on).stretches
        )
        for on in (None, True, False)
    ]
    assert [text.endswith(EMPTY) for text in asked] == [False, False, True]


def rules(**changes):
    return dataclasses.replace(text_rules.FIXED, **changes)


def examples(template, row, **changes):
    tokens = tokenizer(template)
    template = prompts.load_template("chat", tokens, rules(**changes))
    encoding = encode.Encoding(template, tokens, 512, "error", 999)
    return encode.encode([row], encoding, train_on="response"), tokens


@pytest.mark.parametrize("template", [kinds.THINKS, kinds.CHANNELS, CHATML])
def test_thoughts_are_kept_or_dropped(template):
    row = Record((Message("user", "Q"), Message("assistant", f"{THOUGHT}A")), "", "s", "row 0")
    kept, tokens = examples(template, row)
    dropped, _ = examples(template, row, reasoning="drop")
    assert "hm" in tokens.decode(kept.ids) and "hm" not in tokens.decode(dropped.ids)
    assert (kept.counts.notes, dropped.counts.notes) == ({}, {"dropped": 1})
    # A field of its own, where the template reads one.
    channel = "<|channel|>analysis<|message|>hm<|end|>" in tokens.decode(kept.ids)
    assert channel is (template is kinds.CHANNELS)


def test_the_day_is_the_settings():
    tokens = tokenizer(kinds.DATED)
    chat = prompts.load_template("chat", tokens, rules(chat=ChatSettings(DAY, None)))
    row = Record((Message("user", "Q"),), "", "s", "row 0")
    assert chat.prompt(row).startswith("<bos>[SYS]Today is 04 May 2031.[/SYS]")
    assert (
        prompts.load_template("chat", tokens).prompt(row).startswith("<bos>[SYS]Today is 26 July")
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[0].content['x'].y }}", "no attribute 'x'"),
        ("{{ messages[9].content.x }}", "list object has no element 9"),
        ("{{ 2.0 ** 99999 }}", "OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages | nonesuch }}", "line 1: No filter named 'nonesuch'"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if messages[1].content == 'A' %}B{% endif %}", None),
    ],
)
def test_whatever_a_template_raises_is_one_line_with_its_row(template, why):
    row = Record((Message("user", "Q"), Message("assistant", "A")), "", "s", "rows.jsonl line 7")
    found = "it changes the messages in ways that cannot" if why is None else why
    with pytest.raises(DataError, match="rows.jsonl line 7: the chat template refuses") as caught:
        examples(template, row)
    assert found in str(caught.value) and "\n" not in str(caught.value)
    skipped = dataclasses.replace(row, optional=True)
    with pytest.raises(DataError, match="no example is left of 1 rows"):
        examples(template, skipped)


def test_templates_that_cannot_be_read_or_used():
    with pytest.raises(CheckpointError, match="cannot be read .line 1: Unexpected end of template"):
        ChatTemplate(tokenizer("{% if x %}"), text_rules.FIXED.chat)
    with pytest.raises(CheckpointError, match="row 3: .*the chat template was stopped: it needs"):
        row = Record((Message("user", "Q"), Message("assistant", "A")), "", "s", "row 3")
        examples("{{ 'a' * 10 ** 11 }}", row)
    mixed = "{{ messages[1].content }}{{ messages[0].content }}{{ messages[1].content }}"
    assert isinstance(write(mixed, TWO[:2]), Unwritable)


def test_a_template_is_continued_where_its_last_turn_ends():
    chat = ChatTemplate(tokenizer(CHATML), text_rules.FIXED.chat)
    found = chat.begun(turns("Q", "The answer is "))
    assert found.endswith("assistant\nThe answer is ")
    assert found == chat._control.encode(
        tokenizer(CHATML).apply_chat_template(
            turns("Q", "The answer is "), tokenize=False, continue_final_message=True
        )
    )


@pytest.mark.parametrize("digit", list("0123456789"))
def test_a_digit_is_continued_behind_itself(digit):
    chat = prompts.load_template("chat", tokenizer(kinds.HEADERS)).chat
    assert chat.begun(turns("Q", digit)).endswith(f"\n\n{digit}")


def test_a_text_that_says_what_a_template_looks_for_is_followed():
    said = turns("What does </think> mean?", "It ends <think>.")
    assert learned(write(kinds.THINKS, said)) == [f"{EMPTY}It ends <think>.<|im_end|>"]
    assert learned(write(kinds.LOUD, turns("a\n\nb", "c\n\nd"))) == ["C\nD<|im_end|>"]


def test_llamas_space_is_no_part_of_a_chat():
    tokens = llama(chat_template=kinds.LATE_SYSTEM)
    rows = [Record(tuple(Message(**turn) for turn in TWO), "", "s", "row 0")]
    encoding = encode.Encoding(prompts.load_template("chat", tokens), tokens, 512, "error", 999)
    ids, _ = encode.encode(rows, encoding, train_on="response").example(0)
    assert ids.tolist() == tokens.apply_chat_template(TWO, return_dict=False)


def test_several_templates_without_a_default_are_refused():
    tokens = qwen(chat_template={"tool_use": CHATML, "rag": CHATML})
    with pytest.raises(ConfigError, match=r"several chat templates \(tool_use, rag\), none of"):
        prompts.load_template("chat", tokens)
    tokens = qwen(chat_template={"tool_use": "{{ 1 }}", "default": CHATML})
    assert prompts.load_template("chat", tokens).chat.end == "<|im_end|>"
