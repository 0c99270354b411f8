"""Arguments of the face for notebooks that cannot be used: one line says what to change."""

import copy
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import Mesh

import safety_jax as sj
from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records
from safety_jax.face import given, loading
from safety_jax.models.decoding import generation
from tests.test_face import ANSWERED, BETA, DEMO, PAIRS, QUESTIONS, adapted, model  # noqa: F401


@pytest.fixture
def untyped(monkeypatch):
    """As in a notebook: nobody but the functions themselves looks at the types of arguments."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_what_adapters_are_made_of_is_checked(model, untyped):  # noqa: F811
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
    for wrong in ("no", 1, None):
        with pytest.raises(ConfigError, match="rslora is .*; expected true or false"):
            sj.lora(model, rslora=wrong)
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


def test_what_cannot_be_asked_is_told(model):  # noqa: F811
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


def test_a_setting_of_the_wrong_kind_is_told(model, untyped):  # noqa: F811
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


def test_a_model_is_a_model_and_a_template_has_a_name(model, adapted, untyped):  # noqa: F811
    asks = (
        lambda wrong: sj.generate(wrong, ["a"]),
        lambda wrong: sj.logprobs(wrong, ANSWERED),
        lambda wrong: sj.dpo(wrong, PAIRS),
        sj.lora,
        sj.merge,
    )
    for ask in asks:
        with pytest.raises(ConfigError, match="the model is 'runs/x'; expected a model, load it"):
            ask("runs/x")
    for wrong in (5, ["alpaca"], {"chat": 1}):
        with pytest.raises(ConfigError, match="template is .*; expected a name such as 'alpaca'"):
            sj.generate(model, ["a"], template=wrong)
        with pytest.raises(ConfigError, match="template is .*; expected a name such as 'alpaca'"):
            sj.dpo(adapted, PAIRS, template=wrong)


def test_no_row_is_dropped_in_silence(model, adapted):  # noqa: F811
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


def test_rows_of_pandas_are_rows_as_files_hold_them():
    """It has arrays for the lists of a Parquet file, and NaN for what is missing."""
    asked = [{"role": "user", "content": "a"}]
    row = {"messages": np.array(asked, object), "is_safe": np.bool_(False), "system": float("nan")}
    plain = {"messages": asked, "is_safe": False, "system": None}
    assert given.source("row", [row]).rows == [plain]
    assert given.turns([row["messages"], np.str_("a")]) == [asked, "a"]


def test_what_no_row_can_hold_is_told():
    """A tokenizer says no more of half a pair than that it is no input sequence."""
    for prompt, where in (("\ud83d", ""), ([{"role": "user", "content": "\ud83d"}], "[0].content")):
        said = re.escape(f"prompt 1: prompt{where}: half of a surrogate pair, '\\ud83d'")
        with pytest.raises(DataError, match=said):
            given.source("prompt", [{"prompt": "a"}, {"prompt": prompt}])


def test_what_is_no_path_is_told(untyped):
    """Instead of being looked for on the Hub."""
    for wrong in (5, None, b"x", ["x"], object()):
        with pytest.raises(ConfigError, match="path is .*; expected a text or a path"):
            sj.load(wrong)
    with pytest.raises(ConfigError, match="tokenizer is .*; expected a text or a path"):
        sj.load(DEMO / "model", tokenizer=["x"])


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


def test_what_cannot_be_judged_is_told(tmp_path, untyped):
    with pytest.raises(DataError, match="2 prompts and 1 answers; expected one answer per prompt"):
        sj.judge(["a", "b"], ["a"])
    with pytest.raises(DataError, match="answers are given as a str"):
        sj.judge(["a"], "b")
    for wrong in (None, 5, b"b", [["b"]], generation.Completion([1], 0.0, "eos", "b")):
        with pytest.raises(DataError, match="answer 1 is .*; expected a text, or messages"):
            sj.judge(["a", "a"], ["b", wrong])
    assert list(sj.judge(["a"], ["b"], ["refusal", "mine=refusal"])) == ["refusal", "mine"]
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


def test_what_is_no_pair_is_told(model, adapted):  # noqa: F811
    with pytest.raises(ConfigError, match="its own reference; give one, or adapters by sj.lora"):
        sj.dpo(model, PAIRS)
    with pytest.raises(DataError, match="pair 1: 'rejected' is empty"):
        sj.dpo(adapted, [PAIRS[0], PAIRS[1] | {"rejected": ""}])
    with pytest.raises(DataError, match="pair 0: chosen and rejected are equal"):
        sj.dpo(adapted, [PAIRS[0] | {"rejected": PAIRS[0]["chosen"]}])
    with pytest.raises(DataError, match="row 0: fills the 256 positions of the model"):
        sj.logprobs(model, [{"prompt": "a", "response": "cow " * 300}])


def test_a_reference_must_read_the_same_ids_on_the_same_devices(model, adapted, untyped):  # noqa: F811
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


def test_codes_have_no_gradient(one_device, model):  # noqa: F811
    """Which jax.grad would say of one of its inner types."""
    codes = sj.load(DEMO / "model", base="int8", mesh=one_device)
    with pytest.raises(ConfigError, match="model is quantised, and codes have no gradient; .*lora"):
        sj.dpo(codes, PAIRS, reference=model)


def test_beta_is_a_number_above_zero(adapted, untyped):  # noqa: F811
    known = sj.dpo(adapted, PAIRS, beta=float(np.float32(BETA)))
    for beta in (jnp.float32(BETA), np.float32(BETA), np.array(BETA, np.float32)):
        assert sj.dpo(adapted, PAIRS, beta=beta).loss == known.loss
    for wrong in ("0.1", 0, -1.0, None, True, float("nan"), [0.1]):
        with pytest.raises(ConfigError, match="beta is .*; expected a number, above 0"):
            sj.dpo(adapted, PAIRS, beta=wrong)
