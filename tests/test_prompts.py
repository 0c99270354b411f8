"""The wording of every template, to the letter, and which of its text is learned."""

import json

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.messages import Message
from safety_jax.data.prompts import identified as identify
from safety_jax.data.prompts import load_template
from safety_jax.data.records import Record
from safety_jax.data.template import Span
from tests.tiny_tokenizers import CHATML, INST, llama, qwen


def record(*texts, context="", system=None):
    roles = ("user", "assistant") * len(texts)
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    if system:
        messages = [Message("system", system), *messages]
    return Record(tuple(messages), context, "a", "a.json row 3")


def spans(template, row):
    found = template.spans(row)
    assert all(isinstance(span, Span) for span in found)
    return [(span.text, span.trained) for span in found]


def test_alpaca_is_the_papers_to_the_letter():
    alpaca = load_template("alpaca", llama())
    assert spans(alpaca, record("Name {input}.", "Red.\n")) == [
        (
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nName {input}.\n\n### Response:\n",
            False,
        ),
        ("Red.\n", True),
    ]
    assert alpaca.prompt(record("Sum up.", context="{instruction}")) == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSum up.\n\n### Input:\n{instruction}\n\n### Response:\n"
    )


def test_alpaca_turns():
    alpaca = load_template("alpaca", llama())
    (before, _), (answer, trained) = spans(alpaca, record("A", "B", "C", "D"))
    assert before.endswith("### Response:\nB\n\n### Instruction:\nC\n\n### Response:\n")
    assert before.count("Below is") == 1
    assert (answer, trained) == ("D", True)
    with pytest.raises(DataError, match="a.json row 3: has a system message"):
        alpaca.spans(record("A", "B", system="Be kind."))


def test_plain():
    plain = load_template("plain", llama())
    assert spans(plain, record("A", "B", context="text")) == [("A\n\ntext\n\n", False), ("B", True)]
    row = record("A", "B", "C", "D", system="Be kind.")
    assert spans(plain, row) == [("Be kind.\n\nA\n\nB\n\nC\n\n", False), ("D", True)]


def test_prompt_is_what_stands_before_the_last_answer():
    chat = load_template("chat", qwen(chat_template=CHATML))
    for template in (load_template("alpaca", qwen()), load_template("plain", qwen()), chat):
        row = record("A", "B", "C", "D")
        *before, last = template.spans(row)
        assert template.prompt(row) == "".join(span.text for span in before)
        assert last.trained and not before[-1].trained
        asked = record("A", "B", "C")
        assert template.prompt(asked) == template.prompt(row)
        assert not any(span.trained for span in load_template("plain", qwen()).spans(asked))


def test_template_file(tmp_path):
    path = tmp_path / "mine.json"
    wording = {"prompt_input": "Q {instruction} ({input}) A", "prompt_no_input": "Q{instruction}A"}
    path.write_text(json.dumps(wording))
    mine = load_template(f"file:{path}", llama())
    assert mine.prompt(record("x", context="y")) == "Q x (y) A"
    assert mine.prompt(record("x")) == "QxA"
    with pytest.raises(DataError, match="several turns.*add next_turn"):
        mine.prompt(record("x", "y", "z"))
    path.write_text(json.dumps(wording | {"next_turn": "|{instruction}>"}))
    assert load_template(f"file:{path}", llama()).prompt(record("x", "y", "z")) == "QxAy|z>"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"prompt_input": "{instruction} {input}"}',
        '{"prompt_input": "{instruction}", "prompt_no_input": "{instruction}"}',
        '{"prompt_input": "{instruction}{input}", "prompt_no_input": "fixed"}',
        '{"prompt_input": "{instruction}{input}", "prompt_no_input": "{instruction}", '
        '"next_turn": "again"}',
        '{"prompt_input": "{instruction}{input}", "prompt_no_input": "{instruction}{response}"}',
        '{"prompt_input": "{system} {instruction}{input}", "prompt_no_input": "{instruction}"}',
        '{"prompt_input": "{instruction}{input}", "prompt_no_input": "{{instruction}}"}',
        '{"prompt_input": "{instruction}{input}", "prompt_no_input": "{% if x %}{instruction}"}',
        '{"prompt_input": "{instruction}{input}", "prompt_no_input": "{instruction}", '
        '"next_turn": "{instruction}{ output }"}',
    ],
)
def test_broken_template_files(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="mine.json.*; expected"):
        load_template(f"file:{path}", llama())


def test_braces_that_name_nothing_are_text(tmp_path):
    wording = 'Answer in JSON, as {"a": {}} and {x}. {instruction}'
    path = tmp_path / "mine.json"
    content = {"prompt_input": f"{wording}{{input}}", "prompt_no_input": wording}
    path.write_text(json.dumps(content))
    asked = load_template(f"file:{path}", llama()).prompt(record("Why?"))
    assert asked == 'Answer in JSON, as {"a": {}} and {x}. Why?'


def test_unknown_templates(tmp_path):
    with pytest.raises(ConfigError, match="'alpacca'; expected alpaca, .*, chat or file:PATH"):
        load_template("alpacca", llama())
    with pytest.raises(ConfigError, match="none.json: no such file; expected a JSON file"):
        load_template(f"file:{tmp_path}/none.json", llama())
    with pytest.raises(ConfigError, match="no chat template; expected one in"):
        load_template("chat", llama())


def test_chat_learns_every_answer_and_its_end():
    chat = load_template("chat", qwen(chat_template=CHATML))
    row = record("A", "B", "C", "D", system="Be kind.", context="text")
    assert spans(chat, row) == [
        (
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nA\n\ntext<|im_end|>\n"
            "<|im_start|>assistant\n",
            False,
        ),
        ("B<|im_end|>", True),
        ("\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n", False),
        ("D<|im_end|>", True),
    ]


def test_chat_as_llama_2():
    chat = load_template("chat", llama(chat_template=INST))
    assert spans(chat, record("A", "B")) == [("<s>[INST] A [/INST]", False), (" B </s>", True)]
    with pytest.raises(DataError, match="a.json row 3: the chat template refuses.*no system"):
        chat.spans(record("A", "B", system="Be kind."))


def test_files_that_are_no_wording(tmp_path):
    deep, jinja = tmp_path / "deep.json", tmp_path / "chat_template.jinja"
    deep.write_text("[" * 100_000)
    jinja.write_text(CHATML)
    with pytest.raises(ConfigError, match="deep.json: not valid JSON"):
        load_template(f"file:{deep}", llama())
    with pytest.raises(ConfigError, match="is a chat template; .* model.tokenizer to a folder"):
        load_template(f"file:{jinja}", llama())
    written = {"prompt_input": "{instruction} {input}", "prompt_no_input": "{instruction}|"}
    deep.write_text("\ufeff" + json.dumps(written))  # as some Windows tools write it
    assert load_template(f"file:{deep}", llama()).prompt(record("x", "y")) == "x|"


def test_a_template_file_is_what_it_says(tmp_path):
    """Other words under the same path are another template."""
    path = tmp_path / "own.json"

    def identified(with_input: str, **more) -> str:
        path.write_text(
            json.dumps({"prompt_input": with_input, "prompt_no_input": "{instruction}\n"} | more)
        )
        return identify(f"file:{path}")

    plain = identified("{instruction} {input}")
    assert plain.startswith(f"file:{path}, sha256 ")
    assert identified("{instruction} {input}", description="of alpaca-lora's files") == plain
    others = (
        identified("{instruction}: {input}"),
        identified("{instruction} {input}", next_turn="{instruction}"),
    )
    assert len({plain, *others}) == 3
    assert [identify(name) for name in ("chat", "alpaca")] == ["chat", "alpaca"]
