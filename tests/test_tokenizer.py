"""The tokenizer of a folder gives the ids that its own library gives."""

import json
import random

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import tokenizer_files
from safety_jax.models.folders.tokenizer import load_tokenizer
from tests.tiny_tokenizers import CHATML, CORPUS, llama, qwen, sentencepiece_model


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


def test_tokens_of_a_sentencepiece_model_that_are_never_split(folder):
    """As in Gemma's: marks of turns, tags and runs of blanks that its makers chose."""
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    known = {piece.piece: piece for piece in model.pieces}
    chosen = ("▁▁", "▁▁▁", "\n", "\n\n", "<b>", "<turn>")
    for text, kind in (*((text, 4) for text in chosen), ("[A]", 3)):
        piece = known[text] if text in known else model.pieces.add(piece=text)
        piece.type, piece.score = kind, 0.0
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    special = {"1": {"content": "<turn>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": special}))
    tokenizer = load_tokenizer(folder)
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    for text in ("a<turn>user\n b", "<b>task</b>", "a   b\n\n  a", "\n<turn>"):
        assert tokenizer(text, add_special_tokens=False).input_ids == reference.encode(text)
    ids = tokenizer("[A]a<turn>", add_special_tokens=False).input_ids
    assert [ids[0], ids[-1]] == [reference.piece_to_id("[A]"), reference.piece_to_id("<turn>")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_sentencepiece_settings(folder):
    settings = {"add_bos_token": False, "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == CHATML
    assert tokenizer("task").input_ids == tokenizer("task", add_special_tokens=False).input_ids


def test_the_chat_template_of_a_sentencepiece_folder_is_where_transformers_looks(folder):
    listed = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert load_tokenizer(folder).chat_template == {"default": "A", "tool_use": "B"}
    (folder / "chat_template.jinja").write_text("C")
    assert load_tokenizer(folder).chat_template == "C"
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="chat_template.jinja: cannot be read"):
        load_tokenizer(folder)


def test_saved_tokenizer_loads_again(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again(texts()).input_ids == tokenizer(texts()).input_ids
    assert (again.bos_token, again.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_vocabularies_of_early_releases(kind, tmp_path):
    """Published classifiers are often older than tokenizer.json."""
    config = tmp_path / "config.json"
    if kind == "bert":
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\na\n##b\n")
        expected = [2, 5, 6, 7, 3]
    else:
        backend = Tokenizer(models.BPE())
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        backend.train_from_iterator(
            [], trainers.BpeTrainer(special_tokens=special, initial_alphabet=["a", "b", "Ġ"])
        )
        backend.model.save(str(tmp_path))
        ids = backend.get_vocab()
        expected = [0, ids["a"], ids["Ġ"], ids["a"], ids["b"], 2]
    config.write_text(json.dumps({"model_type": kind}))
    text = "Hello ab" if kind == "bert" else "a ab"
    assert load_tokenizer(tmp_path)(text).input_ids == expected
    config.write_text('{"model_type": "llama"}')  # its class would split text in another way
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_fast_tokenizer(tmp_path):
    llama().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)(texts()).input_ids == llama()(texts()).input_ids


@pytest.mark.parametrize(
    ("make", "named", "model_type"),
    [
        (llama, "LlamaTokenizer", "llama"),  # LLaMA 2, Mistral 7B, TinyLlama
        (llama, None, "qwen2"),
        (qwen, "GPT2Tokenizer", "llama"),
        (qwen, "Qwen2Tokenizer", "llama"),
        (qwen, None, "gemma3_text"),
    ],
)
def test_texts_are_read_as_the_file_says_whatever_its_class_makes(
    make, named, model_type, tmp_path
):
    tokenizer = make(additional_special_tokens=["<turn>"])
    if make is qwen:  # as LLaMA 3 splits texts, and GPT-2 does not
        split = pre_tokenizers.Split(Regex(r"\p{L}+|\s*[\r\n]+|\s+"), "isolated")
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.backend_tokenizer.model.ignore_merges = True
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["tokenizer_class"]
    path.write_text(json.dumps(settings | ({"tokenizer_class": named} if named else {})))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    found, file = load_tokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    said = [*texts(50), "<turn>user\n\nsay no<turn>\n", " <turn> a"]
    assert found(said, add_special_tokens=False).input_ids == [
        file.encode(text, add_special_tokens=False).ids for text in said
    ]
    assert found(said[0]).input_ids == file.encode(said[0]).ids
    assert (found.eos_token, found.decode(found(said[0]).input_ids[-9:])) == (
        tokenizer.eos_token, tokenizer.decode(found(said[0]).input_ids[-9:])
    )  # fmt: skip


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


# A post-processor of the tokenizers library panics on a token that it does not list.
NAMES_NOBODY = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<z>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"model_type": "llama", "bos_token_id": [1, 2]}, "config.json: refused"),
        ("config.json", {"model_type": "llama", "rms_norm_eps": 0}, "config.json: refused"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": []}}, "cannot be loaded"),
        ("tokenizer.json", {"added_tokens": [{"id": -1, "content": "<s>"}]}, "cannot be loaded"),
        ("tokenizer.json", {"post_processor": NAMES_NOBODY}, "fails on 'a b' .no entry found"),
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"}, "does not use the token"),
        ("tokenizer_config.json", {"chat_template": 3}, "chat_template is 3; expected text"),
        ("tokenizer_config.json", {"chat_template": [{"name": 1}]}, "expected text, or a list"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length is 'long'"),
        ("special_tokens_map.json", {"bos_token": 3}, "cannot be loaded"),
    ],
)
def test_values_that_the_libraries_refuse_are_one_line(file, values, message, tmp_path):
    llama().save_pretrained(tmp_path)
    path = tmp_path / file
    given = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(given | values))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "settings", "message"),
    [
        ("bos_id", -1, {}, "expected <unk>, BOS and EOS among its pieces.*piece -1"),
        ("eos_id", 10**6, {}, "piece 1000000 is none of these"),
        ("unk_id", 9, {}, "piece 9 is none of these"),
        ("unk_id", 0, {"bos_token": "<new>"}, "names the token '<new>', which tokenizer.model"),
        (
            "unk_id",
            0,
            {"added_tokens_decoder": {"9999": {"content": "<|im_start|>"}}},
            "names the token '<.im_start.>'",
        ),
    ],
)
def test_pieces_that_do_not_fit(folder, field, value, settings, message):
    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
    setattr(model.trainer_spec, field, value)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder)


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


# ---------------------------------------------------------------------------- whose tokenizer


def test_an_adapters_own_tokenizer_or_template_counts_before_the_models(tmp_path):
    model, adapter, own = tmp_path / "model", tmp_path / "adapter", tmp_path / "own"
    llama(chat_template="base").save_pretrained(model)
    qwen(chat_template="own").save_pretrained(own)
    adapter.mkdir()

    def template(given="") -> str:
        return tokenizer_files.load(tokenizer_files.sources(given, adapter, model)).chat_template

    def hashed() -> str:
        return tokenizer_files.fingerprint(tokenizer_files.sources("", adapter, model))

    assert template() == "base"
    plain = hashed()
    (adapter / "chat_template.jinja").write_text("of the adapter")
    assert template() == "of the adapter" and hashed() != plain
    assert tokenizer_files.load((model, adapter)).eos_token == "</s>"
    qwen(chat_template="its own").save_pretrained(adapter)
    assert template() == "its own" and template(str(own)) == "own"
    (adapter / "chat_template.jinja").write_bytes(b"\xff")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).unlink()
    with pytest.raises(CheckpointError, match="chat_template.jinja: cannot be read"):
        template()


def test_a_copied_tokenizer_leaves_nothing_of_another(tmp_path):
    """And the exported model stops at the EOS it was taught, beside those of its base."""
    export, trained = tmp_path / "export", tmp_path / "trained"
    llama(chat_template="old").save_pretrained(export)
    qwen().save_pretrained(trained)
    settings = json.loads((trained / "tokenizer_config.json").read_text())
    settings["chat_template"] = "new"  # as older releases kept it
    (trained / "tokenizer_config.json").write_text(json.dumps(settings))
    eos = qwen().eos_token_id
    for given, expected in ((7, [7, eos]), ([eos, 7], [eos, 7]), (None, eos)):
        generation = export / "generation_config.json"
        generation.write_text(json.dumps({"eos_token_id": given, "top_p": 0.5}))
        tokenizer_files.copy((trained,), export)
        assert json.loads(generation.read_text()) == {"eos_token_id": expected, "top_p": 0.5}
    assert load_tokenizer(export).chat_template == "new"
    assert load_tokenizer(export)("a b").input_ids == qwen()("a b").input_ids
    assert not (export / "chat_template.jinja").exists()


def test_further_chat_templates_go_with_the_tokenizer(tmp_path):
    """transformers 5 saves each of them as a file of the folder additional_chat_templates."""
    trained, export = tmp_path / "trained", tmp_path / "export"
    templates = {"default": "d", "tool_use": "t"}
    llama(chat_template=templates).save_pretrained(trained)
    llama(chat_template={"default": "x", "rag": "r"}).save_pretrained(export)
    tokenizer_files.copy((trained,), export)
    assert load_tokenizer(export).chat_template == templates
    before = tokenizer_files.fingerprint((export,))
    (file,) = (export / "additional_chat_templates").iterdir()
    file.write_text("u")
    assert tokenizer_files.fingerprint((export,)) != before
