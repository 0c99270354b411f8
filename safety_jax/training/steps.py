"""One compiled training step from any loss: accumulate, clip, update.

A batch is a pytree whose leaves start with axis A, its microbatches. The step visits the first
`used` of them in a loop whose length is an input, not a shape, so a batch that packs into fewer
rows costs less and compiles nothing new. A loss receives the totals of the whole batch and returns
what its microbatch adds, so neither the number of microbatches nor the layout of rows changes the
update.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from safety_jax.base import meshes, trees
from safety_jax.training.optim import Schedule

Parts = dict[str, jax.Array]
# loss(trainable, frozen, microbatch, totals, key) -> what the microbatch adds to each metric of the
# batch; "loss" is differentiated, and entries that are not scalars are tables by example
Loss = Callable[[trees.Tree, Any, Any, Any, jax.Array | None], Parts]
# count(batch) -> totals over the whole batch, which a loss divides by
Count = Callable[[Any], dict[str, jax.Array]]
# survey(trainable, frozen, microbatch) -> what a microbatch adds to further totals, in a forward
# pass before the gradient's, for losses that depend on the model's outputs for the whole batch
Survey = Callable[[trees.Tree, Any, Any], dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that training changes; the same struct holds arrays, shapes or shardings.

    Attributes:
        step: the number of steps taken, int32.
        trainable: adapter weights, or all weights; float32.
        optimizer: the optax state.
        key: data of the run's random key, uint32[2], which stays; each step folds its number in.
    """

    step: Any
    trainable: Any
    optimizer: Any
    key: Any


def shardings(
    trainable: trees.Tree, trainable_shardings: trees.Tree, optimizer: Any, mesh: Mesh
) -> State:
    """The shardings of the state: moments like their weights, the rest on every device.

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
    """The state at step 0, which holds the trainable weights themselves, not a copy."""
    moments = jax.jit(optimizer.init, out_shardings=where.optimizer)(trainable)
    step = jax.device_put(jnp.zeros((), jnp.int32), where.step)
    return State(step, trainable, moments, jax.device_put(jax.random.key_data(key), where.key))


def make(
    loss: Loss,
    count: Count,
    optimizer: optax.GradientTransformation,
    rate: Schedule,
    where: State,
    survey: Survey | None = None,
):
    """Compiles `step(state, frozen, batch, used) -> (state, metrics)`, which donates the state.

    Metrics are those of the loss, summed over the microbatches, the `grad_norm` before clipping,
    and the `learning_rate` of the step. Every device holds all of them.
    """
    step = functools.partial(advance, loss, count, optimizer, rate, survey)
    return jax.jit(step, donate_argnums=0, out_shardings=(where, where.step))


def advance(
    loss: Loss,
    count: Count,
    optimizer: optax.GradientTransformation,
    rate: Schedule,
    survey: Survey | None,
    state: State,
    frozen: Any,
    batch: Any,
    used: jax.Array,
) -> tuple[State, Parts]:
    """One step, see `make`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    gradient, metrics = accumulate(loss, state.trainable, frozen, batch, count, used, key, survey)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    metrics["learning_rate"] = rate(state.step)
    updates, moments = optimizer.update(gradient, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    return State(state.step + 1, trainable, moments, state.key), metrics


def accumulate(
    loss: Loss,
    trainable: trees.Tree,
    frozen: Any,
    batch: Any,
    count: Count,
    used: jax.Array,
    key: jax.Array,
    survey: Survey | None = None,
) -> tuple[trees.Tree, Parts]:
    """Gradient of the batch's loss, and its metrics, over the first `used` microbatches."""
    totals = _totals(count, survey, trainable, frozen, batch, used)

    def one(i, microbatch):
        def objective(trainable):
            parts = loss(trainable, frozen, microbatch, totals, jax.random.fold_in(key, i))
            return parts["loss"], parts

        return jax.grad(objective, has_aux=True)(trainable)

    return _sum_over_microbatches(one, batch, used)


def evaluator(loss: Loss, count: Count, mesh: Mesh, survey: Survey | None = None):
    """Compiles `evaluate(trainable, frozen, batch, used) -> (metrics, totals)`."""
    found = functools.partial(evaluate, loss, count, survey)
    return jax.jit(found, out_shardings=meshes.sharding(mesh, ()))


def evaluate(
    loss: Loss,
    count: Count,
    survey: Survey | None,
    trainable: trees.Tree,
    frozen: Any,
    batch: Any,
    used: jax.Array,
) -> tuple[Parts, dict[str, jax.Array]]:
    """The metrics of the loss on a batch, without randomness, and its totals."""
    totals = _totals(count, survey, trainable, frozen, batch, used)

    def one(_, microbatch):
        return loss(trainable, frozen, microbatch, totals, None)

    return _sum_over_microbatches(one, batch, used), totals


def _totals(
    count: Count, survey: Survey | None, trainable: trees.Tree, frozen: Any, batch: Any, used: Any
) -> dict[str, jax.Array]:
    totals = count(batch)
    if survey is None:
        return totals
    found = _sum_over_microbatches(lambda _, part: survey(trainable, frozen, part), batch, used)
    return totals | jax.lax.stop_gradient(found)


def _sum_over_microbatches(one: Callable[[Any, Any], Any], batch: Any, used: jax.Array) -> Any:
    def at(i):
        part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch)
        return one(i, part)

    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return at(0)  # needs no accumulator
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(at, 0))
    return jax.lax.fori_loop(0, used, lambda i, sums: jax.tree.map(jnp.add, sums, at(i)), start)
