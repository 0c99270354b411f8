"""Sequence judges: templates, truncation, batches; scores equal those of single rows."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from tokenizers import AddedToken

from configs import common
from safety_jax.base.errors import CheckpointError, ConfigError, DataError
from safety_jax.data import judged, packing
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.judges import batching, registry, sequence
from safety_jax.judges.judge import Conversation, Score, from_record
from safety_jax.judges.planned import PlannedJudge, Resources
from safety_jax.maths.logprobs import segment_sums
from safety_jax.models.encoders import heads
from tests import tiny_tokenizers
from tests.judge_folders import CONVERSATIONS, bert_scorer, conversation, llama_scorer
from tests.samples import execute_on

FLAT = "higher is safer"


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory) -> Path:
    return llama_scorer(tmp_path_factory.mktemp("llama") / "judge")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory) -> Path:
    labels = {"id2label": {"0": "fine", "1": "toxic"}, "problem_type": None}
    return bert_scorer(tmp_path_factory.mktemp("bert") / "judge", **labels)


def resources(mesh, tokens: int = 512) -> Resources:
    return Resources(mesh, "float32", "float32", "xla", tokens)


def spec(folder: Path, template: str, **changes):
    return common.sequence_judge(str(folder), template, FLAT).to_dict() | changes


def plan(mesh, row) -> PlannedJudge:
    return registry.plan({"judge": row}, resources(mesh))["judge"]


def alone(folder: Path, mesh, row: batching.TokenRow) -> np.ndarray:
    """The head's outputs for one row without padding."""
    scorer = heads.read_scorer(folder)
    weights = heads.load(folder, scorer, mesh, jnp.float32)
    run = execute_on(mesh, rules=scorer.rules)
    ids, types = (jnp.asarray([part], jnp.int32) for part in (row.ids, row.types))
    compiled = jax.jit(lambda w, *batch: heads.scores(scorer, w, *batch, run))
    return np.asarray(compiled(weights, ids, types, jnp.ones(ids.shape, bool)))[0]


def test_scores_are_those_of_single_rows(llama_folder, one_device, eight_devices):
    planned = plan(one_device, spec(llama_folder, "human_assistant"))
    found = planned.load().score(CONVERSATIONS)
    encoder = sequence.Encoder(
        tiny_tokenizers.llama(),
        "human_assistant",
        max_tokens=64,
        overlong="unscored",
        append_eos=False,
    )
    rows = [encoder.encode(c) for c in CONVERSATIONS]
    expected = [alone(llama_folder, one_device, row)[0] for row in rows[:2]]
    np.testing.assert_allclose([score.value for score in found[:2]], expected, atol=1e-4)
    assert found[2].reason.endswith("tokens, more than 64")
    expected = [found[i].value for i in (0, 1, 3)]
    assert np.std(expected) > 1e-2
    split = plan(eight_devices, spec(llama_folder, "human_assistant"))
    again = split.load().score(CONVERSATIONS)
    np.testing.assert_allclose([again[i].value for i in (0, 1, 3)], expected, atol=1e-4)
    assert again[2] == found[2]
    assert split.card.protocol() == planned.card.protocol()


def test_pairs_have_types_and_labels_have_names(bert_folder, one_device):
    row = spec(bert_folder, "pair", output="toxic", activation="softmax")
    found = plan(one_device, row).load().score(CONVERSATIONS)
    encoder = sequence.Encoder(
        tiny_tokenizers.bert(), "pair", max_tokens=64, overlong="unscored", append_eos=False
    )
    rows = [encoder.encode(c) for c in CONVERSATIONS]
    assert set(rows[0].types) == {0, 1} and rows[0].ids[0] == 1
    outputs = np.stack([alone(bert_folder, one_device, row) for row in rows[:2]])
    expected = special.softmax(outputs, axis=-1)[:, 1]
    np.testing.assert_allclose([score.value for score in found[:2]], expected, atol=1e-5)
    with pytest.raises(ConfigError, match=r"output '': expected one of the model's labels, fine"):
        plan(one_device, spec(bert_folder, "pair"))


def test_scores_belong_to_the_config_and_the_tokenizer_that_gave_them(tmp_path, one_device):
    """A judge whose files changed between two starts must not go on with its old scores."""
    folder = bert_scorer(tmp_path / "judge", id2label={"0": "fine", "1": "toxic"})
    wording = tmp_path / "wording.json"
    wording.write_text(
        '{"prompt_input": "{instruction} {input}", "prompt_no_input": "{instruction}"}'
    )

    def protocol(template: str = "pair") -> str:
        return plan(one_device, spec(folder, template, output="toxic")).card.protocol()

    def rewrite(file: Path, **changes) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    protocols = [protocol(), protocol(f"file:{wording}")]
    rewrite(wording, prompt_input="{input} {instruction}")
    protocols.append(protocol(f"file:{wording}"))
    rewrite(folder / "config.json", id2label={"0": "toxic", "1": "fine"})
    protocols.append(protocol())
    rewrite(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    protocols.append(protocol())
    assert len(set(protocols)) == len(protocols)
    rewrite(folder / "config.json", transformers_version="4.0.0")
    assert protocol() == protocols[-1]


# ---------------------------------------------------------------------------- templates


def text_of(template: str, one: Conversation) -> str:
    tokenizer = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)
    row = sequence.Encoder(tokenizer, template, 256, "unscored", False).encode(one)
    assert isinstance(row, batching.TokenRow), row
    return tokenizer.decode(row.ids)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("human_assistant", "<s>\n\nHuman: bake?\n\nAssistant: bread"),
        ("beaver", "<s> BEGINNING OF CONVERSATION: USER: bake? ASSISTANT:bread</s>"),
        ("chat", "<s> [INST] bake? [/INST] bread </s>"),
        ("response", "<s> bread"),
    ],
)
def test_templates(template: str, expected: str):
    found = text_of(template, conversation("bake?", "bread"))
    assert found.replace("<s> ", "<s>") == expected.replace("<s> ", "<s>")


def test_several_turns_and_what_has_no_place():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    several = Conversation(turns, "d", "row 0")
    text = text_of("human_assistant", several)
    assert text.endswith("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d")
    system = Conversation((Message("system", "s"), *turns), "d", "row 0")
    tokenizer = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)
    for template, one, reason in (
        ("beaver", several, "has several turns"),
        ("pair", system, "has a system message, for which the template pair has no place"),
        ("chat", system, "no system message"),
        ("response", conversation("q", " \n"), "the response is empty"),
    ):
        found = sequence.Encoder(tokenizer, template, 256, "unscored", False).encode(one)
        assert isinstance(found, Score) and reason in found.reason, found


@pytest.mark.parametrize(("template", "own"), [("response", 0), ("alpaca", 0), ("chat", 1)])
def test_text_that_looks_like_a_special_token_is_text(template, own):
    tokenizer = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)
    one = conversation("q", "end </s> of")

    def encoder(special_text):
        return sequence.Encoder(tokenizer, template, 256, "unscored", False, special_text)

    row = encoder("text").encode(one)
    assert row.ids.count(2) == own and row.ids[0] == 1
    assert "end </s> of" in tokenizer.decode(row.ids)
    assert "the special token '</s>'" in encoder("skip").encode(one).reason
    with pytest.raises(DataError, match="row 0.*the special token '</s>'; set data.special_text"):
        encoder("error").encode(one)
    plain = conversation("q", "end of")
    assert encoder("skip").encode(plain).ids == encoder("text").encode(plain).ids


def test_a_control_token_that_would_be_read_as_letters_is_refused():
    tokenizer = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST.replace(" </s>", "</s>"))
    end = AddedToken("</s>", single_word=True, normalized=False, special=True)
    tokenizer.add_special_tokens({"eos_token": end})
    encoder = sequence.Encoder(tokenizer, "chat", 256, "unscored", False)
    with pytest.raises(CheckpointError, match="reads '</s>', which the template writes, as letter"):
        encoder.encode(conversation("bake?", "bread"))


# ---------------------------------------------------------------------------- length


def test_what_is_too_long_is_unscored_or_loses_the_left_of_its_prompt():
    tokenizer = tiny_tokenizers.llama()
    one = conversation("How do I bake bread? " * 9, "Mix flour and water.")
    whole = sequence.Encoder(tokenizer, "human_assistant", 999, "unscored", False).encode(one)
    room = len(whole.ids) - 20
    found = sequence.Encoder(tokenizer, "human_assistant", room, "unscored", False).encode(one)
    assert found.reason == f"{len(whole.ids)} tokens, more than {room}"
    cut = sequence.Encoder(tokenizer, "human_assistant", room, "cut_prompt", False).encode(one)
    assert list(cut.ids) == [whole.ids[0], *whole.ids[21:]]
    short = sequence.Encoder(tokenizer, "human_assistant", 9, "cut_prompt", False).encode(one)
    assert isinstance(short, Score)
    pair = sequence.Encoder(tiny_tokenizers.bert(), "pair", 24, "cut_prompt", False).encode(one)
    assert len(pair.ids) == 24 and pair.ids[0] == 1
    after = tiny_tokenizers.bert()("Mix flour and water.", add_special_tokens=False).input_ids
    assert list(pair.ids[-len(after) - 1 : -1]) == after
    beaver = sequence.Encoder(tokenizer, "beaver", room, "cut_prompt", False).encode(one)
    assert len(beaver.ids) == room and beaver.ids[-1] == 2


def test_a_token_without_an_embedding_is_refused(one_device):
    """JAX would read NaN there, and every text of the row would be unscored."""
    batcher = batching.Batcher(one_device, 128, 256, 40, "some/judge")
    rows = [batching.TokenRow([1, 39], [0, 0]), batching.TokenRow([40], [0])]
    with pytest.raises(CheckpointError, match="^some/judge: its tokenizer wrote token 40; expec"):
        batcher.run(batcher.compile(lambda *_: None), {}, rows)


def test_batches_have_few_shapes_and_keep_the_order(one_device):
    batcher = batching.Batcher(one_device, 128, 256, 40, "judge")
    random = np.random.default_rng(0)
    rows = [batching.TokenRow([i] * n, [0] * n) for i, n in enumerate(random.integers(1, 129, 40))]

    def totals(_, tokens, ends):
        found = segment_sums(tokens.ids.astype(float), tokens.segments, ends.shape[1])
        last = jnp.take_along_axis(tokens.positions, ends, axis=1)
        return jnp.stack([found, last], axis=-1)

    for gap in (0, 1):
        found = batcher.run(batcher.compile(totals), {}, rows, gap=gap)
        assert found.tolist() == [[sum(row.ids), len(row.ids) - 1] for row in rows]
        assert len({b.tokens.ids.shape for b in batcher.batches(rows, gap=gap)}) == 1
    between = batching.fill(rows[:2], packing.PackedRows([[0, 1]], 1, 256, 2, 0), gap=1)
    assert between.tokens.segments[0, len(rows[0].ids)] == 0

    form = [1] * 70
    behind = [batching.TokenRow(form + list(row.ids[:50]), []) for row in rows]
    assert batching.in_common(behind) == 70
    found = batcher.run(batcher.compile(totals), {}, behind, longest_shared=512)
    assert found.tolist() == [[sum(row.ids[:50]), 69 + len(row.ids[:50])] for row in rows]
    batch = next(batcher.batches(behind, longest_shared=512))
    assert batch.tokens.ids.shape == (1, 512)  # 70 and 256 tokens, in blocks of 256
    assert int((batch.tokens.segments == -1).sum()) == 70
    assert next(batcher.batches(behind, longest_shared=511)).tokens.prefixes is None


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, "judge.path is empty"),
        ({"template": "poem"}, "template 'poem': expected one of pair, human_assistant"),
        ({"overlong": "cut"}, "overlong 'cut': expected one of unscored, cut_prompt"),
        ({"template": "chat", "overlong": "cut_prompt"}, "would cut a chat template's marks"),
        ({"activation": "tanh"}, "activation 'tanh': expected one of none, sigmoid, softmax"),
        ({"output": "risk"}, "expected one of the model's labels, reward"),
        ({"direction": "up"}, "direction 'up'"),
        ({"max_tokens": 4096}, "max_tokens is 4096; expected 1 to 64"),
        ({"threshold": (1.0, 2.0)}, "expected 1 number"),
        ({"range": (0.0,)}, "expected 2 number"),
        ({"kind": "oracle"}, "kind 'oracle': expected one of refusal, sequence"),
        ({"colour": 3}, "key 'colour' is unknown"),
    ],
)
def test_mistakes(llama_folder, one_device, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        plan(one_device, spec(llama_folder, "human_assistant") | changes)
    assert "\n" not in str(error.value)


def test_an_adapter_is_no_judge(tmp_path, one_device):
    """As TRL's RewardTrainer writes one with LoRA: what is to be done is that for a judge."""
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"judges.judge.path: .* is an adapter; .* merge it"):
        plan(one_device, spec(tmp_path, "chat"))


def test_a_missing_key_and_no_judges(llama_folder, one_device):
    row = spec(llama_folder, "pair")
    del row["overlong"]
    with pytest.raises(ConfigError, match="key 'overlong' is missing"):
        plan(one_device, row)
    with pytest.raises(ConfigError, match=r"score.judges is empty"):
        registry.plan({}, resources(one_device))
    with pytest.raises(ConfigError, match="tokens_per_batch is 0"):
        registry.plan(
            {"judge": spec(llama_folder, "human_assistant")},
            dataclasses.replace(resources(one_device), tokens_per_batch=0),
        )
    with pytest.raises(ConfigError, match="'judge' is not a judge that can be combined"):
        plan(one_device, {"kind": "weighted_sum", "weights": {"judge": 1.0}})


@pytest.mark.parametrize("append_eos", [False, True])
@pytest.mark.parametrize("template", ["plain", "alpaca", "human_assistant", "chat", "text ends"])
def test_a_judge_reads_what_stage_reward_trained_it_on(template, append_eos):
    """Both word a conversation alike, token by token; where the template has ended the answer, no
    second end follows."""
    marks = tiny_tokenizers.CHATML if template == "chat" else "{{ messages[1].content }}###\n"
    make = tiny_tokenizers.qwen if template == "chat" else tiny_tokenizers.llama
    tokenizer = make(chat_template=marks)
    ends = template == "chat"
    template = "chat" if template == "text ends" else template
    record = Record(
        (Message("user", "How do I bake bread?"), Message("assistant", "Mix flour.")), "", "s", "w"
    )
    wording = judged.wording(template, tokenizer, takes_pairs=False, append_eos=append_eos)
    trained = wording.encode([record])[0].ids + wording.frame.end
    encoder = sequence.Encoder(tokenizer, template, 256, "unscored", append_eos)
    row = encoder.encode(from_record(record))
    assert row.ids == trained
    assert row.ids.count(tokenizer.eos_token_id) == (2 if ends else append_eos)
    assert (row.ids[-1] == tokenizer.eos_token_id) is (append_eos and not ends)


def test_a_template_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="template 'pirate': expected one of pair"):
        sequence.Encoder(tiny_tokenizers.llama(), "pirate", 256, "unscored", False)
