"""The compiled step on a linear model whose gradient is known on paper; schedules and AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from safety_jax.base import meshes, trees
from safety_jax.base.errors import ConfigError
from safety_jax.models import declaration
from safety_jax.models.encoders.bert import Bert, BertConfig
from safety_jax.training import optim, steps


def loss(trainable, frozen, batch, total, key):
    """Squared error of w·x, over the rows in the mask."""
    error = (batch["x"] @ trainable["w"] - batch["y"]) * batch["mask"]
    return {
        "loss": 0.5 * (error**2).sum() / total["rows"],
        "rows": batch["mask"].sum() / total["rows"],
    }


def count(batch):
    return {"rows": batch["mask"].sum()}


def rows(seed: int, microbatches: int, size: int):
    random = np.random.default_rng(seed)
    x = random.normal(size=(microbatches * size, 3)).astype(np.float32)
    y, mask = random.normal(size=len(x)).astype(np.float32), np.ones(len(x), np.float32)
    mask[::4] = 0
    flat = {"x": x, "y": y, "mask": mask}
    return {k: v.reshape(microbatches, size, *v.shape[1:]) for k, v in flat.items()}


@pytest.fixture(scope="module")
def trainer(one_device):
    """One SGD step of rate 1, so that the update is the gradient."""
    rate = optim.schedule("constant", learning_rate=1.0, warmup_steps=0, total_steps=9)
    optimizer = optax.sgd(1.0)
    weights = {"w": jnp.array([1.0, -2.0, 0.5])}
    where = steps.shardings(
        weights, {"w": meshes.sharding(one_device, (None,))}, optimizer, one_device
    )
    step = steps.make(loss, count, optimizer, rate, where)

    def take(batch, used):
        state = steps.initialize(
            jax.tree.map(jnp.copy, weights), optimizer, jax.random.key(0), where
        )
        after, metrics = step(state, {}, jax.tree.map(jnp.asarray, batch), jnp.int32(used))
        assert int(after.step) == 1
        return np.asarray(weights["w"]) - np.asarray(after.trainable["w"]), metrics

    return take


def by_hand(batch):
    x, y, mask = (np.concatenate(batch[k], dtype=np.float64) for k in ("x", "y", "mask"))
    error = (x @ np.array([1.0, -2.0, 0.5]) - y) * mask
    return (error[:, None] * x).sum(0) / mask.sum(), 0.5 * (error**2).sum() / mask.sum()


@pytest.mark.parametrize(("microbatches", "size"), [(1, 12), (3, 4), (12, 1)])
def test_accumulation_does_not_change_the_update(microbatches, size, trainer):
    batch = rows(0, microbatches, size)
    update, metrics = trainer(batch, microbatches)
    gradient, mean = by_hand(batch)
    np.testing.assert_allclose(update, gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], mean, rtol=1e-5)
    np.testing.assert_allclose(metrics["rows"], 1.0)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)


def test_microbatches_beyond_used_are_not_visited(trainer):
    batch = rows(1, 2, 4)
    empty = {k: np.concatenate([v, np.full_like(v, np.nan)]) for k, v in batch.items()}
    empty["mask"][2:] = 0
    update, metrics = trainer(empty, 2)
    np.testing.assert_allclose(update, by_hand(batch)[0], rtol=1e-5)
    assert np.isfinite(metrics["loss"])


def test_schedules_by_hand():
    def at(name, step):
        rate = optim.schedule(name, learning_rate=2.0, warmup_steps=4, total_steps=12)
        return float(rate(step))

    for name in optim.SCHEDULES:
        np.testing.assert_allclose([at(name, 0), at(name, 2), at(name, 4)], [0.0, 1.0, 2.0])
    np.testing.assert_allclose([at("linear", 8), at("linear", 12)], [1.0, 0.0])
    np.testing.assert_allclose(at("cosine", 6), 1 + np.cos(np.pi / 4), rtol=1e-6)
    np.testing.assert_allclose([at("cosine", 12), at("constant", 12)], [0.0, 2.0], atol=1e-6)
    with pytest.raises(ConfigError, match="optim.schedule 'poly': expected one of constant"):
        optim.schedule("poly", learning_rate=1.0, warmup_steps=0, total_steps=1)


@pytest.mark.parametrize("total", [1, 2, 10, 11, 19, 20])
def test_a_warmup_longer_than_the_run_is_told_with_the_rate_that_it_comes_to(total):
    numbers = {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "clip_norm": 1.0}
    group = optim.Optimization(0.5, "cosine", warmup_steps=10, **numbers)
    rate, _ = group.make(total)
    highest = max(float(rate(step)) for step in range(total))
    remark = str(group.remark(total))
    if total == 1:
        assert highest == 0 and "is 0 in every step" in remark
    elif total <= 10:
        assert f"rises to {highest:.4g} at most, not to optim.learning_rate 0.5" in remark
    elif total < 20:
        assert highest == 0.5
        assert f"only {total - 10} of them {'is' if total == 11 else 'are'} left behind" in remark
    else:
        assert highest == 0.5 and remark == "None"


def test_adamw_first_step_by_hand():
    """After one step the bias-corrected moments are g and g², so the update is rate · sign(g);
    matrices decay, norms and biases do not; a long gradient is clipped, which changes no sign."""
    rate = optim.schedule("constant", learning_rate=0.1, warmup_steps=0, total_steps=9)
    optimizer = optim.adamw(
        rate, beta1=0.9, beta2=0.999, epsilon=1e-12, weight_decay=0.5, clip_norm=1.0
    )
    weights = {"query": {"kernel": jnp.array([[2.0]])}, "mlp_norm": jnp.array([2.0])}
    gradient = {"query": {"kernel": jnp.array([[30.0]])}, "mlp_norm": jnp.array([-40.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    np.testing.assert_allclose(updates["query"]["kernel"], [[-0.1 - 0.1 * 0.5 * 2.0]], rtol=1e-5)
    np.testing.assert_allclose(updates["mlp_norm"], [0.1], rtol=1e-5)


def test_scales_of_layer_norms_do_not_decay():
    """As in the trainer of `transformers`, which decays neither norms nor biases."""
    config = BertConfig("bert", 9, 8, 16, 2, 2, "gelu", 1e-5, 12, 0, 2, 0.02)
    declared = declaration.parameters(Bert, config)
    decays = trees.flatten(optim.decays(trees.unflatten(dict.fromkeys(declared))))
    # Of stacked layers every weight has one axis more.
    sides = {name: len(one.shape) - ("layers" in one.axes) for name, one in declared.items()}
    matrices = {name for name, count in sides.items() if count > 1}
    assert {name for name, decay in decays.items() if decay} == matrices
    assert "layers.attention_norm.scale" in decays and "embedding_norm.scale" in decays
