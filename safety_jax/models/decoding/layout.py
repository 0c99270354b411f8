"""The layout of weights for decoding: every weight is divided over all devices of the model.

    with layout.lent(model) as speaker:
        answers = generation.generate(speaker, setup, prompts, prompt_ids, seed, "sampling")

See the decoding column in `base.meshes`. A mesh without `fsdp` divides products in this way
already, and its weights stay where they are. Otherwise they move over the network once, before the
first token, in the time in which two or three steps would gather them.

On a CPU that computes in 16 bits, a 16-bit copy of kernels and tables is made (`models.bits`),
because casting the wider ones at every step takes longer than multiplying with them.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from safety_jax.base import meshes, trees
from safety_jax.models import bits, llama, lora
from safety_jax.models.model import Model

CAST = ("kernel", "embedding", "head")  # the last part of the names of weights that are cast


def copied(model: Model) -> Model:
    """A copy of the model, laid out for decoding. Kernels and tables are in the type in which the
    model computes; otherwise products would cast them at every step."""
    mesh = meshes.decoding(model.mesh)
    if mesh is model.mesh:
        return _narrow(model)
    computes, place = jnp.dtype(model.execution.compute_dtype), _placing(model, mesh)

    def move(name: str, leaf: Any) -> Any:
        wide = isinstance(leaf, jax.Array) and leaf.dtype.itemsize > computes.itemsize
        kind = computes if wide and name.endswith(CAST) else None
        return jax.tree.map(lambda part, to: _moved(part, to, kind), leaf, place(name, leaf))

    return _narrow(_speaker(model, trees.map_named(move, model.weights)))


@contextlib.contextmanager
def lent(model: Model) -> Iterator[Model]:
    """The model laid out for decoding, for the duration of the block. Weights move there one by
    one, and back at the end, so that at most one weight exists twice at any time.

    The tree of weights is changed in place. Others that hold it must not compute with it before the
    block ends. Its arrays must be in no other tree.
    """
    mesh = meshes.decoding(model.mesh)
    if mesh is model.mesh:
        yield _narrow(model)
        return
    homes = {
        name: jax.tree.map(lambda part: part.sharding, leaf)
        for name, leaf in trees.flatten(model.weights).items()
    }
    try:
        _move(model.weights, _placing(model, mesh))
        yield _narrow(_speaker(model, model.weights))
    finally:
        _move(model.weights, lambda name, _: homes[name])


def _narrow(model: Model) -> Model:
    """The model with 16-bit copies of the weights that products cast, if such numbers are stored as
    integers here."""
    computes, mesh = jnp.dtype(model.execution.compute_dtype), model.mesh
    narrow: dict[str, Any] = {}
    weights = trees.flatten(model.weights)
    for name, leaf in weights.items():
        if name.endswith(CAST) and isinstance(leaf, jax.Array) and leaf.dtype != bits.BITS:
            kind = min(leaf.dtype, computes, key=lambda dtype: dtype.itemsize)
            if bits.lie_as_integers(kind, mesh):
                narrow[name] = _as_stored(leaf, dtype=kind, mesh=mesh)
    if not narrow:
        return model
    return dataclasses.replace(model, weights=trees.unflatten({**weights, **narrow}))


@functools.partial(jax.jit, static_argnames=("dtype", "mesh"))
def _as_stored(part: jax.Array, dtype: DTypeLike, mesh: Mesh) -> jax.Array:
    return bits.stored(part.astype(dtype), mesh)


def _placing(model: Model, mesh: Mesh) -> Callable[[str, Any], Any]:
    """(name, weight) -> its sharding. The arrays of a quantised kernel are sharded by their first
    axes."""
    declared = llama.parameters(model.config)

    def place(name: str, leaf: Any) -> Any:
        axes = declared[name].axes
        return jax.tree.map(lambda part: meshes.sharding(mesh, axes[: part.ndim], part.shape), leaf)

    return place


def _move(weights: trees.Tree, place: Callable[[str, Any], Any]) -> None:
    """Moves weights in place, one at a time."""
    for name, leaf in trees.flatten(weights).items():
        *parents, last = name.split(".")
        node = functools.reduce(dict.__getitem__, parents, weights)
        moved = jax.tree.map(_moved, leaf, place(name, leaf))
        node[last] = jax.block_until_ready(moved)
        for part in jax.tree.leaves(leaf):
            part.delete()


def _moved(part: jax.Array, where: NamedSharding, dtype: DTypeLike | None = None) -> jax.Array:
    """Moves an array over the network; `jax.device_put` between two layouts may use a host."""
    move = jax.jit(_as_type, static_argnames="dtype", out_shardings=where)
    return move(part, dtype=part.dtype if dtype is None else dtype)


def _as_type(part: jax.Array, dtype: DTypeLike) -> jax.Array:
    return part.astype(dtype)


def _speaker(model: Model, weights: trees.Tree) -> Model:
    """The model with these weights, and copies of its adapters on their devices."""
    mesh, adapters = meshes.decoding(model.mesh), model.adapters
    if adapters is not None:
        declared = llama.parameters(model.config)
        there: trees.Tree = {}
        for target, leaves in adapters.weights.items():
            there |= lora.shardings(declared, (target,), leaves["a"].shape[1], mesh)
        moved = jax.tree.map(_moved, adapters.weights, there)
        adapters = dataclasses.replace(adapters, weights=moved)
    execution = dataclasses.replace(model.execution, mesh=mesh)
    return dataclasses.replace(model, execution=execution, weights=weights, adapters=adapters)
