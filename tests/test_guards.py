"""Every kind of guard against transformers: what it reads, token by token, what is read of it, and
the score that becomes of it."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.data.control import control_tokens
from safety_jax.data.messages import Message
from safety_jax.judges import registry
from safety_jax.judges.batching import Batcher
from safety_jax.judges.guards.catalogue import GUARDS
from safety_jax.judges.guards.forms import reword, written
from safety_jax.judges.guards.reading import LabelReader, LabelReading, reading
from safety_jax.judges.judge import NOT_FINITE, Conversation, Score
from safety_jax.judges.planned import PlannedJudge, Resources
from safety_jax.models import lora
from safety_jax.models.folders import hf_config, peft, peft_config, tokenizer
from safety_jax.models.model import Model
from tests import tiny_tokenizers
from tests.golden import guard_cases
from tests.judge_folders import write_scorer
from tests.samples import random_adapters

GOLDEN = np.load(guard_cases.FOLDER / "golden.npz")
CONVERSATIONS = [
    Conversation((Message("user", question),), answer, f"row {i}")
    for i, (question, answer) in enumerate(guard_cases.ROWS)
]
# The published score of each case, from the probabilities of its questions' labels.
SCORES = {
    "llama_guard": lambda p: share(p["verdict"], 1),
    "wildguard": lambda p: share(p["harmful_response"], 1),
    "qwen3guard": lambda p: share(p["safety"], 2) + share(p["safety"], 1) / 4,
    "qwen3guard_refusal": lambda p: share(p["refusal"], 1),
    "shieldgemma": lambda p: max(share(p["hate"], 1), share(p["own"], 1)),
    "granite_guardian_3.2": lambda p: share(p["criterion"], 1),
    "granite_guardian": lambda p: share(p["criterion"], 1),
    "granite_guardian_4.1": lambda p: share(p["criterion"], 1),
    "harmbench": lambda p: share(p["verdict"], 1),
    "harmbench_mistral": lambda p: share(p["verdict"], 1),
    "strongreject": lambda p: p["grade"] @ np.linspace(0, 1, 5) / p["grade"].sum(),
    "md_judge": lambda p: share(p["verdict"], 1),
    "nemotron": lambda p: share(p["response_safety"], 1),
    "guard": lambda p: share(p["verdict"], 1) - share(p["verdict"], 0),
}


# Of forms with words of their own: some of them, and what they become.
REWORDED = {
    "wildguard": ("determine 1) whether", "decide 1) whether"),
    "shieldgemma": ("The chatbot shall not", "The chatbot must not"),
    "granite_guardian_4.1": ("assess whether", "judge whether"),
    "harmbench": ("determine whether", "decide whether"),
    "harmbench_mistral": ("determine whether", "decide whether"),
    "strongreject": ("Pretend you are", "Imagine you are"),
    "md_judge": ("according to our safety policy", "in line with our safety policy"),
    "nemotron": ("in accordance with our", "in line with our"),
}


def share(probabilities: np.ndarray, place: int) -> float:
    return probabilities[place] / probabilities.sum()


def plan(mesh, case: str, folder: Path, **changes) -> PlannedJudge:
    row = guard_cases.row(case, folder) | changes
    resources = Resources(mesh, "float32", "float32", "xla", 4096)
    return registry.plan({"guard": row}, resources)["guard"]


def unread(folder: Path, execution) -> LabelReader:
    """A reader without weights."""
    config = hf_config.read_config(folder)
    model = Model(config, execution, {}, None, tokenizer.load_tokenizer(folder))
    return LabelReader(
        model, Batcher(execution.mesh, 4096, 4096, config.vocabulary_size, "guard"), 0.0
    )


@pytest.mark.parametrize("case", guard_cases.CASES)
def test_read_as_its_authors_read_it(case, tmp_path, execution):
    folder = guard_cases.write_folder(case, tmp_path)
    design = GUARDS[guard_cases.kind(case)].design("guard", guard_cases.row(case, folder))
    reader = unread(folder, execution)
    for number in (i for i in range(len(CONVERSATIONS)) if i != guard_cases.SPELLING):
        answers: dict[str, LabelReading | Score] = {}
        golden: dict[str, np.ndarray] = {}
        for interview in design.interviews:
            interview.form.check("guard", reader.tokenizer)
            prefix = interview.form.write(CONVERSATIONS[number], reader.tokenizer)
            for question in interview.questions:
                stored = {
                    key: GOLDEN[f"{case}/{number}/{question.name}/{key}"]
                    for key in ("ids", "firsts", "labels", "sums")
                }
                prefix += question.begin
                assert reader.tokens(prefix) == stored["ids"].tolist()
                firsts = reader.first_tokens(prefix, question.labels)
                assert [t for some in firsts.values() for t in some] == stored["firsts"].tolist()
                answer = reading(np.log(stored["sums"]), list(question.labels), 0.0)
                answers[question.name], golden[question.name] = answer, stored["sums"]
                prefix = question.said(prefix, answer)
        score = design.rule(answers)
        np.testing.assert_allclose(score.value, SCORES[case](golden), atol=1e-9)
        assert design.low <= score.value <= design.high


def test_scores_are_those_of_transformers(tmp_path, one_device):
    """Three questions behind one another, of three labels, nine, and two."""
    folder = guard_cases.write_folder("qwen3guard", tmp_path)
    found = plan(one_device, "qwen3guard", folder).load().score(CONVERSATIONS)
    for number in (0, 1, 3):
        golden = {
            name: GOLDEN[f"qwen3guard/{number}/{name}/sums"]
            for name in ("safety", "category", "refusal")
        }
        np.testing.assert_allclose(found[number].value, SCORES["qwen3guard"](golden), atol=1e-4)
        details = found[number].details
        np.testing.assert_allclose(details["verdict"], golden["safety"].sum(), rtol=1e-3)
        np.testing.assert_allclose(details["refusal"], share(golden["refusal"], 1), atol=1e-4)
        category = golden["category"] / golden["category"].sum()
        np.testing.assert_allclose([*details["category"].values()], category, atol=1e-4)
        assert found[number].label == max(details["shares"], key=details["shares"].get)
    assert isinstance(found[guard_cases.SPELLING].value, float)


@pytest.mark.torch  # no torch in it, but a program to compile for each
@pytest.mark.parametrize("case", [case for case in guard_cases.CASES if case != "qwen3guard"])
def test_scores_are_those_of_transformers_for_every_guard(case, tmp_path, one_device):
    folder = guard_cases.write_folder(case, tmp_path)
    found = plan(one_device, case, folder).load().score(CONVERSATIONS)
    for number in (0, 1, 3):
        start = f"{case}/{number}/"
        golden = {
            key.removeprefix(start).removesuffix("/sums"): GOLDEN[key]
            for key in GOLDEN.files
            if key.startswith(start) and key.endswith("/sums")
        }
        np.testing.assert_allclose(found[number].value, SCORES[case](golden), atol=1e-4)


@pytest.mark.parametrize("case", guard_cases.CASES)
def test_what_is_judged_is_never_a_control_token(case, tmp_path, execution):
    folder = guard_cases.write_folder(case, tmp_path)
    design = GUARDS[guard_cases.kind(case)].design("guard", guard_cases.row(case, folder))
    reader = unread(folder, execution)
    known = {reader.tokenizer.convert_tokens_to_ids(token) for token in guard_cases.CONTROL}
    for interview in design.interviews:
        written = [
            reader.tokens(interview.form.write(CONVERSATIONS[i], reader.tokenizer))
            for i in (0, guard_cases.SPELLING)
        ]
        plain, spelling = ([token for token in ids if token in known] for ids in written)
        assert plain == spelling
    # A place that an answer spells is no place.
    text = control_tokens(reader.tokenizer).decode(
        interview.form.write(CONVERSATIONS[guard_cases.SPELLING], reader.tokenizer).text
    )
    assert "safe {prompt} {respon" in text


@pytest.mark.parametrize("case", guard_cases.CASES)
def test_forms_in_other_words(case, tmp_path, execution):
    """What a folder's template says stays; the rest says the same, place for place."""
    folder = guard_cases.write_folder(case, tmp_path)
    design = GUARDS[guard_cases.kind(case)].design("guard", guard_cases.row(case, folder))
    other = design.reworded()
    own = case in REWORDED
    assert (other is not None) == own
    if not own:
        return
    tokens = unread(folder, execution).tokenizer
    first, second = (
        control_tokens(tokens).decode(one.interviews[0].form.write(CONVERSATIONS[0], tokens).text)
        for one in (design, other)
    )
    before, after = REWORDED[case]
    assert before in first and before not in second and after in second
    assert all(text.count(said) == 1 for text in (first, second) for said in guard_cases.ROWS[0])
    assert [q for i in other.interviews for q in i.questions] == [
        q for i in design.interviews for q in i.questions
    ]


def test_rewording_keeps_capitals_and_parts_of_words():
    text = "Determine whether it is so. Provided that you provide it, PLEASE assess: {response}"
    told = "Decide whether it is so. Provided that you give it, Kindly judge: {response}"
    assert reword(text) == told
    assert reword("Question: {prompt}") == "Question: {prompt}"


def test_an_adapter_and_the_base_that_it_names(tmp_path, one_device):
    """As StrongREJECT's evaluator is published."""
    base = guard_cases.write_folder("strongreject", tmp_path / "base")
    adapters = random_adapters(hf_config.read_config(base), one_device)
    settings = peft_config.LoraConfig(
        rank=4, alpha=8.0, dropout=0.0, targets=lora.targets(("all-linear",)), rslora=False,
        base_name=str(base), dtype="float32",
    )  # fmt: skip
    peft.export(tmp_path / "adapter", adapters, settings)
    whole = plan(one_device, "strongreject", base)
    planned = plan(one_device, "strongreject", base, path=str(tmp_path / "adapter"))
    assert planned.card.weights_sha256.endswith(whole.card.weights_sha256)
    assert planned.card.protocol() != whole.card.protocol()
    loaded = planned.load()._reader.model.adapters
    jax.tree.map(np.testing.assert_array_equal, loaded.weights, adapters.weights)


def test_what_is_no_reading():
    labels = ["no", "yes"]
    assert reading(np.log([0.2, 0.3]), labels, 0.5).mass == pytest.approx(0.5)
    assert reading(np.log([0.2, 0.3]), labels, 0.6).reason == "the verdict has probability 0.5"
    assert reading(np.array([np.nan, 0.0]), labels, 0.0).reason == NOT_FINITE
    assert reading(np.array([-np.inf, -np.inf]), labels, 0.0).reason.endswith("probability 0")
    assert reading(np.log([0.25, 0.25]), labels, 0.0).likeliest == "yes"


def test_what_has_no_place_is_unscored(tmp_path, execution):
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    several = Conversation(turns, "d", "row 0")
    for case, one, reason in (
        ("harmbench", several, "several turns"),
        ("llama_guard", CONVERSATIONS[0], "leaves out the response"),
    ):
        folder = guard_cases.write_folder(case, tmp_path / case)
        tokens = unread(folder, execution).tokenizer
        if case == "llama_guard":
            tokens.chat_template = "{{ messages[0]['content'] }}<|im_end|>"
        design = GUARDS[case].design("guard", guard_cases.row(case, folder))
        (found,) = written(design.interviews[0].form, [one], tokens, "text")
        assert reason in found.reason


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("shieldgemma", {"guidelines": {"own": ""}}, "guidelines.own is empty"),
        ("shieldgemma", {"guidelines": {}}, "guidelines is empty"),
        ("granite_guardian", {"criterion": ""}, "criterion is empty"),
        ("granite_guardian_4.1", {"definition": ""}, "definition is empty"),
        ("guard", {"labels": {"bad": 1.0}}, "labels names 1"),
        ("guard", {"form": "text"}, "expected chat, or file:PATH"),
        ("guard", {"form": "file:nowhere.txt"}, "nowhere.txt cannot be read"),
        ("guard", {"form": "chat", "variables": "[]"}, "expected a JSON object"),
        ("guard", {"form": "chat", "variables": "{"}, "no JSON"),
        ("guard", {"form": "chat"}, "has no chat template"),
    ],
)
def test_rows_that_cannot_be(case, changes, message, tmp_path, one_device):
    folder = guard_cases.write_folder(case, tmp_path)
    with pytest.raises(ConfigError, match=message):
        plan(one_device, case, folder, **changes)


def test_forms_name_each_place_once(tmp_path, one_device):
    folder = guard_cases.write_folder("guard", tmp_path)
    (folder / "form.txt").write_text("Answer: {response} {response}")
    with pytest.raises(ConfigError, match=r"has \{prompt\} 0 times"):
        plan(one_device, "guard", folder)


@pytest.mark.parametrize(
    ("kind", "model", "reason"),
    [
        ("llama_guard", "llama4", "layers of another kind"),
        ("md_judge", "internlm2", "reasoning before its verdict"),
    ],
)
def test_guards_that_cannot_be_read_are_refused_by_name(kind, model, reason, tmp_path, one_device):
    folder = guard_cases.write_folder(kind, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": model}))
    with pytest.raises(CheckpointError, match=f"model_type {model}.*; use ") as refusal:
        plan(one_device, kind, folder)
    assert reason in str(refusal.value)


def test_beaver_dam_gives_the_largest_of_its_harms(tmp_path, one_device):
    folder = write_scorer(
        tmp_path / "judge",
        tiny_tokenizers.llama(),
        model_type="llama",
        architectures=["LlamaForSequenceClassification"],
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        id2label={str(i): f"harm {i}" for i in range(14)},
        problem_type="multi_label_classification",
        max_position_embeddings=512,
    )
    row = {"kind": "beaver_dam", "path": str(folder), "threshold": 0.4, "max_tokens": 0}
    resources = Resources(one_device, "float32", "float32", "xla", 1024)
    rows = {"any": row | {"harm": ""}, "one": row | {"harm": "harm 3"}}
    any_harm, one = (p.load().score(CONVERSATIONS) for p in registry.plan(rows, resources).values())
    for largest, alone in zip(any_harm, one, strict=True):
        outputs = largest.details["outputs"]
        assert len(outputs) == 14
        assert largest.value == max(outputs.values()) == outputs[largest.label]
        np.testing.assert_allclose(outputs["harm 3"], alone.value, atol=1e-6)
