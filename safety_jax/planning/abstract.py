"""The arguments of programs as shapes: weights, batches and training states of abstract arrays,
sharded over a mesh of devices that need not exist."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.models import llama, lora, quantised
from safety_jax.models.encoders import heads
from safety_jax.models.folders import peft_config
from safety_jax.training import optim, steps
from safety_jax.training.judge_model import Trainee
from safety_jax.training.policy import Policy
from safety_jax.training.task import Learning


def array(shape: tuple[int, ...], dtype: DTypeLike, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def replicated(mesh: Mesh, *shape: int, dtype: DTypeLike = jnp.int32) -> jax.ShapeDtypeStruct:
    """An array from the host, of which every device has a copy."""
    return array(shape, dtype, meshes.sharding(mesh, (None,) * len(shape)))


def bytes_on_device(tree: Any) -> int:
    """Bytes of a tree of abstract arrays on one device, without padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


# ---------------------------------------------------------------------------- weights


def weights(
    declared: Mapping[str, meshes.Parameter],
    mesh: Mesh,
    dtype: DTypeLike,
    kernels: str = quantised.STORED,
) -> trees.Tree:
    """A model's weights, from its declared parameters.

    Args:
        kernels: the format of the layers' kernels, a name of `quantised.FORMATS`; or
            `quantised.STORED` for numbers.
    """
    found: dict[str, Any] = {}
    for name, parameter in declared.items():
        if kernels != quantised.STORED and quantised.quantisable(name):
            held = quantised.parts(name, parameter, kernels)
            where = quantised.shardings(held, name, mesh)
            found[name] = quantised.assembled(
                kernels,
                {key: array(part.shape, part.dtype, where[key]) for key, part in held.items()},
            )
        else:
            found[name] = array(
                parameter.shape, dtype, meshes.sharding(mesh, parameter.axes, parameter.shape)
            )
    return trees.unflatten(found)


def promoted(base: trees.Tree, adapted: tuple[str, ...]) -> trees.Tree:
    """A base into which adapters of these targets are merged, see `lora.promote`."""
    shapes = jax.eval_shape(lambda tree: lora.promote(tree, adapted), base)
    return jax.tree.map(lambda old, new: array(new.shape, new.dtype, old.sharding), base, shapes)


def trained(
    policy: Policy, base_dtype: DTypeLike, kernels: str = quantised.STORED
) -> tuple[trees.Tree, trees.Tree]:
    """The trainable and the frozen tree of a policy; trained weights are float32."""
    declared, mesh = llama.parameters(policy.config), policy.execution.mesh
    if policy.adapter is None:
        return weights(declared, mesh, jnp.float32), {}
    return adapters(declared, policy.adapter, mesh), weights(declared, mesh, base_dtype, kernels)


def judge(
    trainee: Trainee, base_dtype: DTypeLike, kernels: str = quantised.STORED
) -> tuple[trees.Tree, trees.Tree]:
    """The same for a judge in training; its head is always trained."""
    declared, mesh = heads.parameters(trainee.scorer), trainee.execution.mesh
    whole = weights(declared, mesh, jnp.float32)
    if trainee.adapter is None:
        return whole, {}
    frozen = weights(declared, mesh, base_dtype, kernels)
    del frozen[heads.SCORE]
    moving = adapters(declared, trainee.adapter, mesh)
    return {"adapters": moving, heads.SCORE: whole[heads.SCORE]}, frozen


def adapters(
    declared: Mapping[str, meshes.Parameter], adapter: peft_config.LoraConfig, mesh: Mesh
) -> trees.Tree:
    return trees.unflatten(
        {
            name: array(shape, jnp.float32, meshes.sharding(mesh, axes, shape))
            for name, (shape, axes) in lora.shapes(
                declared, adapter.targets, adapter.rank, adapter.layers
            ).items()
        }
    )


# ---------------------------------------------------------------------------- batches


def tokens(mesh: Mesh, leading: tuple[int, ...], T: int, *, shared: bool = False) -> Tokens:
    """Rows [A, b, T] or [A, b, M, T]; with `shared`, segments may have prefixes in the same row."""
    sharding = NamedSharding(mesh, PartitionSpec(None, *meshes.spec(("rows",))))
    integers = array((*leading, T), jnp.int32, sharding)
    mask = array((*leading, T), jnp.bool_, sharding)
    return Tokens(integers, integers, integers, mask, integers if shared else None)


def answers(
    mesh: Mesh,
    microbatches: int,
    rows: int,
    sides: int,
    T: int,
    segments: int,
    *,
    reference: bool,
    weights: bool = False,
    shared: bool = False,
) -> Answers:
    """Rows [A, b, M, T] with at most `segments` examples each, see `batch.Answers`.

    Args:
        shared: the sides of an example share a row, M = 1.
    """
    rows_per_example = 1 if shared else sides
    tokens_of_all = tokens(mesh, (microbatches, rows, rows_per_example), T, shared=shared)
    where = tokens_of_all.ids.sharding
    return Answers(
        tokens=tokens_of_all,
        slots=array((microbatches, rows, segments), jnp.int32, where),
        ends=array((microbatches, rows, segments, sides), jnp.int32, where),
        targets=array((microbatches, rows, segments, sides), jnp.float32, where),
        reference=array(tokens_of_all.ids.shape, jnp.float32, where) if reference else None,
        weights=array(tokens_of_all.ids.shape, jnp.float32, where) if weights else None,
    )


def judged(mesh: Mesh, rows: int, T: int, texts: int) -> tuple[Tokens, jax.ShapeDtypeStruct]:
    """Rows of at most `texts` texts each, and the last token of each of them."""
    where = meshes.sharding(mesh, ("rows", "tokens"))
    integers = array((rows, T), jnp.int32, where)
    tokens_of_all = Tokens(integers, integers, integers, array((rows, T), jnp.bool_, where))
    return tokens_of_all, array((rows, texts), jnp.int32, where)


# ---------------------------------------------------------------------------- the step


def state(
    trained: Policy | Trainee, trainable: trees.Tree, optimizer: Any
) -> tuple[steps.State, steps.State]:
    """A training state, and the shardings of its parts."""
    mesh = trained.execution.mesh
    where = steps.shardings(trainable, trained.shardings(), optimizer, mesh)
    shapes = steps.State(
        jax.ShapeDtypeStruct((), jnp.int32),
        trainable,
        jax.eval_shape(optimizer.init, trainable),
        jax.ShapeDtypeStruct((2,), jnp.uint32),
    )
    return jax.tree.map(lambda x, s: array(x.shape, x.dtype, s), shapes, where), where


def stacked(tree: Any, lanes: int) -> Any:
    """The arrays of several lanes, stacked on a new first axis."""

    def widened(leaf: Any) -> jax.ShapeDtypeStruct:
        where = leaf.sharding
        spec = NamedSharding(where.mesh, PartitionSpec(None, *where.spec))
        return array((lanes, *leaf.shape), leaf.dtype, spec)

    return jax.tree.map(widened, tree)


def lower_step(
    given: steps.State,
    where: steps.State,
    learning: Learning,
    batch: Tokens | Answers,
    *,
    optimizer: Any,
    rate: optim.Schedule,
) -> Any:
    """The training step of `steps.make`, lowered for these shapes; `compile()` it."""
    used = array((), jnp.int32, where.step)
    step = steps.make(learning.loss, learning.count, optimizer, rate, where, learning.survey)
    return step.lower(given, learning.frozen, batch, used)
