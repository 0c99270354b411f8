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
import numpy as np
import pytest

import safety_jax as sj
from safety_jax.base import trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.base.errors import CheckpointError, ConfigError
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
