"""Tokenizers of GGUF files: what the file's own tokenizer gives, token by token."""

import json
import os

import jax.numpy as jnp
import pytest
import transformers

from safety_jax.base.errors import CheckpointError
from safety_jax.models.decoding.ends import model_ends
from safety_jax.models.folders import hf, hub, model_folder
from safety_jax.models.folders.tokenizer import load_tokenizer
from tests.golden import cases, gguf_files
from tests.test_tokenizer import texts
from tests.tiny_tokenizers import CHATML, qwen, sentencepiece_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def qwen_file(tmp_path):
    """A model with a byte-level tokenizer and a chat template."""
    content = json.loads(qwen().backend_tokenizer.to_str())
    config = cases.read_config("llama_tied") | {"vocab_size": 440}
    ids = {"eos_token_id": 2, "bos_token_id": 1, "padding_token_id": 0, "eot_token_id": 5}
    return gguf_files.write(
        tmp_path / "chat.gguf",
        config,
        "F16",
        lambda writer: gguf_files.add_tokenizer(
            writer, content, pre="gpt-2", chat_template=CHATML, **ids
        ),
    )


def test_byte_level_tokenizer(qwen_file):
    folder = hub.resolve(qwen_file)
    tokenizer = load_tokenizer(folder)
    strewn = [*texts(50), "<|im_start|>user\n<|im_end|>", "it's 1984"]
    assert tokenizer(strewn).input_ids == qwen()(strewn).input_ids
    assert tokenizer.decode(tokenizer("it's 1984 日").input_ids) == "it's 1984 日"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == CHATML
    # The named ends, and <|endoftext|>, at which llama.cpp ends as well.
    assert model_ends(folder, tokenizer) == (0, 2, 5)


SPLITS = ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"]


@pytest.mark.parametrize("pre", SPLITS)
def test_how_text_is_split_first(pre, tmp_path):
    """Token by token what text is cut into when nothing is merged."""
    content = json.loads(qwen().backend_tokenizer.to_str())
    content["model"]["merges"] = [["Ġ", "t"]]
    file = gguf_files.write(
        tmp_path / "a.gguf",
        cases.read_config("llama_tied") | {"vocab_size": 440},
        change=lambda writer: gguf_files.add_tokenizer(writer, content, pre=pre),
    )
    backend = load_tokenizer(hub.resolve(file)).backend_tokenizer
    cut = [text for text, _ in backend.pre_tokenizer.pre_tokenize_str("It'S 1234  (a)\n\n")]
    assert (
        cut
        == {
            "gpt-2": ["It", "'", "S", "Ġ1234", "Ġ", "Ġ(", "a", ")", "ĊĊ"],
            "smollm": ["It", "'", "S", "Ġ", "1", "2", "3", "4", "Ġ", "Ġ(", "a", ")", "ĊĊ"],
            "llama-bpe": ["It", "'S", "Ġ", "123", "4", "Ġ", "Ġ(", "a", ")ĊĊ"],
            "qwen2": ["It", "'S", "Ġ", "1", "2", "3", "4", "Ġ", "Ġ(", "a", ")ĊĊ"],
            "tekken": ["It", "'S", "Ġ", "1", "2", "3", "4", "Ġ", "Ġ(", "a", ")ĊĊ"],
        }[pre]
    )


def add_pieces(writer, **settings):
    from sentencepiece import sentencepiece_model_pb2

    pieces = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model()).pieces
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    gguf_files.add_settings(writer, settings)


@pytest.mark.parametrize("settings", [{}, {"bos_token_id": 1, "eos_token_id": 2}])
def test_sentencepiece_tokenizer(settings, tmp_path):
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    config = cases.read_config("llama_tied") | {"vocab_size": 440}
    file = tmp_path / "a.gguf"
    gguf_files.write(file, config, "F16", lambda writer: add_pieces(writer, **settings))
    tokenizer = load_tokenizer(hub.resolve(file))
    found = tokenizer(texts(), split_special_tokens=True).input_ids
    assert found == [[reference.bos_id(), *reference.encode(text)] for text in texts()]
    assert [tokenizer.decode(ids[1:]) for ids in found] == texts()
    assert tokenizer.eos_token_id == reference.eos_id()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pre": "deepseek-llm"}, "tokenizer.ggml.pre is 'deepseek-llm'; expected one of gpt-2, "),
        ({"pre": "gpt-2", "eos_token_id": 1 << 20}, "eos_token_id is 1048576"),
        ({"pre": "gpt-2", "add_bos_token": 1}, "add_bos_token is 1; expected true or false"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_may_be_replaced(settings, message, tmp_path, one_device):
    content = json.loads(qwen().backend_tokenizer.to_str())
    file = gguf_files.write(
        tmp_path / "a.gguf",
        cases.read_config("llama_tied") | {"vocab_size": 440},
        change=lambda writer: gguf_files.add_tokenizer(writer, content, **settings),
    )
    how = {"kernels": "stored", "compute_dtype": jnp.float32, "backend": "xla", "remat": "none"}
    with pytest.raises(CheckpointError) as raised:
        model_folder.open_model(str(file), one_device, own_tokenizer="", **how)
    assert str(file) in str(raised.value) and message in str(raised.value)
    qwen().save_pretrained(tmp_path / "own")
    opened_ = model_folder.open_model(
        str(file), one_device, own_tokenizer=str(tmp_path / "own"), **how
    )
    assert opened_.ends == (2,)


def test_an_export_is_an_ordinary_folder(qwen_file, tmp_path, one_device):
    folder = hub.resolve(qwen_file)
    config = hf.read_config(folder)
    weights = hf.load(folder, config, one_device, jnp.float32)
    target = tmp_path / "export"
    hf.export(target, weights, config, folder, jnp.float32, 1 << 40)
    assert sorted(os.listdir(target)) == [
        *("chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    described = transformers.AutoConfig.from_pretrained(target)
    assert (described.model_type, described.vocab_size) == ("llama", 440)
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    assert tokenizer(texts(9)).input_ids == qwen()(texts(9)).input_ids
    assert model_ends(target, tokenizer) == (0, 2, 5)
