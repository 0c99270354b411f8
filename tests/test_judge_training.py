"""The judge's loss: equal to TRL's, the same packed or not, on one device or eight, for every
kind and trunk; adapters or all weights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base import trees
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.data.judged import JudgedAnswers
from safety_jax.maths import losses as objectives
from safety_jax.models import lora
from safety_jax.models.encoders import heads
from safety_jax.models.folders import peft_config
from safety_jax.training import judge_model, judge_quality, placement, steps
from safety_jax.training import judging as losses
from tests.golden import rows, score_cases
from tests.samples import examples_of, execute_on, loader_of

GOLDEN = dict(np.load(rows.REWARD_FILE))
PLAIN = functools.partial(objectives.bradley_terry, margin=0.0, centring=0.0)
OBJECTIVES = {
    "pairs": functools.partial(objectives.bradley_terry, margin=0.3, centring=0.2),
    "cost": functools.partial(objectives.cost, regularization=0.01),
    "regression": objectives.regression,
    "binary": objectives.classification,
}
QUICKLY = {"xla_backend_optimization_level": 0}  # these programs run once or twice
TRUNKS = ("llama", "deberta_v3", "bert_relu", "gpt2")


def golden_pairs() -> JudgedAnswers:
    """The pairs as TRL tokenized them; what of them is the answer does not matter here."""
    sides = []
    for name in ("chosen_ids", "rejected_ids"):
        texts = [row[:n] for row, n in zip(GOLDEN[name], GOLDEN[f"{name}/lengths"], strict=True)]
        sides.append(examples_of([text[:1] for text in texts], [text[1:] for text in texts]))
    return JudgedAnswers(tuple(sides), None, [()] * len(sides[0]), np.arange(len(sides[0])))


def random_judged(kind: str, count: int) -> JudgedAnswers:
    """Prompts of 2 to 7 tokens, answers of 1 to 10; targets of any kind."""
    random = np.random.default_rng(0)

    def words(low: int, high: int) -> list[np.ndarray]:
        return [
            random.integers(3, score_cases.VOCABULARY, length)
            for length in random.integers(low, high, count)
        ]

    prompts, sides = words(2, 8), 2 if kind in ("pairs", "cost") else 1
    answers = [examples_of(prompts, words(1, 11)) for _ in range(sides)]
    ratings = random.integers(0, 5, (count, sides)).astype(float)
    targets = None if kind == "pairs" else ratings if kind == "regression" else ratings % 2
    return JudgedAnswers(tuple(answers), targets, [()] * count, np.arange(count))


@dataclasses.dataclass(frozen=True)
class Judge:
    trainee: judge_model.Trainee
    trainable: Any
    frozen: Any


@functools.cache
def judge_of(folder, mesh, adapted: bool = False) -> Judge:
    """All weights, or adapters that have moved away from zero."""
    scorer, own_head = judge_model.read_scorer(
        folder, init="pretrained", label="reward", problem="regression"
    )
    adapter = peft_config.LoraConfig(
        rank=3, alpha=6.0, dropout=0.0, targets=heads.targets(scorer, ("all-linear",)),
        rslora=False, base_name="base", dtype="float32",
    )  # fmt: skip
    trainee, trainable, frozen = judge_model.build(
        scorer,
        execute_on(mesh, rules=scorer.rules),
        folder,
        own_head=own_head,
        typed=True,
        init="pretrained",
        base_dtype=jnp.dtype(jnp.float32),
        adapter=adapter if adapted else None,
        initialization="peft",
        key=jax.random.key(0),
    )
    if adapted:
        trainable["adapters"] = jax.tree.map(
            lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)),
            trainable["adapters"],
        )
    return Judge(trainee, trainable, frozen)


def measure(judge: Judge, objective, data: JudgedAnswers, mesh, *, gradient=True, **layout):
    """(metrics, gradient) of one batch of everything."""
    batches = loader_of(data, **layout)
    loss = losses.make_loss(judge.trainee, objective, batch_size=len(data))
    arrays, used = placement.place_answers(mesh, batches, data)(batches.batch(0))
    if not gradient:
        evaluate = steps.evaluator(loss, losses.count, mesh)
        parts, _ = evaluate(judge.trainable, judge.frozen, arrays, used)
        return jax.device_get(parts), None
    accumulate = jax.jit(steps.accumulate, static_argnums=(0, 4), compiler_options=QUICKLY)
    key = jax.random.key(0)
    slope, parts = accumulate(loss, judge.trainable, judge.frozen, arrays, losses.count, used, key)
    return jax.device_get(parts), jax.device_get(slope)


def assert_same(found, expected):
    (parts, slope), (wanted, wanted_slope) = found, expected
    np.testing.assert_allclose(parts["examples"], wanted["examples"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts["loss"], wanted["loss"], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (slope, wanted_slope)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("trunks")
    return {name: score_cases.write_case(root / name, name) for name in TRUNKS}


# ---------------------------------------------------------------------------- equal to TRL


def test_gradient_and_metrics_are_those_of_trl(folders, one_device):
    margin, centring = rows.REWARDS["both"]
    objective = functools.partial(objectives.bradley_terry, margin=margin, centring=centring)
    data = golden_pairs()
    parts, slope = measure(judge_of(folders["llama"], one_device), objective, data, one_device)
    np.testing.assert_allclose(parts["loss"], GOLDEN["both/loss"], rtol=1e-5)
    norm = np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(slope)))
    np.testing.assert_allclose(norm, GOLDEN["both/grad_norm"], rtol=1e-4)
    held = judge_quality.held("pairs", parts["examples"], np.arange(len(data)), data)
    metrics = judge_quality.summarize(held)
    for metric in rows.REWARD_METRICS:
        wanted = GOLDEN[f"both/{metric}"]
        np.testing.assert_allclose(metrics[metric], wanted, rtol=1e-5, atol=1e-5, err_msg=metric)
    for name, (margin, centring) in rows.REWARDS.items():
        scores = jnp.asarray(parts["examples"][:, :2])
        found = objectives.bradley_terry(
            scores, jnp.zeros_like(scores), margin=margin, centring=centring
        )
        np.testing.assert_allclose(found.mean(), GOLDEN[f"{name}/loss"], rtol=1e-5)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # raised inside trl and transformers
def test_goldens_are_what_trl_says_today():
    from tests.golden import make_reward

    fresh, _ = make_reward.step_of("both")
    for key, value in fresh.items():
        np.testing.assert_allclose(value, GOLDEN[key], rtol=1e-5, atol=1e-5, err_msg=key)


# ---------------------------------------------------------------------------- layout


@pytest.mark.parametrize(("kind", "share"), [("cost", True), ("regression", False)])
def test_packed_is_one_at_a_time(kind, share, folders, one_device):
    judge, data = judge_of(folders["llama"], one_device), random_judged(kind, 7)
    layout = {"rows_per_microbatch": 2, "share": share}
    assert loader_of(data, **layout).most_segments > 1, "nothing is packed"
    packed = measure(judge, OBJECTIVES[kind], data, one_device, **layout)
    alone = measure(judge, OBJECTIVES[kind], data, one_device, packing=False)
    assert_same(packed, alone)
    assert np.ptp(packed[0]["examples"][:, 0]) > 0.1, "all answers have one score"


@pytest.mark.parametrize("name", TRUNKS)
def test_scores_are_those_of_the_judge_on_each_text(name, folders, one_device):
    """What training reads is what stage `score` will read: one text at a time, unpadded."""
    judge, data = judge_of(folders[name], one_device), random_judged("pairs", 4)
    parts, _ = measure(
        judge, PLAIN, data, one_device, gradient=False, packing=name == "llama",
        rows_per_microbatch=2, row_tokens=32,
    )  # fmt: skip
    score = jax.jit(heads.scores, static_argnums=(0, 5), compiler_options=QUICKLY)
    trainee = judge.trainee
    for side, examples in enumerate(data.sides):
        for i in range(len(data)):
            here = slice(examples.offsets[i], examples.offsets[i + 1])
            T = here.stop - here.start
            ids, types = np.zeros((2, 1, 32), np.int32)
            ids[0, :T] = examples.ids[here]
            types[0, :T] = examples.mask[here]
            real = np.arange(32)[None] < T
            found = score(trainee.scorer, judge.trainable, ids, types, real, trainee.execution)
            np.testing.assert_allclose(parts["examples"][i, side], found[0, 0], atol=1e-5)


@pytest.mark.parametrize(("name", "adapted"), [("llama", False), ("deberta_v3", True)])
def test_eight_devices_are_one(name, adapted, folders, one_device, eight_devices):
    data = random_judged("cost", 8)
    found, expected = (
        measure(
            judge_of(folders[name], mesh, adapted), OBJECTIVES["cost"], data, mesh,
            packing=name == "llama", rows_per_microbatch=4, row_tokens=32,
        )
        for mesh in (eight_devices, one_device)
    )  # fmt: skip
    assert_same(found, expected)


def test_accumulated_is_at_once(folders, one_device):
    judge, data = judge_of(folders["bert_relu"], one_device), random_judged("binary", 8)
    layout = {"packing": False, "row_tokens": 24}
    found, expected = (
        measure(judge, OBJECTIVES["binary"], data, one_device, rows_per_microbatch=b, **layout)
        for b in (1, 8)
    )
    assert_same(found, expected)


# ---------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("name", ["llama", "bert_relu"])
def test_adapters_are_what_the_merged_judge_is(name, folders, one_device):
    """Adapters and head are trained, the trunk is not; merged, the scores are the same."""
    judge, data = judge_of(folders[name], one_device, adapted=True), random_judged("pairs", 4)
    assert set(judge.trainable) == {"adapters", "score"} and "score" not in judge.frozen
    layout = {"packing": False, "row_tokens": 24, "rows_per_microbatch": 4}
    parts, slope = measure(judge, PLAIN, data, one_device, **layout)
    flat = trees.flatten(slope)
    # A query's bias and key projections see no gradient only where nothing is read: none here.
    assert all(np.abs(leaf).max() > 0 for name, leaf in flat.items() if name.endswith(".b"))
    weights = lora.merge(
        judge.frozen | {"score": judge.trainable["score"]},
        lora.Adapters(judge.trainable["adapters"], 2.0, 0.0),
    )
    full = judge_of(folders[name], one_device)
    merged = Judge(full.trainee, weights, {})
    again, _ = measure(merged, PLAIN, data, one_device, gradient=False, **layout)
    np.testing.assert_allclose(parts["examples"], again["examples"], atol=1e-4)


def test_a_head_of_its_own_goes_on_and_others_are_replaced(tmp_path, folders):
    def read(folder, init="pretrained"):
        return judge_model.read_scorer(folder, init=init, label="cost", problem="regression")

    scorer, own = read(folders["llama"])
    assert own and scorer.label_names == ("cost",)
    assert read(folders["llama"], init="random")[1] is False
    two = score_cases.write_case(tmp_path / "two", "bert")
    scorer, own = read(two)
    assert not own and scorer.labels == 1
    with pytest.raises(CheckpointError, match="model_type 't5' is not supported"):
        read(score_cases.write_case(tmp_path / "t5", "bert", model_type="t5"))


def test_adapters_on_noise_are_refused(folders, one_device):
    trainee = judge_of(folders["llama"], one_device, adapted=True).trainee
    arguments = {
        "own_head": False, "typed": False, "base_dtype": jnp.dtype(jnp.float32),
        "initialization": "peft", "key": jax.random.key(0),
    }  # fmt: skip
    for init, adapter, message in (
        ("random", trainee.adapter, "set lora.rank=0 to train all weights"),
        ("zeros", None, "model.init 'zeros': expected 'pretrained' or 'random'"),
    ):
        with pytest.raises(ConfigError, match=message):
            judge_model.build(
                trainee.scorer, trainee.execution, folders["llama"], init=init, adapter=adapter,
                **arguments,
            )  # fmt: skip


@pytest.mark.parametrize("name", TRUNKS)
def test_flops_of_every_trunk(name, folders, one_device):
    """Six a weight and token, and more for attention over longer texts: forward and backward, two
    products of two FLOPs with all tokens of a text, or half of them; adapters need fewer."""
    full, adapted = (judge_of(folders[name], one_device, given).trainee for given in (False, True))
    short, long = (full.flops_per_token(np.array([n, n])) for n in (4, 40))
    kernels = sum(
        np.prod(p.shape)
        for key, p in heads.parameters(full.scorer).items()
        if key.startswith("layers.") and key.endswith("kernel")
    )
    config, met = full.scorer.config, (40 - 4) / (2 if name in ("llama", "gpt2") else 1)
    each = 3 * 2 * 2 * config.heads * config.head_size * config.layers
    assert 6 * kernels <= short and long - short == pytest.approx(each * met)
    assert adapted.flops_per_token(np.array([4])) < short
