"""Where answers end: at the ids that `generate` of transformers stops at, and at stop strings."""

import json

import pytest
import transformers

from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models.decoding.ends import endings, model_ends
from tests import tiny_tokenizers

NAMED = {
    "a list beside one id": ({"eos_token_id": [7, 0]}, {"eos_token_id": 7}),
    "one id beside a list": ({"eos_token_id": 9}, {"eos_token_id": [7, 11]}),
    "only in config.json": (None, {"eos_token_id": [5, 3]}),
    "only the tokenizer's": (None, {}),
    "null": ({"eos_token_id": None}, {"eos_token_id": 4}),
    "both": ({"eos_token_id": [1, 1, 8]}, {"eos_token_id": [1, 8]}),
}


@pytest.mark.parametrize("case", NAMED)
def test_ids_are_those_of_generate_and_the_tokenizers_eos(case, tmp_path):
    """What generate stops at is `eos_token_id` of the GenerationConfig that it loads."""
    generation, config = NAMED[case]
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    source = {} if generation is not None else {
        "config_file_name": "config.json", "_from_model_config": True
    }  # fmt: skip
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path, **source).eos_token_id
    expected = {theirs} if isinstance(theirs, int) else set(theirs or ())
    tokens = tiny_tokenizers.llama()
    assert model_ends(tmp_path, tokens) == tuple(sorted(expected | {tokens.eos_token_id}))


@pytest.mark.parametrize("named", ["2", [2, None], True, {"id": 2}, [[2]], 1.0])
def test_what_is_no_id_is_one_line(named, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": named}))
    with pytest.raises(CheckpointError, match=r"config.json: eos_token_id is .*; expected a token"):
        model_ends(tmp_path, tiny_tokenizers.llama())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="names an end of answers"):
        model_ends(tmp_path, tiny_tokenizers.llama(eos_token=None))


def stop_at(*strings: str):
    """Ends and stop of a ChatML tokenizer whose EOS is 0, and ids with a turn in them."""
    tokens = tiny_tokenizers.qwen(eos_token="<|endoftext|>")
    ids = tokens.encode("Say no.<|im_end|>\n<|im_start|>user\nWhy?", add_special_tokens=False)
    text = lambda ids: tokens.decode(ids, skip_special_tokens=True)  # noqa: E731
    return tokens, ids, endings(tokens, (0,), strings, text)


def test_a_stop_string_that_is_a_special_token_is_an_end():
    tokens, ids, (ends, stop) = stop_at("<|im_end|>", "\n\n")
    assert ends == (0, tokens.convert_tokens_to_ids("<|im_end|>"))
    assert stop.strings == ("\n\n",) and stop.cut(ids, 0) is None


@pytest.mark.parametrize(
    ("string", "text", "last"),
    [
        ("<|im_end|>\n", "Say no.", "\n"),
        ("no.<|im_end|>", "Say ", "<|im_end|>"),
        ("<|im_start|>us", "Say no.\n", "user"),
        ("Why", "Say no.\nuser\n", "Why"),
        ("<|im_start|>system", None, None),
    ],
)
def test_strings_may_hold_special_tokens(string, text, last):
    """As `stop_strings` of transformers, which matches the text of every token."""
    tokens, ids, (ends, stop) = stop_at(string)
    found = stop.cut(ids, 0)
    assert ends == (0,)
    if text is None:
        assert found is None
        return
    count, before = found
    assert before == text
    whole = tokens.decode(ids[:count])
    assert string in whole and string not in tokens.decode(ids[: count - 1])
    assert whole.endswith(last)


def test_an_end_that_is_a_word_stays_in_the_text():
    """`generate` gives it back and decoding shows it; a mark is left out, special or not."""
    tokens, ids, _ = stop_at()
    tokens.add_tokens(["<end>"])
    word, mark = ids[1], tokens.convert_tokens_to_ids("<end>")
    ends, stop = endings(tokens, (0, word, mark), (), tokens.decode)
    assert stop.read([ids[0], word], ends) == tokens.decode(ids[:2])
    assert stop.read([ids[0], mark], ends) == stop.read([ids[0], 0], ends) == tokens.decode(ids[:1])
    assert stop.read([ids[0], ids[2]], ends) == tokens.decode([ids[0], ids[2]])


def test_an_empty_string_is_refused():
    with pytest.raises(ConfigError, match="none of them empty"):
        stop_at("x", "")


def test_a_line_break_as_a_shell_spells_it_is_refused():
    for text in (r"\n", r"\n\n", r"\nUser:", r"a\t"):
        with pytest.raises(ConfigError, match="a backslash and a letter, which no line break is"):
            stop_at("x", text)
    stop_at("x", "\n", r"\nabla", r"\\")
