"""The pair loss: equal to TRL's, the same packed or not, on one device or eight; its metrics."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.data.pairs import Pairs
from safety_jax.maths import losses
from safety_jax.models import llama, lora
from safety_jax.models.folders import hf, peft_config
from safety_jax.training import optim, placement, policy, preference, reference, steps
from safety_jax.training.preference import PairObjective
from safety_jax.training.task import Measured
from tests import samples
from tests.golden import cases, rows
from tests.samples import examples_of, loader_of

GOLDEN = dict(np.load(rows.DPO_FILE))


def objective(loss, beta: float, of_pairs: dict | None = None, **numbers) -> PairObjective:
    return PairObjective(functools.partial(loss, beta=beta, **numbers), beta, **(of_pairs or {}))


FREE = {"averages": True, "reference": False}
OBJECTIVES = {
    "sigmoid": objective(losses.dpo, 0.1),
    "robust": objective(losses.robust, 0.1, smoothing=rows.DPO_SMOOTHING),
    "hinge": objective(losses.hinge, 0.1),
    "ipo_mean": objective(losses.ipo_mean, 0.1),
    "sigmoid_mean": objective(losses.dpo_mean, 5.0),
    "with_nll": objective(losses.dpo, 0.1, {"nll_weight": rows.DPO_NLL_WEIGHT}),
    "simpo": objective(losses.simpo, 2.0, FREE, margin=rows.DPO_MARGIN),
    "conservative": objective(losses.conservative, 0.1, smoothing=rows.DPO_SMOOTHING),
}
WEIGHTED = PairObjective(
    None,
    rows.DOOR_BETA,
    by_token=functools.partial(losses.weighted_door, beta=rows.DOOR_BETA),
)


def golden_pairs() -> Pairs:
    """The pairs as TRL tokenized them."""

    def column(name: str) -> list[np.ndarray]:
        lengths = GOLDEN[f"{name}_ids/lengths"]
        return [row[:n] for row, n in zip(GOLDEN[f"{name}_ids"], lengths, strict=True)]

    prompts = column("prompt")
    sides = (examples_of(prompts, column(side)) for side in ("chosen", "rejected"))
    return Pairs(*sides, unsafe=None, categories=[("x",), (), ("x", "y"), ()])


def random_pairs(count: int) -> Pairs:
    random = np.random.default_rng(0)

    def words(low: int, high: int) -> list[np.ndarray]:
        lengths = random.integers(low, high, count)
        return [random.integers(3, cases.VOCABULARY, length) for length in lengths]

    prompts = words(2, 9)
    sides = (examples_of(prompts, words(1, 12)) for _ in range(2))
    return Pairs(*sides, unsafe=random.random((count, 2)) < 0.5, categories=[()] * count)


@dataclasses.dataclass(frozen=True)
class Model:
    """A policy that is not at its start; the trees are those of `preference.make_loss`."""

    policy: Any
    trainable: Any
    start: Any
    base: Any


@functools.cache
def model_of(kind: str, mesh, folder, targets: str = "query_value") -> Model:
    """`full` trains the base with adapters merged into it, `lora` trains those adapters."""
    names = rows.TARGETS[targets]
    config = hf.read_config(folder)
    base = hf.load(folder, config, mesh, jnp.float32)
    adapter = peft_config.LoraConfig(
        rank=rows.RANK,
        alpha=rows.ALPHA,
        dropout=0.0,
        targets=lora.targets(names),
        rslora=False,
        base_name="base",
        dtype="float32",
    )
    run = samples.execute_on(mesh)
    where = lora.shardings(llama.parameters(config), adapter.targets, rows.RANK, mesh)
    tree = jax.tree.map(jax.device_put, samples.golden_adapters(names), where)
    if kind == "lora":
        return Model(policy.Policy(config, run, folder, adapter, 16), tree, None, base)
    merged = jax.jit(lora.merge)(base, lora.Adapters(tree, rows.ALPHA / rows.RANK, 0.0))
    return Model(policy.Policy(config, run, folder, None, 16), merged, base, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = cases.read_config(rows.MODEL)
    return cases.write_folder(tmp_path_factory.mktemp("dpo"), config)


def measure(
    model: Model, objective: str | PairObjective, pairs: Pairs, mesh,
    *, known=None, weights=None, gradient=True, **layout,
):  # fmt: skip
    """(metrics, gradient) of one batch of all pairs; `known` is a cached reference."""
    batches = loader_of(pairs, **layout)
    loss = preference.make_loss(
        model.policy,
        OBJECTIVES[objective] if isinstance(objective, str) else objective,
        live=known is None,
        batch_size=len(pairs),
    )
    frozen = preference.Frozen(model.base, model.start if known is None else None)
    place = placement.place_answers(mesh, batches, pairs, known, weights)
    arrays, used = place(batches.batch(0))
    if gradient:
        accumulate = jax.jit(steps.accumulate, static_argnums=(0, 4))
        key = jax.random.key(0)
        slope, parts = accumulate(
            loss, model.trainable, frozen, arrays, preference.count, used, key
        )
        return jax.device_get(parts), jax.device_get(slope)
    parts, _ = steps.evaluator(loss, preference.count, mesh)(model.trainable, frozen, arrays, used)
    return jax.device_get(parts), None


def summarize(table: np.ndarray, pairs: Pairs, objective: str | PairObjective) -> dict[str, float]:
    found = Measured({}, table, np.arange(len(table)))
    return preference.summarize(
        found, pairs, OBJECTIVES[objective] if isinstance(objective, str) else objective
    )


# ---------------------------------------------------------------------------- equal to TRL


@pytest.fixture(scope="module")
def golden_table(folder, one_device):
    pairs = golden_pairs()
    model = model_of("lora", one_device, folder)
    parts, _ = measure(model, "sigmoid", pairs, one_device, gradient=False)
    return parts["examples"], preference.answer_lengths(pairs)


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"with_nll"}))
def test_losses_are_those_of_trl(name, golden_table):
    table, lengths = golden_table
    sums = losses.PairLogprobs(
        jnp.asarray(table[:, preference.POLICY]),
        jnp.asarray(table[:, preference.REFERENCE]),
        jnp.asarray(lengths, jnp.float32),
        jnp.zeros((len(table), 2)),
    )
    found = OBJECTIVES[name].loss(sums).mean()
    np.testing.assert_allclose(found, GOLDEN[f"{name}/loss"], rtol=1e-5)
    metrics = summarize(table, golden_pairs(), name)
    theirs = {key: value for key, value in GOLDEN.items() if key.startswith(f"{name}/")}
    for key in theirs.keys() - {f"{name}/loss", f"{name}/grad_norm"}:
        ours = metrics[key.removeprefix(f"{name}/")]
        np.testing.assert_allclose(ours, theirs[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(("name", "share"), [("with_nll", True), ("ipo_mean", False)])
def test_gradient_and_metrics_are_those_of_trl(name, share, folder, one_device):
    pairs, model = golden_pairs(), model_of("full", one_device, folder)
    parts, slope = measure(model, name, pairs, one_device, share=share)
    np.testing.assert_allclose(parts["loss"], GOLDEN[f"{name}/loss"], rtol=1e-5)
    norm = np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(slope)))
    np.testing.assert_allclose(norm, GOLDEN[f"{name}/grad_norm"], rtol=1e-4)
    metrics = summarize(parts["examples"], pairs, name)
    theirs = [key for key in GOLDEN if key.startswith((f"{name}/rewards", f"{name}/logps"))]
    assert len(theirs) == 6
    for key in [*theirs, f"{name}/mean_token_accuracy"]:
        ours = metrics[key.removeprefix(f"{name}/")]
        np.testing.assert_allclose(ours, GOLDEN[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.fixture(scope="module")
def weighed(folder, one_device, tmp_path_factory):
    """What the reference and the proxy of W-DOOR's golden say of its pairs, by token."""
    pairs, found = golden_pairs(), {}
    for name, targets, start in (
        ("reference", "query_value", False),
        ("proxy", rows.DOOR_PROXY, True),
    ):
        model = model_of("lora", one_device, folder, targets)
        found[name] = reference.logprobs(
            reference.ReferenceCache(tmp_path_factory.mktemp("weighed"), {}),
            pairs,
            loader_of(pairs, batch_size=4),
            reference.make_score(model.policy, one_device),
            model.trainable if start else None,
            model.base,
            one_device,
            name=name,
        )
    return found


@pytest.mark.parametrize(
    ("name", "sign", "kind", "layout"),
    [
        ("ratio", 1, "full", {"share": True, "rows_per_microbatch": 8}),  # on eight devices
        ("inverse", -1, "lora", {"packing": False}),
    ],
)
def test_weighted_door_is_that_of_its_authors(
    name, sign, kind, layout, weighed, folder, one_device, eight_devices
):
    """Of both signs, in every layout."""
    pairs, whole = golden_pairs(), kind == "full"
    mesh = eight_devices if "rows_per_microbatch" in layout else one_device
    weights = [
        losses.token_weights(ours, theirs, temperature=sign * rows.DOOR_TEMPERATURE)
        for ours, theirs in zip(weighed["proxy"], weighed["reference"], strict=True)
    ]
    model = model_of(kind, mesh, folder)
    parts, slope = measure(
        model, WEIGHTED, pairs, mesh,
        known=weighed["reference"], weights=weights, gradient=whole, **layout,
    )  # fmt: skip
    expected = GOLDEN[f"weighted_door/{name}/loss"]
    np.testing.assert_allclose(parts["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(parts["examples"][:, preference.LOSS].mean(), expected, rtol=1e-5)
    if whole:
        norm = np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(slope)))
        np.testing.assert_allclose(norm, GOLDEN[f"weighted_door/{name}/grad_norm"], rtol=1e-4)


# ---------------------------------------------------------------------------- layout


@pytest.fixture(scope="module")
def plain(folder, one_device):
    """Eight random pairs, one a row: table, loss and gradient that every layout must give."""
    model, pairs = model_of("lora", one_device, folder), random_pairs(8)
    return model, pairs, *measure(model, "with_nll", pairs, one_device, packing=False)


def assert_same(found, expected):
    (parts, slope), (wanted, wanted_slope) = found, expected
    np.testing.assert_allclose(parts["examples"], wanted["examples"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts["loss"], wanted["loss"], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (slope, wanted_slope)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("rows_per_microbatch", "share"), [(1, False), (8, False), (2, True)])
def test_packed_and_shared_is_unpacked(rows_per_microbatch, share, plain, one_device):
    model, pairs, *expected = plain
    layout = {"rows_per_microbatch": rows_per_microbatch, "share": share}
    assert loader_of(pairs, **layout).most_segments > 1, "nothing is packed"
    assert_same(measure(model, "with_nll", pairs, one_device, **layout), expected)


def test_one_pair_at_a_time(plain, one_device):
    """Each pair in a batch of its own has the row that it has in the batch of all."""
    model, pairs, expected, _ = plain
    loss = preference.make_loss(model.policy, OBJECTIVES["sigmoid"], live=True, batch_size=1)
    batches = loader_of(pairs, batch_size=1)
    place = placement.place_answers(one_device, batches, pairs)
    evaluate = steps.evaluator(loss, preference.count, one_device)
    frozen = preference.Frozen(model.base, model.start)
    for i in range(len(pairs)):
        parts, _ = evaluate(model.trainable, frozen, *place(batches.batch(i)))
        np.testing.assert_allclose(
            parts["examples"][0], expected["examples"][i], rtol=1e-5, atol=1e-5
        )


def test_eight_devices_are_one(plain, folder, eight_devices):
    _, pairs, *expected = plain
    model = model_of("lora", eight_devices, folder)
    found = measure(model, "with_nll", pairs, eight_devices, rows_per_microbatch=4, share=True)
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_cached_is_live(kind, plain, folder, one_device, tmp_path):
    _, pairs, *_ = plain
    model = model_of(kind, one_device, folder)
    known = reference.logprobs(
        reference.ReferenceCache(tmp_path, {}),
        pairs,
        loader_of(pairs, batch_size=3, share=kind == "lora"),
        reference.make_score(model.policy, one_device),
        model.start,
        model.base,
        one_device,
        name="test",
    )
    cached, _ = measure(model, "sigmoid", pairs, one_device, known=known, gradient=False)
    live, _ = measure(model, "sigmoid", pairs, one_device, gradient=False)
    np.testing.assert_allclose(cached["examples"], live["examples"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_step_0_is_ln_2_with_no_margin(kind, plain, folder, one_device):
    _, pairs, *_ = plain
    model = model_of(kind, one_device, folder)
    start = model.base if kind == "full" else jax.tree.map(jnp.copy, model.trainable)
    if kind == "full":
        model = dataclasses.replace(model, trainable=model.start)
    else:
        start["query"]["b"] = jnp.zeros_like(start["query"]["b"])
        start["value"]["b"] = jnp.zeros_like(start["value"]["b"])
        model = dataclasses.replace(model, trainable=start)
    parts, _ = measure(model, "sigmoid", pairs, one_device, gradient=False)
    np.testing.assert_allclose(parts["loss"], np.log(2), rtol=1e-6)
    metrics = summarize(parts["examples"], pairs, "sigmoid")
    assert metrics["rewards/margins"] == metrics["rewards/chosen"] == metrics["kl"] == 0


# ---------------------------------------------------------------------------- what is watched


def table_of(chosen, rejected) -> np.ndarray:
    table = np.zeros((len(chosen), preference.COLUMNS), np.float32)
    table[:, 0], table[:, 1] = chosen, rejected
    return table


def test_metrics_by_source_and_category():
    pairs = golden_pairs()  # sources a b a b; categories x, none, x and y, none
    table = table_of([4, 1, 0, -2], [2, 3, -4, 0])
    metrics = summarize(table, pairs, objective(losses.dpo, 0.5))
    assert metrics["rewards/margins"] == pytest.approx(0.25)
    assert metrics["rewards/accuracies"] == 0.5
    assert metrics["rewards/margins/source=a"] == pytest.approx(1.5)
    assert metrics["rewards/accuracies/source=b"] == 0.0
    assert metrics["rewards/margins/category=x"] == pytest.approx(1.5)
    assert metrics["rewards/margins/category=y"] == pytest.approx(2.0)
    lengths = preference.answer_lengths(pairs)
    difference = lengths[:, 0] - lengths[:, 1]
    expected = np.corrcoef(difference, [1, -1, 2, -1])[0, 1]
    assert metrics["lengths/margin_correlation"] == pytest.approx(expected)


def test_a_margin_of_zero_is_not_right():
    pairs = golden_pairs()
    metrics = summarize(table_of([1] * 4, [1] * 4), pairs, objective(losses.dpo, 1.0))
    assert metrics["rewards/accuracies"] == 0
    assert "lengths/margin_correlation" not in metrics


@pytest.mark.parametrize(
    ("chosen", "margins", "raised"),
    [
        ([0.0, -0.1, -0.2, -0.3], [0.0, 0.1, 0.2, 0.3], True),
        ([0.5, 0.4, 0.3, 0.2], [0.0, 0.1, 0.2, 0.3], False),  # likelier than at the start still
        ([0.0, -0.1, -0.2, -0.3], [0.0, 0.1, 0.2, 0.1], False),  # margins do not rise
        ([0.0, -0.1, -0.05, -0.3], [0.0, 0.1, 0.2, 0.3], False),  # no trend
        ([-0.1, -0.2, -0.3], [0.1, 0.2, 0.3], False),  # too early to tell
    ],
)
def test_collapse_alarm(chosen, margins, raised):
    said = []
    collapse = preference.Collapse(said.append)
    for step, values in enumerate(zip(chosen, margins, strict=True)):
        metrics = dict(zip(("rewards/chosen", "rewards/margins"), values, strict=True))
        last = collapse(step, metrics)
    assert ("alarms/chosen_collapse" in last) == raised
    assert len(said) == raised
    assert not raised or ("step 3" in said[0] and "dpo.nll_weight" in said[0])


def test_adamw_steps_move_the_margin(folder, one_device):
    """A few steps on one batch: the loss falls and every pair ends on the right side."""
    model, pairs = model_of("lora", one_device, folder), golden_pairs()
    loss = preference.make_loss(model.policy, OBJECTIVES["sigmoid"], live=True, batch_size=4)
    rate = optim.schedule("constant", learning_rate=1e-2, warmup_steps=0, total_steps=5)
    adamw = optim.adamw(rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0)
    trainable = jax.tree.map(jnp.copy, model.trainable)
    where = steps.shardings(trainable, model.policy.shardings(), adamw, one_device)
    step = steps.make(loss, preference.count, adamw, rate, where)
    state = steps.initialize(trainable, adamw, jax.random.key(0), where)
    batches = loader_of(pairs, steps=5)
    place = placement.place_answers(one_device, batches, pairs)
    frozen, seen = preference.Frozen(model.base, None), []
    for number in range(5):
        state, metrics = step(state, frozen, *place(batches.batch(number)))
        seen.append(float(metrics["loss"]))
    assert seen == sorted(seen, reverse=True) and seen[-1] < 0.5 * seen[0]
