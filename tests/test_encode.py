"""Masks and ids by the rules at the top of encode.py, for tokenizers with and without BOS."""

import dataclasses

import numpy as np
import pytest
from tokenizers import normalizers, processors

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.building import PromptRoom
from safety_jax.data.encode import Encoding, encode
from safety_jax.data.examples import preview
from safety_jax.data.messages import Message
from safety_jax.data.prompt_ids import encode_prompts
from safety_jax.data.prompts import load_template
from safety_jax.data.records import Record
from tests.tiny_tokenizers import CHATML, INST, llama, qwen


def record(*texts, where="a.json row 3", context=""):
    roles = ("user", "assistant") * len(texts)
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    return Record(tuple(messages), context, "a", where)


def run(records, tokenizer, template="alpaca", **settings):
    train_on = settings.pop("train_on", "response")
    limits = {"max_length": 512, "overlong_prompt": "error", "vocabulary_size": 1000} | settings
    encoding = Encoding(load_template(template, tokenizer), tokenizer, **limits)
    return encode(records, encoding, train_on=train_on)


def one(row, tokenizer, template="alpaca", **settings):
    """Prompt ids and trained ids of a row whose trained tokens are its last ones."""
    examples = run([row], tokenizer, template, **settings)
    ids, mask = examples.example(0)
    prompt_length = int(np.argmax(mask))
    assert mask[prompt_length:].all()
    return ids[:prompt_length].tolist(), ids[prompt_length:].tolist()


ANSWERS = [
    "Red, green and blue.",
    "\n\nRed",  # melts with the newline that ends the prompt, where newlines merge
    " Red",
    "  \nbake bread",
    "é日🙂",
    "<s>bold</s> <|im_end|>",
    "x",
]
TOKENIZERS = [llama, qwen]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("template", ["alpaca", "plain"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_prompt_is_what_inference_feeds_and_the_answer_ends_once(make, template, answer):
    tokenizer = make()
    row = record("Name three colours.", answer)
    prompt, trained = one(row, tokenizer, template)
    text = load_template(template, tokenizer).prompt(row)
    assert prompt == tokenizer(text).input_ids
    assert [prompt] == encode_prompts([row], load_template(template, tokenizer), tokenizer)
    assert trained[-1] == tokenizer.eos_token_id
    whole = prompt + trained
    assert whole.count(tokenizer.eos_token_id) == 1
    if tokenizer.bos_token_id is not None:
        assert whole[0] == tokenizer.bos_token_id and whole.count(tokenizer.bos_token_id) == 1
    # Nothing of the text is lost or added where prompt and answer meet.
    assert tokenizer.decode(whole, skip_special_tokens=True) == text + answer


def test_melting_boundary_is_cut_at_the_prompt():
    # The text as a whole would hold a token of three newlines, of which the prompt has one.
    tokenizer = qwen()
    row = record("Bake", "\n\nRed")
    text = load_template("alpaca", tokenizer).prompt(row)
    jointly = tokenizer(text + "\n\nRed").input_ids
    prompt, trained = one(row, tokenizer)
    assert jointly[: len(prompt)] != prompt
    assert trained == tokenizer("\n\nRed").input_ids + [tokenizer.eos_token_id]


def test_stable_boundary_is_tokenized_jointly():
    # By itself "Red" would begin with LLaMA's space; behind a newline it must not.
    tokenizer = llama()
    row = record("Bake", "Red")
    _, trained = one(row, tokenizer)
    jointly = tokenizer(load_template("alpaca", tokenizer).prompt(row) + "Red").input_ids
    assert trained == jointly[-len(trained) + 1 :] + [tokenizer.eos_token_id]
    assert trained[:-1] != tokenizer("Red", add_special_tokens=False).input_ids


def test_melting_boundary_adds_no_space(tmp_path):
    # LLaMA's own space in front of a text would be a second one behind a prompt that ends in one.
    path = tmp_path / "spaced.json"
    path.write_text(
        '{"prompt_input": "{instruction} {input} ", "prompt_no_input": "{instruction} "}'
    )
    tokenizer = llama()
    row = record("###", "task")
    jointly = tokenizer("### task").input_ids
    prompt, trained = one(row, tokenizer, f"file:{path}")
    assert jointly[: len(prompt)] != prompt
    assert tokenizer.decode(prompt + trained) == "<s> ### task</s>"


def test_tokenizer_that_has_bos_but_does_not_use_it():
    tokenizer = llama()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    prompt, trained = one(record("Bake", "Red"), tokenizer)
    with_bos = one(record("Bake", "Red"), llama())
    assert ([tokenizer.bos_token_id, *prompt], trained) == with_bos


def test_tokenizer_that_adds_eos_gets_one():
    tokenizer = llama()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    prompt, trained = one(record("Bake", "Red"), tokenizer)
    assert (prompt, trained) == one(record("Bake", "Red"), llama())


def test_everything_trains_all_but_the_first_token():
    for tokenizer in (llama(), qwen()):
        row = record("Bake", "Red")
        answer_only = run([row], tokenizer)
        everything = run([row], tokenizer, train_on="everything")
        np.testing.assert_array_equal(everything.ids, answer_only.ids)
        assert not everything.mask[0] and everything.mask[1:].all()


@pytest.mark.parametrize(("make", "template"), [(qwen, CHATML), (llama, INST)])
def test_chat_trains_every_answer_with_its_end(make, template):
    tokenizer = make(chat_template=template)
    row = record("Bake bread?", "Mix flour.", "Then?", "Wait. ")
    examples = run([row], tokenizer, "chat")
    ids, mask = examples.example(0)
    turns = [{"role": m.role, "content": m.content} for m in row.messages]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    # The template's newline behind the last EOS is left out; nothing else is added or lost.
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
    assert ids.tolist() == whole[:end]
    # The two answers, each with the mark that ends it, and nothing else.
    starts, stops = (np.flatnonzero(np.diff(np.r_[0, mask, 0]) == sign) for sign in (1, -1))
    learned = [tokenizer.decode(ids[a:b]).strip() for a, b in zip(starts, stops, strict=True)]
    eos = tokenizer.eos_token
    assert [text.replace(" ", "") for text in learned] == [f"Mixflour.{eos}", f"Wait.{eos}"]


def test_chat_prompt_is_what_transformers_feeds():
    tokenizer = qwen(chat_template=CHATML)
    turns = [{"role": "user", "content": "Bake?"}]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    template = load_template("chat", tokenizer)
    assert encode_prompts([record("Bake?")], template, tokenizer) == [expected]
    assert one(record("Bake?", "Yes."), tokenizer, "chat")[0] == expected


def test_chat_template_that_does_not_end_in_eos_gets_one():
    tokenizer = llama(chat_template=INST.replace(" </s>", " "))
    _, trained = one(record("Bake?", "Yes."), tokenizer, "chat")
    assert trained.count(tokenizer.eos_token_id) == 1 and trained[-1] == tokenizer.eos_token_id


def lengths(row, tokenizer):
    return [len(part) for part in one(row, tokenizer)]


def test_long_text_loses_prompt_first_then_answer():
    tokenizer = llama()
    row = record("bake bread " * 20, "then wait " * 10)
    prompt, trained = one(row, tokenizer)
    whole = len(prompt) + len(trained)

    # A little too long: the prompt gives on its left, behind BOS.
    examples = run([row], tokenizer, max_length=whole - 5)
    assert examples.ids.tolist() == [prompt[0], *prompt[6:], *trained]
    assert (examples.counts.cut_prompts, examples.counts.cut_answers) == (1, 0)

    # Much too long: the prompt keeps a quarter, the answer loses its end and its EOS.
    row = record("bake bread " * 20, "then wait " * 200)
    prompt, trained = one(row, tokenizer, max_length=4096)
    size = len(prompt) + 20
    examples = run([row], tokenizer, max_length=size)
    keep = size // 4
    expected = [prompt[0], *prompt[len(prompt) - keep + 1 :], *trained[: size - keep]]
    assert examples.ids.tolist() == expected
    assert examples.mask.tolist() == [False] * keep + [True] * (size - keep)
    assert (examples.counts.cut_prompts, examples.counts.cut_answers) == (1, 1)
    assert tokenizer.eos_token_id not in expected

    # A prompt below the floor is left whole.
    row = record("Bake", "then wait " * 300)
    prompt, trained = one(row, tokenizer, max_length=4096)
    size = 4 * len(prompt)
    examples = run([row], tokenizer, max_length=size)
    assert examples.ids.tolist() == (prompt + trained)[:size]
    assert (examples.counts.cut_prompts, examples.counts.cut_answers) == (0, 1)


@pytest.mark.parametrize("surplus", [0, 1])
def test_eos_counts_as_part_of_the_answer(surplus):
    tokenizer = llama()
    prompt, trained = one(record("Bake", "Red"), tokenizer)
    size = len(prompt) + len(trained) - surplus
    examples = run([record("Bake", "Red")], tokenizer, max_length=size)
    assert len(examples.ids) == size and examples.ids[-1] == tokenizer.eos_token_id
    assert examples.counts.cut_prompts == surplus and examples.counts.cut_answers == 0


def test_cut_prompt_keeps_the_bos_of_its_chat_template():
    tokenizer = llama(chat_template=INST)
    row = record("bake bread " * 20, "then wait " * 10)
    prompt, trained = one(row, tokenizer, "chat")
    assert prompt[0] == tokenizer.bos_token_id
    examples = run([row], tokenizer, "chat", max_length=len(prompt) + len(trained) - 5)
    assert examples.ids.tolist() == [prompt[0], *prompt[6:], *trained]


def test_cut_dialogue_ends_in_an_answer():
    tokenizer = qwen(chat_template=CHATML)
    row = record("Bake?", "Yes.", "And then, what then, and when? " * 9, "Wait.")
    ids, mask = run([row], tokenizer, "chat").example(0)
    question = np.flatnonzero(mask)[-1] - 30  # inside the second question
    examples = run([row], tokenizer, "chat", max_length=int(question))
    assert examples.mask[-1] and examples.ids[-1] == tokenizer.eos_token_id
    assert examples.counts.cut_answers == 1
    assert examples.mask.sum() < mask.sum()


def test_prompt_that_leaves_no_room():
    tokenizer = llama()
    rows = [record("Bake", "Red"), record("bake bread " * 300, "Red", where="a.json row 9")]
    with pytest.raises(DataError, match="a.json row 9: its prompt has [0-9]+ tokens.*=256"):
        run(rows, tokenizer, max_length=256)
    examples = run(rows, tokenizer, max_length=256, overlong_prompt="skip")
    assert examples.where == ["a.json row 3"]
    assert examples.counts.skipped == {"prompt too long": 1}
    with pytest.raises(DataError, match="no example is left of 1 rows"):
        run(rows[1:], tokenizer, max_length=256, overlong_prompt="skip")

    # The boundary: a prompt may fill all but one token.
    prompt, _ = one(rows[0], tokenizer)
    with pytest.raises(DataError, match="its prompt has"):
        run(rows[:1], tokenizer, max_length=len(prompt))
    assert len(run(rows[:1], tokenizer, max_length=len(prompt) + 1).ids) == len(prompt) + 1
    # Of a prompt to answer, all but what the answer may take.
    room = PromptRoom(512, 128, "error")
    assert room.takes("row 1", 384) and not dataclasses.replace(room, overlong_prompt="skip").takes(
        "row 1", 385
    )
    with pytest.raises(DataError, match="at most 384, as data.max_length=512 keeps 128 for the"):
        room.takes("row 1", 385)


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="a.json row 3: nothing to train on"):
        run([record("Bake?")], llama())
    tokenizer = llama()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Red", "")
    with pytest.raises(DataError, match="a.json row 3: the answer has no tokens"):
        run([record("Bake?", "Red")], tokenizer)


def test_token_that_the_model_lacks():
    tokenizer = llama()
    rows = [record("é", "日"), record("é", "Red, green and blue.", where="a.json row 4")]
    highest = [max(run([row], tokenizer, "plain").ids) for row in rows]
    assert highest[0] < highest[1]
    run(rows, tokenizer, "plain", vocabulary_size=int(highest[1]) + 1)
    with pytest.raises(DataError, match=f"row 4: has token {highest[1]}; expected ids below"):
        run(rows, tokenizer, "plain", vocabulary_size=int(highest[1]))
    # The first token of a row is that row's.
    with pytest.raises(DataError, match="row 3: has token 1; expected ids below the model's 1,"):
        run(rows, tokenizer, "plain", vocabulary_size=1)


def test_settings_that_cannot_work():
    rows = [record("Bake", "Red")]
    with pytest.raises(ConfigError, match="data.train_on is 'all'; expected one of response"):
        run(rows, llama(), train_on="all")
    with pytest.raises(ConfigError, match="data.overlong_prompt is 'drop'"):
        run(rows, llama(), overlong_prompt="drop")
    with pytest.raises(ConfigError, match="data.max_length is 1"):
        run(rows, llama(), max_length=1)
    with pytest.raises(ConfigError, match="the tokenizer has no EOS"):
        run(rows, llama(eos_token=None))


def test_rows_keep_their_order_and_do_not_depend_on_each_other():
    tokenizer = llama()
    rows = [record(f"Bake {i}", "Red " * (i % 7 + 1), where=f"row {i}") for i in range(50)]
    examples = run(rows, tokenizer)
    assert examples.where == [row.where for row in rows] and examples.source == ["a"] * 50
    assert len(examples) == 50 and examples.offsets[-1] == len(examples.ids)
    for i, row in enumerate(rows):
        alone = run([row], tokenizer)
        ids, mask = examples.example(i)
        np.testing.assert_array_equal(ids, alone.ids)
        np.testing.assert_array_equal(mask, alone.mask)
        assert (examples.lengths[i], examples.trained_lengths[i]) == (len(ids), mask.sum())


def test_preview_marks_trained_text():
    tokenizer = llama()
    examples = run([record("Bake", "Red  \x1b[2Jé")], tokenizer)
    text = load_template("alpaca", tokenizer).prompt(record("Bake"))
    plain = preview(examples, 0, tokenizer, colour=False)
    assert plain.replace(" ", "") == f"<s>{text}[[Red\\x1b[2Jé</s>]]".replace(" ", "")
    assert "\x1b[32mRed  \\x1b[2Jé</s>\x1b[0m" in preview(examples, 0, tokenizer, colour=True)

    chat = qwen(chat_template=CHATML)
    examples = run([record("A", "B", "C", "D")], chat, "chat")
    assert preview(examples, 0, chat, colour=False) == (
        "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[[B<|im_end|>]]\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n[[D<|im_end|>]]"
    )


def test_answers_of_weight_0_are_context():
    """Read, and not trained; where everything is trained, such a row is refused."""
    chat = qwen(chat_template=CHATML)
    row = record("A", "B", "C", "D")
    first, bad, *others = row.messages
    row = dataclasses.replace(
        row, messages=(first, dataclasses.replace(bad, learned=False), *others)
    )
    examples = run([row], chat, "chat")
    assert preview(examples, 0, chat, colour=False) == (
        "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n[[D<|im_end|>]]"
    )
    with pytest.raises(
        DataError, match="a.json row 3: has an answer of weight 0, which data.train"
    ):
        run([row], chat, "chat", train_on="everything")
