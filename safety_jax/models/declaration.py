"""The declaration of weights: names, shapes and shardings, without values.

A module (an NNX class, or a function that makes one) declares each parameter once, with its shape,
initializer and logical axes. Weights are a plain nested dict; `bind` puts them into the module for
one forward pass.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from safety_jax.base import meshes, trees

# (config, rngs=) -> module
Declare = Callable[..., nnx.Module]


@functools.cache
def abstract(declare: Declare, config: Any) -> Any:
    """The module with shapes instead of arrays."""
    with nnx.use_eager_sharding(False):
        return nnx.eval_shape(lambda: declare(config, rngs=nnx.Rngs(0)))


def parameters(declare: Declare, config: Any) -> dict[str, meshes.Parameter]:
    """Every weight by its dotted name, in the order of declaration."""
    state = nnx.state(abstract(declare, config), nnx.Param)
    return {
        ".".join(str(key) for key in path): meshes.Parameter(leaf.shape, leaf.out_sharding)
        for path, leaf in nnx.to_flat_state(state)
    }


def shardings(
    declared: Mapping[str, meshes.Parameter], mesh: Mesh, heads: Mapping[str, int]
) -> trees.Tree:
    """The sharding of every weight.

    Args:
        heads: the number of heads along each axis that is stored as heads x head size. Heads are
            never split, so the mesh must divide this number.

    Raises:
        ConfigError: the mesh does not divide an axis.
    """
    for axis, count in heads.items():
        meshes.check_divides(mesh, "attention", (count,), (axis,))
    for name, parameter in declared.items():
        meshes.check_divides(mesh, name, parameter.shape, parameter.axes)
    return trees.unflatten(
        {name: meshes.sharding(mesh, one.axes, one.shape) for name, one in declared.items()}
    )


def initialize(
    declare: Declare, config: Any, key: jax.Array, where: trees.Tree, dtype: DTypeLike
) -> trees.Tree:
    """Random weights from the module's initializers, created with their shardings.

    Args:
        where: see `shardings`.
    """

    def make(key: jax.Array) -> trees.Tree:
        with nnx.use_eager_sharding(False):
            module = declare(config, rngs=nnx.Rngs(params=key))
        weights = nnx.to_pure_dict(nnx.state(module, nnx.Param))
        return jax.tree.map(lambda weight: weight.astype(dtype), weights)

    return jax.jit(make, out_shardings=where)(key)


def bind(declare: Declare, config: Any, weights: trees.Tree) -> Any:
    """The module with these weights; weights that are not given stay shapes."""
    return fill(abstract(declare, config), weights)


def fill(module: nnx.Module, weights: trees.Tree) -> Any:
    """A copy of a module, or of a part of one, with these weights."""
    definition, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(definition, state)
