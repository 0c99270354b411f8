"""The tokenizer of a folder gives the ids that its own library gives."""

import json
import random

import pytest
import sentencepiece

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders.tokenizer import load_tokenizer
from tests.tiny_tokenizers import CHATML, CORPUS, llama, sentencepiece_model


def texts(count=300):
    """Pieces of known text with spaces, line breaks and unknown letters strewn in."""
    source = random.Random(0)
    words = " ".join(CORPUS[:4]).split(" ")
    breaks = [" ", "  ", "   ", "\n", "\n\n", "\t", " é", "日", " </s>", "<s>"]
    return [
        source.choice(["", " ", "  "])
        + "".join(source.choice(words) + source.choice(breaks) for _ in range(12))
        for _ in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    return tmp_path


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer"},
        {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}},
    ],
)
def test_sentencepiece_model(folder, settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    found = tokenizer(texts(), split_special_tokens=True).input_ids
    assert found == [[reference.bos_id(), *reference.encode(text)] for text in texts()]
    assert [tokenizer.decode(ids[1:]) for ids in found] == texts()
    assert tokenizer.eos_token_id == reference.eos_id()
    assert tokenizer("a</s>").input_ids[-1] == reference.eos_id()


def test_sentencepiece_settings(folder):
    settings = {"add_bos_token": False, "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == CHATML
    assert tokenizer("task").input_ids == tokenizer("task", add_special_tokens=False).input_ids


def test_saved_tokenizer_loads_again(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again(texts()).input_ids == tokenizer(texts()).input_ids
    assert (again.bos_token, again.eos_token) == ("<s>", "</s>")


def test_fast_tokenizer(tmp_path):
    llama().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)(texts()).input_ids == llama()(texts()).input_ids


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer; expected tokenizer.json, or tokenizer.model"),
        ({"tokenizer.json": "{"}, "tokenizer.json: not valid JSON"),
        ({"tokenizer.json": "[]"}, "expected a JSON object, found list"),
        ({"tokenizer.json": "{}"}, "added_tokens, model missing"),
        ({"tokenizer.json": '{"model": {}, "added_tokens": 5}'}, "cannot be loaded"),
        ({"tokenizer.model": "text"}, "tokenizer.model: not a SentencePiece model"),
        ({"tokenizer.model": ""}, "expected a BPE model without text normalisation"),
        ({"tokenizer_config.json": "{"}, "tokenizer_config.json: not valid JSON"),
    ],
)
def test_broken_folders(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(tmp_path)
    assert message in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"model_type": "llama", "bos_token_id": [1, 2]}, "config.json: refused"),
        ("config.json", {"model_type": "llama", "rms_norm_eps": 0}, "config.json: refused"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": []}}, "cannot be loaded"),
        ("tokenizer.json", {"added_tokens": [{"id": -1, "content": "<s>"}]}, "cannot be loaded"),
    ],
)
def test_values_that_the_libraries_refuse_are_one_line(file, values, message, tmp_path):
    llama().save_pretrained(tmp_path)
    path = tmp_path / file
    given = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(given | values))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_missing_folder_is_not_looked_up_elsewhere(tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path / "none")


def test_code_in_the_folder_is_not_run(tmp_path):
    llama().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()
