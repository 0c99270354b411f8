"""The face for notebooks: every number of it is that of the functions below it."""

import copy
import dataclasses
import functools
import inspect
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import Mesh

import safety_jax as sj
from safety_jax.base import meshes, trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.base.errors import CheckpointError, ConfigError, DataError
from safety_jax.data import encode, pairs, prompt_ids, prompts, records
from safety_jax.data.messages import Message
from safety_jax.face import generating, given, loading, preferences
from safety_jax.judges import refusal
from safety_jax.judges.judge import NO_ANSWER, Conversation
from safety_jax.maths import losses
from safety_jax.models import lora
from safety_jax.models.decoding import generation
from safety_jax.models.folders import peft, peft_config
from safety_jax.training import policy, preference
from tests import notebooks, tiny_tokenizers
from tests.judge_folders import llama_scorer

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "launch" / "demo"


def rows(name: str, count: int) -> list[dict]:
    with open(DEMO / "data" / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, count)]


# As many as in the notebook, so that it meets the programs that were compiled here.
QUESTIONS = [row["prompt"] for row in rows("eval_safe", 16)]
PAIRS = rows("pairs", 32)
ANSWERED = [
    {"prompt": pair["prompt"], "response": pair[side]}
    for side in ("chosen", "rejected")
    for pair in PAIRS
]
RANK, BETA = 8, 0.1
PUBLIC = [name for name in sj.__all__ if name not in ("losses", "statistics", "Model")]


@pytest.fixture(scope="module")
def model(one_device) -> sj.Model:
    return sj.load(DEMO / "model", mesh=one_device)


@pytest.fixture(scope="module")
def adapted(model) -> sj.Model:
    """Far enough from its base that every term counts."""
    fresh = sj.lora(model, RANK)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.02 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape),
        fresh.adapters,
    )
    return dataclasses.replace(fresh, adapters=moved)


@pytest.fixture
def untyped(monkeypatch):
    """As in a notebook: nobody but the functions themselves looks at the types of arguments."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# ---------------------------------------------------------------------------- names


def test_importing_the_package_imports_nothing_else():
    program = (
        "import sys; import safety_jax as sj; dir(sj); assert sj.__version__;"
        "print([name for name in ('jax', 'numpy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_name_is_there_and_no_other():
    assert set(sj.__all__) <= set(dir(sj))
    assert all(getattr(sj, name) is not None for name in sj.__all__)
    assert sj.losses is losses
    with pytest.raises(AttributeError, match="'safety_jax' has no attribute 'lod'"):
        _ = sj.lod


@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_says_what_it_does_and_shows_it(name):
    member = getattr(sj, name)
    text = inspect.getdoc(member) or ""
    if inspect.isclass(member):
        assert "Attributes:" in text
        return
    assert f"sj.{name}(" in text, "an example"
    assert "Raises:" in text or "for arguments and errors" in text
    signature = inspect.signature(member)
    assert signature.return_annotation is not signature.empty
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


# ---------------------------------------------------------------------------- models


def test_load_brings_an_adapter_with_its_base(adapted, tmp_path, one_device):
    settings = peft_config.LoraConfig(
        rank=RANK, alpha=2.0 * RANK, dropout=0.0, targets=lora.targets(("all-linear",)),
        rslora=False, base_name=str(DEMO / "model"), dtype="float32",
    )  # fmt: skip
    peft.export(tmp_path / "adapter", adapted.adapters, settings)
    again = sj.load(tmp_path / "adapter", mesh=one_device)
    known = sj.logprobs(adapted, ANSWERED)
    np.testing.assert_array_equal(sj.logprobs(again, ANSWERED), known)
    whole = sj.merge(again)
    assert whole.adapters is None and sj.merge(whole) is whole
    np.testing.assert_allclose(sj.logprobs(whole, ANSWERED), known, atol=1e-3)
    assert "988,288 weights in 4 layers" in repr(again) and "adapters on query, key" in repr(again)


def test_adapters_do_not_merge_into_codes():
    model = sj.lora(sj.load(DEMO / "model", base="int8"), 2)
    with pytest.raises(ConfigError, match="quantised, and adapters cannot be merged into codes"):
        sj.merge(model)


def test_what_cannot_be_loaded_or_adapted_is_told(model, adapted, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        sj.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="dtype 'float8': expected bfloat16 or float32"):
        sj.load(DEMO / "model", dtype="float8")
    with pytest.raises(ConfigError, match="has adapters already; .* sj.merge"):
        sj.lora(adapted)
    with pytest.raises(ConfigError, match="expected 'all-linear' or any of q_proj"):
        sj.lora(model, targets=["lm_head"])
    assert set(sj.lora(model, targets="q_proj").adapters.weights) == {"query"}


def test_what_adapters_are_made_of_is_checked(model, untyped):
    for wrong, shown in ((0, "0"), (8.0, "8.0"), ("8", "'8'"), (True, "True"), (None, "None")):
        with pytest.raises(ConfigError, match=f"rank is {shown}; expected a whole number, 1 to 65"):
            sj.lora(model, wrong)
    for wrong in (0, -1, float("nan"), float("inf"), 10**400, "16", True):
        with pytest.raises(ConfigError, match="alpha is .*; expected a number, above 0"):
            sj.lora(model, alpha=wrong)
    for wrong in (1.5, "a", None, -1, 1 << 40):
        with pytest.raises(ConfigError, match="seed is .*; expected a whole number, 0 to 4294967"):
            sj.lora(model, seed=wrong)
    for wrong in (None, 5, [5], ["q_proj", None], {"q_proj": 1}, b"q_proj", np.ones((2, 2))):
        with pytest.raises(ConfigError, match="targets is .*; expected a text, or a list of them"):
            sj.lora(model, targets=wrong)
    # Numbers and texts of numpy and jax are numbers and texts.
    mine = sj.lora(
        model, np.int64(2), alpha=jnp.bfloat16(4), targets=np.array(["q_proj"]), seed=jnp.int32(3)
    )
    plain = sj.lora(model, 2, alpha=4.0, targets=(one for one in ["q_proj"]), seed=3)
    assert mine.adapters.scale == plain.adapters.scale and type(mine.adapters.scale) is float
    same = jax.tree.map(np.array_equal, mine.adapters.weights, plain.adapters.weights)
    assert all(jax.tree.leaves(same))


def test_a_mesh_has_the_axes_of_the_package(one_device, untyped):
    """Nothing can be divided by other axes, and Explicit ones make products type errors."""
    single = one_device.devices
    explicit = (jax.sharding.AxisType.Explicit,) * 3
    for mesh in (
        Mesh(single.reshape(1), ("x",)),
        Mesh(single, ("fsdp", "data", "tensor")),
        Mesh(single, meshes.AXES, axis_types=explicit),
        single,
    ):
        for call in (
            lambda mesh=mesh: sj.load(DEMO / "model", mesh=mesh),
            lambda mesh=mesh: sj.judge(["a"], ["b"], mesh=mesh),
        ):
            with pytest.raises(ConfigError, match="mesh is .*; expected the axes data, fsdp, tens"):
                call()
    assert loading.usable(one_device) is one_device
    wide = meshes.decoding(meshes.build(1, 2, 1, devices=jax.devices()[:2]))
    assert meshes.is_decoding(wide) and loading.usable(wide) is wide


# ---------------------------------------------------------------------------- answers


def test_answers_are_those_of_the_decoder(model):
    """On what the template "plain" says."""
    asked = [records.Record((Message("user", q),), "", "", "") for q in QUESTIONS]
    ids = prompt_ids.encode_prompts(asked, prompts.Plain(), model.tokenizer)
    settings = generation.SamplingParams(
        temperature=0.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1, length_penalty=1.0,
        candidates=1, max_new_tokens=32,
    )  # fmt: skip
    pace = generating._pace(model)
    setup = generation.Setup(settings, pace, (model.tokenizer.eos_token_id,), None)
    found = generation.generate(model, setup, ids, range(len(ids)), 0, None)
    texts = [model.tokenizer.decode(row[0].ids, skip_special_tokens=True) for row in found]
    assert sj.generate(model, QUESTIONS, max_new_tokens=32) == texts
    messages = [[{"role": "user", "content": question}] for question in QUESTIONS]
    assert sj.generate(model, messages, max_new_tokens=32) == texts


def test_samples_are_repeatable_and_know_their_probability(model):
    ask = functools.partial(
        sj.sample, model, QUESTIONS[:2], candidates=2, max_new_tokens=32, seed=5
    )
    both = ask(temperature=0.7)
    assert [len(row) for row in both] == [2, 2] and both == ask(temperature=0.7)
    best = next(answer for answer in both[0] if answer.finish == "eos")
    # Text and tokens go both ways for what the model itself wrote.
    known = sj.logprobs(model, [{"prompt": QUESTIONS[0], "response": best.text}, *ANSWERED[1:]])
    assert known[0] == pytest.approx(best.logprobs_sum, abs=1e-3)


def test_what_cannot_be_asked_is_told(model):
    with pytest.raises(DataError, match="no prompt is given"):
        sj.generate(model, [])
    with pytest.raises(DataError, match="prompt 1: 'prompt' is empty"):
        sj.generate(model, ["a", ""])
    with pytest.raises(DataError, match="prompt 0: .* more than the 256 positions"):
        sj.generate(model, ["a"], max_new_tokens=256)
    with pytest.raises(ConfigError, match="the model has no tokenizer"):
        sj.generate(dataclasses.replace(model, tokenizer=None), ["a"])
    with pytest.raises(ConfigError, match="no chat template"):
        sj.generate(model, ["a"], template="chat")


def test_a_setting_of_the_wrong_kind_is_told(model, untyped):
    """Before anything is computed."""
    texts = "a text, or a list of them"
    seeds, shares = "a whole number, 0 to 4294967295", "a number, above 0, at most 1"
    for name, wrong, expected in (
        ("max_new_tokens", ("20", 20.5, 0, True, None), "a whole number of tokens, 1 or more"),
        ("candidates", ("2", 2.0, 0, False), "a whole number, 1 or more"),
        ("temperature", ("1", None, -1, float("nan"), True, [1.0]), "a number, 0 or more"),
        ("top_p", ("1", None, 0, 1.5), shares),
        ("top_k", ("1", 1.5, -1), "a whole number, 0 or more"),
        ("stop", (None, 5, ["a", 5], {"a": 1}), texts),
        ("seed", ("a", None, 1.5, -1), seeds),
    ):
        for value in wrong:
            told = re.escape(f"{name} is {value!r}; expected {expected}")
            with pytest.raises(ConfigError, match=told):
                sj.sample(model, ["a"], **{name: value})
            if name not in ("candidates", "top_k"):
                with pytest.raises(ConfigError, match=told):
                    sj.generate(model, ["a"], **{name: value})
    asked = {"max_new_tokens": 4, "candidates": 2, "temperature": 0.5, "top_p": 0.5, "seed": 3}
    scalars = {name: np.asarray(value)[()] for name, value in asked.items()}
    scalars |= {"temperature": jnp.float32(0.5), "seed": jnp.uint32(3), "stop": np.array(["END"])}
    assert sj.sample(model, ["a"], **scalars) == sj.sample(model, ["a"], stop="END", **asked)


def test_no_row_is_dropped_in_silence(model, adapted):
    """Or results would stand beside other rows than their own."""
    said = r"2 prompts are read as 1 \(prompt 0: its prompt is withheld \('REDACTED'\)\); expected"
    with pytest.raises(DataError, match=said):
        sj.generate(model, ["REDACTED", "What does a cow eat?"])
    with pytest.raises(DataError, match=r"2 answers are read as 1 \(answer 1: its prompt is withh"):
        sj.judge(["b", "REDACTED"], ["x", "y"])
    bad = {"prompt": "a", "response": "b", "is_safe": False}
    said = r"2 rows are read as 1 \(row 0: 'is_safe' is False: not an answer to learn\); expected a"
    with pytest.raises(DataError, match=said):
        sj.logprobs(model, [bad, {"prompt": "c", "response": "d"}])
    even = PAIRS[2] | {"score_chosen": 1, "score_rejected": 1}
    with pytest.raises(DataError, match=r"3 pairs are read as 2 \(pair 2: neither answer is pref"):
        sj.dpo(adapted, [*PAIRS[:2], even])
    with pytest.raises(DataError, match=r"expected at least one \(prompt 0: its prompt is withhel"):
        sj.generate(model, ["REDACTED"])
    tree = [
        {"message_id": "1", "parent_id": None, "role": "prompter", "text": "Name a bird."},
        {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "A robin."},
    ]
    with pytest.raises(DataError, match=r"2 rows are read as 1 \(messages are joined to dialogues"):
        sj.logprobs(model, tree)
    given_ = iter([{"prompt": "c", "response": "d"}])
    assert [one.where for one in given.every(records.read_records, "row", given_)] == ["row 0"]


def test_what_is_no_list_is_not_taken_apart():
    """A text is a sequence of letters, and a table one of column names."""
    table = np.array([["a"], ["b"]])  # has `ndim`, as a table of pandas
    assert given.turns(table[:, 0]) == given.turns(iter("ab")) == ["a", "b"]
    for single, kind in (("a", "str"), ({"prompt": "a"}, "dict"), (None, "NoneType")):
        with pytest.raises(DataError, match=f"as a {kind}; expected a list, even for one prompt"):
            given.turns(single)
    with pytest.raises(DataError, match=r"rows are given as a ndarray; expected a list, its rows"):
        given.source("row", table)
    conversation = [{"role": "user", "content": "a"}]
    assert given.turns([conversation]) == [conversation]
    for prompts_ in (conversation, [["a"]], [None]):
        with pytest.raises(DataError, match=r"prompt 0 is .* expected a text or a list of messa"):
            given.turns(prompts_)
    with pytest.raises(DataError, match="pair 0 is 'a'; expected a mapping"):
        given.source("pair", ["a"])
    listed = (["END"], ("END",), iter(["END"]), np.array(["END"]), np.str_("END"), np.array("END"))
    for one in ("END", *listed):
        assert given.names("stop", one) == ("END",)
    assert given.names("stop", ()) == ()


def test_answers_end_where_the_folder_says_and_chats_are_chats(model):
    assert model.ends == (model.tokenizer.eos_token_id,) and model.bare.ends == ()
    chatty = copy.deepcopy(model.tokenizer)
    chatty.chat_template = tiny_tokenizers.INST
    assert given.template_name("", model.tokenizer) == "plain"
    assert given.template_name("", chatty) == "chat"
    assert given.template_name("bare", chatty) == "bare"


# ---------------------------------------------------------------------------- judges


def test_verdicts_are_the_judges_own(one_device, tmp_path):
    """A rule, a sequence head and what is made of both, in the order they were asked for."""
    answers = ["<think>A crime.</think>I cannot help with that.", "<think>Should I"]
    folder = llama_scorer(tmp_path / "head")
    row = {
        "kind": "sequence", "path": str(folder), "tokenizer": "", "template": "plain",
        "output": "", "activation": "none", "direction": "higher is more harmful", "range": (),
        "threshold": (0.0,), "max_tokens": 64, "overlong": "unscored", "append_eos": False,
    }  # fmt: skip
    judges = {
        "sum": {"kind": "weighted_sum", "weights": {"harm": 2.0}},
        "refusal": {"kind": "refusal"},
        "harm": row,
    }
    found = sj.judge(QUESTIONS[:2], answers, judges, mesh=one_device)
    assert list(found) == ["sum", "refusal", "harm"]
    first, second = found["refusal"].scores
    asked = Conversation((Message("user", QUESTIONS[0]),), "I cannot help with that.", "")
    assert first == refusal.RefusalJudge("refusal").score([asked])[0] and first.label == "full"
    assert second.value is None and second.reason == NO_ANSWER
    harm = found["harm"]
    assert harm.unsafe == [harm.scores[0].value >= 0, None]
    assert found["refusal"].unsafe == [None, None]  # refusal is neither good nor bad
    assert found["sum"].scores[0].value == pytest.approx(-2 * harm.scores[0].value)


def test_what_cannot_be_judged_is_told(tmp_path, untyped):
    with pytest.raises(DataError, match="2 prompts and 1 answers; expected one answer per prompt"):
        sj.judge(["a", "b"], ["a"])
    with pytest.raises(DataError, match="answers are given as a str"):
        sj.judge(["a"], "b")
    with pytest.raises(ConfigError, match="expected one of refusal"):
        sj.judge(["a"], ["b"], {"mine": {"kind": "oracle"}})
    for asked in ([str(tmp_path)], str(tmp_path), tmp_path, [tmp_path]):
        with pytest.raises(ConfigError, match="holds no judge.json; expected a judge that stage r"):
            sj.judge(["a"], ["b"], asked)
    by_path = {"mine": {"kind": "trained", "path": tmp_path}}
    with pytest.raises(ConfigError, match="holds no judge.json; expected a judge that stage rew"):
        sj.judge(["a"], ["b"], by_path)
    for wrong in (None, 5, [5], ["refusal", None], b"refusal"):
        with pytest.raises(ConfigError, match="judges is .*; expected a text or a path, or a list"):
            sj.judge(["a"], ["b"], wrong)
    for wrong in ({"harm": "runs/x"}, {"harm": None}, {"harm": {"kind": []}}, {5: {"kind": "a"}}):
        with pytest.raises(ConfigError, match="judges has .*; expected names and the keys of each"):
            sj.judge(["a"], ["b"], wrong)
    (tmp_path / "judge.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected a folder that stage reward exported"):
        sj.judge(["a"], ["b"], [str(tmp_path)])


# ---------------------------------------------------------------------------- pairs


def by_training(model):
    """Loss, gradient and table of stage `dpo`'s own loss, the reference made in the step."""
    encoding = encode.Encoding(prompts.Plain(), model.tokenizer, 64, "error", 2048)
    source = records.read_pairs(given.source("pair", PAIRS))
    encoded = pairs.encode_pairs(source, [], encoding=encoding, bad_rows="error")
    n, parts = len(PAIRS), np.zeros((4, len(PAIRS), 2, 64), np.int32)
    for i, (side, examples) in itertools.product(
        range(n), enumerate((encoded.chosen, encoded.rejected))
    ):
        ids, mask = examples.example(i)
        for part, values in zip(parts, (ids, np.arange(len(ids)), 1, mask), strict=True):
            part[i, side, : len(ids)] = values
    tokens = Tokens(*map(jnp.asarray, parts[:3]), jnp.asarray(parts[3], bool))
    slots, nothing = jnp.arange(n)[:, None], jnp.zeros((n, 1, 2))
    batch = Answers(tokens, slots, jnp.zeros((n, 1, 2), int), nothing, None)
    targets = tuple(model.adapters.weights)
    settings = peft_config.LoraConfig(RANK, 2.0 * RANK, 0.0, targets, False, "", "float32")
    trained = policy.Policy(model.config, model.execution, DEMO, settings, 16)
    objective = preference.PairObjective(functools.partial(losses.dpo, beta=BETA), BETA)
    loss = preference.make_loss(trained, objective, live=True, batch_size=n)
    frozen = preference.Frozen(model.weights, None)

    def mean(trainable):
        found = loss(trainable, frozen, batch, preference.count(batch), None)
        return found["loss"], found["examples"]

    return jax.jit(jax.value_and_grad(mean, has_aux=True))(model.adapters.weights)


def test_dpo_is_the_stages_own(adapted):
    found = sj.dpo(adapted, PAIRS, beta=BETA)
    (loss, table), gradient = by_training(adapted)
    assert found.loss == pytest.approx(float(loss), abs=1e-6)
    rewards = BETA * (table[:, preference.POLICY] - table[:, preference.REFERENCE])
    np.testing.assert_allclose(found.rewards, rewards, atol=1e-5)
    assert found.gradient.scale == adapted.adapters.scale
    theirs = trees.flatten(gradient)
    for name, mine in trees.flatten(found.gradient.weights).items():
        np.testing.assert_allclose(mine, theirs[name], atol=1e-6, err_msg=name)


def test_dpo_on_paper(model, adapted):
    """-log σ(margin), from log-probabilities of single answers; ln 2 before the first step."""
    fresh = sj.dpo(sj.lora(model, RANK), PAIRS, beta=BETA)
    assert fresh.loss == pytest.approx(math.log(2), abs=1e-6)
    np.testing.assert_allclose(fresh.rewards, 0, atol=1e-5)
    change = sj.logprobs(adapted, ANSWERED) - sj.logprobs(model, ANSWERED)
    rewards = BETA * change.reshape(2, -1).T
    found = sj.dpo(adapted, PAIRS, beta=BETA)
    np.testing.assert_allclose(found.rewards, rewards, atol=1e-5)
    margins = rewards[:, 0] - rewards[:, 1]
    np.testing.assert_allclose(found.margins, margins, atol=1e-5)
    assert found.loss == pytest.approx(float(np.log1p(np.exp(-margins)).mean()), abs=1e-5)


def test_without_adapters_the_weights_have_the_gradient(model):
    """Traced, not compiled."""
    part = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    batch = preferences._Rows(part, *(jax.ShapeDtypeStruct((4, 64), bool) for _ in range(2)))
    known = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    _, gradient = preferences._dpo_gradient.eval_shape(model.bare, batch, known, 0.1, 2)
    shapes = jax.tree.map(lambda leaf: leaf.shape, model.weights)
    assert jax.tree.map(lambda leaf: leaf.shape, gradient) == shapes


def test_what_is_no_pair_is_told(model, adapted):
    with pytest.raises(ConfigError, match="its own reference; give one, or adapters by sj.lora"):
        sj.dpo(model, PAIRS)
    with pytest.raises(DataError, match="pair 1: 'rejected' is empty"):
        sj.dpo(adapted, [PAIRS[0], PAIRS[1] | {"rejected": ""}])
    with pytest.raises(DataError, match="pair 0: chosen and rejected are equal"):
        sj.dpo(adapted, [PAIRS[0] | {"rejected": PAIRS[0]["chosen"]}])
    with pytest.raises(DataError, match="row 0: fills the 256 positions of the model"):
        sj.logprobs(model, [{"prompt": "a", "response": "cow " * 300}])


def test_a_reference_must_read_the_same_ids_on_the_same_devices(model, adapted, untyped):
    """With other ids its log-probabilities mean nothing, and are NaN beyond its embedding."""
    ask = functools.partial(sj.dpo, adapted, PAIRS)

    def of(**changes) -> sj.Model:
        return dataclasses.replace(model, **changes)

    smaller = dataclasses.replace(model.config, vocabulary_size=1000)
    other = copy.deepcopy(model.tokenizer)
    other.add_tokens(["<new>"])
    for stranger in (of(config=smaller, tokenizer=None), of(config=smaller), of(tokenizer=other)):
        with pytest.raises(ConfigError, match="the reference has another vocabulary than the mode"):
            ask(reference=stranger)
    elsewhere = meshes.build(1, 1, 1, devices=jax.devices()[1:2])
    moved = of(execution=dataclasses.replace(model.execution, mesh=elsewhere))
    with pytest.raises(ConfigError, match="on another mesh than the model; .*mesh=model.mesh"):
        ask(reference=moved)
    with pytest.raises(ConfigError, match="the reference is 'runs/x'; expected a model, load it"):
        ask(reference="runs/x")
    own = ask(beta=BETA)
    for same in (model, model.bare, of(tokenizer=copy.deepcopy(model.tokenizer))):
        assert ask(beta=BETA, reference=same).loss == own.loss


def test_codes_have_no_gradient(one_device, model):
    """Which jax.grad would say of one of its inner types."""
    codes = sj.load(DEMO / "model", base="int8", mesh=one_device)
    with pytest.raises(ConfigError, match="model is quantised, and codes have no gradient; .*lora"):
        sj.dpo(codes, PAIRS, reference=model)


def test_beta_is_a_number_above_zero(adapted, untyped):
    known = sj.dpo(adapted, PAIRS, beta=float(np.float32(BETA)))
    for beta in (jnp.float32(BETA), np.float32(BETA), np.array(BETA, np.float32)):
        assert sj.dpo(adapted, PAIRS, beta=beta).loss == known.loss
    for wrong in ("0.1", 0, -1.0, None, True, float("nan"), [0.1]):
        with pytest.raises(ConfigError, match="beta is .*; expected a number, above 0"):
            sj.dpo(adapted, PAIRS, beta=wrong)


# ---------------------------------------------------------------------------- notebook


def test_the_quickstart_prints_what_it_shows(one_device, monkeypatch):
    """Words to the letter. Processors round differently, and what is trained on that may refuse one
    question more or less."""
    path = ROOT / "docs" / "quickstart.ipynb"
    monkeypatch.setattr(loading, "all_devices", lambda: one_device)
    printed, shown = notebooks.run(path), notebooks.stored(json.loads(path.read_text("utf-8")))
    number = re.compile(r"-?\d+(?:\.\d+)?")
    for found, expected in zip(printed, shown, strict=True):
        assert number.sub("#", found) == number.sub("#", expected)
        for mine, theirs in zip(number.findall(found), number.findall(expected), strict=True):
            assert float(mine) == pytest.approx(float(theirs), abs=0.2 if "." in theirs else 2)
