"""One compiled training step from any loss: accumulate, clip, update.

A batch is a pytree whose leaves start with axis A, its microbatches. The step visits the first
`used` of them in a loop whose length is data, not shape: a batch that packs into fewer rows costs
less and compiles nothing new. Gradients are sums, divided once by the count of the whole batch,
so that neither the number of microbatches nor the layout of rows changes the update.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from safety_jax import mesh as meshes
from safety_jax import trees
from safety_jax.batch import Tokens
from safety_jax.optim import Schedule

Sums = dict[str, jax.Array]
# loss(trainable, frozen, microbatch, key) -> sums over the microbatch; "loss" is differentiated
Loss = Callable[[trees.Tree, Any, Any, jax.Array | None], Sums]
# count(batch) -> what the sums are divided by
Count = Callable[[Any], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that training changes; the same struct holds arrays, shapes or shardings.

    Attributes:
        step: steps taken, int32.
        trainable: adapter weights, or all weights; float32.
        optimizer: the optax state.
        key: data of the run's random key, uint32[2]; a step folds its own from it and its number.
    """

    step: Any
    trainable: Any
    optimizer: Any
    key: Any


def shardings(
    trainable: trees.Tree, trainable_shardings: trees.Tree, optimizer: Any, mesh: Mesh
) -> State:
    """Where each part of the state lives: moments beside their weights, the rest everywhere.

    Args:
        trainable: arrays or abstract arrays.
    """
    everywhere = meshes.sharding(mesh, ())
    abstract = jax.eval_shape(optimizer.init, trainable)
    moments = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract,
        trainable_shardings,
        transform_non_params=lambda _: everywhere,
    )
    return State(everywhere, trainable_shardings, moments, everywhere)


def initialize(trainable: trees.Tree, optimizer: Any, key: jax.Array, where: State) -> State:
    """Step 0. The trainable weights are taken over, not copied."""
    moments = jax.jit(optimizer.init, out_shardings=where.optimizer)(trainable)
    step = jax.device_put(jnp.zeros((), jnp.int32), where.step)
    return State(step, trainable, moments, jax.device_put(jax.random.key_data(key), where.key))


def trained_tokens(batch: Tokens) -> jax.Array:
    """The count that SFT divides by: tokens in the mask, over all microbatches and hosts."""
    return batch.mask.sum().astype(jnp.float32)


def make(
    loss: Loss, count: Count, optimizer: optax.GradientTransformation, rate: Schedule, where: State
):
    """Compiles `step(state, frozen, batch, used) -> (state, metrics)`; the state is donated.

    Metrics are scalars: every sum the loss returns, divided by the count; `grad_norm` before
    clipping; `learning_rate` of this step.
    """

    def step(state: State, frozen: Any, batch: Any, used: jax.Array) -> tuple[State, Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradient, sums = accumulate(loss, state.trainable, frozen, batch, used, key)
        total = count(batch)
        gradient, metrics = jax.tree.map(lambda x: x / total, (gradient, sums))
        metrics["grad_norm"] = optax.tree.norm(gradient)
        metrics["learning_rate"] = rate(state.step)
        updates, moments = optimizer.update(gradient, state.optimizer, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        return State(state.step + 1, trainable, moments, state.key), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(where, None))


def accumulate(
    loss: Loss, trainable: trees.Tree, frozen: Any, batch: Any, used: jax.Array, key: jax.Array
) -> tuple[trees.Tree, Sums]:
    """Gradient of the summed loss, and the sums, over the first `used` microbatches."""

    def one(i, microbatch):
        def objective(trainable):
            sums = loss(trainable, frozen, microbatch, jax.random.fold_in(key, i))
            return sums["loss"], sums

        return jax.grad(objective, has_aux=True)(trainable)

    return _sum_over_microbatches(one, batch, used)


def evaluator(loss: Loss, count: Count):
    """Compiles `evaluate(trainable, frozen, batch, used) -> (sums, count)`, without randomness."""

    def evaluate(trainable: trees.Tree, frozen: Any, batch: Any, used: jax.Array):
        one = lambda _, microbatch: loss(trainable, frozen, microbatch, None)  # noqa: E731
        return _sum_over_microbatches(one, batch, used), count(batch)

    return jax.jit(evaluate)


def _sum_over_microbatches(one: Callable[[Any, Any], Any], batch: Any, used: jax.Array) -> Any:
    def at(i):
        take = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)  # noqa: E731
        return one(i, jax.tree.map(take, batch))

    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return at(0)  # no accumulator beside the gradient
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(at, 0))
    return jax.lax.fori_loop(0, used, lambda i, sums: jax.tree.map(jnp.add, sums, at(i)), start)
